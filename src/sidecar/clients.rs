//! The clients of one sidecar: who they are, what they wait for, and how another task reaches one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;

use super::backend::{CancelTarget, Held, Targets};
use crate::pg::session::scan::Pin;

/// What a client is doing, as `/status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Connected, holds no server.
    Idle = 0,
    /// Queued for a server.
    Waiting = 1,
    /// Holds a server that runs something for it.
    Active = 2,
    /// Holds a server between two statements: an open transaction, Session mode, or a pin.
    Holding = 3,
}

impl Activity {
    /// The name in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::Holding => "holding",
        }
    }
}

/// Asked of a client by another task; a client looks when its waker fires.
pub mod signal {
    /// It is in the queue for a server and asked to be cancelled.
    pub const CANCEL: u32 = 1;
    /// The sidecar ends: go as soon as no transaction is open.
    pub const DRAIN: u32 = 2;
    /// The sidecar ends now: go whatever is open.
    pub const END: u32 = 4;
    /// Idle for longer than `listen.idleTimeout`.
    pub const IDLE: u32 = 8;
}

/// One connected client, as other tasks see it.
#[derive(Debug)]
pub struct Client {
    /// Its number, sent as the process id of BackendKeyData.
    pub pid: i32,
    key: Box<[u8]>,
    /// The database name it asked for.
    pub database: String,
    /// `application_name`, as it gave it at login.
    pub application: String,
    /// Where it came from: an address, or `unix`.
    pub peer: String,
    /// When it logged in.
    pub since: Instant,
    activity: AtomicU8,
    idle_since: AtomicU64,
    /// Transactions it has finished.
    pub transactions: AtomicU64,
    /// Whether session state binds it to its server: 0, or the reason's index + 1.
    pub pinned: AtomicU8,
    signals: AtomicU32,
    /// Its task; a wake-up leaves it there.
    waker: Mutex<Option<Waker>>,
    held: Held,
}

impl Client {
    /// Asks something of the client (see [`signal`]) and wakes it.
    pub fn signal(&self, signal: u32) {
        self.signals.fetch_or(signal, Relaxed);
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake_by_ref();
        }
    }

    /// What has been asked of it.
    pub fn signals(&self) -> u32 {
        self.signals.load(Relaxed)
    }

    /// Forgets one request.
    pub fn clear(&self, signal: u32) {
        // Seldom there is one: the path of a query writes nothing.
        if self.signals() & signal != 0 {
            self.signals.fetch_and(!signal, Relaxed);
        }
    }

    /// Its secret for cancel requests.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Says what the client does now.
    pub fn set_activity(&self, activity: Activity) {
        self.activity.store(activity as u8, Relaxed);
    }

    /// What the client does now.
    pub fn activity(&self) -> Activity {
        match self.activity.load(Relaxed) {
            1 => Activity::Waiting,
            2 => Activity::Active,
            3 => Activity::Holding,
            _ => Activity::Idle,
        }
    }

    /// Notes since when the client has nothing to do; `None` while it has.
    pub fn set_idle(&self, since: Option<Instant>) {
        let second = since.map_or(u64::MAX, |at| at.saturating_duration_since(self.since).as_secs());
        self.idle_since.store(second, Relaxed);
    }

    /// For how long the client has had nothing to do, to the second; nothing while it is busy.
    pub fn idle_for(&self, now: Instant) -> Option<Duration> {
        let second = self.idle_since.load(Relaxed);
        let idle = (second != u64::MAX).then(|| now.saturating_duration_since(self.since).as_secs());
        idle.map(|now| Duration::from_secs(now.saturating_sub(second)))
    }

    /// Notes that session state binds the client to its server, or no more.
    pub fn set_pinned(&self, pin: Option<Pin>) {
        self.pinned.store(pin.map_or(0, |pin| pin as u8 + 1), Relaxed);
    }

    /// Counts finished transactions. Only the client's own task may call it.
    pub fn count_transactions(&self, n: u64) {
        self.transactions.store(self.transactions.load(Relaxed) + n, Relaxed);
    }

    /// From now on a cancel request of this client goes to that server.
    pub fn hold(&self, target: &CancelTarget) {
        self.held.set(target);
    }

    /// From now on a cancel request of this client reaches no server. A cancel that was already under way is
    /// counted in the target, which must not be lent before it has ended (wire-cases 1).
    pub fn release(&self) {
        self.held.clear();
    }

    /// What a cancel request means for this client now; the returned target counts it as under way.
    fn cancel(&self) -> Option<Arc<CancelTarget>> {
        // Waiting: it is taken out of the queue. Active: its server is being made ready, and gets it then.
        if self.held.is_empty() && matches!(self.activity(), Activity::Waiting | Activity::Active) {
            self.signal(signal::CANCEL);
            return None;
        }
        self.held.cancel()
    }
}

