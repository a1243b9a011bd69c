//! A snapshot of a pool.

use std::fmt;

use super::reason::CloseReason;

/// The pool's numbers at one moment: SQLAlchemy's four counters, then what is physically there, then totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// SQLAlchemy's `size()`: the configured size.
    pub size: u32,
    /// SQLAlchemy's `checkedin()`: records that wait for a request, with a live connection or without.
    pub checked_in: u32,
    /// SQLAlchemy's `checkedout()`: records lent or being opened.
    pub checked_out: u32,
    /// SQLAlchemy's `overflow()`: records minus `size`; negative until `size` were made; 0 if `size` is 0.
    pub overflow: i64,

    /// The most connections that may exist at once; `None` = no limit.
    pub limit: Option<u32>,
    /// Open and waiting for a request.
    pub idle: u32,
    /// Lent (or being pinged for a request).
    pub in_use: u32,
    /// Being opened.
    pub connecting: u32,
    /// Told to end, and the server has not ended them yet; they count against the limit.
    pub closing: u32,
    /// Requests that wait: in line, or for the connection that is opened for them.
    pub waiting: u32,

    /// Connections opened.
    pub opened: u64,
    /// Connections closed, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Openings that failed.
    pub connect_failures: u64,
    /// Closings given up at their deadline, the server not having ended the connection.
    pub close_deadlines: u64,
    /// Connections granted to requests; one found dead before its request saw it counts, too.
    pub granted: u64,
    /// Requests that timed out.
    pub timeouts: u64,
    /// Requests refused because too many waited already.
    pub refused: u64,
}

impl Stats {
    /// Connections that count against the limit.
    pub fn physical(&self) -> u64 {
        u64::from(self.idle) + u64::from(self.in_use) + u64::from(self.connecting) + u64::from(self.closing)
    }

    /// Connections closed for `reason`.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed[reason.index()]
    }

    /// Connections closed for whatever reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

impl fmt::Display for Stats {
    /// SQLAlchemy's `status()` to the letter, two spaces after the size included.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, checked_in, overflow, checked_out, .. } = self;
        write!(
            f,
            "Pool size: {size}  Connections in pool: {checked_in} Current Overflow: {overflow} Current Checked out connections: {checked_out}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::config::{Config, Settings};
    use crate::pool::engine::Engine;

    #[test]
    fn sums_and_reasons() {
        let config = Config::new(Settings::default()).unwrap_or_else(|errors| panic!("{errors:?}"));
        let mut stats = Engine::new(config, 'a', 1).stats();
        (stats.idle, stats.in_use, stats.connecting, stats.closing) = (1, 20, 300, 4_000);
        assert_eq!(stats.physical(), 4_321);
        stats.closed[CloseReason::Surplus.index()] = 5;
        stats.closed[CloseReason::Recycled.index()] = 7;
        assert_eq!((stats.closed_for(CloseReason::Surplus), stats.closed_total()), (5, 12));
    }
}
