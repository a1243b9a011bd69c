//! Making a server's session the client's before its first message, and what else goes ahead of a message.

use super::{HEADER, Ingress, Stop, Turn};
use crate::pg::error::SqlState;
use crate::pg::exchange::{Expect, Purpose};
use crate::pg::message;
use crate::pg::session::ours::Scrub;
use crate::pg::session::proof::Entry;
use crate::pg::session::rule::{self, Rule};
use crate::pg::session::scan::first_word;

const DEALLOCATE: &str = "DEALLOCATE ALL";
const SEQUENCES: &str = "DISCARD SEQUENCES";

/// Whether a preface holds back what follows the client's first batch.
pub(super) fn gates() -> bool {
    !rule::off(Rule::PrefaceGate)
}

impl Ingress {
    /// Sends what must precede the client's first message on this server. False if the server must not be used.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn enter(&mut self, turn: &mut Turn<'_>) -> Result<bool, getrandom::Error> {
        self.own_names = false;
        let Some(startup_name) = turn.rules.application else { return Ok(true) };
        self.mine.nameless = startup_name.is_empty();
        let (rules, server) = (turn.rules, &mut turn.server);
        let label = &self.mine.label;
        let entry = server.session.proof.entry(rules.client, label);
        server.session.proof.sent(rules.client, label, entry);
        let own_name = label.get(b"application_name").and_then(|name| std::str::from_utf8(name).ok());
        let name = own_name.unwrap_or(startup_name);
        match entry {
            Entry::Refused => return Ok(false),
            Entry::Direct => {
                name_application(name, turn);
                if turn.server.session.named && must_deallocate(turn) {
                    // Its own, which it may have closed on another server since.
                    own_query(DEALLOCATE, turn);
                    deallocated(turn);
                }
                if self.mine.asks_sequences && must_forget_sequences(turn) {
                    own_query(SEQUENCES, turn);
                    turn.server.session.sequences_of = Some(turn.rules.client);
                }
            }
            Entry::Adapt | Entry::Scrub => {
                let scrub = entry == Entry::Scrub;
                let rename = own_name.is_none() && (scrub || server.session.application.as_deref() != Some(name));
                let plain = crate::pg::session::label::Label::default();
                let label = if rule::off(Rule::Adapt) { &plain } else { &**label };
                let (session, exchange) = (&mut *server.session, &mut *server.exchange);
                let mut sent = Ok(());
                let statements =
                    (rules.prepares || session.named) && session.sql_prepared && !rule::off(Rule::SqlPrepared);
                let disconnect = rules.catalog.disconnect();
                let much = scrub.then_some(Scrub { statements, disconnect: disconnect.as_deref() });
                let sequences = self.mine.asks_sequences && !rule::off(Rule::Sequences);
                server.out.make(|out| {
                    let name = rename.then_some(name.as_bytes());
                    sent = session.ours.preface(much, sequences, label, name, exchange, out);
                });
                sent?;
                if scrub && statements {
                    (session.sql_prepared, session.named) = (false, false);
                    server.cache.clear();
                }
                session.application = Some(name.into());
                for (name, _) in label.settings() {
                    session.customs.add(name);
                    self.mine.customs.add(name);
                }
                if scrub || sequences {
                    session.sequences_of = Some(rules.client);
                }
                if scrub {
                    rules.stats.scrubs.inc();
                }
                if !label.is_plain() {
                    rules.stats.adaptations.inc();
                }
            }
        }
        Ok(true)
    }
}

impl Ingress {
    /// After a RESET the session has the name it was opened with: the client's own is set again, as it would be without a
    /// pooler.
    pub fn rename(&mut self, turn: &mut Turn<'_>) {
        let Some(startup_name) = turn.rules.application else { return };
        let exchange = &*turn.server.exchange;
        let within = exchange.status() == b'T' && exchange.is_quiet() && self.mine.has_reset_name();
        if turn.server.session.application.is_some() || !(exchange.is_free() || within) {
            return;
        }
        let own_name = self.mine.label.get(b"application_name").and_then(|name| std::str::from_utf8(name).ok());
        name_application(own_name.filter(|_| !within).unwrap_or(startup_name), turn);
    }
}

/// A server takes the client's `application_name`: servers are shared by clients that differ in it.
fn name_application(name: &str, turn: &mut Turn<'_>) {
    if turn.server.session.application.as_deref() == Some(name) {
        return;
    }
    // Only printable ASCII is in it, so that whatever the encoding this is one literal.
    let sql = format!("SET application_name TO E'{}'", name.replace('\\', "\\\\").replace('\'', "''"));
    own_query(&sql, turn);
    turn.server.session.application = Some(name.into());
}

/// The server forgets the sequence values of clients before this one.
///
/// # Errors
/// As [`ahead`].
pub(super) fn forget_sequences(turn: &mut Turn<'_>) -> Result<(), Stop> {
    if must_forget_sequences(turn) && ahead(SEQUENCES, turn)? {
        turn.server.session.sequences_of = Some(turn.rules.client);
    }
    Ok(())
}

