//! Logins that were refused, counted by why. Not on the path of a query.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::pg::error::SqlState;

/// Logins refused since the start.
#[derive(Debug, Default)]
pub struct RefusedLogins {
    too_many_clients: AtomicU64,
    credentials: AtomicU64,
    other: AtomicU64,
}

impl RefusedLogins {
    /// Counts one that was refused with this code.
    pub fn count(&self, code: SqlState) {
        let counter = match code {
            SqlState::TOO_MANY_CONNECTIONS => &self.too_many_clients,
            SqlState::INVALID_AUTHORIZATION | SqlState::INVALID_PASSWORD => &self.credentials,
            _ => &self.other,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The counts by reason: `too_many_clients` (`listen.maxClients`), `credentials`, `other`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let counters =
            [("too_many_clients", &self.too_many_clients), ("credentials", &self.credentials), ("other", &self.other)];
        counters.into_iter().map(|(reason, count)| (reason.to_owned(), count.load(Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_counted_by_why() {
        let refused = RefusedLogins::default();
        for code in [SqlState::TOO_MANY_CONNECTIONS, SqlState::INVALID_PASSWORD, SqlState::PROTOCOL_VIOLATION] {
            refused.count(code);
        }
        refused.count(SqlState::INVALID_AUTHORIZATION);
        let counts: Vec<_> = refused.counts().into_iter().collect();
        assert_eq!(counts, [("credentials".into(), 2), ("other".into(), 1), ("too_many_clients".into(), 1)]);
    }
}
