//! The sidecar as a process of its own, as a user runs it.

use super::certs::Certs;
use super::operator::Operator;
use super::policy::{Policy, SECRET};
use super::process;
use super::wire::{Client, Connect};
use super::{PATIENCE, eventually, pg};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

/// A running sidecar with one policy file; dropped, it is killed, and a panic in its log fails the test.
pub struct Sidecar {
    /// The port on which it serves clients.
    pub port: u16,
    /// The port of its HTTP endpoints.
    pub http: u16,
    /// What it was started with, or changed to by [`Self::apply`].
    pub policy: Policy,
    dir: tempfile::TempDir,
    how: How,
    child: Child,
}

impl Sidecar {
    /// Starts one and waits until its listeners are bound.
    pub fn start(policy: &Policy) -> Self {
        Launch::new(policy).start()
    }

    fn wait_started(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.try_get("/startupz").is_none_or(|(code, _)| code != 200) {
            let gone = self.child.try_wait().unwrap();
            assert!(gone.is_none(), "the sidecar ended ({gone:?}):\n{}", self.log());
            assert!(Instant::now() < end, "the sidecar does not start:\n{}", self.log());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// How a client reaches its policy's database over TCP.
    pub fn connect(&self) -> Connect {
        let alias = self.policy.get("database.alias").as_str();
        let name = alias.or_else(|| self.policy.get("database.name").as_str()).unwrap();
        Connect::tcp(self.port).database(name)
    }

    /// A client that has logged in.
    #[track_caller]
    pub fn client(&self) -> Client {
        self.connect().open().unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Waits until the catalog was read, and until what was lent before has been replaced: it is not known what that may
    /// carry, so that no other client gets it.
    #[track_caller]
    pub fn settle(&self) {
        let (mut one, mut two) = (self.client(), self.client());
        eventually("the catalog was read", || {
            one.works();
            self.status()["pools"][0]["catalog"]["verdict"] != "unknown"
        });
        for _ in 0..self.status()["pools"][0]["connections"]["total_connections"].as_u64().unwrap() {
            two.works();
            one.works();
        }
    }

    /// Its unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s/.s.PGSQL.5432")
    }

    /// The folder with the Secrets.
    pub fn secrets(&self) -> PathBuf {
        self.dir.path().join("secrets")
    }

    /// The policy's file.
    pub fn policy_file(&self) -> PathBuf {
        self.dir.path().join("policy/policy.yaml")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal (a name without SIG).
    pub fn signal(&self, signal: &str) {
        process::signal(self.pid(), signal);
    }

    /// Waits for it to end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the sidecar ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Ends it at once, as a crash does, and starts it again as before; waits until its listeners are bound.
    #[track_caller]
    pub fn restart(&mut self) {
        self.signal("KILL");
        self.wait();
        self.start_again();
    }

    /// Starts it again after [`Self::wait`].
    #[track_caller]
    pub fn start_again(&mut self) {
        self.child = self.how.spawn(self.dir.path());
        self.wait_started();
    }

    /// The folder of its own, with `policy`, `s` (unix sockets), `secrets`, `log`, and what tests put there.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Saves a changed policy by an atomic rename and waits until the sidecar has applied it.
    #[track_caller]
    pub fn apply(&mut self, change: impl FnOnce(Policy) -> Policy) {
        self.policy = change(self.policy.clone());
        let before = self.metric("poolkeeper_reloads_total{result=\"ok\"}");
        self.save(&self.policy.yaml());
        eventually("the policy is applied", || self.metric("poolkeeper_reloads_total{result=\"ok\"}") > before);
    }

    /// Saves this text as the policy by an atomic rename, and waits for nothing.
    pub fn save(&self, yaml: &str) {
        let new = self.dir.path().join("policy/.new");
        fs::write(&new, yaml).unwrap();
        fs::rename(new, self.policy_file()).unwrap();
    }

    /// Writes other credentials for the policy's Secret.
    pub fn save_credentials(&self, user: &str, password: &str) {
        write_secret(self.dir.path(), SECRET, user, password);
    }

    /// Writes user and password of another Secret.
    pub fn save_secret(&self, name: &str, user: &str, password: &str) {
        write_secret(self.dir.path(), name, user, password);
    }

    /// GET of its HTTP endpoints: status code and body.
    #[track_caller]
    pub fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).unwrap_or_else(|| panic!("GET {path}: no answer"))
    }

    /// `/status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let (code, body) = self.get("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// `/api/health`'s numbers: size, checked_in, checked_out, overflow, total_connections.
    #[track_caller]
    pub fn health(&self) -> Value {
        let body: Value = serde_json::from_str(&self.get("/api/health").1).unwrap();
        body["checks"]["database_pool"].clone()
    }

    /// The sum of all samples of `/metrics` whose name and labels contain `what`: a name, or a name
    /// with some labels (`name{a="b",c="d"}`, in any order).
    #[track_caller]
    pub fn metric(&self, what: &str) -> f64 {
        let (name, labels) = what.split_once('{').unwrap_or((what, ""));
        let labels: Vec<_> = labels.trim_end_matches('}').split(',').collect();
        let (_, text) = self.get("/metrics");
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, found_labels) = series.split_once('{').unwrap_or((series, ""));
            let fits = found == name && labels.iter().all(|label| found_labels.contains(label));
            fits.then(|| value.parse::<f64>().unwrap())
        });
        samples.sum()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).ok()?;
        stream.set_read_timeout(Some(PATIENCE / 2)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Some((code, if chunked { unchunk(body) } else { body.to_owned() }))
    }
}

