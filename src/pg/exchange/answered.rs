//! What the server says, held against what it owes.

use super::Exchange;
use super::owed::{Also, Copy, Expect, OutOfStep, Owed, Purpose, Verdict};
use crate::pg::session::prepared::{Cache, Names};
use crate::pg::session::rule::{self, Rule};

impl Exchange {
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
    #[inline]
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
    #[cold]
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

    #[inline]
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
            self.aside_skipped |= also.purpose == Some(Purpose::Aside);
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
