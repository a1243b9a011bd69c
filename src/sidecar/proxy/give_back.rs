//! Giving a server back: only as the next client may have it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::relay::End;
use crate::api::resolve::{Mode, Reset};
use crate::pg::session::proof::Use;
use crate::pg::session::rule::{self, Rule};
use crate::pg::session::scan::Pin;
use crate::pool::{CloseReason, Lease};
use crate::sidecar::backend::{PgBackend, PgConn};
use crate::sidecar::catalog::{Catalog, Remedy};
use crate::sidecar::database::{Database, Settings};

/// How long a cancel request may keep a server from being lent.
const CANCELS: Duration = Duration::from_secs(10);

/// How far a transaction of `client` touched a session whose database may hold what no scrub undoes.
pub fn doubted(conn: &mut PgConn, client: i32, used: Use) -> Use {
    let (session, since) = (&mut conn.session, conn.since);
    if session.spoiled {
        return Use::Incurable;
    }
    if used != Use::Unproven || rule::off(Rule::Incurable) {
        return used;
    }
    match conn.catalog.remedy(since) {
        Remedy::Close => Use::Incurable,
        Remedy::Scrub => used,
        Remedy::Unknown => {
            session.doubtful = Some(client);
            used
        }
    }
}

/// Whether this client may have it: nobody else may have left there what no scrub undoes. What was known of the catalog
/// when a doubtful one was lent is kept for as long as it is doubtful.
pub fn is_fit(conn: &mut PgConn, client: i32) -> bool {
    if conn.session.doubtful.is_some() && conn.catalog.remedy(conn.since) == Remedy::Scrub {
        // What had not been looked at for long is found unchanged.
        conn.session.doubtful = None;
    }
    if conn.session.doubtful.is_none() {
        conn.since = conn.catalog.sight();
    }
    conn.session.doubtful.is_none_or(|by| by == client)
}

/// The server is free and clean: the path of a query.
pub fn free(database: &Arc<Database>, lease: Lease<PgBackend>, now: Instant) {
    if lease.session.proof.is_closing() {
        return lease.discard(CloseReason::Hygiene);
    }
    if (lease.cancel.is_settled() || rule::off(Rule::Cancels)) && !lease.egress.read_only {
        let Some(lease) = Catalog::offer(lease) else { return };
        return back(database, lease, now);
    }
    let database = Arc::clone(database);
    tokio::spawn(async move {
        // Who waits for it may be the same client, which may have it: it is never closed for their sake.
        if let Some(lease) = settle(&database, lease, &[]).await {
            lease.give_back(Instant::now());
        }
    });
}

/// Back to the pool, but for a doubtful one that somebody waits for: the first in line gets a new one, as it would send
/// this one away, and wait again.
fn back(database: &Database, lease: Lease<PgBackend>, now: Instant) {
    if lease.session.doubtful.is_some() && database.pool.stats().waiting > 0 {
        lease.discard(CloseReason::Hygiene);
    } else {
        lease.give_back(now);
    }
}

/// The health query is over.
pub fn probed(lease: Lease<PgBackend>) {
    if lease.exchange.is_free() && lease.egress.is_between_messages(&lease.input) {
        lease.give_back(Instant::now());
    } else {
        lease.discard(CloseReason::Abandoned);
    }
}

/// Client and server have parted for good: what the client left behind is undone, or the server is closed.
pub fn after(
    database: &Arc<Database>,
    settings: &Settings,
    mut lease: Lease<PgBackend>,
    end: &End,
    mode: Mode,
    pin: Option<Pin>,
) {
    match end {
        End::ServerGone => {
            // SQLAlchemy's rule: a statement that met a disconnect makes every older connection suspect.
            let alone = lease.egress.own_fault;
            return if alone { lease.discard(CloseReason::Disconnected) } else { lease.disconnected() };
        }
        End::OutOfStep(_) => return lease.discard(CloseReason::Protocol),
        End::Unready(_) | End::Another => return lease.discard(CloseReason::Hygiene),
        End::Free | End::Left | End::Fatal(..) => {}
    }
    if lease.session.proof.is_closing() || lease.session.spoiled {
        return lease.discard(CloseReason::Hygiene);
    }
    let Some(undo) = undo(&lease, settings.policy.reset_on_return, mode, pin) else {
        let reason =
            if pin.is_some_and(|pin| !pin.is_discardable()) { CloseReason::Hygiene } else { CloseReason::Abandoned };
        return lease.discard(reason);
    };
    lease.session.sql_prepared = true;
    let database = Arc::clone(database);
    tokio::spawn(async move {
        if let Some(lease) = settle(&database, lease, undo).await {
            back(&database, lease, Instant::now());
        }
    });
}

/// The statements that make a server clean after its client; none if it has to be closed.
fn undo(conn: &PgConn, reset: Reset, mode: Mode, pin: Option<Pin>) -> Option<&'static [&'static str]> {
    let quiet = conn.exchange.is_quiet()
        && conn.to_client.is_empty()
        && conn.to_server.is_empty()
        && conn.egress.is_between_messages(&conn.input);
    if !quiet || pin.is_some_and(|pin| !pin.is_discardable()) {
        return None;
    }
    let discard = mode == Mode::Session || pin.is_some();
    Some(match (conn.exchange.status(), reset, discard) {
        (b'I', _, false) => &[],
        (b'I', _, true) => &["DISCARD ALL"],
        // A failed transaction can only be rolled back.
        (b'E', _, false) | (_, Reset::Rollback, false) => &["ROLLBACK"],
        (b'E', _, true) | (_, Reset::Rollback, true) => &["ROLLBACK", "DISCARD ALL"],
        (_, Reset::Commit, false) => &["COMMIT"],
        (_, Reset::Commit, true) => &["COMMIT", "DISCARD ALL"],
    })
}

/// Waits for cancel requests to end, and undoes. Returns the server if it may be lent again.
async fn settle(database: &Database, mut lease: Lease<PgBackend>, undo: &[&str]) -> Option<Lease<PgBackend>> {
    if tokio::time::timeout(CANCELS, lease.cancel.settled()).await.is_err() {
        lease.discard(CloseReason::ResetFailed);
        return None;
    }
    for sql in undo {
        if database.backend.reset(&mut lease, sql).await.is_err() {
            lease.discard(CloseReason::ResetFailed);
            return None;
        }
        if *sql == "DISCARD ALL" {
            if !database.backend.disconnect_far(&mut lease).await {
                lease.discard(CloseReason::Hygiene);
                return None;
            }
            lease.cache.clear();
            lease.session.discarded();
        }
    }
    if lease.egress.read_only {
        lease.egress.read_only = false;
        if database.backend.is_demoted(&mut lease).await {
            tracing::warn!(database = database.alias, "the server is a standby now; its connections are replaced");
            lease.disconnected();
            return None;
        }
    }
    Some(lease)
}
