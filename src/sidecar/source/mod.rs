//! Where the configuration comes from: policy files that are watched, or the environment; and files with credentials.
//!
//! All or nothing: when anything that was read is wrong, nothing changes, the last good configuration stays and the
//! [`Rejection`] says everything that is wrong.

pub mod environment;
pub mod files;
mod inputs;
mod links;
mod loader;
mod secrets;
#[cfg(test)]
mod tests;
pub mod url;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tracing::info;

use self::environment::Environment;
use self::inputs::Inputs;
use self::loader::Loader;
use self::watch::{Signal, Targets, Watch};
use super::options::Options;
use crate::api::resolve::{Listen, Problem, Resolved};
use crate::pg::auth::Secret;

/// For how long a replaced password is still accepted from clients, and tried at servers that refuse the new one.
pub const OVERLAP: Duration = Duration::from_secs(300);

/// Between two looks at the files where nothing tells of changes.
const POLL: Duration = Duration::from_secs(2);
/// After a whole change: others of the same save may follow.
const QUIET_WHOLE: Duration = Duration::from_millis(2);
/// Reading waits no longer than this after the first change, whatever follows.
const QUIET_MOST: Duration = Duration::from_millis(40);
/// After a write, until the file is closed: half a policy may well be valid, and be another one. A writer that keeps
/// its file open is not waited for longer.
const OPEN_MOST: Duration = Duration::from_secs(1);
/// What looks wrong is read once more after this, before anybody is told: a file may be in the middle of being saved.
const DOUBT: Duration = Duration::from_millis(100);
/// Doubt ends here even if the file changes on and on.
const DOUBT_MOST: Duration = Duration::from_millis(500);

/// What a reader sees at any time.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration that is in force.
    pub snapshot: Arc<Snapshot>,
    /// Why the newest files are not in force; `None` when they are.
    pub rejection: Option<Arc<Rejection>>,
    /// Times that a changed configuration was accepted, the first included.
    pub accepted: u64,
    /// Times that a changed configuration was refused.
    pub rejected: u64,
}

/// One configuration, whole and valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The policies, ordered by namespace and name; one or more.
    pub policies: Vec<Policy>,
    /// Where and whom the sidecar serves: the same in every policy that is not orphaned.
    pub listen: Listen,
    /// Certificate and key for `listen.tls`.
    pub tls: Option<Arc<ListenFiles>>,
    /// Longest drain after SIGTERM.
    pub shutdown_grace: Duration,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its values.
    pub resolved: Arc<Resolved>,
    /// Who logs in to the server, and whom clients must be.
    pub credentials: Arc<Credentials>,
    /// Its file; `environment` without one.
    pub origin: String,
    /// Its file, or it in there, is gone: it is served on until the sidecar ends or another policy takes its alias.
    pub orphaned: bool,
}

impl Policy {
    /// Namespace and name.
    pub fn key(&self) -> (&str, &str) {
        (&self.resolved.namespace, &self.resolved.name)
    }
}

/// Who logs in to a server, whom clients must be, and whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password; empty if there is none (only where clients are let in by Trust).
    pub password: Secret,
    /// What was replaced last.
    pub previous: Option<Previous>,
    /// PEM of the authorities that a server's certificate must come from; `None` = the system's.
    pub ca_pem: Option<Arc<[u8]>>,
}

/// Credentials that were replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The user's name then.
    pub user: String,
    /// The password then.
    pub password: Secret,
    /// Until when they are accepted and tried.
    pub until: Instant,
}

/// Files for TLS towards clients.
#[derive(Clone, PartialEq, Eq)]
pub struct ListenFiles {
    /// PEM of the certificate chain.
    pub certificate: Vec<u8>,
    /// PEM of its key.
    pub key: Secret,
    /// PEM of the authorities that clients' certificates must come from; `None` = no certificate is asked.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for ListenFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ListenFiles").field("client_ca", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// Why files were not taken.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// When they were read.
    pub at: SystemTime,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// What one reading gave.
type Reading = Result<Snapshot, Vec<Finding>>;

/// A problem and the file it is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, or `environment`.
    pub file: String,
    /// What is wrong there.
    pub problem: Problem,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.problem)
    }
}

