//! The end. By itself ([`drain`]): clients are served, new ones too, until a quiet second; then idle ones are told to go,
//! transactions finish, and when the grace is over the rest is told as well.
//!
//! In a pod ([`leave`]) the sidecar is asked to end when the app has gone, or when the pod's grace is over, and has 2 s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::clients::{Activity, signal};
use super::database::{Database, Registered};
use crate::pool::{Config, Replace, Settings};
use crate::shutdown::Shutdown;

/// How long nothing may happen before idle clients are sent away.
const QUIET: Duration = Duration::from_secs(1);
/// How often is looked whether they have gone.
const LOOK: Duration = Duration::from_millis(20);
/// How long clients that were told to go, and servers that were closed, may take.
const LEAVING: Duration = Duration::from_secs(2);
/// The same after a second signal: enough for the words to leave.
const AT_ONCE: Duration = Duration::from_millis(100);

/// In a pod, after so long what still runs is cancelled and nobody else is let in.
const CANCEL: Duration = Duration::from_secs(1);
/// In a pod, after so long everybody is told to go, whatever runs.
const TERMINATE: Duration = Duration::from_millis(1_500);
/// In a pod, after so long nothing is waited for any more.
const LAST: Duration = Duration::from_millis(1_800);

/// Sees everybody off, by itself. `accepting` is cancelled when nobody is let in any more.
pub async fn drain(registered: &Arc<Registered>, shutdown: &Shutdown, grace: Duration, accepting: &CancellationToken) {
    tracing::info!(clients = registered.clients.len(), grace = ?grace, "draining");
    let gently = async {
        quiet(registered).await;
        accepting.cancel();
        gone(registered, signal::DRAIN).await;
    };
    tokio::select! {
        () = gently => {}
        () = tokio::time::sleep(grace) => tracing::info!("the grace is over"),
        () = shutdown.now().cancelled() => tracing::info!("asked to end at once"),
    }
    accepting.cancel();
    let _ = tokio::time::timeout(leaving(shutdown), gone(registered, signal::END)).await;
    let pools = registered.all();
    let closed = futures_util::future::join_all(pools.iter().map(|database| database.pool.close()));
    if tokio::time::timeout(leaving(shutdown), closed).await.is_err() {
        tracing::warn!("not every server has ended its connection");
    }
}

/// Sees everybody off in a pod: servers that idle go at once, and clients that are still there are served for a moment.
/// `accepting` is cancelled when nobody is let in any more.
pub async fn leave(registered: &Arc<Registered>, shutdown: &Shutdown, accepting: &CancellationToken) {
    let began = Instant::now();
    let until = |moment: Duration| tokio::time::sleep_until((began + moment).into());
    tracing::info!(clients = registered.clients.len(), "ending with the pod");
    registered.all().iter().for_each(|database| keep_no_idle(database));
    tokio::select! {
        () = nobody(registered) => {}
        () = until(CANCEL) => {}
        () = shutdown.now().cancelled() => {}
    }
    accepting.cancel();
    cancel_busy(registered);
    tokio::select! {
        () = gone(registered, signal::DRAIN) => {}
        () = until(TERMINATE) => {}
        () = shutdown.now().cancelled() => {}
    }
    let last = async {
        gone(registered, signal::END).await;
        let pools = registered.all();
        futures_util::future::join_all(pools.iter().map(|database| database.pool.close())).await;
    };
    tokio::select! {
        () = last => {}
        () = until(LAST) => tracing::warn!("not every server has ended its connection"),
    }
}

/// Closes a pool's idle connections, and those that are lent when they come back.
fn keep_no_idle(database: &Database) {
    let settings = Settings { min_idle: 0, ..database.pool.config().settings().clone() };
    // Fewer idle ones break no rule.
    if let Ok(config) = Config::new(settings) {
        database.pool.reconfigure(config, Replace::Now);
    }
}

/// Has servers cancel what they run, and takes those who wait out of the queue.
fn cancel_busy(registered: &Arc<Registered>) {
    for client in registered.clients.all() {
        if !matches!(client.activity(), Activity::Active | Activity::Waiting) {
            continue;
        }
        if let Some((_, target)) = registered.clients.cancel(client.pid, client.key()) {
            let registered = Arc::clone(registered);
            tokio::spawn(async move { target.send(&registered.cancels).await });
        }
    }
}

/// Waits until no client is connected.
async fn nobody(registered: &Registered) {
    while !registered.clients.is_empty() {
        tokio::time::sleep(LOOK).await;
    }
}

/// How long is waited for those who were told to go: hardly at all after a second signal.
fn leaving(shutdown: &Shutdown) -> Duration {
    if shutdown.now().is_cancelled() { AT_ONCE } else { LEAVING }
}

/// Waits for a second in which no client logs in or says anything and no server answers.
async fn quiet(registered: &Registered) {
    let mut last = activity(registered);
    loop {
        tokio::time::sleep(QUIET).await;
        let now = activity(registered);
        if now == last {
            return;
        }
        last = now;
    }
}

fn activity(registered: &Registered) -> u64 {
    let databases = registered.all();
    let workers = databases.iter().flat_map(|database| &database.workers);
    workers.map(|worker| worker.client_bytes.get() + worker.queries.get() + worker.logins.get()).sum()
}

/// Tells everybody, newcomers too, until nobody is left.
async fn gone(registered: &Registered, what: u32) {
    while !registered.clients.is_empty() {
        for client in registered.clients.all() {
            if client.signals() & what == 0 {
                client.signal(what);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
