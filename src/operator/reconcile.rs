//! One look at a policy or a pod: gather facts, decide by the pure functions, write what differs.

mod pods;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use tracing::Instrument;

use super::apply::{WriteError, Writer};
use super::facts::{Fact, fact};
use super::index::{Entry, Key};
use super::queue::{Item, Outcome};
use super::rotation;
use super::state::State;
use super::status::{self, NUMBERS};
use crate::api::conditions::{ACCEPTED, Holds, PROGRAMMED, READY, Reason};
use crate::api::v1alpha1::DbPoolPolicyStatus;
use crate::telemetry::causes;

/// What we wrote counts for this long, whatever the watch says: it may be behind.
const OWN: Duration = Duration::from_secs(10);
/// A policy's numbers are written no more often than this even if their class wavers.
const CLASSES: Duration = Duration::from_secs(5);

/// A policy's status as we wrote it.
struct WrittenPolicy {
    status: DbPoolPolicyStatus,
    at: Instant,
    numbers: Instant,
}

/// What is written of a policy.
struct Previous {
    status: Option<DbPoolPolicyStatus>,
    /// A change of numbers within their class may be written.
    numbers_due: bool,
    /// For how long a change of their class must wait.
    class_due: Option<Duration>,
    /// When to look whether our write still stands.
    unsure: Option<Duration>,
}

/// A pod's conditions as we wrote them.
#[derive(Default)]
struct WrittenPod {
    conditions: Vec<PodCondition>,
    at: Option<Instant>,
    refreshed: Option<Instant>,
    unconfirmed: Option<Instant>,
}

/// What a leader remembers of its own writes.
#[derive(Default)]
struct Memory {
    policies: HashMap<String, WrittenPolicy>,
    pods: HashMap<String, WrittenPod>,
    /// When a generation was first seen, by uid.
    changed: HashMap<String, (i64, Instant)>,
    /// Generations of which no status could be written, by uid.
    unwritable: HashMap<String, i64>,
    /// Refreshes in the present second.
    refreshes: Option<(Instant, u32)>,
}

/// Reconciles for one term.
pub struct Reconciler {
    state: Arc<State>,
    writer: Writer,
    memory: Mutex<Memory>,
}

impl Reconciler {
    /// Nothing is written yet.
    pub fn new(state: Arc<State>, writer: Writer) -> Self {
        Self { state, writer, memory: Mutex::default() }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One look at an item.
    pub async fn look(self: Arc<Self>, item: Item) -> Outcome {
        let begun = Instant::now();
        let (kind, key, done) = match &item {
            Item::Policy(key) => {
                let span = tracing::info_span!("reconcile", policy = %key);
                ("policy", key, self.policy(key).instrument(span).await)
            }
            Item::Pod(key) => {
                let span = tracing::info_span!("reconcile", pod = %key);
                ("pod", key, self.pod(key).instrument(span).await)
            }
        };
        let result = done.as_ref().err().map_or("ok", WriteError::category);
        self.state.metrics.reconciled(kind, result, begun.elapsed());
        match done {
            Ok(after) => Ok(after),
            // The watch tells what follows.
            Err(WriteError::Gone) => Ok(None),
            // Another leads, or this replica again in a moment: then this is still to be written.
            Err(WriteError::NotLeader) => Err(()),
            Err(error) => {
                tracing::warn!(kind, %key, error = causes(&error), "the status could not be written; trying again");
                Err(())
            }
        }
    }

    async fn policy(&self, key: &Key) -> Result<Option<Duration>, WriteError> {
        let now = Instant::now();
        let Some(view) = self.state.policy(key) else { return Ok(None) };
        let (uid, generation) = (view.policy.uid.clone(), view.policy.generation);
        let (facts, until) = self.facts(&view.pods, now);
        let (leaving, left) = self.facts(&view.leaving, now);
        let until = until.into_iter().chain(left).min();
        let Previous { status: previous, numbers_due, class_due, unsure } = self.previous(&uid, generation, now);
        let wanted = status::status(&view, &facts, &leaving, previous.as_ref(), numbers_due, present());
        let told = wanted.as_ref().or(previous.as_ref());
        // Numbers that wait for their turn, and sidecars that may be silent for too long by then.
        let numbers = status::has_other_numbers(&view, &facts, told).then_some(NUMBERS);
        let silence = until.map(|until| until.saturating_duration_since(now) + Duration::from_millis(50));
        let rotation = rotation::ends(&facts, present()).max(rotation::ends(&leaving, present()));
        let mut again = numbers.into_iter().chain(silence).chain(unsure).chain(rotation).min();
        let Some(wanted) = wanted else { return Ok(again) };
        if let (Some(wait), true) =
            (class_due, previous.as_ref().is_some_and(|was| differs_in_numbers_only(was, &wanted)))
        {
            again = again.into_iter().chain([wait]).min();
            return Ok(again);
        }
        if let Err(error) = self.writer.policy(key, &uid, &wanted).await {
            self.tell_otherwise(key, &uid, generation, &wanted, &error).await;
            return Err(error);
        }
        self.tell(key, &uid, previous.as_ref(), &wanted).await;
        self.remember(&uid, previous.as_ref(), wanted, now);
        Ok(again)
    }

    fn facts(&self, pods: &[(String, String, Entry)], now: Instant) -> (Vec<Fact>, Option<Instant>) {
        let reports = self.state.reports();
        let mut until: Option<Instant> = None;
        let of = |(name, uid, entry): &(String, String, Entry)| {
            let (contact, ends) = reports.contact(uid, now);
            until = until.into_iter().chain(ends).min();
            fact(name, entry, reports.get(uid), contact)
        };
        (pods.iter().map(of).collect(), until)
    }

    /// What is written of a policy, and when numbers alone may be written again.
    fn previous(&self, uid: &str, generation: i64, now: Instant) -> Previous {
        let mut memory = self.memory();
        let changed = memory.changed.entry(uid.to_owned()).or_insert((generation, now));
        if changed.0 != generation {
            *changed = (generation, now);
        }
        let seen = self.state.seen().policies.get(uid).cloned();
        let Some(own) = memory.policies.get(uid) else {
            return Previous { status: seen, numbers_due: true, class_due: None, unsure: None };
        };
        let numbers_due = now >= own.numbers + NUMBERS;
        let class_due = left(own.numbers + CLASSES, now);
        let ours = left(own.at + OWN, now);
        // Either the watch is behind, or somebody else wrote after us: time tells.
        let unsure = ours.filter(|_| seen.as_ref() != Some(&own.status));
        let status = if ours.is_some() { Some(own.status.clone()) } else { seen };
        Previous { status, numbers_due, class_due, unsure }
    }

    fn remember(&self, uid: &str, previous: Option<&DbPoolPolicyStatus>, status: DbPoolPolicyStatus, now: Instant) {
        let mut memory = self.memory();
        let is_programmed = |status: &DbPoolPolicyStatus| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.any(|c| c.type_ == PROGRAMMED && c.reason == Reason::AllPodsApplied.name())
        };
        let was =
            previous.filter(|was| was.observed_generation == status.observed_generation).is_some_and(is_programmed);
        if let Some((_, changed)) = memory.changed.get(uid).filter(|_| is_programmed(&status) && !was) {
            self.state.metrics.programmed.observe(now.saturating_duration_since(*changed).as_secs_f64());
        }
        let pool = |status: &DbPoolPolicyStatus| status.pool.clone();
        let same_numbers = previous.is_some_and(|previous| pool(previous) == pool(&status));
        let numbers = memory.policies.get(uid).map(|own| own.numbers).filter(|_| same_numbers).unwrap_or(now);
        memory.policies.insert(uid.to_owned(), WrittenPolicy { status, at: now, numbers });
    }

