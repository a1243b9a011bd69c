//! A pod's conditions as a function of facts. Pure.
//!
//! Their messages change seldom: that of PoolConfigured names no generation (a change of policy would write to every
//! pod), and the numbers in that of PoolHealthy are refreshed only with their class.

use super::facts::{Fact, Progress};
use super::reports::line;
use crate::api::annotations::{POOL_CONFIGURED, POOL_HEALTHY};
use crate::api::conditions::{Finding, Holds, Reason};
use crate::contract::{HealthState, PolicyReport, ReferenceState};

/// What one pod is about.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Each policy that it was told, with its name and generation.
    pub told: Vec<(String, i64, Fact)>,
    /// Names of policies that it runs though nobody tells it to any more.
    pub orphaned: Vec<String>,
    /// Its sidecar is not heard from.
    pub lost: bool,
    /// Its sidecar was asked to end.
    pub draining: bool,
}

/// What is to be said of the pod; `None` of a condition: what was said before holds.
pub fn findings(facts: &PodFacts) -> (Option<Finding>, Option<Finding>) {
    (configured(facts), healthy(facts))
}

fn configured(facts: &PodFacts) -> Option<Finding> {
    let found = |holds, reason, message| Some(Finding { condition: POOL_CONFIGURED, holds, reason, message });
    if facts.lost {
        return found(
            Holds::Unknown,
            Reason::Stale,
            "the sidecar is not heard from; it serves on with what it has".into(),
        );
    }
    if facts.told.is_empty() {
        return found(Holds::False, Reason::NoPolicy, without_policy(&facts.orphaned));
    }
    if facts.told.iter().any(|(.., fact)| fact.progress == Progress::Early) {
        return None;
    }
    let all = |why: &dyn Fn(&Fact) -> Option<String>| {
        let said = facts.told.iter().filter_map(|(name, _, fact)| why(fact).map(|why| format!("{name}: {why}")));
        Some(said.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty())
    };
    let rejected = all(&|fact| match &fact.progress {
        Progress::Rejected(problems) => Some(problems.join(", ")),
        _ => None,
    });
    if let Some(message) = rejected {
        return found(Holds::False, Reason::Rejected, message);
    }
    let missing = all(&|fact| {
        let missing = fact
            .references
            .as_ref()
            .filter(|found| !matches!(found.state, ReferenceState::Resolved | ReferenceState::Unknown));
        missing.map(|found| found.message.clone())
    });
    if facts.told.iter().any(|(.., fact)| fact.progress == Progress::Pending) {
        let message = missing.unwrap_or_else(|| "the sidecar has not confirmed the newest revision yet".into());
        return found(Holds::Unknown, Reason::Pending, message);
    }
    let restart = all(&|fact| (!fact.restart.is_empty()).then(|| fact.restart.join(", ")));
    if let Some(fields) = restart {
        let message = format!("takes effect only when the pod is made anew: {fields}");
        return found(Holds::False, Reason::RestartRequired, message);
    }
    let names: Vec<_> = facts.told.iter().map(|(name, ..)| name.as_str()).collect();
    found(Holds::True, Reason::Applied, format!("runs the newest revision of {}", names.join(", ")))
}

fn without_policy(orphaned: &[String]) -> String {
    match orphaned {
        [] => "no policy is for this pod: label it poolkeeper.dev/policy, or make a policy's selector match it".into(),
        names => format!("no policy is for this pod any more; it serves on with the last of {}", names.join(", ")),
    }
}

fn healthy(facts: &PodFacts) -> Option<Finding> {
    let found = |holds, reason, message| Some(Finding { condition: POOL_HEALTHY, holds, reason, message });
    if facts.draining {
        return found(Holds::False, Reason::Draining, "the sidecar was asked to end".into());
    }
    if facts.lost {
        return found(Holds::Unknown, Reason::Stale, "the sidecar is not heard from".into());
    }
    if facts.told.iter().any(|(.., fact)| fact.progress == Progress::Early) {
        return None;
    }
    let bad = |state: HealthState| facts.told.iter().find(|(.., fact)| fact.health.state == state);
    for (state, reason) in [(HealthState::AuthFailed, Reason::AuthFailed), (HealthState::NoBackend, Reason::NoBackend)]
    {
        if let Some((name, _, fact)) = bad(state) {
            return found(Holds::False, reason, format!("{name}: {}", fact.health.message));
        }
    }
    let lines = facts.told.iter().filter_map(|(name, generation, fact)| {
        let line = line(fact.numbers.as_ref()?, *generation);
        Some(if facts.told.len() > 1 { format!("{name}: {line}") } else { line })
    });
    let lines = lines.collect::<Vec<_>>().join("; ");
    let connected = |(.., fact): &(String, i64, Fact)| fact.health.state == HealthState::Connected;
    if !facts.told.is_empty() && facts.told.iter().all(connected) {
        return found(Holds::True, Reason::Connected, lines);
    }
    found(Holds::Unknown, Reason::Pending, "nothing was heard of the database yet".into())
}

