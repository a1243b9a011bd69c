//! Whose state a server session carries.

pub mod catalog;
pub mod prepared;
pub mod scan;
