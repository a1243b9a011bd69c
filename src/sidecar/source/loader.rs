//! What is in force: judges what was read, publishes it, and tells what changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::Value;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::inputs::Inputs;
use super::{Finding, Policy, Rejection, Snapshot, State};
use crate::api::resolve::{Listen, Resolved};
use crate::api::schema;
use crate::contract;

/// Reads, judges and publishes configurations.
#[derive(Debug)]
pub struct Loader {
    inputs: Inputs,
    state: watch::Sender<State>,
}

/// What one reading gave.
#[derive(Debug)]
pub struct Reading {
    outcome: Result<Snapshot, Vec<Finding>>,
    /// What the operator had told then.
    told: Option<Arc<contract::Configuration>>,
}

impl PartialEq for Reading {
    fn eq(&self, other: &Self) -> bool {
        self.outcome == other.outcome
    }
}

impl Loader {
    /// Reads the first configuration.
    ///
    /// # Errors
    /// Everything that is wrong: without a first configuration there is nothing to serve.
    pub fn start(inputs: Inputs, now: Instant) -> Result<Self, Vec<Finding>> {
        let snapshot = Arc::new(inputs.read(None, now)?);
        inputs.warnings().into_iter().for_each(|warning| warn!("{warning}"));
        for policy in &snapshot.policies {
            let (name, revision) = (&policy.resolved.name, &policy.resolved.revision);
            info!(policy = name, revision, from = policy.origin, "policy accepted");
        }
        let state = watch::Sender::new(State { snapshot, rejection: None, told: None, accepted: 1, rejected: 0 });
        Ok(Self { inputs, state })
    }

    /// Starts with no policy, until somebody tells of one.
    pub fn waiting(inputs: Inputs, empty: Snapshot) -> Self {
        inputs.warnings().into_iter().for_each(|warning| warn!("{warning}"));
        let snapshot = Arc::new(empty);
        let state = watch::Sender::new(State { snapshot, rejection: None, told: None, accepted: 0, rejected: 0 });
        Self { inputs, state }
    }

    /// Another reader of what is in force.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Reads everything anew.
    pub fn read(&self, now: Instant) -> Reading {
        let current = Arc::clone(&self.state.borrow().snapshot);
        Reading { outcome: self.inputs.read(Some(&current), now), told: self.inputs.told().cloned() }
    }

    /// Whether what was read may be a file in the middle of being replaced: it is refused anew, or a policy went away.
    pub fn is_doubtful(&self, read: &Reading) -> bool {
        let orphans = |snapshot: &Snapshot| snapshot.policies.iter().filter(|policy| policy.orphaned).count();
        let state = self.state.borrow();
        match &read.outcome {
            Ok(snapshot) => orphans(snapshot) > orphans(&state.snapshot),
            Err(findings) => state.rejection.as_ref().is_none_or(|rejection| rejection.findings != *findings),
        }
    }

    /// Puts what was read in force, or tells why not. Whether anything changed.
    pub fn apply(&self, read: Reading, now: Instant) -> bool {
        let told = self.inputs.told();
        if read.told.as_ref().map(Arc::as_ptr) != told.map(Arc::as_ptr) {
            // The operator has told something since; all was read anew for that.
            return false;
        }
        let state = self.state.borrow().clone();
        let next = match read.outcome {
            Ok(snapshot) => accept(&state, snapshot),
            Err(findings) => {
                // A refused policy must not keep a new password from those in force.
                let refreshed = self.inputs.refresh(&state.snapshot, now);
                refuse(&state, refreshed, findings)
            }
        };
        let is_told_anew = state.told.as_ref() != told;
        let next = next.or_else(|| is_told_anew.then_some(state));
        next.map(|next| self.state.send_replace(State { told: told.cloned(), ..next })).is_some()
    }

    /// Reads everything and puts it in force, or tells why not. Whether anything changed.
    pub fn reload(&self, now: Instant) -> bool {
        self.apply(self.read(now), now)
    }

