//! The shipped sidecar as a process, given to a pod by the shipped webhooks' configuration, beside a real PostgreSQL.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::sidecar::Sidecar;
use super::support::pg::{PASSWORD, USER};
use super::support::{PATIENCE, Postgres, eventually, process};
use super::world::{Operator, World};

impl World {
    /// Puts the shipped webhooks before the API server, by address instead of by Service.
    pub async fn webhooks(&self, operator: &Operator) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/webhooks.yaml")).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let mut document = Value::deserialize(document).unwrap();
            for webhook in document["webhooks"].as_array_mut().unwrap() {
                let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
                webhook["clientConfig"] = json!({ "url": format!("https://127.0.0.1:{}{path}", operator.webhook) });
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), document.to_string()).unwrap();
            self.server.kubectl_ok(&["apply", "--server-side", "-f", file.path().to_str().unwrap()]);
        }
    }

    /// Creates a pod until it comes out with a sidecar: the API server hears of webhooks a moment later.
    pub async fn injected(&self, name: &str, labels: Value, annotations: Value) -> Pod {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": labels, "annotations": annotations },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        });
        let (pods, end): (Api<Pod>, _) = (self.pods(), Instant::now() + PATIENCE);
        loop {
            match pods.create(&PostParams::default(), &serde_json::from_value(pod.clone()).unwrap()).await {
                Ok(made) if made.labels().contains_key("poolkeeper.dev/injected") => return made,
                Ok(_) => self.delete_pod(name).await,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            assert!(Instant::now() < end, "no pod gets a sidecar");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn an_app_with_its_pod_before_its_policy() {
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    world.webhooks(&operator).await;
    // Nothing says which Secret to mount: denied, with a sentence that says what to apply.
    let bare = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "bare", "labels": { "app": "orders", "poolkeeper.dev/inject": "enabled" } },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    });
    let labels = json!({ "app": "orders", "poolkeeper.dev/inject": "enabled" });
    let pod = world.injected("orders-1", labels, json!({ "poolkeeper.dev/credentials": "orders-db" })).await;
    let denied = world.pods().create(&PostParams::default(), &serde_json::from_value(bare).unwrap()).await;
    let denied = denied.unwrap_err().to_string();
    assert!(denied.contains("DbPoolPolicy") && denied.contains("poolkeeper.dev/credentials"), "{denied}");
    assert!(operator.metric("poolkeeper_operator_admissions_total{kind=\"pod\",result=\"refused\"}") >= 1.0);
    assert!(pod.annotations()["poolkeeper.dev/ca"].contains("BEGIN CERTIFICATE"));

    let sidecar = Sidecar::start(&world, &operator, &pod).await;
    world.until_pod("orders-1", "PoolConfigured=False/NoPolicy").await;

    let postgres = Postgres::shared();
    let database = postgres.create_database();
    let spec = |size: i32| {
        json!({
            "selector": { "matchLabels": { "app": "orders" } },
            "database": { "host": "127.0.0.1", "port": postgres.port, "name": database, "alias": "orders",
                "credentials": { "secretName": "orders-db" }, "tls": { "mode": "Disable" } },
            "pool": { "size": size, "maxOverflow": 0 },
            "listen": sidecar.listen(),
        })
    };
    world.apply_spec("orders", spec(3)).await;
    // The Secret is mounted and empty: said, and taken as soon as it is there.
    world.until("orders", &["ResolvedRefs=False/SecretNotFound", "Ready=False/Pending"]).await;
    sidecar.give_secret(USER, PASSWORD);
    world
        .until("orders", &["ResolvedRefs=True/ResolvedRefs", "Programmed=True/AllPodsApplied", "Ready=True/Ready"])
        .await;
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
    world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
    assert!(sidecar.works());
    let changed = spec(7);
    world.apply_spec("orders", changed.clone()).await;
    let status = world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    assert_eq!(status["pool"]["size"], 7);

    // What no rule of the schema forbids and this pod cannot do: named, and the pool serves on.
    let mut moved = changed.clone();
    moved["listen"]["port"] = process::free_port().into();
    world.apply_spec("orders", moved).await;
    let status = world.until("orders", &["Programmed=False/RestartRequired"]).await;
    assert!(status["conditions"][2]["message"].as_str().unwrap().contains("spec.listen.port"), "{status:#}");
    assert!(sidecar.works());
    world.apply_spec("orders", changed).await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;

    // The operator away changes nothing, not even for a sidecar that starts anew.
    drop(operator);
    assert!(sidecar.works());
    let mut sidecar = sidecar;
    sidecar.start_again();
    eventually("the sidecar serves without an operator", || sidecar.works());
}
