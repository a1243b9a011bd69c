//! The policy's schema, and a walk of documents against it that finds every problem at once.
//!
//! The API server stops at its first failing layer and drops unknown fields; a file should be told everything in one go
//! (and a misspelt field is a mistake, not an extension). So documents are walked as JSON values before they are typed.

mod near;
mod value;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use kube::{CustomResourceExt, Resource};
use serde_json::{Map, Value, json};

use self::near::{distance, find, plain};
use self::value::{is_name, kind, shown, whole, wrong};
use super::resolve::Problem;
use super::v1alpha1::DbPoolPolicy;

/// Fields of `metadata` that Kubernetes knows; only name, namespace and generation mean something here.
const METADATA: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The CustomResourceDefinition.
///
/// Fields that may be left out are not nullable: the API server drops their nulls, so a null is a field left out
/// everywhere, and no CEL rule meets one.
pub fn crd() -> Value {
    let mut crd = serde_json::to_value(DbPoolPolicy::crd()).unwrap_or_default();
    tidy(&mut crd);
    crd
}

/// Takes `nullable: true` away, and the fraction of whole numbers.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("nullable") == Some(&Value::Bool(true)) {
                object.remove("nullable");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            if let Some(whole) = whole(number) {
                *value = whole.into();
            }
        }
        _ => {}
    }
}

/// The schema of a whole document: a constant, made at first use.
pub fn document() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take());
    &SCHEMA
}

/// What a walk found.
pub struct Walked {
    /// Everything that the schema refuses.
    pub problems: Vec<Problem>,
    /// The document without what was refused, and with placeholders for what must be there.
    pub repaired: Value,
    /// Paths whose values in `repaired` are not the user's.
    pub broken: Vec<String>,
}

/// Holds a document against the schema.
pub fn walk(value: Value) -> Walked {
    let schema = document();
    let mut walk = Walk { root: schema, problems: Vec::new(), broken: Vec::new() };
    let Value::Object(mut object) = value else {
        let message = format!("is {}, not a DbPoolPolicy: write apiVersion, kind, metadata and spec", kind(&value));
        return Walked { problems: vec![Problem::new("", message)], repaired: Value::Null, broken: Vec::new() };
    };
    walk.header(&mut object);
    let metadata = walk.metadata(object.remove("metadata"));
    // What `kubectl get -o yaml` prints may be used as it is.
    object.remove("status");
    let spec_schema = &schema["properties"]["spec"];
    let spec = match object.remove("spec") {
        Some(spec) if !spec.is_null() => walk.node(spec_schema, spec, "spec"),
        _ => {
            walk.refuse("spec", "is missing: write what the policy is, at least spec.database".into());
            None
        }
    };
    for (key, _) in object {
        let fields = ["apiVersion", "kind", "metadata", "spec"];
        walk.unknown(&key, "", &fields.iter().map(|field| ((*field).to_owned(), Value::Null)).collect());
    }
    let spec = spec.unwrap_or_else(|| placeholder(spec_schema));
    Walked { problems: walk.problems, repaired: document_of(metadata, spec), broken: walk.broken }
}

/// A whole document around a `spec`.
pub fn document_of(metadata: Value, spec: Value) -> Value {
    json!({ "apiVersion": api_version(), "kind": DbPoolPolicy::kind(&()), "metadata": metadata, "spec": spec })
}

/// The `apiVersion` of policies.
fn api_version() -> String {
    DbPoolPolicy::api_version(&()).into_owned()
}

/// Whether two paths are the same, or one lies in the other.
pub fn within(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Collects every value that is no object, by its path.
pub fn leaves(path: &str, value: &Value, out: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| leaves(&format!("{path}.{key}"), value, out)),
        Value::Null => {}
        _ => {
            out.insert(path.to_owned(), value.clone());
        }
    }
}

/// Paths of all fields of a policy that hold a value, as `spec.pool.size`; of lists and maps the path of the whole.
pub fn fields() -> Vec<String> {
    fn collect(path: &str, schema: &Value, out: &mut Vec<String>) {
        match schema["properties"].as_object() {
            Some(properties) => {
                properties.iter().for_each(|(key, schema)| collect(&format!("{path}.{key}"), schema, out));
            }
            None => out.push(path.to_owned()),
        }
    }
    let mut out = Vec::new();
    collect("spec", &document()["properties"]["spec"], &mut out);
    out
}

struct Walk<'a> {
    root: &'a Value,
    problems: Vec<Problem>,
    broken: Vec<String>,
}

