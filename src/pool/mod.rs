//! The pool: who gets which server connection, when one is opened and when one is closed.
//!
//! - [`config`]  checked settings; no invalid one exists.
//! - [`engine`]  the decisions: `(event, now) -> effects`, no I/O, no clock, no randomness of its own.
//! - [`reason`]  why a connection was closed or a request refused: one list for logs, metrics and tests.
//! - [`stats`]   a snapshot, with SQLAlchemy's counters and the physical ones.
//! - [`backend`] what a database must be able to do.
//! - [`handle`]  [`Pool`]: holds the engine behind one lock and carries out its effects.
//! - [`state`]   what lies behind that lock.
//! - [`checkout`] the values whose drop gives back: a request that waits, a connection that is lent.
//! - [`tasks`]   the work done beside the clients: connecting, pinging, closing.
//!
//! The behaviour is that of SQLAlchemy's `QueuePool` (2.1.9), whose words are used throughout: a *record*
//! is a slot of the pool, with a live connection or without; `size` records are kept, `max_overflow`
//! more are allowed while needed. Where this pool differs on purpose is listed in `tests/oracle/main.rs`.

pub mod backend;
pub mod checkout;
pub mod config;
pub mod engine;
pub mod handle;
pub mod reason;
#[cfg(test)]
mod sim;
mod state;
pub mod stats;
mod tasks;

pub use backend::{Backend, CloseOutcome, PingError};
pub use checkout::{Checkout, CheckoutError, Ending, Lease};
pub use config::{Config, ConfigError, Order, Settings};
pub use engine::Replace;
pub use handle::Pool;
pub use reason::CloseReason;
pub use stats::Stats;
