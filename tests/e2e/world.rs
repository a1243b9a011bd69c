//! A namespace of one test, what it makes in it, and what it waits for.

use std::panic::Location;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::node::{HOME, Node, node};
use super::support;
pub use super::support::conditions::conditions;

/// How long a test waits for something that must happen, on a machine that has two cores and other things to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Whether other tests run meanwhile.
#[allow(dead_code)]
enum Turn {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A test has failed while it had the node for itself: what it took away is put back, by the first who notices.
fn mended<T>(node: &Node, turn: T) -> T {
    let _one = node.mending.lock().unwrap_or_else(PoisonError::into_inner);
    if node.quiet.is_poisoned() {
        node.restore();
        node.quiet.clear_poison();
    }
    turn
}

/// The node, and a namespace of its own.
pub struct World {
    pub node: &'static Node,
    pub namespace: String,
    pub client: Client,
    _turn: Turn,
}

impl World {
    /// A namespace beside those of other tests, which all leave the operator alone. None where there is no node.
    pub async fn new() -> Option<Self> {
        let node = node()?;
        let turn = node.quiet.read().unwrap_or_else(|failed| mended(node, failed.into_inner()));
        Some(Self::with(node, Turn::Shared(turn)).await)
    }

    /// The same, while no other test runs: the operator may be taken away.
    pub async fn alone() -> Option<Self> {
        let node = node()?;
        let turn = node.quiet.write().unwrap_or_else(|failed| mended(node, failed.into_inner()));
        Some(Self::with(node, Turn::Alone(turn)).await)
    }

    async fn with(node: &'static Node, turn: Turn) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        node.enter();
        let kubeconfig = Kubeconfig::read_from(node.kubeconfig()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        let namespace = format!("shop-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let world = Self { node, namespace, client, _turn: turn };
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": world.namespace, "labels": labels },
        });
        world.apply(object).await;
        world
    }

    /// What kind of object a document is, in this test's namespace unless it names another.
    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let (group, version) = match object["apiVersion"].as_str().unwrap().split_once('/') {
            Some((group, version)) => (group, version),
            None => ("", object["apiVersion"].as_str().unwrap()),
        };
        let kind = object["kind"].as_str().unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        match object["metadata"]["namespace"].as_str() {
            _ if kind == "Namespace" => Api::all_with(self.client.clone(), &resource),
            other => Api::namespaced_with(self.client.clone(), other.unwrap_or(&self.namespace), &resource),
        }
    }

    /// Creates or changes an object, as `kubectl apply --server-side` does.
    #[track_caller]
    pub fn apply(&self, object: Value) -> impl Future<Output = DynamicObject> {
        let caller = Location::caller();
        async move {
            let made = self.try_apply(&object).await;
            made.unwrap_or_else(|error| panic!("{caller}: {error}\n{object:#}"))
        }
    }

    /// The same, which may be refused.
    pub async fn try_apply(&self, object: &Value) -> kube::Result<DynamicObject> {
        let (name, params) = (object["metadata"]["name"].as_str().unwrap(), PatchParams::apply("tests").force());
        self.api(object).patch(name, &params, &Patch::Apply(object)).await
    }

    /// A Secret of text.
    pub async fn secret(&self, name: &str, data: Value) {
        self.apply(json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data }))
            .await;
    }

    /// A policy.
    pub async fn policy(&self, name: &str, spec: &Value) -> DynamicObject {
        self.apply(policy(name, spec)).await
    }

    /// A policy as it is now.
    pub async fn read_policy(&self, name: &str) -> DynamicObject {
        self.policies().get(name).await.unwrap()
    }

    pub fn policies(&self) -> Api<DynamicObject> {
        self.api(&policy("", &json!({})))
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Pods with this label `app` that are not being deleted.
    pub async fn pods_of(&self, app: &str) -> Vec<Pod> {
        let all = self.pods().list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap().items;
        all.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    /// Waits until the policy's conditions contain all of these, as `Ready=True/Ready`, about its present generation; its status.
    #[track_caller]
    pub fn until(&self, name: &str, wanted: &[&str]) -> impl Future<Output = Value> {
        support::conditions::until(self.policies(), PATIENCE, name, wanted)
    }

    /// Waits until so many pods of the app are ready by their probes, and no others are there; the pods.
    #[track_caller]
    pub fn until_ready(&self, app: &str, count: usize) -> impl Future<Output = Vec<Pod>> {
        let caller = Location::caller();
        async move {
            let end = Instant::now() + PATIENCE;
            loop {
                let pods = self.pods_of(app).await;
                if pods.len() == count && pods.iter().all(is_ready) {
                    return pods;
                }
                if Instant::now() > end {
                    let events = self.node.kubectl(&["get", "events", "-n", &self.namespace]);
                    let pods = self.node.kubectl(&["get", "pods", "-n", &self.namespace, "-o", "wide"]);
                    panic!("{caller}: {app}: no {count} ready pods\n{pods}\n{events}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Waits until the pod has this condition, as `PoolConfigured=True/Applied`; its message.
    #[track_caller]
    pub fn until_pod(&self, name: &str, wanted: &str) -> impl Future<Output = String> {
        support::conditions::until_pod(self.pods(), PATIENCE, name, wanted)
    }

    /// Restarts of all containers of all pods of the namespace.
    pub async fn restarts(&self) -> i32 {
        let pods = self.pods().list(&ListParams::default()).await.unwrap().items;
        let statuses = pods.into_iter().filter_map(|pod| pod.status);
        let containers = statuses.flat_map(|status| {
            status.container_statuses.into_iter().chain(status.init_container_statuses).flatten().collect::<Vec<_>>()
        });
        containers.map(|container| container.restart_count).sum()
    }

    /// What `/status` of a pod's sidecar says.
    pub async fn sidecar(&self, pod: &Pod) -> Value {
        let body = ask(pod, 9432, "GET", "/status", "").await.map(|(_, body)| body);
        serde_json::from_str(&body.unwrap_or_else(|error| panic!("/status of {}: {error}", pod.name_any()))).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = ["logs", "-n", HOME, "--selector=app.kubernetes.io/name=poolkeeper", "--tail=20", "--prefix"];
            for arguments in [
                ["get", "pods,dbpool", "-o", "wide", "-n", &self.namespace].as_slice(),
                ["get", "events", "-n", &self.namespace].as_slice(),
                logs.as_slice(),
            ] {
                let out = self.node.try_kubectl(arguments);
                eprintln!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
            }
        }
        let _ = self.node.try_kubectl(&["delete", "namespace", &self.namespace, "--wait=false"]);
    }
}

/// Asks again and again until it is so.
#[track_caller]
pub fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let end = Instant::now() + PATIENCE;
        while !done().await {
            assert!(Instant::now() < end, "{caller}: in vain: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A policy's document.
pub fn policy(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": name }, "spec": spec })
}

/// Whether kubelet finds a pod ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Asks a pod over HTTP: the status code and the body.
pub async fn ask(pod: &Pod, port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let address = address.ok_or_else(|| std::io::Error::other("no address yet"))?;
    let talk = async {
        let mut stream = TcpStream::connect((address.as_str(), port)).await?;
        let request = format!("{method} {path} HTTP/1.0\r\nhost: pod\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("no answer"))?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Ok((code.ok_or_else(|| std::io::Error::other(head.to_owned()))?, body.to_owned()))
    };
    tokio::time::timeout(Duration::from_secs(60), talk).await.map_err(std::io::Error::other)?
}
