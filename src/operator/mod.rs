//! The operator: brings policies to pods, and says in each policy's status how many run them.
//!
//! Pure: [`index`], [`selector`], [`reports`], [`facts`], [`status`], [`pod`]. The rest executes what they decide.

pub mod admission;
pub mod apply;
pub mod auth;
pub mod certs;
pub mod election;
pub mod facts;
pub mod http;
pub mod index;
pub mod inject;
pub mod keeper;
pub mod leader;
pub mod metrics;
pub mod options;
pub mod overview;
pub mod page;
pub mod pod;
pub mod queue;
pub mod reconcile;
pub mod reports;
pub mod rotation;
mod run;
pub mod selector;
pub mod state;
pub mod status;
pub mod stream;
pub mod watch;
pub mod webhook;

pub use run::{RunError, run};
