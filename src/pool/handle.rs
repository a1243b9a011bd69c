//! [`Pool`]: the engine behind one lock, and its effects carried out.
//!
//! Whoever changes something takes the lock, tells the engine, notes what is to be done beside it
//! ([`After`](super::state::After)) and does that once the lock is free: wake, and spawn the tasks that connect, ping and
//! close. A checkout that finds an idle connection and a check-in that nobody waits for end under that
//! one lock and allocate nothing. Requests that wait lie in a table of wakers.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::checkout::{Checkout, Lease};
use super::config::Config;
use super::engine::{ConnId, Engine, Event, Replace, RequestId};
use super::state::{State, Wait};
use super::stats::Stats;
use super::tasks::{self, Doing};

/// How often idle connections are looked at for an end that the server made.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time, which tests may hold still.
pub(super) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A pool of connections. Cheap to clone; all clones are the same pool.
pub struct Pool<B: Backend>(Arc<Shared<B>>);

impl<B: Backend> Clone for Pool<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Pool<B> {
    /// A pool without a connection. Spawn [`Pool::run`] beside it: deadlines are its business.
    pub fn new(backend: Arc<B>, config: Config) -> Self {
        let engine = Engine::new(config, backend.default_key(), RandomState::new().hash_one(0));
        Self(Arc::new(Shared {
            backend,
            state: Mutex::new(State::new(engine)),
            ending: AtomicBool::new(false),
            nudge: Notify::new(),
            openings: Semaphore::new(1),
        }))
    }

