//! What the fuzzers found worth keeping, replayed without a fuzzer (docs/fuzzing.md).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// Each file of a corpus, its name told if it fails.
fn replay(corpus: &str, target: fn(&[u8])) {
    let mut files: Vec<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        eprintln!("{}", file.display());
        target(&fs::read(&file).unwrap());
    }
}

#[test]
fn startup() {
    replay("startup", targets::startup::run);
}

#[test]
fn scram() {
    replay("scram", targets::scram::run);
}

#[test]
fn policy_yaml() {
    replay("policy_yaml", targets::policy_yaml::run);
}

#[test]
fn client_stream() {
    replay("client_stream", targets::client_stream::run);
}

#[test]
fn server_stream() {
    replay("server_stream", targets::server_stream::run);
}
