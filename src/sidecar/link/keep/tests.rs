#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::sidecar::source::environment::Environment;
use crate::sidecar::source::told::Place;
use crate::sidecar::source::{Files, Source};

/// A directory with a Secret and a place for the state.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("pk-keep-").tempdir().unwrap();
    fs::create_dir_all(dir.path().join("secrets/db")).unwrap();
    fs::write(dir.path().join("secrets/db/username"), "app").unwrap();
    fs::write(dir.path().join("secrets/db/password"), "hunter2-hunter2").unwrap();
    dir
}

fn source(dir: &Path) -> Source {
    let secrets = Some(dir.join("secrets"));
    Source::told(Place::default(), secrets, Environment::default(), Files::Unwatched).unwrap()
}

fn policy(name: &str, revision: &str) -> Policy {
    let credentials = json!({ "secretName": "db" });
    let database = json!({ "host": "h", "name": name, "credentials": credentials, "tls": { "mode": "Disable" } });
    Policy {
        namespace: "shop".into(),
        name: name.into(),
        uid: "u".into(),
        generation: 2,
        revision: revision.into(),
        spec: Some(json!({ "database": database })),
    }
}

fn told(policies: Vec<Policy>) -> Configuration {
    Configuration { term: 5, policies }
}

/// Name, revision, and whether it is an orphan.
fn running(source: &Source) -> Vec<(String, String, bool)> {
    let state = source.subscribe().borrow().clone();
    let policies = state.snapshot.policies.iter();
    policies.map(|p| (p.resolved.name.clone(), p.resolved.revision.clone(), p.orphaned)).collect()
}

fn runs(name: &str, revision: &str, orphaned: bool) -> (String, String, bool) {
    (name.into(), revision.into(), orphaned)
}

/// Writes what is to be kept, as [`run`] does.
fn keep(source: &Source, dir: &Path, memory: &Memory) {
    write(&dir.join("state"), &Kept::new(&source.subscribe().borrow(), memory)).unwrap();
}

fn restored(dir: &Path, stamped: Option<&Path>) -> (Source, Memory) {
    let source = source(dir);
    let memory = restore(Some(&dir.join("state")), stamped, &source.teller());
    (source, memory)
}

#[test]
fn the_last_good_configuration_comes_back_with_orphans_and_what_was_kept() {
    let dir = folder();
    let first = source(dir.path());
    first.teller().tell(told(vec![policy("a", "r1"), policy("b", "r1"), policy("c", "r1")]));
    // b stays as it is, c is gone, and the next is refused.
    let stays = Policy { spec: None, revision: "r2".into(), ..policy("b", "") };
    first.teller().tell(told(vec![policy("a", "r2"), stays]));
    let wrong = Policy { spec: Some(json!({})), ..policy("a", "r3") };
    first.teller().tell(told(vec![wrong]));
    let memory = Memory { term: 9, authorities: Some("pem".into()) };
    keep(&first, dir.path(), &memory);
    let text = fs::read_to_string(dir.path().join("state").join(NAME)).unwrap();
    assert!(!text.contains("hunter2"), "{text}");
    let (again, found) = restored(dir.path(), None);
    assert_eq!(found, memory);
    assert_eq!(running(&again), [runs("a", "r2", false), runs("b", "r1", false), runs("c", "r1", true)]);
    assert_eq!(running(&again), running(&first));
}

#[test]
fn without_it_the_pods_configuration_is_used_and_else_none() {
    let dir = folder();
    let stamped = dir.path().join("stamped");
    assert_eq!(running(&restored(dir.path(), Some(&stamped)).0), []);
    fs::write(&stamped, "\n").unwrap();
    assert_eq!(running(&restored(dir.path(), Some(&stamped)).0), []);
    fs::write(&stamped, serde_json::to_vec(&told(vec![policy("a", "r1")])).unwrap()).unwrap();
    let (source, memory) = restored(dir.path(), Some(&stamped));
    assert_eq!((running(&source), memory.term), (vec![runs("a", "r1", false)], 5));
    // A term alone is no configuration.
    keep(&self::source(dir.path()), dir.path(), &Memory { term: 8, authorities: None });
    let (source, memory) = restored(dir.path(), Some(&stamped));
    assert_eq!((running(&source), memory.term), (vec![runs("a", "r1", false)], 8));
    // That there is no policy is one.
    let empty = self::source(dir.path());
    empty.teller().tell(told(vec![]));
    keep(&empty, dir.path(), &Memory::default());
    assert_eq!(running(&restored(dir.path(), Some(&stamped)).0), []);
}

#[test]
fn what_is_broken_is_passed_over() {
    let dir = folder();
    let stamped = dir.path().join("stamped");
    fs::write(&stamped, serde_json::to_vec(&told(vec![policy("a", "r1")])).unwrap()).unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    for text in ["{", "null", "[]", r#"{"version":2,"term":99}"#, r#"{"version":"x"}"#] {
        fs::write(dir.path().join("state").join(NAME), text).unwrap();
        let (source, memory) = restored(dir.path(), Some(&stamped));
        assert_eq!((running(&source), memory.term), (vec![runs("a", "r1", false)], 5), "{text}");
    }
    fs::write(&stamped, "{").unwrap();
    assert_eq!(running(&restored(dir.path(), Some(&stamped)).0), []);
}

#[tokio::test]
async fn what_is_told_is_kept_until_the_end() {
    let dir = folder();
    let source = source(dir.path());
    let (memory, remembered) = watch::channel(Memory::default());
    let (stop, state) = (CancellationToken::new(), dir.path().join("state"));
    let keeper = tokio::spawn(run(state.clone(), source.subscribe(), remembered, stop.clone()));
    source.teller().tell(told(vec![policy("a", "r1")]));
    memory.send_replace(Memory { term: 3, authorities: None });
    let is_kept = || {
        let kept = fs::read(state.join(NAME)).ok().and_then(|bytes| parse(&bytes).ok());
        kept.is_some_and(|kept| kept.term == 3 && kept.configuration.is_some_and(|c| c.policies.len() == 1))
    };
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !is_kept() {
        assert!(std::time::Instant::now() < end);
        tokio::task::yield_now().await;
    }
    stop.cancel();
    keeper.await.unwrap();
}
