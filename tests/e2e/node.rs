//! The node that the tests of this binary share: brought up by the first of them, gone with the last, however they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::support::pg::Place;
use super::support::process;

/// The node's address to its pods: where a database outside of the cluster listens.
pub const OUTSIDE: &str = "198.18.0.1";

/// The operator's namespace, and the release's name.
pub const HOME: &str = "poolkeeper";

/// How long a node may take to start, on a machine that does other things, too.
const START: Duration = Duration::from_secs(300);

/// Variables that cargo sets for tests.
const CARGOS: [&str; 5] = ["CARGO", "CARGO_CRATE_NAME", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "OUT_DIR"];

/// A node with Poolkeeper on it.
pub struct Node {
    dir: PathBuf,
    images: PathBuf,
    /// Held for writing by tests that take the operator away.
    pub quiet: RwLock<()>,
    /// Held by whoever puts back what a failed test had taken away.
    pub mending: Mutex<()>,
    /// Ends the node with this process, also if that is killed.
    _keeper: Mutex<Child>,
}

/// The node; none where there can't be one.
pub fn node() -> Option<&'static Node> {
    static NODE: OnceLock<Option<Node>> = OnceLock::new();
    NODE.get_or_init(|| match missing() {
        None => Some(Node::start()),
        Some(why) => {
            assert!(std::env::var_os("POOLKEEPER_E2E").is_none(), "tests on a real node can't run here: {why}");
            eprintln!("SKIPPED: tests on a real node: {why}");
            None
        }
    })
    .as_ref()
}

/// What there would have to be.
fn missing() -> Option<&'static str> {
    if std::env::var_os("POOLKEEPER_TEST_CLUSTER").is_some_and(|value| value == "external") {
        return Some("they need a node of their own (POOLKEEPER_TEST_CLUSTER=external is set)");
    }
    if !process::is_root() {
        return Some("a node needs root");
    }
    let namespaces = Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "true"]).output();
    let made = namespaces.is_ok_and(|out| out.status.success());
    (!made).then_some("a node needs namespaces of its own, which may not be made here")
}

