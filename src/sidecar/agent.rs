//! Configuration in: each snapshot of the source is put to work, database by database.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::catalog;
use super::database::{Database, Registered, Settings};
use super::source::{Policy, State};
use crate::pg::auth::scram::Salt;
use crate::tls::TlsError;

/// Puts snapshots to work.
#[derive(Debug)]
pub struct Agent {
    registered: Arc<Registered>,
    /// One salt for all verifiers of this process.
    salt: Salt,
    workers: usize,
    version: u64,
    /// Counts what was applied, for those who wait for it.
    applied: watch::Sender<u64>,
    stop: CancellationToken,
}

impl Agent {
    /// For the databases of one sidecar, which that many workers serve; pools' upkeep ends with `stop`.
    pub fn new(registered: Arc<Registered>, salt: Salt, workers: usize, stop: CancellationToken) -> Self {
        Self { registered, salt, workers, version: 0, applied: watch::Sender::default(), stop }
    }

    /// Changes each time that a pool got other settings.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Applies the newest state, then every one that follows, until the source ends.
    pub async fn run(mut self, mut states: watch::Receiver<State>) {
        loop {
            let snapshot = Arc::clone(&states.borrow_and_update().snapshot);
            for policy in &snapshot.policies {
                self.apply(policy);
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Applies one policy. Must run on a worker's runtime: what the pool opens for its waiters belongs there.
    pub fn apply(&mut self, policy: &Policy) {
        let alias = &policy.resolved.database.alias;
        if let Err(error) = self.try_apply(policy) {
            // The source has checked the very same files, so this is a race with their change: the next read mends it.
            tracing::error!(database = alias, %error, "the policy's certificates can't be used; the last good ones stay");
        }
    }

    fn try_apply(&mut self, policy: &Policy) -> Result<(), TlsError> {
        let (resolved, credentials) = (Arc::clone(&policy.resolved), Arc::clone(&policy.credentials));
        let revision = resolved.revision.clone();
        let known = self.registered.get(&resolved.database.alias);
        let old = known.as_ref().map(|database| database.settings());
        if old.as_ref().is_some_and(|old| old.is_same(&resolved, &credentials)) {
            return Ok(());
        }
        self.version += 1;
        let settings = Settings::new(resolved, credentials, self.salt, self.version, old.as_deref())?;
        match known {
            Some(database) => {
                database.apply(settings);
                tracing::info!(database = database.alias, revision, "policy applied");
            }
            None => {
                let database = Arc::new(Database::new(settings, self.workers));
                tracing::info!(database = database.alias, revision, "serving");
                let pool = database.pool.clone();
                let stop = self.stop.clone();
                tokio::spawn(async move { pool.run(stop).await });
                let (backend, stop) = (Arc::clone(&database.backend), self.stop.clone());
                tokio::spawn(async move { backend.follow_name(stop).await });
                tokio::spawn(catalog::watch(Arc::clone(&database), self.stop.clone()));
                self.registered.add(database);
            }
        }
        self.applied.send_replace(self.version);
        Ok(())
    }
}
