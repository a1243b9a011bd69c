//! A policy's status as a function of facts. Pure.
//!
//! Programmed is True because sidecars said which revision they run, never because it was sent. Numbers are rounded, and
//! their change alone is worth a write only every [`NUMBERS`].

use std::borrow::Cow;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;

use super::facts::{Fact, Progress};
use super::index::{PolicyView, Standing};
use super::rotation;
use crate::api::conditions::{
    ACCEPTED, CREDENTIALS_ROTATED, Finding, Holds, PROGRAMMED, READY, RESOLVED_REFS, Reason, condition,
};
use crate::api::v1alpha1::{DbPoolPolicyStatus, PodsStatus, PoolStatus};
use crate::contract::{Band, HealthState, ReferenceState};

/// Numbers alone are written no more often than this.
pub const NUMBERS: Duration = Duration::from_secs(30);

/// Pods that a message names at most; the rest is counted.
const NAMED: usize = 3;

/// What a policy's status should be now, or `None` if what is written says it. Of the pods that are `leaving` only a
/// rotation takes notice. `numbers_due` says whether a change of numbers alone may be written.
pub fn status(
    view: &PolicyView,
    facts: &[Fact],
    leaving: &[Fact],
    previous: Option<&DbPoolPolicyStatus>,
    numbers_due: bool,
    now: Timestamp,
) -> Option<DbPoolPolicyStatus> {
    let generation = view.policy.generation;
    let of_this = previous.filter(|status| status.observed_generation == Some(generation));
    let was = |name: &str| {
        of_this.and_then(|status| status.conditions.iter().flatten().find(|condition| condition.type_ == name))
    };
    let is_early = facts.iter().any(|fact| fact.progress == Progress::Early);
    let accepted = accepted(&view.standing);
    let references = references(facts, was(RESOLVED_REFS));
    let known_pods = of_this.and_then(|status| status.pods.as_ref()).map_or(0, |pods| pods.matched);
    let programmed = match was(PROGRAMMED).filter(|was| holds_on(was, facts, known_pods)) {
        Some(was) if view.standing == Standing::Accepted => kept(PROGRAMMED, was),
        _ => programmed(&view.standing, facts),
    };
    let ready = ready(&accepted, &references, &programmed);
    let known = previous.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let rotated = rotated(was(CREDENTIALS_ROTATED), is_early, &both(facts, leaving), now);
    let findings = [accepted, references, programmed, ready].into_iter().chain(rotated);
    let conditions = findings.map(|finding| condition(finding, Some(generation), known, now)).collect();
    let pods = pods(facts, of_this.and_then(|status| status.pods.as_ref()));
    let mut status = DbPoolPolicyStatus {
        observed_generation: Some(generation),
        conditions: Some(conditions),
        pods: Some(pods),
        pool: pool(view, facts),
    };
    let before = previous.and_then(|status| status.pool.as_ref());
    if is_early {
        // Of those that were not heard from yet the numbers are not 0.
        status.pool = status.pool.map(|now| match before {
            Some(before) => PoolStatus { size: now.size, max_overflow: now.max_overflow, ..before.clone() },
            None => now,
        });
    }
    if !numbers_due && !is_worth_telling(before, status.pool.as_ref()) {
        status.pool = before.cloned();
    }
    (previous != Some(&status)).then_some(status)
}

/// Whether numbers differ that the last write does not say: then the status is due again after [`NUMBERS`].
pub fn has_other_numbers(view: &PolicyView, facts: &[Fact], previous: Option<&DbPoolPolicyStatus>) -> bool {
    pool(view, facts) != previous.and_then(|status| status.pool.clone())
}

/// What somebody may act on is never kept: before it has heard from all, a leader can't know of a later change.
fn rotated(was: Option<&Condition>, is_early: bool, facts: &[Fact], now: Timestamp) -> Option<Finding> {
    if is_early {
        return was.filter(|was| was.status == Holds::False.name()).map(|was| kept(CREDENTIALS_ROTATED, was));
    }
    rotation::finding(facts, now)
}

/// Seldom does anything leave.
fn both<'a>(facts: &'a [Fact], leaving: &[Fact]) -> Cow<'a, [Fact]> {
    if leaving.is_empty() { Cow::Borrowed(facts) } else { Cow::Owned([facts, leaving].concat()) }
}

fn accepted(standing: &Standing) -> Finding {
    let (holds, reason, message) = match standing {
        Standing::Accepted => (Holds::True, Reason::Accepted, "the policy is valid".to_owned()),
        Standing::Invalid(problems) => {
            let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
            (Holds::False, Reason::Invalid, all.join("; "))
        }
        Standing::Conflicted(why) => (Holds::False, Reason::Conflicted, why.clone()),
    };
    Finding { condition: ACCEPTED, holds, reason, message }
}