    /// The same with what the operator told.
    pub fn tell(&mut self, configuration: contract::Configuration, now: Instant) -> bool {
        self.inputs.tell(configuration);
        self.reload(now)
    }
}

fn accept(state: &State, snapshot: Snapshot) -> Option<State> {
    if snapshot == *state.snapshot && state.rejection.is_none() {
        return None;
    }
    log_changes(&state.snapshot, &snapshot);
    Some(State { snapshot: Arc::new(snapshot), rejection: None, accepted: state.accepted + 1, ..state.clone() })
}

fn refuse(state: &State, refreshed: Snapshot, findings: Vec<Finding>) -> Option<State> {
    let mut next = state.clone();
    let known = state.rejection.as_ref().is_some_and(|rejection| rejection.findings == findings);
    if !known {
        for finding in &findings {
            error!(file = finding.file, field = finding.problem.path, "refused: {}", finding.problem.message);
        }
        warn!(problems = findings.len(), "the configuration was refused, the last good one stays");
        next.rejected += 1;
        next.rejection = Some(Arc::new(Rejection { at: SystemTime::now(), findings }));
    }
    if refreshed != *state.snapshot {
        log_changes(&state.snapshot, &refreshed);
        next.snapshot = Arc::new(refreshed);
        return Some(next);
    }
    (!known).then_some(next)
}

/// Logs what of each policy changed, field by field.
fn log_changes(old: &Snapshot, new: &Snapshot) {
    let before: HashMap<_, _> = old.policies.iter().map(|policy| (policy.key(), policy)).collect();
    for policy in &new.policies {
        let (name, revision) = (&policy.resolved.name, &policy.resolved.revision);
        let Some(old) = before.get(&policy.key()) else {
            info!(policy = name, revision, from = policy.origin, "policy accepted");
            continue;
        };
        if policy.orphaned && !old.orphaned {
            warn!(policy = name, from = policy.origin, "the policy is gone; it is served until the sidecar ends");
        }
        let changes = changes(&old.resolved, &policy.resolved);
        if !changes.is_empty() {
            info!(policy = name, revision, changes, "policy changed");
        }
        log_credentials(old, policy);
    }
    let bound = |listen: &Listen| (listen.address, listen.port, listen.socket.clone());
    // Before the first policy nobody may be listening yet.
    if !old.policies.is_empty() && bound(&old.listen) != bound(&new.listen) {
        warn!("listen.address, port and socket stay as they are until the sidecar is started again");
    }
    if old.tls != new.tls {
        info!("certificate for clients changed");
    }
}

fn log_credentials(old: &Policy, new: &Policy) {
    let (old, new, name) = (&old.credentials, &new.credentials, &new.resolved.name);
    if old.user != new.user {
        info!(policy = name, from = old.user, to = new.user, "user changed");
    } else if old.password != new.password {
        info!(policy = name, user = new.user, "password changed");
    }
    if old.ca_pem != new.ca_pem {
        info!(policy = name, "authorities to trust changed");
    }
}

/// `pool.size 20 -> 5, pool.recycle 1h -> 30m`
fn changes(old: &Resolved, new: &Resolved) -> String {
    let leaves = |policy: &Resolved| {
        let mut leaves = BTreeMap::new();
        schema::leaves("", &serde_json::to_value(&policy.effective).unwrap_or_default(), &mut leaves);
        leaves
    };
    let (old, new) = (leaves(old), leaves(new));
    let show = |value: Option<&Value>| match value {
        None => "nothing".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let mut paths: Vec<_> = old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).collect();
    paths.sort();
    paths.dedup();
    let change = |path: &&String| {
        format!("{} {} -> {}", path.trim_start_matches('.'), show(old.get(*path)), show(new.get(*path)))
    };
    paths.iter().map(change).collect::<Vec<_>>().join(", ")
}
