//! What can happen to a pool, and what follows from it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pool::config::Config;
use crate::pool::reason::{CloseReason, Refusal};

/// A connection's place in the engine's and the handle's tables; used again once the connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u32);

/// A request's place in the handle's table; the handle chooses it, small numbers keep the tables small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// What becomes of the connections that are open when the configuration changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// They stay.
    Keep,
    /// They are of an old generation and never lent again: idle ones are closed now, lent ones when given back.
    Now,
    /// The same, but each at a random moment within this time.
    Within(Duration),
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event<K> {
    /// Somebody asks for a connection opened with `key`. Answered by a Grant or a Fail, at once or later.
    Request {
        /// Not used by another request at this time.
        request: RequestId,
        /// What the connection must have been opened with.
        key: K,
    },
    /// The health query asks: as `Request`, but any key will do and it never stands in line.
    Probe {
        /// Not used by another request at this time.
        request: RequestId,
        /// What a connection is opened with if none is idle.
        key: K,
    },
    /// Who asked has left and nothing was granted yet.
    Cancel {
        /// Which request.
        request: RequestId,
    },
    /// A lent connection comes back healthy and clean.
    CheckIn {
        /// Which connection.
        conn: ConnId,
        /// Whether the server was heard from meanwhile; false if it was granted and never used.
        heard: bool,
    },
    /// A lent connection comes back unusable.
    Discard {
        /// Which connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
        /// Whether all that were opened before now are suspect too (its server was lost).
        invalidate: bool,
    },
    /// A connection was found dead: one that is idle, or one granted to `request`, which never saw it.
    Unfit {
        /// Which connection.
        conn: ConnId,
        /// To whom it was granted, if that one still waits: it goes back to the head of the line.
        request: Option<RequestId>,
        /// Why.
        reason: CloseReason,
        /// Whether all that were opened before now are suspect too.
        invalidate: bool,
    },
    /// An opening succeeded.
    Opened {
        /// Which.
        conn: ConnId,
    },
    /// An opening failed; nothing of it is left at the server.
    OpenFailed {
        /// Which.
        conn: ConnId,
    },
    /// A connection has ended after a `Close`.
    Closed {
        /// Which.
        conn: ConnId,
        /// Whether the server was seen to end it, or the deadline passed.
        ended: bool,
    },
    /// Other settings hold from now on.
    Reconfigure {
        /// The settings.
        config: Config,
        /// What becomes of the connections that are open.
        replace: Replace,
    },
    /// Time has passed; due at [`Engine::due`](super::Engine::due) at the latest.
    Tick,
    /// No more requests; whatever is open is closed as soon as it is free.
    Close,
}

/// What the handle has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect<K> {
    /// Give `conn` to `request`.
    Grant {
        /// To whom.
        request: RequestId,
        /// Which.
        conn: ConnId,
        /// Whether to ping it first.
        ping: bool,
        /// Whether it was opened just now and never lent before.
        fresh: bool,
    },
    /// Tell `request` that it gets nothing.
    Fail {
        /// Whom.
        request: RequestId,
        /// Why.
        why: Refusal,
    },
    /// Open `conn`; answer with `Opened` or `OpenFailed`.
    Connect {
        /// Which.
        conn: ConnId,
        /// With what.
        key: K,
    },
    /// Close `conn`; answer with `Closed` when it has ended.
    Close {
        /// Which.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// The shrink deadline has come: clients idle in a transaction may claim their end.
    EndSurplus,
}

/// The effects of events, in the order in which they are to be carried out.
pub type Effects<K> = VecDeque<Effect<K>>;