fn references(facts: &[Fact], was: Option<&Condition>) -> Finding {
    let found = |holds, reason, message| Finding { condition: RESOLVED_REFS, holds, reason, message };
    let state = |fact: &Fact| fact.references.as_ref().map_or(ReferenceState::Unknown, |found| found.state);
    let reasons = [
        (ReferenceState::SecretNotFound, Reason::SecretNotFound),
        (ReferenceState::SecretKeyMissing, Reason::SecretKeyMissing),
        (ReferenceState::InvalidCaCertificateRef, Reason::InvalidCaCertificateRef),
    ];
    for (missing, reason) in reasons {
        let pods = named(facts, |fact| {
            let message = fact.references.as_ref().map(|found| found.message.clone()).unwrap_or_default();
            (state(fact) == missing).then_some(message)
        });
        if let Some(message) = pods {
            return found(Holds::False, reason, message);
        }
    }
    let early = facts.iter().any(|fact| fact.progress == Progress::Early);
    if let Some(was) = was.filter(|_| early) {
        return kept(RESOLVED_REFS, was);
    }
    if facts.iter().any(|fact| state(fact) == ReferenceState::Resolved) {
        return found(Holds::True, Reason::ResolvedRefs, "every sidecar that looked found what it needs".into());
    }
    found(Holds::Unknown, Reason::Pending, "no sidecar has looked for its Secrets yet".into())
}

/// What keeps a policy from being programmed, the worst first.
const WORST: [Reason; 4] = [Reason::PodsRejected, Reason::PodsUnreachable, Reason::Pending, Reason::RestartRequired];

/// Whether what was said of Programmed holds on: a leader that has just begun has not heard from all, and those that it
/// has heard from say nothing worse. Nothing is known of more pods than there were.
fn holds_on(was: &Condition, facts: &[Fact], pods: i32) -> bool {
    let is_early = |fact: &&Fact| fact.progress == Progress::Early;
    let heard: Vec<_> = facts.iter().filter(|fact| !is_early(fact)).cloned().collect();
    if heard.len() == facts.len() || number(facts.len()) > pods {
        return false;
    }
    let rank = |name: &str| WORST.iter().position(|reason| reason.name() == name).unwrap_or(WORST.len());
    let is_kept = ![Reason::Pending, Reason::NoMatchingPods].iter().any(|reason| reason.name() == was.reason);
    let now = if heard.is_empty() { Reason::AllPodsApplied } else { programmed(&Standing::Accepted, &heard).reason };
    is_kept && rank(&was.reason) <= rank(now.name())
}

fn programmed(standing: &Standing, facts: &[Fact]) -> Finding {
    let found = |holds, reason, message| Finding { condition: PROGRAMMED, holds, reason, message };
    if *standing != Standing::Accepted {
        let message = "the policy is not accepted: pods that run it keep what they run".into();
        return found(Holds::False, Reason::Pending, message);
    }
    if facts.is_empty() {
        return found(Holds::True, Reason::NoMatchingPods, "no pod with the sidecar is selected".into());
    }
    let rejected = named(facts, |fact| match &fact.progress {
        Progress::Rejected(problems) => Some(problems.join(", ")),
        _ => None,
    });
    let unreachable = named(facts, |fact| (fact.progress == Progress::Unreachable).then(String::new));
    let pending = |fact: &Fact| matches!(fact.progress, Progress::Pending | Progress::Early).then(String::new);
    let pending = named(facts, pending);
    let restart = named(facts, |fact| (!fact.restart.is_empty()).then(|| fact.restart.join(", ")));
    match (rejected, unreachable, pending, restart) {
        (Some(pods), ..) => found(Holds::False, Reason::PodsRejected, format!("refused by {pods}")),
        (_, Some(pods), ..) => found(Holds::False, Reason::PodsUnreachable, format!("not heard from: {pods}")),
        (_, _, Some(pods), _) => found(Holds::False, Reason::Pending, format!("not confirmed yet by {pods}")),
        (.., Some(pods)) => {
            let message = format!("takes effect only when these are made anew: {pods}");
            found(Holds::False, Reason::RestartRequired, message)
        }
        _ => found(Holds::True, Reason::AllPodsApplied, "every pod said that it runs this generation".into()),
    }
}

