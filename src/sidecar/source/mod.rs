//! Where the configuration comes from: policy files that are watched, the environment, or what the operator told; and
//! files with credentials.
//!
//! All or nothing: when anything that was read is wrong, nothing changes, the last good configuration stays and the
//! [`Rejection`] says everything that is wrong.

pub mod environment;
pub mod files;
mod finding;
mod inputs;
mod links;
mod loader;
mod secrets;
#[cfg(test)]
mod tests;
mod thread;
pub mod told;
pub mod url;
mod watch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use self::environment::Environment;
pub use self::finding::{Fault, Finding};
use self::inputs::{Inputs, Policies};
use self::loader::Loader;
use self::thread::Watching;
use self::told::Place;
use self::watch::Targets;
use super::options::Options;
use crate::api::resolve::{Listen, Resolved};
use crate::contract;
use crate::pg::auth::Secret;

/// For how long a replaced password is still accepted from clients.
pub const OVERLAP: Duration = Duration::from_secs(300);

/// What a reader sees at any time.
#[derive(Clone, Debug)]
pub struct State {
    /// The configuration that is in force.
    pub snapshot: Arc<Snapshot>,
    /// Why the newest configuration is not in force; `None` when it is.
    pub rejection: Option<Arc<Rejection>>,
    /// What the operator told last, in force or refused; `None` before it told anything, and without an operator.
    pub told: Option<Arc<contract::Configuration>>,
    /// Times that a changed configuration was accepted, the first included.
    pub accepted: u64,
    /// Times that a changed configuration was refused.
    pub rejected: u64,
}

/// One configuration, whole and valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The policies, ordered by namespace and name; none only while the operator has told of none.
    pub policies: Vec<Policy>,
    /// Where and whom the sidecar serves: the same in every policy that is not orphaned.
    pub listen: Listen,
    /// Certificate and key for `listen.tls`.
    pub tls: Option<Arc<ListenFiles>>,
    /// Longest drain after SIGTERM.
    pub shutdown_grace: Duration,
}

impl Snapshot {
    /// The policy of this name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.key() == (namespace, name))
    }
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its values.
    pub resolved: Arc<Resolved>,
    /// Who logs in to the server, and whom clients must be.
    pub credentials: Arc<Credentials>,
    /// Its file; `environment` or `operator` and its name without one.
    pub origin: String,
    /// The policy as the operator told it, if it did.
    pub told: Option<Arc<contract::Policy>>,
    /// Its file, or it in there, is gone, or the operator tells of it no more: it is served on until the sidecar ends or another policy takes its alias.
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

/// Credentials that were replaced: servers that refuse the new password are asked with these, however long the role's own
/// change is in coming (decision 27).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The user's name then.
    pub user: String,
    /// The password then.
    pub password: Secret,
    /// When they were replaced.
    pub since: SystemTime,
    /// Until when they are accepted from clients.
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

/// Why a configuration was not taken.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// When it was read.
    pub at: SystemTime,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// Reads the first configuration as the options and the environment have it, and starts to watch.
///
/// # Errors
/// Everything that is wrong with it. With an operator a wrong one is no error: the sidecar waits for a good one.
pub fn start(options: &Options) -> Result<Source, Vec<Finding>> {
    let (secrets, environment) = (options.secrets_dir.clone(), Environment::read());
    match &options.operator {
        None => Source::open(options.policy.clone(), secrets, environment),
        Some(operator) => Source::told(operator.place.clone(), secrets, environment, Files::Watched),
    }
}

/// Whether files are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// By a thread: what changes in them is taken.
    Watched,
    /// Not at all: they are read when the operator tells something, and by [`Source::reload`]. Costs no thread.
    Unwatched,
}

/// The configuration, kept up to date; ends when dropped.
#[derive(Debug)]
pub struct Source {
    loader: Arc<Mutex<Loader>>,
    state: tokio::sync::watch::Receiver<State>,
    watching: Option<Watching>,
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
        let other = environment.login().ok().flatten().and_then(|login| login.root_certificate);
        let targets = Targets { policies: policies.clone(), secrets: secrets.clone(), other };
        let policies = policies.map_or(Policies::Environment, Policies::Files);
        let inputs = Inputs::new(policies, secrets, environment);
        Self::new(Some(targets), || Loader::start(inputs, Instant::now()))
    }

    /// Waits for what the operator tells ([`Source::teller`]); until then there is no policy, and clients are expected
    /// at `place`.
    ///
    /// # Errors
    /// If the place can't be used, or no thread could be started.
    pub fn told(
        place: Place,
        secrets: Option<PathBuf>,
        environment: Environment,
        files: Files,
    ) -> Result<Self, Vec<Finding>> {
        let targets = Targets { secrets: secrets.clone(), ..Targets::default() };
        let empty = told::empty(&place)?;
        let inputs = Inputs::new(Policies::Told(None), secrets, environment);
        Self::new((files == Files::Watched).then_some(targets), || Ok(Loader::waiting(inputs, empty)))
    }

    fn new(
        targets: Option<Targets>,
        load: impl FnOnce() -> Result<Loader, Vec<Finding>>,
    ) -> Result<Self, Vec<Finding>> {
        // Watching starts before reading: nothing can change unseen in between.
        let watch = targets.map(thread::Prepared::new);
        let loader = load()?;
        let state = loader.subscribe();
        let loader = Arc::new(Mutex::new(loader));
        let watching = watch.map(|watch| watch.start(Arc::clone(&loader))).transpose()?;
        Ok(Self { loader, state, watching })
    }

    /// What is in force, and a way to wait for changes of it.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<State> {
        self.state.clone()
    }

    /// Reads everything once more, for SIGHUP.
    pub fn reload(&self) {
        match &self.watching {
            Some(watching) => watching.reload(),
            None => _ = lock(&self.loader).reload(Instant::now()),
        }
    }

    /// For whoever hears what the operator tells.
    pub fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.loader))
    }
}

/// Hands over what the operator told; clones hand it to the same [`Source`].
#[derive(Clone, Debug)]
pub struct Teller(Arc<Mutex<Loader>>);

impl Teller {
    /// Takes a configuration or refuses it, whole: readers of the source's [`State`] see which when this returns. Reads
    /// the Secrets that it names. What this returns is whether anything changed.
    pub fn tell(&self, configuration: contract::Configuration) -> bool {
        lock(&self.0).tell(configuration, Instant::now())
    }
}

fn lock(loader: &Mutex<Loader>) -> MutexGuard<'_, Loader> {
    // What is published is replaced whole, at the very end of each step.
    loader.lock().unwrap_or_else(PoisonError::into_inner)
}
