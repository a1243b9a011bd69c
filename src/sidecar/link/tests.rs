//! A link without network: the operator's side is the other end of a pipe.
#![allow(clippy::unwrap_used)]
use std::fs;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::DuplexStream;
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::*;
use crate::contract::{self, Applied, Configuration, Hello, Policy, Report, ToOperator, ToSidecar};
use crate::sidecar::core::Core;
use crate::sidecar::source::environment::Environment;
use crate::sidecar::source::told::Place;
use crate::sidecar::source::{Files, Source};

/// A sidecar without listeners, and where its files are.
struct Bed {
    dir: tempfile::TempDir,
    core: Core,
    view: Arc<View>,
    draining: CancellationToken,
    _stop: tokio_util::sync::DropGuard,
}

/// The operator's end of a pipe.
struct Far(Framed<DuplexStream, LengthDelimitedCodec>);

impl Far {
    async fn say(&mut self, message: ToSidecar) {
        self.0.send(Bytes::from(serde_json::to_vec(&message).unwrap())).await.unwrap();
    }

    async fn hear(&mut self) -> ToOperator {
        serde_json::from_slice(&self.0.next().await.unwrap().unwrap()).unwrap()
    }

    async fn hello(&mut self) -> Hello {
        match self.hear().await {
            ToOperator::Hello(hello) => *hello,
            other => panic!("{other:?}"),
        }
    }

    /// The next report, pings aside.
    async fn report(&mut self) -> Report {
        loop {
            match self.hear().await {
                ToOperator::Report(report) => return report,
                ToOperator::Ping => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn welcome(&mut self, term: u64) {
        self.say(ToSidecar::Welcome { term, version: "9".into() }).await;
    }
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pk-link-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("secrets/db")).unwrap();
        for (file, text) in [("token", "one\n"), ("secrets/db/username", "app"), ("secrets/db/password", "secret")] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let secrets = Some(dir.path().join("secrets"));
        let source = Source::told(Place::default(), secrets, Environment::default(), Files::Unwatched).unwrap();
        let stop = CancellationToken::new();
        let core = Core::start(source, 1, stop.clone()).unwrap();
        let view = Arc::new(View::new(&"https://a:1".parse().unwrap(), Memory::default()));
        Self { dir, core, view, draining: CancellationToken::new(), _stop: stop.drop_guard() }
    }

    fn link(&self) -> Link {
        let options = Options {
            url: "https://a:1".parse().unwrap(),
            authorities: vec![],
            server_name: None,
            token: self.dir.path().join("token"),
        };
        self.core.link(options, Arc::clone(&self.view), self.draining.clone(), None).unwrap()
    }

    /// Starts a connection; its end comes from the task.
    fn connect(&self) -> (Far, tokio::task::JoinHandle<LinkError>) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut link = self.link();
        let task = tokio::spawn(async move { session::talk(&mut link, near).await.unwrap_err() });
        (Far(Framed::new(far, LengthDelimitedCodec::new())), task)
    }
}

fn policy(revision: &str, size: u32) -> Policy {
    Policy {
        namespace: "shop".into(),
        name: "orders".into(),
        uid: "u".into(),
        generation: 1,
        revision: revision.into(),
        spec: Some(json!({
            "database": {
                "host": "127.0.0.1", "name": "orders",
                "credentials": { "secretName": "db" }, "tls": { "mode": "Disable" },
            },
            "pool": { "size": size, "maxOverflow": 0 },
        })),
    }
}

fn configuration(term: u64, policy: Policy) -> ToSidecar {
    ToSidecar::Configuration(Configuration { term, policies: vec![policy] })
}

fn applied(revision: &str) -> Option<Applied> {
    Some(Applied { generation: 1, revision: revision.into() })
}

#[tokio::test]
async fn hello_welcome_configuration_report() {
    let bed = Bed::new();
    let (mut far, _task) = bed.connect();
    let hello = far.hello().await;
    assert_eq!((hello.contract, hello.term, hello.token.expose()), (contract::VERSION, 0, "one"));
    assert!(hello.fields.iter().any(|field| field == "spec.pool.size") && hello.boot.len() == 16);
    far.welcome(3).await;
    assert_eq!(far.report().await, Report::default());
    assert!(bed.view.status().connected);
    for (revision, size) in [("r1", 3), ("r2", 5)] {
        far.say(configuration(3, policy(revision, size))).await;
        let report = far.report().await;
        assert_eq!(report.policies[0].applied, applied(revision));
        assert_eq!(report.policies[0].numbers.as_ref().unwrap().limit, Some(size));
        assert_eq!(bed.core.registered.get("orders").unwrap().pool.stats().limit, Some(size));
    }
    far.say(configuration(3, policy("r3", 1_000_000))).await;
    let report = far.report().await.policies.remove(0);
    assert_eq!((report.applied, report.numbers.unwrap().size), (applied("r2"), 5));
    let rejected = report.rejected.unwrap();
    assert_eq!((rejected.revision.as_str(), rejected.problems.len()), ("r3", 1));
    assert!(rejected.problems[0].starts_with("spec.pool.size: "), "{rejected:?}");
    bed.draining.cancel();
    assert!(far.report().await.draining);
}

