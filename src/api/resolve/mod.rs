//! The one place where a policy becomes engine values. `check`, the file source, the environment source and (later) the
//! operator all call it, so accepting or refusing is the same everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration as StdDuration;

use serde::Serialize;

use super::schema;
pub use super::v1alpha1::{Auth, DbPoolPolicy, DbPoolPolicySpec, Mode, Preset, Readiness, Reset, TlsMode};
use crate::pg::session::mine::Care;
use crate::pool;

mod rules;
#[cfg(test)]
mod tests;

/// Where unix sockets lie unless the policy says otherwise.
pub const DEFAULT_SOCKET_DIR: &str = "/run/poolkeeper";

/// Something wrong with a policy: where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// The field, as `spec.pool.minIdle`; for the environment the variable's name; empty for the document as a whole.
    pub path: String,
    /// What is wrong and the way out, in one line. Never holds a secret.
    pub message: String,
}

impl Problem {
    /// A problem of the field at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: one_line(path.into()), message: one_line(message.into()) }
    }
}

/// A field's name is whatever a document says: it must not write lines of its own into a log or onto a terminal.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

/// A policy with every value decided: all that the rest of the program sees of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The policy's name; from the environment, the database's.
    pub name: String,
    /// The policy's namespace; `default` where it says none.
    pub namespace: String,
    /// A short hash of the effective values: equal if and only if nothing changed.
    pub revision: String,
    /// The API server's generation, if the document has one.
    pub generation: Option<i64>,
    /// Where and whom the sidecar serves.
    pub listen: Listen,
    /// Longest drain after SIGTERM.
    pub shutdown_grace: StdDuration,
    /// The server.
    pub database: Database,
    /// The pool's numbers.
    pub pool: pool::Config,
    /// For how long a client has its server connection.
    pub mode: Mode,
    /// What ends an open transaction of a client that left.
    pub reset_on_return: Reset,
    /// Statements kept prepared per server connection; 0 = pass through.
    pub prepared_statements: u32,
    /// What becomes of session state.
    pub care: Care,
    /// Share of the servers, in per cents, that clients may keep for session state.
    pub max_pinned: u8,
    /// Times that the pool doesn't know of.
    pub timeouts: Timeouts,
    /// How health is found out.
    pub health: Health,
    /// Where user and password come from.
    pub credentials: CredentialsSource,
    /// The policy's fields with every default filled in, as `check --resolved` and `/status` show them.
    pub effective: DbPoolPolicySpec,
}

impl Resolved {
    /// Names of all Secrets that a sidecar needs for this policy.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let credentials = match &self.credentials {
            CredentialsSource::Secret(name) => Some(name.as_str()),
            CredentialsSource::Environment => None,
        };
        let listen = self.listen.tls.as_ref();
        let listen = listen.into_iter().flat_map(|tls| [Some(tls.secret.as_str()), tls.client_ca.as_deref()]);
        listen.chain([credentials, self.database.ca_secret.as_deref()]).flatten().collect()
    }

    /// How many clients session state may bind to servers at once: the share of the limit, rounded up, one at least;
    /// none = unlimited.
    pub fn most_bound(&self) -> Option<u32> {
        let share = u64::from(self.pool.limit()?) * u64::from(self.max_pinned);
        Some(u32::try_from(share.div_ceil(100)).unwrap_or(u32::MAX).max(1))
    }
}

/// Where and whom the sidecar serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Address for TCP.
    pub address: IpAddr,
    /// TCP port; 0 = no TCP.
    pub port: u16,
    /// Directory of the unix sockets.
    pub socket: Option<PathBuf>,
    /// The directory was not asked for: if it can't be made, a warning is enough.
    pub socket_is_default: bool,
    /// How clients prove who they are.
    pub auth: Auth,
    /// TLS for clients.
    pub tls: Option<ListenTls>,
    /// Clients connected at once.
    pub max_clients: u32,
    /// Clients waiting at once, per database; 0 = unlimited.
    pub max_waiting: u32,
    /// Bytes of a start-up packet.
    pub max_startup_packet: usize,
    /// Bytes held for one client.
    pub max_buffered: usize,
    /// Longest time to log in.
    pub login_timeout: StdDuration,
    /// Time after which a silent client is ended; `None` = never.
    pub idle_timeout: Option<StdDuration>,
    /// TCP keepalive; `None` = the system's.
    pub keepalive: Option<StdDuration>,
}

