//! The scenarios: quiet and noisy databases, a pool that is exhausted, a superuser.

use crate::run;
use crate::support::{Policy, Release, bed, sidecar};
use std::process::Command;
use std::sync::LazyLock;

/// One way to run the stress.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name in reports.
    pub name: &'static str,
    /// Clients at once.
    pub clients: usize,
    /// Servers of the pool.
    pub servers: u32,
    /// Whether the database has routines that touch the session.
    pub noisy: bool,
    /// Nothing is defined, nothing bound, and all clients start alike: servers live long, and go from client to client
    /// unscrubbed most of the time.
    pub calm: bool,
    /// With dblink and postgres_fdw.
    pub foreign: bool,
    /// Whether clients are superusers.
    pub superuser: bool,
    /// `timeouts.acquire`.
    pub acquire: &'static str,
    /// `listen.maxWaiting`.
    pub waiting: u32,
    /// What it runs on.
    pub release: Release,
    /// Operations left out.
    pub without: &'static [&'static str],
    /// Further changes of the policy.
    pub policy: fn(Policy) -> Policy,
}

const QUIET: Scenario = Scenario {
    name: "quiet",
    clients: 48,
    servers: 4,
    noisy: false,
    calm: false,
    foreign: false,
    superuser: false,
    acquire: "10s",
    waiting: 0,
    release: Release::System,
    without: &[],
    policy: |policy| policy,
};
/// A custom name on a server makes clients that read settings want another one.
const CUSTOM: &[&str] = &["SET of a custom name", "tenant", "tenant in one query", "local custom setting"];
const CALM: Scenario = Scenario { name: "calm", calm: true, without: CUSTOM, ..QUIET };
/// It sets and resets in two requests, and the second may be refused.
const EXHAUSTED_WITHOUT: &[&str] = &["read only"];
const EXHAUSTED: Scenario =
    Scenario { name: "exhausted", servers: 2, acquire: "50ms", waiting: 12, without: EXHAUSTED_WITHOUT, ..QUIET };
/// With it a server is closed at every change of client: `strict` has it, the others try the scrub.
const SOWN: &[&str] = &["hidden seed"];
const NOISY: Scenario = Scenario { name: "noisy", noisy: true, foreign: true, without: SOWN, ..QUIET };
/// On 13 a role that was granted by another session a moment ago is refused at times (42501).
const ON_13: &[&str] = &["hidden seed", "a role that is dropped"];
const SUPERUSER: Scenario = Scenario { name: "superuser", superuser: true, ..NOISY };
const STRICT: Scenario =
    Scenario { name: "strict", without: &[], policy: |policy| policy.set("pool.sessionState", "Strict"), ..NOISY };

/// Whether this build proves servers clean before another client gets them.
pub fn proves() -> bool {
    static PROVES: LazyLock<bool> = LazyLock::new(|| {
        let crd = Command::new(sidecar::binary()).arg("crd").output().unwrap().stdout;
        bed::is_direct() || String::from_utf8_lossy(&crd).contains("sessionState")
    });
    *PROVES
}

/// What a build does not keep that looks at nothing but texts: see `cases`.
const UNKEPT: &[&str] = &[
    "cached time",
    "cached date",
    "local zone, cached plan",
    "currval",
    "nextval and currval",
    "SET application_name",
    "RESET",
    "RESET ALL",
    "DISCARD ALL",
];

/// The scenario, as far as this build promises to keep it.
fn promised(scenario: Scenario) -> Scenario {
    Scenario { without: if proves() { scenario.without } else { UNKEPT }, ..scenario }
}

#[test]
fn quiet_databases_keep_clients_apart() {
    run::short(promised(QUIET));
}

#[test]
fn calm_databases_keep_clients_apart() {
    if proves() {
        run::short(CALM);
    }
}

#[test]
fn an_exhausted_pool_keeps_clients_apart() {
    run::short(promised(EXHAUSTED));
}

#[test]
fn noisy_databases_keep_clients_apart() {
    if proves() { run::short(NOISY) } else { run::must_leak(NOISY) }
}

#[test]
fn superusers_are_kept_apart() {
    if proves() { run::short(SUPERUSER) } else { run::must_leak(SUPERUSER) }
}

#[test]
fn strict_keeps_clients_apart() {
    if proves() {
        run::short(STRICT);
    }
}

#[test]
fn the_oldest_release_keeps_clients_apart() {
    if proves() {
        run::short(Scenario { name: "noisy on 13", release: Release::Thirteen, without: ON_13, ..NOISY });
    }
}

#[test]
fn the_newest_release_keeps_clients_apart() {
    if proves() {
        run::short(Scenario { name: "quiet on 18", release: Release::Eighteen, ..QUIET });
    }
}

/// All of it for long: `make soak`.
#[test]
#[ignore = "minutes; make soak"]
fn soak() {
    let all = [QUIET, CALM, NOISY, EXHAUSTED, STRICT, SUPERUSER];
    let kept = all.iter().filter(|scenario| proves() || ["quiet", "exhausted"].contains(&scenario.name));
    run::soak(&kept.copied().map(promised).collect::<Vec<_>>());
}

/// One scenario by its name (`ISOLATION_SCENARIO`), for narrowing down and for the mutation check: fails as soon as
/// anything is found.
#[test]
#[ignore = "for scripts/isolation-mutations and for narrowing down"]
fn one() {
    let name = std::env::var("ISOLATION_SCENARIO").unwrap_or_else(|_| "noisy".into());
    let all = [QUIET, CALM, EXHAUSTED, NOISY, SUPERUSER, STRICT];
    run::short(*all.iter().find(|scenario| scenario.name == name).expect("ISOLATION_SCENARIO"));
}
