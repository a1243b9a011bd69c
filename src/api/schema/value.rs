//! Single values against their schema: what is wrong with one, and the way out.

use serde_json::Value;

use super::near::distance;
use crate::api::{duration, percent, v1alpha1};

/// What a pattern asks for, in words.
const PATTERNS: [(&str, &str); 5] = [
    (duration::PATTERN, "is no duration: write one such as 30s, 1h30m or 250ms (0s where never is meant)"),
    (percent::PATTERN, "is no share: write 0% to 100%"),
    (v1alpha1::SECRET_NAME, "is no Secret's name: lower case letters, digits, - and . only"),
    (v1alpha1::HOST, "is no host: write one name or address, or the absolute path of a unix socket's directory"),
    (v1alpha1::DIRECTORY, "is no directory: write an absolute path, or \"\" for none"),
];

/// What is wrong with a value that is no object and no array, or isn't where one should be.
pub fn wrong(schema: &Value, value: &Value) -> Option<String> {
    let want = schema["type"].as_str().unwrap_or_default();
    let text = match (want, value) {
        ("string", Value::String(text)) => text,
        ("integer", Value::Number(number)) if number.is_i64() => {
            let (min, max) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
            let number = number.as_i64().unwrap_or_default();
            let out = min.is_some_and(|min| number < min) || max.is_some_and(|max| number > max);
            return out.then(|| match (min, max) {
                (Some(min), Some(max)) => format!("{number} is out of bounds: write {min} to {max}"),
                _ => format!("{number} is out of bounds"),
            });
        }
        ("boolean", Value::Bool(_)) => return None,
        _ => return Some(wrong_type(schema, want, value)),
    };
    if let Some(choices) = schema["enum"].as_array() {
        return (!choices.contains(value)).then(|| wrong_choice(choices, text));
    }
    let length = text.chars().count() as u64;
    if schema["maxLength"].as_u64().is_some_and(|max| length > max) {
        return Some(format!("has {length} characters: write at most {}", schema["maxLength"]));
    }
    if schema["minLength"].as_u64().is_some_and(|min| length < min) {
        return Some("is empty: write something, or leave it out".into());
    }
    let pattern = schema["pattern"].as_str()?;
    let matches = regex_lite::Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
    let words = PATTERNS.iter().find(|(known, _)| *known == pattern).map_or("has a wrong form", |(_, words)| *words);
    (!matches).then(|| format!("{} {words}", shown(value)))
}

fn wrong_type(schema: &Value, want: &str, value: &Value) -> String {
    let is = match value {
        Value::String(_) => format!("{} is a text", shown(value)),
        Value::Number(_) | Value::Bool(_) => format!("{value} is {}", kind(value)),
        _ => format!("is {}", kind(value)),
    };
    match (want, value) {
        ("string", Value::Number(number)) if schema["pattern"] == duration::PATTERN => {
            format!("{is}: write a duration with its unit, as {number}s")
        }
        ("string", Value::Number(number)) if schema["pattern"] == percent::PATTERN => format!("{is}: write {number}%"),
        ("string", Value::Number(_) | Value::Bool(_)) => format!("{is}: put it in quotes, \"{value}\""),
        ("string", _) => format!("{is}: write a text"),
        ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => format!("{is}: write {text} without quotes"),
        ("integer", _) => format!("{is}: write a whole number"),
        ("boolean", _) => format!("{is}: write true or false"),
        ("array", _) => format!("{is}: write a list"),
        _ => format!("{is}: write a mapping of fields"),
    }
}

fn wrong_choice(choices: &[Value], text: &str) -> String {
    let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
    let near = choices.iter().map(|choice| (distance(text, choice), *choice)).min();
    match near.filter(|(distance, choice)| distance * 3 <= choice.len()) {
        Some((_, choice)) => format!("{text:?} is none of {}: did you mean {choice}?", choices.join(", ")),
        None => format!("{text:?} is none of {}: write one of them", choices.join(", ")),
    }
}

/// The whole number that a JSON number is; `20.0` is one to the API server too.
#[allow(clippy::cast_possible_truncation)]
pub fn whole(number: &serde_json::Number) -> Option<i64> {
    let float = || number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e15).map(|f| f as i64);
    number.as_i64().or_else(float)
}

/// A value in a message: short, and only what can't be a secret (policies hold none).
pub fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        other => kind(other).to_owned(),
    }
}

pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a yes or no",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// Whether Kubernetes takes it as an object's name.
pub fn is_name(name: &str) -> bool {
    name.len() <= 253 && regex_lite::Regex::new(v1alpha1::SECRET_NAME).is_ok_and(|regex| regex.is_match(name))
}
