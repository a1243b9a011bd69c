//! The end in a pod: it has two seconds.

use crate::followed;
use crate::support::{Postgres, eventually, fe};
use std::time::{Duration, Instant};

/// Two seconds, and what a loaded machine may take to notice.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn without_clients_it_ends_at_once() {
    let pg = Postgres::shared();
    let (operator, mut sidecar, name) = followed(&pg);
    let mut clients: Vec<_> = (0..3).map(|_| sidecar.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
    drop(clients);
    eventually("the clients are gone", || sidecar.status()["clients"].as_array().unwrap().is_empty());
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert!(sidecar.wait().success());
    assert!(asked.elapsed() < SOON / 2, "{:?}", asked.elapsed());
    eventually("no server is left", || pg.backends(&name).is_empty());
    let log = sidecar.log();
    assert!(log.contains("ended") && !log.contains("not every server"), "{log}");
    assert!(operator.reports().len() >= 2);
}

#[test]
fn clients_are_served_for_a_moment_then_cancelled_then_told_to_go() {
    let pg = Postgres::shared();
    let (operator, mut sidecar, name) = followed(&pg);
    let (mut idle, mut busy, mut lazy) = (sidecar.client(), sidecar.client(), sidecar.client());
    idle.works();
    lazy.rows("BEGIN");
    busy.send(&[fe::query("SELECT pg_sleep(60)")]);
    eventually("it sleeps", || sidecar.health()["checked_out"] == 2);
    let asked = Instant::now();
    sidecar.signal("TERM");
    let report = operator.until("it ends", |report| report.draining);
    assert_eq!(report.policies[0].health.state, poolkeeper::contract::HealthState::Draining);
    // Clients that are there and new ones are served, if the machine is quick enough to ask within a second.
    if asked.elapsed() < Duration::from_millis(300) {
        idle.works();
        sidecar.client().works();
    }
    busy.expect("T E:57014 Z:I");
    idle.expect_end(Some("57P01"));
    lazy.expect_end(Some("57P01"));
    assert!(sidecar.wait().success());
    assert!((CANCEL..SOON).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    eventually("no server is left", || pg.backends(&name).is_empty());
}

/// What runs may run on for so long.
const CANCEL: Duration = Duration::from_secs(1);

#[test]
fn a_server_that_hangs_keeps_nobody() {
    let pg = Postgres::start(&crate::support::Options::default());
    let (_operator, mut sidecar, _) = followed(&pg);
    let mut client = sidecar.client();
    client.rows("BEGIN");
    pg.signal_all("STOP");
    client.send(&[fe::query("SELECT 1")]);
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert!(sidecar.wait().success());
    assert!(asked.elapsed() < SOON, "{:?}", asked.elapsed());
}
