//! Configurations come, are put to work, and what runs is reported.

use crate::support::{Postgres, eventually, fe};
use crate::{follow, followed, policy};
use poolkeeper::contract::{Band, HealthState, ReferenceState, ToOperator, Token};
use std::time::{Duration, Instant};

#[test]
fn a_configuration_is_put_to_work_and_reported() {
    let pg = Postgres::shared();
    let (policy, name) = policy(&pg);
    let (operator, sidecar) = follow(&policy.set("pool.size", 3));
    // Nothing yet: started, not ready, and whoever comes is told so.
    assert_eq!(sidecar.get("/startupz").0, 200);
    assert_eq!(sidecar.get("/readyz"), (503, "waiting for a policy: none is for this pod yet\n".into()));
    assert_eq!(sidecar.connect().open().err().unwrap().code, "57P03");
    operator.until("an empty report", |report| report.policies.is_empty() && !report.draining);

    operator.tell(&[sidecar.policy.told("r1")]);
    let report = operator.until_applied(&name, "r1");
    assert_eq!((report.uid, report.namespace.as_str()), (format!("uid of {name}"), "shop"));
    assert_eq!(report.references.state, ReferenceState::Resolved);
    assert_eq!((report.restart, report.rejected, report.orphaned), (vec![], None, false));
    assert_eq!(report.numbers.unwrap().limit, Some(13));
    sidecar.client().works();
    operator.until_policy(&name, "connected", |policy| policy.health.state == HealthState::Connected);
    assert_eq!(sidecar.get("/readyz"), (200, "ready\n".into()));
    let status = sidecar.status();
    assert_eq!((&status["operator"]["connected"], &status["operator"]["term"]), (&true.into(), &1.into()));
    assert_eq!((&status["pools"][0]["revision"], &status["pools"][0]["namespace"]), (&"r1".into(), &"shop".into()));
    assert_eq!(sidecar.metric("poolkeeper_operator_connected"), 1.0);

    // Another size: reported when the limit has changed, and at once.
    let told = Instant::now();
    operator.tell(&[sidecar.policy.clone().set("pool.size", 7).told("r02")]);
    let report = operator.until_applied(&name, "r02");
    let (applied, numbers) = (report.applied.unwrap(), report.numbers.unwrap());
    assert_eq!((applied.generation, numbers.size, numbers.limit), (3, 7, Some(17)));
    let (at, _) = operator.reports().pop().unwrap();
    assert!(at - told < Duration::from_secs(1), "{:?}", at - told);
}

#[test]
fn load_and_health_are_reported_when_their_class_changes() {
    let pg = Postgres::start(&crate::support::Options::default());
    let (policy, name) = policy(&pg);
    let health = serde_json::json!({ "interval": "1s", "timeout": "1s", "failureThreshold": 1 });
    let policy = policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("health", health);
    let (operator, sidecar) = follow(&policy);
    operator.tell(&[sidecar.policy.told("r1")]);
    operator.until_policy(&name, "it answers", |policy| policy.health.state == HealthState::Connected);
    let (mut first, mut second) = (sidecar.client(), sidecar.client());
    first.rows("BEGIN");
    second.send(&[fe::query("SELECT 1")]);
    let numbers = |report: &poolkeeper::contract::PolicyReport| report.numbers.clone().unwrap();
    let report = operator.until_policy(&name, "one waits", |policy| numbers(policy).waiting == 1);
    let found = numbers(&report);
    assert_eq!((found.in_use, found.limit, found.band()), (1, Some(1), Some(Band::Above)));
    first.rows("COMMIT");
    second.expect("T D C Z:I");
    operator.until_policy(&name, "nobody waits", |policy| {
        numbers(policy).waiting == 0 && numbers(policy).band() == Some(Band::Below)
    });
    drop((first, second));
    pg.kill();
    let report = operator.until_policy(&name, "it is down", |policy| policy.health.state == HealthState::NoBackend);
    assert!(!report.health.message.is_empty());
    pg.start_again();
    operator.until_policy(&name, "it is back", |policy| policy.health.state == HealthState::Connected);
}

#[test]
fn what_is_told_no_more_is_served_on_and_said() {
    let pg = Postgres::shared();
    let (operator, sidecar, name) = followed(&pg);
    let mut client = sidecar.client();
    operator.tell(&[]);
    let report = operator.until_policy(&name, "it is gone", |policy| policy.orphaned);
    assert_eq!(report.applied.unwrap().revision, "r1");
    client.works();
    sidecar.client().works();
    assert_eq!(sidecar.get("/readyz"), (200, format!("ready, but gone and served on: shop/{name}\n")));
    assert_eq!(sidecar.status()["pools"][0]["orphaned"], true);
    operator.tell(&[sidecar.policy.told("r1")]);
    operator.until_policy(&name, "it is back", |policy| !policy.orphaned);
    client.works();
}

#[test]
fn the_token_is_renewed_in_band() {
    let pg = Postgres::shared();
    let (operator, sidecar, _) = followed(&pg);
    std::fs::write(sidecar.dir().join(".token"), "the-second-token\n").unwrap();
    std::fs::rename(sidecar.dir().join(".token"), sidecar.dir().join("token")).unwrap();
    let renewed = ToOperator::Renew { token: Token::new("the-second-token") };
    eventually("the new token", || operator.heard().iter().any(|(_, message)| *message == renewed));
    assert_eq!(operator.hellos().len(), 1, "on the same connection");
    assert!(!sidecar.log().contains("second-token") && !sidecar.status().to_string().contains("second-token"));
}

#[test]
fn authorities_are_renewed_in_band() {
    let pg = Postgres::shared();
    let (mut operator, mut sidecar, name) = followed(&pg);
    let renewed = crate::support::certs::Certs::new();
    operator.tell_authorities(std::fs::read_to_string(renewed.path("ca.crt")).unwrap());
    let kept = || std::fs::read_to_string(sidecar.dir().join("state/configuration.json")).unwrap_or_default();
    eventually("they are kept", || kept().contains("BEGIN CERTIFICATE"));
    operator.kill();
    operator.set_certs(renewed);
    operator.start_again();
    let before = operator.reports().len();
    eventually("it trusts the new ones", || operator.reports().len() > before);
    // Another start knows them, too.
    operator.forget();
    sidecar.restart();
    operator.until_applied(&name, "r1");
}
