//! On a real PostgreSQL: the modes, logging in on both sides, clients that vanish, servers in trouble,
//! limits that hold exactly, settings that change under load. Black box, as `tests/wire`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod ahead;
mod auth;
mod bounds;
mod catalog;
mod far;
mod limit;
mod modes;
mod names;
mod releases;
mod reload;
mod session;
mod timeouts;
mod tls;
mod trouble;
mod vanish;
