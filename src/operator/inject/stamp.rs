//! The configuration as an annotation: what a pod starts with when no operator leads.

use crate::contract::{Configuration, Policy};
use crate::operator::index::Assigned;

/// All annotations of an object together may have 256 KiB; the user's need some of that.
const LONGEST: usize = 128 << 10;

/// The policies as the operator's stream would tell them, of a term that every leader's is above; `None` if that is too
/// long. It holds no secret: a policy names Secrets and nothing that is in them.
pub fn configuration(policies: &[&Assigned]) -> Option<String> {
    let policies = policies.iter().map(|assigned| policy(assigned)).collect();
    let text = serde_json::to_string(&Configuration { term: 0, policies }).ok()?;
    (text.len() <= LONGEST).then_some(text)
}

fn policy(assigned: &Assigned) -> Policy {
    Policy {
        namespace: assigned.key.namespace.clone(),
        name: assigned.key.name.clone(),
        uid: assigned.uid.clone(),
        generation: assigned.generation,
        revision: assigned.resolved.revision.clone(),
        spec: Some(assigned.spec.clone()),
    }
}
