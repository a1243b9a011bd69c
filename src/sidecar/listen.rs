//! Where clients come in: sockets, limits, and everything until a client has proven who it is.
//!
//! [`sockets`] binds, [`accept`] lets in, [`login`] greets. What is served and who may have it is asked of a
//! [`Front`]; the proxy goes on with a [`Login`].

pub mod accept;
pub mod login;
pub mod sockets;

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::v1alpha1::Auth;
use crate::pg::auth::scram::{Salt, Verifier};
use crate::pg::error::SqlState;
use crate::pg::startup::StartupSet;
use crate::pg::stream::Stream;
use crate::tls::acceptor::Acceptor;

/// What is served, and to whom.
pub trait Front: Send + Sync + 'static {
    /// One database, as the proxy knows it.
    type Database: Send + 'static;

    /// The database that clients call `database`, and what `user`'s password is checked against.
    ///
    /// # Errors
    /// If there is no such database, or it is not for this user.
    fn find(&self, database: &str, user: &str, now: Instant) -> Result<Found<Self::Database>, Unknown>;

    /// The newest minor version of protocol 3 that clients of `database` are offered: what its servers speak, as far as is
    /// known.
    fn newest_minor(&self, database: &str) -> u16;

    /// Whether this is the sidecar's own health query, which takes no client's place.
    fn is_own(&self, set: &StartupSet) -> bool;

    /// A login was refused with this code.
    fn refused(&self, code: SqlState);

    /// Does what a CancelRequest asks for; ends when the request has reached the server and can hit nothing else any
    /// more. The client's connection is closed then.
    fn cancel(&self, pid: i32, key: &[u8]) -> impl Future<Output = ()> + Send;
}

/// A database that serves the user who asks.
#[derive(Debug)]
pub struct Found<D> {
    /// The database.
    pub database: D,
    /// What proofs of a password are checked against, made with the [`Door`]'s salt: any of them will do. Empty:
    /// nobody gets in but by Trust.
    pub verifiers: Vec<Verifier>,
}

/// Why nobody serves a client; it is told what is served instead (decision 14).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// No database of that name.
    Database {
        /// The names that are served.
        served: Vec<String>,
    },
    /// Nothing is served yet: no policy has come.
    Nothing,
    /// The database is for others.
    User {
        /// The users whom it serves.
        served: Vec<String>,
    },
}

/// A client that has logged in. It waits for AuthenticationOk, ParameterStatus, BackendKeyData and ReadyForQuery: one
/// write.
#[derive(Debug)]
pub struct Login {
    /// Its connection.
    pub stream: Stream,
    /// What it sent beyond its login: nearly always empty; comes before everything that is read from the stream.
    pub early: Box<[u8]>,
    /// What it is to be told ahead of all else: that it is who it says.
    pub accepted: Box<[u8]>,
    /// Minor version of protocol 3 that is spoken: 0 or 2.
    pub minor: u16,
    /// The settings that it starts with.
    pub set: StartupSet,
    /// Where it comes from, for people: address and port, or `unix`.
    pub peer: String,
}

/// The rules for clients that come in.
#[derive(Debug, Clone)]
pub struct Rules {
    /// How clients prove who they are.
    pub auth: Auth,
    /// TLS, if it is offered.
    pub tls: Option<Acceptor>,
    /// Clients connected at once; one more gets 53300.
    pub max_clients: usize,
    /// The longest first packet, in bytes.
    pub max_startup_packet: usize,
    /// The longest time from accepting to AuthenticationOk.
    pub login_timeout: Duration,
    /// Silence after which TCP asks whether the client still lives; `None` = the system's.
    pub keepalive: Option<Duration>,
}

/// Connections beyond `max_clients` that are let in to be told so, or to cancel something: when they are all taken,
/// nobody else is accepted before one has gone.
const STANDING: usize = 64;

/// What all listeners of a sidecar share: the rules and the number of those inside.
#[derive(Debug)]
pub struct Door {
    rules: RwLock<Arc<Rules>>,
    salt: Salt,
    connections: AtomicUsize,
    clients: AtomicUsize,
    left: Notify,
}

impl Door {
    /// `salt` is what all [`Verifier`]s are made with.
    pub fn new(rules: Rules, salt: Salt) -> Door {
        Door {
            rules: RwLock::new(Arc::new(rules)),
            salt,
            connections: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }

    /// The rules now.
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Other rules, for those who come in from now on.
    pub fn set_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.left.notify_waiters();
    }

    /// Connections now, those that still log in or cancel included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits until there is room for one more connection.
    async fn room(&self) {
        loop {
            let left = self.left.notified();
            if self.connections() < self.rules().max_clients.saturating_add(STANDING) {
                return;
            }
            left.await;
        }
    }

    /// Counts a connection in.
    fn enter(self: &Arc<Self>) -> Place {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Place { door: Arc::clone(self), is_client: false }
    }
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    door: Arc<Door>,
    is_client: bool,
}

impl Place {
    /// Becomes a client's, unless there are `max` clients already.
    fn become_client(&mut self, max: usize) -> bool {
        let one_more = |clients: usize| (clients < max).then_some(clients + 1);
        let counted = self.door.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        self.is_client = self.is_client || counted.is_ok();
        counted.is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_client {
            self.door.clients.fetch_sub(1, Ordering::Relaxed);
        }
        self.door.connections.fetch_sub(1, Ordering::Relaxed);
        self.door.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
