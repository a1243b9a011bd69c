//! Injection: what becomes of pods of many shapes, what holds for any pod, and the webhook over real TLS.

#![allow(clippy::unwrap_used, clippy::panic)]

mod golden;
mod properties;
mod pss;
mod world;
