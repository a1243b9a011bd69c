//! Serves clients: the path of a query.
//!
//! One task a client. Without a server it waits for a message ([`client`]); with one, [`relay`] moves bytes both ways,
//! [`ingress`] and [`egress`] deciding about each message; [`give_back`] returns the server as the next client may
//! have it.

mod acquire;
mod audit;
pub mod buffer;
pub mod client;
pub mod egress;
pub mod give_back;
pub mod ingress;
pub mod relay;
pub mod retry;
mod welcome;

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::acquire::{Acquired, describe};
use self::client::{Client, Wants};
use self::ingress::Rules;
use self::relay::{End, Relay};
use self::welcome::encode;
use super::backend::PgBackend;
use super::clients::Activity;
use super::database::{Database, Registered, Settings};
use super::listen::Login;
use super::probe::{SATURATED, Token};
use super::stats;
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::message::{self, Severity};
use crate::pg::session::mine::Care;
use crate::pg::session::proof::Use;
use crate::pg::startup::StartupSet;
use crate::pool::{Backend, CloseReason, Lease};

/// What one worker's clients share.
#[derive(Debug)]
pub struct Worker {
    /// Its number: which of a database's counters it writes.
    pub number: usize,
    /// Databases and clients of the sidecar.
    pub registered: Arc<Registered>,
    /// How the sidecar's own health query is known.
    pub token: Arc<Token>,
}

/// A client and what it uses; lives as long as the client's connection.
struct Serving {
    worker: Arc<Worker>,
    database: Arc<Database>,
    settings: Arc<Settings>,
    /// Fixed at login: another mode is for clients that connect afterwards.
    mode: Mode,
    /// Likewise.
    care: Care,
    /// What it started with, but for its `application_name`: servers are lent by it.
    set: StartupSet,
    /// Its `application_name`; none for the health query, which takes servers as they are.
    application: Option<Box<str>>,
    /// The server that it has left in a state that another one would have to be brought to: had again, it costs nothing.
    last: Option<NonZeroU64>,
    client: Client,
}

