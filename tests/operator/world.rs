//! An API server of its own for each test, operators before it, and policies and pods in one namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use poolkeeper::api::v1alpha1::DbPoolPolicy;
use serde_json::{Value, json};

pub use super::support::conditions::conditions;

use super::support::apiserver::TestNamespace;
use super::support::{self, ApiServer, PATIENCE, process};

/// The operators' own namespace.
pub const HOME: &str = "poolkeeper";

/// An API server with a namespace of its own.
pub struct World {
    pub server: ApiServer,
    pub namespace: TestNamespace,
    pub client: Client,
    dir: tempfile::TempDir,
}

impl World {
    pub async fn new() -> Self {
        let server = ApiServer::start();
        let namespace = server.namespace().await;
        let client = server.client().await;
        // Its rights are those that are shipped, and no others.
        for manifest in ["deploy/namespace.yaml", "deploy/rbac.yaml", "deploy/services.yaml"] {
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
            server.kubectl_ok(&["apply", "--server-side", "-f", manifest.to_str().unwrap()]);
        }
        let token = server.token(HOME, "poolkeeper-operator").await;
        let dir = tempfile::Builder::new().prefix("pk-world-").tempdir().unwrap();
        fs::write(dir.path().join("kubeconfig"), server.kubeconfig_as(&token)).unwrap();
        Self { server, namespace, client, dir }
    }

    /// An operator that has begun to run, with the rights of its ServiceAccount.
    pub fn operator(&self, identity: &str) -> Operator {
        Operator::start(&self.dir.path().join("kubeconfig"), identity, None)
    }

    /// The same with a wall clock that is as far off as the file `clock` says: `+1h`.
    pub fn operator_by(&self, identity: &str, clock: &Path) -> Operator {
        Operator::start(&self.dir.path().join("kubeconfig"), identity, Some(clock))
    }

    pub fn policies(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<DbPoolPolicy>(&()))
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates or changes a policy for pods labelled `app: APP`, as `kubectl apply` does.
    pub async fn apply(&self, name: &str, app: &str, pool: Value) -> DynamicObject {
        let spec = json!({
            "selector": { "matchLabels": { "app": app } },
            "database": { "host": "db.invalid", "name": app, "credentials": { "secretName": "db" } },
            "pool": pool,
        });
        self.apply_spec(name, spec).await
    }

