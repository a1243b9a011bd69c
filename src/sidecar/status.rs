//! The sidecar at one moment, as plain data: what `/status` says, what `/metrics` and `/api/health` are made from, and
//! what `poolkeeper status` reads. Times are seconds; absent values are null; nothing here is secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::connect_errors::ErrorCount;
use super::probe::Verdict;
use super::stats::BUCKETS;

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Poolkeeper's version.
    pub version: String,
    /// The commit it was built from.
    pub commit: String,
    /// When it started (RFC 3339, UTC).
    pub started_at: String,
    /// The same in seconds since 1970.
    pub started_seconds: f64,
    /// Seconds since then.
    pub uptime_seconds: f64,
    /// Whether `/readyz` says 200.
    pub ready: bool,
    /// What keeps it from being ready, in one line.
    pub reason: Option<String>,
    /// Whether it was asked to end.
    pub draining: bool,
    /// Where clients may connect; empty until the listeners are bound.
    pub listeners: Vec<String>,
    /// Changes of configuration since the start.
    pub reloads: Reloads,
    /// The last configuration that was refused, if the newest was.
    pub rejection: Option<Rejection>,
    /// The link to the operator; null without `--operator`.
    pub operator: Option<Operator>,
    /// Logins refused since the start, by reason: `too_many_clients`, `credentials` or `other`.
    pub refused_logins: BTreeMap<String, u64>,
    /// One for each policy, ordered by the database's name.
    pub pools: Vec<Pool>,
    /// One for each connected client, ordered by pid.
    pub clients: Vec<Client>,
}

/// The link to the operator.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operator {
    /// Where it is looked for.
    pub url: String,
    /// Whether it said welcome and the connection stands.
    pub connected: bool,
    /// When that last changed (RFC 3339, UTC).
    pub since: String,
    /// The same in seconds since 1970.
    pub since_seconds: f64,
    /// The highest term of a leader that was seen.
    pub term: u64,
    /// The operator's version.
    pub version: Option<String>,
    /// Why there is no connection.
    pub error: Option<String>,
    /// Connections since the start.
    pub connections: u64,
    /// Connections that ended or could not be made, since the start.
    pub failures: u64,
}

/// Changes of configuration since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloads {
    /// Applied, the first one included.
    pub applied: u64,
    /// Refused: nothing was changed.
    pub rejected: u64,
}

/// A configuration that was refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejection {
    /// When (RFC 3339, UTC).
    pub at: String,
    /// Every problem.
    pub problems: Vec<Problem>,
}

/// What was wrong with a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The field, such as `spec.pool.minIdle`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// One policy and its pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pool {
    /// The name that clients ask for.
    pub database: String,
    /// The policy's name.
    pub policy: String,
    /// The policy's namespace.
    pub namespace: String,
    /// A short hash of the effective settings.
    pub revision: String,
    /// The policy's generation, where it has one.
    pub generation: Option<i64>,
    /// When these settings were applied (RFC 3339, UTC).
    pub applied_at: String,
    /// The same in seconds since 1970.
    pub applied_seconds: f64,
    /// Whether the policy's file is gone, or the operator tells of it no more; the pool goes on serving.
    pub orphaned: bool,
    /// The policy's `spec` with every default filled in.
    pub settings: serde_json::Value,
    /// Whether the database answers.
    pub health: Health,
    /// The connections to the server.
    pub connections: Connections,
    /// What went through.
    pub traffic: Traffic,
    /// What logging in to the server taught.
    pub server: Server,
    /// Whether anything in the database can touch a session.
    pub catalog: Catalog,
    /// Clients that session state binds to a server now.
    pub pinned: Pinned,
}

/// Clients that session state binds to a server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pinned {
    /// How many there are now.
    pub clients: u32,
    /// How many there may be at once (`pool.maxPinned` of the pool's limit); null = unlimited.
    pub limit: Option<u32>,
}

/// Whether a database answers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The verdict.
    pub status: Verdict,
    /// Why it is not healthy.
    pub reason: Option<String>,
    /// Whether it has answered and is not unhealthy: what `/readyz` asks if the policy says `readiness: Database`.
    pub usable: bool,
    /// Whether the policy makes it a condition of readiness.
    pub required: bool,
    /// Seconds since it last answered.
    pub last_success_seconds_ago: Option<f64>,
    /// Health queries that failed in a row.
    pub consecutive_failures: u32,
    /// Looks by outcome: `heard` (a client's reply proved it), `answered`, `failed`, `saturated`.
    pub looks: BTreeMap<String, u64>,
}

/// The connections of one pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// SQLAlchemy's `size()`.
    pub size: u32,
    /// SQLAlchemy's `checkedin()`.
    pub checked_in: u32,
    /// SQLAlchemy's `checkedout()`.
    pub checked_out: u32,
    /// SQLAlchemy's `overflow()`: negative until `size` connections were opened.
    pub overflow: i64,
    /// Checked in and out together.
    pub total_connections: u64,
    /// The most that may exist at once; null = unlimited.
    pub limit: Option<u32>,
    /// Open and free.
    pub idle: u32,
    /// Lent to a client.
    pub in_use: u32,
    /// Being opened.
    pub connecting: u32,
    /// Told to end, not ended yet.
    pub closing: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// Lent or being opened, in percent of the limit; null if unlimited.
    pub utilization_percent: Option<f64>,
    /// Opened since the start.
    pub opened: u64,
    /// Closed since the start, by reason.
    pub closed: BTreeMap<String, u64>,
    /// Openings that failed.
    pub connect_failures: u64,
    /// Closings that the server did not confirm in time.
    pub close_deadlines: u64,
    /// Requests that got a connection.
    pub granted: u64,
    /// Requests that waited for too long.
    pub timeouts: u64,
    /// Requests refused because too many waited.
    pub refused: u64,
}

