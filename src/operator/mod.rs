//! The operator: brings policies to pods, and says in each policy's status how many run them.

pub mod index;
pub mod inject;
pub mod selector;
pub mod webhook;
