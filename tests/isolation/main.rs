//! Isolation: many clients on few servers do everything that leaves state in a session, at random, every value tagged
//! by its client, and each holds what it sees against a model of its own session. Nothing of anybody else may ever
//! show; nothing of its own may be lost.
//!
//! Black box: a sidecar process in transaction mode before a real PostgreSQL. With `POOLKEEPER_TESTS_DIRECT=1` the
//! same clients talk to PostgreSQL itself, which shows that the model asks for what PostgreSQL does.
//!
//! `ISOLATION_POSTGRES` (13 or 18: that release, not the system's), `ISOLATION_TRACES` (0 or 1: whether '' in place of NULL fails a run),
//! `ISOLATION_SECONDS` (each scenario, default 6), `ISOLATION_OPERATIONS` (each scenario ends after so many; the soak:
//! all of them together, default 500 000), `ISOLATION_SEED` (default: another every time, printed), `ISOLATION_CLIENTS`
//! and `ISOLATION_VIOLATIONS` (distinct ones after which a scenario ends, default 12) change a run; `ISOLATION_ONLY`
//! and `ISOLATION_WITHOUT` keep or leave out the operations whose names contain one of the given words (separated by
//! commas), to narrow a failure down.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod cases;
mod dice;
mod judge;
mod marks;
mod model;
mod operations;
mod probe;
mod run;
mod scenarios;
mod session;
