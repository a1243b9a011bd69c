//! Health of the databases: a look at each now and then, and where nothing else proves it, one query by an ordinary
//! PostgreSQL client (sqlx) through the pooler's own front door (decision 3).
//!
//! The front door knows that client by its `application_name`, which carries a secret of this process: it takes any idle
//! server whatever its startup parameters, or a free slot, but never waits and never opens one above the limit.

mod checks;
mod query;
mod token;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use checks::Verdict;
use checks::{Checks, Outcome, Rules, Step};
pub use query::{FrontDoor, SATURATED, is_refused_login};
pub use token::{PREFIX as NAME, Token};

use super::database::{Database, Registered};
use super::status;
use crate::api::resolve::Readiness;

/// Databases and rules change at any time; this often somebody looks.
const LOOK: Duration = Duration::from_secs(1);

/// What is known of one database's health; shared by the prober, the clients' tasks and whoever reports it.
#[derive(Debug)]
pub struct Health {
    origin: Instant,
    /// Milliseconds since `origin`, plus one, of the last reply of a server to a client; 0 = none yet.
    heard: AtomicU64,
    checks: Mutex<Checks>,
    looks: Looks,
}

/// Looks so far, by outcome.
#[derive(Debug, Default)]
struct Looks {
    heard: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    saturated: AtomicU64,
}

impl Default for Health {
    fn default() -> Self {
        let now = Instant::now();
        Self { origin: now, heard: AtomicU64::new(0), checks: Mutex::new(Checks::new(now)), looks: Looks::default() }
    }
}

impl Health {
    /// A server answered a client just now (ReadyForQuery): a proof of health for free. Cheap, for each wake-up.
    /// Not to be called for the probe's own client.
    pub fn heard(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX - 1) + 1;
        // Most calls within a millisecond write nothing, so the line stays shared between the workers' caches.
        if self.heard.load(Relaxed) < millis {
            self.heard.store(millis, Relaxed);
        }
    }

    fn last_heard(&self) -> Option<Instant> {
        let millis = self.heard.load(Relaxed).checked_sub(1)?;
        self.origin.checked_add(Duration::from_millis(millis))
    }

    fn checks(&self) -> MutexGuard<'_, Checks> {
        // Checks are replaced field by field without code that can panic in between.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to do now; see [`Checks::look`].
    fn look(&self, rules: &Rules, free: bool, now: Instant) -> Step {
        let step = self.checks().look(rules, self.last_heard(), free, now);
        match step {
            Step::Proven(_) => self.looks.heard.fetch_add(1, Relaxed),
            Step::Saturated(_) => self.looks.saturated.fetch_add(1, Relaxed),
            Step::Ask | Step::Wait(_) => 0,
        };
        step
    }

    fn ended(&self, rules: &Rules, outcome: Outcome, now: Instant) {
        let counter = match outcome {
            Outcome::Answered => &self.looks.answered,
            Outcome::Failed(_) => &self.looks.failed,
            Outcome::Full => &self.looks.saturated,
        };
        counter.fetch_add(1, Relaxed);
        self.checks().ended(rules, self.last_heard(), outcome, now);
    }

    /// As if it had just answered.
    #[cfg(test)]
    pub fn prove(&self) {
        let rules = Rules { interval: LOOK, timeout: LOOK, failure_threshold: 1 };
        self.ended(&rules, Outcome::Answered, Instant::now());
    }

    fn verdict(&self, now: Instant) -> (Verdict, Option<String>) {
        self.checks().verdict(now)
    }

    /// For `/status`.
    pub fn status(&self, readiness: Readiness, now: Instant) -> status::Health {
        let checks = self.checks();
        let (verdict, reason) = checks.verdict(now);
        let looks = &self.looks;
        let looks = [
            ("answered", &looks.answered),
            ("failed", &looks.failed),
            ("heard", &looks.heard),
            ("saturated", &looks.saturated),
        ];
        status::Health {
            status: verdict,
            reason,
            usable: checks.usable(),
            required: readiness == Readiness::Database,
            last_success_seconds_ago: checks
                .proven()
                .max(self.last_heard())
                .map(|proven| now.saturating_duration_since(proven).as_secs_f64()),
            consecutive_failures: checks.failures(),
            looks: looks.into_iter().map(|(name, count)| (name.to_owned(), count.load(Relaxed))).collect(),
        }
    }
}

/// Looks at every database until told to stop.
pub async fn run(registry: Arc<Registered>, door: FrontDoor, token: Arc<Token>, stop: CancellationToken) {
    let mut queries = JoinSet::new();
    loop {
        let now = Instant::now();
        let mut next = now + LOOK;
        for database in registry.all() {
            let rules = rules(&database);
            let before = database.health.verdict(now).0;
            match database.health.look(&rules, has_room(&database), now) {
                Step::Ask => {
                    queries.spawn(ask(database, door.clone(), Arc::clone(&token)));
                    continue;
                }
                Step::Wait(until) | Step::Proven(until) | Step::Saturated(until) => next = next.min(until),
            }
            report(&database, before, now);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next.into()) => {}
            Some(_) = queries.join_next() => {}
        }
    }
}

fn rules(database: &Database) -> Rules {
    let settings = database.settings();
    let health = &settings.policy.health;
    Rules { interval: health.interval, timeout: health.timeout, failure_threshold: health.failure_threshold }
}

/// Whether a connection is idle or may be opened.
fn has_room(database: &Database) -> bool {
    let stats = database.pool.stats();
    stats.idle > 0 || stats.limit.is_none_or(|limit| stats.physical() < u64::from(limit))
}

async fn ask(database: Arc<Database>, door: FrontDoor, token: Arc<Token>) {
    let outcome = query::run(&door, &token, &database.settings()).await;
    let (rules, now) = (rules(&database), Instant::now());
    let before = database.health.verdict(now).0;
    database.health.ended(&rules, outcome, now);
    report(&database, before, now);
}

/// Says so when the verdict has changed.
fn report(database: &Database, before: Verdict, now: Instant) {
    let (verdict, reason) = database.health.verdict(now);
    match (verdict, reason) {
        (verdict, _) if verdict == before => {}
        (Verdict::Healthy, _) => tracing::info!(database = database.alias, "the database is healthy"),
        (verdict, reason) => tracing::warn!(
            database = database.alias,
            "the database is {}: {}",
            verdict.name(),
            reason.as_deref().unwrap_or("unknown")
        ),
    }
}

#[cfg(test)]
mod tests;
