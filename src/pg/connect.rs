//! Logging in to a server: names, addresses, TLS, authentication, until it is ready for a query.
//!
//! The one place of `pg` that touches sockets, besides [`super::stream`]. What a server sends is bounded
//! (`login`), and a login that fails after the StartupMessage is not over before the server has closed the
//! connection: until then its backend holds a slot of `max_connections` (decision 2).

mod error;
mod login;
mod open;
mod settings;

pub use error::{ConnectError, Phase, ServerError};
pub use open::{Addr, Tls, TlsInfo, resolve};

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::auth::Secret;
use super::auth::answer::Answers;
use super::error::SqlState;
use super::startup::{StartupSet, startup_message};
use super::stream::Stream;

/// Which server, and how to reach it.
#[derive(Debug, Clone)]
pub struct Target {
    /// A host name, an address, or the directory of a unix socket (begins with `/`).
    pub host: String,
    /// The port; of a unix socket the number in its name.
    pub port: u16,
    /// Whether TLS is used, and what it verifies.
    pub tls: Tls,
    /// How long one login may take in all: every address, retry and round trip of it.
    pub timeout: Duration,
    /// Silence after which TCP asks whether the other side lives, on our side and on the server's; `None` = the
    /// systems' own.
    pub keepalive: Option<Duration>,
    /// Leaves out `client_connection_check_interval` and the keepalive settings: this server is known to refuse
    /// them ([`Session::bare`]).
    pub bare: bool,
}

/// Who to log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// A server that is ready for a query.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub stream: Stream,
    /// What a CancelRequest names; 0 if the server sent no BackendKeyData.
    pub pid: i32,
    /// Its key, 0 to 256 bytes.
    pub key: Vec<u8>,
    /// Whether there was BackendKeyData at all: without it nothing can be cancelled.
    pub has_key: bool,
    /// The settings that the server reported, the last value of each, in the order in which they came.
    pub parameters: Vec<(String, String)>,
    /// The TLS session, if there is one.
    pub tls: Option<TlsInfo>,
    /// The very address that answered: where cancel requests must go.
    pub addr: Addr,
    /// What was read beyond ReadyForQuery; nearly always empty.
    pub leftover: Vec<u8>,
    /// The server refused `client_connection_check_interval` or a keepalive setting and was logged in to without.
    pub bare: bool,
    /// Which of the credentials was accepted.
    pub credential: usize,
}

/// How long a server may take to close a connection whose login failed.
const ENDING: Duration = Duration::from_secs(1);

/// Logs in to `database` with the settings `set`.
///
/// `credentials` are tried in order, each once; the next one only if the server says that a password is wrong
/// (28P01): the current one, then the one before a rotation. `defaults` are session settings of ours, which the
/// client's own win over.
///
/// # Errors
/// Says in which phase it failed and, if the server refused, with which words. With several credentials it is the
/// first one's refusal.
pub async fn connect(
    target: &Target,
    credentials: &[Credentials],
    database: &str,
    set: &StartupSet,
    defaults: &[(String, String)],
) -> Result<Session, ConnectError> {
    let deadline = Instant::now() + target.timeout;
    let mut target = target.clone();
    let (mut credential, mut wrong) = (0, None);
    loop {
        let Some(who) = credentials.get(credential) else {
            return Err(wrong.unwrap_or_else(|| ConnectError::local(Phase::Auth, "there are no credentials".into())));
        };
        let mut packet = Vec::new();
        let settings = settings::merge(set, defaults, &settings::ours(&target));
        let settings = settings.iter().map(|(name, value)| (&**name, &**value));
        startup_message(&mut packet, 0, &who.user, database, settings);
        match once(&target, who, &packet, deadline).await {
            Ok(session) => return Ok(Session { bare: target.bare, credential, ..session }),
            Err(error) if error.sqlstate == Some(SqlState::INVALID_PASSWORD) => {
                credential += 1;
                wrong.get_or_insert(error);
            }
            Err(error) if !target.bare && settings::refused(&error) => target.bare = true,
            Err(error) => return Err(error),
        }
    }
}

/// One connection, one login.
async fn once(target: &Target, who: &Credentials, packet: &[u8], deadline: Instant) -> Result<Session, ConnectError> {
    let mut phase = Phase::Dns;
    let opened = timeout_at(deadline, open::open(target, deadline, &mut phase)).await;
    let opened = opened.unwrap_or_else(|_| Err(ConnectError::timeout(target, phase)))?;
    let mut stream = opened.stream;
    let answers = Answers::new(&who.user, &who.password, stream.is_tls(), opened.binding);
    phase = Phase::Auth;
    let ready = timeout_at(deadline, login::login(&mut stream, packet, answers, &mut phase)).await;
    match ready.unwrap_or_else(|_| Err(ConnectError::timeout(target, phase))) {
        Ok(ready) => Ok(Session {
            stream,
            pid: ready.key.as_ref().map_or(0, |(pid, _)| *pid),
            has_key: ready.key.is_some(),
            key: ready.key.map(|(_, key)| key).unwrap_or_default(),
            parameters: ready.parameters,
            tls: opened.tls,
            addr: opened.addr,
            leftover: ready.leftover,
            bare: false,
            credential: 0,
        }),
        Err(error) => {
            let _ = timeout(ENDING, until_closed(&mut stream)).await;
            Err(error)
        }
    }
}

/// Says that we are done and waits until the server has closed the connection.
async fn until_closed(stream: &mut Stream) -> io::Result<()> {
    // Not a reason to stop waiting: the server may have gone in the middle of it.
    let _ = stream.shutdown().await;
    let mut buf = [0; 512];
    while stream.read(&mut buf).await? > 0 {}
    Ok(())
}

/// Sends a CancelRequest and waits until the server has closed that connection: then the signal has been sent, and
/// a query that starts later is not hit.
///
/// # Errors
/// When it could not be sent, or the server did not close within `limit`.
pub async fn cancel(addr: &Addr, pid: i32, key: &[u8], limit: Duration) -> io::Result<()> {
    let work = async {
        let mut stream = open::reopen(addr).await?;
        let mut packet = Vec::new();
        super::message::cancel_request(&mut packet, pid, key);
        stream.write_all(&packet).await?;
        stream.flush().await?;
        let mut buf = [0; 64];
        loop {
            match stream.read(&mut buf).await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                // The server may reset instead of closing.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    timeout(limit, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests;
