//! The `DbPoolPolicy`, version `v1alpha1`: types, their documentation, schema and CEL rules; no logic.
//!
//! A field that is left out takes its preset's value, so in a spec none but `preset` has a default in the schema: else the API
//! server would store one preset's numbers and another preset would do nothing. The effective values are
//! [`super::resolve`]'s, which checks the same rules again. Descriptions here are the CRD's.

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::cel;
use super::duration::{Bounds, Duration};
use super::percent::Percent;

mod listen;
mod selector;
mod status;

pub use listen::{Auth, ListenSpec, ListenTlsSpec, ShutdownSpec};
pub use selector::{Operator, Requirement, Selector};
pub use status::{DbPoolPolicyStatus, PodsStatus, PoolStatus};

/// What a Secret's name looks like (RFC 1123 subdomain); it is also a directory below `--secrets-dir`.
pub(super) const SECRET_NAME: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// A host name or address, or an absolute path short enough for a unix socket's address.
pub(super) const HOST: &str = r"^(/[^,]{0,80}|[^\s,/]+)$";

/// An absolute path, or nothing.
pub(super) const DIRECTORY: &str = r"^(/.*)?$";

/// How the connections to one PostgreSQL database are pooled.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "poolkeeper.dev",
    version = "v1alpha1",
    kind = "DbPoolPolicy",
    plural = "dbpoolpolicies",
    singular = "dbpoolpolicy",
    shortname = "dbpool",
    shortname = "dbpools",
    category = "poolkeeper",
    namespaced,
    derive = "PartialEq",
    doc = "How the connections to one PostgreSQL database are pooled.",
    status = "DbPoolPolicyStatus",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Programmed","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Pods","type":"string","jsonPath":".status.pods.summary"}"#,
    printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".status.pool.size"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"InUse","type":"integer","jsonPath":".status.pool.inUse","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message","priority":1}"#
)]
#[x_kube(validation = cel::min_idle())]
#[serde(rename_all = "camelCase")]
pub struct DbPoolPolicySpec {
    /// Pods of the policy's namespace that it is for. May be left out where pods name their policy, and without Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Where the values of fields that are left out come from: size and maxOverflow are 5/5, 20/10 and 50/20.
    #[serde(default)]
    pub preset: Preset,
    /// The database behind the pool.
    pub database: DatabaseSpec,
    /// The pool itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolSpec>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsSpec>,
    /// How the database's health is found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthSpec>,
    /// Where and whom the sidecar serves. It belongs to the sidecar: the policies of one sidecar must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<ListenSpec>,
    /// How the sidecar ends. It belongs to the sidecar: the policies of one sidecar must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<ShutdownSpec>,
}

/// Leaves the description to the field that has this type.
fn undescribed(schema: &mut Schema) {
    schema.remove("description");
}

/// Where the values of fields that are left out come from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// Size 5, maxOverflow 5.
    Development,
    /// Size 20, maxOverflow 10.
    #[default]
    Production,
    /// Size 50, maxOverflow 20.
    HighTraffic,
}

impl Preset {
    /// All of them, smallest first.
    pub const ALL: [Self; 3] = [Self::Development, Self::Production, Self::HighTraffic];

    /// `pool.size` where the policy doesn't say it.
    pub const fn size(self) -> i32 {
        match self {
            Self::Development => 5,
            Self::Production => 20,
            Self::HighTraffic => 50,
        }
    }

    /// `pool.maxOverflow` where the policy doesn't say it.
    pub const fn max_overflow(self) -> i32 {
        match self {
            Self::Development => 5,
            Self::Production => 10,
            Self::HighTraffic => 20,
        }
    }
}

/// The database behind the pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = cel::tls_on_unix_socket(), validation = cel::ca_needs_verification())]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSpec {
    /// Name or address of the server, or the directory of its unix socket (an absolute path).
    #[schemars(length(min = 1, max = 253), regex(pattern = HOST))]
    pub host: String,
    /// Its port. 5432 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// The database's name on the server.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The name under which clients ask for it. The database's name when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub alias: Option<String>,
    /// Who logs in to the server, and whom clients must be. DATABASE_URL's user and password when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsSpec>,
    /// TLS to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<DatabaseTlsSpec>,
}

/// Where user name and password come from.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSpec {
    /// Secret with the keys username and password; without Kubernetes the directory of that name below --secrets-dir.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub secret_name: String,
}

/// TLS to the server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseTlsSpec {
    /// How much of the server's certificate is checked. VerifyFull when left out (Disable over a unix socket); Prefer and Require verify nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<TlsMode>,
    /// Secret whose key ca.crt holds the certificates to trust. When left out: ca.crt beside the credentials, else the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub ca_secret_name: Option<String>,
}

