//! The operator away: clients notice nothing, and a sidecar that starts has what it needs.

use crate::support::{Launch, Load, Operator, Postgres, Sidecar, eventually};
use crate::{followed, policy};
use poolkeeper::contract::Configuration;
use std::sync::Arc;

#[test]
fn an_operator_that_dies_and_comes_back_changes_nothing_for_clients() {
    let pg = Postgres::shared();
    let (mut operator, sidecar, name) = followed(&pg);
    let client = &mut pg.connect(&name).open().unwrap();
    client.rows(Load::TABLE);
    let load = Load::start(&sidecar.connect(), 8);
    load.advance(50);
    for round in 1..=3 {
        operator.kill();
        eventually("it is missed", || sidecar.status()["operator"]["connected"] == false);
        load.advance(50);
        operator.start_again();
        let revision = "r".repeat(round);
        operator.tell(&[sidecar.policy.clone().set("pool.size", round + 4).told(&revision)]);
        operator.until_applied(&name, &revision);
        load.advance(50);
    }
    load.stop_without_errors();
    assert_eq!(sidecar.health()["size"], 7);
    assert_eq!(sidecar.metric("poolkeeper_operator_connections_total"), 4.0);
}

#[test]
fn the_last_good_configuration_survives_the_process() {
    let pg = Postgres::shared();
    let (mut operator, mut sidecar, name) = followed(&pg);
    operator.tell(&[sidecar.policy.clone().set("pool.size", 4).told("r2")]);
    operator.until_applied(&name, "r2");
    operator.tell(&[sidecar.policy.clone().set("pool.size", -1).told("r3")]);
    operator.until_policy(&name, "refused", |policy| policy.rejected.is_some());
    let kept = || std::fs::read_to_string(sidecar.dir().join("state/configuration.json")).unwrap_or_default();
    eventually("it is kept", || kept().contains("\"r2\""));
    assert!(!kept().contains(crate::support::pg::PASSWORD));
    operator.kill();
    let first = operator.hellos().remove(0);
    operator.forget();
    sidecar.restart();
    assert_eq!(sidecar.health()["size"], 4);
    sidecar.client().works();
    let status = sidecar.status();
    assert_eq!((&status["ready"], &status["operator"]["connected"]), (&true.into(), &false.into()));
    operator.start_again();
    operator.until_policy(&name, "the bad one again", |policy| policy.rejected.is_some());
    let second = operator.hellos().remove(0);
    assert_eq!(second.term, 1);
    assert_ne!(first.boot, second.boot);
}

#[test]
fn a_broken_state_is_passed_over() {
    let pg = Postgres::shared();
    let (operator, mut sidecar, name) = followed(&pg);
    let file = sidecar.dir().join("state/configuration.json");
    eventually("it is kept", || file.exists());
    sidecar.signal("KILL");
    sidecar.wait();
    std::fs::write(&file, "{").unwrap();
    operator.forget();
    sidecar.start_again();
    assert!(sidecar.log().contains("not used: it can't be read"));
    operator.until_applied(&name, "r1");
    sidecar.client().works();
}

/// A sidecar whose pod was made with this configuration, and no operator.
fn stamped(change: impl FnOnce(&Launch) -> Configuration) -> (Arc<Postgres>, Operator, Sidecar, String) {
    let pg = Postgres::shared();
    let (policy, name) = policy(&pg);
    let mut operator = Operator::start();
    operator.kill();
    let launch = Launch::new(&policy).operator(&operator);
    let file = launch.dir().join("stamped");
    std::fs::write(&file, serde_json::to_vec(&change(&launch)).unwrap()).unwrap();
    let sidecar = launch.arg("--stamped").arg(file.to_str().unwrap()).start();
    (pg, operator, sidecar, name)
}

#[test]
fn a_pod_starts_with_what_it_was_made_with() {
    let told = |launch: &Launch| Configuration { term: 3, policies: vec![launch.policy().told("s1")] };
    let (_pg, mut operator, sidecar, name) = stamped(told);
    sidecar.client().works();
    assert_eq!(sidecar.get("/readyz").0, 200);
    operator.lead(4);
    operator.tell(&[sidecar.policy.clone().set("pool.size", 3).told("r1")]);
    operator.start_again();
    operator.until_applied(&name, "r1");
    let first = operator.reports().into_iter().next().unwrap().1;
    assert_eq!(first.policies[0].applied.as_ref().unwrap().revision, "s1", "it says what it runs before it is told");
    assert_eq!(operator.hellos()[0].term, 3);
}

/// A policy must not keep the sidecar from hearing of a better one.
#[test]
fn where_the_policy_wants_to_listen_somebody_else_does() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let told = |launch: &Launch, port: u16| launch.policy().clone().set("listen.port", port).told("s1");
    let stamp = |launch: &Launch| Configuration { term: 1, policies: vec![told(launch, port)] };
    let (_pg, mut operator, sidecar, name) = stamped(stamp);
    sidecar.client().works();
    operator.start_again();
    assert_eq!(operator.until_applied(&name, "s1").restart, ["spec.listen.port"]);
    operator.tell(&[sidecar.policy.told("r1")]);
    assert_eq!(operator.until_applied(&name, "r1").restart, Vec::<String>::new());
}

#[test]
fn a_pod_that_was_made_with_nonsense_waits() {
    let (_pg, mut operator, sidecar, name) = stamped(|launch| Configuration {
        term: 1,
        policies: vec![launch.policy().clone().set("pool.size", "many").told("s1")],
    });
    let (code, reason) = sidecar.get("/readyz");
    assert!(code == 503 && reason.starts_with("waiting for a policy: spec.pool.size: "), "{reason}");
    operator.start_again();
    operator.until_policy(&name, "it is refused", |policy| policy.rejected.is_some());
    operator.tell(&[sidecar.policy.told("r1")]);
    operator.until_applied(&name, "r1");
    sidecar.client().works();
}
