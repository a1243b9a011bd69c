//! What the front door asks: which databases are served to whom, and where a cancel request goes.

use std::sync::Arc;
use std::time::Instant;

use super::database::{Database, Registered};
use super::listen::{Found, Front, Rules, Unknown};
use super::probe::Token;
use super::source::Snapshot;
use crate::pg::error::SqlState;
use crate::pg::startup::{NEWEST_MINOR, StartupSet};
use crate::tls::TlsError;
use crate::tls::acceptor::Acceptor;

/// The front desk of one worker.
#[derive(Debug)]
pub struct Desk {
    /// Databases and clients.
    pub registered: Arc<Registered>,
    /// How the sidecar's own health query is known.
    pub token: Arc<Token>,
    /// The worker whose counters it writes.
    pub worker: usize,
}

impl Front for Desk {
    type Database = Arc<Database>;

    fn find(&self, database: &str, user: &str, now: Instant) -> Result<Found<Arc<Database>>, Unknown> {
        let Some(database) = self.registered.get(database) else {
            let served: Vec<_> = self.registered.all().iter().map(|database| database.alias.clone()).collect();
            return Err(if served.is_empty() { Unknown::Nothing } else { Unknown::Database { served } });
        };
        let settings = database.settings();
        let users = || settings.users.iter().filter(|known| known.until.is_none_or(|until| until > now));
        if !users().any(|known| known.name == user) {
            return Err(Unknown::User { served: users().map(|known| known.name.clone()).collect() });
        }
        let verifiers = users().filter(|known| known.name == user).filter_map(|known| known.verifier.clone()).collect();
        Ok(Found { database, verifiers })
    }

    fn newest_minor(&self, database: &str) -> u16 {
        self.registered.get(database).map_or(NEWEST_MINOR, |database| database.newest_minor())
    }

    fn is_own(&self, set: &StartupSet) -> bool {
        self.token.matches(set.get("application_name").unwrap_or_default())
    }

    fn refused(&self, code: SqlState) {
        self.registered.refused.count(code);
    }

    async fn cancel(&self, pid: i32, key: &[u8]) {
        let Some((client, target)) = self.registered.clients.cancel(pid, key) else { return };
        if let Some(database) = self.registered.get(&client.database) {
            database.workers[self.worker].cancels.inc();
        }
        target.send(&self.registered.cancels).await;
    }
}

/// The rules of the door, as a configuration has them.
///
/// # Errors
/// If the certificate for clients can't be used.
pub fn rules(snapshot: &Snapshot) -> Result<Rules, TlsError> {
    let listen = &snapshot.listen;
    let tls = snapshot
        .tls
        .as_ref()
        .map(|files| Acceptor::new(&files.certificate, files.key.expose().as_bytes(), files.client_ca.as_deref()));
    Ok(Rules {
        auth: listen.auth,
        tls: tls.transpose()?,
        max_clients: listen.max_clients as usize,
        max_startup_packet: listen.max_startup_packet,
        login_timeout: listen.login_timeout,
        keepalive: listen.keepalive,
    })
}
