//! Pods end: in rolling updates, by eviction, because their work is done, or although they don't want to. No query fails of an
//! app that closes its connections properly, and no pod is stuck.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::EvictParams;
use serde_json::json;

use super::app::{Load, template};
use super::database::Database;
use super::world::{World, eventually};

#[tokio::test]
async fn rolling_updates_and_evictions_fail_no_query() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 2, &[]).await;
    load.advance(50).await;
    world.node.kubectl(&["rollout", "restart", "-n", &world.namespace, "deployment/orders"]);
    world.node.kubectl(&["rollout", "status", "-n", &world.namespace, "deployment/orders", "--timeout=120s"]);
    ended(&world, &database, &load.pods).await;

    let load = Load::of(world.until_ready("orders", 2).await).await;
    for pod in &load.pods {
        world.pods().evict(&pod.name_any(), &EvictParams::default()).await.unwrap();
    }
    ended(&world, &database, &load.pods).await;
    let load = Load::of(world.until_ready("orders", 2).await).await;
    load.unharmed().await;
    world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
}

/// Waits until these pods are gone: each has written, as its last act, that nothing failed.
async fn ended(world: &World, database: &Database, pods: &[Pod]) {
    for pod in pods {
        eventually("the pod is gone", async || {
            let now = world.pods().get_opt(&pod.name_any()).await.unwrap();
            now.is_none_or(|now| now.uid() != pod.uid())
        })
        .await;
    }
    let runs = database.runs();
    for pod in pods {
        let run = runs.iter().find(|(name, ..)| *name == pod.name_any());
        let (name, done, failed, report) = run.unwrap_or_else(|| panic!("{} wrote no result", pod.name_any()));
        assert_eq!(*failed, 0, "{name}: {report}");
        assert!(*done > 0, "{name}: {report}");
    }
}

#[tokio::test]
async fn a_job_ends_when_its_work_is_done() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    world.secret("orders-db", database.credentials()).await;
    world.secret("orders-db-ca", database.authority()).await;
    world.policy("orders", &database.policy("orders")).await;
    let mut template = template("orders", &[("TRANSACTIONS", "40")]);
    template["spec"]["restartPolicy"] = json!("Never");
    world
        .apply(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "orders" },
            "spec": { "backoffLimit": 0, "template": template },
        }))
        .await;
    let wait = ["wait", "--for=condition=Complete", "job/orders", "--timeout=120s", "-n", &world.namespace];
    world.node.kubectl(&wait);
    let runs = database.runs();
    assert_eq!(runs.len(), 1);
    assert_eq!((runs[0].1, runs[0].2), (8 * 40, 0), "{}", runs[0].3);
    // A pod that has done its work is no pod that a policy waits for.
    world.until("orders", &["Programmed=True/NoMatchingPods", "Ready=True/Ready"]).await;
}

#[tokio::test]
async fn an_app_that_ignores_sigterm_does_not_hold_its_pod() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 1, &[("IGNORE_TERM", "true")]).await;
    let name = load.pods[0].name_any();
    let began = Instant::now();
    world.node.kubectl(&["delete", "pod", &name, "-n", &world.namespace, "--grace-period=5", "--wait=false"]);
    // Until it is killed it works.
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.unharmed().await;
    eventually("the pod is gone", async || world.pods().get_opt(&name).await.unwrap().is_none()).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    eprintln!("a pod whose app ignores SIGTERM, with 5 s of grace, was gone after {took:.1?}");
    eventually("its servers are gone", async || {
        database.count("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND client_addr IS NOT NULL AND backend_start < now() - interval '20 s'") == 0
    })
    .await;
}
