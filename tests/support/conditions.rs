//! Waits for what policies and pods say of themselves.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::core::DynamicObject;
use serde_json::Value;
use std::panic::Location;
use std::time::{Duration, Instant};

/// `Ready=True/Ready` of each condition that is about this generation.
pub fn conditions(status: &Value, generation: i64) -> Vec<String> {
    let all = status["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().filter(|condition| condition["observedGeneration"] == generation).map(show).collect()
}

fn show(condition: &Value) -> String {
    let text = |key: &str| condition[key].as_str().unwrap_or_default();
    format!("{}={}/{}", text("type").replace("poolkeeper.dev/", ""), text("status"), text("reason"))
}

/// Waits until a policy's conditions contain all of these, about its present generation; its status.
#[track_caller]
pub fn until(policies: Api<DynamicObject>, time: Duration, name: &str, wanted: &[&str]) -> impl Future<Output = Value> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + time;
        loop {
            let policy = policies.get(name).await.unwrap();
            let status = &policy.data["status"];
            let shown = conditions(status, policy.metadata.generation.unwrap());
            if wanted.iter().all(|wanted| shown.iter().any(|shown| shown == wanted)) {
                return status.clone();
            }
            assert!(Instant::now() < end, "{caller}: {name}: waited for {wanted:?}, got {shown:?}\n{status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Waits until a pod has this condition, as `PoolConfigured=True/Applied`; its message.
#[track_caller]
pub fn until_pod(pods: Api<Pod>, time: Duration, name: &str, wanted: &str) -> impl Future<Output = String> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + time;
        loop {
            let pod = serde_json::to_value(pods.get(name).await.unwrap()).unwrap();
            let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if let Some(found) = all.iter().find(|condition| show(condition) == wanted) {
                return found["message"].as_str().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < end, "{caller}: {name}: waited for {wanted}, got {all:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
