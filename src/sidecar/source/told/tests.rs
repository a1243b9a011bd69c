#![allow(clippy::unwrap_used)]
use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::contract::{Configuration, ReferenceState};
use crate::sidecar::source::environment::Environment;
use crate::sidecar::source::{Fault, Files, Source, State, lock};

/// A directory with the Secret `db`, and a source that reads it and is told the rest.
struct Bed {
    dir: tempfile::TempDir,
    source: Source,
}

fn secret(dir: &Path, name: &str) {
    let secret = dir.join(name);
    fs::create_dir_all(&secret).unwrap();
    fs::write(secret.join("username"), "app").unwrap();
    fs::write(secret.join("password"), "one").unwrap();
}

fn policy(name: &str, revision: &str, size: u32) -> Policy {
    Policy {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("{name}-1"),
        generation: 4,
        revision: revision.into(),
        spec: Some(json!({
            "database": { "host": "h", "name": name, "credentials": { "secretName": "db" }, "tls": { "mode": "Disable" } },
            "pool": { "size": size },
        })),
    }
}

fn with_secret(mut policy: Policy, secret: &str) -> Policy {
    policy.spec.as_mut().unwrap()["database"]["credentials"]["secretName"] = secret.into();
    policy
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pk-told-").tempdir().unwrap();
        secret(dir.path(), "db");
        let secrets = Some(dir.path().to_owned());
        let source = Source::told(Place::default(), secrets, Environment::default(), Files::Unwatched).unwrap();
        Self { dir, source }
    }

    fn tell(&self, policies: &[Policy]) -> State {
        self.source.teller().tell(Configuration { term: 1, policies: policies.to_vec() });
        self.state()
    }

    fn state(&self) -> State {
        self.source.subscribe().borrow().clone()
    }
}

/// Name, size, and whether it is orphaned.
fn running(state: &State) -> Vec<(String, u32, bool)> {
    let policies = state.snapshot.policies.iter();
    policies
        .map(|policy| (policy.resolved.name.clone(), policy.resolved.pool.settings().size, policy.orphaned))
        .collect()
}

fn runs(name: &str, size: u32) -> (String, u32, bool) {
    (name.into(), size, false)
}

/// Of which policy, at which path, of which kind.
fn findings(state: &State) -> Vec<(String, String, Fault)> {
    let findings = state.rejection.iter().flat_map(|rejection| &rejection.findings);
    findings.map(|f| (f.file.clone(), f.problem.path.clone(), f.fault)).collect()
}

#[test]
fn before_anything_is_told_nothing_is_served_at_the_usual_place() {
    let state = Bed::new().state();
    assert_eq!((running(&state), state.accepted, state.told), (vec![], 0, None));
    let listen = &state.snapshot.listen;
    assert_eq!((listen.address.to_string(), listen.port), ("127.0.0.1".into(), 6432));
    let place = Place { address: Some("127.0.0.2:7".parse().unwrap()), socket: Some("/s".into()) };
    let listen = empty(&place).unwrap().listen;
    assert_eq!((listen.address.to_string(), listen.port, listen.socket), ("127.0.0.2".into(), 7, Some("/s".into())));
    let nowhere = Place { address: None, socket: Some("not absolute".into()) };
    assert_eq!(empty(&nowhere).unwrap_err()[0].problem.path, "spec.listen.socket");
}

#[test]
fn what_is_told_is_resolved_as_a_file_is_but_keeps_the_operators_revision() {
    let bed = Bed::new();
    let state = bed.tell(&[policy("b", "r1", 5), policy("a", "r2", 6)]);
    assert_eq!(running(&state), [runs("a", 6), runs("b", 5)]);
    let resolved = &state.snapshot.policies[1].resolved;
    assert_eq!((resolved.revision.as_str(), resolved.generation, resolved.namespace.as_str()), ("r1", Some(4), "shop"));
    assert_eq!((state.accepted, state.rejection.is_none(), state.told.is_some()), (1, true, true));
    // The same again changes nothing.
    assert_eq!(bed.tell(&[policy("b", "r1", 5), policy("a", "r2", 6)]).accepted, 1);
    let state = bed.tell(&[policy("b", "r3", 5), policy("a", "r2", 6)]);
    assert_eq!((state.accepted, state.snapshot.policies[1].resolved.revision.as_str()), (2, "r3"));
}