/// Time stands still but for what the test waits for.
#[tokio::test(start_paused = true)]
async fn at_rest_there_are_pings_and_no_reports() {
    let bed = Bed::new();
    let (mut far, task) = bed.connect();
    far.hello().await;
    far.welcome(1).await;
    far.report().await;
    for _ in 0..3 {
        assert_eq!(far.hear().await, ToOperator::Ping);
        far.say(ToSidecar::Ping).await;
    }
    // The kubelet renews the token: it is told without another connection.
    fs::write(bed.dir.path().join("token"), "two").unwrap();
    assert_eq!(far.hear().await, ToOperator::Renew { token: contract::Token::new("two") });
    // Silence ends it.
    assert!(matches!(task.await.unwrap(), LinkError::Silent(_)));
}

#[tokio::test]
async fn an_old_leader_is_left() {
    let bed = Bed::new();
    assert!(bed.view.accept(7));
    let (mut far, task) = bed.connect();
    assert_eq!(far.hello().await.term, 7);
    far.welcome(6).await;
    assert!(matches!(task.await.unwrap(), LinkError::OldLeader { term: 6, seen: 7 }));
    assert!(!bed.view.status().connected);
    let (mut far, task) = bed.connect();
    far.hello().await;
    far.welcome(7).await;
    far.report().await;
    far.say(configuration(8, policy("r1", 1))).await;
    assert_eq!(far.report().await.policies[0].applied, applied("r1"));
    far.say(configuration(7, policy("r0", 2))).await;
    assert!(matches!(task.await.unwrap(), LinkError::OldLeader { term: 7, seen: 8 }));
    assert_eq!(bed.core.registered.get("orders").unwrap().pool.stats().limit, Some(1));
}

#[tokio::test]
async fn what_later_operators_say_is_passed_over_and_nonsense_ends_it() {
    let bed = Bed::new();
    let (mut far, task) = bed.connect();
    far.hello().await;
    far.0.send(Bytes::from_static(br#"{"type":"news","x":1}"#)).await.unwrap();
    far.welcome(1).await;
    far.report().await;
    far.0.send(Bytes::from_static(br#"{"type":"budget","limit":7}"#)).await.unwrap();
    far.0.send(Bytes::from_static(b"{")).await.unwrap();
    assert!(matches!(task.await.unwrap(), LinkError::Message(_)));
    let (mut far, task) = bed.connect();
    far.hello().await;
    far.say(ToSidecar::Refused { reason: Refusal::NotLeader, message: "a\nb".into() }).await;
    let error = task.await.unwrap();
    assert_eq!((error.to_string(), error.pace()), ("refused (NotLeader): a\\nb".into(), Pace::Quick));
    let (far, task) = bed.connect();
    drop(far);
    assert!(matches!(task.await.unwrap(), LinkError::Closed | LinkError::Broken(_)));
    fs::remove_file(bed.dir.path().join("token")).unwrap();
    let (_far, task) = bed.connect();
    assert!(matches!(task.await.unwrap(), LinkError::Token(..)));
}

#[tokio::test]
async fn authorities_are_those_of_the_files_and_those_that_were_told() {
    let bed = Bed::new();
    let mut link = bed.link();
    link.options.authorities = vec![bed.dir.path().join("none"), bed.dir.path().join("ca")];
    assert!(link.authorities().unwrap_err().to_string().contains("none is there") || link.authorities().is_err());
    bed.view.trust("told".into());
    assert_eq!(link.authorities().unwrap(), [b"told".to_vec()]);
    fs::write(bed.dir.path().join("ca"), "file").unwrap();
    assert_eq!(link.authorities().unwrap(), [b"told".to_vec(), b"file".to_vec()]);
    assert!(tls::to_operator(&link.authorities().unwrap()).is_err(), "nothing of it is a certificate");
}
