//! What one server still owes one client: the bookkeeping of a pipeline. Pure.
//!
//! Every message that is sent to a server leaves a note of what answers it; every message from the server is held
//! against the oldest note. From this follow: whether the server is free for somebody else, which answers were asked
//! for by Poolkeeper itself and must not reach the client, and where an answer that needs no server has its place
//! among those that do (wire-cases 14, 15, 24, 31, 40).
//!
//! Source: "Message Flow" of the protocol chapter, and `exec_simple_query`, `PostgresMain`, `CopyGetData` of PostgreSQL
//! where that chapter is silent.

mod answered;
mod owed;
mod sent;

use std::collections::VecDeque;

use self::owed::{Copy, Owed};
pub use self::owed::{Expect, OutOfStep, Purpose, Verdict};

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
    /// A statement of our own inside a client's batch was skipped with that.
    aside_skipped: bool,
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
            aside_skipped: false,
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

    /// Answers to simple queries of our own are all that is owed: what comes next has the transaction status of now.
    pub fn owes_only_own_queries(&self) -> bool {
        !self.batch && self.maybe == 0 && self.owed.iter().all(|owed| owed.expect == Expect::OwnQuery)
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

    fn count(&mut self, purpose: Purpose, more: i32) {
        match purpose {
            Purpose::Preface => self.preface = self.preface.saturating_add_signed(more),
            Purpose::Audit => self.audit = self.audit.saturating_add_signed(more),
            Purpose::Aside | Purpose::Naming => {}
        }
    }

    /// The client's name for the statement that the server is at now, if that uses a name again.
    pub fn reused_name(&self) -> Option<&[u8]> {
        self.owed.front().filter(|owed| owed.also.reused).and_then(|_| self.reused.front()).map(|name| &**name)
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

    /// Whether a statement of our own was skipped with the client's batch; forgotten when asked.
    pub fn take_aside_skipped(&mut self) -> bool {
        std::mem::take(&mut self.aside_skipped)
    }

    /// The server waits for rows: it answers nothing else.
    pub fn is_copying_in(&self) -> bool {
        self.copy == Copy::In
    }

    /// Messages of the extended protocol were sent since the last Sync.
    pub fn has_batch(&self) -> bool {
        self.batch
    }

    /// The named statement that the server is at now, if its oldest unanswered message is about one.
    pub fn statement(&self) -> Option<u64> {
        self.owed.front().map(|owed| owed.statement).filter(|statement| *statement != 0)
    }

    /// Whether CopyData may be meant for the server: it copies, or may be about to.
    pub fn takes_copy_data(&self) -> bool {
        self.copy == Copy::In || (!self.owed.is_empty() && !self.failed)
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
}

#[cfg(test)]
mod tests;
