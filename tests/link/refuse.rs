//! What can't be put to work changes nothing, and is told with its reasons.

use crate::support::{Policy, Postgres, eventually};
use crate::{follow, followed, policy};
use poolkeeper::contract::{self, ReferenceState, Refusal};

#[test]
fn a_bad_revision_is_refused_whole() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    let second = Policy::new(pg.port, &pg.create_database()).set("listen", sidecar.policy.get("listen").clone());
    let bad = sidecar.policy.clone().set("pool.size", 5).set("pool.minIdle", 50).set("timeouts.acquire", "1x");
    operator.tell(&[bad.told("r2"), second.told("s1")]);
    let report = operator.until_policy(&name, "refused", |policy| policy.rejected.is_some());
    let rejected = report.rejected.unwrap();
    assert_eq!((rejected.revision.as_str(), report.applied.unwrap().revision.as_str()), ("r2", "r1"));
    let paths: Vec<_> = rejected.problems.iter().filter_map(|problem| problem.split(':').next()).collect();
    assert_eq!(paths, ["spec.pool.minIdle", "spec.timeouts.acquire"], "{rejected:?}");
    // The other is right, but it is all or nothing.
    let other = operator.until_policy(second.name(), "told why", |policy| policy.rejected.is_some());
    assert_eq!(other.applied, None);
    assert!(other.rejected.unwrap().problems[0].contains("spec.pool.minIdle"));
    assert_eq!(sidecar.health()["size"], 20);
    assert_eq!(sidecar.status()["rejection"]["problems"].as_array().unwrap().len(), 2);
    sidecar.client().works();
    operator.tell(&[sidecar.policy.clone().set("pool.size", 5).told("r3"), second.told("s1")]);
    assert_eq!(operator.until_applied(&name, "r3").rejected, None);
    operator.until_applied(second.name(), "s1");
    sidecar.connect().database(second.name()).open().unwrap().works();
}

#[test]
fn without_a_spec_what_runs_stays_as_it_is() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    let second = Policy::new(pg.port, &pg.create_database()).set("listen", sidecar.policy.get("listen").clone());
    let kept = contract::Policy { spec: None, ..sidecar.policy.told("r2") };
    operator.tell(&[kept, second.told("s1")]);
    let report = operator.until_applied(second.name(), "s1");
    assert_eq!(report.rejected, None);
    let report = operator.until_applied(&name, "r1");
    assert_eq!((report.orphaned, report.rejected), (false, None));
    sidecar.client().works();
}

#[test]
fn a_secret_that_comes_later_is_taken_when_it_is_there() {
    let pg = Postgres::shared();
    let (policy, name) = policy(&pg);
    let (operator, sidecar) = follow(&policy.set("database.credentials.secretName", "later"));
    operator.tell(&[sidecar.policy.told("r1")]);
    let report =
        operator.until_policy(&name, "it is missing", |p| p.references.state == ReferenceState::SecretNotFound);
    assert_eq!((report.applied, report.rejected), (None, None));
    assert_eq!(report.restart, ["spec.database.credentials.secretName"], "it is not mounted");
    let (code, reason) = sidecar.get("/readyz");
    assert!(
        code == 503 && reason.starts_with("waiting for a policy: spec.database.credentials.secretName"),
        "{reason}"
    );
    assert_eq!(sidecar.connect().open().err().unwrap().code, "57P03");
    // Mounted, but the Secret is not there.
    std::fs::create_dir(sidecar.secrets().join("later")).unwrap();
    operator.until_policy(&name, "it is mounted", |p| {
        p.restart.is_empty() && p.references.state == ReferenceState::SecretNotFound
    });
    sidecar.save_secret("later", crate::support::pg::USER, crate::support::pg::PASSWORD);
    let report = operator.until_applied(&name, "r1");
    assert_eq!((report.references.state, report.restart), (ReferenceState::Resolved, vec![]));
    sidecar.client().works();
    assert_eq!(operator.hellos().len(), 1, "and nothing more was told");
}

#[test]
fn what_only_another_start_can_bring_is_named() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    let moved = sidecar.policy.clone().set("listen.port", 6_000).set("pool.size", 4);
    operator.tell(&[moved.told("r2")]);
    let report = operator.until_applied(&name, "r2");
    assert_eq!((report.restart, report.numbers.unwrap().size), (vec!["spec.listen.port".to_owned()], 4));
    sidecar.client().works();
}

#[test]
fn an_old_leader_is_not_listened_to() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    operator.lead(5);
    eventually("the new term", || sidecar.status()["operator"]["term"] == 5);
    operator.tell(&[sidecar.policy.clone().set("pool.size", 4).told("r2")]);
    operator.until_applied(&name, "r2");
    operator.lead(4);
    operator.tell(&[sidecar.policy.clone().set("pool.size", 9).told("r3")]);
    let error = || sidecar.status()["operator"]["error"].as_str().unwrap_or_default().to_owned();
    eventually("it is left", || error().contains("term 4 is over"));
    assert_eq!(sidecar.health()["size"], 4);
    sidecar.client().works();
    operator.lead(6);
    operator.until_applied(&name, "r3");
    assert_eq!(operator.hellos().pop().unwrap().term, 5);
}

#[test]
fn who_is_refused_tries_again() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    for refusal in [Refusal::NotLeader, Refusal::Unauthenticated, Refusal::UnknownPod] {
        let before = operator.hellos().len();
        operator.refuse(Some(refusal));
        eventually("it tries again and again", || operator.hellos().len() >= before + 2);
        let status = sidecar.status();
        assert_eq!(status["operator"]["connected"], false);
        sidecar.client().works();
    }
    operator.refuse(None);
    let reports = operator.reports().len();
    eventually("it is let in", || operator.reports().len() > reports);
    operator.until_applied(&name, "r1");
}
