#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::resolve::Problem;
use crate::contract::Configuration;
use crate::sidecar::source::told::Place;
use crate::sidecar::source::{Rejection, Snapshot};
use std::time::SystemTime;

const SECOND: Duration = Duration::from_secs(1);

/// One policy whose pool has these numbers.
fn report(numbers: Numbers) -> Report {
    let policy = PolicyReport { name: "a".into(), numbers: Some(numbers), ..PolicyReport::default() };
    Report { draining: false, policies: vec![policy] }
}

fn busy(in_use: u32, waiting: u32) -> Report {
    report(Numbers { limit: Some(100), in_use, waiting, ..Numbers::default() })
}

#[test]
fn the_first_report_is_due_and_the_same_again_never() {
    let now = Instant::now();
    assert_eq!(due(None, &busy(1, 0), now), Due::Now);
    assert_eq!(due(Some((&busy(1, 0), now)), &busy(1, 0), now + 100 * SECOND), Due::No);
}

#[test]
fn numbers_wait_for_the_beat() {
    let at = Instant::now();
    let (last, present) = (busy(1, 0), busy(2, 0));
    assert_eq!(due(Some((&last, at)), &present, at + SECOND), Due::At(at + PING));
    assert_eq!(due(Some((&last, at)), &present, at + PING), Due::Now);
}

#[test]
fn another_class_of_load_is_told_at_once_but_not_all_the_time() {
    let at = Instant::now();
    for (last, present) in [(busy(59, 0), busy(60, 0)), (busy(80, 0), busy(81, 0)), (busy(1, 0), busy(1, 1))] {
        assert_eq!(due(Some((&last, at)), &present, at + SECOND / 2), Due::At(at + CALM));
        assert_eq!(due(Some((&last, at)), &present, at + CALM), Due::Now);
        assert_eq!(due(Some((&present, at)), &last, at + CALM), Due::Now);
    }
    assert_eq!(due(Some((&busy(1, 1), at)), &busy(1, 9), at + CALM), Due::At(at + PING), "still somebody waits");
}

#[test]
fn what_people_act_upon_is_told_at_once() {
    let now = Instant::now();
    let changes: [fn(&mut PolicyReport); 8] = [
        |p| p.applied = Some(Applied { generation: 1, revision: "r".into() }),
        |p| p.rejected = Some(Rejected::default()),
        |p| p.restart.push("spec.listen.port".into()),
        |p| p.references.state = ReferenceState::SecretNotFound,
        |p| p.references.message = "another".into(),
        |p| p.health.state = HealthState::NoBackend,
        |p| p.orphaned = true,
        |p| p.uid = "another".into(),
    ];
    for change in changes {
        let mut present = busy(1, 0);
        change(&mut present.policies[0]);
        assert_eq!(due(Some((&busy(1, 0), now)), &present, now), Due::Now, "{present:?}");
    }
    let draining = Report { draining: true, ..busy(1, 0) };
    assert_eq!(due(Some((&busy(1, 0), now)), &draining, now), Due::Now);
    assert_eq!(due(Some((&busy(1, 0), now)), &Report::default(), now), Due::Now);
    // The words of a class are not worth a report of their own.
    let mut words = busy(1, 0);
    words.policies[0].health.message = "silent for 7 s".into();
    assert_eq!(due(Some((&busy(1, 0), now)), &words, now), Due::At(now + PING));
}

#[test]
fn health_has_classes() {
    let of = |status, last_success_seconds_ago, reason: &str| {
        let known =
            status::Health { status, last_success_seconds_ago, reason: Some(reason.into()), ..Default::default() };
        health(&known).state
    };
    assert_eq!(of(Verdict::Degraded, None, "not checked yet"), HealthState::Unknown);
    assert_eq!(of(Verdict::Healthy, Some(1.0), ""), HealthState::Connected);
    assert_eq!(of(Verdict::Degraded, Some(9.0), "failed once"), HealthState::Connected);
    assert_eq!(of(Verdict::Unhealthy, None, "connection refused"), HealthState::NoBackend);
    assert_eq!(of(Verdict::Unhealthy, Some(9.0), "no (SQLSTATE 28P01)"), HealthState::AuthFailed);
}

#[test]
fn waits_are_those_since_the_last_report() {
    let mut now = vec![0; crate::sidecar::stats::BUCKETS.len() + 1];
    assert_eq!(p99(&now, None), None);
    now[3] = 10;
    assert_eq!(p99(&now, None), Some(1_000));
    let before = ("a".to_owned(), now.clone());
    assert_eq!(p99(&now, Some(&before)), None);
    *now.last_mut().unwrap() = 1;
    assert_eq!(p99(&now, Some(&before)), Some(30_000_000), "beyond the last bound");
}

