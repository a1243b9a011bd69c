//! Which policies a pod has: several, one that comes later, none; and what the chart's NetworkPolicy looks like to the API server.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::app::{Load, deployment, sql};
use super::database::{Database, NAME};
use super::node::{OUTSIDE, root};
use super::world::{World, eventually};

#[tokio::test]
async fn two_policies_on_one_pod_and_a_third_in_conflict() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let mut reports = database.policy("orders");
    reports["database"]["alias"] = json!("reports");
    reports["pool"] = json!({ "size": 2, "maxOverflow": 0 });
    world.policy("reports", &reports).await;
    let load = world.orders(&database, 1, &[]).await;
    for policy in ["orders", "reports"] {
        world.until(policy, &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    }
    let pod = &load.pods[0];
    let pools = async || {
        let status = world.sidecar(pod).await;
        let all = status["pools"].as_array().unwrap().iter();
        let mut names: Vec<_> = all
            .map(|pool| format!("{}:{}", pool["database"].as_str().unwrap(), pool["policy"].as_str().unwrap()))
            .collect();
        names.sort();
        names
    };
    assert_eq!(pools().await, ["orders:orders", "reports:reports"]);

    // Another policy for the same database name: the older one has its place.
    let mut newer = database.policy("orders");
    newer["pool"] = json!({ "size": 1 });
    world.policy("usurper", &newer).await;
    let status = world.until("usurper", &["Accepted=False/Conflicted", "Ready=False/Conflicted"]).await;
    assert!(status["conditions"][0]["message"].as_str().unwrap().contains("orders"), "{status:#}");
    world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    assert_eq!(pools().await, ["orders:orders", "reports:reports"]);
    load.unharmed().await;
}

#[tokio::test]
async fn a_namespace_asks_a_pod_declines_and_a_policy_comes_later() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let labels = json!({ "poolkeeper.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted" });
    world
        .apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": world.namespace, "labels": labels } }))
        .await;
    world.secret("orders-db", database.credentials()).await;
    world.secret("orders-db-ca", database.authority()).await;

    // One that wants nothing of it, and goes to the database itself.
    let port = database.postgres.port.to_string();
    let direct = [("PGHOST", OUTSIDE), ("PGPORT", &port), ("PGSSLMODE", "disable")];
    let mut declines = deployment("declines", 1, &direct);
    declines["spec"]["template"]["metadata"]["labels"]["poolkeeper.dev/inject"] = json!("disabled");
    world.apply(declines).await;
    // One that says nothing: its namespace asks for it. Its policy is not there yet.
    let mut orders = deployment("orders", 1, &[]);
    let metadata = &mut orders["spec"]["template"]["metadata"];
    metadata["labels"] = json!({ "app": "orders" });
    metadata["annotations"]["poolkeeper.dev/credentials"] = json!("orders-db,orders-db-ca");
    world.apply(orders).await;

    let load = Load::of(world.until_ready("declines", 1).await).await;
    assert!(load.pods[0].spec.as_ref().unwrap().init_containers.is_none());
    eventually("the pod is there", async || !world.pods_of("orders").await.is_empty()).await;
    let name = world.pods_of("orders").await[0].name_any();
    world.until_pod(&name, "PoolConfigured=False/NoPolicy").await;
    world.policy("orders", &database.policy("orders")).await;
    let pods = world.until_ready("orders", 1).await;
    assert_eq!(pods[0].name_any(), name, "the same pod");
    world.until_pod(&name, "PoolConfigured=True/Applied").await;
    eventually("the app is served", async || sql(&pods[0], "SELECT 1").await.as_deref() == Ok("1")).await;
    load.unharmed().await;
    assert_eq!(world.restarts().await, 0);
    assert_eq!(database.count(&format!("SELECT count(*) FROM pg_database WHERE datname = '{NAME}'")), 1);
}

#[tokio::test]
async fn the_network_policy_is_one_to_the_api_server() {
    let Some(world) = World::new().await else { return };
    let chart = root("charts/poolkeeper");
    let template =
        ["template", "poolkeeper", chart.to_str().unwrap(), "-n", "poolkeeper", "--set", "networkPolicy.enabled=true"];
    let rendered = world.node.helm(&[template.as_slice(), &["--show-only", "templates/networkpolicy.yaml"]].concat());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rendered).unwrap();
    let apply = ["apply", "--server-side", "--dry-run=server", "-o", "json", "-f", file.path().to_str().unwrap()];
    let taken: Value = serde_json::from_str(&world.node.kubectl(&apply)).unwrap();
    assert_eq!(taken["kind"], "NetworkPolicy");
    assert_eq!(taken["spec"]["policyTypes"], json!(["Ingress", "Egress"]), "{taken:#}");
}
