//! The sidecar: a PostgreSQL pooler beside the app.

pub mod agent;
pub mod backend;
pub mod catalog;
pub mod clients;
pub mod connect_errors;
pub mod core;
pub mod database;
pub mod drain;
pub mod front;
pub mod gather;
pub mod http;
pub mod link;
pub mod listen;
pub mod metrics;
pub mod options;
pub mod probe;
pub mod proxy;
pub mod refused;
mod run;
pub mod settings;
pub mod source;
pub mod stats;
pub mod status;

pub use run::{RunError, run};
