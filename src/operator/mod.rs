//! The operator: brings policies to pods, and says in each policy's status how many run them.

pub mod apply;
pub mod auth;
pub mod certs;
pub mod election;
pub mod facts;
pub mod index;
pub mod metrics;
pub mod pod;
pub mod queue;
pub mod reconcile;
pub mod reports;
pub mod selector;
pub mod state;
pub mod status;
pub mod stream;
pub mod watch;
