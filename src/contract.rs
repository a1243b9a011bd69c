//! What operator and sidecar say to each other.
//!
//! One TLS connection a pod, opened by the sidecar: configuration comes down, reports go up. Each message is whole and
//! idempotent (a revision, never a difference), so a lost one costs nothing. A message is JSON in a frame: its length in
//! four bytes (big endian), at most [`MAX_FRAME`].
//!
//! Sidecars live as long as their pods, so both ends meet other versions: unknown fields are passed over, unknown
//! messages are [`ToSidecar::Unknown`] and [`ToOperator::Unknown`], and the operator sends a sidecar only fields of a
//! policy that it said it knows ([`Hello::fields`]).

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of what stands here. An operator serves three versions back.
pub const VERSION: u32 = 1;
/// The audience of the tokens by which sidecars prove who they are.
pub const AUDIENCE: &str = "poolkeeper";
/// The longest message in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// Each end says something at least this often.
pub const PING: Duration = Duration::from_secs(5);
/// Who hears nothing for this long closes the connection: two pings missed.
pub const SILENCE: Duration = Duration::from_secs(12);
/// A new connection must have said who it is by then.
pub const GREETING: Duration = Duration::from_secs(10);

/// What a sidecar says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToOperator {
    /// The first message: who it is and what it knows.
    Hello(Box<Hello>),
    /// A new token before the old one expires.
    Renew {
        /// The token.
        token: Token,
    },
    /// What runs.
    Report(Report),
    /// Nothing new, but alive.
    Ping,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// What the operator says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToSidecar {
    /// The sidecar is who it says; configurations follow.
    Welcome {
        /// The leader's term.
        term: u64,
        /// The operator's version.
        version: String,
    },
    /// No; the connection is closed after this.
    Refused {
        /// Why.
        reason: Refusal,
        /// Why, for people.
        message: String,
    },
    /// What is to run.
    Configuration(Configuration),
    /// The authorities that sign the operator's certificates from now on: kept beside the configuration and trusted at
    /// the next connection, with those that were there at the start.
    Authorities {
        /// Their certificates.
        pem: String,
    },
    /// Nothing new, but alive.
    Ping,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// Why a sidecar is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Another replica leads: try again.
    NotLeader,
    /// The token is not valid, has expired, or is not for a pod.
    Unauthenticated,
    /// The pod is not known, is another one of that name, or is gone.
    UnknownPod,
    /// The contract's version is too old or too new.
    Version,
    /// What was said makes no sense.
    Protocol,
    /// A reason of a later version.
    #[serde(other)]
    Other,
}

/// A sidecar's first message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hello {
    /// [`VERSION`] of the sidecar.
    pub contract: u32,
    /// The sidecar's version and commit.
    pub version: String,
    /// Another one for each start of the process.
    pub boot: String,
    /// The highest term it has seen; it refuses lower ones.
    pub term: u64,
    /// Paths of the policy's fields that it knows, such as `spec.pool.size`.
    pub fields: Vec<String>,
    /// The projected ServiceAccount token.
    pub token: Token,
}

/// What one pod is to run: all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Configuration {
    /// The leader's term; a sidecar passes over a configuration of a lower term than it has seen.
    pub term: u64,
    /// The policies, ordered by namespace and name.
    pub policies: Vec<Policy>,
}

/// One policy for a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid: another policy of the same name is another one.
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// A short hash of its effective values: what the sidecar reports as applied.
    pub revision: String,
    /// The policy's `spec` with defaults filled in; without it, whatever runs of this policy stays as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Value>,
}

/// What a sidecar runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// It was asked to end.
    pub draining: bool,
    /// One for each policy that runs or was refused.
    pub policies: Vec<PolicyReport>,
}

/// What became of one policy in a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyReport {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
    /// The policy's uid, if the sidecar was told.
    pub uid: String,
    /// The operator tells of it no more; it is served on.
    pub orphaned: bool,
    /// What the pool runs; nothing before the first configuration was applied.
    pub applied: Option<Applied>,
    /// What was refused after that.
    pub rejected: Option<Rejected>,
    /// Fields that take effect only in a new pod, as `spec.listen.port`.
    pub restart: Vec<String>,
    /// Secrets that it needs.
    pub references: References,
    /// What the pool logs in with, as far as others may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Whether the database answers.
    pub health: Health,
    /// The pool, if there is one.
    pub numbers: Option<Numbers>,
}

/// What a pool runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Applied {
    /// The policy's generation.
    pub generation: i64,
    /// [`Policy::revision`].
    pub revision: String,
}

/// A configuration that was refused whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rejected {
    /// The policy's generation.
    pub generation: i64,
    /// [`Policy::revision`].
    pub revision: String,
    /// What is wrong with it, each with its path: `spec.pool.minIdle: …`.
    pub problems: Vec<String>,
}

/// Whether everything that a policy refers to was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct References {
    /// The class.
    pub state: ReferenceState,
    /// Which Secret or key, for people; never what is in it.
    pub message: String,
}

