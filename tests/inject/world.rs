//! The namespace in which the tests' pods are made.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use poolkeeper::operator::index::Index;
use poolkeeper::operator::inject::{self, Ask, Settings, Verdict};
use serde::Deserialize;
use serde_json::Value;

use crate::support::webhook::policy;

/// A file of the repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The documents of a YAML text.
pub fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// The documents of `tests/inject/policies.yaml`.
pub fn policies() -> Vec<Value> {
    documents(&std::fs::read_to_string(file("tests/inject/policies.yaml")).unwrap())
}

/// The same, settled.
pub fn index() -> &'static Index {
    static INDEX: LazyLock<Index> = LazyLock::new(|| {
        let mut index = Index::default();
        policies().iter().for_each(|object| index.apply_policy(policy(object)));
        index.flush();
        index
    });
    &INDEX
}

/// What becomes of a pod of namespace `shop`.
pub fn inject_into(pod: &Value, namespace_asks: bool, settings: &Settings) -> Verdict {
    let (index, labels) = (index(), inject::labels(pod));
    let (policies, withheld) = (index.matching("shop", &labels), index.withheld("shop", &labels));
    let ask = Ask { namespace: "shop", namespace_asks, policies: &policies, withheld: &withheld };
    inject::inject(pod, &ask, settings)
}
