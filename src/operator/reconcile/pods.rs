//! One look at a pod: its conditions.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{OWN, Reconciler, left, present};
use crate::api::conditions::{Finding, Holds, Reason};
use crate::operator::apply::WriteError;
use crate::operator::facts::fact;
use crate::operator::index::{Entry, Key};
use crate::operator::pod::{self, PodFacts};
use crate::operator::reports::Contact;

/// A pod that ran a policy may take this long to confirm a new revision before its condition says so.
const PATIENCE: Duration = Duration::from_secs(10);
/// A pod's numbers are refreshed no more often than this.
const POD_NUMBERS: Duration = Duration::from_secs(60);
/// A pod is written no more often than this, however its sidecar wavers: what comes meanwhile is written together.
const POD_WRITES: Duration = Duration::from_secs(1);
/// The longest message of a pod's condition, in bytes: some of it is its sidecar's words.
const MAX_MESSAGE: usize = 1_024;
/// Refreshes of pods' numbers a second, for the whole fleet.
const REFRESHES: u32 = 10;

impl Reconciler {
    pub(super) async fn pod(&self, key: &Key) -> Result<Option<Duration>, WriteError> {
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
        let of = |entry: &Entry| {
            let generation = match entry {
                Entry::Run(assigned) => assigned.generation,
                Entry::Keep { generation, .. } => *generation,
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