/// What went through one pool since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Clients connected now.
    pub clients: u64,
    /// Clients that logged in.
    pub logins: u64,
    /// Queries answered.
    pub queries: u64,
    /// Transactions ended.
    pub transactions: u64,
    /// Bytes read from clients.
    pub client_bytes: u64,
    /// Bytes read from servers.
    pub server_bytes: u64,
    /// Errors of servers passed on to clients.
    pub server_errors: u64,
    /// Errors that Poolkeeper itself sent to clients.
    pub own_errors: u64,
    /// Cancel requests passed on.
    pub cancels: u64,
    /// Statements prepared on a server that lacked them.
    pub prepares: u64,
    /// Parse messages answered without the server.
    pub prepare_hits: u64,
    /// Clients bound to a server by session state, by reason.
    pub pins: BTreeMap<String, u64>,
    /// Servers scrubbed before another client got them.
    pub scrubs: u64,
    /// Servers on which a client's own settings were set.
    pub adaptations: u64,
    /// Questions after a transaction about what it has changed in its client's session, by kind: `targeted` or `full`.
    pub audits: BTreeMap<String, u64>,
    /// From a client's request to its connection.
    pub acquire: Times,
    /// From a query to its answer.
    pub query: Times,
    /// From a connection's lending to its return.
    pub transaction: Times,
}

/// A distribution of times.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_seconds: f64,
    /// Half were at most about this long (upper bound of the bucket); null if none was, or beyond the last bucket.
    pub p50_seconds: Option<f64>,
    /// 99 of 100 were at most about this long.
    pub p99_seconds: Option<f64>,
    /// Counts by bucket (not cumulative); bounds: [`BUCKETS`], then infinity.
    pub buckets: Vec<u64>,
}

impl Times {
    /// From the counts of all buckets and the sum in microseconds.
    pub fn new(buckets: Vec<u64>, sum_us: u64) -> Self {
        let count = buckets.iter().sum();
        let sum_seconds = sum_us as f64 / 1e6;
        let mut times = Self { count, sum_seconds, p50_seconds: None, p99_seconds: None, buckets };
        times.p50_seconds = times.percentile(50);
        times.p99_seconds = times.percentile(99);
        times
    }

    /// The upper bound of the bucket in which that percentile lies.
    fn percentile(&self, percent: u64) -> Option<f64> {
        let rank = self.count.checked_mul(percent)?.div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        BUCKETS.get(bucket).copied()
    }
}

/// What logging in to the servers of a pool taught.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Errors of connections to it.
    pub errors: Vec<ErrorCount>,
    /// What had to be done without.
    pub degraded: Vec<String>,
}

/// Whether anything in a database can touch a session behind an ordinary statement's back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Catalog {
    /// The last reading: `unknown`, `quiet` or `noisy`.
    pub verdict: String,
    /// Whether the database counts as quiet now: not before a definition that was seen here has been read, nor after a
    /// time in which nobody used it.
    pub quiet: bool,
    /// What makes it noisy, each with its reason; not all, if there is much.
    pub names: Vec<String>,
    /// How many there are beside those.
    pub more: usize,
    /// A trigger runs at every login.
    pub login_trigger: bool,
    /// Seconds since the verdict was last found to hold.
    pub read_seconds_ago: Option<f64>,
    /// How long the last reading took, in milliseconds.
    pub milliseconds: Option<f64>,
    /// Why the last look at the catalog went wrong, if it did.
    pub failure: Option<String>,
}

/// One connected client.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    /// The process id it was given.
    pub pid: i32,
    /// The database it asked for.
    pub database: String,
    /// Its `application_name`.
    pub application: String,
    /// Its address, or `unix`.
    pub peer: String,
    /// `idle`, `waiting`, `active` or `holding`.
    pub activity: String,
    /// Seconds since it logged in.
    pub connected_seconds: f64,
    /// Transactions it has ended.
    pub transactions: u64,
    /// The session state that binds it to its server.
    pub pinned: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bounds_of_buckets() {
        let mut buckets = vec![0; BUCKETS.len() + 1];
        assert_eq!(Times::new(buckets.clone(), 0).p50_seconds, None);
        buckets[0] = 98;
        buckets[3] = 2;
        let times = Times::new(buckets.clone(), 12_000);
        assert_eq!((times.count, times.sum_seconds), (100, 0.012));
        assert_eq!((times.p50_seconds, times.p99_seconds), (Some(0.000_1), Some(0.001)));
        buckets[BUCKETS.len()] = 900;
        assert_eq!(Times::new(buckets, 0).p50_seconds, None, "beyond the last bound");
    }

    #[test]
    fn a_status_of_another_version_can_be_read() {
        let status: Result<Status, _> =
            serde_json::from_str(r#"{"version":"9.9","pools":[{"database":"a","new":1}],"more":{}}"#);
        assert_eq!(status.map(|s| s.pools[0].database.clone()).ok().as_deref(), Some("a"));
    }
}
