//! The operator as a process against a real API server: status, streams, identity, faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod fleet;
mod gitops;
mod repair;
mod rotation;
mod sidecar;
mod status;
mod streams;
mod talker;
mod whole;
mod world;