/// Whether everything that a policy refers to was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ReferenceState {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// All there.
    Resolved,
    /// A Secret is not mounted or empty.
    SecretNotFound,
    /// A Secret lacks a key.
    SecretKeyMissing,
    /// A CA's certificate can't be read.
    #[serde(rename = "InvalidCACertificateRef")]
    InvalidCaCertificateRef,
    /// Something of a later version.
    #[serde(other)]
    Other,
}

/// Which credentials a pool logs in with: enough to see that several have read the same, never what they are.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Credentials {
    /// Alike where user and password are. A few bits of a slow hash; kept in memory, never shown.
    pub mark: u32,
    /// When the process read others than before, in seconds since 1970; none = it never has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<i64>,
    /// These were for another role.
    pub role_changed: bool,
    /// A server session of another role is still open.
    pub old_role_in_use: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("changed", &self.changed).finish_non_exhaustive()
    }
}

/// Whether the database answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// The class.
    pub state: HealthState,
    /// Why it is not healthy, for people.
    pub message: String,
}

/// Whether the database answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthState {
    /// Nothing was heard from it yet.
    #[default]
    Unknown,
    /// It answers.
    Connected,
    /// It can't be reached or does not answer.
    NoBackend,
    /// It refuses the login.
    AuthFailed,
    /// The sidecar was asked to end.
    Draining,
    /// Something of a later version.
    #[serde(other)]
    Other,
}

/// How much of a pool's limit is lent: a report follows at once when this changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Band {
    /// Less than [`BAND`].
    Below,
    /// Within it.
    Within,
    /// More.
    Above,
}

impl Band {
    /// Of that many per cents.
    pub fn of(percent: u32) -> Self {
        match percent {
            _ if percent < *BAND.start() => Self::Below,
            _ if percent > *BAND.end() => Self::Above,
            _ => Self::Within,
        }
    }
}

/// The utilisation that a pool is meant to have, in percent.
pub const BAND: RangeInclusive<u32> = 60..=80;

/// A pool at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Numbers {
    /// Connections kept when given back; 0 = any number.
    pub size: u32,
    /// Connections opened above size while needed; -1 = any number.
    pub max_overflow: i32,
    /// The most that may exist at once; none = unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Lent to clients.
    pub in_use: u32,
    /// Open and free.
    pub idle: u32,
    /// Open above size.
    pub overflow: u32,
    /// Requests that wait for a connection.
    pub waiting: u32,
    /// 99 of 100 requests of the last beats waited at most about this long, in microseconds; none = nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acquire_p99_us: Option<u64>,
}

impl Numbers {
    /// Lent connections in percent of the limit, rounded; none = unlimited.
    pub fn utilization_percent(&self) -> Option<u32> {
        let limit = self.limit?;
        Some((self.in_use * 100 + limit / 2).checked_div(limit).unwrap_or(100))
    }

    /// Where the utilisation lies; none = unlimited.
    pub fn band(&self) -> Option<Band> {
        self.utilization_percent().map(Band::of)
    }
}

/// A ServiceAccount token; neither `Debug` nor `Display` show it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Keeps `token`.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token itself, for the API server and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn messages_of_later_versions_are_passed_over() {
        let message: ToSidecar = serde_json::from_str(r#"{"type":"budget","limit":7}"#).unwrap();
        assert_eq!(message, ToSidecar::Unknown);
        let message: ToOperator = serde_json::from_str(r#"{"type":"report","draining":true,"new":1}"#).unwrap();
        assert_eq!(message, ToOperator::Report(Report { draining: true, policies: vec![] }));
        let state: ReferenceState = serde_json::from_str(r#""Elsewhere""#).unwrap();
        assert_eq!(state, ReferenceState::Other);
    }

    #[test]
    fn what_is_said_is_understood() {
        let hello = Hello { contract: VERSION, token: Token::new("secret"), ..Hello::default() };
        let message = ToOperator::Hello(Box::new(hello));
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ToOperator>(&text).unwrap(), message);
        assert!(!format!("{message:?}").contains("secret"));
        let message = ToSidecar::Refused { reason: Refusal::NotLeader, message: "another".into() };
        let text = serde_json::to_string(&message).unwrap();
        assert_eq!(text, r#"{"type":"refused","reason":"NotLeader","message":"another"}"#);
    }

    #[test]
    fn utilization_is_rounded() {
        let of = |in_use, limit| Numbers { in_use, limit, ..Numbers::default() }.utilization_percent();
        assert_eq!(
            [of(12, Some(30)), of(2, Some(3)), of(0, Some(0)), of(5, None)],
            [Some(40), Some(67), Some(100), None]
        );
        let band = |in_use, limit| Numbers { in_use, limit, ..Numbers::default() }.band();
        let bands = [59, 60, 80, 81].map(|in_use| band(in_use, Some(100)).unwrap());
        assert_eq!(bands, [Band::Below, Band::Within, Band::Within, Band::Above]);
        assert_eq!(band(5, None), None);
    }
}
