//! Probes by command, and a sidecar that has unix sockets alone: what a pod in its node's network needs.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const POLICY: &str = "\
apiVersion: poolkeeper.dev/v1alpha1
kind: DbPoolPolicy
metadata: { name: orders }
spec:
  database: { host: 127.0.0.1, port: 1, name: orders, tls: { mode: Disable } }
  listen: { port: PORT, socket: SOCKET }
  health: { readiness: READINESS }
";

struct Sidecar(Child);

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether `poolkeeper status --probe` succeeds, and what it prints.
fn probe(what: &str, http: &str) -> (bool, String) {
    let command = env!("CARGO_BIN_EXE_poolkeeper");
    let output = Command::new(command).args(["status", "--probe", what, "--http", http]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_sidecar_without_a_port_is_probed_over_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (http, socket) = (dir.path().join("http.sock"), dir.path().join("s"));
    // Somebody else has the policy's port: a sidecar that wanted it could not start.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (readiness, ready) in [("Config", true), ("Database", false)] {
        let policy = POLICY.replace("PORT", &port).replace("SOCKET", socket.to_str().unwrap());
        fs::write(dir.path().join("policy.yaml"), policy.replace("READINESS", readiness)).unwrap();
        let (http, mut command) = (http.to_str().unwrap(), Command::new(env!("CARGO_BIN_EXE_poolkeeper")));
        assert!(!probe("live", http).0, "nobody is there yet");
        command.args(["sidecar", "--socket-only", "--http", http, "--policy"]).arg(dir.path().join("policy.yaml"));
        command.env("DATABASE_URL", "postgres://app:app@127.0.0.1:1/orders").stderr(Stdio::null());
        let sidecar = Sidecar(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(60);
        while !probe("started", http).0 {
            assert!(Instant::now() < deadline, "it does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(probe("live", http), (true, "alive\n".into()));
        let (said, text) = probe("ready", http);
        assert_eq!(said, ready, "{text}");
        assert_eq!(text == "ready\n", ready, "{text}");
        for number in [5432, 6432] {
            UnixStream::connect(socket.join(format!(".s.PGSQL.{number}"))).unwrap();
        }
        drop(sidecar);
    }
}
