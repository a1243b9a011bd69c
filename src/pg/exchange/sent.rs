//! Notes of what is sent to the server.

use super::Exchange;
use super::owed::{Also, Copy, Expect, Owed, Purpose};

impl Exchange {
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

    /// A Parse is sent now that uses a name again and so must fail; `name` is the client's for it.
    pub fn reused(&mut self, statement: u64, name: &[u8]) {
        self.batch = true;
        self.reused.push_back(name.into());
        let also = Also { reused: true, ..Also::default() };
        self.owed.push_back(Owed { statement, ..Owed::new(Expect::Parse, also) });
    }

    /// A message that must fail is sent now in place of one that is refused: a Query, or one of a batch. `names`: the
    /// client's names change with its fate.
    pub fn refused(&mut self, expect: Expect, names: bool) {
        self.batch = expect != Expect::Query;
        self.owed.push_back(Owed::new(expect, Also { names, refused: true, ..Also::default() }));
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
}
