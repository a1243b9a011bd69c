//! One policy's effective values and the credentials that go with them, as the sidecar uses them.

use std::sync::Arc;
use std::time::Instant;

use super::source::Credentials;
use crate::api::resolve::Resolved;
use crate::pg::auth::Secret;
use crate::pg::auth::scram::{self, Salt, Verifier};
use crate::pg::connect;
use crate::tls::{self, TlsError};

/// Somebody who may come in.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// What the password is checked against; nobody without one gets in but by Trust.
    pub verifier: Option<Verifier>,
    /// For credentials that were replaced: until when they are accepted.
    pub until: Option<Instant>,
}

/// Verifiers take 4096 rounds each: made once, not at every login.
fn users(credentials: &Credentials, salt: Salt) -> Vec<User> {
    let verifier = |password: &Secret| {
        let password = password.expose();
        (!password.is_empty()).then(|| Verifier::new(password, salt))
    };
    let current = User { name: credentials.user.clone(), verifier: verifier(&credentials.password), until: None };
    let previous = credentials.previous.as_ref().map(|previous| User {
        name: previous.user.clone(),
        verifier: verifier(&previous.password),
        until: Some(previous.until),
    });
    std::iter::once(current).chain(previous).collect()
}

/// A policy in force: replaced whole, never changed.
#[derive(Debug)]
pub struct Settings {
    /// The policy, resolved.
    pub policy: Arc<Resolved>,
    /// What servers and clients log in with.
    pub credentials: Arc<Credentials>,
    /// How servers are reached.
    pub tls: connect::Tls,
    /// Who may come in: the current user, then the one before.
    pub users: Vec<User>,
    /// Alike in all sidecars that have read the same credentials.
    pub mark: u32,
    /// Counts up with every change.
    pub version: u64,
    /// When these settings were applied to the pool.
    pub applied: Instant,
}

impl Settings {
    /// Prepares a policy for use. The salt is one of the process, so that a client sees the same for as long as the
    /// sidecar runs.
    ///
    /// # Errors
    /// If its certificate authorities can't be used.
    pub fn new(
        policy: Arc<Resolved>,
        credentials: Arc<Credentials>,
        salt: Salt,
        version: u64,
        old: Option<&Self>,
    ) -> Result<Self, TlsError> {
        let same_tls = old.filter(|old| {
            old.policy.database.tls == policy.database.tls && old.credentials.ca_pem == credentials.ca_pem
        });
        let tls = match same_tls {
            // Keeps the sessions that can be resumed.
            Some(old) => old.tls.clone(),
            None => tls::to_server(policy.database.tls, credentials.ca_pem.as_deref())?,
        };
        // What logins have computed of the passwords goes on with them.
        let same = old.map(|old| &old.credentials).filter(|old| **old == credentials);
        let credentials = same.map_or(credentials, Arc::clone);
        let (users, mark) = match old.filter(|old| old.credentials == credentials) {
            Some(old) => (old.users.clone(), old.mark),
            None => (users(&credentials, salt), scram::mark(&credentials.user, credentials.password.expose())),
        };
        Ok(Self { policy, credentials, tls, users, mark, version, applied: Instant::now() })
    }

    /// Whether nothing that servers or clients could notice differs.
    pub fn is_same(&self, policy: &Resolved, credentials: &Credentials) -> bool {
        *self.policy == *policy && *self.credentials == *credentials
    }

    /// What to log in to servers with, in this order.
    pub fn logins(&self) -> Vec<connect::Credentials> {
        let current =
            connect::Credentials { user: self.credentials.user.clone(), password: self.credentials.password.clone() };
        let previous = self.credentials.previous.as_ref();
        let previous = previous
            .map(|previous| connect::Credentials { user: previous.user.clone(), password: previous.password.clone() });
        std::iter::once(current).chain(previous).collect()
    }

    /// Session defaults that the policy sets on every server; a client may override them for itself.
    pub fn defaults(&self) -> Vec<(String, String)> {
        let timeouts = &self.policy.timeouts;
        let named = [
            ("statement_timeout", timeouts.statement),
            ("idle_in_transaction_session_timeout", timeouts.idle_in_transaction),
        ];
        let set = named.into_iter().filter_map(|(name, value)| Some((name, value?)));
        set.map(|(name, value)| (name.to_owned(), value.as_millis().to_string())).collect()
    }
}
