//! Many sidecars in one process, without listeners: what the operator's own tests stand on.

use crate::support::{Operator, PATIENCE, policy::Policy, process};
use poolkeeper::sidecar::core::Core;
use poolkeeper::sidecar::link::{Memory, Options, View};
use poolkeeper::sidecar::source::environment::Environment;
use poolkeeper::sidecar::source::told::Place;
use poolkeeper::sidecar::source::{Files, Source};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};
use tokio_util::sync::CancellationToken;

const SIDECARS: usize = 50;

fn threads() -> usize {
    fs::read_dir("/proc/self/task").unwrap().count()
}

/// In a process of its own: other tests start threads, too.
#[test]
fn many_follow_one_operator_without_a_thread_each() {
    const ALONE: &str = "POOLKEEPER_TEST_ALONE";
    if env::var_os(ALONE).is_none() {
        let mut alone = Command::new(env::current_exe().unwrap());
        let name = "many::many_follow_one_operator_without_a_thread_each";
        let status = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").status().unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let (operator, dir) = (Operator::start(), tempfile::tempdir().unwrap());
    fs::create_dir(dir.path().join("db")).unwrap();
    for (key, value) in [("username", "app"), ("password", "secret"), ("token", "x")] {
        fs::write(dir.path().join("db").join(key), value).unwrap();
    }
    // What blocks for a moment takes turns: such threads are none of a sidecar each.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(4).build().unwrap();
    let (before, memory) = (threads(), process::resident(std::process::id()));
    let stop = CancellationToken::new();
    let policy = Policy::new(1, "orders");
    let applied = |revision: &str| {
        let reports = operator.reports();
        reports
            .iter()
            .filter(|(_, r)| r.policies.iter().any(|p| crate::support::operator::runs(p) == Some(revision)))
            .count()
    };
    let until = async |what: &str, done: &dyn Fn() -> bool| {
        let end = Instant::now() + 3 * PATIENCE;
        while !done() {
            assert!(Instant::now() < end, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    runtime.block_on(async {
        let cores: Vec<_> = (0..SIDECARS)
            .map(|_| {
                let secrets = Some(dir.path().to_owned());
                let source = Source::told(Place::default(), secrets, Environment::default(), Files::Unwatched).unwrap();
                let core = Core::start(source, 1, stop.clone()).unwrap();
                let options = Options {
                    url: operator.url().parse().unwrap(),
                    authorities: vec![operator.ca()],
                    server_name: None,
                    token: dir.path().join("db/token"),
                };
                let view = Arc::new(View::new(&options.url, Memory::default()));
                let link = core.link(options, view, CancellationToken::new(), None).unwrap();
                tokio::spawn(link.run(stop.clone()));
                core
            })
            .collect();
        until("all are connected", &|| operator.reports().len() == SIDECARS).await;
        operator.tell(&[policy.told("r1")]);
        until("all run the first revision", &|| applied("r1") >= SIDECARS).await;
        let told = Instant::now();
        operator.tell(&[policy.clone().set("pool.size", 3).told("r2")]);
        until("all run the second revision", &|| applied("r2") >= SIDECARS).await;
        let took = operator.reports().iter().map(|(at, _)| *at).max().unwrap() - told;
        let each = (process::resident(std::process::id()) - memory.min(process::resident(std::process::id())))
            / SIDECARS as u64;
        println!("{SIDECARS} sidecars run another revision after {took:?}; about {each} bytes each");
        for core in &cores {
            assert_eq!(core.registered.get("orders").unwrap().pool.stats().limit, Some(13));
        }
    });
    stop.cancel();
    assert!(threads() < before + SIDECARS / 2, "{before} -> {}", threads());
}
