//! A sidecar that follows an operator: the real process, a real PostgreSQL, and a small operator that speaks the
//! contract over TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod follow;
