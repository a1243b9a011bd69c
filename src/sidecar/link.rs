//! The sidecar's side of the stream ([`crate::contract`]): configurations in, reports out, for as long as the sidecar
//! lives. Nothing here serves clients: the operator away, restarted or upgraded changes nothing for them.
//!
//! [`Link::run`] connects, says Hello, and hands what it is told to the source ([`Teller`]); what became of that is
//! read from the source's state and from the databases themselves, so that *applied* means that a pool runs it.

mod backoff;
pub mod keep;
mod report;
mod session;
#[cfg(test)]
mod tests;
mod url;
mod view;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use self::backoff::{Backoff, Pace};
pub use self::report::{Bound, Facts};
pub use self::url::Url;
pub use self::view::{Memory, View};
use super::source::Teller;
use crate::contract::Refusal;
use crate::tls::{self, TlsError};

/// Longest time for the connection, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time until somebody answers at all, of which TLS is no part. A millisecond is the rule; whoever is sent to an
/// operator that has just gone hears nothing, and the next attempt goes where the one that leads now is.
const REACH: Duration = Duration::from_secs(3);
/// A connection that lasted so long was a good one: the next is tried at once.
const LASTED: Duration = Duration::from_secs(10);
/// The longest file of authorities or of a token, in bytes.
const MAX_FILE: usize = 1 << 20;

/// How the operator is reached.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub url: Url,
    /// Files with the authorities (PEM) that may have signed its certificate: any of them. Read at each connect; those
    /// that are not there are passed over.
    pub authorities: Vec<PathBuf>,
    /// The name in its certificate, where it is not the URL's host.
    pub server_name: Option<String>,
    /// File with the token that proves who we are; read again when it changes.
    pub token: PathBuf,
}

/// Why a connection could not be made, or ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It can't be reached.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// TLS failed: a certificate by another authority or for another name, mostly.
    #[error("TLS: {0}")]
    Tls(io::Error),
    /// Nothing to verify the operator by.
    #[error("no authority to verify the operator by: {0}")]
    Authorities(String),
    /// The name can't stand in a certificate.
    #[error("{0:?} is no name for a certificate: write --operator-name")]
    Name(String),
    /// The configuration of TLS is refused.
    #[error(transparent)]
    TlsSettings(#[from] TlsError),
    /// No token.
    #[error("the token {} cannot be read: {}", _0.display(), _1)]
    Token(PathBuf, io::Error),
    /// Something took too long.
    #[error("{0} took longer than {seconds} s", seconds = .1.as_secs())]
    Late(&'static str, Duration),
    /// The operator says no.
    #[error("refused ({0:?}): {1}")]
    Refused(Refusal, String),
    /// An old leader, which does not know yet that it leads no more.
    #[error("its term {term} is over: {seen} was seen already")]
    OldLeader {
        /// What it says.
        term: u64,
        /// What was seen.
        seen: u64,
    },
    /// It closed the connection.
    #[error("the operator closed the connection")]
    Closed,
    /// Nothing was heard for too long.
    #[error("nothing was heard for {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection broke, or holds no frames.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// What it said makes no sense.
    #[error("not understood: {0}")]
    Message(#[from] serde_json::Error),
}

impl LinkError {
    /// How soon to try again: soon where another replica is expected to answer.
    fn pace(&self) -> Pace {
        match self {
            Self::Refused(Refusal::NotLeader, _) | Self::OldLeader { .. } => Pace::Quick,
            _ => Pace::Usual,
        }
    }
}

/// The link to the operator.
#[derive(Debug)]
pub struct Link {
    options: Options,
    teller: Teller,
    facts: Facts,
    view: Arc<View>,
    /// Another one for each start of the process.
    boot: String,
}

impl Link {
    /// Nothing happens before [`Link::run`]. `view` shows how it goes, and knows the highest term that was seen.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn new(options: Options, teller: Teller, facts: Facts, view: Arc<View>) -> Result<Self, getrandom::Error> {
        let mut boot = [0; 8];
        getrandom::fill(&mut boot)?;
        let boot = boot.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { options, teller, facts, view, boot })
    }

    /// Keeps a connection until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let Some(error) = stop.run_until_cancelled(self.connected()).await else { return };
            if self.view.disconnected(&error, Instant::now()).is_some_and(|lasted| lasted >= LASTED) {
                backoff.reset();
            }
            let pause = backoff.next(error.pace(), rand::random());
            tracing::debug!(%error, ?pause, "not connected to the operator");
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn connected(&mut self) -> LinkError {
        let stream = match timeout(CONNECT, self.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return error,
            Err(_) => return LinkError::Late("connecting", CONNECT),
        };
        match session::talk(self, stream).await {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, LinkError> {
        let Url { host, port } = &self.options.url;
        let config = tls::to_operator(&self.authorities()?)?;
        let name = self.options.server_name.as_ref().unwrap_or(host);
        let name = ServerName::try_from(name.clone()).map_err(|_| LinkError::Name(name.clone()))?;
        let reached = timeout(REACH, TcpStream::connect((host.as_str(), *port))).await;
        let stream =
            reached.map_err(|_| LinkError::Late("reaching the operator", REACH))?.map_err(LinkError::Connect)?;
        stream.set_nodelay(true).map_err(LinkError::Connect)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(LinkError::Tls)
    }

    /// Whom to trust: the files' contents, of those that are there, and what the operator told.
    fn authorities(&self) -> Result<Vec<Vec<u8>>, LinkError> {
        let told = self.view.memory().borrow().authorities.clone();
        let mut found: Vec<_> = told.into_iter().map(String::into_bytes).collect();
        let files = &self.options.authorities;
        for file in files {
            match super::source::files::read(file, MAX_FILE) {
                Ok(pem) => found.push(pem),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(file = %file.display(), %error, "the authorities cannot be read"),
            }
        }
        if found.is_empty() {
            let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
            return Err(LinkError::Authorities(format!("none of {} is there", names.join(", "))));
        }
        Ok(found)
    }
}
