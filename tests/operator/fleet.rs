//! Many sidecars: the shipped link, source, agent and engine, without listeners, each with a token of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::core::v1::Pod;
use poolkeeper::sidecar::core::Core;
use poolkeeper::sidecar::link::{Memory, Options, View};
use poolkeeper::sidecar::source::environment::Environment;
use poolkeeper::sidecar::source::{Files, Source};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::support::process;
use super::world::{Operator, World, conditions};

/// Requests to the API server at once.
const AT_ONCE: usize = 32;
/// How long a whole fleet may take for anything.
const LONG: Duration = Duration::from_secs(180);

/// Sidecars in this process.
struct Fleet {
    cores: Vec<Core>,
    stop: CancellationToken,
    _tokens: tempfile::TempDir,
}

impl Fleet {
    /// One for each pod; the first `wrong` of them have no credentials, and so refuse every policy.
    async fn new(world: &World, operator: &Operator, pods: &[Pod], wrong: usize) -> Self {
        let (stop, dir) = (CancellationToken::new(), tempfile::Builder::new().prefix("pk-fleet-").tempdir().unwrap());
        let ca = dir.path().join("ca.crt");
        std::fs::write(&ca, world.authorities().await).unwrap();
        let tokens: Vec<_> = stream::iter(pods)
            .map(|pod| world.server.pod_token(pod, Some("poolkeeper")))
            .buffered(AT_ONCE)
            .collect()
            .await;
        let start = |(number, token): (usize, String)| {
            let file = dir.path().join(number.to_string());
            std::fs::write(&file, token).unwrap();
            let url = (number >= wrong).then_some("postgres://app:secret@%2Fnowhere/orders");
            let environment =
                Environment::from_lookup(|name| url.filter(|_| name == "DATABASE_URL").map(str::to_owned));
            let source = Source::told(Default::default(), None, environment, Files::Unwatched).unwrap();
            let core = Core::start(source, 1, stop.clone()).unwrap();
            let options = Options {
                url: format!("https://127.0.0.1:{}", operator.stream).parse().unwrap(),
                authorities: vec![ca.clone()],
                server_name: None,
                token: file,
            };
            let view = Arc::new(View::new(&options.url, Memory::default()));
            let link = core.link(options, view, CancellationToken::new(), None).unwrap();
            tokio::spawn(link.run(stop.clone()));
            core
        };
        let cores = tokens.into_iter().enumerate().map(start).collect();
        Self { cores, stop, _tokens: dir }
    }