/// Reads the first configuration as the options and the environment have it, and starts to watch.
///
/// # Errors
/// Everything that is wrong with it.
pub fn start(options: &Options) -> Result<Source, Vec<Finding>> {
    Source::open(options.policy.clone(), options.secrets_dir.clone(), Environment::read())
}

/// The configuration, kept up to date by a thread of its own; ends when dropped.
#[derive(Debug)]
pub struct Source {
    state: tokio::sync::watch::Receiver<State>,
    signals: Sender<Signal>,
    thread: Option<JoinHandle<()>>,
}

impl Source {
    /// Reads the first configuration and starts to watch. `policies` is a file or a directory; without it the
    /// environment is the configuration. `secrets` holds a directory per Secret.
    ///
    /// # Errors
    /// Everything that is wrong with the first configuration, or that no thread could be started.
    pub fn open(
        policies: Option<PathBuf>,
        secrets: Option<PathBuf>,
        environment: Environment,
    ) -> Result<Self, Vec<Finding>> {
        let (signals, received) = mpsc::channel();
        // Watching starts before reading: nothing can change unseen in between.
        let other = environment.login().ok().flatten().and_then(|login| login.root_certificate);
        let targets = Targets { policies: policies.clone(), secrets: secrets.clone(), other };
        let watch = Watch::new(targets, signals.clone());
        let loader = Loader::start(Inputs::new(policies, secrets, environment), Instant::now())?;
        let state = loader.subscribe();
        let thread =
            std::thread::Builder::new().name("configuration".into()).spawn(move || run(watch, &loader, &received));
        let thread = thread.map_err(|error| {
            let problem = Problem::new("", format!("the thread that watches it cannot be started: {error}"));
            vec![Finding { file: "configuration".into(), problem }]
        })?;
        Ok(Self { state, signals, thread: Some(thread) })
    }

    /// What is in force, and a way to wait for changes of it.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<State> {
        self.state.clone()
    }

    /// Reads everything once more, for SIGHUP.
    pub fn reload(&self) {
        // Without a receiver the thread has ended, and the process is about to.
        let _ = self.signals.send(Signal::Reload);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for changes and applies them, until told to stop.
fn run(mut watch: Watch, loader: &Loader, signals: &Receiver<Signal>) {
    loop {
        let first = match signals.recv_timeout(POLL) {
            Ok(signal) => signal,
            Err(RecvTimeoutError::Timeout) if watch.update() => Signal::Touched { whole: true },
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let since = Instant::now();
        let Some(forced) = settle(first, since, signals) else { return };
        let Some(read) = read(&mut watch, loader, since, signals) else { return };
        let changed = loader.apply(read, Instant::now());
        if forced && !changed {
            info!("configuration read again: nothing changed");
        }
    }
}

/// Reads everything; what looks wrong is read again until it stays the same. `None` to stop.
fn read(watch: &mut Watch, loader: &Loader, since: Instant, signals: &Receiver<Signal>) -> Option<Reading> {
    // Looking comes before reading: what changes in between is seen by the next look.
    watch.update();
    let mut read = loader.read(Instant::now());
    while loader.is_doubtful(&read) && since.elapsed() < DOUBT_MOST {
        match signals.recv_timeout(DOUBT) {
            Ok(signal) => _ = settle(signal, Instant::now(), signals)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
        watch.update();
        let again = loader.read(Instant::now());
        let same = again == read;
        read = again;
        if same {
            break;
        }
    }
    Some(read)
}

/// Waits until the change that `first` tells of seems whole. Whether a reload was asked for; `None` to stop.
fn settle(first: Signal, since: Instant, signals: &Receiver<Signal>) -> Option<bool> {
    let (mut signal, mut forced) = (first, false);
    loop {
        let (quiet, most) = match signal {
            Signal::Stop => return None,
            Signal::Reload => {
                forced = true;
                (Duration::ZERO, QUIET_MOST)
            }
            Signal::Touched { whole: true } => (QUIET_WHOLE, QUIET_MOST),
            Signal::Touched { whole: false } => (OPEN_MOST, OPEN_MOST),
        };
        let left = most.saturating_sub(since.elapsed());
        match signals.recv_timeout(quiet.min(left)) {
            Ok(next) => signal = next,
            Err(RecvTimeoutError::Timeout) => return Some(forced),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}
