//! From the server to its client: what is heard is held against what is owed, and written on.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::{End, Relay, write};
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::sidecar::clients::signal;
use crate::sidecar::proxy::buffer;
use crate::sidecar::proxy::egress::{Seen, Sides};

impl Relay<'_> {
    /// Writes what the client is to get, and reads of the server as long as all can be written. True if anything moved.
    pub(super) fn towards_client(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            let conn = &mut *self.server;
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
        let conn = &mut *self.server;
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
        let conn = &mut *self.server;
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
            self.unready = true;
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
            (self.stuck, self.held) = (0, false);
            self.client.retry = None;
        }
        if self.held && (conn.exchange.is_quiet() || conn.exchange.is_copying_in()) {
            // What waited for answers goes on.
            (self.stuck, self.held) = (0, false);
        }
        if conn.exchange.take_aside_skipped() {
            // What it was to undo is still there, and what it was to forget may be.
            conn.session.sequences_of = None;
            conn.session.sql_prepared = true;
            conn.session.spoiled = true;
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
}