impl Walk<'_> {
    fn refuse(&mut self, path: &str, message: String) {
        self.problems.push(Problem::new(path, message));
        self.broken.push(path.to_owned());
    }

    fn header(&mut self, object: &mut Map<String, Value>) {
        for (field, want) in [("apiVersion", api_version()), ("kind", DbPoolPolicy::kind(&()).into_owned())] {
            match object.remove(field) {
                Some(Value::String(is)) if is == want => {}
                None => self.refuse(field, format!("is missing: write {want}")),
                Some(is) => self.refuse(field, format!("is {}: write {want}", shown(&is))),
            }
        }
    }

    /// Only what is used of the metadata.
    fn metadata(&mut self, metadata: Option<Value>) -> Value {
        let mut kept = Map::new();
        let object = match metadata {
            Some(Value::Object(object)) => object,
            None | Some(Value::Null) => Map::new(),
            Some(other) => {
                self.refuse("metadata", format!("is {}: write a mapping with a name", kind(&other)));
                return json!({ "name": "x" });
            }
        };
        for (key, value) in object {
            match (key.as_str(), value) {
                ("name" | "namespace", Value::String(name)) if is_name(&name) => {
                    kept.insert(key, name.into());
                }
                ("name" | "namespace", Value::Null) => {}
                ("name" | "namespace", other) => {
                    let message = "is no name: write lower case letters, digits, - and . (at most 253)";
                    self.refuse(&format!("metadata.{key}"), format!("{} {message}", shown(&other)));
                    kept.insert(key, "x".into());
                }
                ("generation", Value::Number(number)) if number.is_i64() => {
                    kept.insert(key, number.into());
                }
                (known, _) if METADATA.contains(&known) => {}
                _ => {
                    let siblings = METADATA.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
                    self.unknown(&key, "metadata", &siblings);
                }
            }
        }
        if !kept.contains_key("name") {
            self.refuse("metadata.name", "is missing: give the policy a name".into());
            kept.insert("name".into(), "x".into());
        }
        Value::Object(kept)
    }

    /// Checks one value and everything in it; `None` if nothing of it can be kept.
    fn node(&mut self, schema: &Value, value: Value, path: &str) -> Option<Value> {
        let value = match (schema["type"].as_str(), value) {
            (Some("object"), Value::Object(object)) => return Some(self.object(schema, object, path)),
            (Some("array"), Value::Array(items)) => return self.array(schema, items, path),
            (Some("integer"), Value::Number(number)) => whole(&number).map_or(Value::Number(number), Value::from),
            (_, value) => value,
        };
        match wrong(schema, &value) {
            None => Some(value),
            Some(message) => {
                self.refuse(path, message);
                None
            }
        }
    }

    fn object(&mut self, schema: &Value, object: Map<String, Value>, path: &str) -> Value {
        let (no_properties, mut kept) = (Map::new(), Map::new());
        let properties = schema["properties"].as_object().unwrap_or(&no_properties);
        if let Some(max) = schema["maxProperties"].as_u64().filter(|max| object.len() as u64 > *max) {
            self.refuse(path, format!("has {} entries: write at most {max}", object.len()));
        }
        for (key, value) in object {
            let inner = format!("{path}.{key}");
            match properties.get(&key).or_else(|| schema.get("additionalProperties")) {
                None => self.unknown(&key, path, properties),
                Some(_) if value.is_null() => {}
                Some(schema) => {
                    if let Some(value) = self.node(schema, value, &inner) {
                        kept.insert(key, value);
                    }
                }
            }
        }
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let inner = format!("{path}.{key}");
            if !kept.contains_key(key) {
                if !self.broken.contains(&inner) {
                    self.refuse(&inner, "is missing".into());
                }
                kept.insert(key.to_owned(), placeholder(&properties[key]));
            }
        }
        Value::Object(kept)
    }

    fn array(&mut self, schema: &Value, items: Vec<Value>, path: &str) -> Option<Value> {
        if let Some(max) = schema["maxItems"].as_u64().filter(|max| items.len() as u64 > *max) {
            self.refuse(path, format!("has {} items: write at most {max}", items.len()));
            return None;
        }
        // A placeholder keeps the others' numbers.
        let mut check = |(i, item)| {
            let inner = format!("{path}[{i}]");
            self.node(&schema["items"], item, &inner).unwrap_or_else(|| placeholder(&schema["items"]))
        };
        Some(items.into_iter().enumerate().map(&mut check).collect())
    }

    /// A field that nobody knows: perhaps misspelt, perhaps in the wrong place.
    fn unknown(&mut self, key: &str, path: &str, siblings: &Map<String, Value>) {
        let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        // pool.poolSize is pool.size.
        let (parent, plain) = (plain(path.rsplit('.').next().unwrap_or_default()), plain(key));
        let short = plain.strip_prefix(&parent).unwrap_or(&plain);
        let near = siblings.keys().map(|name| (distance(key, name).min(distance(short, name)), name)).min();
        let near = near.filter(|(distance, name)| distance * 3 <= name.len()).map(|(_, name)| inner(name));
        let suggestion = near.or_else(|| {
            let mut elsewhere = Vec::new();
            find(&self.root["properties"]["spec"], "spec", key, &mut elsewhere);
            elsewhere.into_iter().next()
        });
        let message = match &suggestion {
            Some(suggestion) => format!("is unknown: did you mean {suggestion}?"),
            None => "is unknown: remove it".to_owned(),
        };
        self.broken.extend(suggestion);
        self.problems.push(Problem::new(inner(key), message));
    }
}

/// Any value that the schema takes, for a field that must be there.
fn placeholder(schema: &Value) -> Value {
    match (schema["type"].as_str(), schema["enum"].as_array()) {
        (Some("string"), Some(choices)) => choices.first().cloned().unwrap_or_default(),
        (Some("string"), None) => "x".into(),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|key| (key.to_owned(), placeholder(&schema["properties"][key]))).collect()
        }
    }
}
