//! Conditions of a policy and of its pods: types, reasons, and the one way to set one.
//!
//! Reasons are part of the interface (people and alerts match on them): one CamelCase word, never empty. See
//! <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md>.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The policy is valid and no other has its place.
pub const ACCEPTED: &str = "Accepted";
/// Everything that it refers to was found by every sidecar that looked.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Every matched pod said that it runs this generation.
pub const PROGRAMMED: &str = "Programmed";
/// While credentials change: whether what comes next in their rotation may be done. Not there otherwise.
pub const CREDENTIALS_ROTATED: &str = "CredentialsRotated";
/// Accepted and Programmed, and nothing that it refers to is missing.
pub const READY: &str = "Ready";

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Holds {
    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Why a condition is as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Accepted.
    Accepted,
    /// The policy breaks a rule: the message has every path.
    Invalid,
    /// An older policy has its place.
    Conflicted,
    /// Nothing is known yet.
    Pending,
    /// All references were found.
    ResolvedRefs,
    /// A Secret is not there.
    SecretNotFound,
    /// A Secret lacks a key.
    SecretKeyMissing,
    /// A CA's certificate can't be read.
    InvalidCaCertificateRef,
    /// Every matched pod runs it.
    AllPodsApplied,
    /// There is no pod to run it, which is no fault.
    NoMatchingPods,
    /// A sidecar refused it.
    PodsRejected,
    /// A sidecar has not been heard from.
    PodsUnreachable,
    /// A pod can't run a field of it before it is made anew.
    RestartRequired,
    /// Some sidecars have not read the new credentials yet.
    SecretNotReadByAll,
    /// All have read the new name of a role, but sessions of the old role are still open.
    OldRoleInUse,
    /// All have read the new password: the role's password can be changed now.
    AllRead,
    /// No session of the old role is open: it can be revoked now.
    OldRoleUnused,
    /// Ready.
    Ready,
    /// Pod: it runs the newest revision.
    Applied,
    /// Pod: it refused the newest revision.
    Rejected,
    /// Pod: its sidecar has not been heard from.
    Stale,
    /// Pod: no policy is for it.
    NoPolicy,
    /// Pod: its database answers.
    Connected,
    /// Pod: its database can't be reached.
    NoBackend,
    /// Pod: its database refuses the login.
    AuthFailed,
    /// Pod: its sidecar ends.
    Draining,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::Accepted,
        Self::Invalid,
        Self::Conflicted,
        Self::Pending,
        Self::ResolvedRefs,
        Self::SecretNotFound,
        Self::SecretKeyMissing,
        Self::InvalidCaCertificateRef,
        Self::AllPodsApplied,
        Self::NoMatchingPods,
        Self::PodsRejected,
        Self::PodsUnreachable,
        Self::RestartRequired,
        Self::SecretNotReadByAll,
        Self::OldRoleInUse,
        Self::AllRead,
        Self::OldRoleUnused,
        Self::Ready,
        Self::Applied,
        Self::Rejected,
        Self::Stale,
        Self::NoPolicy,
        Self::Connected,
        Self::NoBackend,
        Self::AuthFailed,
        Self::Draining,
    ];

    /// As the API writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Invalid => "Invalid",
            Self::Conflicted => "Conflicted",
            Self::Pending => "Pending",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretKeyMissing => "SecretKeyMissing",
            Self::InvalidCaCertificateRef => "InvalidCACertificateRef",
            Self::AllPodsApplied => "AllPodsApplied",
            Self::NoMatchingPods => "NoMatchingPods",
            Self::PodsRejected => "PodsRejected",
            Self::PodsUnreachable => "PodsUnreachable",
            Self::RestartRequired => "RestartRequired",
            Self::SecretNotReadByAll => "SecretNotReadByAll",
            Self::OldRoleInUse => "OldRoleInUse",
            Self::AllRead => "AllRead",
            Self::OldRoleUnused => "OldRoleUnused",
            Self::Ready => "Ready",
            Self::Applied => "Applied",
            Self::Rejected => "Rejected",
            Self::Stale => "Stale",
            Self::NoPolicy => "NoPolicy",
            Self::Connected => "Connected",
            Self::NoBackend => "NoBackend",
            Self::AuthFailed => "AuthFailed",
            Self::Draining => "Draining",
        }
    }
}

/// What is to be said of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The condition's type.
    pub condition: &'static str,
    /// Whether it holds.
    pub holds: Holds,
    /// Why.
    pub reason: Reason,
    /// Why, for people.
    pub message: String,
}

/// The longest message that the API takes of a condition, in bytes.
const MAX_MESSAGE: usize = 32_768;

/// What the API holds of a finding: the time of the last transition moves only if the status does.
pub fn condition(finding: Finding, generation: Option<i64>, previous: &[Condition], now: Timestamp) -> Condition {
    let Finding { condition, holds, reason, mut message } = finding;
    let same = previous.iter().find(|known| known.type_ == condition && known.status == holds.name());
    while message.len() > MAX_MESSAGE {
        message.pop();
    }
    Condition {
        type_: condition.into(),
        status: holds.name().into(),
        reason: reason.name().into(),
        message,
        observed_generation: generation,
        last_transition_time: same.map_or(Time(now), |known| known.last_transition_time.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn finding(holds: Holds, reason: Reason) -> Finding {
        Finding { condition: PROGRAMMED, holds, reason, message: "é".repeat(40_000) }
    }

    #[test]
    fn time_moves_with_the_status_only() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let first = condition(finding(Holds::False, Reason::Pending), Some(1), &[], at(1));
        assert_eq!((first.status.as_str(), first.message.len()), ("False", 32_768));
        let second =
            condition(finding(Holds::False, Reason::PodsRejected), Some(2), std::slice::from_ref(&first), at(2));
        assert_eq!((&second.last_transition_time, second.observed_generation), (&first.last_transition_time, Some(2)));
        let third = condition(finding(Holds::True, Reason::AllPodsApplied), Some(2), &[second], at(3));
        assert_eq!(third.last_transition_time, Time(at(3)));
    }
}
