//! Completes the login of a client: what it is told of the sessions that it will use.

use std::sync::Arc;
use std::time::Instant;

use super::acquire::{Waited, describe};
use super::client::{Client, Wants};
use super::ingress::Ingress;
use super::{Serving, Worker};
use crate::pg::message::{self, Severity};
use crate::sidecar::clients::{Activity, Clients, NewClient};
use crate::sidecar::database::{Database, Welcome};
use crate::sidecar::listen::Login;

/// The one setting of a start-up in which clients of one server may differ.
const APPLICATION: &str = "application_name";

impl Serving {
    pub(super) fn new(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> Option<Self> {
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
        let mut client = Client::new(login.stream, &login.early, Ingress::new(mode), shared);
        client.say(|out| out.extend_from_slice(&login.accepted));
        let application = Some(printable(login.set.get(APPLICATION).unwrap_or_default()));
        let set = login.set.without(APPLICATION);
        Some(Self { worker, database, settings, mode, care, set, application, last: None, client })
    }

    /// Completes the login: tells the client about the sessions it will use, its cancel key, and that it may begin.
    pub(super) async fn welcome(worker: Arc<Worker>, database: Arc<Database>, login: Login) -> Option<Self> {
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

    pub(super) fn begin(&mut self, parameters: &[u8]) {
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
pub(super) fn encode(parameters: &[(String, String)]) -> Vec<u8> {
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
