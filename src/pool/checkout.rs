//! The values whose drop gives back: a request that waits ([`Checkout`]), a connection that is lent ([`Lease`]).

use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::engine::{ConnId, Event, RequestId};
use super::handle::Shared;
use super::reason::{CloseReason, Refusal};
use super::state::Wait;

/// Why a checkout got no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError<E> {
    /// Nothing came free in time. The text is SQLAlchemy's (without its pointer to a web page).
    #[error(
        "QueuePool limit of size {size} overflow {overflow} reached, connection timed out, timeout {:.2}",
        timeout.as_secs_f64()
    )]
    Timeout {
        /// The configured size.
        size: u32,
        /// SQLAlchemy's `overflow()`: the counter, not the setting.
        overflow: i64,
        /// How long it waited.
        timeout: Duration,
    },
    /// As many requests as may wait were waiting.
    #[error("{max} requests wait for a connection already, no more may")]
    TooManyWaiting {
        /// The bound.
        max: u32,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// Connecting failed.
    #[error("connecting failed: {0:?}")]
    Connect(E),
    /// The ping failed otherwise than by a lost connection.
    #[error("the ping before use failed: {0:?}")]
    Ping(E),
    /// Two connections in a row were dead when pinged. The text is SQLAlchemy's.
    #[error("This connection is closed")]
    ConnectionClosed,
    /// The task that connected or pinged ended without a result (it panicked, or its runtime was shut down).
    #[error("the connection was lost while it was made ready")]
    Lost,
}

impl<E> CheckoutError<E> {
    /// What a refusal of the engine is to its client; `error` is why the connect failed, if that was it.
    /// `None` for a busy probe: its caller is told by another way.
    pub(super) fn new(why: Refusal, error: Option<E>) -> Self {
        match why {
            Refusal::Timeout { size, overflow, timeout } => Self::Timeout { size, overflow, timeout },
            Refusal::TooManyWaiting { max } => Self::TooManyWaiting { max },
            Refusal::Busy => Self::TooManyWaiting { max: 0 },
            Refusal::ConnectFailed => error.map_or(Self::Lost, Self::Connect),
            Refusal::Closed => Self::Closed,
        }
    }
}

enum Stage<K> {
    Start { key: K, now: Instant },
    Waiting(RequestId),
    Done,
}

/// A request for a connection. Nothing happens before it is polled; dropping it at any point leaks nothing.
#[must_use = "a request does nothing unless it is awaited"]
pub struct Checkout<B: Backend> {
    shared: Arc<Shared<B>>,
    stage: Stage<B::Key>,
}

// Nothing in it is ever pinned.
impl<B: Backend> Unpin for Checkout<B> {}

impl<B: Backend> Checkout<B> {
    pub(super) fn start(shared: Arc<Shared<B>>, key: B::Key, now: Instant) -> Self {
        Self { shared, stage: Stage::Start { key, now } }
    }

    pub(super) fn waiting(shared: Arc<Shared<B>>, request: RequestId) -> Self {
        Self { shared, stage: Stage::Waiting(request) }
    }
}

impl<B: Backend> Future for Checkout<B> {
    type Output = Result<Lease<B>, CheckoutError<B::Error>>;

    /// # Panics
    /// If it is polled again after it was ready.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        let mut after = None;
        let request = match std::mem::replace(&mut this.stage, Stage::Done) {
            Stage::Start { key, now } => {
                let request = state.new_waiter();
                after = Some(state.on(&this.shared, Event::Request { request, key }, now));
                request
            }
            Stage::Waiting(request) => request,
            Stage::Done => unreachable!("a checkout was polled after it had ended"),
        };
        let outcome = match state.waiter(request) {
            Wait::Granted { conn, fresh } => {
                let (conn, fresh) = (*conn, *fresh);
                state.free_waiter(request);
                match state.take(conn) {
                    Some((live, serial)) => Poll::Ready(Ok((conn, live, serial, fresh))),
                    None => Poll::Ready(Err(CheckoutError::Lost)),
                }
            }
            Wait::Failed(error) => {
                let error = error.clone();
                state.free_waiter(request);
                Poll::Ready(Err(error))
            }
            Wait::Queued { .. } | Wait::Pinging { .. } | Wait::Left | Wait::Free => {
                state.wake_later(request, cx.waker());
                this.stage = Stage::Waiting(request);
                Poll::Pending
            }
        };
        drop(state);
        if let Some(after) = after {
            after.carry_out(&this.shared);
        }
        outcome.map(|result| {
            let (id, conn, serial, fresh) = result?;
            Ok(Lease::new(this.shared.clone(), id, conn, serial, fresh))
        })
    }
}

impl<B: Backend> Drop for Checkout<B> {
    fn drop(&mut self) {
        if let Stage::Waiting(request) = self.stage {
            self.shared.leave(request);
        }
    }
}

