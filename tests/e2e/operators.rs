//! The operator is deleted, scaled to nothing, kept from leading and upgraded while applications work: they never notice.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::app::{Load, deployment, sql};
use super::database::Database;
use super::node::HOME;
use super::world::{PATIENCE, World, eventually};

const OPERATOR: &str = "poolkeeper-operator";

impl World {
    /// Scales the operator, and waits until so many replicas are ready and no other is left.
    pub async fn operators(&self, count: usize) {
        self.node.kubectl(&["scale", "-n", HOME, "deployment", OPERATOR, &format!("--replicas={count}")]);
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(self.client.clone(), HOME);
        eventually(&format!("{count} operators"), async || {
            let all = pods.list(&ListParams::default()).await.unwrap().items;
            all.len() == count && all.iter().all(super::world::is_ready)
        })
        .await;
    }

    /// Gives the policy another size, and waits until every pod says that it runs it.
    pub async fn resized(&self, database: &Database, size: i64) {
        let mut spec = database.policy("orders");
        spec["pool"] = json!({ "size": size });
        self.policy("orders", &spec).await;
        let status = self.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
        assert_eq!(status["pool"]["size"], size, "{status:#}");
    }

    fn lease(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), HOME)
    }

    async fn leader(&self) -> Option<String> {
        let lease = self.lease().get_opt(OPERATOR).await.unwrap()?;
        lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
    }
}

#[tokio::test]
async fn operators_come_and_go() {
    let Some(world) = World::alone().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 2, &[]).await;
    world.resized(&database, 6).await;

    // The leader and the other one, without a word.
    let was = world.leader().await.expect("somebody leads");
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(world.client.clone(), HOME);
    for pod in pods.list(&ListParams::default()).await.unwrap().items {
        pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();
    }
    let killed = Instant::now();
    eventually("another leads", async || world.leader().await.is_some_and(|leader| leader != was)).await;
    let led = killed.elapsed();
    world.resized(&database, 7).await;
    eprintln!(
        "both operators killed: another leads after {led:.1?}, a change is programmed after {:.1?}",
        killed.elapsed()
    );
    load.advance(20).await;
    load.unharmed().await;

    // None at all: what is changed meanwhile arrives when one is back.
    world.operators(0).await;
    let mut spec = database.policy("orders");
    spec["pool"] = json!({ "size": 9 });
    let generation = world.policy("orders", &spec).await.metadata.generation;
    load.advance(100).await;
    assert!(world.read_policy("orders").await.data["status"]["observedGeneration"].as_i64() < generation);
    assert_eq!(world.sidecar(&load.pods[0]).await["pools"][0]["settings"]["pool"]["size"], 7);
    world.operators(2).await;
    let status = world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    assert_eq!(status["pool"]["size"], 9);
    let done = load.unharmed().await;
    eprintln!("0 of {done} transactions failed");
    assert_eq!(world.restarts().await, 0);
}

#[tokio::test]
async fn a_sidecar_starts_anew_without_an_operator() {
    let Some(world) = World::alone().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 1, &[("CLIENTS", "1")]).await;
    world.resized(&database, 8).await;
    world.operators(0).await;
    let pod = &load.pods[0];
    world.node.kill_container(pod, "poolkeeper");
    eventually("its sidecar has started anew", async || world.restarts().await == 1).await;
    eventually("it serves", async || sql(pod, "SELECT 'served'").await.as_deref() == Ok("served")).await;
    assert_eq!(world.sidecar(pod).await["pools"][0]["settings"]["pool"]["size"], 8, "its last good configuration");
    world.operators(2).await;
    world.resized(&database, 5).await;
}

