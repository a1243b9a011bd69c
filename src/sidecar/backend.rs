//! PostgreSQL as a pool's backend: opens, pings, looks at, and closes servers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, Sight, Witness};
use super::connect_errors::ConnectErrors;
use super::database::Settings;
use super::proxy::buffer::{self, Buffer, Outgoing};
use super::proxy::egress::Egress;
use crate::pg::cancel::Limiter;
use crate::pg::connect::{self, ConnectError};
use crate::pg::error::SqlState;
use crate::pg::exchange::Exchange;
use crate::pg::session::catalog::question;
use crate::pg::session::prepared::Cache;
use crate::pg::session::server::{Parameters, Session};
use crate::pg::startup::StartupSet;
use crate::pg::stream::Stream;
use crate::pool::{Backend, CloseOutcome, CloseReason, PingError, Replace};

mod cancel;
pub mod rows;
mod simple;

use self::simple::Answer;

pub use self::cancel::{CancelTarget, Held, Targets};

/// A ping and a reset must end within this time, or the server is closed.
const QUICK: Duration = Duration::from_secs(5);
/// How long a closed server may take to end before it is no longer counted.
const CLOSING: Duration = Duration::from_secs(15);
/// Servers of an earlier host, TLS mode or user are replaced within this time, each at a moment of its own.
const REPLACEMENT: Duration = Duration::from_secs(5);
/// How often is asked where the host's name leads.
const NAMES: Duration = Duration::from_secs(5);
/// Pause before a refused password is tried again (it may just be changing; decision 18).
const PASSWORD_RETRY: Duration = Duration::from_millis(250);

/// One server session.
#[derive(Debug)]
pub struct PgConn {
    /// The socket.
    pub stream: Stream,
    /// What it owes to the client that holds it.
    pub exchange: Exchange,
    /// The prepared statements that it holds.
    pub cache: Cache,
    /// Whose state it carries.
    pub session: Session,
    /// What is known of the database that it was opened for.
    pub catalog: Arc<Catalog>,
    /// What was known of that when its client got it.
    pub since: Sight,
    /// Bytes read from it.
    pub input: Buffer,
    /// What of these the client gets.
    pub egress: Egress,
    /// Bytes on their way to the client.
    pub to_client: Outgoing,
    /// Bytes on their way to the server.
    pub to_server: Outgoing,
    /// How to cancel what it runs.
    pub cancel: Arc<CancelTarget>,
    /// What it said of itself at login (ParameterStatus).
    pub parameters: Parameters,
    /// The host name that led to it.
    host: Box<str>,
}

impl PgConn {
    /// What its client is still to get of it, copied: the client goes on without this server.
    pub fn take_unwritten(&mut self) -> Vec<u8> {
        let unwritten = self.to_client.take(&self.input);
        self.egress.wrote(&mut self.input);
        unwritten
    }

    /// Whether it was a primary at login, as far as it said so (`in_hot_standby`, PostgreSQL 14).
    fn was_primary(&self) -> bool {
        self.parameters.all().iter().any(|(name, value)| name == "in_hot_standby" && value == "off")
    }
}

/// A host name and its addresses.
#[derive(Debug)]
struct Name {
    host: String,
    addresses: Vec<SocketAddr>,
}

/// Opens servers for one database by its settings of the moment.
#[derive(Debug)]
pub struct PgBackend {
    target: RwLock<Current>,
    cancels: Limiter,
    targets: Arc<Targets>,
    errors: ConnectErrors,
    /// What the newest client started with: servers that are opened for nobody in particular are opened like this.
    usual: RwLock<StartupSet>,
    /// Where the host's name leads now, when that was asked.
    names: RwLock<Option<Name>>,
    /// It was asked at any time: the path of a query takes no lock where the host is an address.
    has_names: AtomicBool,
    /// A login has worked since the last change of target.
    has_connected: AtomicBool,
    /// The server refused `client_connection_check_interval` (decision 2); not asked again in this generation.
    bare_login: AtomicBool,
}

/// What servers are opened by, and what is known of where they lead.
#[derive(Debug, Clone)]
struct Current {
    settings: Arc<Settings>,
    /// Each target has one of its own.
    catalog: Arc<Catalog>,
}