#[test]
fn all_or_nothing_and_every_problem_is_told() {
    let bed = Bed::new();
    bed.tell(&[policy("a", "r1", 1)]);
    let wrong = policy("b", "r1", 1_000_000);
    let mut worse = policy("c", "r1", 1);
    worse.spec.as_mut().unwrap()["pool"]["sise"] = 1.into();
    let state = bed.tell(&[policy("a", "r2", 2), wrong, worse, with_secret(policy("d", "r1", 1), "none")]);
    assert_eq!((running(&state), state.rejected), (vec![runs("a", 1)], 1));
    let missing = Fault::Reference { state: ReferenceState::SecretNotFound, mounted: false };
    let credentials = "spec.database.credentials.secretName";
    assert_eq!(
        findings(&state),
        [
            ("operator: shop/b".into(), "spec.pool.size".into(), Fault::Policy),
            ("operator: shop/c".into(), "spec.pool.sise".into(), Fault::Policy),
            ("operator: shop/d".into(), credentials.into(), missing),
            ("operator: shop/d".into(), credentials.into(), missing),
        ]
    );
    let state = bed.tell(&[policy("a", "r2", 2)]);
    assert_eq!((running(&state), findings(&state)), (vec![runs("a", 2)], vec![]));
}

#[test]
fn without_a_spec_what_runs_stays() {
    let bed = Bed::new();
    bed.tell(&[policy("a", "r1", 1), policy("b", "r1", 2)]);
    let keep = |name: &str| Policy { spec: None, revision: "r9".into(), ..policy(name, "", 0) };
    // Not even a listener that differs from the others' is a reason to refuse.
    let mut other = policy("b", "r2", 3);
    other.spec.as_mut().unwrap()["listen"] = json!({ "maxClients": 77 });
    let state = bed.tell(&[keep("a"), other, keep("unknown")]);
    assert_eq!((running(&state), findings(&state)), (vec![runs("a", 1), runs("b", 3)], vec![]));
    assert_eq!((state.snapshot.listen.max_clients, &*state.snapshot.policies[0].resolved.revision), (77, "r1"));
    // Of another policy of the same name nothing runs yet: what does is an orphan.
    let state = bed.tell(&[Policy { uid: "another".into(), ..keep("a") }, policy("b", "r2", 3)]);
    assert_eq!(running(&state), [("a".into(), 1, true), runs("b", 3)]);
    // A name that is kept is taken.
    let state = bed.tell(&[keep("b")]);
    assert_eq!(running(&state), [("a".into(), 1, true), runs("b", 3)]);
    let mut thief = policy("z", "r1", 1);
    thief.spec.as_mut().unwrap()["database"]["alias"] = "b".into();
    let state = bed.tell(&[keep("b"), thief]);
    assert_eq!(findings(&state), [("operator: shop/z".into(), "spec.database.alias".into(), Fault::Policy)]);
}

#[test]
fn what_is_told_no_more_is_served_on() {
    let bed = Bed::new();
    bed.tell(&[policy("a", "r1", 1), policy("b", "r1", 2)]);
    let state = bed.tell(&[]);
    assert_eq!(running(&state), [("a".into(), 1, true), ("b".into(), 2, true)]);
    let state = bed.tell(&[policy("a", "r1", 1)]);
    assert_eq!(running(&state), [runs("a", 1), ("b".into(), 2, true)]);
}

#[test]
fn a_reading_that_was_overtaken_is_dropped() {
    let bed = Bed::new();
    bed.tell(&[policy("a", "r1", 1)]);
    let now = Instant::now();
    let stale = lock(&bed.source.loader).read(now);
    bed.tell(&[policy("a", "r2", 2)]);
    assert!(!lock(&bed.source.loader).apply(stale, now));
    assert_eq!(running(&bed.state()), [runs("a", 2)]);
}

#[test]
fn missing_secrets_are_told_apart_and_awaited() {
    let bed = Bed::new();
    let told = with_secret(policy("a", "r1", 1), "new");
    let kind = |state: &State| findings(state)[0].2;
    assert_eq!(
        kind(&bed.tell(std::slice::from_ref(&told))),
        Fault::Reference { state: ReferenceState::SecretNotFound, mounted: false }
    );
    let again = || {
        bed.source.reload();
        bed.state()
    };
    let dir = bed.dir.path().join("new");
    // As the kubelet mounts an optional Secret that is not there.
    fs::create_dir_all(dir.join("..2026")).unwrap();
    assert_eq!(kind(&again()), Fault::Reference { state: ReferenceState::SecretNotFound, mounted: true });
    fs::write(dir.join("username"), "app").unwrap();
    assert_eq!(kind(&again()), Fault::Reference { state: ReferenceState::SecretKeyMissing, mounted: true });
    fs::write(dir.join("password"), "").unwrap();
    assert_eq!(kind(&again()), Fault::Reference { state: ReferenceState::SecretKeyMissing, mounted: true });
    secret(bed.dir.path(), "new");
    assert_eq!(running(&again()), [runs("a", 1)]);

    let mut told = told;
    told.spec.as_mut().unwrap()["database"]["tls"] = json!({ "mode": "VerifyFull", "caSecretName": "ca" });
    fs::create_dir(bed.dir.path().join("ca")).unwrap();
    fs::write(bed.dir.path().join("ca/ca.crt"), "no certificate").unwrap();
    let state = bed.tell(&[told]);
    assert_eq!(kind(&state), Fault::Reference { state: ReferenceState::InvalidCaCertificateRef, mounted: true });
    assert_eq!(running(&state), [runs("a", 1)]);
}