/// Serves a client that has logged in until it leaves.
pub fn serve(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> impl Future<Output = ()> + Send {
    // What only the beginning needs is not kept for as long as the client stays.
    let begun = Box::pin(begin(worker, database, login));
    async move {
        let Some(mut serving) = begun.await else { return };
        serving.stats().logins.inc();
        serving.stats().clients.add(1);
        // Counted down however the task ends.
        let _gone = Gone { worker: Arc::clone(&serving.worker), database: Arc::clone(&serving.database) };
        serving.run().await;
    }
}

/// Completes the login of a client; serves it, if it is the health query.
async fn begin(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> Option<Box<Serving>> {
    if worker.token.matches(login.set.get("application_name").unwrap_or_default()) {
        Box::pin(probe(worker, database, login)).await;
        return None;
    }
    Serving::welcome(worker, database, login).await.map(Box::new)
}

/// Serves the sidecar's own health query, which takes any idle server and never waits for one (decision 3).
async fn probe(worker: Arc<Worker>, database: Arc<Database>, login: Login) {
    let Some(mut serving) = Serving::new(worker, database, login) else { return };
    serving.mode = Mode::Session;
    serving.application = None;
    let lease = match serving.database.pool.probe(serving.database.backend.default_key()) {
        Some(checkout) => checkout.await.map_err(|error| describe(&error)),
        None => Err((SqlState::TOO_MANY_CONNECTIONS, SATURATED.to_owned())),
    };
    match lease {
        Ok(mut lease) => {
            let parameters = encode(lease.parameters.all());
            serving.begin(&parameters);
            if poll_fn(|cx| serving.client.poll_say(cx)).await.is_ok() {
                // Neither its traffic nor what it hears is anybody's: an error is an answer, but not of a healthy database.
                let uncounted = stats::Worker::default();
                serving.relay(&mut lease, Instant::now(), Some(&uncounted)).await;
            }
            give_back::probed(lease);
        }
        Err((code, text)) => {
            serving.client.say_error(Severity::Fatal, code, &text);
            serving.say_last().await;
        }
    }
}

struct Gone {
    worker: Arc<Worker>,
    database: Arc<Database>,
}

impl Drop for Gone {
    fn drop(&mut self) {
        self.database.workers[self.worker.number].clients.sub(1);
    }
}

impl Serving {
    fn stats(&self) -> &stats::Worker {
        &self.database.workers[self.worker.number]
    }

    async fn run(&mut self) {
        let mut now = Instant::now();
        loop {
            self.client.shared.set_idle(Some(now));
            let mut woken = false;
            let wants = poll_fn(|cx| {
                let again = std::mem::replace(&mut woken, true);
                self.client.poll_idle(cx, again)
            });
            let wants = wants.await;
            match wants {
                Wants::Server => {}
                Wants::Leave => return,
                wants => return Box::pin(self.part(wants)).await,
            }
            self.client.shared.set_idle(None);
            let asked = Instant::now();
            let acquired = match self.acquire_now(asked) {
                Some(lease) => Acquired::Lease(lease, asked),
                None => self.acquire(asked).await,
            };
            now = match acquired {
                Acquired::Lease(lease, lent) => match self.hold(lease, lent).await {
                    Some(ended) => ended,
                    None => return,
                },
                Acquired::Refused => Instant::now(),
                Acquired::Gone => return,
            };
        }
    }

    /// Tells a client that must go why, as far as it still listens.
    async fn part(&mut self, wants: Wants) {
        match wants {
            Wants::Broken(text) => self.client.say_error(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, &text),
            Wants::MustGo { idle: true } => {
                let text = "terminating connection: idle for longer than listen.idleTimeout";
                self.client.say_error(Severity::Fatal, SqlState::IDLE_SESSION_TIMEOUT, text);
            }
            Wants::MustGo { idle: false } => {
                let text = "terminating connection: the pooler is shutting down";
                self.client.say_error(Severity::Fatal, SqlState::ADMIN_SHUTDOWN, text);
            }
            Wants::Server | Wants::Leave => return,
        }
        self.stats().own_errors.inc();
        self.say_last().await;
    }

    /// Writes what is left to say; a client that does not read is not waited for long.
    async fn say_last(&mut self) {
        let said = async {
            if poll_fn(|cx| self.client.poll_say(cx)).await.is_ok() {
                let _ = poll_fn(|cx| self.client.stream.poll_shutdown(cx)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
    }

    /// Relays until client and server part, and gives the server back. Says when that was; nothing if the client is gone.
    async fn hold(&mut self, mut lease: Lease<PgBackend>, lent: Instant) -> Option<Instant> {
        self.client.shared.set_activity(Activity::Active);
        lease.cache.set_limit(self.settings.policy.prepared_statements as usize);
        let pid = self.client.shared.pid;
        if !give_back::is_fit(&mut lease, pid) {
            lease.discard(CloseReason::Hygiene);
            return Some(lent);
        }
        if lease.session.sequences_of != Some(pid) {
            // Whoever had it before may have left values there.
            lease.session.sequences_of = lease.session.untouched.then_some(pid);
        }
        lease.session.untouched = false;
        self.tell_news(&mut lease);
        let (end, ended) = self.relay(&mut lease, lent, None).await;
        // From here on a cancel request of this client must not reach the server.
        self.client.shared.release();
        self.stats().transaction_time.observe(ended.saturating_duration_since(lent));
        if let End::Free = end {
            self.client.shared.set_activity(Activity::Idle);
            self.client.retry = None;
            let unwritten = lease.take_unwritten();
            if !unwritten.is_empty() {
                self.client.say(|out| out.extend_from_slice(&unwritten));
            }
            lease.input.rest();
            let mine = &mut self.client.ingress.mine;
            let used = mine.used(self.care, lease.catalog.was_quiet(lease.since));
            let used = give_back::doubted(&mut lease, pid, used);
            self.last =
                (used != Use::Harmless || !mine.label.is_plain()).then(|| NonZeroU64::new(lease.id())).flatten();
            lease.session.proof.left(pid, &mine.label, used);
            lease.session.sql_prepared |= used != Use::Harmless;
            give_back::free(&self.database, lease, ended);
            return Some(ended);
        }
        if let End::Another = end {
            self.client.shared.set_activity(Activity::Idle);
            // News of the session that were to go ahead of the answer: nothing of the server's own.
            let unwritten = lease.take_unwritten();
            self.client.say(|out| out.extend_from_slice(&unwritten));
            lease.discard(CloseReason::Hygiene);
            return Some(ended);
        }
        Box::pin(self.parted(end, lease)).await;
        None
    }

    /// Tells the client what sessions begin with now, if that has changed: by the server's configuration, by a promotion.
    fn tell_news(&mut self, lease: &mut Lease<PgBackend>) {
        let news = &self.database.news;
        if lease.parameters.take_changed()
            && let Some(told) = &self.client.told
        {
            news.note(lease.parameters.all(), &told.told);
        }
        if news.version() == self.client.news {
            return;
        }
        self.client.news = news.version();
        let mine = &self.client.ingress.mine;
        for (name, value) in news.all() {
            if mine.label.get(name.to_ascii_lowercase().as_bytes()).is_none() {
                lease.to_client.make(|out| message::parameter_status(out, &name, &value));
            }
        }
    }

    /// Moves bytes until client and server part, and says when that was; counted elsewhere, it proves nobody's health.
    async fn relay(
        &mut self,
        lease: &mut Lease<PgBackend>,
        lent: Instant,
        elsewhere: Option<&stats::Worker>,
    ) -> (End, Instant) {
        let policy = &self.settings.policy;
        let catalog = Arc::clone(&lease.catalog);
        let rules = Rules {
            mode: self.mode,
            care: self.care,
            shares_statements: policy.prepared_statements > 0,
            max_buffered: policy.listen.max_buffered,
            application: self.application.as_deref(),
            prepares: catalog.prepares(),
            catalog: &catalog,
            client: self.client.shared.pid,
            statements: &self.database.statements,
            stats: elsewhere.unwrap_or(&self.database.workers[self.worker.number]),
        };
        let fresh = lease.was_opened_now();
        let (server, ending) = lease.split();
        let mut relay = Relay {
            client: &mut self.client,
            server,
            ending,
            fresh,
            rules,
            database: &self.database,
            registered: &self.worker.registered,
            health: elsewhere.is_none().then_some(&self.database.health),
            now: Some(lent),
            since: None,
            taken: 0,
            used: false,
            woken: false,
            entered: false,
            auditing: false,
            tries: 0,
            policy,
            stuck: 0,
            held: false,
            unready: false,
            leaving: false,
        };
        let end = poll_fn(|cx| relay.poll(cx)).await;
        // Nothing of the client has run on it: another server will do. If that, too, refuses what the session carries, so will any.
        let again = matches!(end, End::Unready(_)) && (!relay.used && !relay.unready || relay.take_back());
        (if again { End::Another } else { end }, relay.now())
    }

    /// Client and server part for good: the client is told why, the server is reset or closed.
    async fn parted(&mut self, end: End, mut lease: Lease<PgBackend>) {
        let told = lease.egress.fatal;
        let unwritten = lease.take_unwritten();
        self.client.say(|out| out.extend_from_slice(&unwritten));
        match &end {
            End::Free | End::Left | End::Another => {}
            End::ServerGone if told => {}
            End::ServerGone => {
                let text = "server closed the connection unexpectedly";
                self.client.say_error(Severity::Fatal, SqlState::CONNECTION_FAILURE, text);
            }
            End::OutOfStep(error) => {
                tracing::warn!(pid = self.client.shared.pid, %error, "a server is out of step");
                let text = "the server sent a message that was not asked for";
                self.client.say_error(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, text);
            }
            End::Fatal(code, text) => self.client.say_error(Severity::Fatal, *code, text),
            End::Unready(why) => {
                tracing::warn!(
                    pid = self.client.shared.pid,
                    why,
                    "a client's session could not be taken to another server"
                );
                let text = format!("the session could not be taken to another server: {why}");
                self.client.say_error(Severity::Fatal, SqlState::CONNECTION_FAILURE, &text);
            }
        }
        let mine = &mut self.client.ingress.mine;
        let used = mine.used(self.care, lease.catalog.was_quiet(lease.since));
        let pid = self.client.shared.pid;
        if self.mode != Mode::Session && give_back::doubted(&mut lease, pid, used) == Use::Incurable {
            lease.session.proof.close();
        }
        give_back::after(&self.database, &self.settings, lease, &end, self.mode, mine.pin());
        if !matches!(end, End::Left) {
            self.stats().own_errors.inc();
            self.say_last().await;
        }
    }
}
