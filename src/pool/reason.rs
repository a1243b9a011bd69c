//! Why a connection was closed, why a request was refused: the same words in logs, metrics and tests.

use std::time::Duration;

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Older than `recycle` when it was to be lent.
    Recycled,
    /// Opened before the pool was invalidated, found when it was to be lent.
    Invalidated,
    /// The ping before lending found it dead, or did not end in time.
    PingFailed,
    /// The server closed it or broke it.
    Disconnected,
    /// Given back when `size` were there already.
    Surplus,
    /// Above the limit after a shrink.
    Shrunk,
    /// Idle for longer than the idle timeout.
    IdleTimeout,
    /// Belongs to an earlier generation: another host, user, TLS or session default.
    Replaced,
    /// Closed at the limit in favour of a request with other startup parameters.
    OtherKey,
    /// Its client left in the middle of something.
    Abandoned,
    /// The server said what the protocol does not allow, or more than it was asked.
    Protocol,
    /// What its client left behind could not be reset.
    ResetFailed,
    /// Its session carries, or may carry, what nothing undoes.
    Hygiene,
    /// The pool is closing.
    Shutdown,
}

impl CloseReason {
    /// All of them, in the order of [`CloseReason::index`].
    pub const ALL: [Self; 14] = [
        Self::Recycled,
        Self::Invalidated,
        Self::PingFailed,
        Self::Disconnected,
        Self::Surplus,
        Self::Shrunk,
        Self::IdleTimeout,
        Self::Replaced,
        Self::OtherKey,
        Self::Abandoned,
        Self::Protocol,
        Self::ResetFailed,
        Self::Hygiene,
        Self::Shutdown,
    ];

    /// The place in [`CloseReason::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The label in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recycled => "recycled",
            Self::Invalidated => "invalidated",
            Self::PingFailed => "ping_failed",
            Self::Disconnected => "disconnected",
            Self::Surplus => "surplus",
            Self::Shrunk => "shrunk",
            Self::IdleTimeout => "idle_timeout",
            Self::Replaced => "replaced",
            Self::OtherKey => "other_key",
            Self::Abandoned => "abandoned",
            Self::Protocol => "protocol",
            Self::ResetFailed => "reset_failed",
            Self::Hygiene => "hygiene",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Why the engine refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It waited for `timeout`, and the pool, of `size` and with its counter at `overflow`, had nothing for it.
    Timeout {
        /// The configured size.
        size: u32,
        /// SQLAlchemy's `overflow()`: the counter, not the setting.
        overflow: i64,
        /// How long it was allowed to wait.
        timeout: Duration,
    },
    /// As many as may wait were waiting already.
    TooManyWaiting {
        /// The bound.
        max: u32,
    },
    /// A probe found neither an idle connection nor a free slot.
    Busy,
    /// The opening that it waited for failed.
    ConnectFailed,
    /// The pool is closed.
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_place_and_its_own_name() {
        let mut names = std::collections::HashSet::new();
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
            assert!(names.insert(reason.name()));
            assert!(!reason.name().is_empty() && reason.name().bytes().all(|b| b == b'_' || b.is_ascii_lowercase()));
        }
    }
}
