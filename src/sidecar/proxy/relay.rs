//! A client and the server that it holds: the path of a query.
//!
//! One task polls both sockets; bytes are read into a buffer, held against the exchange in place, and written from
//! where they lie. A simple query takes four system calls: read and write towards the server, read and write back.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::buffer::{self, Buffer, Outgoing};
use super::client::Client;
use super::egress::{Seen, Sides};
use super::ingress::{Rules, Server, Stop, Taken, Turn};
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::exchange::OutOfStep;
use crate::pg::message;
use crate::pg::stream::Stream;
use crate::pool::Lease;
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
    pub server: &'a mut Lease<PgBackend>,
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
    /// How many clients may be bound to a server at once.
    pub most_bound: u32,
    /// Something was taken from the client since it got this server.
    pub used: bool,
    /// The task was woken, and the server has not been looked at since.
    pub woken: bool,
    /// Length of the client's buffer when its next message turned out to be incomplete.
    pub stuck: usize,
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

    /// Writes what the client is to get, and reads of the server as long as all can be written. True if anything moved.
    fn towards_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let conn: &mut PgConn = self.server;
            if !conn.to_client.is_empty() || self.client.stream.is_tls() {
                moved |= write(&mut self.client.stream, &mut conn.to_client, &conn.input, cx).map_err(|_| End::Left)?;
                if !conn.to_client.is_empty() {
                    return Ok(moved);
                }
            }
            conn.egress.wrote(&mut conn.input);
            if conn.egress.fatal && conn.input.is_empty() {
                return Err(End::ServerGone);
            }
            if moved && !self.leaving && self.is_done() {
                self.client.input.consume(std::mem::take(&mut self.taken));
                return Err(End::Free);
            }
            if !self.hear(cx)? {
                return Ok(moved);
            }
            moved = true;
        }
    }

    /// Reads once of the server, and deals with what came. False if nothing did.
    fn hear(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let conn: &mut PgConn = self.server;
        // When the task was woken there is nearly always something: not worth asking first.
        if !std::mem::take(&mut self.woken) {
            let Poll::Ready(readable) = conn.stream.poll_readable(cx) else { return Ok(false) };
            readable.map_err(|_| End::ServerGone)?;
        }
        match conn.stream.poll_read(cx, conn.input.space(buffer::LARGE)) {
            Poll::Ready(Ok(n)) if n > 0 => {
                conn.input.filled(n);
                self.rules.stats.server_bytes.add(n as u64);
                self.heard()?;
                Ok(true)
            }
            Poll::Ready(_) => Err(End::ServerGone),
            Poll::Pending => Ok(false),
        }
    }

    fn heard(&mut self) -> Result<(), End> {
        let conn: &mut PgConn = self.server;
        let (held, readied) = (conn.exchange.has_preface(), conn.exchange.is_being_readied());
        let mut sides = Sides {
            exchange: &mut conn.exchange,
            cache: &mut conn.cache,
            names: &mut self.client.names,
            statements: self.rules.statements,
            ingress: &mut self.client.ingress,
            out: &mut conn.to_client,
            session: &mut conn.session,
            parameters: &mut conn.parameters,
            single: self.rules.mode == Mode::Statement,
            stats: self.rules.stats,
        };
        let seen = conn.egress.process(&conn.input, &mut sides).map_err(End::OutOfStep)?;
        if let Some(why) = conn.egress.unready.take() {
            return Err(End::Unready(why));
        }
        if conn.to_client.is_empty() {
            // Nothing of it was for the client.
            conn.egress.wrote(&mut conn.input);
        }
        if seen.refused {
            let text = "transactions of several statements are refused in pool.mode: Statement".to_owned();
            return Err(End::Fatal(SqlState::FEATURE_NOT_SUPPORTED, text));
        }
        if seen.defaults {
            self.database.renew();
        }
        if held && !conn.exchange.has_preface() {
            // Confirmed: what waited for it goes on.
            self.stuck = 0;
            self.client.retry = None;
        }
        if readied && !conn.exchange.is_being_readied() {
            // From now on a cancel request can hit only the client's own.
            self.hold_server();
        }
        self.answered()?;
        let now = self.now();
        if let Some(health) = self.health {
            health.heard(now);
        }
        self.count(seen, now);
        if seen.ready > 0 { self.bind_or_free() } else { Ok(()) }
    }

    /// From now on a cancel request reaches the server; one that came while it was being made ready does now.
    fn hold_server(&mut self) {
        let target = &self.server.cancel;
        self.client.shared.hold(target);
        if self.client.shared.signals() & signal::CANCEL != 0 {
            self.client.shared.clear(signal::CANCEL);
            if target.begin() {
                let (target, registered) = (Arc::clone(target), Arc::clone(self.registered));
                tokio::spawn(async move { target.send(&registered.cancels).await });
            }
        }
    }

    fn count(&mut self, seen: Seen, now: Instant) {
        let stats = self.rules.stats;
        if seen.ready == 0 {
            return;
        }
        stats.queries.add(u64::from(seen.ready));
        stats.transactions.add(u64::from(seen.ended));
        self.client.shared.count_transactions(u64::from(seen.ended));
        if self.server.exchange.is_quiet()
            && let Some(since) = self.since.take()
        {
            stats.query_time.observe(now.saturating_duration_since(since));
        }
    }

    /// Writes what the server is to get, and takes of the client as long as all can be written. True if anything moved.
    fn towards_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        while self.send(cx)? {
            moved = true;
        }
        Ok(moved)
    }

    /// One step of [`Relay::towards_server`]: false if there is nothing more to do now.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let conn: &mut PgConn = self.server;
        if !conn.to_server.is_empty() || conn.stream.is_tls() {
            write(&mut conn.stream, &mut conn.to_server, &self.client.input, cx).map_err(|_| End::ServerGone)?;
            if !conn.to_server.is_empty() {
                return Ok(false);
            }
        }
        self.client.input.consume(std::mem::take(&mut self.taken));
        // Not into the middle of a message of the client's: data of a COPY that has failed is still under way.
        if self.client.ingress.is_between_messages() && conn.exchange.wants_probe() {
            conn.exchange.probe();
            conn.to_server.make(|out| {
                message::close_statement(out, b"pk_probe");
                message::sync(out);
            });
            return Ok(true);
        }
        if self.leaving {
            // As PostgreSQL, which comes to the goodbye when all before it is done.
            let done = !conn.exchange.owes_ready() && conn.to_client.is_empty();
            return if done { Err(End::Left) } else { Ok(false) };
        }
        if self.auditing {
            return Ok(false);
        }
        if self.used && self.client.ingress.is_between_messages() && self.wants_audit() {
            self.ask()?;
            return Ok(true);
        }
        if let Some(end) = self.parts() {
            return Err(end);
        }
        if self.server.to_client.made() > self.rules.max_buffered || self.server.exchange.owed() > MOST_OWED {
            // Answers that the client does not read: as PostgreSQL, which does not read on either.
            return Ok(false);
        }
        if self.client.input.len() > self.stuck {
            return self.take().map(|()| true);
        }
        if self.stuck > 0 && self.server.exchange.has_preface() && !self.server.exchange.has_batch() {
            // What has come waits already, and its memory is bounded.
            return Ok(false);
        }
        match self.client.poll_read(cx, self.rules.max_buffered.max(buffer::SMALL)) {
            Poll::Ready(Ok(n)) if n > 0 => Ok(true),
            Poll::Ready(_) => Err(End::Left),
            Poll::Pending => Ok(false),
        }
    }

    /// Takes the messages that the client has sent.
    fn take(&mut self) -> Result<(), End> {
        self.rules.stats.client_bytes.add(std::mem::take(&mut self.client.uncounted));
        let fresh = self.server.was_opened_now();
        let conn: &mut PgConn = self.server;
        let server = Server {
            exchange: &mut conn.exchange,
            cache: &mut conn.cache,
            session: &mut conn.session,
            out: &mut conn.to_server,
        };
        let names = &mut self.client.names;
        let first = !self.used;
        let mut turn = Turn {
            input: Taken::new(&self.client.input, 0),
            names,
            server,
            rules: &self.rules,
            first,
            changeable: first && !fresh,
        };
        if !std::mem::replace(&mut self.entered, true)
            && !self.client.ingress.enter(&mut turn).map_err(no_random_bytes)?
        {
            return Err(End::Unready("its session carries what nothing undoes".into()));
        }
        if first && !turn.server.exchange.is_being_readied() {
            self.client.shared.hold(&conn.cancel);
        }
        if !first && self.client.ingress.is_between_messages() {
            self.client.ingress.rename(&mut turn);
        }
        if self.client.ingress.mine.name_was_reset
            && let Some(name) = turn.server.session.application.as_deref()
        {
            self.client.ingress.mine.name_was_reset = false;
            conn.to_client.make(|out| message::parameter_status(out, "application_name", name));
        }
        let stop = self.client.ingress.process(&mut turn);
        self.taken = turn.input.taken();
        self.used |= self.taken > 0;
        if conn.exchange.has_preface() {
            self.client.retry.get_or_insert_default().keep(&self.client.input.bytes()[..self.taken]);
        }
        self.client.shared.set_idle(None);
        if conn.to_server.is_empty() {
            self.client.input.consume(std::mem::take(&mut self.taken));
        }
        self.stuck = if matches!(stop, Stop::More | Stop::Held) { self.client.input.len() - self.taken } else { 0 };
        if self.since.is_none() && !conn.exchange.is_quiet() {
            self.since = Some(*self.now.get_or_insert_with(Instant::now));
        }
        if conn.exchange.owes_only_own() {
            // Nothing from the server would bring these along.
            conn.to_client.make(|out| conn.exchange.take_own(out, &mut self.client.names));
        }
        match stop {
            Stop::More | Stop::Held => Ok(()),
            Stop::Another => Err(End::Unready("others have set custom settings on it".into())),
            Stop::Terminate => {
                self.leaving = true;
                Ok(())
            }
            Stop::Fatal(code, text) => Err(End::Fatal(code, text)),
        }
    }

    /// The server refused to be made the client's, and skipped what came behind: the client's bytes are taken again, once.
    /// False if they are not there any more, or that has failed before.
    pub fn take_back(&mut self) -> bool {
        let Some(bytes) = self.client.retry.as_mut().and_then(|retry| retry.take()) else { return false };
        self.client.input.consume(std::mem::take(&mut self.taken));
        self.client.input.put_back(&bytes);
        self.client.names.forget_pending();
        self.client.ingress.begin_again();
        true
    }

    /// Whether the server has done all that it was asked for, and nothing keeps it with this client.
    fn is_done(&self) -> bool {
        let conn: &PgConn = self.server;
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
        if self.server.exchange.is_quiet() && self.server.poll_end(cx).is_ready() && self.server.claim_end() {
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
