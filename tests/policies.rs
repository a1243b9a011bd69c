//! Policies on paper: what is right is taken, what is wrong is refused with every path, and the API server's own rules
//! (CEL) say the same.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use kube_cel::Validator;
use poolkeeper::api::resolve::{Problem, Resolved};
use poolkeeper::api::{document, schema};
use serde_json::Value;

/// The documents of every file below a directory of the repository, with the file's name.
fn documents(below: &str) -> Vec<(PathBuf, String)> {
    let mut files: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(below))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let documents = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        text.split("\n---\n").map(|text| (file.clone(), format!("{text}\n"))).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(documents).collect()
}

fn judge(file: &Path, text: &str) -> Result<Resolved, Vec<Problem>> {
    let mut documents = document::read(text);
    assert_eq!(documents.len(), 1, "{}:\n{text}", file.display());
    documents.remove(0).policy
}

/// What the schema and the CEL rules of the API server say, in this order.
fn api_server(text: &str) -> (Vec<Problem>, Vec<String>) {
    let value: Value = serde_yaml::from_str(text).unwrap();
    let walked = schema::walk(value);
    let cel = Validator::new().validate_with_defaults(schema::document(), &walked.repaired, None);
    let errors = cel.err().map(|errors| errors.into_vec()).unwrap_or_default();
    (walked.problems, errors.into_iter().map(|error| format!("{}: {}", error.field_path, error.message)).collect())
}

#[test]
fn what_is_right_is_taken() {
    for below in ["tests/policies/valid", "deploy/policies"] {
        for (file, text) in documents(below) {
            assert!(judge(&file, &text).is_ok(), "{}: {:?}\n{text}", file.display(), judge(&file, &text));
            assert_eq!(api_server(&text), (vec![], vec![]), "{}:\n{text}", file.display());
        }
    }
}

#[test]
fn what_is_wrong_is_refused_with_every_path() {
    for (file, text) in documents("tests/policies/invalid") {
        let expected = text.lines().filter_map(|line| line.strip_prefix("# expect:")).map(str::trim);
        let expected: Vec<_> = expected.map(|line| line.split_once(": ").unwrap_or((line, ""))).collect();
        let problems = judge(&file, &text).unwrap_err();
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let wanted: Vec<_> = expected.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, wanted, "{}: {problems:#?}\n{text}", file.display());
        for (problem, (_, words)) in problems.iter().zip(&expected) {
            assert!(problem.message.contains(words), "{}: {problem} does not say {words:?}", file.display());
        }
    }
}

#[test]
fn rules_between_fields_hold_in_the_api_server_too() {
    let mut rules = 0;
    for (file, text) in documents("tests/policies/invalid").into_iter().filter(|(file, _)| file.ends_with("rules.yaml"))
    {
        let (by_schema, by_cel) = api_server(&text);
        assert_eq!(by_schema, [], "{} is for rules only:\n{text}", file.display());
        let problems = judge(&file, &text).unwrap_err();
        assert!(!by_cel.is_empty(), "the API server would take it: {problems:?}\n{text}");
        for error in &by_cel {
            let known = problems.iter().any(|problem| error.starts_with(&problem.path));
            assert!(known, "{error} is none of {problems:?}\n{text}");
        }
        rules += 1;
    }
    assert!(rules > 10);
}

#[test]
fn a_policy_read_again_with_its_defaults_written_out_is_the_same() {
    for (file, text) in documents("tests/policies/valid") {
        let first = judge(&file, &text).unwrap();
        let document = serde_json::json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
            "metadata": { "name": first.name, "namespace": first.namespace, "generation": first.generation },
            "spec": first.effective
        });
        let mut second = judge(&file, &serde_yaml::to_string(&document).unwrap()).unwrap();
        second.listen.socket_is_default = first.listen.socket_is_default;
        assert_eq!(first, second);
    }
}

#[test]
fn samples_are_served_together() {
    let samples = documents("deploy/policies");
    let samples: Vec<_> = samples.iter().map(|(file, text)| judge(file, text).unwrap()).collect();
    assert_eq!(samples.len(), 3);
    assert_eq!(poolkeeper::api::resolve::conflicts(&samples.iter().collect::<Vec<_>>()), []);
}