    /// The pool's one task: deadlines of those that wait, idle timeout, minimum idle, shrink deadline, connections
    /// of an old generation, and a look at idle ones once a second. Ends when `stop` is cancelled.
    pub async fn run(&self, stop: CancellationToken) {
        let mut look_at = clock();
        loop {
            let now = clock();
            let look = look_at <= now;
            if look {
                look_at = now + LOOK_EVERY;
            }
            let wake_at = self.0.upkeep(look, look_at, now);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(wake_at.into()) => {}
                () = self.0.nudge.notified() => {}
            }
        }
    }

    /// Asks for a connection opened with `key`. Nothing happens until it is polled; `now` is when the wait begins.
    pub fn checkout(&self, key: B::Key, now: Instant) -> Checkout<B> {
        Checkout::start(self.0.clone(), key, now)
    }

    /// A connection opened with `key`, if one is there that needs no looking after: what [`Pool::checkout`] would give at
    /// once. It never overtakes anybody.
    pub fn checkout_now(&self, key: &B::Key, now: Instant) -> Option<Lease<B>> {
        self.checkout_again(key, None, now)
    }

    /// As [`Pool::checkout_now`], but rather the connection with the number `last` ([`Lease::id`]) than the first in order, if
    /// that one is idle: for who has left something there that would have to be made anew elsewhere. SQLAlchemy's pool knows
    /// no such wish; without one nothing differs from it.
    pub fn checkout_again(&self, key: &B::Key, last: Option<u64>, now: Instant) -> Option<Lease<B>> {
        let (id, conn, serial) = self.0.lock().lend(&self.0, key, last, now)?;
        Some(Lease::new(self.0.clone(), id, conn, serial, false))
    }

    /// For the health query: an idle connection whatever its key, else one opened with `key` in a slot that nobody
    /// waits for, else `None`. It never stands in line, closes no usable connection and opens none above the limit.
    pub fn probe(&self, key: B::Key) -> Option<Checkout<B>> {
        let mut state = self.0.lock();
        let request = state.new_waiter();
        let after = state.on(&self.0, Event::Probe { request, key }, clock());
        let refused = matches!(state.waiter(request), Wait::Failed(_));
        if refused {
            state.free_waiter(request);
        }
        drop(state);
        after.carry_out(&self.0);
        (!refused).then(|| Checkout::waiting(self.0.clone(), request))
    }

    /// Other settings from now on: growth serves those that wait before this returns, a shrink closes what is idle and
    /// too much. `replace` says what becomes of the connections that are open.
    pub fn reconfigure(&self, config: Config, replace: Replace) {
        self.0.tell(Event::Reconfigure { config, replace });
    }

    /// The settings that hold now.
    pub fn config(&self) -> Config {
        self.0.lock().engine.config().clone()
    }

    /// The numbers now.
    pub fn stats(&self) -> Stats {
        self.0.lock().engine.stats()
    }

    /// No more checkouts: those that wait are told, idle connections are closed, lent ones when they come back.
    /// Ends when nothing is left open. Dropping it does not open the pool again.
    pub async fn close(&self) {
        self.0.tell(Event::Close);
        poll_fn(|cx| {
            let mut state = self.0.lock();
            if state.engine.is_gone() {
                return Poll::Ready(());
            }
            state.gone.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl<B: Backend> std::fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pool").field(&self.stats()).finish()
    }
}

/// What the pool's clones, leases, requests and tasks share.
pub(super) struct Shared<B: Backend> {
    pub backend: Arc<B>,
    /// A std mutex: it is never held across an await, and for less time than a switch of tasks takes.
    state: Mutex<State<B>>,
    /// `engine.ending()`, to be read without the lock.
    pub ending: AtomicBool,
    /// Wakes [`Pool::run`] when something is due earlier than it thinks.
    nudge: Notify,
    /// One opening has it at a time: see [`tasks`].
    pub openings: Semaphore,
}

impl<B: Backend> Shared<B> {
    /// The state. A panic under the lock can only come from `Backend::look`, between two events: the state is whole.
    pub fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the engine and does what follows.
    pub fn tell(self: &Arc<Self>, event: Event<B::Key>) {
        let mut state = self.lock();
        let after = state.on(self, event, clock());
        drop(state);
        after.carry_out(self);
    }

    /// Whoever made `request` has gone.
    pub fn leave(self: &Arc<Self>, request: RequestId) {
        let mut state = self.lock();
        let event = match state.waiter(request) {
            Wait::Queued { .. } => Event::Cancel { request },
            Wait::Granted { conn, .. } => Event::CheckIn { conn: *conn, heard: false },
            Wait::Pinging { .. } => {
                // The ping goes on; its task frees the place.
                *state.waiter(request) = Wait::Left;
                return;
            }
            Wait::Failed(_) | Wait::Left | Wait::Free => {
                state.free_waiter(request);
                return;
            }
        };
        state.free_waiter(request);
        let after = state.on(self, event, clock());
        drop(state);
        after.carry_out(self);
    }

    /// A task ended without saying how; [`Pool::run`] sees to it.
    pub fn lost(&self, doing: Doing) {
        self.lock().lost.push(doing);
        self.nudge();
    }

    /// Has [`Pool::run`] make a round now.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    pub fn claim_end(&self, conn: ConnId) -> bool {
        let mut state = self.lock();
        let yes = state.engine.claim_end(conn);
        self.ending.store(state.engine.ending(), Ordering::Release);
        yes
    }

    /// One round of [`Pool::run`]; says when the next is due.
    fn upkeep(self: &Arc<Self>, look: bool, look_at: Instant, now: Instant) -> Instant {
        let lost = std::mem::take(&mut self.lock().lost);
        for doing in lost {
            tasks::lost(self, doing);
        }
        let mut state = self.lock();
        let mut after = state.on(self, Event::Tick, now);
        if look {
            for conn in state.engine.idle().collect::<Vec<_>>() {
                if let Err(reason) = state.look(self, conn) {
                    let event = Event::Unfit { conn, request: None, reason, invalidate: false };
                    after.append(state.on(self, event, now));
                }
            }
        }
        after.jobs.append(&mut state.deferred);
        let due = state.engine.due().map_or(look_at, |due| due.min(look_at));
        state.scheduled = Some(due);
        drop(state);
        after.carry_out(self);
        due
    }
}

#[cfg(test)]
mod tests;
