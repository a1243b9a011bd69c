//! Where the configuration comes from: policy files that are watched, or the environment; and files with credentials.
//!
//! All or nothing: when anything that was read is wrong, nothing changes, the last good configuration stays and the
//! [`Rejection`] says everything that is wrong.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::api::resolve::{Listen, Problem, Resolved};
use crate::pg::auth::Secret;

/// For how long a replaced password is still accepted from clients, and tried at servers that refuse the new one.
pub const OVERLAP: Duration = Duration::from_secs(300);

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
