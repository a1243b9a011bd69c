//! A client and the server that it holds: the path of a query.
//!
//! One task polls both sockets; bytes are read into a buffer, held against the exchange in place, and written from
//! where they lie. A simple query takes four system calls: read and write towards the server, read and write back.

mod towards_client;
mod towards_server;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::buffer::{Buffer, Outgoing};
use super::client::Client;
use super::ingress::Rules;
use crate::api::resolve::{Mode, Resolved};
use crate::pg::error::SqlState;
use crate::pg::exchange::OutOfStep;
use crate::pg::stream::Stream;
use crate::pool::Ending;
use crate::sidecar::backend::{PgBackend, PgConn};
use crate::sidecar::clients::{Activity, signal};
use crate::sidecar::database::{Database, Registered};
use crate::sidecar::probe::Health;

/// Unanswered messages above which no more are taken of the client.
const MOST_OWED: usize = 16 * 1024;

/// Why a client and its server part.
#[derive(Debug)]
pub enum End {
    /// The server is free: nothing is owed, no transaction is open, nothing binds the client to it.
    Free,
    /// The client left, with a goodbye or without.
    Left,
    /// The server's connection has ended.
    ServerGone,
    /// The server said what nobody had asked for.
    OutOfStep(OutOfStep),
    /// The client's connection ends with this error.
    Fatal(SqlState, String),
    /// The server could not be made the client's, and nothing of the client has run on it: it is closed.
    Unready(String),
    /// The same, and nothing of the client was taken either: it gets another server.
    Another,
}

/// A client and its server while they belong together.
#[derive(Debug)]
pub struct Relay<'a> {
    /// The client.
    pub client: &'a mut Client,
    /// Its server.
    pub server: &'a mut PgConn,
    /// When the pool wants that back.
    pub ending: Ending<'a, PgBackend>,
    /// It was opened for this client.
    pub fresh: bool,
    /// What its messages are held against.
    pub rules: Rules<'a>,
    /// Where both belong.
    pub database: &'a Database,
    /// All databases and clients.
    pub registered: &'a Arc<Registered>,
    /// Told whenever the server is heard.
    pub health: Option<&'a Health>,
    /// The time of this poll, once somebody has asked for it.
    pub now: Option<Instant>,
    /// When the statement under way was sent.
    pub since: Option<Instant>,
    /// Bytes of the client's buffer that have been taken and wait to be written.
    pub taken: usize,
    /// The server has been made the client's, or is about to be.
    pub entered: bool,
    /// An audit is under way.
    pub auditing: bool,
    /// How often it was tried.
    pub tries: u32,
    /// What holds for the client.
    pub policy: &'a Resolved,
    /// Something was taken from the client since it got this server.
    pub used: bool,
    /// The task was woken, and the server has not been looked at since.
    pub woken: bool,
    /// Length of the client's buffer when its next message turned out to be incomplete, or to have to wait.
    pub stuck: usize,
    /// That message is there and waits for answers: nothing more is read of the client.
    pub held: bool,
    /// The server has refused the preface.
    pub unready: bool,
    /// The client has said goodbye: nothing more is read of it, and it gets what it is owed.
    pub leaving: bool,
}

impl Relay<'_> {
    /// The time, asked of the clock once a poll.
    pub fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    /// Moves bytes both ways as long as any move; ready when client and server part.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.client.shared.register(cx.waker());
        let polled = self.poll_both(cx);
        if polled.is_pending() {
            self.now = None;
            self.woken = true;
        }
        polled
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Err(end) = self.move_all(cx) {
            return Poll::Ready(end);
        }
        if let Some(end) = self.must_end(cx) {
            return Poll::Ready(end);
        }
        if self.is_done() {
            // The client does not read its answer: it gets the rest without a server.
            return Poll::Ready(End::Free);
        }
        let quiet = self.server.exchange.is_quiet();
        self.client.shared.set_activity(if quiet { Activity::Holding } else { Activity::Active });
        if quiet {
            self.client.input.rest();
            // Only a client that keeps its server (Session mode, a pin) can be idle here.
            let idle = self.server.exchange.is_free().then(|| self.now());
            self.client.shared.set_idle(idle);
        }
        self.server.input.rest();
        Poll::Pending
    }

    /// Either direction moves as long as it can; then the other one gets its turn only if that can have changed anything
    /// for it: asking a socket that was just found empty costs more than the rest of a poll.
    fn move_all(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !self.used {
            // The first thing is the client's message; later it is mostly the server that wakes us.
            self.towards_server(cx)?;
            if !self.towards_client(cx)? {
                return Ok(());
            }
        } else {
            self.towards_client(cx)?;
        }
        while self.towards_server(cx)? && !self.server.to_client.is_empty() {
            self.towards_client(cx)?;
        }
        Ok(())
    }

    /// Whether the server has done all that it was asked for, and nothing keeps it with this client.
    fn is_done(&self) -> bool {
        let conn = &*self.server;
        self.used
            && conn.exchange.is_free()
            && conn.to_server.is_empty()
            && conn.egress.has_looked_at_all(&conn.input)
            && self.client.ingress.is_between_messages()
            && self.rules.mode != Mode::Session
            && self.client.ingress.mine.pin().is_none()
            && !self.auditing
            && !self.wants_audit()
    }

    /// Whether client and server part now that nothing is under way between them.
    fn parts(&self) -> Option<End> {
        (self.server.to_client.is_empty() && self.is_done()).then_some(End::Free)
    }

    /// Whether somebody else wants the client gone, and may have it now.
    fn must_end(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let signals = self.client.shared.signals();
        let gone = |text: &str| Some(End::Fatal(SqlState::ADMIN_SHUTDOWN, text.into()));
        if signals & signal::END != 0 || (signals & signal::DRAIN != 0 && self.server.exchange.is_free()) {
            return gone("terminating connection: the pooler is shutting down");
        }
        if signals & signal::IDLE != 0 && self.server.exchange.is_free() {
            let text = "terminating connection: idle for longer than listen.idleTimeout".into();
            return Some(End::Fatal(SqlState::IDLE_SESSION_TIMEOUT, text));
        }
        if self.server.exchange.is_quiet() && self.ending.poll(cx).is_ready() && self.ending.claim() {
            return gone(
                "terminating connection: the pool was made smaller and this server was idle past timeouts.shrink",
            );
        }
        None
    }
}

/// The system has no random bytes for a name that nobody guesses.
pub(super) fn no_random_bytes(error: getrandom::Error) -> End {
    End::Fatal(SqlState::INTERNAL_ERROR, format!("no random bytes: {error}"))
}

/// Writes as much as the socket takes. True if it took any.
fn write(stream: &mut Stream, out: &mut Outgoing, buffer: &Buffer, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut moved = false;
    while !out.is_empty() {
        let written = if let Some(one) = out.only(buffer) {
            stream.poll_write(cx, one)
        } else {
            let (slices, count) = out.slices(buffer);
            stream.poll_write_vectored(cx, &slices[..count])
        };
        match written {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                out.written(n);
                moved = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(moved),
        }
    }
    if stream.is_tls() {
        // What a TLS session still holds is flushed with the next wake-up if the socket is full now.
        if let Poll::Ready(Err(error)) = stream.poll_flush(cx) {
            return Err(error);
        }
    }
    Ok(moved)
}
