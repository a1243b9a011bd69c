//! The cases of wire-cases.md (docs/wire-cases.md maps each number to its test): what other poolers
//! got wrong, black box, against a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod cancel;
mod copy;
mod duplex;
mod ending;
mod harness;
mod keys;
mod pipeline;
mod pool;
mod prepared;
mod security;
mod session;
mod startup;