impl Node {
    fn start() -> Self {
        let began = Instant::now();
        let mut build = Command::new(root("tests/e2e/images"));
        // What cargo says to its tests would have a cargo in there build much anew.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || CARGOS.contains(&&**name))
        {
            build.env_remove(name);
        }
        let images = run(build.stderr(Stdio::inherit()));
        let images = PathBuf::from(String::from_utf8(images.stdout).unwrap().trim());
        say(began, "images are built");
        for what in ["kube", "dns", "pause", "helm"] {
            run(Command::new(root("tests/cluster/build")).arg(what).stderr(Stdio::inherit()));
        }
        // The keeper removes it when it ends.
        let dir = tempfile::Builder::new().prefix("pk-node-").tempdir().unwrap().keep();
        let mut command = process::command(&root("tests/cluster/up"), None, "TERM");
        command.args(["--foreground"]).arg(&dir).stdin(Stdio::null());
        let mut keeper = process::spawn(command);
        let end = Instant::now() + START;
        while !dir.join("ready").exists() {
            let gone = keeper.try_wait().unwrap();
            let failed = || fs::read_to_string(dir.join("failed")).unwrap_or_default();
            assert!(gone.is_none(), "the node did not start ({gone:?}):\n{}", failed());
            assert!(Instant::now() < end, "the node did not start in {START:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        say(began, "the node is up");
        let node =
            Self { dir, images, quiet: RwLock::default(), mending: Mutex::default(), _keeper: Mutex::new(keeper) };
        node.load(&["poolkeeper", "orders"]);
        say(began, "it has the images");
        node.install();
        say(began, "Poolkeeper is installed");
        node
    }

    /// Puts images onto the node.
    fn load(&self, names: &[&str]) {
        let mut command = self.script("load");
        run(command.args(names.iter().map(|name| self.images.join(format!("{name}.tar")))));
    }

    /// Installs the chart as it is by default, whatever is there, and waits until its operators are ready.
    pub fn install(&self) {
        let chart = root("charts/poolkeeper");
        let release =
            ["upgrade", "--install", HOME, chart.to_str().unwrap(), "--namespace", HOME, "--create-namespace"];
        self.helm(&[release.as_slice(), &["--reset-values", "--wait", "--timeout", "5m"]].concat());
    }

    /// Puts the operator back, after a test that had taken it away has failed.
    pub fn restore(&self) {
        self.try_kubectl(&["delete", "lease", "poolkeeper-operator", "-n", HOME, "--ignore-not-found"]);
        self.try_kubectl(&["scale", "deployment", "poolkeeper-operator", "-n", HOME, "--replicas=2"]);
        self.install();
    }

    /// Upgrades it with these values beside those that it has.
    pub fn upgrade(&self, values: &[&str]) {
        let chart = root("charts/poolkeeper");
        let release = ["upgrade", HOME, chart.to_str().unwrap(), "--namespace", HOME, "--reset-then-reuse-values"];
        self.helm(&[release.as_slice(), values, &["--wait", "--timeout", "5m"]].concat());
    }

    /// Gives an image another tag.
    pub fn tag_as(&self, name: &str, tag: &str) -> String {
        let of = |tag: &str| format!("localhost/{name}:{tag}");
        self.containerd(&["images", "tag", "--force", &of(env!("CARGO_PKG_VERSION")), &of(tag)]);
        tag.to_owned()
    }

    /// Kills a container's processes, as the kernel does when memory runs out.
    pub fn kill_container(&self, pod: &Pod, name: &str) {
        let status = pod.status.clone().unwrap();
        let all = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
        let id = all.filter(|container| container.name == name).find_map(|container| container.container_id).unwrap();
        self.containerd(&["tasks", "kill", "--signal", "SIGKILL", "--all", id.trim_start_matches("containerd://")]);
    }

    /// containerd's own client, on the node.
    fn containerd(&self, arguments: &[&str]) {
        let mut command = Command::new("nsenter");
        command.args([
            "--mount",
            "--pid",
            "--target",
            &self.inside(),
            "--",
            "ctr",
            "--namespace",
            "k8s.io",
            "--address",
        ]);
        run(command.arg(self.dir.join("containerd.sock")).args(arguments));
    }

    /// Runs kubectl, which must succeed; what it printed.
    #[track_caller]
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(self.script("kubectl").args(arguments)).stdout).unwrap()
    }

    /// Runs kubectl.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.script("kubectl").args(arguments).output().unwrap()
    }

    /// Runs helm, which must succeed; what it printed.
    #[track_caller]
    pub fn helm(&self, arguments: &[&str]) -> String {
        String::from_utf8(run(self.script("helm").args(arguments)).stdout).unwrap()
    }

    /// One of tests/cluster's scripts for this node.
    fn script(&self, name: &str) -> Command {
        let mut command = Command::new(root("tests/cluster").join(name));
        command.arg("--cluster").arg(&self.dir).stdin(Stdio::null());
        command
    }

    /// The administrator's access.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Moves the calling thread, and what it starts, into the node's network: pods and Services answer there.
    pub fn enter(&self) {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.inside())).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), kind).unwrap();
    }

    /// For a PostgreSQL outside of the cluster.
    pub fn place(&self) -> Place {
        let enter = ["nsenter", "--net", "--target", &self.inside(), "--"].map(str::to_owned);
        Place { address: OUTSIDE.to_owned(), enter: enter.to_vec() }
    }

    /// The first process in the node's namespaces.
    fn inside(&self) -> String {
        let inside = fs::read_to_string(self.dir.join("inside")).unwrap();
        inside.split_whitespace().next().unwrap().to_owned()
    }
}

/// A path of the sources.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn say(began: Instant, what: &str) {
    eprintln!("{:5.1} s  {what}", began.elapsed().as_secs_f64());
}

#[track_caller]
fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = || format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{command:?}: {}", said());
    out
}
