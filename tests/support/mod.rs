//! What the black-box tests stand on: a real PostgreSQL, the sidecar as a process, a client and a
//! server that speak raw protocol bytes.
//!
//! Use it from a test binary with `#[path = "../support/mod.rs"] mod support;` and start at
//! [`Bed`]: a database of its own and, unless `POOLKEEPER_TESTS_DIRECT=1` is set, a sidecar before it.
//! With that variable the same cases run on PostgreSQL itself, which shows that the tests ask for
//! what PostgreSQL does and not for what the pooler happens to do.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod apiserver;
pub mod bed;
pub mod certs;
pub mod conditions;
pub mod connect;
pub mod fe;
pub mod hostile;
pub mod load;
pub mod login;
pub mod message;
pub mod operator;
pub mod papers;
pub mod pg;
pub mod policy;
pub mod process;
pub mod sidecar;
pub mod socket;
pub mod webhook;
pub mod wire;

pub use apiserver::ApiServer;
pub use bed::Bed;
pub use load::Load;
pub use operator::Operator;
pub use pg::{Options, Postgres, Release};
pub use policy::Policy;
pub use sidecar::{Launch, Sidecar};
pub use wire::{Client, Connect};

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen: far longer than it takes, so that a loaded
/// machine fails no test, and short enough that a hang is reported.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Calls `done` every few milliseconds until it says yes; panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Calls `held` for the whole of `time`; panics with `what` as soon as it says no.
#[track_caller]
pub fn always(what: &str, time: Duration, mut held: impl FnMut() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert!(held(), "did not hold: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