    /// An object that an older CRD let through may be such that the API server takes no status of it: what is wrong
    /// with it is told by an Event then, once a generation.
    async fn tell_otherwise(
        &self,
        key: &Key,
        uid: &str,
        generation: i64,
        wanted: &DbPoolPolicyStatus,
        why: &WriteError,
    ) {
        let accepted = wanted.conditions.iter().flatten().find(|condition| condition.type_ == ACCEPTED);
        let Some(refused) = accepted.filter(|accepted| accepted.status == Holds::False.name()) else { return };
        let WriteError::Refused(kube::Error::Api(answer)) = why else { return };
        if !answer.is_invalid() && answer.code != 500 {
            return;
        }
        if self.memory().unwritable.insert(uid.to_owned(), generation) != Some(generation) {
            let text = format!("{}: {}; the API server takes no status of it", refused.type_, refused.message);
            self.writer.event(&about(key, uid), false, &refused.reason, &text).await;
        }
    }

    /// An Event for each condition whose status or reason is another now; Ready only repeats them.
    async fn tell(&self, key: &Key, uid: &str, previous: Option<&DbPoolPolicyStatus>, now: &DbPoolPolicyStatus) {
        let before = previous.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let about = about(key, uid);
        for condition in now.conditions.iter().flatten().filter(|condition| is_news(before, condition)) {
            let (good, text) = (condition.status == "True", format!("{}: {}", condition.type_, condition.message));
            tracing::info!(condition = condition.type_, reason = condition.reason, "{}", condition.message);
            self.writer.event(&about, good, &condition.reason, &text).await;
        }
    }

    /// Forgets objects that are gone.
    pub fn tidy(&self) {
        let (policies, pods) = {
            let seen = self.state.seen();
            let uids = |map: Vec<&String>| map.into_iter().cloned().collect::<std::collections::HashSet<_>>();
            (uids(seen.policies.keys().collect()), uids(seen.pods.keys().collect()))
        };
        let now = Instant::now();
        let mut memory = self.memory();
        memory.policies.retain(|uid, own| policies.contains(uid) || now < own.at + OWN);
        memory.pods.retain(|uid, _| pods.contains(uid));
        memory.unwritable.retain(|uid, _| policies.contains(uid));
        let Memory { policies: known, changed, .. } = &mut *memory;
        changed.retain(|uid, _| known.contains_key(uid) || policies.contains(uid));
    }
}

fn about(key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("poolkeeper.dev/v1alpha1".into()),
        kind: Some("DbPoolPolicy".into()),
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// For how long to wait until then, if at all.
fn left(until: Instant, now: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
}

/// Now, as precise as the API holds it.
fn present() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

fn differs_in_numbers_only(was: &DbPoolPolicyStatus, wanted: &DbPoolPolicyStatus) -> bool {
    let pool = wanted.pool.clone();
    *wanted == DbPoolPolicyStatus { pool, ..was.clone() }
}

fn is_news(before: &[Condition], condition: &Condition) -> bool {
    let known = before.iter().find(|known| known.type_ == condition.type_);
    let news = known.is_none_or(|known| known.status != condition.status || known.reason != condition.reason);
    // That nobody knows yet is no transition.
    news && condition.type_ != READY && !(known.is_none() && condition.status == Holds::Unknown.name())
}
