//! PostgreSQL on the wire (<https://www.postgresql.org/docs/current/protocol.html>).
//!
//! Everything here works on bytes and knows no socket, but `connect`, which logs in to a server.

pub mod auth;
pub mod cancel;
pub mod connect;
pub mod error;
pub mod exchange;
pub mod frame;
pub mod message;
pub mod session;
pub mod startup;
pub mod stream;
