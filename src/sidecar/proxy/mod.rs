//! Serves clients: the path of a query.
//!
//! One task a client. Without a server it waits for a message ([`client`]); with one, [`relay`] moves bytes both ways,
//! [`ingress`] and [`egress`] deciding about each message; [`give_back`] returns the server as the next client may
//! have it.

mod audit;
pub mod buffer;
pub mod client;
pub mod egress;
pub mod give_back;
pub mod ingress;
pub mod relay;
pub mod retry;

#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use self::client::{Client, Wants};
use self::ingress::{Ingress, Rules};
use self::relay::{End, Relay};
use super::clients::{Activity, Clients, NewClient, signal};
use super::database::{Database, Registered, Settings, Welcome};
use super::listen::Login;
use super::probe::{SATURATED, Token};
use super::stats;
use crate::api::resolve::Mode;
use crate::pg::connect::ConnectError;
use crate::pg::error::SqlState;
use crate::pg::message::{self, Severity};
use crate::pg::session::mine::Care;
use crate::pg::session::proof::Use;
use crate::pg::session::rule::{self, Rule};
use crate::pg::startup::StartupSet;
use crate::pool::{Backend, CheckoutError, CloseReason, Lease};

use super::backend::PgBackend;

/// The one setting of a start-up in which clients of one server may differ.
const APPLICATION: &str = "application_name";

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

/// How waiting for a server ended.
enum Waited {
    /// The pool has decided.
    Done(Result<Lease<PgBackend>, CheckoutError<ConnectError>>),
    /// A cancel request, or the sidecar's end.
    CalledOff,
    /// The client closed its connection: there is nobody to tell anything.
    Left,
}