/// Ready follows the first condition that keeps it from being so. References that nobody looked at never lower it.
fn ready(accepted: &Finding, references: &Finding, programmed: &Finding) -> Finding {
    let lowered = [accepted, programmed].into_iter().find(|finding| finding.holds != Holds::True);
    match lowered.or_else(|| (references.holds == Holds::False).then_some(references)) {
        Some(cause) => {
            let message = format!("{}: {}", cause.condition, cause.message);
            Finding { condition: READY, holds: Holds::False, reason: cause.reason, message }
        }
        None => {
            Finding { condition: READY, holds: Holds::True, reason: Reason::Ready, message: programmed.message.clone() }
        }
    }
}

/// A condition as it was.
fn kept(condition: &'static str, was: &Condition) -> Finding {
    let holds = [Holds::True, Holds::False].into_iter().find(|holds| holds.name() == was.status);
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == was.reason).unwrap_or(Reason::Pending);
    Finding { condition, holds: holds.unwrap_or(Holds::Unknown), reason, message: was.message.clone() }
}

/// `a (why), b, c and 4 more` of the pods for which there is something to say.
pub(super) fn named(facts: &[Fact], why: impl Fn(&Fact) -> Option<String>) -> Option<String> {
    let all: Vec<_> = facts.iter().filter_map(|fact| why(fact).map(|why| (fact.pod.as_str(), why))).collect();
    let show = |(pod, why): &(&str, String)| if why.is_empty() { (*pod).to_owned() } else { format!("{pod} ({why})") };
    let mut text = all.iter().take(NAMED).map(show).collect::<Vec<_>>().join(", ");
    if all.len() > NAMED {
        text += &format!(" and {} more", all.len() - NAMED);
    }
    (!all.is_empty()).then_some(text)
}

fn pods(facts: &[Fact], previous: Option<&PodsStatus>) -> PodsStatus {
    let count = |which: &dyn Fn(&Fact) -> bool| number(facts.iter().filter(|fact| which(fact)).count());
    // A leader that has just begun has not heard from all: what was written holds until it has.
    if let Some(previous) = previous {
        let early = facts.iter().any(|fact| fact.progress == Progress::Early);
        if early && previous.matched == number(facts.len()) {
            return previous.clone();
        }
    }
    let matched = number(facts.len());
    let applied = count(&|fact| fact.progress == Progress::Applied && fact.restart.is_empty());
    PodsStatus {
        matched,
        applied,
        healthy: count(&|fact| fact.health.state == HealthState::Connected),
        restart_required: count(&|fact| !fact.restart.is_empty()),
        summary: format!("{applied}/{matched}"),
    }
}

fn pool(view: &PolicyView, facts: &[Fact]) -> Option<PoolStatus> {
    let resolved = &view.policy.verdict.as_ref().ok()?.resolved;
    let numbers: Vec<_> = facts.iter().filter_map(|fact| fact.numbers.as_ref()).collect();
    let sum = |of: fn(&crate::contract::Numbers) -> u32| numbers.iter().map(|n| u64::from(of(n))).sum::<u64>();
    let in_use = sum(|n| n.in_use);
    let limit = numbers.iter().map(|n| n.limit.map(u64::from)).sum::<Option<u64>>().filter(|limit| *limit > 0);
    let p99 = numbers.iter().filter_map(|n| n.acquire_p99_us).max();
    let spec = resolved.effective.pool.as_ref();
    Some(PoolStatus {
        size: spec.and_then(|pool| pool.size).unwrap_or_default(),
        max_overflow: spec.and_then(|pool| pool.max_overflow).unwrap_or_default(),
        in_use: rounded(in_use),
        utilization_percent: limit
            .map(|limit| number(usize::try_from((in_use * 20 + limit / 2) / limit * 5).unwrap_or(100))),
        waiting: rounded(sum(|n| n.waiting)),
        acquire_p99: p99.map(duration),
    })
}

/// Whether a change of numbers is one of class: the band of utilisation, or whether anybody waits.
fn is_worth_telling(before: Option<&PoolStatus>, now: Option<&PoolStatus>) -> bool {
    let class = |pool: &PoolStatus| {
        let band = pool.utilization_percent.map(|percent| Band::of(u32::try_from(percent).unwrap_or(0)));
        (pool.size, pool.max_overflow, band, pool.waiting > 0)
    };
    before.map(class) != now.map(class)
}

/// To two digits, so that a steady fleet's number is steady.
fn rounded(number: u64) -> i32 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    i32::try_from((number + unit / 2) / unit * unit).unwrap_or(i32::MAX)
}

/// `400us`, `12ms`, `3s`
fn duration(us: u64) -> String {
    match us {
        ..1_000 => format!("{us}us"),
        1_000..1_000_000 => format!("{}ms", us / 1_000),
        _ => format!("{}s", us / 1_000_000),
    }
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