    /// How long after `begun` each engine had this limit, shortest first.
    async fn until_limit(&self, limit: u32, wrong: usize, begun: Instant) -> Vec<Duration> {
        let mut took = vec![None; self.cores.len() - wrong];
        while took.iter().any(Option::is_none) {
            for (took, core) in took.iter_mut().zip(&self.cores[wrong..]).filter(|(took, _)| took.is_none()) {
                let databases = core.registered.all();
                if databases.first().is_some_and(|database| database.pool.stats().limit == Some(limit)) {
                    *took = Some(begun.elapsed());
                }
            }
            let missing = took.iter().filter(|took| took.is_none()).count();
            assert!(begun.elapsed() < LONG, "{missing} engines do not have the limit {limit}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut took: Vec<_> = took.into_iter().flatten().collect();
        took.sort();
        took
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A policy that needs nothing but `DATABASE_URL`'s user.
async fn apply(world: &World, size: u32) {
    let spec = json!({
        "selector": { "matchLabels": { "app": "orders" } },
        "database": { "host": "/nowhere", "name": "orders" },
        "pool": { "size": size, "maxOverflow": 0 },
    });
    world.apply_spec("orders", spec).await;
}

async fn pods(world: &World, count: usize) -> Vec<Pod> {
    let names: Vec<_> = (0..count).map(|number| format!("orders-{number}")).collect();
    stream::iter(&names).map(|name| world.pod(name, "orders")).buffered(AT_ONCE).collect().await
}

/// Waits until the policy says that so many pods run it.
async fn until_applied(world: &World, wanted: &str, condition: &str, begun: Instant) -> Duration {
    loop {
        let policy = world.policies().get("orders").await.unwrap();
        let (status, generation) = (&policy.data["status"], policy.metadata.generation.unwrap());
        let summary = status["pods"]["summary"] == wanted;
        if summary && conditions(status, generation).iter().any(|shown| shown == condition) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < LONG, "waited for {wanted}, {condition}: {status:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_five_hundred_engines_and_all_say_so() {
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    for (count, wrong) in [(100, 0), (500, 10)] {
        let pods = pods(&world, count).await;
        apply(&world, 20).await;
        let fleet = Fleet::new(&world, &operator, &pods, wrong).await;
        let (summary, condition) = (
            format!("{}/{count}", count - wrong),
            if wrong == 0 { "Programmed=True/AllPodsApplied" } else { "Programmed=False/PodsRejected" },
        );
        until_applied(&world, &summary, condition, Instant::now()).await;
        for size in [21, 22, 23] {
            let begun = Instant::now();
            apply(&world, size).await;
            let took = fleet.until_limit(size, wrong, begun).await;
            let all = until_applied(&world, &summary, condition, begun).await;
            let (p50, p99) = (percentile(&took, 50), percentile(&took, 99));
            println!("{count} sidecars: applied p50 {p50:.1?}, p99 {p99:.1?}; status says so after {all:.1?}");
        }
        drop(fleet);
        for pod in &pods {
            world.delete_pod(pod.metadata.name.as_deref().unwrap()).await;
        }
        let end = Instant::now();
        while operator.metric("poolkeeper_operator_objects{kind=\"pod\"}") > 0.0 {
            assert!(end.elapsed() < LONG);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// `make bench-operator`: memory of a stream, CPU and writes at rest, time to reprogram all. FLEET says how many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a benchmark: make bench-operator"]
async fn a_large_fleet() {
    let count: usize = std::env::var("FLEET").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    apply(&world, 20).await;
    let pods = pods(&world, count).await;
    until_applied(&world, &format!("0/{count}"), "Programmed=False/Pending", Instant::now()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let empty = process::resident(operator.pid());
    let begun = Instant::now();
    let fleet = Fleet::new(&world, &operator, &pods, 0).await;
    let summary = format!("{count}/{count}");
    let connected = until_applied(&world, &summary, "Programmed=True/AllPodsApplied", begun).await;
    until_quiet(&world).await;
    let full = process::resident(operator.pid());
    let (writes, cpu, rest) = (world.writes(), cpu_seconds(operator.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(30)).await;
    let busy = (cpu_seconds(operator.pid()) - cpu) / rest.elapsed().as_secs_f64() * 100.0;
    let written = world.writes() - writes;
    let begun = Instant::now();
    apply(&world, 21).await;
    let took = fleet.until_limit(21, 0, begun).await;
    let all = until_applied(&world, &summary, "Programmed=True/AllPodsApplied", begun).await;
    let report: Value = json!({
        "streams": count,
        "kilobytes_a_stream": (full.saturating_sub(empty)) / 1024 / count as u64,
        "resident_megabytes": full / 1024 / 1024,
        "cpu_percent_at_rest": (busy * 10.0).round() / 10.0,
        "writes_in_30_s_at_rest": written,
        "seconds_until_all_connected": connected.as_secs_f64(),
        "applied_p50_ms": percentile(&took, 50).as_millis() as u64,
        "applied_p99_ms": percentile(&took, 99).as_millis() as u64,
        "status_says_so_ms": all.as_millis() as u64,
    });
    println!("{report:#}");
    assert_eq!(written, 0, "a fleet at rest writes nothing");
}

/// Waits until nothing was written for a while.
async fn until_quiet(world: &World) {
    let (mut before, mut since, begun) = (world.writes(), Instant::now(), Instant::now());
    while since.elapsed() < Duration::from_secs(12) {
        let now = world.writes();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        assert!(begun.elapsed() < LONG * 10, "it is never quiet");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// CPU time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = |index: usize| fields[index].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}
