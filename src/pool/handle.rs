//! [`Pool`]: the engine behind one lock, and its effects carried out.
//!
//! Whoever changes something takes the lock, tells the engine, notes what is to be done beside it
//! ([`After`]) and does that once the lock is free: wake, and spawn the tasks that connect, ping and
//! close. A checkout that finds an idle connection and a check-in that nobody waits for end under that
//! one lock and allocate nothing. Requests that wait lie in a table of wakers.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::checkout::{Checkout, CheckoutError};
use super::config::Config;
use super::engine::{ConnId, Effect, Effects, Engine, Event, Replace, RequestId};
use super::reason::{CloseReason, Refusal};
use super::stats::Stats;
use super::tasks::{self, Doing, Job};

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

    /// Every connection opened before now is replaced when it is to be lent next.
    pub fn invalidate(&self) {
        self.0.tell(Event::Invalidate);
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
                let alive = state.conn_mut(conn).is_some_and(|live| self.backend.look(live));
                if !alive {
                    let reason = CloseReason::Disconnected;
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

/// How far a request has come.
#[derive(Debug)]
pub(super) enum Wait<E> {
    Free,
    /// In the engine's line.
    Queued {
        waker: Option<Waker>,
        retried: bool,
    },
    /// A connection was granted and is being pinged.
    Pinging {
        waker: Option<Waker>,
        retried: bool,
    },
    /// As `Pinging`, but nobody waits any more.
    Left,
    Granted {
        conn: ConnId,
        fresh: bool,
    },
    Failed(CheckoutError<E>),
}

impl<E> Wait<E> {
    fn waker(&mut self) -> Option<Waker> {
        match self {
            Self::Queued { waker, .. } | Self::Pinging { waker, .. } => waker.take(),
            _ => None,
        }
    }
}

/// What lies behind the lock.
pub(super) struct State<B: Backend> {
    pub engine: Engine<B::Key>,
    fx: Effects<B::Key>,
    /// The connections that are neither lent nor pinged nor being closed, by [`ConnId`].
    conns: Vec<Option<B::Conn>>,
    /// Whom to wake at the shrink deadline, by [`ConnId`].
    end_wakers: Vec<Option<Waker>>,
    waiters: Vec<Wait<B::Error>>,
    free_waiters: Vec<RequestId>,
    /// Why the opening failed that the engine is being told about.
    pub error: Option<B::Error>,
    /// When [`Pool::run`] wakes next; `None` if it doesn't run.
    scheduled: Option<Instant>,
    /// Jobs that came up outside of any runtime, for [`Pool::run`].
    deferred: Vec<Job<B>>,
    /// Tasks that ended without a word.
    lost: Vec<Doing>,
    /// Whom to wake when the closed pool is empty.
    gone: Vec<Waker>,
}

impl<B: Backend> State<B> {
    fn new(engine: Engine<B::Key>) -> Self {
        Self {
            engine,
            fx: Effects::new(),
            conns: Vec::new(),
            end_wakers: Vec::new(),
            waiters: Vec::new(),
            free_waiters: Vec::new(),
            error: None,
            scheduled: None,
            deferred: Vec::new(),
            lost: Vec::new(),
            gone: Vec::new(),
        }
    }

    pub fn new_waiter(&mut self) -> RequestId {
        let waiting = Wait::Queued { waker: None, retried: false };
        if let Some(request) = self.free_waiters.pop() {
            self.waiters[request.0 as usize] = waiting;
            return request;
        }
        self.waiters.push(waiting);
        RequestId(u32::try_from(self.waiters.len() - 1).unwrap_or(u32::MAX))
    }

    pub fn waiter(&mut self, request: RequestId) -> &mut Wait<B::Error> {
        &mut self.waiters[request.0 as usize]
    }

    pub fn free_waiter(&mut self, request: RequestId) {
        *self.waiter(request) = Wait::Free;
        self.free_waiters.push(request);
    }

    pub fn wake_later(&mut self, request: RequestId, new: &Waker) {
        if let Wait::Queued { waker, .. } | Wait::Pinging { waker, .. } = self.waiter(request) {
            match waker {
                Some(old) => old.clone_from(new),
                None => *waker = Some(new.clone()),
            }
        }
    }

    pub fn ending(&self) -> bool {
        self.engine.ending()
    }

    pub fn wake_at_end(&mut self, conn: ConnId, waker: &Waker) {
        *at(&mut self.end_wakers, conn) = Some(waker.clone());
    }

    /// Takes a granted connection out of the table, with its number.
    pub fn take(&mut self, conn: ConnId) -> Option<(B::Conn, u64)> {
        Some((self.conn_slot(conn).take()?, self.engine.serial(conn)?))
    }

    /// Puts a connection (back) into the table, before the engine is told.
    pub fn put(&mut self, conn: ConnId, live: B::Conn) {
        *self.conn_slot(conn) = Some(live);
        if let Some(waker) = self.end_wakers.get_mut(conn.0 as usize) {
            *waker = None;
        }
    }

    fn conn_mut(&mut self, conn: ConnId) -> Option<&mut B::Conn> {
        self.conn_slot(conn).as_mut()
    }

    fn conn_slot(&mut self, conn: ConnId) -> &mut Option<B::Conn> {
        at(&mut self.conns, conn)
    }

    /// Tells the engine, and carries out what can be done under the lock.
    #[must_use = "wakers and tasks are to follow once the lock is free"]
    pub fn on(&mut self, shared: &Shared<B>, event: Event<B::Key>, now: Instant) -> After<B> {
        let mut after = After::new();
        self.engine.on(event, now, &mut self.fx);
        while let Some(effect) = self.fx.pop_front() {
            self.effect(shared, effect, now, &mut after);
        }
        shared.ending.store(self.engine.ending(), Ordering::Release);
        let due = self.engine.due();
        if let (Some(due), Some(scheduled)) = (due, self.scheduled)
            && due < scheduled
        {
            self.scheduled = Some(due);
            after.nudge = true;
        }
        if self.engine.is_gone() {
            after.wakers.append(&mut self.gone);
        }
        after
    }

    fn effect(&mut self, shared: &Shared<B>, effect: Effect<B::Key>, now: Instant, after: &mut After<B>) {
        match effect {
            Effect::Grant { request, conn, ping, fresh } => {
                self.grant(shared, request, conn, (ping, fresh), now, after)
            }
            Effect::Fail { request, why } => {
                let error = if why == Refusal::ConnectFailed { self.error.take() } else { None };
                self.settle(request, Wait::Failed(CheckoutError::new(why, error)), after);
            }
            Effect::Connect { conn, key } => after.jobs.push(Job::Connect { conn, key }),
            Effect::Close { conn, reason } => match self.conn_slot(conn).take() {
                Some(live) => after.jobs.push(Job::Close { conn, live, reason }),
                // It was lost with the task that had it: its socket is closed, what the server did is not known.
                None => self.engine.on(Event::Closed { conn, ended: false }, now, &mut self.fx),
            },
            Effect::EndSurplus => after.wakers.extend(self.end_wakers.iter_mut().filter_map(Option::take)),
        }
    }

    fn grant(
        &mut self,
        shared: &Shared<B>,
        request: RequestId,
        conn: ConnId,
        (ping, fresh): (bool, bool),
        now: Instant,
        after: &mut After<B>,
    ) {
        if ping && let Some(live) = self.conn_slot(conn).take() {
            if let Wait::Queued { waker, retried } = self.waiter(request) {
                let pinging = Wait::Pinging { waker: waker.take(), retried: *retried };
                *self.waiter(request) = pinging;
            }
            after.jobs.push(Job::Ping { conn, live, request });
            return;
        }
        let usable = fresh || self.conn_mut(conn).is_some_and(|live| shared.backend.look(live));
        if usable {
            self.settle(request, Wait::Granted { conn, fresh }, after);
        } else {
            let reason = CloseReason::Disconnected;
            let event = Event::Unfit { conn, request: Some(request), reason, invalidate: false };
            self.engine.on(event, now, &mut self.fx);
        }
    }

    /// `request` has come to its end.
    pub fn settle(&mut self, request: RequestId, outcome: Wait<B::Error>, after: &mut After<B>) {
        let waiter = self.waiter(request);
        if let Some(waker) = waiter.waker() {
            after.wake(waker);
        }
        *waiter = outcome;
    }
}

fn at<T>(table: &mut Vec<Option<T>>, conn: ConnId) -> &mut Option<T> {
    let index = conn.0 as usize;
    if table.len() <= index {
        table.resize_with(index + 1, || None);
    }
    &mut table[index]
}

/// What is to be done once the lock is free.
pub(super) struct After<B: Backend> {
    /// The first to wake: a check-in wakes one at most, and is not to allocate for it.
    waker: Option<Waker>,
    wakers: Vec<Waker>,
    jobs: Vec<Job<B>>,
    nudge: bool,
}

impl<B: Backend> After<B> {
    pub fn new() -> Self {
        Self { waker: None, wakers: Vec::new(), jobs: Vec::new(), nudge: false }
    }

    fn wake(&mut self, waker: Waker) {
        if self.waker.is_none() {
            self.waker = Some(waker);
        } else {
            self.wakers.push(waker);
        }
    }

    pub fn append(&mut self, mut other: Self) {
        self.wakers.extend(other.waker.take());
        self.wakers.append(&mut other.wakers);
        self.jobs.append(&mut other.jobs);
        self.nudge |= other.nudge;
    }

    pub fn carry_out(self, shared: &Arc<Shared<B>>) {
        for waker in self.waker.into_iter().chain(self.wakers) {
            waker.wake();
        }
        if self.nudge {
            shared.nudge.notify_one();
        }
        if self.jobs.is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                for job in self.jobs {
                    runtime.spawn(job.run(shared.clone()));
                }
            }
            Err(_) => {
                shared.lock().deferred.extend(self.jobs);
                shared.nudge.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;
