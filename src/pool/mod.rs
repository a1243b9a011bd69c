//! The pool engine.

pub mod config;
pub use config::{Config, ConfigError, Order, Settings};
