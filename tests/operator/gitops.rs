//! What waits for a policy by the rules of kstatus, as GitOps tools and Helm do: `helm --wait` on a real API server.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::PATIENCE;
use super::talker::Talker;
use super::world::World;

/// A chart that holds one policy of this size.
fn chart(dir: &Path, size: u32) {
    let policy = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "orders" },
        "spec": {
            "selector": { "matchLabels": { "app": "orders" } }, "pool": { "size": size },
            "database": { "host": "db.invalid", "name": "orders", "credentials": { "secretName": "db" } },
        },
    });
    fs::create_dir_all(dir.join("templates")).unwrap();
    fs::write(dir.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 0.1.0\n").unwrap();
    fs::write(dir.join("templates/policy.yaml"), policy.to_string()).unwrap();
}

/// `helm upgrade --install --wait`, under way.
fn helm(world: &World, dir: &Path) -> Child {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/build");
    let built = Command::new(built).arg("helm").stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "tests/cluster/build helm failed (above)");
    let mut command = Command::new(String::from_utf8(built.stdout).unwrap().trim());
    command.args(["upgrade", "--install", "shop", dir.to_str().unwrap(), "--wait", "--timeout", "120s"]);
    command.args(["--namespace", &world.namespace, "--kubeconfig"]).arg(world.server.kubeconfig());
    for place in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(place, dir.join("home"));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn ends(mut helm: Child) {
    let end = Instant::now() + PATIENCE * 2;
    while helm.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            let _ = helm.kill();
            panic!("helm waits for ever: {:?}", helm.wait_with_output());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let out = helm.wait_with_output().unwrap();
    assert!(out.status.success(), "{out:?}");
}

#[tokio::test]
async fn helm_waits_until_every_pod_runs_this_generation() {
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    let dir = tempfile::Builder::new().prefix("pk-gitops-").tempdir().unwrap();
    let chart_of = |size| chart(&dir.path().join("shop"), size);
    let pod = world.pod("orders-1", "orders").await;
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    for size in [5, 6] {
        chart_of(size);
        let mut waiting = helm(&world, &dir.path().join("shop"));
        sidecar.until_size(size.into()).await;
        world.until("orders", &["Programmed=False/Pending", "Ready=False/Pending"]).await;
        // Longer than it takes to look.
        for _ in 0..20 {
            sidecar.say(&poolkeeper::contract::ToOperator::Ping).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(waiting.try_wait().unwrap().is_none(), "{:?}", waiting.wait_with_output());
        sidecar.report_applied().await;
        ends(waiting).await;
        world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    }
}
