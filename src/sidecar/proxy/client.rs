//! One client: its socket, what was read of it, what it is still to get.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::buffer::{Buffer, SMALL};
use super::ingress::Ingress;
use super::retry::Retry;
use crate::pg::error::SqlState;
use crate::pg::frame::{self, Header};
use crate::pg::message::{self, Severity};
use crate::pg::session::prepared::Names;
use crate::pg::stream::Stream;
use crate::sidecar::clients::{Registered, signal};
use crate::sidecar::database::{Bound, Welcome};

/// A client as its own task has it.
#[derive(Debug)]
pub struct Client {
    /// Its socket.
    pub stream: Stream,
    /// Bytes read from it.
    pub input: Buffer,
    /// Bytes of our own, or left over from a server that is free again, that it gets before anything else.
    out: Vec<u8>,
    sent: usize,
    /// What stands between its bytes and its server.
    pub ingress: Ingress,
    /// Its prepared statements.
    pub names: Names,
    /// What other tasks see of it.
    pub shared: Registered,
    /// An error was given to it in the middle of a batch: everything up to its Sync is dropped.
    skips_to_sync: bool,
    /// Bytes of the current message still to come that are dropped.
    drops: usize,
    /// Bytes read and not yet counted.
    pub uncounted: u64,
    /// Bytes taken of it that its server may refuse.
    pub retry: Option<Box<Retry>>,
    /// Counts it among those that session state binds to a server.
    pub bound: Option<Bound>,
    /// The socket wakes the task known to `shared`: nothing has come since it was asked to.
    armed: bool,
    /// What it was told at login.
    pub told: Option<Arc<Welcome>>,
    /// Which changes of that it was told.
    pub news: u32,
}

/// What a client without a server wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wants {
    /// A server, for a message that has arrived.
    Server,
    /// Nothing more: it has left.
    Leave,
    /// It broke the protocol.
    Broken(String),
    /// It must go: it was idle for too long (true), or the sidecar ends.
    MustGo {
        /// Idle for longer than allowed.
        idle: bool,
    },
}

impl Client {
    /// A client that has logged in and may have sent more than its login already.
    pub fn new(stream: Stream, early: &[u8], ingress: Ingress, shared: Registered) -> Self {
        Self {
            stream,
            input: Buffer::holding(early),
            out: Vec::new(),
            sent: 0,
            ingress,
            names: Names::default(),
            shared,
            skips_to_sync: false,
            drops: 0,
            uncounted: 0,
            retry: None,
            bound: None,
            armed: false,
            told: None,
            news: 0,
        }
    }

    /// Adds bytes of our own to what the client gets next.
    pub fn say(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        fill(&mut self.out);
    }

    /// Tells the client why something failed.
    pub fn say_error(&mut self, severity: Severity, code: SqlState, text: &str) {
        message::error_response(&mut self.out, severity, &code, text, None, None);
    }

    /// Writes what [`Client::say`] has added.
    #[inline]
    pub fn poll_say(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out.is_empty() && !self.stream.is_tls() { Poll::Ready(Ok(())) } else { self.poll_say_on(cx) }
    }

