//! One look at a policy or a pod: gather facts, decide by the pure functions, write what differs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use tracing::Instrument;

use super::apply::{WriteError, Writer};
use super::facts::{Fact, fact};
use super::index::{Key, PolicyView};
use super::pod::{self, PodFacts};
use super::queue::{Item, Outcome};
use super::reports::Contact;
use super::state::State;
use super::status::{self, NUMBERS};
use crate::api::conditions::{Finding, Holds, PROGRAMMED, READY, Reason};
use crate::api::v1alpha1::DbPoolPolicyStatus;

/// What we wrote counts for this long, whatever the watch says: it may be behind.
const OWN: Duration = Duration::from_secs(10);
/// A pod that ran a policy may take this long to confirm a new revision before its condition says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pod's numbers are refreshed no more often than this.
const POD_NUMBERS: Duration = Duration::from_secs(60);
/// A pod is written no more often than this, however its sidecar wavers: what comes meanwhile is written together.
const POD_WRITES: Duration = Duration::from_secs(1);
/// A policy's numbers are written no more often than this even if their class wavers.
const CLASSES: Duration = Duration::from_secs(5);
/// The longest message of a pod's condition, in bytes: some of it is its sidecar's words.
const MAX_MESSAGE: usize = 1_024;
/// Refreshes of pods' numbers a second, for the whole fleet.
const REFRESHES: u32 = 10;

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
                tracing::warn!(kind, %key, %error, "the status could not be written; trying again");
                Err(())
            }
        }
    }

    async fn policy(&self, key: &Key) -> Result<Option<Duration>, WriteError> {
        let now = Instant::now();
        let Some(view) = self.state.policy(key) else { return Ok(None) };
        let (uid, generation) = (view.policy.uid.clone(), view.policy.generation);
        let (facts, until) = self.facts(&view, now);
        let Previous { status: previous, numbers_due, class_due, unsure } = self.previous(&uid, generation, now);
        let wanted = status::status(&view, &facts, previous.as_ref(), numbers_due, present());
        let told = wanted.as_ref().or(previous.as_ref());
        // Numbers that wait for their turn, and sidecars that may be silent for too long by then.
        let numbers = status::has_other_numbers(&view, &facts, told).then_some(NUMBERS);
        let silence = until.map(|until| until.saturating_duration_since(now) + Duration::from_millis(50));
        let mut again = numbers.into_iter().chain(silence).chain(unsure).min();
        let Some(wanted) = wanted else { return Ok(again) };
        if let (Some(wait), true) =
            (class_due, previous.as_ref().is_some_and(|was| differs_in_numbers_only(was, &wanted)))
        {
            again = again.into_iter().chain([wait]).min();
            return Ok(again);
        }
        self.writer.policy(key, &uid, &wanted).await?;
        self.tell(key, &uid, previous.as_ref(), &wanted).await;
        self.remember(&uid, previous.as_ref(), wanted, now);
        Ok(again)
    }

    fn facts(&self, view: &PolicyView, now: Instant) -> (Vec<Fact>, Option<Instant>) {
        let reports = self.state.reports();
        let mut until: Option<Instant> = None;
        let of = |(name, uid, entry): &(String, String, super::index::Entry)| {
            let (contact, ends) = reports.contact(uid, now);
            until = until.into_iter().chain(ends).min();
            fact(name, entry, reports.get(uid), contact)
        };
        (view.pods.iter().map(of).collect(), until)
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

    /// An Event for each condition whose status or reason is another now; Ready only repeats them.
    async fn tell(&self, key: &Key, uid: &str, previous: Option<&DbPoolPolicyStatus>, now: &DbPoolPolicyStatus) {
        let before = previous.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let about = ObjectReference {
            api_version: Some("poolkeeper.dev/v1alpha1".into()),
            kind: Some("DbPoolPolicy".into()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        for condition in now.conditions.iter().flatten().filter(|condition| is_news(before, condition)) {
            let (good, text) = (condition.status == "True", format!("{}: {}", condition.type_, condition.message));
            tracing::info!(condition = condition.type_, reason = condition.reason, "{}", condition.message);
            self.writer.event(&about, good, &condition.reason, &text).await;
        }
    }

    async fn pod(&self, key: &Key) -> Result<Option<Duration>, WriteError> {
        let now = Instant::now();
        let Some((uid, facts, until)) = self.pod_facts(key, now) else { return Ok(None) };
        let mut again = until.map(|until| until.saturating_duration_since(now) + Duration::from_millis(50));
        // Of a pod without any policy whose sidecar was not heard from yet nothing is known.
        let Some(facts) = facts else { return Ok(again) };
        let (previous, unsure, wait) = self.previous_pod(&uid, now);
        if wait.is_some() {
            return Ok(again.into_iter().chain(wait).min());
        }
        again = again.into_iter().chain(unsure).min();
        let (mut configured, healthy) = pod::findings(&facts);
        if let Some(wait) = self.patience(&uid, configured.as_ref(), &previous, now) {
            configured = None;
            again = again.into_iter().chain([wait]).min();
        }
        let mut wanted: Vec<PodCondition> = Vec::new();
        for finding in configured.into_iter().chain(healthy) {
            let known = previous.iter().find(|known| known.type_ == finding.condition);
            let condition = pod_condition(finding, known);
            match known.map_or(Change::Class, |known| change(known, &condition)) {
                Change::Nothing => {}
                Change::Class => wanted.push(condition),
                Change::Numbers => match self.refresh(&uid, now) {
                    None => wanted.push(condition),
                    Some(wait) => again = again.into_iter().chain([wait]).min(),
                },
            }
        }
        if wanted.is_empty() {
            return Ok(again);
        }
        self.writer.pod(key, &uid, &wanted).await?;
        self.tell_pod(key, &uid, &previous, &wanted).await;
        self.remember_pod(&uid, previous, wanted, now);
        Ok(again)
    }

    /// A pod's uid, what is known of it if anything is, and when that changes by time.
    fn pod_facts(&self, key: &Key, now: Instant) -> Option<(String, Option<PodFacts>, Option<Instant>)> {
        let (uid, told) = {
            let index = self.state.index();
            let (pod, told) = index.pod(key)?;
            if pod.ended {
                return None;
            }
            (pod.uid.clone(), told)
        };
        let reports = self.state.reports();
        let (contact, until) = reports.contact(&uid, now);
        let heard = reports.get(&uid);
        let report = heard.and_then(|heard| heard.report.as_deref());
        let uids: Vec<_> = told.iter().map(|entry| entry.uid().to_owned()).collect();
        let of = |entry: &super::index::Entry| {
            let generation = match entry {
                super::index::Entry::Run(assigned) => assigned.generation,
                super::index::Entry::Keep { generation, .. } => *generation,
            };
            (entry.key().name.clone(), generation, fact(&key.name, entry, heard, contact))
        };
        let facts = PodFacts {
            told: told.iter().map(of).collect(),
            orphaned: pod::orphans(report.iter().flat_map(|report| &report.policies), &uids),
            lost: contact == Contact::Lost,
            draining: report.is_some_and(|report| report.draining),
        };
        let is_nothing = matches!(contact, Contact::Early) && facts.told.is_empty();
        Some((uid, Some(facts).filter(|_| !is_nothing), until))
    }

    /// What is written of a pod, when to look whether our write still stands, and for how long the next must wait.
    fn previous_pod(&self, uid: &str, now: Instant) -> (Vec<PodCondition>, Option<Duration>, Option<Duration>) {
        let memory = self.memory();
        let seen = self.state.seen().pods.get(uid).cloned().unwrap_or_default();
        let Some((own, at)) = memory.pods.get(uid).and_then(|own| Some((own, own.at?))) else {
            return (seen, None, None);
        };
        let Some(ours) = left(at + OWN, now) else { return (seen, None, None) };
        let stands = own.conditions.iter().all(|condition| seen.contains(condition));
        (own.conditions.clone(), (!stands).then_some(ours), left(at + POD_WRITES, now))
    }

    /// For how long to say nothing of a revision that is not confirmed yet, where the last one was.
    fn patience(
        &self,
        uid: &str,
        configured: Option<&Finding>,
        previous: &[PodCondition],
        now: Instant,
    ) -> Option<Duration> {
        let mut memory = self.memory();
        let pending = configured.is_some_and(|finding| finding.reason == Reason::Pending);
        let known = previous.iter().find(|known| configured.is_some_and(|finding| finding.condition == known.type_));
        let was_applied = known.is_some_and(|known| known.status == Holds::True.name());
        let own = memory.pods.entry(uid.to_owned()).or_default();
        if !pending || !was_applied {
            own.unconfirmed = None;
            return None;
        }
        let since = *own.unconfirmed.get_or_insert(now);
        let left = (since + PATIENCE).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether a pod's numbers may be refreshed now, or for how long they must wait.
    fn refresh(&self, uid: &str, now: Instant) -> Option<Duration> {
        let mut memory = self.memory();
        let last = memory.pods.get(uid).and_then(|own| own.refreshed);
        if let Some(wait) =
            last.map(|last| (last + POD_NUMBERS).saturating_duration_since(now)).filter(|w| !w.is_zero())
        {
            return Some(wait);
        }
        let second = Duration::from_secs(1);
        match &mut memory.refreshes {
            Some((since, count)) if now < *since + second => {
                if *count >= REFRESHES {
                    return Some((*since + second).saturating_duration_since(now));
                }
                *count += 1;
            }
            other => *other = Some((now, 1)),
        }
        memory.pods.entry(uid.to_owned()).or_default().refreshed = Some(now);
        None
    }

    fn remember_pod(&self, uid: &str, mut conditions: Vec<PodCondition>, wanted: Vec<PodCondition>, now: Instant) {
        conditions.retain(|known| wanted.iter().all(|condition| condition.type_ != known.type_));
        conditions.extend(wanted);
        let mut memory = self.memory();
        let own = memory.pods.entry(uid.to_owned()).or_default();
        (own.conditions, own.at) = (conditions, Some(now));
    }

    /// An Event for each condition that turned; the first word about a pod is none.
    async fn tell_pod(&self, key: &Key, uid: &str, previous: &[PodCondition], wanted: &[PodCondition]) {
        for condition in wanted {
            let known = previous.iter().find(|known| known.type_ == condition.type_);
            if known.is_none_or(|known| known.status == condition.status && known.reason == condition.reason) {
                continue;
            }
            let about = ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            };
            let (reason, message) = (condition.reason.as_deref(), condition.message.as_deref());
            let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
            tracing::info!(condition = condition.type_, reason, "{message}");
            let good = condition.status == "True";
            self.writer.event(&about, good, reason, &format!("{}: {message}", condition.type_)).await;
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
        let Memory { policies: known, changed, .. } = &mut *memory;
        changed.retain(|uid, _| known.contains_key(uid) || policies.contains(uid));
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

/// What of a pod's condition changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Nothing,
    /// Numbers of another class, or other words of a database.
    Numbers,
    /// Status, reason or words.
    Class,
}

fn change(known: &PodCondition, wanted: &PodCondition) -> Change {
    if known.status != wanted.status || known.reason != wanted.reason {
        return Change::Class;
    }
    let (before, now) = (known.message.as_deref().unwrap_or_default(), wanted.message.as_deref().unwrap_or_default());
    let is = |reason: Reason| wanted.reason.as_deref() == Some(reason.name());
    if is(Reason::Connected) {
        return if shape(before) == shape(now) { Change::Nothing } else { Change::Numbers };
    }
    match before == now {
        true => Change::Nothing,
        // A database's words may differ each time that it is asked.
        false if is(Reason::NoBackend) || is(Reason::AuthFailed) => Change::Numbers,
        false => Change::Class,
    }
}

/// What of a line of numbers is of class: the bands, and whether somebody waits; also how many pools there are.
fn shape(line: &str) -> Vec<&str> {
    let words = line.split([' ', ',', '(', ')', ';']);
    let mut shape = Vec::new();
    let mut last = "";
    for word in words.filter(|word| !word.is_empty()) {
        match (last, word) {
            (_, "below" | "within" | "above" | "no") => shape.push(word),
            ("waiting", "0") => shape.push("0"),
            ("waiting", _) => shape.push("waiting"),
            _ => {}
        }
        last = word;
    }
    shape
}

fn pod_condition(finding: Finding, known: Option<&PodCondition>) -> PodCondition {
    let Finding { condition, holds, reason, mut message } = finding;
    while message.len() > MAX_MESSAGE {
        message.pop();
    }
    let same = known.filter(|known| known.status == holds.name());
    PodCondition {
        type_: condition.into(),
        status: holds.name().into(),
        reason: Some(reason.name().into()),
        message: Some(message),
        last_transition_time: same
            .and_then(|known| known.last_transition_time.clone())
            .or_else(|| Some(Time(present()))),
        ..PodCondition::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(reason: &str, message: &str) -> PodCondition {
        PodCondition { reason: Some(reason.into()), message: Some(message.into()), ..PodCondition::default() }
    }

    #[test]
    fn a_sidecar_that_says_a_lot_is_cut_short() {
        let message = "é".repeat(1 << 20);
        let finding = Finding { condition: "x", holds: Holds::False, reason: Reason::Rejected, message };
        let written = pod_condition(finding.clone(), None);
        assert_eq!(written.message.as_deref().map(str::len), Some(MAX_MESSAGE));
        assert_eq!(change(&written, &pod_condition(finding, Some(&written))), Change::Nothing);
    }

    #[test]
    fn a_fleet_at_work_writes_classes_only() {
        let line = |text: &str| condition("Connected", text);
        let low = line("12/30 in use (40%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 7");
        let other = line("9/30 in use (30%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 8");
        let high = line("25/30 in use (83%, above 60-80%), size 20, overflow 5/10, waiting 0, generation 8");
        let waits = line("9/30 in use (30%, below 60-80%), size 20, overflow 0/10, waiting 3, generation 8");
        assert_eq!(change(&low, &other), Change::Nothing);
        assert_eq!((change(&low, &high), change(&low, &waits)), (Change::Numbers, Change::Numbers));
        assert_eq!(change(&low, &condition("NoBackend", "x")), Change::Class);
        assert_eq!(change(&condition("NoBackend", "x"), &condition("NoBackend", "y")), Change::Numbers);
        assert_eq!(change(&condition("NoBackend", "x"), &condition("NoBackend", "x")), Change::Nothing);
        assert_eq!(change(&condition("Rejected", "x"), &condition("Rejected", "y")), Change::Class);
    }
}