/// What a report says of a policy that the pod was not told: it is served on.
pub fn orphans<'a>(said: impl Iterator<Item = &'a PolicyReport>, told: &[String]) -> Vec<String> {
    said.filter(|policy| policy.applied.is_some() && !told.contains(&policy.uid))
        .map(|policy| policy.name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::contract::{Health, Numbers, References};

    fn fact(progress: Progress) -> Fact {
        let numbers = Numbers { size: 20, max_overflow: 10, limit: Some(30), in_use: 12, ..Numbers::default() };
        let health = Health { state: HealthState::Connected, message: String::new() };
        Fact {
            pod: "a".into(),
            progress,
            restart: vec![],
            references: None,
            credentials: None,
            health,
            numbers: Some(numbers),
        }
    }

    fn of(told: Vec<Fact>) -> PodFacts {
        let told = told.into_iter().map(|fact| ("orders".to_owned(), 7, fact)).collect();
        PodFacts { told, orphaned: vec![], lost: false, draining: false }
    }

    fn said(facts: &PodFacts) -> [(Holds, Reason, String); 2] {
        let (configured, healthy) = findings(facts);
        [configured, healthy].map(|found| found.map(|f| (f.holds, f.reason, f.message)).unwrap())
    }

    #[test]
    fn a_pod_that_runs_it() {
        let [configured, healthy] = said(&of(vec![fact(Progress::Applied)]));
        assert_eq!(configured, (Holds::True, Reason::Applied, "runs the newest revision of orders".into()));
        assert_eq!((healthy.0, healthy.1), (Holds::True, Reason::Connected));
        assert_eq!(healthy.2, "12/30 in use (40%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 7");
    }

    #[test]
    fn a_pod_that_does_not() {
        let configured = |facts: &PodFacts| said(facts)[0].clone();
        let refused = fact(Progress::Rejected(vec!["spec.pool.size: too much".into()]));
        let found = configured(&of(vec![fact(Progress::Applied), refused]));
        assert_eq!(found, (Holds::False, Reason::Rejected, "orders: spec.pool.size: too much".into()));
        let restart = Fact { restart: vec!["spec.listen.port".into()], ..fact(Progress::Applied) };
        assert_eq!(configured(&of(vec![restart])).1, Reason::RestartRequired);
        let references = References { state: ReferenceState::SecretNotFound, message: "Secret orders-db".into() };
        let waiting = Fact { references: Some(references), ..fact(Progress::Pending) };
        assert_eq!(
            configured(&of(vec![waiting])),
            (Holds::Unknown, Reason::Pending, "orders: Secret orders-db".into())
        );
        let lost = PodFacts { lost: true, ..of(vec![fact(Progress::Unreachable)]) };
        assert_eq!(configured(&lost).1, Reason::Stale);
        let alone = PodFacts { orphaned: vec!["orders".into()], ..of(vec![]) };
        assert_eq!(configured(&alone).1, Reason::NoPolicy);
        assert!(configured(&alone).2.contains("the last of orders"));
        assert_eq!(findings(&of(vec![fact(Progress::Early)])), (None, None));
    }

    #[test]
    fn the_worst_of_its_databases() {
        let down = |state| {
            let health = Health { state, message: "no route".into() };
            let found = said(&of(vec![fact(Progress::Applied), Fact { health, ..fact(Progress::Applied) }]));
            (found[1].0, found[1].1)
        };
        assert_eq!(down(HealthState::NoBackend), (Holds::False, Reason::NoBackend));
        assert_eq!(down(HealthState::AuthFailed), (Holds::False, Reason::AuthFailed));
        assert_eq!(down(HealthState::Unknown), (Holds::Unknown, Reason::Pending));
        let drains = PodFacts { draining: true, ..of(vec![fact(Progress::Applied)]) };
        assert_eq!(said(&drains)[1].1, Reason::Draining);
    }

    #[test]
    fn what_runs_untold() {
        let report = |name: &str, applied: bool| PolicyReport {
            name: name.into(),
            uid: format!("uid-{name}"),
            applied: applied.then(Default::default),
            ..PolicyReport::default()
        };
        let said = [report("a", true), report("b", true), report("c", false)];
        assert_eq!(orphans(said.iter(), &["uid-a".into()]), ["b"]);
    }
}
