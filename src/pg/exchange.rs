//! What one server still owes one client: the bookkeeping of a pipeline. Pure.
//!
//! Every message that is sent to a server leaves a note of what answers it; every message from the server is held
//! against the oldest note. From this follow: whether the server is free for somebody else, which answers were asked
//! for by Poolkeeper itself and must not reach the client, and where an answer that needs no server has its place
//! among those that do (wire-cases 14, 15, 24, 31, 40).
//!
//! Source: "Message Flow" of the protocol chapter, and `exec_simple_query`, `PostgresMain`, `CopyGetData` of PostgreSQL
//! where that chapter is silent.

use std::collections::VecDeque;

use super::session::prepared::{Cache, Names};
use super::session::rule::{self, Rule};

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
struct Also {
    /// Poolkeeper asked, not the client: the answer is swallowed.
    swallow: bool,
    /// It belongs to a batch of our own.
    purpose: Option<Purpose>,
    /// It uses a name again.
    reused: bool,
    /// It stands for a message that is refused, and must fail.
    refused: bool,
    /// The client's names change.
    names: bool,
    /// The server's cache has a Parse under way.
    parsing: bool,
    /// The server's cache has a Close under way.
    closing: bool,
}

#[derive(Debug, Clone, Copy)]
struct Owed {
    expect: Expect,
    also: Also,
    /// Number of the named statement that it runs or describes; 0 for none.
    statement: u64,
}

impl Owed {
    fn new(expect: Expect, also: Also) -> Self {
        Self { expect, also, statement: 0 }
    }
}

/// Whether the server reads rows from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
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

/// One server's unanswered messages and its transaction status.
#[derive(Debug)]
pub struct Exchange {
    owed: VecDeque<Owed>,
    status: u8,
    /// An error was seen and no Sync sent yet: the server skips what comes.
    failed: bool,
    /// Extended messages were sent since the last Sync.
    batch: bool,
    /// Something has answered the simple Query or the FunctionCall of the moment: it can be over.
    completed: bool,
    copy: Copy,
    /// Syncs of which only the server knows whether it ignored them (during COPY) or will answer.
    maybe: u32,
    /// Unanswered messages of a preface.
    preface: u32,
    /// Unanswered queries of our own and ends of a preface's steps.
    readying: u32,
    /// Unanswered messages of an audit.
    audit: u32,
    /// An audit met an error.
    audit_failed: bool,
    /// The clients' names that are used again, in the order of their messages.
    reused: VecDeque<Box<[u8]>>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            status: b'I',
            failed: false,
            batch: false,
            copy: Copy::No,
            maybe: 0,
            preface: 0,
            readying: 0,
            audit: 0,
            audit_failed: false,
            reused: VecDeque::new(),
            completed: false,
        }
    }
}

impl Exchange {
    /// Transaction status of the last ReadyForQuery: `I` idle, `T` in a transaction, `E` in a failed one.
    pub fn status(&self) -> u8 {
        self.status
    }

    /// A statement of our own, which was not noted here, left the server in this transaction status.
    pub fn assume(&mut self, status: u8) {
        self.status = status;
    }

