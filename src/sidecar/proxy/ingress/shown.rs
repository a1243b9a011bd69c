//! SQL that names or lists statements of the protocol (`EXPLAIN EXECUTE`, `pg_prepared_statements`, `PREPARE` of a name that is
//! in use): for the rest of its stay the client's server has them under the client's own names, and no others.

use super::{Ingress, Stop, Turn};
use crate::pg::exchange::{Expect, Purpose};
use crate::pg::message;
use crate::sidecar::proxy::ingress::enter;

impl Ingress {
    /// Makes the server know the client's named statements by the client's names, and no other statements where they are
    /// listed.
    ///
    /// # Errors
    /// If the system has no random bytes; [`Stop::Held`] if that has to wait.
    pub(super) fn show_names(&mut self, lists: bool, turn: &mut Turn<'_>) -> Result<(), Stop> {
        // In a failed transaction nothing can be prepared, and the client's text fails too.
        if turn.server.exchange.status() == b'E' && turn.server.exchange.is_quiet() {
            return enter::stays_failed(turn);
        }
        if !lists && (self.own_names || turn.names.has_none()) {
            if !self.own_names && !self.mine.has_prepared {
                enter::deallocate(turn)?;
            }
            return Ok(());
        }
        // Statements may fail one by one only between batches.
        enter::wait_for_answers(turn)?;
        let quiet = turn.server.exchange.is_quiet();
        // A failure of one statement must not be another's, but inside the client's batch.
        let purpose = if quiet { Purpose::Naming } else { Purpose::Aside };
        if self.own_names || self.mine.has_prepared {
            hide(purpose, turn)?;
            if quiet {
                sync(turn);
            }
        } else {
            turn.server.session.sql_prepared = true;
            enter::deallocate(turn)?;
        }
        // Whoever comes next deallocates what is left here.
        self.leave_names(turn);
        if !std::mem::replace(&mut self.own_names, true) {
            name_all(purpose, turn);
        }
        Ok(())
    }

    /// Names of the client's own are on the server from now on.
    pub(super) fn leave_names(&mut self, turn: &mut Turn<'_>) {
        (turn.server.session.sql_prepared, turn.server.session.named) = (true, true);
        self.mine.leaves_names();
    }

    /// Whether the server has the client's named statements under the client's names.
    pub(super) fn has_own_names(&self) -> bool {
        self.own_names
    }
}

/// Closes what the server has for others and for us, but nothing that SQL has prepared.
fn hide(purpose: Purpose, turn: &mut Turn<'_>) -> Result<(), Stop> {
    let (session, exchange) = (&mut *turn.server.session, &mut *turn.server.exchange);
    let mut hidden = Ok(());
    let held: Vec<_> = turn.server.cache.all().map(|statement| statement.name.clone()).collect();
    turn.server.out.make(|out| {
        for name in held {
            message::close_statement(out, &name);
            exchange.ours(Expect::Close, purpose);
        }
        hidden = session.ours.hide(purpose, exchange, out);
    });
    turn.server.cache.clear();
    hidden.map_err(super::statements::no_random)
}

fn name_all(purpose: Purpose, turn: &mut Turn<'_>) {
    for (name, statement) in turn.names.all() {
        let exchange = &mut *turn.server.exchange;
        turn.server.out.make(|out| message::parse_tail(out, &name, &statement.tail));
        exchange.ours(Expect::Parse, purpose);
        if purpose == Purpose::Naming {
            sync(turn);
        }
    }
}

fn sync(turn: &mut Turn<'_>) {
    turn.server.out.make(message::sync);
    turn.server.exchange.ours(Expect::Sync, Purpose::Naming);
}