impl PgBackend {
    /// For these settings.
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            target: RwLock::new(Current { settings, catalog: Catalog::first() }),
            cancels: Limiter::default(),
            targets: Arc::default(),
            errors: ConnectErrors::default(),
            usual: RwLock::new(StartupSet::new::<&str, &str>([])),
            names: RwLock::new(None),
            has_names: AtomicBool::new(false),
            has_connected: AtomicBool::new(false),
            bare_login: AtomicBool::new(false),
        }
    }

    /// What is known of the catalog of the target of the moment.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.current().catalog
    }

    fn settings(&self) -> Arc<Settings> {
        self.current().settings
    }

    fn current(&self) -> Current {
        self.target.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Uses other settings for new servers; says what that means for those that are open.
    pub fn apply(&self, new: Arc<Settings>) -> Option<Replace> {
        let mut current = self.target.write().unwrap_or_else(PoisonError::into_inner);
        let replace = replacement(&current.settings, &new);
        if replace.is_some() {
            self.has_connected.store(false, Ordering::Relaxed);
            self.bare_login.store(false, Ordering::Relaxed);
        }
        if moves(&current.settings, &new) {
            current.catalog = current.catalog.succeeded();
        }
        current.settings = new;
        replace
    }

    /// The servers that cancel requests may be for.
    pub fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Bounds the cancel requests under way.
    pub fn cancels(&self) -> &Limiter {
        &self.cancels
    }

    /// Asks from time to time where the host's name leads: servers elsewhere are closed when they are next looked at
    /// (wire-cases 78). Ends with `stop`.
    pub async fn follow_name(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(NAMES)).await.is_some() {
            let settings = self.settings();
            let database = &settings.policy.database;
            if database.host.starts_with('/') || database.host.parse::<IpAddr>().is_ok() {
                continue;
            }
            // Nobody to ask is no reason to close what works.
            let Ok(addresses) = connect::resolve(&database.host, database.port).await else { continue };
            let name = Name { host: database.host.clone(), addresses };
            *self.names.write().unwrap_or_else(PoisonError::into_inner) = Some(name);
            self.has_names.store(true, Ordering::Release);
        }
    }

    /// Whether the name that led to this server leads elsewhere now.
    fn has_moved(&self, conn: &PgConn) -> bool {
        if !self.has_names.load(Ordering::Acquire) {
            return false;
        }
        let connect::Addr::Tcp { socket, .. } = &conn.cancel.addr else { return false };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.as_ref().is_some_and(|name| *name.host == *conn.host && !name.addresses.contains(socket))
    }

    /// A client starts with these parameters.
    pub fn note(&self, set: &StartupSet) {
        let mut usual = self.usual.write().unwrap_or_else(PoisonError::into_inner);
        if *usual != *set {
            *usual = set.clone();
        }
    }

    /// Errors met in opening servers.
    pub fn errors(&self) -> &ConnectErrors {
        &self.errors
    }

    /// Whether servers are opened without `client_connection_check_interval`, because the server refused it.
    pub fn is_bare_login(&self) -> bool {
        self.bare_login.load(Ordering::Relaxed)
    }

    async fn open(&self, set: &StartupSet, current: Current) -> Result<Box<PgConn>, ConnectError> {
        let Current { settings, catalog } = current;
        let policy = &settings.policy;
        let target = connect::Target {
            host: policy.database.host.clone(),
            port: policy.database.port,
            tls: settings.tls.clone(),
            timeout: policy.timeouts.connect,
            keepalive: policy.listen.keepalive,
            bare: self.bare_login.load(Ordering::Relaxed),
        };
        let logins = settings.logins();
        let session = connect::connect(&target, &logins, &policy.database.name, set, &settings.defaults()).await?;
        self.has_connected.store(true, Ordering::Relaxed);
        if session.bare {
            self.bare_login.store(true, Ordering::Relaxed);
        }
        let role = logins.get(session.credential).map_or("", |login| login.user.as_str());
        Ok(Box::new(PgConn {
            stream: session.stream,
            exchange: Exchange::default(),
            cache: Cache::new(policy.prepared_statements as usize),
            session: Session::default(),
            since: Sight::default(),
            input: Buffer::holding(&session.leftover),
            egress: Egress::seen_by(Witness::new(Arc::clone(&catalog))),
            catalog,
            to_client: Outgoing::default(),
            to_server: Outgoing::default(),
            cancel: self.targets.add(session.addr, role, session.pid, session.key),
            parameters: Parameters::new(session.parameters),
            host: policy.database.host.as_str().into(),
        }))
    }
}

/// What other settings mean for open servers (decision 4): another target replaces them step by step, other session
/// defaults at once, another password not at all.
fn replacement(old: &Settings, new: &Settings) -> Option<Replace> {
    if old.defaults() != new.defaults() {
        return Some(Replace::Now);
    }
    moves(old, new).then_some(Replace::Within(REPLACEMENT))
}

/// Whether servers are opened elsewhere, in another way or for another role.
fn moves(old: &Settings, new: &Settings) -> bool {
    let target = |settings: &Settings| {
        let database = &settings.policy.database;
        (database.host.clone(), database.port, database.name.clone(), database.tls, settings.credentials.user.clone())
    };
    target(old) != target(new) || old.credentials.ca_pem != new.credentials.ca_pem
}

