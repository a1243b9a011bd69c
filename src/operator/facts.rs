//! What is known of one policy in one pod: the ground on which [`super::status`] and [`super::pod`] stand. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::index::{Assigned, Entry};
use super::reports::{Contact, Heard, by_uid};
use crate::api::resolve::{Resolved, resolve_value};
use crate::api::schema;
use crate::contract::{Credentials, Health, HealthState, Numbers, PolicyReport, References};

/// How far a pod is with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Its sidecar said that it runs this revision.
    Applied,
    /// Its sidecar refused this revision: why.
    Rejected(Vec<String>),
    /// Its sidecar has not answered yet.
    Pending,
    /// It has not been heard from, but it is early: what was known of it before holds.
    Early,
    /// It has not been heard from for too long.
    Unreachable,
}

/// One policy in one pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The pod's name.
    pub pod: String,
    /// How far it is.
    pub progress: Progress,
    /// Fields that it can't run before it is made anew.
    pub restart: Vec<String>,
    /// Whether it found what the policy refers to; `None` if nobody looked.
    pub references: Option<References>,
    /// Which credentials it logs in with; `None` if it has not said.
    pub credentials: Option<Credentials>,
    /// Whether its database answers.
    pub health: Health,
    /// Its pool.
    pub numbers: Option<Numbers>,
}

/// What a sidecar said of an entry that it was told.
pub fn fact(pod: &str, entry: &Entry, heard: Option<&Heard>, contact: Contact) -> Fact {
    let report = heard.and_then(|heard| heard.report.as_deref());
    let said = report.and_then(|report| by_uid(report).get(entry.uid()).copied());
    let mut fact = Fact {
        pod: pod.to_owned(),
        progress: progress(entry, said, contact),
        restart: Vec::new(),
        references: said.map(|said| said.references.clone()),
        credentials: said.and_then(|said| said.credentials.clone()),
        health: said.map(|said| said.health.clone()).unwrap_or_default(),
        numbers: said.and_then(|said| said.numbers.clone()),
    };
    if contact == Contact::Lost {
        fact.health = Health { state: HealthState::Unknown, message: "the sidecar is not heard from".into() };
        fact.numbers = None;
    }
    let left_out = match (entry, heard.and_then(|heard| heard.fields.as_deref())) {
        (Entry::Run(assigned), Some(fields)) => left_out(&assigned.resolved, fields),
        _ => Vec::new(),
    };
    fact.restart = said.map(|said| said.restart.clone()).unwrap_or_default();
    fact.restart.extend(left_out);
    fact.restart.sort();
    fact.restart.dedup();
    fact
}

fn progress(entry: &Entry, said: Option<&PolicyReport>, contact: Contact) -> Progress {
    match contact {
        Contact::Early => return Progress::Early,
        Contact::New => return Progress::Pending,
        Contact::Lost => return Progress::Unreachable,
        Contact::Heard => {}
    }
    let Entry::Run(assigned) = entry else { return Progress::Pending };
    let Assigned { generation, resolved, .. } = &**assigned;
    let Some(said) = said else { return Progress::Pending };
    let is_this = |of: i64, revision: &str| of == *generation && revision == resolved.revision;
    if said.applied.as_ref().is_some_and(|applied| is_this(applied.generation, &applied.revision)) {
        return Progress::Applied;
    }
    match said.rejected.as_ref().filter(|rejected| is_this(rejected.generation, &rejected.revision)) {
        Some(rejected) => Progress::Rejected(rejected.problems.clone()),
        None => Progress::Pending,
    }
}

/// The fields of a policy that a sidecar doesn't know though they are not at their defaults. Those at their defaults
/// are not missed: the sidecar is as old as they would make it.
pub fn left_out(resolved: &Resolved, fields: &BTreeSet<String>) -> Vec<String> {
    let unknown = unknown(resolved, fields);
    if unknown.is_empty() {
        return Vec::new();
    }
    let defaults = defaults(resolved);
    unknown.into_iter().filter(|(path, value)| defaults.get(path) != Some(value)).map(|(path, _)| path).collect()
}

/// A policy's effective `spec` as far as a sidecar knows its fields.
pub fn known(assigned: &Assigned, fields: &BTreeSet<String>) -> serde_json::Value {
    let mut spec = assigned.spec.clone();
    for path in unknown(&assigned.resolved, fields).into_keys() {
        remove(&mut spec, path.trim_start_matches("spec."));
    }
    spec
}

fn unknown(resolved: &Resolved, fields: &BTreeSet<String>) -> BTreeMap<String, serde_json::Value> {
    let mut leaves = leaves(resolved);
    leaves.retain(|path, _| !path.starts_with("spec.selector") && !fields.contains(path));
    leaves
}

fn leaves(resolved: &Resolved) -> BTreeMap<String, serde_json::Value> {
    let mut leaves = BTreeMap::new();
    schema::leaves("spec", &serde_json::to_value(&resolved.effective).unwrap_or_default(), &mut leaves);
    leaves
}

/// The values that the policy would have if it said nothing but its preset and its database.
fn defaults(resolved: &Resolved) -> BTreeMap<String, serde_json::Value> {
    let (database, preset) = (&resolved.database, resolved.effective.preset);
    let document = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "defaults" },
        "spec": { "preset": preset, "database": { "host": database.host, "name": database.name } },
    });
    resolve_value(document).map(|resolved| leaves(&resolved)).unwrap_or_default()
}

/// Takes a field out, and objects that this leaves empty.
fn remove(value: &mut serde_json::Value, path: &str) {
    let Some(object) = value.as_object_mut() else { return };
    match path.split_once('.') {
        None => _ = object.remove(path),
        Some((head, rest)) => {
            let Some(inner) = object.get_mut(head) else { return };
            remove(inner, rest);
            if inner.as_object().is_some_and(serde_json::Map::is_empty) {
                object.remove(head);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolved(pool: serde_json::Value) -> Resolved {
        let document = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "orders" },
            "spec": { "database": { "host": "db", "name": "orders" }, "pool": pool, "preset": "HighTraffic" },
        });
        resolve_value(document).unwrap()
    }

    #[test]
    fn an_older_sidecar_misses_what_is_not_at_its_default() {
        let mut fields: BTreeSet<String> = schema::fields().into_iter().collect();
        let policy = resolved(json!({ "maxPinned": "10%", "size": 7 }));
        assert_eq!(left_out(&policy, &fields), Vec::<String>::new());
        fields.remove("spec.pool.maxPinned");
        fields.remove("spec.pool.recycleJitter");
        fields.retain(|path| !path.starts_with("spec.shutdown."));
        assert_eq!(left_out(&policy, &fields), ["spec.pool.maxPinned"]);
        let spec = known(&Assigned::new(Default::default(), String::new(), 1, policy), &fields);
        assert!(spec["pool"].get("maxPinned").is_none() && spec["pool"].get("recycleJitter").is_none());
        assert_eq!((spec.get("shutdown"), &spec["pool"]["size"]), (None, &json!(7)));
        assert_eq!(left_out(&resolved(json!({ "size": 50 })), &fields), Vec::<String>::new());
    }

    #[test]
    fn every_field_that_can_have_a_value_is_known() {
        let fields: BTreeSet<String> = schema::fields().into_iter().collect();
        assert!(unknown(&resolved(json!({})), &fields).is_empty());
        assert!(fields.contains("spec.pool.size") && fields.contains("spec.database.credentials.secretName"));
    }
}
