//! The work done beside the clients, each a task of its own: connecting, pinging, closing.
//!
//! A client that leaves costs nothing: what was begun for it is finished and goes to the next. Each task
//! holds a guard whose drop tells [`Pool::run`](super::Pool::run), so that a panic in the backend or the end of a
//! runtime leaks no slot.

use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, CloseOutcome, PingError};
use super::checkout::CheckoutError;
use super::engine::{ConnId, Event, RequestId};
use super::handle::{Shared, clock};
use super::reason::CloseReason;
use super::state::{After, Wait};

/// How long an opening lets the one before it go first. Begun all at once they share the database's processors, and the first
/// client that waits gets its connection as late as the last; a database that answers slowly holds nobody up for longer.
const HEAD_START: Duration = Duration::from_millis(5);

/// A task to be started.
pub(super) enum Job<B: Backend> {
    Connect { conn: ConnId, key: B::Key },
    Ping { conn: ConnId, live: B::Conn, request: RequestId },
    Close { conn: ConnId, live: B::Conn, reason: CloseReason },
}

impl<B: Backend> Job<B> {
    /// The guard is made here, not in the task: a task that is never polled is dropped with it.
    pub fn run(self, shared: Arc<Shared<B>>) -> impl Future<Output = ()> + Send {
        let mut task = match &self {
            Self::Connect { conn, .. } => Task::new(shared, Doing::Connect(*conn)),
            Self::Ping { conn, request, .. } => Task::new(shared, Doing::Ping(*conn, *request)),
            Self::Close { conn, .. } => Task::new(shared, Doing::Close(*conn)),
        };
        async move {
            let backend = task.shared.backend.clone();
            match self {
                Self::Connect { key, .. } => {
                    let shared = Arc::clone(&task.shared);
                    let _turn = tokio::time::timeout(HEAD_START, shared.openings.acquire()).await;
                    task.connected(backend.connect(&key).await);
                }
                Self::Ping { mut live, .. } => {
                    let result = backend.ping(&mut live).await;
                    task.pinged(live, result);
                }
                Self::Close { live, reason, .. } => {
                    let outcome = backend.close(live, reason).await;
                    task.closed(outcome == CloseOutcome::Ended);
                }
            }
        }
    }
}

/// What a task has not yet said the end of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Doing {
    Connect(ConnId),
    Ping(ConnId, RequestId),
    Close(ConnId),
}

/// A task's duty to say how it ended.
struct Task<B: Backend> {
    shared: Arc<Shared<B>>,
    doing: Option<Doing>,
}

impl<B: Backend> Task<B> {
    fn new(shared: Arc<Shared<B>>, doing: Doing) -> Self {
        Self { shared, doing: Some(doing) }
    }

    fn connected(&mut self, result: Result<B::Conn, B::Error>) {
        if let Some(Doing::Connect(conn)) = self.doing.take() {
            connected(&self.shared, conn, result.map_err(Some));
        }
    }

    fn pinged(&mut self, live: B::Conn, result: Result<(), PingError<B::Error>>) {
        if let Some(Doing::Ping(conn, request)) = self.doing.take() {
            pinged(&self.shared, conn, request, Some(live), result.map_err(Some));
        }
    }

    fn closed(&mut self, ended: bool) {
        if let Some(Doing::Close(conn)) = self.doing.take() {
            self.shared.tell(Event::Closed { conn, ended });
        }
    }
}

impl<B: Backend> Drop for Task<B> {
    /// Not told to the engine from here: in a runtime that ends, what follows would be dropped at once as
    /// well, and so on as deep as requests wait.
    fn drop(&mut self) {
        if let Some(doing) = self.doing.take() {
            self.shared.lost(doing);
        }
    }
}

/// A task ended without a word: its connection is gone with it.
pub(super) fn lost<B: Backend>(shared: &Arc<Shared<B>>, doing: Doing) {
    match doing {
        Doing::Connect(conn) => connected(shared, conn, Err(None)),
        Doing::Ping(conn, request) => pinged(shared, conn, request, None, Err(None)),
        Doing::Close(conn) => shared.tell(Event::Closed { conn, ended: false }),
    }
}

/// An opening ended; the error is `None` if its task was lost.
fn connected<B: Backend>(shared: &Arc<Shared<B>>, conn: ConnId, result: Result<B::Conn, Option<B::Error>>) {
    let mut state = shared.lock();
    let event = match result {
        Ok(live) => {
            state.put(conn, live);
            Event::Opened { conn }
        }
        Err(error) => {
            state.error = error;
            Event::OpenFailed { conn }
        }
    };
    let after = state.on(shared, event, clock());
    state.error = None;
    drop(state);
    after.carry_out(shared);
}

/// A ping ended; `live` and the error are `None` if its task was lost, and the connection with it.
fn pinged<B: Backend>(
    shared: &Arc<Shared<B>>,
    conn: ConnId,
    request: RequestId,
    live: Option<B::Conn>,
    result: Result<(), Option<PingError<B::Error>>>,
) {
    let mut state = shared.lock();
    if let Some(live) = live {
        state.put(conn, live);
    }
    let mut after = After::new();
    let waiting = match state.waiter(request) {
        Wait::Pinging { waker, retried } => Some((waker.take(), *retried)),
        _ => None,
    };
    let reason = CloseReason::PingFailed;
    let invalidate = matches!(result, Err(Some(PingError::Disconnected)));
    let event = match (result, waiting) {
        (Ok(()), Some((waker, retried))) => {
            *state.waiter(request) = Wait::Queued { waker, retried };
            state.settle(request, Wait::Granted { conn, fresh: false }, &mut after);
            None
        }
        (Err(Some(PingError::Disconnected)), Some((waker, false))) => {
            *state.waiter(request) = Wait::Queued { waker, retried: true };
            Some(Event::Unfit { conn, request: Some(request), reason, invalidate })
        }
        (Err(error), Some((waker, retried))) => {
            let error = match error {
                Some(PingError::Disconnected) => CheckoutError::ConnectionClosed,
                Some(PingError::Other(error)) => CheckoutError::Ping(error),
                None => CheckoutError::Lost,
            };
            *state.waiter(request) = Wait::Queued { waker, retried };
            state.settle(request, Wait::Failed(error), &mut after);
            Some(Event::Discard { conn, reason, invalidate })
        }
        (Ok(()), None) => {
            state.free_waiter(request);
            Some(Event::CheckIn { conn, heard: true })
        }
        (Err(_), None) => {
            state.free_waiter(request);
            Some(Event::Discard { conn, reason, invalidate })
        }
    };
    if let Some(event) = event {
        after.append(state.on(shared, event, clock()));
    }
    drop(state);
    after.carry_out(shared);
}
