//! Injection: what becomes of pods of many shapes, what holds for any pod, and the webhooks over real TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod docs;
mod golden;
mod properties;
mod pss;
mod reviews;
mod start;
mod world;