/// Replicas that don't lead answer webhooks, and what they stamp into a pod is enough for it to serve.
#[tokio::test]
async fn a_pod_starts_without_a_leader() {
    let Some(world) = World::alone().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 1, &[]).await;
    world.resized(&database, 8).await;
    world.operators(0).await;
    // Somebody leads, as far as they know.
    let lease = world.lease();
    let hold = async |seconds: i32| {
        let now = Timestamp::now();
        let spec = json!({
            "holderIdentity": "nobody", "leaseDurationSeconds": seconds,
            "renewTime": format!("{now:.6}"), "acquireTime": format!("{now:.6}"),
        });
        lease.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(json!({ "spec": spec }))).await.unwrap();
    };
    hold(3600).await;
    world.operators(2).await;
    world.apply(deployment("orders", 2, &[])).await;
    let pods = world.until_ready("orders", 2).await;
    for pod in &pods {
        assert_eq!(sql(pod, "SELECT 'served'").await.as_deref(), Ok("served"));
        assert_eq!(world.sidecar(pod).await["pools"][0]["settings"]["pool"]["size"], 8, "stamped");
    }
    assert_eq!(world.leader().await.as_deref(), Some("nobody"));
    load.unharmed().await;
    // Gives it back.
    hold(1).await;
    world.resized(&database, 5).await;
    assert_eq!(world.restarts().await, 0);
}

/// Sidecars are as old as their pods: a new operator serves them.
#[tokio::test]
async fn the_chart_is_upgraded_and_uninstalled_under_load() {
    let Some(world) = World::alone().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 2, &[]).await;
    world.resized(&database, 6).await;
    let watched = watch(&world).await;

    let next = world.node.tag_as("poolkeeper", "0.1.1-next");
    world.node.upgrade(&["--set", &format!("image.tag={next}")]);
    load.advance(20).await;
    assert_eq!(watched.stop().await, [] as [String; 0], "Programmed was never lowered");
    world.resized(&database, 7).await;
    // helm does not wait until the old ones are gone, and they admit pods while they drain.
    world.operators(2).await;
    let images = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.spec.clone().unwrap().init_containers.unwrap_or_default()[0].image.clone().unwrap()
    };
    assert!(load.pods.iter().all(|pod| !images(pod).ends_with(&next)), "old sidecars were left running");
    world.apply(deployment("orders", 3, &[])).await;
    let pods = world.until_ready("orders", 3).await;
    assert_eq!(pods.iter().filter(|pod| images(pod).ends_with(&next)).count(), 1, "the new pod has the new one");
    world.resized(&database, 8).await;
    load.unharmed().await;

    world.node.helm(&["uninstall", HOME, "--namespace", HOME, "--wait", "--timeout", "3m"]);
    for gone in [
        "mutatingwebhookconfiguration/poolkeeper",
        "clusterrole/poolkeeper-operator",
        "clusterrolebinding/poolkeeper-operator",
    ] {
        assert!(!world.node.try_kubectl(&["get", gone]).status.success(), "{gone} is left");
    }
    let left = world.node.kubectl(&["get", "deployments,services,serviceaccounts,roles", "-n", HOME, "-o", "name"]);
    assert_eq!(left.trim(), "serviceaccount/default");
    assert!(world.node.kubectl(&["get", "dbpool", "-n", &world.namespace]).contains("orders"), "policies stay");
    Load::of(pods.clone()).await.unharmed().await;
    world.node.install();
    world.resized(&database, 9).await;

    // All of it.
    world.node.helm(&["uninstall", HOME, "--namespace", HOME, "--wait", "--timeout", "3m"]);
    world.node.kubectl(&[
        "delete",
        "crd/dbpoolpolicies.poolkeeper.dev",
        &format!("namespace/{HOME}"),
        "--timeout=120s",
    ]);
    let done = Load::of(pods).await.unharmed().await;
    eprintln!("0 of {done} transactions failed");
    world.node.install();
    assert_eq!(world.restarts().await, 0);
}

/// What the policy `orders` said that is not Programmed=True, while it was watched.
struct Watched {
    task: tokio::task::JoinHandle<Vec<String>>,
    stop: tokio_util::sync::CancellationToken,
}

async fn watch(world: &World) -> Watched {
    let stop = tokio_util::sync::CancellationToken::new();
    let (policies, stopped) = (world.policies(), stop.clone());
    let task = tokio::spawn(async move {
        let mut bad = vec![];
        while !stopped.is_cancelled() {
            let policy = policies.get("orders").await.unwrap();
            let shown = super::world::conditions(&policy.data["status"], policy.metadata.generation.unwrap());
            bad.extend(shown.into_iter().filter(|shown| shown.starts_with("Programmed=") && !shown.contains("True")));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bad
    });
    Watched { task, stop }
}

impl Watched {
    async fn stop(self) -> Vec<String> {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap()
    }
}
