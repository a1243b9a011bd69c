//! From a client to its server: what is taken is noted as owed, and written on.

use std::task::{Context, Poll};
use std::time::Instant;

use super::{End, MOST_OWED, Relay, no_random_bytes, write};
use crate::pg::message;
use crate::sidecar::proxy::buffer;
use crate::sidecar::proxy::ingress::{Server, Stop, Taken, Turn};

impl Relay<'_> {
    /// Writes what the server is to get, and takes of the client as long as all can be written. True if anything moved.
    pub(super) fn towards_server(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        while self.send(cx)? {
            moved = true;
        }
        Ok(moved)
    }

    /// One step of [`Relay::towards_server`]: false if there is nothing more to do now.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let conn = &mut *self.server;
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
        if self.held {
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
        let conn = &mut *self.server;
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
            changeable: first && !self.fresh,
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
        self.held = stop == Stop::Held;
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
}