/// TLS to the server, as libpq's `sslmode` has it (<https://www.postgresql.org/docs/current/libpq-ssl.html>).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it; nothing is verified.
    Prefer,
    /// TLS or nothing; nothing is verified.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// TLS with a certificate of a trusted authority for this host.
    VerifyFull,
}

impl TlsMode {
    /// Whether the server's certificate is checked against trusted authorities.
    pub const fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// The pool itself.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// For how long a client has its server connection: for its session, a transaction or a statement. Transaction when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Connections kept when given back. 0 = any number, and maxOverflow means nothing. The preset's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub size: Option<i32>,
    /// Connections opened above size while needed, closed when given back. -1 = any number. The preset's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 10000))]
    pub max_overflow: Option<i32>,
    /// Age above which a connection is replaced at its next checkout. 0s = never. 1h when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::AGE.rule())]
    pub recycle: Option<Duration>,
    /// By how much of recycle a connection's own age limit may be shorter, at random. 0% = not at all. 0% when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recycle_jitter: Option<Percent>,
    /// Whether a connection that was not heard from lately is asked for an answer before a client gets it. true when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_ping: Option<bool>,
    /// Which idle connection is lent: the one idle longest or shortest. Fifo when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Idle connections opened ahead of need. 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub min_idle: Option<i32>,
    /// Idle time after which a connection above minIdle is closed. 0s = never. 0s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::AGE.rule())]
    pub idle_timeout: Option<Duration>,
    /// What ends an open transaction of a client that left; a failed one is always rolled back. Rollback when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_on_return: Option<Reset>,
    /// Statements kept prepared per server connection, the least recently used goes first. 0 = pass through. 200 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub prepared_statements: Option<i32>,
    /// What becomes of session state in modes Transaction and Statement. Preserve when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_state: Option<SessionState>,
    /// Share of the servers that clients may keep for session state that binds them; one at least. 50% when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pinned: Option<Percent>,
}

/// What becomes of session state in modes Transaction and Statement.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum SessionState {
    /// A client's settings go with it from server to server; what is bound to a server keeps its client there; a server
    /// that is not proven clean is scrubbed for its next client.
    #[default]
    Preserve,
    /// As Preserve, and a server is scrubbed at every change of client.
    Strict,
    /// As Preserve, but routines of the database are trusted to leave nothing behind.
    Trusting,
    /// As Preserve, but statements that would bind a client to a server are refused.
    Reject,
}

/// For how long a client has its server connection.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum Mode {
    /// Until the client leaves.
    Session,
    /// For each transaction.
    #[default]
    Transaction,
    /// For each statement; transactions of several statements are refused.
    Statement,
}

/// Which idle connection is lent.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum Order {
    /// The one given back longest ago.
    #[default]
    Fifo,
    /// The one given back last, so that surplus ones go idle.
    Lifo,
}

/// What ends an open transaction of a client that left.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum Reset {
    /// ROLLBACK.
    #[default]
    Rollback,
    /// COMMIT.
    Commit,
}

/// How long things may take.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutsSpec {
    /// Longest wait for a connection, then SQLSTATE 53300. 0s = no wait. 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::ACQUIRE.rule())]
    pub acquire: Option<Duration>,
    /// Longest time to connect and log in to the server. 10s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::CONNECT.rule())]
    pub connect: Option<Duration>,
    /// PostgreSQL's statement_timeout where a client sets no other. 0s = none. 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::SESSION.rule())]
    pub statement: Option<Duration>,
    /// PostgreSQL's idle_in_transaction_session_timeout where a client sets no other. 0s = none. 0s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::SESSION.rule())]
    pub idle_in_transaction: Option<Duration>,
    /// Time after a shrink at which clients idle in a transaction are ended with 57P01. 0s = they may finish. 0s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::SHRINK.rule())]
    pub shrink: Option<Duration>,
}

/// How the database's health is found out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = cel::health_timeout())]
#[serde(rename_all = "camelCase")]
pub struct HealthSpec {
    /// The query that must be answered. SELECT 1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub query: Option<String>,
    /// Time between looks. 5s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::HEALTH.rule())]
    pub interval: Option<Duration>,
    /// Longest time for the answer; not above interval. 2s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::HEALTH.rule())]
    pub timeout: Option<Duration>,
    /// Failures in a row that make the database unhealthy. 3 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: Option<i32>,
    /// What /readyz stands for: an applied configuration, or a healthy database too. Config when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
}

/// What `/readyz` stands for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum Readiness {
    /// The configuration is applied.
    #[default]
    Config,
    /// The configuration is applied and the database is healthy.
    Database,
}
