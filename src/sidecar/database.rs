//! One policy at work: its pool, its settings, its counters.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::backend::PgBackend;
use super::catalog::Catalog;
use super::clients::Clients;
use super::refused::RefusedLogins;
pub use super::settings::Settings;
use super::stats::Worker;
use crate::pg::cancel::Limiter;
use crate::pg::session::prepared::Registry;
use crate::pg::startup::{NEWEST_MINOR, StartupSet};
use crate::pool::Pool;
use crate::sidecar::probe::Health;

/// Welcomes kept per database: one for each startup set that clients log in with.
const WELCOMES: usize = 64;

/// What a client is told at login about the server sessions it will use.
#[derive(Debug)]
pub struct Welcome {
    /// The startup set of these clients. All of them use this very one, so that comparing theirs looks into none.
    pub set: StartupSet,
    /// ParameterStatus messages, encoded.
    pub parameters: Box<[u8]>,
    /// The same as names and values.
    pub told: Vec<(String, String)>,
}

/// One policy at work.
#[derive(Debug)]
pub struct Database {
    /// The name that clients ask for.
    pub alias: String,
    /// Its pool of servers.
    pub pool: Pool<PgBackend>,
    /// What opens and closes them.
    pub backend: Arc<PgBackend>,
    /// What each worker counted, by the worker's number.
    pub workers: Vec<Worker>,
    /// The probe's view of it.
    pub health: Health,
    /// Prepared statements by text, shared by all clients.
    pub statements: Registry,
    /// What sessions begin with, where it changed since the first login.
    pub news: News,
    /// How many clients session state binds to a server.
    pub bound: Arc<AtomicU32>,
    settings: RwLock<Arc<Settings>>,
    version: AtomicU64,
    welcomes: Mutex<LruCache<StartupSet, Arc<Welcome>>>,
    /// Held while the pool is told of a change.
    applying: Mutex<()>,
    /// Its servers are older than PostgreSQL 18, as far as is known.
    old: AtomicBool,
}

impl Database {
    /// Puts a policy to work. `workers` is how many threads will count into it.
    pub fn new(settings: Settings, workers: usize) -> Self {
        let settings = Arc::new(settings);
        let backend = Arc::new(PgBackend::new(Arc::clone(&settings)));
        Self {
            alias: settings.policy.database.alias.clone(),
            pool: Pool::new(Arc::clone(&backend), settings.policy.pool.clone()),
            backend,
            workers: (0..workers).map(|_| Worker::default()).collect(),
            health: Health::default(),
            statements: Registry::default(),
            bound: Arc::default(),
            news: News::default(),
            version: AtomicU64::new(settings.version),
            settings: RwLock::new(settings),
            applying: Mutex::default(),
            old: AtomicBool::new(false),
            welcomes: Mutex::new(LruCache::new(NonZeroUsize::MIN.saturating_add(WELCOMES - 1))),
        }
    }

    /// Whether anything in it can touch a session: in the one that servers are opened for now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.backend.catalog()
    }

    /// The settings now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The version of the settings now: a cheap look at whether they changed.
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Applies other settings: to new servers, to the pool, and to whoever asks from now on.
    pub fn apply(&self, settings: Settings) {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = Arc::new(settings);
        let replace = self.backend.apply(Arc::clone(&settings));
        if replace.is_some() {
            self.old.store(false, Relaxed);
            self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.pool.reconfigure(settings.policy.pool.clone(), replace.unwrap_or(crate::pool::Replace::Keep));
        // Last: whoever sees them may say that the pool follows them.
        let version = settings.version;
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        self.version.store(version, Relaxed);
    }

    /// What sessions begin with has changed (`ALTER DATABASE … SET`): servers that were opened before are replaced as they
    /// come free, and clients are told what is so now.
    pub fn renew(&self) {
        let _one_at_a_time = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pool.reconfigure(self.settings().policy.pool.clone(), crate::pool::Replace::Now);
    }

    /// The welcome for clients of this startup set, if a server of that set was seen since the last change of target.
    pub fn welcome(&self, set: &StartupSet) -> Option<Arc<Welcome>> {
        self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).get(set).cloned()
    }

    /// The newest minor version of protocol 3 that clients are offered: what the servers speak. Before the first server was
    /// seen, what is spoken here.
    pub fn newest_minor(&self) -> u16 {
        if self.old.load(Relaxed) { 0 } else { NEWEST_MINOR }
    }

    /// Keeps what a server said at login for the clients of its startup set.
    pub fn keep_welcome(&self, welcome: Arc<Welcome>) {
        let version = welcome.told.iter().find(|(name, _)| name == "server_version").map(|(_, version)| version);
        let major =
            version.and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok());
        self.old.store(major.is_some_and(|major| major < 18), Relaxed);
        self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).put(welcome.set.clone(), welcome);
    }
}

/// Parameters that changed for all sessions: PostgreSQL tells each of its clients, so each of ours is told.
#[derive(Debug, Default)]
pub struct News {
    version: AtomicU32,
    changed: Mutex<Vec<(String, String)>>,
}

impl News {
    /// Counts the changes: a cheap look at whether there is anything to tell.
    pub fn version(&self) -> u32 {
        self.version.load(Relaxed)
    }

    /// Takes what one server's sessions begin with now; `told` is what clients were told at login.
    pub fn note(&self, now: &[(String, String)], told: &[(String, String)]) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in now {
            let known = changed.iter_mut().find(|(known, _)| known == name);
            let before = told.iter().find(|(known, _)| known == name);
            match (known, before) {
                (Some((_, known)), _) if known != value => value.clone_into(known),
                (None, Some((_, before))) if before != value => changed.push((name.clone(), value.clone())),
                _ => continue,
            }
            self.version.fetch_add(1, Relaxed);
        }
    }

    /// All that changed.
    pub fn all(&self) -> Vec<(String, String)> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One client that session state binds to a server; counted until dropped.
#[derive(Debug)]
pub struct Bound(Arc<AtomicU32>);

impl Bound {
    /// Counts one more, if that is within the limit.
    pub fn one_more(count: &Arc<AtomicU32>, limit: u32) -> Option<Self> {
        let more = |n: u32| (n < limit).then_some(n + 1);
        count.fetch_update(Relaxed, Relaxed, more).is_ok().then(|| Self(Arc::clone(count)))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Every database of the sidecar by the name that clients ask for, and what they share.
#[derive(Debug)]
pub struct Registered {
    databases: RwLock<BTreeMap<String, Arc<Database>>>,
    /// All clients.
    pub clients: Arc<Clients>,
    /// Logins that were refused.
    pub refused: RefusedLogins,
    /// Bounds the cancel requests on their way to servers.
    pub cancels: Limiter,
    /// When the sidecar started: the origin of coarse times.
    pub started: Instant,
}

impl Registered {
    /// No databases, no clients.
    pub fn new() -> Self {
        Self {
            databases: RwLock::default(),
            clients: Arc::default(),
            refused: RefusedLogins::default(),
            cancels: Limiter::default(),
            started: Instant::now(),
        }
    }

    /// The database that clients call by this name.
    pub fn get(&self, alias: &str) -> Option<Arc<Database>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).get(alias).cloned()
    }

    /// All databases, ordered by name.
    pub fn all(&self) -> Vec<Arc<Database>> {
        self.databases.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Adds a database under its alias.
    pub fn add(&self, database: Arc<Database>) {
        self.databases.write().unwrap_or_else(PoisonError::into_inner).insert(database.alias.clone(), database);
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Default for Registered {
    fn default() -> Self {
        Self::new()
    }
}