fn told(name: &str) -> contract::Policy {
    contract::Policy {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("{name}-1"),
        generation: 7,
        revision: "r7".into(),
        spec: Some(serde_json::json!({})),
    }
}

/// What a refusal of these findings, each with its policy, makes of the report.
fn refused(told: Vec<contract::Policy>, findings: Vec<(&str, &str, Fault)>) -> Vec<PolicyReport> {
    let findings = findings.into_iter().map(|(name, path, fault)| Finding {
        file: told::origin("shop", name),
        problem: Problem::new(path, "is wrong"),
        fault,
    });
    let snapshot: Snapshot = told::empty(&Place::default()).unwrap();
    let state = State {
        snapshot: Arc::new(snapshot),
        rejection: Some(Arc::new(Rejection { at: SystemTime::now(), findings: findings.collect() })),
        told: Some(Arc::new(Configuration { term: 1, policies: told })),
        accepted: 0,
        rejected: 1,
    };
    let (_, states) = watch::channel(state);
    let (_, applied) = watch::channel(0);
    let registered = Arc::new(Registered::new());
    let facts = Facts { registered, states, applied, draining: CancellationToken::new(), bound: None };
    facts.report(&Waits::default(), Instant::now()).policies
}

#[test]
fn problems_missing_secrets_and_the_innocent_are_told_apart() {
    let missing = |mounted| Fault::Reference { state: ReferenceState::SecretNotFound, mounted };
    let key = Fault::Reference { state: ReferenceState::SecretKeyMissing, mounted: true };
    let keep = contract::Policy { spec: None, ..told("kept") };
    let reports = refused(
        vec![told("wrong"), told("lacks"), told("innocent"), keep, told("unmounted")],
        vec![
            ("wrong", "spec.pool.size", Fault::Policy),
            ("wrong", "spec.pool.order", Fault::Policy),
            ("lacks", "spec.x", key),
            ("lacks", "spec.y", missing(true)),
            ("unmounted", "spec.database.credentials.secretName", missing(false)),
        ],
    );
    let names: Vec<_> = reports.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(names, ["innocent", "lacks", "unmounted", "wrong"], "one that stays and does not run is no news");
    let [innocent, lacks, unmounted, wrong] = &reports[..] else { panic!() };
    let rejected = wrong.rejected.as_ref().unwrap();
    assert_eq!((rejected.generation, rejected.revision.as_str()), (7, "r7"));
    assert_eq!(rejected.problems, ["spec.pool.size: is wrong", "spec.pool.order: is wrong"]);
    assert_eq!((&wrong.applied, wrong.references.state), (&None, ReferenceState::Unknown));
    assert_eq!((&lacks.rejected, lacks.references.state), (&None, ReferenceState::SecretNotFound));
    assert_eq!((lacks.references.message.as_str(), lacks.restart.len()), ("spec.x: is wrong; spec.y: is wrong", 0));
    assert_eq!(unmounted.restart, ["spec.database.credentials.secretName"]);
    let because = &innocent.rejected.as_ref().unwrap().problems;
    assert!(because[0].contains("operator: shop/wrong: spec.pool.size"), "{because:?}");
}

#[test]
fn listeners_that_must_be_bound_anew_are_named() {
    let at = |address: &str, socket: &str| {
        let place = Place { address: Some(address.parse().unwrap()), socket: Some(socket.into()) };
        told::empty(&place).unwrap().listen
    };
    let bound = |socket_only| Bound { listen: at("127.0.0.1:6432", "/a"), socket_only };
    assert_eq!(moved(&bound(false), &at("127.0.0.1:6432", "/a")), Vec::<String>::new());
    let all = ["spec.listen.address", "spec.listen.port", "spec.listen.socket"];
    assert_eq!(moved(&bound(false), &at("127.0.0.2:6433", "/b")), all);
    assert_eq!(moved(&bound(true), &at("127.0.0.2:6433", "/b")), all[2..], "no port is used");
}

#[test]
fn a_database_that_stays_down_is_no_news() {
    assert_eq!(
        steady("the health query failed once: no route"),
        steady("the health query failed 3 times in a row: no route")
    );
    assert_eq!(steady("the health query failed once: a: b"), "the health query failed: a: b");
    let silent = "every connection is busy and no server has answered for";
    assert_eq!(steady(&format!("{silent} 5 s")), steady(&format!("{silent} 10 s")));
    assert_eq!(steady("not checked yet"), "not checked yet");
}
