//! Whose state a server session carries.

pub mod prepared;
pub mod scan;
