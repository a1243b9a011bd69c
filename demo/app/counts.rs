//! What the application has counted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Counters of all clients. Nothing is ever taken back.
pub struct Counts {
    name: String,
    done: AtomicU64,
    failed: AtomicU64,
    logins: AtomicU64,
    ending: AtomicBool,
    errors: Mutex<Vec<String>>,
    second: Mutex<Second>,
}

/// Latencies of the second under way, and what the last whole one showed.
struct Second {
    began: Instant,
    latencies: Vec<Duration>,
    last: Value,
}

/// Errors that are kept in their own words; all are counted.
const KEPT: usize = 20;

impl Counts {
    /// Nothing yet.
    pub fn new(name: &str) -> Self {
        let second = Second { began: Instant::now(), latencies: vec![], last: json!({}) };
        Self {
            name: name.to_owned(),
            done: AtomicU64::default(),
            failed: AtomicU64::default(),
            logins: AtomicU64::default(),
            ending: AtomicBool::default(),
            errors: Mutex::default(),
            second: Mutex::new(second),
        }
    }

    /// A transaction whose every answer was right.
    pub fn done(&self, took: Duration) {
        self.done.fetch_add(1, Ordering::Relaxed);
        let Ok(mut second) = self.second.lock() else { return };
        second.latencies.push(took);
        second.turn();
    }

    /// A client has logged in.
    pub fn logged_in(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    /// Something went wrong.
    pub fn failed(&self, what: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut errors) = self.errors.lock()
            && errors.len() < KEPT
        {
            errors.push(what.to_owned());
        }
    }

    /// Tells the clients to finish.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Whether they have been told.
    pub fn ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// The application's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many transactions were right.
    pub fn successes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// How many were not.
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// All of it; `last` is about the last whole second: transactions, and milliseconds each took.
    pub fn show(&self) -> Value {
        let errors = self.errors.lock().map(|errors| errors.clone()).unwrap_or_default();
        let last = self.second.lock().map(|mut second| {
            second.turn();
            second.last.clone()
        });
        json!({
            "name": self.name,
            "done": self.successes(),
            "failed": self.failures(),
            "logins": self.logins.load(Ordering::Relaxed),
            "last": last.unwrap_or_default(),
            "errors": errors,
        })
    }
}

impl Second {
    fn turn(&mut self) {
        let seconds = self.began.elapsed().as_secs_f64();
        if seconds < 1.0 {
            return;
        }
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let index = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
            let micros = self.latencies.get(index).map_or(0, Duration::as_micros);
            micros as f64 / 1000.0
        };
        let tps = (self.latencies.len() as f64 / seconds).round();
        self.last = json!({ "tps": tps, "p50": at(0.5), "p99": at(0.99), "max": at(1.0) });
        self.latencies.clear();
        self.began = Instant::now();
    }
}
