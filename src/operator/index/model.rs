//! What the index holds and what it says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::api::resolve::{Problem, Resolved};
use crate::api::v1alpha1::Selector;

/// Namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Of these two.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A policy as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its namespace and name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// When it was made; the older of two wins.
    pub created: Timestamp,
    /// Its generation.
    pub generation: i64,
    /// Its selector as far as it could be read: pods keep an invalid policy that is for them.
    pub selector: Option<Selector>,
    /// What pods get of it, or everything that is wrong with it.
    pub verdict: Result<Arc<Assigned>, Vec<Problem>>,
}

/// A pod with a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: Key,
    /// Its uid: another pod of the same name is another one.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    pub deleting: bool,
    /// It has ended.
    pub ended: bool,
}

/// A valid policy of one generation.
#[derive(Debug, PartialEq)]
pub struct Assigned {
    /// Its namespace and name.
    pub key: Key,
    /// Its uid.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// Its values.
    pub resolved: Arc<Resolved>,
    /// Its effective `spec`, as sidecars get it that know every field.
    pub spec: Value,
}

impl Assigned {
    /// Of a policy's values.
    pub fn new(key: Key, uid: String, generation: i64, resolved: Resolved) -> Self {
        let mut spec = serde_json::to_value(&resolved.effective).unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            // Which pods: not what they run.
            spec.remove("selector");
        }
        Self { key, uid, generation, resolved: Arc::new(resolved), spec }
    }
}

/// One policy of a pod.
#[derive(Clone, Debug)]
pub enum Entry {
    /// To be run.
    Run(Arc<Assigned>),
    /// Not acceptable now: what runs of it stays.
    Keep {
        /// The policy.
        key: Key,
        /// Its uid.
        uid: String,
        /// Its generation.
        generation: i64,
    },
}

impl Entry {
    /// The policy.
    pub fn key(&self) -> &Key {
        match self {
            Self::Run(assigned) => &assigned.key,
            Self::Keep { key, .. } => key,
        }
    }

    /// The policy's uid.
    pub fn uid(&self) -> &str {
        match self {
            Self::Run(assigned) => &assigned.uid,
            Self::Keep { uid, .. } => uid,
        }
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // The same value nearly always: no need to look into it.
            (Self::Run(a), Self::Run(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Keep { uid, generation, .. }, Self::Keep { uid: other, generation: theirs, .. }) => {
                uid == other && generation == theirs
            }
            _ => false,
        }
    }
}

/// What a pod is to run, ordered by policy.
pub type Told = Arc<Vec<Entry>>;

/// What wants a new status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Policies, deleted ones included.
    pub policies: BTreeSet<Key>,
    /// Pods, deleted ones included.
    pub pods: BTreeSet<Key>,
}

/// Whether a policy may be given to pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// It may.
    Accepted,
    /// It breaks rules.
    Invalid(Vec<Problem>),
    /// An older one has its place: which, where and what to do.
    Conflicted(String),
}

/// What is to be known of a policy for its status.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyView {
    /// The policy.
    pub policy: Arc<Policy>,
    /// Whether it may be given to pods.
    pub standing: Standing,
    /// The pods that it is given to: name, uid and what they were told of it.
    pub pods: Vec<(String, String, Entry)>,
    /// Those that are being deleted, likewise: they count no more, but serve until they are gone.
    pub leaving: Vec<(String, String, Entry)>,
}
