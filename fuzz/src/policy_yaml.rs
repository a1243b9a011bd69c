//! A text that should be policies: read, held against the schema, resolved.

use poolkeeper::api::document::{self, Document};
use poolkeeper::api::resolve::{Problem, Resolved, resolve_value};
use poolkeeper::api::schema;
use serde_json::{Value, json};

/// `data` is the text.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let documents = document::read(text);
    assert!(documents.windows(2).all(|pair| pair[0].number < pair[1].number));
    for Document { policy, .. } in &documents {
        match policy {
            Ok(resolved) => check_resolved(resolved),
            Err(problems) => check_problems(problems, text),
        }
    }
    if documents.len() == 1
        && let Ok(value) = serde_yaml::from_str::<Value>(text)
    {
        check_walk(value);
    }
}

/// With its defaults written out it is the same policy, as a value and as a text.
fn check_resolved(first: &Resolved) {
    let document = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
        "metadata": { "name": first.name, "namespace": first.namespace, "generation": first.generation },
        "spec": first.effective
    });
    let text = serde_yaml::to_string(&document).unwrap();
    let read = document::read(&text).remove(0).policy;
    for again in [resolve_value(document), read] {
        let mut again = again.unwrap_or_else(|problems| panic!("refused with its defaults: {problems:?}\n{text}"));
        // Only whether anybody asked for it is not in the document.
        again.listen.socket_is_default = first.listen.socket_is_default;
        assert_eq!(*first, again);
    }
}

/// There is one at least, each on one line, and together they are in proportion to the text.
fn check_problems(problems: &[Problem], text: &str) {
    assert!(!problems.is_empty());
    let mut size = 0;
    for problem in problems {
        let line = problem.to_string();
        assert!(!problem.message.is_empty() && !line.chars().any(char::is_control), "{line:?}");
        size += line.len();
    }
    assert!(size <= 4096 + 200 * text.len(), "{size} bytes about a text of {}", text.len());
}

/// What a walk leaves has nothing wrong with it.
fn check_walk(value: Value) {
    if !value.is_object() {
        return;
    }
    let repaired = schema::walk(value).repaired;
    assert_eq!(schema::walk(repaired.clone()).problems, [], "{repaired}");
}