/// How a sidecar is started, where the usual way does not do.
pub struct Launch {
    dir: tempfile::TempDir,
    policy: Policy,
    port: u16,
    http: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    hosts: Option<PathBuf>,
    given: Given,
}

/// Where the policies come from.
#[derive(PartialEq)]
enum Given {
    File,
    Folder,
    Operator,
}

/// A command that can be run again.
struct How {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    hosts: Option<PathBuf>,
}

impl How {
    fn spawn(&self, dir: &Path) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        let program = if self.hosts.is_some() { PathBuf::from("unshare") } else { binary() };
        let mut command = process::command(&program, None, "KILL");
        if let Some(hosts) = &self.hosts {
            let script = format!("mount --bind {} /etc/hosts && exec \"$0\" \"$@\"", hosts.display());
            command.arg(if process::is_root() { "--mount" } else { "-rm" }).args(["sh", "-c", &script]).arg(binary());
        }
        command.arg("sidecar").args(&self.arguments);
        command.env("RUST_BACKTRACE", "1").envs(self.environment.clone());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        process::spawn(command)
    }
}

impl Launch {
    /// As [`Sidecar::start`] does it.
    pub fn new(policy: &Policy) -> Self {
        let dir = tempfile::Builder::new().prefix("pk-car-").tempdir().unwrap();
        let (port, http) = (process::free_port(), process::free_port());
        for name in ["policy", "s", "secrets"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        write_secret(dir.path(), SECRET, pg::USER, pg::PASSWORD);
        let sockets = dir.path().join("s").display().to_string();
        let policy = policy.clone().set("listen.port", port).set("listen.socket", sockets);
        Self { dir, policy, port, http, arguments: vec![], environment: vec![], hosts: None, given: Given::File }
    }

    /// One more Secret, with the certificate files.
    pub fn certs(self, name: &str, certs: &Certs) -> Self {
        let secret = self.dir.path().join("secrets").join(name);
        fs::create_dir_all(&secret).unwrap();
        for key in ["ca.crt", "tls.crt", "tls.key"] {
            fs::copy(certs.path(key), secret.join(key)).unwrap();
        }
        self
    }

    /// Other credentials.
    pub fn credentials(self, user: &str, password: &str) -> Self {
        write_secret(self.dir.path(), SECRET, user, password);
        self
    }

    /// One more argument.
    pub fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// One more environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this file as its /etc/hosts, in a mount namespace of its own (needs root, or a kernel that
    /// lets users make namespaces). Change the file in place.
    pub fn hosts(mut self, file: &Path) -> Self {
        self.hosts = Some(file.to_owned());
        self
    }

    /// With the policy's folder as `--policy`, instead of the one file.
    pub fn folder(mut self) -> Self {
        self.given = Given::Folder;
        self
    }

    /// With this operator in place of `--policy`. Until it tells of a policy, clients are served where the one of this
    /// launch would have them. `state` and `token` lie in the sidecar's folder.
    pub fn operator(mut self, operator: &Operator) -> Self {
        self.given = Given::Operator;
        let dir = self.dir.path();
        fs::write(dir.join("token"), Operator::TOKEN).unwrap();
        let (sockets, path) = (dir.join("s"), |name: &str| dir.join(name).display().to_string());
        let arguments = [
            "--operator".into(),
            operator.url(),
            "--operator-ca".into(),
            format!("{},{}", path("no such file"), operator.ca().display()),
            "--token".into(),
            path("token"),
            "--state-dir".into(),
            path("state"),
            "--listen".into(),
            format!("127.0.0.1:{}", self.port),
            "--socket-dir".into(),
            sockets.display().to_string(),
        ];
        self.arguments.extend(arguments);
        self
    }

    /// The folder that will be the sidecar's.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The policy, as it will be: with where to listen.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// One more policy in the folder, with the same listeners.
    pub fn add(&mut self, file: &str, policy: &Policy) {
        let listen = self.policy.get("listen").clone();
        fs::write(self.dir.path().join("policy").join(file), policy.clone().set("listen", listen).yaml()).unwrap();
    }

    /// Starts it and waits until its listeners are bound.
    pub fn start(self) -> Sidecar {
        let file = self.dir.path().join("policy/policy.yaml");
        fs::write(&file, self.policy.yaml()).unwrap();
        let secrets = self.dir.path().join("secrets").display().to_string();
        let mut arguments = vec!["--secrets-dir".into(), secrets, "--http".into(), format!("127.0.0.1:{}", self.http)];
        let given = if self.given == Given::Folder { file.parent().unwrap() } else { &file };
        if self.given != Given::Operator {
            arguments.extend(["--policy".into(), given.display().to_string()]);
        }
        arguments.extend(self.arguments);
        let how = How { arguments, environment: self.environment, hosts: self.hosts };
        let child = how.spawn(self.dir.path());
        let (port, http, policy, dir) = (self.port, self.http, self.policy, self.dir);
        let mut sidecar = Sidecar { port, http, policy, dir, how, child };
        sidecar.wait_started();
        sidecar
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.signal("CONT");
        if std::thread::panicking()
            && let Some((_, status)) = self.try_get("/status")
        {
            eprintln!("--- the sidecar's status ---\n{status}");
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log();
        if std::thread::panicking() {
            let lines: Vec<_> = log.lines().collect();
            let last = lines.len().saturating_sub(60);
            eprintln!("--- the sidecar's log, last lines ---\n{}\n---", lines[last..].join("\n"));
        } else {
            assert!(!log.contains("panicked at"), "the sidecar panicked:\n{log}");
            assert!(!log.contains(pg::PASSWORD), "a password stands in the log:\n{log}");
        }
    }
}

/// `POOLKEEPER_BIN`, or the one that cargo built for the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("POOLKEEPER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_poolkeeper").into(), PathBuf::from)
}

fn write_secret(dir: &Path, name: &str, user: &str, password: &str) {
    let secret = dir.join("secrets").join(name);
    fs::create_dir_all(&secret).unwrap();
    for (key, value) in [("username", user), ("password", password)] {
        let new = secret.join(format!(".{key}"));
        fs::write(&new, value).unwrap();
        fs::rename(new, secret.join(key)).unwrap();
    }
}

fn unchunk(body: &str) -> String {
    let (mut whole, mut rest) = (String::new(), body);
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 {
            break;
        }
        whole.push_str(&tail[..size]);
        rest = tail[size..].trim_start_matches("\r\n");
    }
    whole
}