fn must_forget_sequences(turn: &Turn<'_>) -> bool {
    turn.server.session.sequences_of != Some(turn.rules.client) && !rule::off(Rule::Sequences)
}

/// The server forgets statements that SQL of earlier clients has prepared.
///
/// # Errors
/// As [`ahead`].
pub(super) fn deallocate(turn: &mut Turn<'_>) -> Result<(), Stop> {
    if must_deallocate(turn) && ahead(DEALLOCATE, turn)? {
        deallocated(turn);
    }
    Ok(())
}

fn must_deallocate(turn: &Turn<'_>) -> bool {
    turn.server.session.sql_prepared && !rule::off(Rule::SqlPrepared)
}

fn deallocated(turn: &mut Turn<'_>) {
    (turn.server.session.sql_prepared, turn.server.session.named) = (false, false);
    turn.server.session.ours.forget();
    turn.server.cache.clear();
}

/// Sends a statement of our own ahead of the client's next message. False in a transaction that has failed, where that
/// message fails too.
///
/// By itself wherever that can be waited for. Inside a batch it would make a pipeline of that: a transaction block of its
/// own kind, in which a CALL may not commit, and which a simple Query behind it does not end (`start_xact_command` in
/// postgres.c).
///
/// # Errors
/// [`Stop::Held`] if what is under way must be answered first; [`Stop::Fatal`] for a text that ends a failed transaction
/// and goes on with what needs this.
fn ahead(sql: &str, turn: &mut Turn<'_>) -> Result<bool, Stop> {
    let exchange = &mut *turn.server.exchange;
    if exchange.is_quiet() || exchange.owes_only_own_queries() {
        if exchange.status() == b'E' {
            return stays_failed(turn).map(|()| false);
        }
        own_query(sql, turn);
        return Ok(true);
    }
    wait_for_answers(turn)?;
    if turn.server.exchange.is_copying_in() {
        // The client's message ends the COPY with an error.
        return Ok(false);
    }
    let (session, exchange) = (&mut *turn.server.session, &mut *turn.server.exchange);
    let mut sent = Ok(());
    turn.server.out.make(|out| sent = session.ours.aside(sql, exchange, out));
    sent.map(|()| true).map_err(super::statements::no_random)
}

/// Whether the client's next message is no part of a batch.
fn comes_alone(turn: &Turn<'_>) -> bool {
    matches!(turn.input.rest().first(), Some(b'Q' | b'F'))
}

/// Waits for what is under way, as far as that comes to an end by itself: what goes ahead of the client's next message must
/// be neither part of a preface nor of a batch, and needs to know how the transaction stands.
///
/// # Errors
/// [`Stop::Held`] if there is something.
pub(super) fn wait_for_answers(turn: &mut Turn<'_>) -> Result<(), Stop> {
    let alone = comes_alone(turn);
    let exchange = &mut *turn.server.exchange;
    if turn.first && turn.input.taken() == 0 && exchange.has_preface() {
        if exchange.has_batch() {
            exchange.ours(Expect::Sync, Purpose::Preface);
            turn.server.out.make(message::sync);
        }
        return Err(Stop::Held);
    }
    let ends = !exchange.is_quiet() && !exchange.has_batch() && !exchange.is_copying_in();
    if alone && ends { Err(Stop::Held) } else { Ok(()) }
}

/// Whether a Query ends a transaction and has more to do.
fn goes_on(message: &[u8]) -> bool {
    let Some(mut text) = message.strip_prefix(b"Q").and_then(|rest| rest.get(HEADER - 1..)) else { return false };
    while let (b"", [b';', rest @ ..]) = first_word(text) {
        text = rest;
    }
    let (word, rest) = first_word(text);
    let ends = [&b"rollback"[..], b"abort", b"commit", b"end", b"prepare"];
    ends.iter().any(|end| word.eq_ignore_ascii_case(end)) && memchr::memchr(b';', rest).is_some()
}

/// In a transaction that has failed: the client's next message fails, too.
///
/// # Errors
/// [`Stop::Fatal`] if it does not: it ends the transaction, and goes on with what other clients have left.
pub(super) fn stays_failed(turn: &Turn<'_>) -> Result<(), Stop> {
    if !goes_on(turn.input.rest()) {
        return Ok(());
    }
    let text = "a transaction that has failed must be ended by a message of its own before sequences or statements \
                prepared by SQL are used";
    Err(Stop::Fatal(SqlState::FEATURE_NOT_SUPPORTED, text.into()))
}

fn own_query(sql: &str, turn: &mut Turn<'_>) {
    turn.server.out.make(|out| message::query(out, sql));
    turn.server.cache.forget_unnamed();
    turn.server.exchange.own_query();
}
