//! Counters of the query path: plain integers of one worker thread, summed when somebody asks.
//!
//! Each worker owns a [`Worker`] and is its only writer, so an increment is a relaxed load and store,
//! never a locked instruction; readers (a scrape, `/status`) sum over the workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only the owning worker may call it.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`. Only the owning worker may call it.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Takes `n` away (for gauges). Only the owning worker may call it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of the histograms' buckets in seconds; the last bucket is `+Inf`.
pub const BUCKETS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The same bounds in microseconds: the query path does no floating point.
const BUCKETS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 30_000_000,
];

/// Times, counted by bucket ([`BUCKETS`]; not cumulative).
#[derive(Debug, Default)]
pub struct Histogram {
    /// Counts per bucket; one more than the bounds, for `+Inf`.
    pub buckets: [Counter; BUCKETS.len() + 1],
    /// Sum of all observations in microseconds.
    pub sum_us: Counter,
}

impl Histogram {
    /// Counts one observation. Only the owning worker may call it.
    pub fn observe(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].inc();
        self.sum_us.add(us);
    }
}

/// What one worker counts for one database.
#[derive(Debug, Default)]
pub struct Worker {
    /// Clients connected now.
    pub clients: Counter,
    /// Clients that logged in.
    pub logins: Counter,
    /// Transactions ended (in Session mode too: a ReadyForQuery with status idle).
    pub transactions: Counter,
    /// Queries answered (ReadyForQuery seen).
    pub queries: Counter,
    /// From a client's request to its server.
    pub acquire: Histogram,
    /// From the first byte forwarded to ReadyForQuery.
    pub query_time: Histogram,
    /// From a server's checkout to its check-in.
    pub transaction_time: Histogram,
    /// Bytes read from clients.
    pub client_bytes: Counter,
    /// Bytes read from servers.
    pub server_bytes: Counter,
    /// ErrorResponses forwarded to clients.
    pub server_errors: Counter,
    /// Errors made by Poolkeeper itself and sent to clients.
    pub own_errors: Counter,
    /// Cancel requests forwarded.
    pub cancels: Counter,
    /// Statements sent to a server because it lacked them.
    pub prepares: Counter,
    /// Parse messages answered without the server.
    pub prepare_hits: Counter,
    /// Servers scrubbed for another client.
    pub scrubs: Counter,
    /// Servers on which a client's settings were set.
    pub adaptations: Counter,
    /// Audits about what a transaction can have changed.
    pub targeted_audits: Counter,
    /// Audits about everything.
    pub full_audits: Counter,
    /// Clients bound to their server by session state, by reason (see `pg::session::scan::Pin`).
    pub pins: [Counter; 8],
}
