//! Puts the commit into the binary, for `poolkeeper --version`.
use std::path::Path;
use std::process::Command;

/// What git prints; `None` without git or a repository.
fn git(arguments: &[&str]) -> Option<String> {
    let out = Command::new("git").args(arguments).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-env-changed=POOLKEEPER_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let commit = std::env::var("POOLKEEPER_COMMIT").ok().or_else(|| {
        // In a worktree it is not .git/HEAD; a file that is not there would make cargo build all of it each time.
        let head = git(&["rev-parse", "--git-path", "HEAD"]).filter(|head| Path::new(head).exists());
        if let Some(head) = head {
            println!("cargo:rerun-if-changed={head}");
        }
        git(&["rev-parse", "--short=12", "HEAD"])
    });
    println!("cargo:rustc-env=POOLKEEPER_COMMIT={}", commit.unwrap_or_else(|| "unknown".into()));
}
