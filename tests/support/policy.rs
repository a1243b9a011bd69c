//! Policies for the sidecar: a small one that tests change by path.

use poolkeeper::contract;
use serde_json::{Value, json};

/// A `DbPoolPolicy` document.
#[derive(Debug, Clone)]
pub struct Policy(Value);

impl Policy {
    /// Serves `database` of a server at 127.0.0.1:`port`, with trust for clients, so that a test
    /// which is not about logging in needs no password. The name is the database's.
    pub fn new(port: u16, database: &str) -> Self {
        Self(json!({
            "apiVersion": "poolkeeper.dev/v1alpha1",
            "kind": "DbPoolPolicy",
            "metadata": { "name": database },
            "spec": {
                "database": {
                    "host": "127.0.0.1", "port": port, "name": database,
                    "credentials": { "secretName": SECRET }, "tls": { "mode": "Disable" }
                },
                "listen": { "auth": "Trust" }
            }
        }))
    }

    /// Sets one value below `spec`: `set("pool.size", 1)`.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let mut place = &mut self.0["spec"];
        for part in path.split('.') {
            place = &mut place[part];
        }
        *place = value.into();
        self
    }

    /// Removes one value below `spec`.
    pub fn unset(mut self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let mut place = &mut self.0["spec"];
        for part in parent.split('.').filter(|part| !part.is_empty()) {
            place = &mut place[part];
        }
        place.as_object_mut().unwrap().remove(name);
        self
    }

    /// One value below `spec`.
    pub fn get(&self, path: &str) -> &Value {
        path.split('.').fold(&self.0["spec"], |place, part| &place[part])
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        self.0["metadata"]["name"].as_str().unwrap()
    }

    /// With another name.
    pub fn named(mut self, name: &str) -> Self {
        self.0["metadata"]["name"] = name.into();
        self
    }

    /// As an operator tells it.
    pub fn told(&self, revision: &str) -> contract::Policy {
        contract::Policy {
            namespace: "shop".into(),
            name: self.name().into(),
            uid: format!("uid of {}", self.name()),
            generation: revision.len() as i64,
            revision: revision.into(),
            spec: Some(self.0["spec"].clone()),
        }
    }

    /// The document.
    pub fn yaml(&self) -> String {
        serde_yaml::to_string(&self.0).unwrap()
    }
}

/// The Secret that [`Policy::new`] names.
pub const SECRET: &str = "db";