    /// Nothing is owed, no batch is open: the server waits for a message, in a transaction or not.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && !self.batch && self.maybe == 0 && self.copy == Copy::No
    }

    /// Quiet and in no transaction: the server is free for another client, as far as the protocol goes.
    pub fn is_free(&self) -> bool {
        self.status == b'I' && self.is_quiet()
    }

    /// A ReadyForQuery is owed, and comes even if the client sends nothing more.
    pub fn owes_ready(&self) -> bool {
        self.copy != Copy::In
            && self.owed.iter().any(|owed| matches!(owed.expect, Expect::Query | Expect::Function | Expect::Sync))
    }

    /// The server skips all messages up to a Sync: they need not be sent.
    pub fn is_skipping(&self) -> bool {
        self.failed
    }

    /// Only an answer to a probe can tell whether another ReadyForQuery comes (wire-cases 40): send [`Exchange::probe`].
    pub fn wants_probe(&self) -> bool {
        self.maybe > 0 && self.owed.is_empty() && !self.failed && !self.batch && self.copy == Copy::No
    }

    /// Notes a probe: a Close for a statement that does not exist and a Sync are sent now.
    pub fn probe(&mut self) {
        let also = Also { swallow: true, ..Also::default() };
        self.owed.push_back(Owed::new(Expect::Close, also));
        self.owed.push_back(Owed::new(Expect::Sync, also));
    }

    /// A simple Query or a FunctionCall is sent now.
    pub fn query(&mut self, expect: Expect, names: bool) {
        self.batch = false;
        self.owed.push_back(Owed::new(expect, Also { names, ..Also::default() }));
    }

    /// A simple Query of our own is sent now; the server is free.
    pub fn own_query(&mut self) {
        self.readying += 1;
        let also = Also { swallow: true, ..Also::default() };
        self.owed.push_back(Owed::new(Expect::OwnQuery, also));
    }

    /// A message of a batch of our own is sent now.
    pub fn ours(&mut self, expect: Expect, purpose: Purpose) {
        self.batch = expect != Expect::Sync;
        self.count(purpose, 1);
        self.readying += u32::from(purpose == Purpose::Preface && expect == Expect::Sync);
        let also = Also { swallow: true, purpose: Some(purpose), ..Also::default() };
        self.owed.push_back(Owed::new(expect, also));
    }

    fn count(&mut self, purpose: Purpose, more: i32) {
        match purpose {
            Purpose::Preface => self.preface = self.preface.saturating_add_signed(more),
            Purpose::Audit => self.audit = self.audit.saturating_add_signed(more),
            Purpose::Aside | Purpose::Naming => {}
        }
    }

    /// A Parse is sent now that uses a name again and so must fail; `name` is the client's for it.
    pub fn reused(&mut self, statement: u64, name: &[u8]) {
        self.batch = true;
        self.reused.push_back(name.into());
        let also = Also { reused: true, ..Also::default() };
        self.owed.push_back(Owed { statement, ..Owed::new(Expect::Parse, also) });
    }

    /// The client's name for the statement that the server is at now, if that uses a name again.
    pub fn reused_name(&self) -> Option<&[u8]> {
        self.owed.front().filter(|owed| owed.also.reused).and_then(|_| self.reused.front()).map(|name| &**name)
    }

    /// A message that must fail is sent now in place of one that is refused: a Query, or one of a batch. `names`: the
    /// client's names change with its fate.
    pub fn refused(&mut self, expect: Expect, names: bool) {
        self.batch = expect != Expect::Query;
        self.owed.push_back(Owed::new(expect, Also { names, refused: true, ..Also::default() }));
    }

    /// Whether the server is at a message that stands for a refused one: its error is ours to word.
    pub fn is_refused(&self) -> bool {
        self.owed.front().is_some_and(|owed| owed.also.refused)
    }

    /// A preface is not confirmed yet. Until then one batch of the client at most may be sent behind it: a server
    /// that refuses the preface skips that batch, but not what follows its Sync.
    pub fn has_preface(&self) -> bool {
        self.preface > 0
    }

    /// Something of our own is under way that a cancel request must not hit. The last gate is not counted: its answer
    /// comes with the client's own.
    pub fn is_being_readied(&self) -> bool {
        self.readying > 0
    }

    /// An audit is under way.
    pub fn has_audit(&self) -> bool {
        self.audit > 0
    }

    /// Whether the last audit failed; forgotten when asked.
    pub fn take_audit_failed(&mut self) -> bool {
        std::mem::take(&mut self.audit_failed)
    }

    /// Messages of the extended protocol were sent since the last Sync.
    pub fn has_batch(&self) -> bool {
        self.batch
    }

    /// A message of the extended protocol is sent now.
    pub fn extended(&mut self, expect: Expect) {
        self.batch = true;
        self.owed.push_back(Owed::new(expect, Also::default()));
    }

    /// A Bind or a Describe for a named statement is sent now.
    pub fn uses(&mut self, expect: Expect, statement: u64) {
        self.batch = true;
        self.owed.push_back(Owed { statement, ..Owed::new(expect, Also::default()) });
    }

    /// The named statement that the server is at now, if its oldest unanswered message is about one.
    pub fn statement(&self) -> Option<u64> {
        self.owed.front().map(|owed| owed.statement).filter(|statement| *statement != 0)
    }

    /// A client's Parse is sent now; its names change with the answer.
    pub fn parse(&mut self, names: bool) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Parse, Also { names, parsing: true, ..Also::default() }));
    }

    /// A client's Parse is sent now as it is, under the client's own name.
    pub fn parse_as_named(&mut self, names: bool) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Parse, Also { names, ..Also::default() }));
    }

    /// A Parse of our own is sent now: the server lacks a statement.
    pub fn reparse(&mut self) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Parse, Also { swallow: true, parsing: true, ..Also::default() }));
    }

    /// A Close of our own is sent now: the server's cache is full.
    pub fn evict(&mut self) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Close, Also { swallow: true, closing: true, ..Also::default() }));
    }

    /// A client's Close is sent now; its names change with the answer.
    pub fn close(&mut self, names: bool) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Close, Also { names, ..Also::default() }));
    }

    /// A Close of our own is sent now, for something that the server may not have.
    pub fn close_quietly(&mut self) {
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Close, Also { swallow: true, ..Also::default() }));
    }

    /// The client is to get this message in its turn; nothing is sent. Its names change with it.
    pub fn own(&mut self, tag: u8) {
        // The client must send Sync after it, and only a server can answer that in order.
        self.batch = true;
        self.owed.push_back(Owed::new(Expect::Own(tag), Also { names: true, ..Also::default() }));
    }

    /// A Sync is sent now.
    pub fn sync(&mut self) {
        if self.copy == Copy::In {
            // Ignored by a server that copies, answered by one that has just failed (CopyGetData in copyfromparse.c).
            self.maybe += 1;
            return;
        }
        self.batch = false;
        self.failed = false;
        self.owed.push_back(Owed::new(Expect::Sync, Also::default()));
    }

    /// CopyDone or CopyFail is sent now.
    pub fn copy_ended(&mut self) {
        if self.copy == Copy::In {
            self.copy = Copy::Ended;
        } else if !self.owed.is_empty() {
            // Sent ahead of CopyInResponse: what follows is no part of the COPY (wire-cases 40).
            self.owed.push_back(Owed::new(Expect::CopyEnd, Also::default()));
        }
    }

    /// Whether CopyData may be meant for the server: it copies, or may be about to.
    pub fn takes_copy_data(&self) -> bool {
        self.copy == Copy::In || (!self.owed.is_empty() && !self.failed)
    }

    /// Whether a message with this tag is for the client and changes nothing: rows and what describes them, most of what
    /// servers say. [`Exchange::on_server`] would say `Forward`.
    #[inline]
    pub fn passes(&self, tag: u8) -> bool {
        let rows = matches!(tag, b'D' | b'd');
        self.owed.front().is_some_and(|owed| match owed.expect {
            Expect::Query => rows || tag == b'T',
            Expect::Execute => rows && owed.also.purpose.is_none(),
            _ => false,
        })
    }

    /// Holds a message from the server against what is owed. `body` is needed for ReadyForQuery and CommandComplete only.
    ///
    /// # Errors
    /// If nobody can have asked for this message.
    pub fn on_server(
        &mut self,
        tag: u8,
        body: &[u8],
        names: &mut Names,
        cache: &mut Cache,
    ) -> Result<Verdict, OutOfStep> {
        let expect = self.owed.front().map(|owed| owed.expect);
        if let Some(Owed { expect, also: Also { purpose: Some(purpose), .. }, .. }) = self.owed.front() {
            return self.on_ours(tag, body, (*expect, *purpose), names, cache);
        }
        let wrong = Err(OutOfStep { tag, expected: expect });
        match (tag, expect) {
            // Rows first: the path of a query.
            (b'D' | b'd' | b'c', Some(Expect::Query | Expect::Execute)) => Ok(Verdict::Forward),
            (b'C' | b'N' | b'S', Some(Expect::OwnQuery)) => {
                self.completed |= tag == b'C';
                Ok(Verdict::Swallow)
            }
            (b'E', Some(Expect::OwnQuery)) => wrong,
            (b'N' | b'S' | b'A', _) => Ok(Verdict::Forward),
            (b'T' | b'C' | b'I' | b'H' | b'G', Some(Expect::Query)) => {
                self.completed |= matches!(tag, b'C' | b'I');
                if tag == b'G' {
                    self.copy_starts();
                } else if tag == b'C' {
                    self.copy_completes();
                }
                Ok(Verdict::Forward)
            }
            (b'C' | b'I' | b's', Some(Expect::Execute)) => {
                self.copy_completes();
                Ok(self.answered(names, cache))
            }
            (b'G', Some(Expect::Execute)) => {
                self.copy_starts();
                Ok(Verdict::Forward)
            }
            (b'H', Some(Expect::Execute)) => Ok(Verdict::Forward),
            (b'1', Some(Expect::Parse)) | (b'2', Some(Expect::Bind)) => Ok(self.answered(names, cache)),
            (b'3', Some(Expect::Close)) => {
                // It was sent after every Sync that is in doubt, so none of these will be answered any more.
                self.maybe = 0;
                Ok(self.answered(names, cache))
            }
            (b't', Some(Expect::DescribeStatement)) => Ok(Verdict::Forward),
            (b'T' | b'n', Some(Expect::DescribeStatement | Expect::DescribePortal)) => Ok(self.answered(names, cache)),
            (b'V', Some(Expect::Function)) => {
                self.completed = true;
                Ok(Verdict::Forward)
            }
            (b'Z', _) => self.ready(body, names, cache).ok_or(OutOfStep { tag, expected: expect }),
            (b'E', _) => {
                self.error(names, cache);
                Ok(Verdict::Forward)
            }
            _ => wrong,
        }
    }

    /// The answer to a message of a batch of our own.
    fn on_ours(
        &mut self,
        tag: u8,
        body: &[u8],
        (expect, purpose): (Expect, Purpose),
        names: &mut Names,
        cache: &mut Cache,
    ) -> Result<Verdict, OutOfStep> {
        match (tag, expect) {
            // What the session was told before is nobody's business now; a notification may be for its owner.
            (b'A', _) if purpose != Purpose::Preface || rule::off(Rule::SwallowPreface) => return Ok(Verdict::Forward),
            (b'S', _) if purpose == Purpose::Preface && !rule::off(Rule::SwallowPreface) => {
                return Ok(Verdict::Parameter);
            }
            (b'S', _) if purpose != Purpose::Audit => return Ok(Verdict::Forward),
            (b'N' | b'S' | b'A', _) | (b't', Expect::DescribeStatement) => return Ok(Verdict::Swallow),
            (b'D', Expect::Execute) if purpose == Purpose::Audit => return Ok(Verdict::Row),
            (b'D', Expect::Execute) => return Ok(Verdict::Swallow),
            (b'E', _) if purpose == Purpose::Preface => return Ok(Verdict::PrefaceFailed),
            (b'E', _) if purpose == Purpose::Aside => {
                self.error(names, cache);
                return Ok(Verdict::Forward);
            }
            (b'E', _) => {
                self.audit_failed |= purpose == Purpose::Audit;
                while self.owed.front().is_some_and(|owed| owed.expect != Expect::Sync) {
                    self.owed.pop_front();
                    self.count(purpose, -1);
                }
                return Ok(Verdict::Swallow);
            }
            (b'1', Expect::Parse)
            | (b'2', Expect::Bind)
            | (b'3', Expect::Close)
            | (b'n' | b'T', Expect::DescribeStatement)
            | (b'C', Expect::Execute) => {}
            (b'Z', Expect::Sync) if matches!(body, b"I") || matches!(purpose, Purpose::Audit | Purpose::Naming) => {
                self.status = body.first().copied().unwrap_or(b'E');
            }
            _ => return Err(OutOfStep { tag, expected: Some(expect) }),
        }
        self.count(purpose, -1);
        self.answered(names, cache);
        Ok(Verdict::Swallow)
    }

    /// Appends the answers of our own whose turn has come.
    pub fn take_own(&mut self, out: &mut Vec<u8>, names: &mut Names) {
        while let Some(Owed { expect: Expect::Own(tag), also, .. }) = self.owed.front().copied() {
            out.extend_from_slice(&[tag, 0, 0, 0, 4]);
            if also.names {
                names.apply();
            }
            self.owed.pop_front();
            self.pass_copy_ends();
        }
    }

    /// Ends of data whose turn has come: nothing was copied, the server ignores them.
    fn pass_copy_ends(&mut self) {
        while let Some(Owed { expect: Expect::CopyEnd, .. }) = self.owed.front() {
            self.owed.pop_front();
        }
    }

    /// How many answers are owed.
    pub fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether an answer of our own is due now.
    pub fn has_own(&self) -> bool {
        matches!(self.owed.front(), Some(Owed { expect: Expect::Own(_), .. }))
    }

    /// Whether answers of our own are all that is owed: no message of the server will bring their turn.
    pub fn owes_only_own(&self) -> bool {
        self.has_own() && self.owed.iter().all(|owed| matches!(owed.expect, Expect::Own(_) | Expect::CopyEnd))
    }

    fn answered(&mut self, names: &mut Names, cache: &mut Cache) -> Verdict {
        let Some(owed) = self.owed.pop_front() else { return Verdict::Forward };
        let preface = owed.also.purpose == Some(Purpose::Preface);
        if owed.expect == Expect::OwnQuery || (preface && owed.expect == Expect::Sync) {
            self.readying -= 1;
        }
        self.pass_copy_ends();
        if owed.also.reused {
            self.reused.pop_front();
        }
        if owed.also.names {
            names.apply();
        }
        if owed.also.parsing {
            cache.parsed();
        }
        if owed.also.closing {
            cache.closed();
        }
        if owed.also.swallow { Verdict::Swallow } else { Verdict::Forward }
    }

    fn ready(&mut self, body: &[u8], names: &mut Names, cache: &mut Cache) -> Option<Verdict> {
        let [status @ (b'I' | b'T' | b'E')] = *body else { return None };
        match self.owed.front() {
            // Ready, and nothing was done: it answers something else, and what was asked for is still to come.
            Some(Owed { expect: Expect::Query | Expect::OwnQuery | Expect::Function, .. })
                if !self.completed && self.maybe == 0 =>
            {
                None
            }
            Some(Owed { expect, .. })
                if *expect == Expect::Sync
                    || self.completed && matches!(expect, Expect::Query | Expect::OwnQuery | Expect::Function) =>
            {
                self.completed = false;
                self.status = status;
                self.copy = Copy::No;
                Some(self.answered(names, cache))
            }
            _ if self.maybe > 0 => {
                self.maybe -= 1;
                self.status = status;
                self.failed = false;
                self.batch = false;
                Some(Verdict::Forward)
            }
            _ => None,
        }
    }

    /// After an error the server skips everything up to the next Sync, unless it was running a simple Query.
    fn error(&mut self, names: &mut Names, cache: &mut Cache) {
        self.copy = Copy::No;
        if let Some(Owed { expect: Expect::Query | Expect::Function | Expect::Sync, .. }) = self.owed.front() {
            self.completed = true;
            return;
        }
        let mut skipped = false;
        while let Some(owed) = self.owed.front() {
            if owed.expect == Expect::Sync {
                return;
            }
            let also = owed.also;
            self.owed.pop_front();
            if also.reused {
                self.reused.pop_front();
            }
            if also.names {
                names.drop_change(skipped);
            }
            if also.parsing {
                cache.parse_failed();
            }
            if also.closing {
                cache.close_skipped();
            }
            skipped = true;
        }
        self.batch |= skipped;
        self.failed = self.batch;
    }

    fn copy_starts(&mut self) {
        self.copy = Copy::In;
        // Syncs sent before the client could know of the COPY are ignored by the server (wire-cases 40), up to where
        // the client has ended its data, if it has.
        let ended = self.owed.iter().position(|owed| owed.expect == Expect::CopyEnd);
        let mut behind = self.owed.split_off(ended.unwrap_or(self.owed.len()));
        let before = self.owed.len();
        self.owed.retain(|owed| owed.expect != Expect::Sync);
        let ignored = before - self.owed.len();
        if behind.pop_front().is_some() {
            self.copy = Copy::Ended;
        }
        self.maybe += u32::try_from(ignored).unwrap_or(u32::MAX);
        let ends_batch = |owed: &Owed| matches!(owed.expect, Expect::Sync | Expect::Query | Expect::Function);
        let synced = behind.iter().any(ends_batch);
        self.batch |= ignored > 0 && !synced && matches!(self.owed.front(), Some(Owed { expect: Expect::Execute, .. }));
        self.owed.append(&mut behind);
    }

    fn copy_completes(&mut self) {
        if self.copy != Copy::No {
            // CopyDone came after those Syncs and was taken: so were they.
            self.copy = Copy::No;
            self.maybe = 0;
        }
    }
}

#[cfg(test)]
mod tests;
