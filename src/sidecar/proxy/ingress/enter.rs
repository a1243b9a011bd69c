//! Making a server's session the client's before its first message, and what else goes ahead of a message.

use super::{Ingress, Turn};
use crate::pg::message;
use crate::pg::session::ours::Scrub;
use crate::pg::session::proof::Entry;
use crate::pg::session::rule::{self, Rule};

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
                if turn.server.session.named {
                    // Its own, which it may have closed on another server since.
                    deallocate(turn);
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
                let much = scrub.then_some(Scrub { statements, disconnect: rules.disconnect.as_deref() });
                server.out.make(|out| {
                    let name = rename.then_some(name.as_bytes());
                    sent = session.ours.preface(much, label, name, exchange, out);
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
                if scrub {
                    session.sequences_of = Some(rules.client);
                    rules.stats.scrubs.inc();
                }
                if !label.is_plain() {
                    rules.stats.adaptations.inc();
                }
            }
        }
        if self.mine.asks_sequences {
            forget_sequences(turn);
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
pub(super) fn forget_sequences(turn: &mut Turn<'_>) {
    let client = Some(turn.rules.client);
    if turn.server.session.sequences_of != client && !rule::off(Rule::Sequences) && ahead("DISCARD SEQUENCES", turn) {
        turn.server.session.sequences_of = client;
    }
}

/// The server forgets statements that SQL of earlier clients has prepared.
pub(super) fn deallocate(turn: &mut Turn<'_>) {
    if turn.server.session.sql_prepared && !rule::off(Rule::SqlPrepared) && ahead("DEALLOCATE ALL", turn) {
        (turn.server.session.sql_prepared, turn.server.session.named) = (false, false);
        turn.server.session.ours.forget();
        turn.server.cache.clear();
    }
}

/// Sends a statement of our own ahead of the client's next message, inside its transaction and batch if there is one.
/// False in a transaction that has failed, where the client's message fails too.
fn ahead(sql: &str, turn: &mut Turn<'_>) -> bool {
    let exchange = &mut *turn.server.exchange;
    if exchange.status() == b'E' {
        return false;
    }
    if exchange.is_quiet() {
        own_query(sql, turn);
        return true;
    }
    let session = &mut *turn.server.session;
    let mut sent = Ok(());
    turn.server.out.make(|out| sent = session.ours.aside(sql, exchange, out));
    sent.is_ok()
}

fn own_query(sql: &str, turn: &mut Turn<'_>) {
    turn.server.out.make(|out| message::query(out, sql));
    turn.server.cache.forget_unnamed();
    turn.server.exchange.own_query();
}