impl<B: Backend> fmt::Debug for Checkout<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Start { .. } => "new",
            Stage::Waiting(_) => "waiting",
            Stage::Done => "done",
        };
        f.debug_tuple("Checkout").field(&stage).finish()
    }
}

/// A lent connection. Say how it comes back with [`Lease::give_back`], [`Lease::discard`] or
/// [`Lease::disconnected`]; a drop without a word is `discard(CloseReason::Abandoned)`.
pub struct Lease<B: Backend> {
    shared: Arc<Shared<B>>,
    id: ConnId,
    /// There until the lease ends.
    conn: Option<B::Conn>,
    serial: u64,
    fresh: bool,
    /// The waker left with the pool by [`Ending::poll`], so that polling again costs no lock.
    end_waker: Option<Waker>,
}

impl<B: Backend> Lease<B> {
    pub(super) fn new(shared: Arc<Shared<B>>, id: ConnId, conn: B::Conn, serial: u64, fresh: bool) -> Self {
        Self { shared, id, conn: Some(conn), serial, fresh, end_waker: None }
    }

    /// The connection is healthy and clean; `now` counts as the moment its server was last heard from.
    pub fn give_back(mut self, now: Instant) {
        let Some(conn) = self.conn.take() else { return };
        let mut state = self.shared.lock();
        state.put(self.id, conn);
        let after = state.check_in(&self.shared, self.id, now);
        drop(state);
        if let Some(after) = after {
            after.carry_out(&self.shared);
        }
    }

    /// The connection cannot be used again.
    pub fn discard(mut self, reason: CloseReason) {
        self.end(Event::Discard { conn: self.id, reason, invalidate: false }, super::handle::clock());
    }

    /// Its server was lost in the middle of a statement: the connection cannot be used again, and every other one
    /// opened before now is replaced when it is to be lent next (SQLAlchemy's pool-wide invalidation; nothing
    /// new if this one was itself opened before the last one).
    pub fn disconnected(mut self) {
        let reason = CloseReason::Disconnected;
        self.end(Event::Discard { conn: self.id, reason, invalidate: true }, super::handle::clock());
    }

    /// Whether it was opened just now and never lent before.
    pub fn was_opened_now(&self) -> bool {
        self.fresh
    }

    /// The connection's number, never used twice in this pool.
    pub fn id(&self) -> u64 {
        self.serial
    }

    /// The connection, and beside it what tells when it is to be given back: for who looks at both often.
    pub fn split(&mut self) -> (&mut B::Conn, Ending<'_, B>) {
        let Some(conn) = &mut self.conn else { unreachable!("a lease has its connection until it ends") };
        (conn, Ending { shared: &self.shared, id: self.id, waker: &mut self.end_waker })
    }

    fn end(&mut self, event: Event<B::Key>, now: Instant) {
        let Some(conn) = self.conn.take() else { return };
        let mut state = self.shared.lock();
        state.put(self.id, conn);
        let after = state.on(&self.shared, event, now);
        drop(state);
        after.carry_out(&self.shared);
    }
}

/// Tells whoever has a [`Lease`] when to give it back.
pub struct Ending<'a, B: Backend> {
    shared: &'a Shared<B>,
    id: ConnId,
    waker: &'a mut Option<Waker>,
}

impl<B: Backend> Ending<'_, B> {
    /// Ready once the shrink deadline has come and this client is to go if it is idle in a transaction:
    /// ask [`Ending::claim`] then. The task is woken when that happens. Costs a lock once per lease and task.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.ending.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let mut state = self.shared.lock();
        // It changes under the lock only.
        if self.shared.ending.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        state.wake_at_end(self.id, cx.waker());
        *self.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether this connection is still one too many, so that its client is to be ended. Says yes once, and to
    /// no more clients than there are connections above the limit; whoever gets a yes must give it back.
    pub fn claim(&self) -> bool {
        self.shared.claim_end(self.id)
    }
}

impl<B: Backend> fmt::Debug for Ending<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ending").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<B: Backend> Deref for Lease<B> {
    type Target = B::Conn;

    fn deref(&self) -> &B::Conn {
        match &self.conn {
            Some(conn) => conn,
            None => unreachable!("a lease has its connection until it ends"),
        }
    }
}

impl<B: Backend> DerefMut for Lease<B> {
    fn deref_mut(&mut self) -> &mut B::Conn {
        match &mut self.conn {
            Some(conn) => conn,
            None => unreachable!("a lease has its connection until it ends"),
        }
    }
}

impl<B: Backend> Drop for Lease<B> {
    fn drop(&mut self) {
        if self.conn.is_some() {
            let reason = CloseReason::Abandoned;
            self.end(Event::Discard { conn: self.id, reason, invalidate: false }, super::handle::clock());
        }
    }
}

impl<B: Backend> fmt::Debug for Lease<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.serial).field("fresh", &self.fresh).finish_non_exhaustive()
    }
}
