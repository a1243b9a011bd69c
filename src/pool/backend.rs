//! What a database must be able to do for a pool.

use std::fmt::Debug;
use std::future::Future;

use super::reason::CloseReason;

/// What a ping found, if not a connection that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PingError<E> {
    /// The connection is dead, or the answer did not come in time: another one is taken, unseen by the client.
    Disconnected,
    /// Something else went wrong: the request gets this error, the connection is closed.
    Other(E),
}

/// How a closing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOutcome {
    /// The server has ended the connection: EOF or a reset was read.
    Ended,
    /// The deadline passed before that; the server may still count the connection.
    Deadline,
}

/// A database as the pool sees it. The pool's limit is only as exact as [`Backend::close`] is honest.
pub trait Backend: Send + Sync + 'static {
    /// What a connection is opened with; it is lent only to requests of an equal key.
    type Key: Clone + Eq + Debug + Send + Sync + 'static;
    /// An open connection.
    type Conn: Send + 'static;
    /// Why a connect failed.
    type Error: Clone + Debug + Send + Sync + 'static;

    /// The key of connections opened ahead of any request (`min_idle`).
    fn default_key(&self) -> Self::Key;

    /// Opens a connection to the current target, within a limit of the backend's own.
    /// It ends only when nothing is left at the server of what failed.
    fn connect(&self, key: &Self::Key) -> impl Future<Output = Result<Self::Conn, Self::Error>> + Send;

    /// Asks for a sign of life, within a limit of the backend's own; never cancelled.
    fn ping(&self, conn: &mut Self::Conn) -> impl Future<Output = Result<(), PingError<Self::Error>>> + Send;

    /// A look without a round trip.
    /// Called under the pool's lock: it must neither block nor call the pool.
    ///
    /// # Errors
    /// If the connection is not usable: why it is to be closed. [`CloseReason::Disconnected`] if the server has ended
    /// it, [`CloseReason::Protocol`] if bytes have come that nobody asked for.
    fn look(&self, conn: &mut Self::Conn) -> Result<(), CloseReason>;

    /// Says goodbye and waits until the server has ended the connection, or until the backend's own deadline.
    fn close(&self, conn: Self::Conn, reason: CloseReason) -> impl Future<Output = CloseOutcome> + Send;
}