/// The first process id given to a client: Linux has none that large, so a client that passes its own to
/// `pg_terminate_backend` ends no backend of anybody else.
const FIRST_PID: i32 = 1 << 22;

/// All clients of the sidecar, by the process id that each was given.
#[derive(Debug, Default)]
pub struct Clients {
    map: Mutex<Map>,
}

#[derive(Debug, Default)]
struct Map {
    next: i32,
    clients: HashMap<i32, Arc<Client>>,
}

/// Takes the client out of [`Clients`] when its task ends, however it ends.
#[derive(Debug)]
pub struct Registered {
    client: Arc<Client>,
    clients: Arc<Clients>,
    /// The task that a signal wakes, as the client's record has it.
    waker: Option<Waker>,
}

impl Registered {
    /// Whether this task is the one that [`Client::signal`] wakes.
    #[inline]
    pub fn is_registered(&self, waker: &Waker) -> bool {
        self.waker.as_ref().is_some_and(|known| known.will_wake(waker))
    }

    /// Has [`Client::signal`] wake this task. Cheap when it is the same as before, as it nearly always is.
    #[inline]
    pub fn register(&mut self, waker: &Waker) {
        if !self.is_registered(waker) {
            self.register_another(waker);
        }
    }

    #[cold]
    fn register_another(&mut self, waker: &Waker) {
        self.waker = Some(waker.clone());
        *lock(&self.client.waker) = Some(waker.clone());
    }
}

impl std::ops::Deref for Registered {
    type Target = Arc<Client>;
    fn deref(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.clients.map).clients.remove(&self.client.pid);
    }
}

impl Clients {
    /// Registers a client under a fresh process id; `key` is its secret.
    pub fn add(self: &Arc<Self>, new: NewClient, key: Box<[u8]>, now: Instant) -> Registered {
        let mut map = lock(&self.map);
        loop {
            map.next = map.next.checked_add(1).unwrap_or(0).max(FIRST_PID);
            if !map.clients.contains_key(&map.next) {
                break;
            }
        }
        let client = Arc::new(Client {
            pid: map.next,
            key,
            database: new.database,
            application: new.application,
            peer: new.peer,
            since: now,
            activity: AtomicU8::new(0),
            idle_since: AtomicU64::new(u64::MAX),
            transactions: AtomicU64::new(0),
            pinned: AtomicU8::new(0),
            signals: AtomicU32::new(0),
            waker: Mutex::new(None),
            held: Held::new(new.targets),
        });
        map.clients.insert(client.pid, Arc::clone(&client));
        Registered { client, clients: Arc::clone(self), waker: None }
    }

    /// The server to which a cancel request must be forwarded, if its key is right and its client holds one.
    /// A client that waits is taken out of the queue instead.
    pub fn cancel(&self, pid: i32, key: &[u8]) -> Option<(Arc<Client>, Arc<CancelTarget>)> {
        let client = lock(&self.map).clients.get(&pid).cloned()?;
        let target = bool::from(client.key.ct_eq(key)).then(|| client.cancel()).flatten()?;
        Some((client, target))
    }

    /// Every client now, in no order.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.map).clients.values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.map).clients.len()
    }

    /// Whether nobody is connected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Who a client says it is.
#[derive(Debug)]
pub struct NewClient {
    /// The database name it asked for.
    pub database: String,
    /// Its `application_name`, or nothing.
    pub application: String,
    /// Where it came from.
    pub peer: String,
    /// The servers that its cancel requests may be for.
    pub targets: Arc<Targets>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks in a half-made state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
