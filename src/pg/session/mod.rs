//! Whose state a server session carries.

pub mod catalog;
pub mod label;
pub mod mine;
pub mod ours;
pub mod prepared;
pub mod proof;
pub mod rule;
pub mod scan;
pub mod server;
pub mod touched;
