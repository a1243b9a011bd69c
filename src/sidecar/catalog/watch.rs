//! When a database's catalog is looked at, and what becomes of what was known of an earlier target.

use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Catalog;
use super::look::look;
use super::pace::{Pace, Sight, Step};
use crate::api::resolve::Mode;
use crate::sidecar::database::Database;

/// Servers of an earlier target are gone after this time (they are replaced within 5 s).
const OLD_SERVERS: Duration = Duration::from_secs(6);

/// Looks at a database's catalog whenever that is due, until told to stop.
pub async fn watch(database: Arc<Database>, stop: CancellationToken) {
    let mut catalog = database.catalog();
    let mut pace = Pace::new(Instant::now());
    loop {
        let current = database.catalog();
        if !Arc::ptr_eq(&current, &catalog) {
            let old = std::mem::replace(&mut catalog, current);
            tokio::spawn(async move {
                tokio::time::sleep(OLD_SERVERS).await;
                old.expire();
            });
            pace.renew(Instant::now());
        }
        let begun = (catalog.state.begin(), catalog.code.load(Acquire));
        let until = match step(&database, &catalog, &mut pace) {
            Step::Look => {
                let pulse = catalog.read().pulse.clone();
                let started = Instant::now();
                let look = catalog.retired.run_until_cancelled(look(&database, &catalog, pulse.as_deref()));
                let Some(found) = stop.run_until_cancelled(look).await else { return };
                // Its server may be gone for good.
                let Some(found) = found else { continue };
                let outcome = catalog.keep(&database.alias, begun, found, started.elapsed());
                pace.ended(outcome, Instant::now());
                continue;
            }
            Step::Rest(until) => {
                catalog.grow_stale();
                until
            }
            Step::Wait(until) => until,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(until.into()) => {}
            () = catalog.wake.notified() => {}
        }
    }
}

fn step(database: &Database, catalog: &Catalog, pace: &mut Pace) -> Step {
    let now = Instant::now();
    // In Session mode no server goes from client to client unscrubbed.
    if database.settings().policy.mode == Mode::Session {
        return Step::Rest(now + OLD_SERVERS);
    }
    let state = &catalog.state;
    let sight = Sight {
        known: state.known(),
        settled: state.is_settled(),
        wants_remedy: catalog.wants_remedy(),
        transactions: database.workers.iter().map(|w| w.transactions.get()).fold(0, u64::wrapping_add),
        idle: database.pool.stats().idle > 0,
    };
    pace.step(sight, now)
}
