//! What is proven on a real API server: the CRD, and the test cluster itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod bad_objects;
mod cluster;
mod columns;
mod differential;
mod inject;
mod policies;