/// What became of the wish for a server.
enum Acquired {
    /// A server, and when it came.
    Lease(Lease<PgBackend>, Instant),
    /// The client was told why not, and stays.
    Refused,
    /// The client has left or was told to.
    Gone,
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
            now = match self.acquire().await {
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

    /// Waits for a server; meanwhile the client may leave, cancel, or be ended.
    async fn acquire(&mut self) -> Acquired {
        if self.settings.version != self.database.version() {
            self.settings = self.database.settings();
        }
        // One that came between the last wait and its lease was for what is over.
        self.client.shared.clear(signal::CANCEL);
        let asked = Instant::now();
        if let Some(lease) = self.database.pool.checkout_again(&self.set, self.last.map(NonZeroU64::get), asked) {
            self.stats().acquire.observe(Duration::ZERO);
            return Acquired::Lease(lease, asked);
        }
        match self.wait(asked).await {
            Waited::Done(Ok(lease)) => {
                // Nobody waits for the clock who did not wait for a server.
                let waited = self.client.shared.activity() == Activity::Waiting;
                let lent = if waited { Instant::now() } else { asked };
                self.stats().acquire.observe(lent.saturating_duration_since(asked));
                self.client.shared.clear(signal::CANCEL);
                Acquired::Lease(lease, lent)
            }
            Waited::Done(Err(error)) => Box::pin(self.refused(error)).await,
            Waited::CalledOff => Box::pin(self.called_off()).await,
            Waited::Left => Acquired::Gone,
        }
    }

    /// Waits until the pool has decided, or the client has left or been called off.
    async fn wait(&mut self, asked: Instant) -> Waited {
        let mut checkout = pin!(self.database.pool.checkout(self.set.clone(), asked));
        let client = &mut self.client;
        poll_fn(|cx| {
            if let Poll::Ready(result) = checkout.as_mut().poll(cx) {
                return Poll::Ready(Waited::Done(result));
            }
            client.shared.set_activity(Activity::Waiting);
            client.shared.register(cx.waker());
            if client.shared.signals() & (signal::CANCEL | signal::END) != 0 {
                return Poll::Ready(Waited::CalledOff);
            }
            // Bytes that come meanwhile are kept, as many as one small buffer holds; the end is noticed.
            while client.input.len() < buffer::SMALL {
                match client.poll_read(cx, buffer::SMALL) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Waited::Left),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn refused(&mut self, error: CheckoutError<ConnectError>) -> Acquired {
        self.client.shared.set_activity(Activity::Idle);
        self.stats().own_errors.inc();
        let (code, text) = describe(&error);
        if matches!(error, CheckoutError::Closed) {
            self.client.say_error(Severity::Fatal, code, &text);
            self.say_last().await;
            return Acquired::Gone;
        }
        self.client.refuse(code, &text);
        Acquired::Refused
    }

    async fn called_off(&mut self) -> Acquired {
        self.client.shared.set_activity(Activity::Idle);
        if self.client.shared.signals() & signal::END != 0 {
            self.part(Wants::MustGo { idle: false }).await;
            return Acquired::Gone;
        }
        self.client.shared.clear(signal::CANCEL);
        self.stats().own_errors.inc();
        self.client.refuse(SqlState::QUERY_CANCELED, "canceling statement due to user request");
        Acquired::Refused
    }

    /// Relays until client and server part, and gives the server back. Says when that was; nothing if the client is gone.
    async fn hold(&mut self, mut lease: Lease<PgBackend>, lent: Instant) -> Option<Instant> {
        self.client.shared.set_activity(Activity::Active);
        lease.cache.set_limit(self.settings.policy.prepared_statements as usize);
        let pid = self.client.shared.pid;
        if lease.session.sequences_of != Some(pid) {
            // Whoever had it before may have left values there, but for a server that nobody had.
            lease.session.sequences_of = lease.was_opened_now().then_some(pid);
        }
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
            let catalog = &self.database.catalog;
            let mut used = mine.used(self.care, catalog.is_quiet());
            if used == Use::Unproven && catalog.is_incurable() && !rule::off(Rule::Incurable) {
                used = Use::Incurable;
            }
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
        let rules = Rules {
            mode: self.mode,
            care: self.care,
            shares_statements: policy.prepared_statements > 0,
            max_buffered: policy.listen.max_buffered,
            application: self.application.as_deref(),
            prepares: self.database.catalog.prepares(),
            disconnect: self.database.catalog.disconnect(),
            client: self.client.shared.pid,
            statements: &self.database.statements,
            stats: elsewhere.unwrap_or(&self.database.workers[self.worker.number]),
        };
        let mut relay = Relay {
            client: &mut self.client,
            server: lease,
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
            most_bound: policy.most_bound().unwrap_or(u32::MAX),
            stuck: 0,
            leaving: false,
        };
        let end = poll_fn(|cx| relay.poll(cx)).await;
        // Nothing of the client has run on it: another server will do.
        let again = matches!(end, End::Unready(_)) && (!relay.used || relay.take_back());
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
        let pin = self.client.ingress.mine.pin();
        give_back::after(&self.database, &self.settings, lease, &end, self.mode, pin);
        if !matches!(end, End::Left) {
            self.stats().own_errors.inc();
            self.say_last().await;
        }
    }
}

/// What the client is told when it gets no server.
fn describe(error: &CheckoutError<ConnectError>) -> (SqlState, String) {
    match error {
        CheckoutError::Timeout { .. } | CheckoutError::TooManyWaiting { .. } => {
            (SqlState::TOO_MANY_CONNECTIONS, error.to_string())
        }
        CheckoutError::Closed => {
            (SqlState::ADMIN_SHUTDOWN, "terminating connection: the pooler is shutting down".to_owned())
        }
        CheckoutError::Connect(error) => {
            (error.sqlstate.unwrap_or(SqlState::UNABLE_TO_CONNECT), format!("could not connect to the server: {error}"))
        }
        error => (SqlState::CONNECTION_FAILURE, error.to_string()),
    }
}

impl Serving {
    fn new(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> Option<Self> {
        let settings = database.settings();
        let (mode, care) = (settings.policy.mode, settings.policy.care);
        let key = cancel_key(login.minor).ok()?;
        let new = NewClient {
            database: database.alias.clone(),
            application: login.set.get("application_name").unwrap_or_default().to_owned(),
            peer: login.peer,
            targets: Arc::clone(database.backend.targets()),
        };
        let clients: &Arc<Clients> = &worker.registered.clients;
        let shared = clients.add(new, key, Instant::now());
        let client = Client::new(login.stream, &login.early, Ingress::new(mode), shared);
        let application = Some(printable(login.set.get(APPLICATION).unwrap_or_default()));
        let set = login.set.without(APPLICATION);
        Some(Self { worker, database, settings, mode, care, set, application, last: None, client })
    }

    /// Completes the login: tells the client about the sessions it will use, its cancel key, and that it may begin.
    async fn welcome(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> Option<Self> {
        let name = login.set.get(APPLICATION).unwrap_or_default();
        let notice = if name.len() > NAME { cut(name) } else { Vec::new() };
        let mut serving = Self::new(worker, database, login)?;
        serving.database.backend.note(&serving.set);
        let welcome = serving.parameters().await?;
        serving.set = welcome.set.clone();
        serving.client.say(|out| out.extend_from_slice(&notice));
        serving.begin(&welcome.parameters);
        serving.client.told = Some(welcome);
        Some(serving)
    }

    fn begin(&mut self, parameters: &[u8]) {
        let record = Arc::clone(self.client.record());
        let application = &self.application;
        self.client.say(|out| {
            out.extend_from_slice(parameters);
            message::parameter_status(out, APPLICATION, application.as_deref().unwrap_or_default());
            message::backend_key_data(out, record.pid, record.key());
            message::ready_for_query(out, b'I');
        });
    }

    /// What servers of this client's startup set say at login: known already, or asked of one now.
    async fn parameters(&mut self) -> Option<Arc<Welcome>> {
        if let Some(welcome) = self.database.welcome(&self.set) {
            return Some(welcome);
        }
        let outcome = self.wait(Instant::now()).await;
        self.client.shared.set_activity(Activity::Idle);
        match outcome {
            Waited::Done(Ok(lease)) => {
                let welcome = Arc::new(Welcome {
                    set: self.set.clone(),
                    parameters: encode(lease.parameters.all()).into(),
                    told: lease.parameters.all().to_vec(),
                });
                self.database.keep_welcome(Arc::clone(&welcome));
                lease.give_back(Instant::now());
                Some(welcome)
            }
            Waited::Done(Err(error)) => {
                let (code, text) = describe(&error);
                self.client.say_error(Severity::Fatal, code, &text);
                self.stats().own_errors.inc();
                self.say_last().await;
                None
            }
            // It has no key for cancel requests yet: only the sidecar's end calls it off.
            Waited::CalledOff => {
                self.part(Wants::MustGo { idle: false }).await;
                None
            }
            Waited::Left => None,
        }
    }
}

/// Longest `application_name` in bytes (NAMEDATALEN - 1).
const NAME: usize = 63;

/// What PostgreSQL says of a name that is too long.
fn cut(long: &str) -> Vec<u8> {
    let end = (0..=NAME).rev().find(|at| long.is_char_boundary(*at)).unwrap_or_default();
    let short = &long[..end];
    let mut out = Vec::new();
    message::notice_response(&mut out, "42622", &format!("identifier \"{long}\" will be truncated to \"{short}\""));
    out
}

/// As PostgreSQL before 16 takes a name: what is not printable ASCII is a question mark.
fn printable(name: &str) -> Box<str> {
    name.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(NAME).collect()
}

/// ParameterStatus messages, but for the setting that clients of one server may differ in.
fn encode(parameters: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in parameters.iter().filter(|(name, _)| name != APPLICATION) {
        message::parameter_status(&mut out, name, value);
    }
    out
}

/// A secret for cancel requests: 32 random bytes in protocol 3.2, 4 in 3.0, which allows no more (decision 16).
fn cancel_key(minor: u16) -> Result<Box<[u8]>, getrandom::Error> {
    let mut key = vec![0; if minor >= 2 { 32 } else { 4 }];
    getrandom::fill(&mut key)?;
    Ok(key.into())
}
