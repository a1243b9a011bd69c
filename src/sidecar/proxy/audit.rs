//! After a transaction: what the client's session carries is asked of its server, and whether anything binds the two.

use super::relay::{End, Relay};
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::session::scan::Pin;
use crate::sidecar::clients::signal;
use crate::sidecar::database::Bound;
use crate::sidecar::proxy::relay::no_random_bytes;

/// How often the same questions are asked before the client is kept where it is: cancel requests that are still under way
/// may hit them, but each only once.
const TRIES: u32 = 16;

impl Relay<'_> {
    /// Whether the transaction that has just ended may have changed the client's session.
    pub(super) fn wants_audit(&self) -> bool {
        self.rules.mode != Mode::Session
            && self.rules.application.is_some()
            && self.server.exchange.is_free()
            && self.client.ingress.mine.wants_audit(self.server.catalog.is_quiet())
    }

    /// Asks. The client's next message waits for the answers.
    pub(super) fn ask(&mut self) -> Result<(), End> {
        let stats = self.rules.stats;
        let mine = &mut self.client.ingress.mine;
        if mine.asks_all() {
            stats.full_audits.inc()
        } else {
            stats.targeted_audits.inc()
        }
        let (questions, names) = mine.questions(self.server.catalog.is_quiet());
        let conn = &mut *self.server;
        conn.session.found = Default::default();
        let (session, exchange) = (&mut conn.session, &mut conn.exchange);
        let mut sent = Ok(());
        conn.to_server.make(|out| sent = session.ours.audit(&questions, &names, exchange, out));
        self.auditing = true;
        // A cancel request that comes now is for what is over.
        self.client.shared.release();
        sent.map_err(no_random_bytes)
    }

    /// Takes the answers, once they have all come.
    pub(super) fn answered(&mut self) -> Result<(), End> {
        if !self.auditing || self.server.exchange.has_audit() {
            return Ok(());
        }
        self.auditing = false;
        // One that came meanwhile was for what is over.
        self.client.shared.clear(signal::CANCEL);
        self.client.shared.hold(&self.server.cancel);
        let failed = self.server.exchange.take_audit_failed();
        self.tries += 1;
        if failed && self.tries < TRIES {
            // A cancel request that was under way has hit it.
            return Ok(());
        }
        self.tries = 0;
        let found = std::mem::take(&mut self.server.session.found);
        self.client.ingress.mine.audited((!failed).then_some(found));
        // What was asked about and has a value is known to this server from now on.
        self.server.session.customs.add_all(&self.client.ingress.mine.customs);
        let name = self.client.ingress.mine.label.get(b"application_name");
        if let (false, Some(name)) = (failed, name.and_then(|name| std::str::from_utf8(name).ok())) {
            self.server.session.application = Some(name.into());
        }
        self.bind_or_free()
    }

    /// Counts the client among those that are bound to a server, or no more.
    ///
    /// # Errors
    /// If more may not be: its session ends, as nothing else could keep what it carries.
    pub(super) fn bind_or_free(&mut self) -> Result<(), End> {
        let Some(pin) = self.client.ingress.mine.pin() else {
            if self.client.bound.take().is_some() {
                self.client.shared.set_pinned(None);
            }
            return Ok(());
        };
        if self.client.bound.is_some() {
            return Ok(());
        }
        let limit = self.policy.most_bound().unwrap_or(u32::MAX);
        let Some(bound) = Bound::one_more(&self.database.bound, limit) else { return Err(too_many(pin, limit)) };
        self.client.bound = Some(bound);
        self.client.shared.set_pinned(Some(pin));
        self.rules.stats.pins[pin as usize].inc();
        self.server.session.proof.own(self.rules.client);
        Ok(())
    }
}

fn too_many(pin: Pin, limit: u32) -> End {
    let text = format!(
        "session state ({}) binds this client to a server, and pool.maxPinned allows {limit} of them at once",
        pin.name()
    );
    End::Fatal(SqlState::CONFIGURATION_LIMIT, text)
}
