//! What the fuzzers feed bytes to, and what must hold whatever they are. `tests/fuzz_corpus.rs` includes this file, so that
//! the checked-in corpora are replayed by `cargo test`, too; see `docs/fuzzing.md`.

pub mod client_stream;
pub mod policy_yaml;
mod postgres;
pub mod scram;
pub mod server_stream;
pub mod startup;
mod streams;
