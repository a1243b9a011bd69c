//! What answers a message, and what else happens when its answer arrives.

/// What answers a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Query: anything up to ReadyForQuery.
    Query,
    /// A simple Query of our own that returns no rows and must not fail.
    OwnQuery,
    /// FunctionCall: FunctionCallResponse, then ReadyForQuery.
    Function,
    /// Sync: ReadyForQuery.
    Sync,
    /// ParseComplete.
    Parse,
    /// BindComplete.
    Bind,
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement,
    /// RowDescription or NoData.
    DescribePortal,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute,
    /// CloseComplete.
    Close,
    /// Nothing from the server: Poolkeeper answers with this message (its tag; it has no body).
    Own(u8),
    /// Nothing at all: here the client ended the data of a COPY that the server has not begun yet.
    CopyEnd,
}

/// Why Poolkeeper itself sends a batch of extended messages to a server that a client holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To make the session the next client's, ahead of its first message: must not fail.
    Preface,
    /// To ask what the session carries, after a transaction: rows come back; may fail.
    Audit,
    /// To go ahead of a message inside the client's batch, whose fate it shares.
    Aside,
    /// To make a server know the client's statements by the client's own names; one that fails is left out.
    Naming,
}

/// What else happens when an answer arrives.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Also {
    /// Poolkeeper asked, not the client: the answer is swallowed.
    pub(super) swallow: bool,
    /// It belongs to a batch of our own.
    pub(super) purpose: Option<Purpose>,
    /// It uses a name again.
    pub(super) reused: bool,
    /// It stands for a message that is refused, and must fail.
    pub(super) refused: bool,
    /// The client's names change.
    pub(super) names: bool,
    /// The server's cache has a Parse under way.
    pub(super) parsing: bool,
    /// The server's cache has a Close under way.
    pub(super) closing: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Owed {
    pub(super) expect: Expect,
    pub(super) also: Also,
    /// Number of the named statement that it runs or describes; 0 for none.
    pub(super) statement: u64,
}

impl Owed {
    pub(super) fn new(expect: Expect, also: Also) -> Self {
        Self { expect, also, statement: 0 }
    }
}

/// Whether the server reads rows from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copy {
    No,
    /// CopyInResponse was seen; the client sends data.
    In,
    /// The client has ended its data; the server has not answered yet.
    Ended,
}

/// What to do with a message from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is for the client.
    Forward,
    /// Poolkeeper asked for it.
    Swallow,
    /// A row that Poolkeeper asked for ([`Purpose::Audit`]).
    Row,
    /// A parameter changed during a preface: the client's business only if its own session's value changed.
    Parameter,
    /// The preface failed: nothing of the client has run behind it, and the server must not be used.
    PrefaceFailed,
}

/// The server said something that nobody can have asked for: it is out of step and must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message {:?} from the server where {expected:?} was expected", char::from(*tag))]
pub struct OutOfStep {
    /// The message's tag.
    pub tag: u8,
    /// What the oldest unanswered message asked for.
    pub expected: Option<Expect>,
}
