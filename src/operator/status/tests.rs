#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::api::resolve::{Problem, resolve_value};
use crate::contract::{Credentials, Health, Numbers, References};
use crate::operator::index::{Assigned, Key, Policy};

fn view(standing: Standing) -> PolicyView {
    let document = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "orders" },
        "spec": { "database": { "host": "db", "name": "orders" } },
    });
    let (key, uid) = (Key::new("shop", "orders"), "uid".to_owned());
    let assigned = Assigned::new(key.clone(), uid.clone(), 7, resolve_value(document).unwrap());
    let created = Timestamp::UNIX_EPOCH;
    let policy = Policy { key, uid, created, generation: 7, selector: None, verdict: Ok(Arc::new(assigned)) };
    PolicyView { policy: Arc::new(policy), standing, pods: vec![], leaving: vec![] }
}

fn fact(pod: &str, progress: Progress) -> Fact {
    let numbers = Numbers { size: 20, max_overflow: 10, limit: Some(30), in_use: 12, ..Numbers::default() };
    let references = References { state: ReferenceState::Resolved, message: String::new() };
    let health = Health { state: HealthState::Connected, message: String::new() };
    Fact {
        pod: pod.into(),
        progress,
        restart: vec![],
        references: Some(references),
        credentials: None,
        health,
        numbers: Some(numbers),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn made(standing: Standing, facts: &[Fact], previous: Option<&DbPoolPolicyStatus>) -> DbPoolPolicyStatus {
    status(&view(standing), facts, &[], previous, true, at(1)).unwrap()
}

/// `Accepted=True/Accepted` and so on.
fn shown(status: &DbPoolPolicyStatus) -> Vec<String> {
    let show = |c: &Condition| {
        assert_eq!(c.observed_generation, status.observed_generation);
        format!("{}={}/{}", c.type_, c.status, c.reason)
    };
    status.conditions.iter().flatten().map(show).collect()
}

fn message(status: &DbPoolPolicyStatus, condition: &str) -> String {
    status.conditions.iter().flatten().find(|c| c.type_ == condition).unwrap().message.clone()
}

const GOOD: [&str; 4] =
    ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "Programmed=True/AllPodsApplied", "Ready=True/Ready"];

#[test]
fn every_pod_runs_it() {
    let status = made(Standing::Accepted, &[fact("a", Progress::Applied), fact("b", Progress::Applied)], None);
    assert_eq!(shown(&status), GOOD);
    let pods = status.pods.unwrap();
    assert_eq!((pods.matched, pods.applied, pods.healthy, pods.summary.as_str()), (2, 2, 2, "2/2"));
    let pool = status.pool.unwrap();
    assert_eq!((pool.size, pool.max_overflow, pool.in_use, pool.utilization_percent), (20, 10, 24, Some(40)));
}

#[test]
fn no_pod_is_no_fault() {
    let status = made(Standing::Accepted, &[], None);
    assert_eq!(
        shown(&status)[1..],
        ["ResolvedRefs=Unknown/Pending", "Programmed=True/NoMatchingPods", "Ready=True/Ready"]
    );
}

#[test]
fn what_is_not_accepted_is_not_ready() {
    let invalid =
        Standing::Invalid(vec![Problem::new("spec.pool.size", "is -1"), Problem::new("spec.pool.x", "is unknown")]);
    let status = made(invalid, &[fact("a", Progress::Pending)], None);
    assert_eq!(shown(&status)[0], "Accepted=False/Invalid");
    assert_eq!(message(&status, "Accepted"), "spec.pool.size: is -1; spec.pool.x: is unknown");
    assert_eq!(shown(&status)[2..], ["Programmed=False/Pending", "Ready=False/Invalid"]);
    let status = made(Standing::Conflicted("the older policy x".into()), &[], None);
    assert_eq!(
        (shown(&status)[0].as_str(), shown(&status)[3].as_str()),
        ("Accepted=False/Conflicted", "Ready=False/Conflicted")
    );
}

#[test]
fn the_worst_pod_decides_and_is_named() {
    let rejected = fact("bad", Progress::Rejected(vec!["spec.pool.size: too much".into()]));
    let gone = fact("gone", Progress::Unreachable);
    let slow = fact("slow", Progress::Pending);
    let old = Fact { restart: vec!["spec.listen.port".into()], ..fact("old", Progress::Applied) };
    let good = fact("good", Progress::Applied);
    let mut facts = vec![good, old, slow, gone, rejected];
    for (reason, text) in [
        ("PodsRejected", "bad (spec.pool.size: too much)"),
        ("PodsUnreachable", "gone"),
        ("Pending", "slow"),
        ("RestartRequired", "old (spec.listen.port)"),
        ("AllPodsApplied", "every pod"),
    ] {
        let status = made(Standing::Accepted, &facts, None);
        let said = status.conditions.iter().flatten().find(|c| c.type_ == PROGRAMMED).unwrap();
        assert_eq!(said.reason, reason);
        assert!(said.message.contains(text), "{}", said.message);
        facts.pop();
    }
    let many: Vec<_> = (0..9).map(|n| fact(&n.to_string(), Progress::Pending)).collect();
    assert_eq!(message(&made(Standing::Accepted, &many, None), PROGRAMMED), "not confirmed yet by 0, 1, 2 and 6 more");
}

#[test]
fn references_that_are_missing() {
    for (state, reason) in [
        (ReferenceState::SecretNotFound, "SecretNotFound"),
        (ReferenceState::SecretKeyMissing, "SecretKeyMissing"),
        (ReferenceState::InvalidCaCertificateRef, "InvalidCACertificateRef"),
    ] {
        let references = References { state, message: "Secret orders-db".into() };
        let facts =
            [fact("a", Progress::Applied), Fact { references: Some(references), ..fact("b", Progress::Applied) }];
        let status = made(Standing::Accepted, &facts, None);
        assert_eq!(shown(&status)[1], format!("ResolvedRefs=False/{reason}"));
        assert_eq!(shown(&status)[3], format!("Ready=False/{reason}"));
        assert_eq!(message(&status, RESOLVED_REFS), "b (Secret orders-db)");
    }
}

#[test]
fn nothing_new_is_no_write() {
    let facts = [fact("a", Progress::Applied)];
    let first = made(Standing::Accepted, &facts, None);
    assert_eq!(status(&view(Standing::Accepted), &facts, &[], Some(&first), true, at(99)), None);
}

#[test]
fn numbers_alone_wait_and_a_class_does_not() {
    let mut facts = [fact("a", Progress::Applied)];
    let first = made(Standing::Accepted, &facts, None);
    let busy = |in_use, waiting| {
        Some(Numbers { size: 20, max_overflow: 10, limit: Some(30), in_use, waiting, ..Numbers::default() })
    };
    facts[0].numbers = busy(15, 0);
    assert!(has_other_numbers(&view(Standing::Accepted), &facts, Some(&first)));
    assert_eq!(status(&view(Standing::Accepted), &facts, &[], Some(&first), false, at(9)), None);
    assert!(status(&view(Standing::Accepted), &facts, &[], Some(&first), true, at(9)).is_some());
    facts[0].numbers = busy(21, 0);
    let written = status(&view(Standing::Accepted), &facts, &[], Some(&first), false, at(9)).unwrap();
    assert_eq!(written.pool.unwrap().utilization_percent, Some(70));
    facts[0].numbers = busy(12, 3);
    assert!(status(&view(Standing::Accepted), &facts, &[], Some(&first), false, at(9)).is_some());
}

#[test]
fn a_new_leader_says_nothing_else_before_it_has_heard() {
    let first = made(Standing::Accepted, &[fact("a", Progress::Applied), fact("b", Progress::Applied)], None);
    let early =
        |pod: &str| Fact { references: None, health: Health::default(), numbers: None, ..fact(pod, Progress::Early) };
    let facts = [early("a"), fact("b", Progress::Applied)];
    let later = status(&view(Standing::Accepted), &facts, &[], Some(&first), false, at(9));
    let conditions = |status: &DbPoolPolicyStatus| (status.conditions.clone(), status.pods.clone());
    assert_eq!(later.as_ref().map(conditions).unwrap_or(conditions(&first)), conditions(&first));
    // Of another generation it knows nothing yet.
    let old = DbPoolPolicyStatus { observed_generation: Some(6), ..first };
    let status = made(Standing::Accepted, &facts, Some(&old));
    assert_eq!(shown(&status)[2], "Programmed=False/Pending");
}

#[test]
fn a_new_leader_repeats_what_was_wrong() {
    let good = || fact("b", Progress::Applied);
    let restart = Fact { restart: vec!["spec.listen.port".into()], ..fact("a", Progress::Applied) };
    for bad in [fact("a", Progress::Rejected(vec!["too much".into()])), fact("a", Progress::Unreachable), restart] {
        let first = made(Standing::Accepted, &[bad, good()], None);
        let early = |pod: &str| Fact {
            references: None,
            health: Health::default(),
            numbers: None,
            ..fact(pod, Progress::Early)
        };
        for facts in [vec![early("a"), early("b")], vec![early("a"), good()]] {
            assert_eq!(status(&view(Standing::Accepted), &facts, &[], Some(&first), true, at(9)), None);
        }
        // What it has heard counts if it is worse.
        let worse = fact("b", Progress::Rejected(vec!["no".into()]));
        let said = status(&view(Standing::Accepted), &[early("a"), worse], &[], Some(&first), true, at(9));
        assert_eq!(shown(&said.unwrap_or(first))[2], "Programmed=False/PodsRejected");
    }
}

#[test]
fn a_new_leader_answers_for_no_pod_that_came_meanwhile() {
    let early = |pod: &str| fact(pod, Progress::Early);
    for before in [vec![], vec![fact("a", Progress::Applied)]] {
        let first = made(Standing::Accepted, &before, None);
        let status = made(Standing::Accepted, &[early("a"), early("b")], Some(&first));
        assert_eq!(shown(&status)[2], "Programmed=False/Pending");
    }
    let first = made(Standing::Accepted, &[fact("a", Progress::Applied), fact("b", Progress::Applied)], None);
    let status = made(Standing::Accepted, &[early("a")], Some(&first));
    assert_eq!(shown(&status)[2], "Programmed=True/AllPodsApplied", "one has gone");
}

#[test]
fn numbers_are_rounded() {
    assert_eq!([rounded(0), rounded(99), rounded(104), rounded(1_257), rounded(99_999)], [0, 99, 100, 1_300, 100_000]);
    assert_eq!([duration(400), duration(12_345), duration(3_000_000)], ["400us", "12ms", "3s"]);
}

#[test]
fn a_rotation_is_spoken_of_while_it_lasts() {
    let read = |pod: &str, mark, changed| {
        let credentials = Some(Credentials { mark, changed, ..Credentials::default() });
        Fact { credentials, ..fact(pod, Progress::Applied) }
    };
    let before = made(Standing::Accepted, &[read("a", 1, None), read("b", 1, None)], None);
    assert_eq!(shown(&before), GOOD);
    let one = made(Standing::Accepted, &[read("a", 2, Some(1)), read("b", 1, None)], Some(&before));
    assert_eq!(shown(&one)[..4], GOOD, "which lowers nothing");
    assert_eq!(shown(&one)[4..], ["CredentialsRotated=False/SecretNotReadByAll"]);
    // A leader that has just begun keeps what was said.
    let early = [read("a", 2, Some(1)), Fact { credentials: None, ..fact("b", Progress::Early) }];
    assert_eq!(status(&view(Standing::Accepted), &early, &[], Some(&one), false, at(2)), None);
    let both = [read("a", 2, Some(1)), read("b", 2, Some(2))];
    let all = made(Standing::Accepted, &both, Some(&one));
    assert_eq!(shown(&all)[4..], ["CredentialsRotated=True/AllRead"]);
    let unheard = [read("a", 2, Some(1)), Fact { credentials: None, ..fact("b", Progress::Early) }];
    let begun = made(Standing::Accepted, &unheard, Some(&all));
    assert_eq!(shown(&begun)[4..], [""; 0], "that it may be done is not kept: b may have read another since");
    let later = status(&view(Standing::Accepted), &both, &[], Some(&all), true, at(700)).unwrap();
    assert_eq!(shown(&later), GOOD);
}

#[test]
fn a_pod_that_is_being_deleted_still_logs_in() {
    let read = |pod: &str, mark, changed| {
        let credentials = Some(Credentials { mark, changed, ..Credentials::default() });
        Fact { credentials, ..fact(pod, Progress::Applied) }
    };
    let here = [read("a", 2, Some(1))];
    let rotated = |leaving: &[Fact]| {
        let status = status(&view(Standing::Accepted), &here, leaving, None, true, at(2)).unwrap();
        let pods = status.pods.as_ref().unwrap();
        assert_eq!((pods.matched, pods.applied), (1, 1), "it counts no more");
        shown(&status)[4].clone()
    };
    assert_eq!(rotated(&[read("b", 1, None)]), "CredentialsRotated=False/SecretNotReadByAll");
    assert_eq!(rotated(&[read("b", 2, None)]), "CredentialsRotated=True/AllRead");
    let mut old = read("b", 2, Some(1));
    old.credentials = Some(Credentials { role_changed: true, old_role_in_use: true, ..old.credentials.unwrap() });
    assert_eq!(rotated(&[old]), "CredentialsRotated=False/OldRoleInUse");
}
