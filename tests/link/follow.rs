//! Configurations come, are put to work whole or not at all, and what runs is reported.

use crate::support::{Launch, Operator, Policy, Postgres, Sidecar};
use poolkeeper::contract::{HealthState, ReferenceState};
use std::time::{Duration, Instant};

/// An operator, and a sidecar that follows it but was told nothing yet.
fn follow(policy: &Policy) -> (Operator, Sidecar) {
    let operator = Operator::start();
    let sidecar = Launch::new(policy).operator(&operator).start();
    (operator, sidecar)
}

#[test]
fn a_configuration_is_put_to_work_and_reported() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let (operator, sidecar) = follow(&Policy::new(pg.port, &database).set("pool.size", 3));
    // Nothing yet: started, not ready, and whoever comes is told so.
    assert_eq!(sidecar.get("/startupz").0, 200);
    let waiting = "waiting for a policy: none is for this pod yet\n";
    assert_eq!(sidecar.get("/readyz"), (503, waiting.into()));
    assert_eq!(sidecar.connect().open().err().unwrap().code, "57P03");
    operator.until("an empty report", |report| report.policies.is_empty() && !report.draining);

    operator.tell(&[sidecar.policy.told("r1")]);
    let report = operator.until_applied(&database, "r1");
    assert_eq!((report.uid, report.namespace.as_str()), (format!("uid of {database}"), "shop"));
    assert_eq!(report.references.state, ReferenceState::Resolved);
    assert_eq!((report.restart, report.rejected, report.orphaned), (vec![], None, false));
    assert_eq!(report.numbers.unwrap().limit, Some(13));
    sidecar.client().works();
    operator.until_policy(&database, "connected", |policy| policy.health.state == HealthState::Connected);
    assert_eq!(sidecar.get("/readyz"), (200, "ready\n".into()));
    let status = sidecar.status();
    assert_eq!((&status["operator"]["connected"], &status["operator"]["term"]), (&true.into(), &1.into()));
    assert_eq!((&status["pools"][0]["revision"], &status["pools"][0]["namespace"]), (&"r1".into(), &"shop".into()));

    // Another size: reported when the limit has changed, and at once.
    let told = Instant::now();
    operator.tell(&[sidecar.policy.clone().set("pool.size", 7).told("r02")]);
    let report = operator.until_applied(&database, "r02");
    let (applied, numbers) = (report.applied.unwrap(), report.numbers.unwrap());
    assert_eq!((applied.generation, numbers.size, numbers.limit), (3, 7, Some(17)));
    let (at, _) = operator.reports().pop().unwrap();
    assert!(at - told < Duration::from_secs(1), "{:?}", at - told);
}
