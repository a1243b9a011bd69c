//! The sample application (demo/app) in pods, and what it says about itself.

use std::panic::Location;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::database::Database;
use super::world::{PATIENCE, World, ask};

/// A pod template of the sample application that asks for a sidecar. Restricted, as its namespace wants it.
pub fn template(app: &str, environment: &[(&str, &str)]) -> Value {
    let own = environment.iter().map(|(name, value)| json!({ "name": name, "value": value }));
    let fixed = [json!({ "name": "PGDATABASE", "value": "orders" }), json!({ "name": "CREDENTIALS", "value": "/db" })];
    json!({
        "metadata": {
            "labels": { "app": app, "poolkeeper.dev/inject": "enabled" },
            "annotations": { "poolkeeper.dev/inject-env": "PGHOST,PGPORT" },
        },
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "orders",
                "image": "localhost/orders:0.1.0",
                "env": fixed.into_iter().chain(own).collect::<Vec<_>>(),
                "readinessProbe": { "httpGet": { "path": "/", "port": 8080 }, "periodSeconds": 1, "timeoutSeconds": 5 },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
                "volumeMounts": [{ "name": "db", "mountPath": "/db" }],
            }],
            "volumes": [{ "name": "db", "secret": { "secretName": "orders-db" } }],
        },
    })
}

/// A Deployment of that template.
pub fn deployment(app: &str, replicas: usize, environment: &[(&str, &str)]) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": app },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": app } },
            "template": template(app, environment),
        },
    })
}

/// What the application of a pod has counted; none while it doesn't answer.
pub async fn counters(pod: &Pod) -> Option<Value> {
    let (_, body) = ask(pod, 8080, "GET", "/", "").await.ok()?;
    serde_json::from_str(&body).ok()
}

/// Runs a statement through the pool as the application would; the first value, or the error.
pub async fn sql(pod: &Pod, statement: &str) -> Result<String, String> {
    match ask(pod, 8080, "POST", "/ask", statement).await {
        Ok((200, text)) => Ok(text),
        Ok((_, text)) => Err(text),
        Err(error) => Err(format!("the application: {error}")),
    }
}

/// An application under load, whose pods are known.
pub struct Load {
    pub pods: Vec<Pod>,
}

impl Load {
    /// Of these pods, once each has done something.
    pub async fn of(pods: Vec<Pod>) -> Self {
        let load = Self { pods };
        load.advance(20).await;
        load
    }

    /// Waits until every pod has done so many more transactions.
    #[track_caller]
    pub fn advance(&self, transactions: u64) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let mut goals = vec![];
            let end = Instant::now() + PATIENCE;
            for pod in &self.pods {
                let done = counters(pod).await.and_then(|counted| counted["done"].as_u64()).unwrap_or(0);
                goals.push(done + transactions);
            }
            for (pod, goal) in self.pods.iter().zip(goals) {
                loop {
                    let counted = counters(pod).await.unwrap_or_default();
                    if counted["done"].as_u64().unwrap_or(0) >= goal {
                        break;
                    }
                    assert!(Instant::now() < end, "{caller}: {} stands still: {counted:#}", pod.name_any());
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// Nothing has failed since the start; how many transactions that is.
    #[track_caller]
    pub fn unharmed(&self) -> impl Future<Output = u64> {
        let caller = Location::caller();
        async move {
            let mut done = 0;
            for pod in &self.pods {
                let counted =
                    counters(pod).await.unwrap_or_else(|| panic!("{caller}: {} says nothing", pod.name_any()));
                assert_eq!(counted["failed"], 0, "{caller}: {}: {counted:#}", pod.name_any());
                done += counted["done"].as_u64().unwrap();
            }
            done
        }
    }
}

impl World {
    /// Secrets, a policy named `orders`, and the sample application `orders` in so many pods, ready and under load.
    #[track_caller]
    pub fn orders(
        &self,
        database: &Database,
        replicas: usize,
        environment: &[(&str, &str)],
    ) -> impl Future<Output = Load> {
        let deployment = deployment("orders", replicas, environment);
        async move {
            self.secret("orders-db", database.credentials()).await;
            self.secret("orders-db-ca", database.authority()).await;
            self.policy("orders", &database.policy("orders")).await;
            self.apply(deployment).await;
            Load::of(self.until_ready("orders", replicas).await).await
        }
    }
}
