//! Poolkeeper keeps PostgreSQL connection pools right.
//!
//! One crate, a house of floors; an import may only point down:
//!
//! ```text
//!  4  main.rs  cli/                          parse, wire, run; no logic
//!  3  operator/*            sidecar/*        never import each other
//!  2  contract.rs                            what the two say to each other
//!  1  api/*   page.rs  telemetry.rs  tls.rs  shutdown.rs
//!  0  pool/*  pg/*                           import nothing of ours
//! ```
//!
//! `pool` is the engine and knows no database; `pg` is PostgreSQL on the wire; `api` is what users
//! write, resolved in one place into engine values; `sidecar` puts them to work; `operator` brings them to every pod
//! and says in each policy's status how many run them.

pub mod api;
pub mod cli;
pub mod contract;
pub mod operator;
pub mod page;
pub mod pg;
pub mod pool;
pub mod shutdown;
pub mod sidecar;
pub mod telemetry;
pub mod tls;
