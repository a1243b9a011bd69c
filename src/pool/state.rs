//! What lies behind the pool's lock: the engine, the connections it speaks of, and who waits for what.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Instant;

use super::backend::Backend;
use super::checkout::CheckoutError;
use super::engine::{ConnId, Effect, Effects, Engine, Event, RequestId};
use super::handle::Shared;
use super::reason::{CloseReason, Refusal};
use super::tasks::{Doing, Job};

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
    pub scheduled: Option<Instant>,
    /// Jobs that came up outside of any runtime, for [`Pool::run`].
    pub deferred: Vec<Job<B>>,
    /// Tasks that ended without a word.
    pub lost: Vec<Doing>,
    /// Whom to wake when the closed pool is empty.
    pub gone: Vec<Waker>,
}

impl<B: Backend> State<B> {
    pub fn new(engine: Engine<B::Key>) -> Self {
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

    /// Whether nobody waits and nothing but `open` connections is left in the tables.
    #[cfg(test)]
    pub fn is_tidy(&self, open: usize) -> bool {
        let free = |waiter: &Wait<B::Error>| matches!(waiter, Wait::Free);
        let waiters = self.free_waiters.len() == self.waiters.len() && self.waiters.iter().all(free);
        waiters && self.conns.iter().flatten().count() == open && self.deferred.is_empty() && self.lost.is_empty()
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

    pub fn conn_mut(&mut self, conn: ConnId) -> Option<&mut B::Conn> {
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

    /// A connection of this key with nothing to follow from lending it, with its number.
    pub fn lend(
        &mut self,
        shared: &Shared<B>,
        key: &B::Key,
        last: Option<u64>,
        now: Instant,
    ) -> Option<(ConnId, B::Conn, u64)> {
        let (place, conn) = self.engine.offer(key, last, now)?;
        // If it is not usable that is found again on the long way, which does something about it.
        self.look(shared, conn).ok()?;
        let live = self.conn_slot(conn).take()?;
        Some((conn, live, self.engine.lend(place, conn)))
    }

    /// A healthy connection comes back, of which [`State::put`] has put away what is left; says if anything follows.
    pub fn check_in(&mut self, shared: &Shared<B>, conn: ConnId, now: Instant) -> Option<After<B>> {
        let more = !self.engine.check_in_quietly(conn, now);
        more.then(|| self.on(shared, Event::CheckIn { conn, heard: true }, now))
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
        match if fresh { Ok(()) } else { self.look(shared, conn) } {
            Ok(()) => self.settle(request, Wait::Granted { conn, fresh }, after),
            Err(reason) => {
                let event = Event::Unfit { conn, request: Some(request), reason, invalidate: false };
                self.engine.on(event, now, &mut self.fx);
            }
        }
    }

    /// Whether an idle connection is usable, as far as can be seen without asking it.
    pub fn look(&mut self, shared: &Shared<B>, conn: ConnId) -> Result<(), CloseReason> {
        self.conn_mut(conn).map_or(Err(CloseReason::Disconnected), |live| shared.backend.look(live))
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
    pub jobs: Vec<Job<B>>,
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
            shared.nudge();
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
                shared.nudge();
            }
        }
    }
}
