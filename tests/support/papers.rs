//! The policies on paper below `tests/policies`: what each is for, and what the CRD asks for.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// One YAML document of a file.
#[derive(Debug, Clone)]
pub struct Paper {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its text, comments included.
    pub text: String,
}

impl Paper {
    /// The document as the API server gets it.
    pub fn value(&self) -> Value {
        serde_yaml::from_str(&self.text).unwrap()
    }

    /// Its `# expect: PATH: WORDS` lines: every path that must be refused, with words of the message (or none).
    pub fn expected(&self) -> Vec<(&str, &str)> {
        let lines = self.text.lines().filter_map(|line| line.strip_prefix("# expect:")).map(str::trim);
        lines.map(|line| line.split_once(": ").unwrap_or((line, ""))).collect()
    }

    /// Its `# breaks: PATH CONSTRAINT` line: the one thing that is wrong with it.
    pub fn breaks(&self) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix("# breaks: "))
    }
}

/// Every document of every file in a folder of the repository.
pub fn papers(folder: &str) -> Vec<Paper> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).unwrap();
        let texts = text.split("\n---\n").map(|text| format!("{text}\n"));
        texts.map(|text| Paper { file: file.clone(), text }).collect::<Vec<_>>()
    };
    files.into_iter().flat_map(read).collect()
}

/// Everything that a schema asks for, as `PATH CONSTRAINT`: items of lists are `[]`, values of maps `{}`, and a CEL
/// rule goes by its message.
pub fn constraints(schema: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(schema, "spec", &mut |path, schema| {
        for key in schema.as_object().unwrap().keys() {
            match key.as_str() {
                "default" | "description" | "format" | "properties" | "items" | "additionalProperties" => {}
                "required" => {
                    for field in schema["required"].as_array().unwrap() {
                        found.insert(format!("{path}.{} required", field.as_str().unwrap()));
                    }
                }
                "x-kubernetes-validations" => {
                    for rule in schema[key].as_array().unwrap() {
                        let message = rule["message"].as_str().expect("every rule has a message");
                        assert!(found.insert(format!("{path} rule {message}")), "{path}: {message} is there twice");
                    }
                }
                "type" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "pattern" | "maxItems"
                | "maxProperties" => {
                    found.insert(format!("{path} {key}"));
                }
                other => panic!("{path}: no test knows what {other} asks for"),
            }
        }
    });
    found
}

/// Values that lie on a bound from inside, as `(path, value)`: the least and the greatest number, length, duration, and every word of a choice.
pub fn edges(schema: &Value) -> Vec<(String, Edge)> {
    let mut found = Vec::new();
    visit(schema, "spec", &mut |path, schema| {
        let mut add = |edge| found.push((path.to_owned(), edge));
        for key in ["minimum", "maximum"] {
            schema.get(key).into_iter().for_each(|bound| add(Edge::Value(bound.clone())));
        }
        schema["enum"].as_array().into_iter().flatten().for_each(|word| add(Edge::Value(word.clone())));
        // A duration's length is no bound of its own, nor is an address's.
        let text = schema.get("pattern").is_none_or(|pattern| !pattern.as_str().unwrap().contains(['%', 'm']));
        for key in ["minLength", "maxLength", "maxItems", "maxProperties"] {
            let length = schema[key].as_u64().filter(|_| text && !path.ends_with("address"));
            length.into_iter().for_each(|length| add(Edge::Length(length)));
        }
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().unwrap();
            if let Some((least, greatest)) = message.strip_prefix("must be ").and_then(|m| m.split_once(" to ")) {
                least.split(" or ").chain([greatest]).for_each(|text| add(Edge::Value(text.into())));
            }
        }
    });
    found
}

/// A value on a bound.
#[derive(Debug, Clone, PartialEq)]
pub enum Edge {
    /// This value.
    Value(Value),
    /// Any of this length: characters, items, entries.
    Length(u64),
}

impl Edge {
    /// Whether a value is the one.
    pub fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Value(edge), value) => edge == value,
            (Self::Length(length), Value::String(text)) => text.chars().count() as u64 == *length,
            (Self::Length(length), Value::Array(items)) => items.len() as u64 == *length,
            (Self::Length(length), Value::Object(entries)) => entries.len() as u64 == *length,
            _ => false,
        }
    }
}

/// The values at a path of a document, through every item of `[]` and every value of `{}`.
pub fn at<'a>(document: &'a Value, path: &str) -> Vec<&'a Value> {
    let path = path.replace("[]", ".[]").replace("{}", ".{}");
    path.split('.').fold(vec![document], |values, part| {
        let inner = |value: &'a Value| -> Vec<&'a Value> {
            match (part, value) {
                ("[]", Value::Array(items)) => items.iter().collect(),
                ("{}", Value::Object(entries)) => entries.values().collect(),
                (_, value) => value.get(part).into_iter().collect(),
            }
        };
        values.into_iter().flat_map(inner).collect()
    })
}

fn visit(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
    see(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        visit(inner, &format!("{path}.{name}"), see);
    }
    schema.get("items").into_iter().for_each(|inner| visit(inner, &format!("{path}[]"), see));
    schema.get("additionalProperties").into_iter().for_each(|inner| visit(inner, &format!("{path}{{}}"), see));
}