    pub async fn apply_spec(&self, name: &str, spec: Value) -> DynamicObject {
        let object = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": name }, "spec": spec,
        });
        let params = PatchParams::apply("tests").force();
        self.policies().patch(name, &params, &Patch::Apply(&object)).await.unwrap()
    }

    pub async fn delete_policy(&self, name: &str) {
        self.policies().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// A pod as injection leaves it.
    pub async fn pod(&self, name: &str, app: &str) -> Pod {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": app, "poolkeeper.dev/injected": "1" } },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        });
        self.pods().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    /// Deletes a pod at once, as if its node had gone.
    pub async fn delete_pod(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    /// A policy's status.
    pub async fn status(&self, name: &str) -> Value {
        let policy = self.policies().get(name).await.unwrap();
        policy.data["status"].clone()
    }

    /// Waits until the policy's conditions contain all of these, as `Ready=True/Ready`, about its present generation.
    #[track_caller]
    pub fn until(&self, name: &str, wanted: &[&str]) -> impl Future<Output = Value> {
        self.until_within(PATIENCE, name, wanted)
    }

    /// The same for what takes longer by design.
    #[track_caller]
    pub fn until_within(&self, time: Duration, name: &str, wanted: &[&str]) -> impl Future<Output = Value> {
        support::conditions::until(self.policies(), time, name, wanted)
    }

    /// Waits until the pod has this condition, as `PoolConfigured=True/Applied`; its message.
    #[track_caller]
    pub fn until_pod(&self, name: &str, wanted: &str) -> impl Future<Output = String> {
        support::conditions::until_pod(self.pods(), PATIENCE, name, wanted)
    }

    /// The authorities that sign the operators' certificates, once there are any.
    pub async fn authorities(&self) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), HOME);
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(secret) = secrets.get_opt("poolkeeper-ca").await.unwrap() {
                return String::from_utf8(secret.data.unwrap()["ca.crt"].0.clone()).unwrap();
            }
            assert!(Instant::now() < end, "no authority is made");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reasons of the Events about an object, oldest first.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events: Api<k8s_openapi::api::events::v1::Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut all = events.list(&Default::default()).await.unwrap().items;
        all.retain(|event| event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(name));
        all.sort_by_key(|event| event.creation_timestamp());
        all.into_iter().filter_map(|event| event.reason).collect()
    }

    /// Replaces the CRD's schema by one that takes anything, as a CRD of another version may.
    pub async fn loosen_the_schema(&self) {
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        let patch = json!([{ "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema", "value": schema }]);
        let crd = "dbpoolpolicies.poolkeeper.dev";
        self.server.kubectl_ok(&["patch", "crd", crd, "--type=json", "-p", &patch.to_string()]);
        // The API server serves the new schema a moment later.
        let strange = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "probe" }, "spec": 7,
        });
        let end = Instant::now() + PATIENCE;
        let params = PatchParams::apply("tests").force().dry_run();
        while self.policies().patch("probe", &params, &Patch::Apply(&strange)).await.is_err() {
            assert!(Instant::now() < end, "the loose schema is not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Everything that was written to the API server so far, by verb and resource, but for Leases and Events of its own.
    pub fn writes(&self) -> u64 {
        let metrics = self.server.kubectl_ok(&["get", "--raw", "/metrics"]);
        let is_write = |line: &&str| {
            ["POST", "PUT", "PATCH", "APPLY", "DELETE"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
        };
        let lines = metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")).filter(is_write);
        let lines =
            lines.filter(|line| !line.contains("resource=\"leases\"") && !line.contains("subjectaccessreviews"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|count| count as u64).sum()
    }
}

/// A running operator; dropped, it is killed, and a panic in its log fails the test.
pub struct Operator {
    /// The port of its streams.
    pub stream: u16,
    /// The port of its webhooks.
    pub webhook: u16,
    http: u16,
    child: Child,
    dir: tempfile::TempDir,
}

impl Operator {
    pub fn start(kubeconfig: &Path, identity: &str, clock: Option<&Path>) -> Self {
        let [stream, webhook, http] = [(); 3].map(|()| process::free_port());
        let dir = tempfile::Builder::new().prefix("pk-operator-").tempdir().unwrap();
        let mut command = process::command(Path::new(env!("CARGO_BIN_EXE_poolkeeper")), None, "KILL");
        command.args([
            "operator",
            "--name",
            "127.0.0.1",
            "--log-format",
            "json",
            "--log-level",
            "info,poolkeeper=debug",
        ]);
        command.args(["--identity", identity, "--namespace", HOME]).arg("--kubeconfig").arg(kubeconfig);
        command.args(["--stream", &format!("127.0.0.1:{stream}"), "--http", &format!("127.0.0.1:{http}")]);
        command.args(["--advertise", &format!("198.18.0.1:{stream}"), "--image", "poolkeeper:test"]);
        command.args(["--webhook", &format!("127.0.0.1:{webhook}")]);
        if let Some(clock) = clock {
            let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1", std::env::consts::ARCH);
            assert!(Path::new(&library).exists(), "this test needs Debian's libfaketime (scripts/setup has it)");
            command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.stdin(Stdio::null()).stderr(fs::File::create(dir.path().join("log")).unwrap());
        let child = process::spawn(command);
        Self { stream, webhook, http, child, dir }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        process::signal(self.pid(), signal);
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// Status code and body; `None` if nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// A sample of its metrics; 0 if it isn't there.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let samples = text.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn leads(&self) -> bool {
        self.metric("poolkeeper_operator_leading") == 1.0
    }

    /// Waits until it leads.
    #[track_caller]
    pub fn until_it_leads(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.leads() {
            assert!(Instant::now() < end, "it does not lead:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn until_it_ends(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("the operator's log ends:\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        } else {
            assert!(!log.contains("panicked"), "{log}");
        }
    }
}
