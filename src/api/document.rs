//! Policies as text: YAML (JSON is YAML, too), several documents in one if need be.

use serde::Deserialize;
use serde_json::{Map, Value};
use serde_yaml::Value as Yaml;

use super::resolve::{Problem, Resolved, resolve_value};

/// The longest text that is read, in bytes; the API server takes no larger object either.
pub const MAX_BYTES: usize = 1 << 20;

/// The deepest nesting of brackets that is read: far above a policy's, and far below where parsing becomes slow.
const MAX_DEPTH: usize = 100;

/// One policy of a text, or everything that is wrong with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Which document of the text, counted from 1.
    pub number: usize,
    /// What it amounts to.
    pub policy: Result<Resolved, Vec<Problem>>,
}

/// Reads every policy of a text. Documents of nothing but comments are passed over; the first that is no YAML is the
/// last that is read.
pub fn read(text: &str) -> Vec<Document> {
    if too_deep(text) {
        return vec![Document { number: 1, policy: Err(vec![Problem::new("", "is nested too deep to be a policy")]) }];
    }
    let mut documents = Vec::new();
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let number = index + 1;
        let policy = match Yaml::deserialize(document) {
            Ok(Yaml::Null) => continue,
            Ok(yaml) => resolve_yaml(yaml),
            Err(error) => {
                documents
                    .push(Document { number, policy: Err(vec![Problem::new("", format!("is no YAML: {error}"))]) });
                break;
            }
        };
        documents.push(Document { number, policy });
    }
    documents
}

/// Whether more brackets open than any policy has; those in quotes count, too.
fn too_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.bytes().any(|byte| {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// What JSON cannot say is a problem among the others.
fn resolve_yaml(yaml: Yaml) -> Result<Resolved, Vec<Problem>> {
    let mut problems = Vec::new();
    let value = convert(yaml, "", &mut problems);
    let resolved = resolve_value(value);
    if problems.is_empty() {
        return resolved;
    }
    problems.extend(resolved.err().into_iter().flatten());
    Err(problems)
}

/// YAML as JSON.
fn convert(yaml: Yaml, path: &str, problems: &mut Vec<Problem>) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => value.into(),
        Yaml::String(text) => text.into(),
        Yaml::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => number.into(),
            (_, Some(number), _) => number.into(),
            // Infinity and NaN are words to JSON, so that no field takes them.
            (_, _, Some(float)) => serde_json::Number::from_f64(float).map_or(number.to_string().into(), Value::Number),
            _ => number.to_string().into(),
        },
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| convert(item, &format!("{path}[{index}]"), problems)).collect()
        }
        Yaml::Mapping(mapping) => {
            let mut object = Map::new();
            for (key, value) in mapping {
                let Yaml::String(key) = key else {
                    problems.push(Problem::new(path, "has a key that is no text: put it in quotes"));
                    continue;
                };
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                object.insert(key, convert(value, &inner, problems));
            }
            Value::Object(object)
        }
        Yaml::Tagged(tagged) => {
            problems.push(Problem::new(path, format!("has the tag {}: leave it out", tagged.tag)));
            Value::Null
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const POLICY: &str = "apiVersion: poolkeeper.dev/v1alpha1\nkind: DbPoolPolicy\nmetadata: { name: a }\nspec: { database: { host: h, name: d } }\n";

    fn problems(text: &str) -> Vec<String> {
        let documents = read(text).into_iter();
        documents.flat_map(|document| document.policy.err().unwrap_or_default()).map(|p| p.to_string()).collect()
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_passed_over() {
        let text = format!("# nothing\n---\n{POLICY}---\n---\n{}", POLICY.replace("name: a", "name: b"));
        let names: Vec<_> = read(&text).into_iter().map(|d| (d.number, d.policy.unwrap().name)).collect();
        assert_eq!(names.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert!(names[0].0 < names[1].0);
    }

    #[test]
    fn json_is_yaml() {
        let text = r#"{"apiVersion":"poolkeeper.dev/v1alpha1","kind":"DbPoolPolicy","metadata":{"name":"a"},"spec":{"database":{"host":"h","name":"d"}}}"#;
        assert_eq!(problems(text), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let found = problems("spec: [1,\n  2\nkind: x");
        assert!(found.len() == 1 && found[0].starts_with("is no YAML") && found[0].contains("line"), "{found:?}");
    }

    #[test]
    fn a_key_twice_is_refused() {
        assert_eq!(problems(&format!("{POLICY}kind: DbPoolPolicy\n")).len(), 1);
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        assert_eq!(problems(&format!("{POLICY}1: x")), ["has a key that is no text: put it in quotes"]);
        assert_eq!(
            problems(&POLICY.replace("host: h", "host: !t h"))[0],
            "spec.database.host: has the tag !t: leave it out"
        );
        let nan = POLICY.replace("name: d }", "name: d }, pool: { size: .nan, maxOverflow: .inf }");
        assert_eq!(problems(&nan).len(), 2, "{:?}", problems(&nan));
    }

    #[test]
    fn what_a_document_calls_a_field_stays_on_one_line() {
        let text = format!("{POLICY}\"a\\n\\e[31mb\": {{ }}\n");
        assert_eq!(problems(&text), ["a\\n\\u{1b}[31mb: is unknown: remove it"]);
    }

    #[test]
    fn aliases_that_grow_without_end_are_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let refs = vec![format!("*a{}", i - 1); 9].join(", ");
            text += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert_eq!(problems(&text).len(), 1);
    }

    #[test]
    fn no_text_panics() {
        for text in ["", "\u{0}", "---", "- ", "[", "!!", "&a *a", "\t", "%YAML 1.2\n---\n", "a: *b", "? [x]\n: y"] {
            let _ = read(text);
        }
    }

    #[test]
    fn deep_nesting_costs_nothing() {
        for text in ["[", "{a: ", "a: {\n"] {
            assert_eq!(problems(&text.repeat(100_000)), ["is nested too deep to be a policy"]);
        }
        assert_eq!(problems(&"- ".repeat(100_000)).len(), 1);
    }
}