    fn poll_say_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            match ready!(self.stream.poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if self.sent > 0 || self.stream.is_tls() {
            ready!(self.stream.poll_flush(cx))?;
            self.out = Vec::new();
            self.sent = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads on. `Ready(Ok(0))` is the end. Takes memory only when there is something to read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<usize>> {
        if self.armed && self.shared.is_registered(cx.waker()) && !self.stream.seems_readable() {
            // As asked before; asking again would cost two locks.
            return Poll::Pending;
        }
        let readable = self.stream.poll_readable(cx);
        self.armed = readable.is_pending() && self.shared.is_registered(cx.waker());
        ready!(readable)?;
        self.poll_read_now(cx, max)
    }

    /// As [`Client::poll_read`], where something is likely to be there: memory is taken first, and given back if not.
    fn poll_read_now(&mut self, cx: &mut Context<'_>, max: usize) -> Poll<io::Result<usize>> {
        let space = self.input.space(max);
        if space.is_empty() {
            return Poll::Ready(Err(io::Error::other("a message longer than may be buffered")));
        }
        self.armed = false;
        let read = self.stream.poll_read(cx, space);
        match &read {
            Poll::Ready(Ok(n)) => {
                self.input.filled(*n);
                self.uncounted += *n as u64;
            }
            _ => self.input.rest(),
        }
        read
    }

    /// Waits, without a server, until the client wants one or must go. `woken`: it was polled before, so it is likely
    /// that there is something to read, and not worth asking first.
    pub fn poll_idle(&mut self, cx: &mut Context<'_>, woken: bool) -> Poll<Wants> {
        self.shared.register(cx.waker());
        loop {
            if let Some(wants) = self.next() {
                if wants == Wants::Server {
                    // Replies of our own go first, so that nothing of a server can overtake them.
                    return self.poll_say(cx).map(|said| if said.is_ok() { wants } else { Wants::Leave });
                }
                return Poll::Ready(wants);
            }
            let said = self.poll_say(cx);
            let signals = self.shared.signals();
            if matches!(said, Poll::Ready(Err(_))) {
                return Poll::Ready(Wants::Leave);
            }
            // Asked even of a client that does not read what it is told.
            if signals & (signal::DRAIN | signal::END | signal::IDLE) != 0 {
                return Poll::Ready(Wants::MustGo { idle: signals & signal::IDLE != 0 });
            }
            if said.is_pending() {
                return Poll::Pending;
            }
            let read = if woken {
                self.poll_read_now(cx, SMALL)
            } else {
                self.input.rest();
                self.poll_read(cx, SMALL)
            };
            match ready!(read) {
                Ok(n) if n > 0 => {}
                _ => return Poll::Ready(Wants::Leave),
            }
        }
    }

    /// Takes the messages that need no server, up to one that does.
    fn next(&mut self) -> Option<Wants> {
        loop {
            if self.drops > 0 {
                let n = self.drops.min(self.input.len());
                self.drops -= n;
                self.input.consume(n);
            }
            let header = match self.header() {
                Ok(header) => header?,
                Err(error) => return Some(Wants::Broken(error.to_string())),
            };
            match header.tag {
                b'X' => return Some(Wants::Leave),
                b'S' => {
                    self.skips_to_sync = false;
                    message::ready_for_query(&mut self.out, b'I');
                    self.drops = header.total();
                }
                // Flush with nothing to flush; late data of a COPY that has failed (wire-cases 41).
                b'H' | b'd' | b'c' | b'f' => self.drops = header.total(),
                b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F' if self.skips_to_sync => self.drops = header.total(),
                b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'F' => {
                    // A slow sender takes a server only when there is something to do.
                    let has_come = self.input.len() >= header.total().min(SMALL);
                    return has_come.then_some(Wants::Server);
                }
                tag => return Some(Wants::Broken(format!("invalid frontend message type {tag}"))),
            }
        }
    }

    fn header(&self) -> Result<Option<Header>, frame::FrameError> {
        if self.drops > 0 { Ok(None) } else { frame::header(self.input.bytes()) }
    }

    /// Answers the message that waits for a server with an error; the client stays. A simple Query is over with it, a
    /// batch is dropped up to its Sync.
    pub fn refuse(&mut self, code: SqlState, text: &str) {
        self.say_error(Severity::Error, code, text);
        let Ok(Some(header)) = frame::header(self.input.bytes()) else { return };
        self.drops = header.total();
        if matches!(header.tag, b'Q' | b'F') {
            message::ready_for_query(&mut self.out, b'I');
        } else {
            self.skips_to_sync = true;
        }
    }

    /// Gives memory back while nothing is under way.
    pub fn rest(&mut self) {
        self.input.rest();
        self.names.rest();
    }

    /// The client's record that other tasks see.
    pub fn record(&self) -> &Arc<crate::sidecar::clients::Client> {
        &self.shared
    }
}
