//! A real Kubernetes API server (etcd and kube-apiserver, no node) from `tests/cluster`.

use super::process;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long an API server may take to start; a loaded machine needs many times its two seconds.
const START: Duration = Duration::from_secs(150);

/// An API server with the project's CRD; it ends with the tests, however they end, and leaves nothing behind.
///
/// With `POOLKEEPER_TEST_CLUSTER=external` beside `KUBECONFIG` it is the cluster of that file; `KUBECONFIG` alone is ignored.
pub struct ApiServer {
    kubeconfig: PathBuf,
    /// None for an external one.
    own: Option<Own>,
}

struct Own {
    dir: tempfile::TempDir,
    keeper: Mutex<Child>,
}

/// A namespace of one test.
pub struct TestNamespace {
    name: String,
    /// Set for an external cluster, where it must be taken away again.
    kubeconfig: Option<PathBuf>,
}

impl ApiServer {
    /// The one that the tests of this process share, each with a namespace of its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts one for this test alone: to be stopped and started, or filled.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with options of `tests/cluster/up`: `&["--controllers", "*"]`.
    pub fn start_with(options: &[&str]) -> Self {
        let server = if std::env::var_os("POOLKEEPER_TEST_CLUSTER").is_some_and(|value| value == "external") {
            let kubeconfig = std::env::var_os("KUBECONFIG").expect("POOLKEEPER_TEST_CLUSTER=external needs KUBECONFIG");
            Self { kubeconfig: kubeconfig.into(), own: None }
        } else {
            Self::start_own(options)
        };
        let crd = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        server.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "-f", crd.to_str().unwrap()]);
        server.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=60s", "crd", CRD]);
        server
    }

    fn start_own(options: &[&str]) -> Self {
        // The first time this takes as long as a build of Kubernetes, and says how far it is.
        let built = Command::new(script("build")).arg("kube").stdout(Stdio::null()).status().unwrap();
        assert!(built.success(), "tests/cluster/build kube failed (above)");
        let dir = tempfile::Builder::new().prefix("pk-api-").tempdir().unwrap();
        let mut command = process::command(&script("up"), None, "TERM");
        command.args(["--control-plane", "--foreground"]).args(options).arg(dir.path()).stdin(Stdio::null());
        let mut keeper = process::spawn(command);
        let end = Instant::now() + START;
        while !dir.path().join("ready").exists() {
            let gone = keeper.try_wait().unwrap();
            let failed = || fs::read_to_string(dir.path().join("failed")).unwrap_or_default();
            assert!(gone.is_none(), "the API server did not start ({gone:?}):\n{}", failed());
            assert!(Instant::now() < end, "the API server did not start in {START:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { kubeconfig: dir.path().join("kubeconfig"), own: Some(Own { dir, keeper: Mutex::new(keeper) }) }
    }

    /// Whether it is the user's own cluster, which reaches no port of this machine and must be left as it was.
    pub fn is_external(&self) -> bool {
        self.own.is_none()
    }

    /// The file with the administrator's access.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Its address, `https://127.0.0.1:PORT` for an own one.
    pub async fn url(&self) -> String {
        self.config().await.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// A client with all rights. A client belongs to the runtime of the test that made it.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).unwrap()
    }

    /// A client that has nothing but a token, as a program in a pod has.
    pub async fn client_as(&self, token: &str) -> Client {
        let mut config = self.config().await;
        config.auth_info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
        Client::try_from(config).unwrap()
    }

    /// A kubeconfig with a token in place of the administrator's certificate, to be written to a file.
    pub fn kubeconfig_as(&self, token: &str) -> String {
        let mut kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info =
                Some(kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() });
        }
        let mut value = serde_json::to_value(&kubeconfig).unwrap();
        // Secrets are not written out by kube's types.
        for user in value["users"].as_array_mut().unwrap() {
            user["user"]["token"] = token.into();
        }
        serde_json::to_string(&value).unwrap()
    }

    async fn config(&self) -> Config {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
    }

    /// A new namespace with its `default` ServiceAccount (which a controller would make), so that pods can be created.
    pub async fn namespace(&self) -> TestNamespace {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("pk-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let client = self.client().await;
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client).create(&PostParams::default(), &namespace).await.unwrap();
        self.service_account(&name, "default").await;
        TestNamespace { name, kubeconfig: self.is_external().then(|| self.kubeconfig.clone()) }
    }

    /// Creates a ServiceAccount; one that is there already is as good.
    pub async fn service_account(&self, namespace: &str, name: &str) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let account = ServiceAccount { metadata, ..ServiceAccount::default() };
        match accounts.create(&PostParams::default(), &account).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => drop(other.unwrap()),
        }
    }

    /// A token of a ServiceAccount for the API server itself.
    pub async fn token(&self, namespace: &str, account: &str) -> String {
        self.request_token(namespace, account, TokenRequestSpec::default()).await
    }

    /// A token as the kubelet projects it into a pod: for one audience (none: the API server), bound to the pod.
    pub async fn pod_token(&self, pod: &Pod, audience: Option<&str>) -> String {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let audiences = audience.map(str::to_owned).into_iter().collect();
        let spec = TokenRequestSpec { audiences, bound_object_ref: Some(bound), expiration_seconds: None };
        self.request_token(&pod.namespace().unwrap(), account, spec).await
    }

    /// A token by any request; the shortest life that the API server grants is 600 s.
    pub async fn request_token(&self, namespace: &str, account: &str, spec: TokenRequestSpec) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    /// Runs the cluster's kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        kubectl(&self.kubeconfig, arguments)
    }

    /// The same, which must succeed; what it printed.
    #[track_caller]
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let out = self.kubectl(arguments);
        assert!(out.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Kills kube-apiserver: its connections break, its data stays.
    pub fn stop(&self) {
        let dir = self.own.as_ref().expect("an external API server is not stopped").dir.path();
        fs::write(dir.join("hold/apiserver"), "").unwrap();
        let pid = dir.join("pids/apiserver");
        if let Ok(id) = fs::read_to_string(&pid) {
            process::signal(id.trim().parse().unwrap(), "KILL");
        }
        super::eventually("the API server is gone", || !pid.exists());
    }

    /// Starts it again on the same port after [`Self::stop`], and waits until it is ready.
    pub fn start_again(&self) {
        let dir = self.own.as_ref().expect("an external API server is not stopped").dir.path();
        fs::remove_file(dir.join("hold/apiserver")).unwrap();
        let end = Instant::now() + START;
        while !self.kubectl(&["get", "--raw", "/readyz"]).status.success() {
            assert!(Instant::now() < end, "the API server did not start again in {START:?}");
        }
    }

    /// Makes etcd forget everything but the present: who goes on from an earlier version is told 410.
    pub fn forget_the_past(&self) {
        let dir = self.own.as_ref().expect("an external etcd is left alone").dir.path();
        let ask = |path: &str, body: serde_json::Value| -> serde_json::Value {
            let mut stream = UnixStream::connect(dir.join("etcd.sock:0")).unwrap();
            let (body, length) = (body.to_string(), body.to_string().len());
            let head = format!("POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all((head + &body).as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(" 200 "), "{answer}");
            serde_json::from_str(body).unwrap()
        };
        let now = ask("/v3/kv/range", json!({ "key": "AA==" }));
        ask("/v3/kv/compaction", json!({ "revision": now["header"]["revision"], "physical": true }));
    }

    /// What kube-apiserver has logged so far.
    pub fn log(&self) -> String {
        let log = self.own.as_ref().map(|own| own.dir.path().join("logs/apiserver.log"));
        log.and_then(|log| fs::read_to_string(log).ok()).unwrap_or_default()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        process::signal(keeper.id(), "TERM");
        let _ = keeper.wait();
    }
}

impl Deref for TestNamespace {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        if let Some(kubeconfig) = &self.kubeconfig {
            let _ = kubectl(kubeconfig, &["delete", "namespace", &self.name, "--wait=false", "--ignore-not-found"]);
        }
    }
}

/// The CRD's name.
const CRD: &str = "dbpoolpolicies.poolkeeper.dev";

fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> Output {
    // Beside the kubeconfig, so that it goes with the cluster.
    let cache = kubeconfig.with_file_name("kubectl-cache");
    let mut command = Command::new(kube());
    command.arg("kubectl").arg("--kubeconfig").arg(kubeconfig).arg("--cache-dir").arg(cache).args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

/// The program that holds kubectl.
fn kube() -> &'static Path {
    static KUBE: OnceLock<PathBuf> = OnceLock::new();
    KUBE.get_or_init(|| {
        let out = Command::new(script("build")).arg("kube").stderr(Stdio::inherit()).output().unwrap();
        assert!(out.status.success(), "tests/cluster/build kube failed (above)");
        String::from_utf8(out.stdout).unwrap().trim().into()
    })
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster").join(name)
}
