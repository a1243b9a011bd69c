//! A sidecar that follows an operator: the real process, a real PostgreSQL, and a small operator that speaks the
//! contract over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod away;
mod end;
mod follow;
mod many;
mod refuse;

use support::{Launch, Operator, Policy, Postgres, Sidecar};

/// An operator, and a sidecar that follows it but was told nothing yet.
fn follow(policy: &Policy) -> (Operator, Sidecar) {
    let operator = Operator::start();
    let sidecar = Launch::new(policy).operator(&operator).start();
    (operator, sidecar)
}

/// A policy for a database of its own, named as the database is.
fn policy(pg: &Postgres) -> (Policy, String) {
    let database = pg.create_database();
    (Policy::new(pg.port, &database), database)
}

/// The same, and its first revision, `r1`, runs.
fn followed(pg: &Postgres) -> (Operator, Sidecar, String) {
    let (policy, name) = policy(pg);
    let (operator, sidecar) = follow(&policy);
    operator.tell(&[sidecar.policy.told("r1")]);
    operator.until_applied(&name, "r1");
    (operator, sidecar, name)
}
