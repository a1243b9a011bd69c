//! The shipped sidecar started just as injection writes it, but for where its files are: on the stamped configuration alone,
//! with no operator anywhere.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use poolkeeper::api::annotations::{CA, CONFIGURATION};
use poolkeeper::operator::index::Index;
use poolkeeper::operator::inject::{self, Ask, Settings, Verdict};
use serde_json::{Value, json};

use crate::support::webhook::{policy, settings};
use crate::support::{eventually, process};

struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The container's paths in a directory of the test.
fn moved(text: &str, dir: &Path) -> String {
    let dir = dir.display();
    let text = text.replace("/var/run/secrets/poolkeeper.dev", &format!("{dir}/operator"));
    text.replace("/var/lib/poolkeeper", &format!("{dir}/state"))
        .replace("/etc/poolkeeper/secrets", &format!("{dir}/secrets"))
}

fn strings(list: &Value, dir: &Path) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| moved(text.as_str().unwrap(), dir)).collect()
}

fn injected(dir: &Path, port: u16, http_port: u16, host_network: bool) -> Value {
    let mut index = Index::default();
    index.apply_policy(policy(&json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
        "metadata": { "name": "orders", "namespace": "shop" },
        "spec": {
            "selector": { "matchLabels": { "app": "orders" } },
            "database": { "host": "127.0.0.1", "port": 1, "name": "orders", "credentials": { "secretName": "orders-db" }, "tls": { "mode": "Disable" } },
            "listen": { "port": port, "socket": dir.join("s") },
        },
    })));
    index.flush();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "a", "labels": { "app": "orders", "poolkeeper.dev/inject": "enabled" } },
        "spec": { "containers": [{ "name": "app", "image": "app" }], "hostNetwork": host_network },
    });
    let policies = index.matching("shop", &inject::labels(&pod));
    let ask = Ask { namespace: "shop", namespace_asks: false, policies: &policies, withheld: &[] };
    let settings = Settings { http_port, operator: "https://127.0.0.1:1".into(), ..settings() };
    match inject::inject(&pod, &ask, &settings) {
        Verdict::Inject(injected) => injected.pod,
        other => panic!("{other:?}"),
    }
}

/// Runs the kubelet's probe as the container has it: over HTTP, or by command.
fn probe(container: &Value, kind: &str, dir: &Path) -> bool {
    let probe = &container[kind];
    let arguments = match &probe["exec"]["command"] {
        Value::Null => {
            let (path, port) = (probe["httpGet"]["path"].as_str().unwrap(), &probe["httpGet"]["port"]);
            let word = match path {
                "/startupz" => "started",
                "/readyz" => "ready",
                _ => "live",
            };
            ["status", "--probe", word, "--http", &format!("127.0.0.1:{port}")].map(str::to_owned).into()
        }
        command => strings(command, dir)[1..].to_vec(),
    };
    Command::new(env!("CARGO_BIN_EXE_poolkeeper")).args(arguments).output().unwrap().status.success()
}

#[test]
fn the_injected_sidecar_starts_without_an_operator() {
    for host_network in [false, true] {
        let dir = tempfile::Builder::new().prefix("pk-pod-").tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let (port, http_port) = (process::free_port(), process::free_port());
        let pod = injected(dir.path(), port, http_port, host_network);
        for folder in ["operator", "state", "secrets/orders-db"] {
            fs::create_dir_all(file(folder)).unwrap();
        }
        let annotation = |name: &str| pod["metadata"]["annotations"][name].as_str().unwrap();
        fs::write(file("operator/ca.crt"), annotation(CA)).unwrap();
        fs::write(file("operator/configuration.json"), annotation(CONFIGURATION)).unwrap();
        fs::write(file("operator/token"), "token").unwrap();
        let container = &pod["spec"]["initContainers"][0];
        let mut command = process::command(Path::new(env!("CARGO_BIN_EXE_poolkeeper")), None, "KILL");
        command.args(strings(&container["args"], dir.path())).stdin(Stdio::null());
        command.stderr(fs::File::create(file("log")).unwrap());
        let sidecar = Sidecar(process::spawn(command));
        let log = || fs::read_to_string(file("log")).unwrap();
        eventually("it starts", || probe(container, "startupProbe", dir.path()));
        assert!(probe(container, "livenessProbe", dir.path()), "{}", log());
        assert!(!probe(container, "readinessProbe", dir.path()), "its Secret is not there yet: {}", log());
        fs::write(file("secrets/orders-db/username"), "orders").unwrap();
        fs::write(file("secrets/orders-db/password"), "secret").unwrap();
        eventually("it is ready once its Secret is there", || probe(container, "readinessProbe", dir.path()));
        let connects = std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert_eq!(connects, !host_network, "{}", log());
        std::os::unix::net::UnixStream::connect(file("s/.s.PGSQL.5432")).unwrap();
        drop(sidecar);
    }
}