impl Backend for PgBackend {
    type Key = StartupSet;
    type Conn = Box<PgConn>;
    type Error = ConnectError;

    /// For `minIdle` before any client has come: the server's own defaults.
    fn default_key(&self) -> StartupSet {
        self.usual.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn connect(&self, set: &StartupSet) -> Result<Box<PgConn>, ConnectError> {
        let started = Instant::now();
        loop {
            let current = self.current();
            let acquire = current.settings.policy.pool.acquire();
            let error = match self.open(set, current).await {
                Ok(conn) => return Ok(conn),
                Err(error) => error,
            };
            self.errors.count(error.phase.name(), error.sqlstate.as_ref().map(SqlState::as_str));
            // A password that worked and no longer does is being changed: the new one may be here in a moment.
            let changing =
                error.sqlstate == Some(SqlState::INVALID_PASSWORD) && self.has_connected.load(Ordering::Relaxed);
            if !changing || started.elapsed() + PASSWORD_RETRY > acquire {
                return Err(error);
            }
            tokio::time::sleep(PASSWORD_RETRY).await;
        }
    }

    async fn ping(&self, conn: &mut Box<PgConn>) -> Result<(), PingError<ConnectError>> {
        // An empty query: parsed by nobody, answered by EmptyQueryResponse.
        match tokio::time::timeout(QUICK, conn.simple("")).await {
            Ok(Ok(answer)) if answer.status == b'I' => Ok(()),
            _ => Err(PingError::Disconnected),
        }
    }

    fn look(&self, conn: &mut Box<PgConn>) -> Result<(), CloseReason> {
        if self.has_moved(conn) {
            return Err(CloseReason::Disconnected);
        }
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if !conn.stream.seems_readable() {
                return conn.hear_unasked();
            }
            let read = conn.stream.poll_read(&mut cx, conn.input.space(buffer::SMALL));
            let heard = match read {
                Poll::Ready(Ok(n)) if n > 0 => {
                    conn.input.filled(n);
                    conn.hear_unasked().map(|()| false)
                }
                Poll::Ready(_) => Err(CloseReason::Disconnected),
                Poll::Pending => conn.hear_unasked().map(|()| true),
            };
            conn.input.rest();
            if heard? {
                return Ok(());
            }
        }
    }

    async fn close(&self, mut conn: Box<PgConn>, reason: CloseReason) -> CloseOutcome {
        tracing::debug!(pid = conn.cancel.pid, reason = reason.name(), "closing a server");
        let deadline = tokio::time::sleep(CLOSING);
        let ended = async {
            if !conn.exchange.is_quiet() && conn.cancel.begin() {
                // It would run on to its end and hold its place as long.
                Arc::clone(&conn.cancel).send(&self.cancels).await;
            }
            conn.cancel.settled().await;
            conn.end().await;
        };
        tokio::select! {
            () = ended => CloseOutcome::Ended,
            () = deadline => CloseOutcome::Deadline,
        }
    }
}

impl PgBackend {
    /// Whether a server that refused to write is no longer the primary that it was (wire-cases 77).
    pub async fn is_demoted(&self, conn: &mut Box<PgConn>) -> bool {
        if !conn.was_primary() {
            return false;
        }
        let asked = conn.simple("SELECT pg_catalog.pg_is_in_recovery()");
        match tokio::time::timeout(QUICK, asked).await {
            Ok(Ok(answer)) => answer.value.as_deref() != Some(b"f"),
            _ => true,
        }
    }

    /// Ends the connections that `postgres_fdw` keeps: `DISCARD ALL` leaves them open. False if they can't be ended.
    pub async fn disconnect_far(&self, conn: &mut Box<PgConn>) -> bool {
        let asked = tokio::time::timeout(QUICK, conn.simple(question::FAR_NOW)).await;
        let Ok(Ok(Answer { status: b'I', failed: false, value })) = asked else { return false };
        match value.map(String::from_utf8) {
            None => true,
            Some(Ok(sql)) if !sql.is_empty() => self.reset(conn, &sql).await.is_ok(),
            Some(_) => false,
        }
    }

    /// Runs a statement of our own between two clients.
    ///
    /// # Errors
    /// If the server did not take it: it must be closed.
    pub async fn reset(&self, conn: &mut Box<PgConn>, sql: &str) -> Result<(), ()> {
        // What comes back here is what a client has set.
        let parameters = conn.parameters.clone();
        let done = tokio::time::timeout(QUICK, conn.simple(sql)).await;
        conn.parameters = parameters;
        match done {
            Ok(Ok(answer)) if answer.status == b'I' && !answer.failed => Ok(()),
            _ => Err(()),
        }
    }
}
