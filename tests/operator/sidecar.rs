//! The shipped sidecar as a process.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::support::{Connect, process};
use super::world::{Operator, World};

/// A sidecar process, started as injection writes it, but for paths and addresses.
pub struct Sidecar {
    pub port: u16,
    child: Child,
    url: String,
    dir: tempfile::TempDir,
}

impl Sidecar {
    pub async fn start(world: &World, operator: &Operator, pod: &Pod) -> Self {
        let dir = tempfile::Builder::new().prefix("pk-pod-").tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::create_dir_all(file("secrets/orders-db")).unwrap();
        let annotation = |name: &str| pod.annotations().get(name).cloned().unwrap_or_default();
        fs::write(file("stamped"), annotation("poolkeeper.dev/configuration")).unwrap();
        fs::write(file("ca.crt"), annotation("poolkeeper.dev/ca")).unwrap();
        fs::write(file("token"), world.server.pod_token(pod, Some("poolkeeper")).await).unwrap();
        let (port, url) = (process::free_port(), format!("https://127.0.0.1:{}", operator.stream));
        Self { port, child: Self::spawn(dir.path(), port, &url), url, dir }
    }

    fn spawn(dir: &Path, port: u16, url: &str) -> Child {
        let mut command = process::command(Path::new(env!("CARGO_BIN_EXE_poolkeeper")), None, "KILL");
        command.args(["sidecar", "--operator", url, "--listen", &format!("127.0.0.1:{port}")]);
        let files = [
            ("operator-ca", "ca.crt"),
            ("token", "token"),
            ("state-dir", "state"),
            ("secrets-dir", "secrets"),
            ("stamped", "stamped"),
            ("socket-dir", "s"),
        ];
        for (flag, name) in files {
            command.arg(format!("--{flag}")).arg(dir.join(name));
        }
        command.args(["--http", &format!("127.0.0.1:{}", process::free_port()), "--log-format", "json"]);
        let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        process::spawn(command)
    }

    /// Kills it, and starts it again on the same files.
    pub fn start_again(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = Self::spawn(self.dir.path(), self.port, &self.url);
    }

    /// The policy's `listen` that it has anyway.
    pub fn listen(&self) -> Value {
        json!({ "port": self.port, "socket": self.dir.path().join("s") })
    }

    /// Whether the database answers through it.
    pub fn works(&self) -> bool {
        Connect::tcp(self.port).database("orders").open().is_ok_and(|mut client| {
            client.works();
            true
        })
    }

    /// Both keys at once, as the kubelet does.
    pub fn give_secret(&self, user: &str, password: &str) {
        let secret = self.dir.path().join("secrets/orders-db");
        let version = (1..).map(|n| format!("..{n}")).find(|name| !secret.join(name).exists()).unwrap();
        fs::create_dir(secret.join(&version)).unwrap();
        for (key, value) in [("username", user), ("password", password)] {
            fs::write(secret.join(&version).join(key), value).unwrap();
            let _ = symlink(Path::new("..data").join(key), secret.join(key));
        }
        symlink(version, secret.join("..tmp")).unwrap();
        fs::rename(secret.join("..tmp"), secret.join("..data")).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the sidecar's log:\n{}", self.log());
        }
    }
}
