//! The chart: what it renders, which values it takes, and a life of it on a real API server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod golden;
mod helm;
mod life;
mod manifests;
mod values;