/// Names of the Secrets for TLS towards clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// Holds `tls.crt` and `tls.key`.
    pub secret: String,
    /// Holds the `ca.crt` that clients' certificates must be signed by; `None` = no certificate is asked.
    pub client_ca: Option<String>,
}

/// The server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name that clients ask for.
    pub alias: String,
    /// Host name, address, or the directory of a unix socket (an absolute path).
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database's name on the server.
    pub name: String,
    /// How far TLS goes; `Disable` over a unix socket.
    pub tls: TlsMode,
    /// Secret with the `ca.crt` to trust.
    pub ca_secret: Option<String>,
}

/// Times that the pool doesn't know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Longest time to connect and log in.
    pub connect: StdDuration,
    /// PostgreSQL's `statement_timeout`; `None` = 0.
    pub statement: Option<StdDuration>,
    /// PostgreSQL's `idle_in_transaction_session_timeout`; `None` = 0.
    pub idle_in_transaction: Option<StdDuration>,
}

/// How health is found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The query that must be answered.
    pub query: String,
    /// Time between looks.
    pub interval: StdDuration,
    /// Longest time for the answer.
    pub timeout: StdDuration,
    /// Failures in a row that make it unhealthy.
    pub failure_threshold: u32,
    /// What `/readyz` stands for.
    pub readiness: Readiness,
}

/// Where user and password come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsSource {
    /// The Secret of this name: a directory below `--secrets-dir`.
    Secret(String),
    /// The policy names none: `DATABASE_URL`'s.
    Environment,
}

/// Decides every value of a policy, or says everything that is wrong with it.
///
/// # Errors
/// All problems: those of the schema (types, bounds) and those between fields.
pub fn resolve(policy: &DbPoolPolicy) -> Result<Resolved, Vec<Problem>> {
    let value = serde_json::to_value(policy).map_err(|error| vec![Problem::new("", error.to_string())])?;
    resolve_value(value)
}

/// The same for a document as it was written: unknown fields and wrong types are problems among the others.
///
/// # Errors
/// All problems, in the order of their paths.
pub fn resolve_value(value: serde_json::Value) -> Result<Resolved, Vec<Problem>> {
    let schema::Walked { mut problems, repaired, broken } = schema::walk(value);
    match serde_json::from_value::<DbPoolPolicy>(repaired) {
        Ok(policy) => match rules::settle(policy, broken) {
            Ok(resolved) if problems.is_empty() => return Ok(resolved),
            Ok(_) => {}
            Err(mut more) => problems.append(&mut more),
        },
        Err(error) if problems.is_empty() => problems.push(Problem::new("", error.to_string())),
        Err(_) => {}
    }
    problems.sort();
    Err(problems)
}

/// What keeps policies from being served by one sidecar: the index of the later one, and the problem.
pub fn conflicts(policies: &[&Resolved]) -> Vec<(usize, Problem)> {
    let mut found = Vec::new();
    let mut aliases = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        let name = format!("{}/{}", policy.namespace, policy.name);
        if names.insert(name.clone(), index).is_some() {
            found.push((index, Problem::new("metadata.name", format!("{name} is there twice: rename one of them"))));
            continue;
        }
        let alias = policy.database.alias.as_str();
        if let Some(first) = aliases.insert(alias, name.clone()) {
            let message = format!(
                "clients would find two policies, {first} and {name}, under the name {alias:?}: set database.alias of one"
            );
            found.push((index, Problem::new("spec.database.alias", message)));
        }
        let Some(first) = policies.first().filter(|_| index > 0) else { continue };
        for path in sidecar_differences(first, policy) {
            let message = format!(
                "differs between {}/{} and {name}, but belongs to the sidecar that serves both: write the same in each",
                first.namespace, first.name
            );
            found.push((index, Problem::new(path, message)));
        }
    }
    found
}

/// Paths of the fields that belong to the sidecar and differ between two policies.
fn sidecar_differences(a: &Resolved, b: &Resolved) -> Vec<String> {
    let fields = |policy: &Resolved| {
        let value = serde_json::json!({ "listen": policy.effective.listen, "shutdown": policy.effective.shutdown });
        let mut leaves = BTreeMap::new();
        schema::leaves("spec", &value, &mut leaves);
        leaves
    };
    let (a, b) = (fields(a), fields(b));
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    paths.into_iter().filter(|path| a.get(*path) != b.get(*path)).cloned().collect()
}
