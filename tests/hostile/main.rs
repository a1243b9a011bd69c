//! Servers that lie: answers late, twice, out of order, cut, too long, of the wrong kind, without an SQLSTATE, at login
//! and later. Whatever the client that asked sees, the next one gets its own answers and nothing else, and the sidecar
//! goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod garbage;
mod honest;
mod lies;
mod logins;
mod preface;
mod victim;
