//! The end (decision 17): clients are served, new ones too, until a quiet second; then idle ones are told to go,
//! transactions finish, and when the grace is over the rest is told as well.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::clients::signal;
use super::database::Registered;
use crate::shutdown::Shutdown;

/// How long nothing may happen before idle clients are sent away.
const QUIET: Duration = Duration::from_secs(1);
/// How often is looked whether they have gone.
const LOOK: Duration = Duration::from_millis(20);
/// How long clients that were told to go, and servers that were closed, may take.
const LEAVING: Duration = Duration::from_secs(2);
/// The same after a second signal: enough for the words to leave.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Sees everybody off. `accepting` is cancelled when nobody is let in any more.
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
