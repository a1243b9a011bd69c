//! From a connection to a client that has proven who it is.
//!
//! The order is PostgreSQL's: TLS or GSSAPI encryption asked for, the first packet, its version, what it wants, and
//! then authentication. Whoever is refused is told why, with a code, before the connection is closed.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::{Found, Front, Login, Place, Rules, Unknown};
use crate::api::v1alpha1::Auth;
use crate::pg::auth::scram::{self, Exchange, Salt, ScramError, Verifier};
use crate::pg::error::SqlState;
use crate::pg::frame;
use crate::pg::message::{self, Reader, Severity};
use crate::pg::startup::{self, Initial, Startup, StartupSet};
use crate::pg::stream::Stream;
use crate::tls::ALPN;
use crate::tls::acceptor::Acceptor;

/// The longest SASL message of a client, in bytes; an honest one has about a hundred.
const MAX_SASL: usize = 4096;
/// How much is asked for at once.
const READ: usize = 1024;
/// How long a refused client may take to read why, and to leave.
const LEAVING: Duration = Duration::from_secs(1);
/// What a TLS handshake begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// Why a login ends without a client.
#[derive(Debug)]
enum Stop {
    /// There is nobody to talk to, or no way to.
    Silent(String),
    /// The client is told why.
    Refused(SqlState, Cow<'static, str>),
    /// It was a CancelRequest: never answered (wire-cases 5).
    Cancel(i32, Vec<u8>),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Silent(error.to_string())
    }
}

impl From<ScramError> for Stop {
    fn from(error: ScramError) -> Self {
        Stop::Refused(error.sqlstate(), error.to_string().into())
    }
}

fn refused<T>(code: SqlState, message: impl Into<Cow<'static, str>>) -> Result<T, Stop> {
    Err(Stop::Refused(code, message.into()))
}

/// Logs a client in, or does what it asks for instead: the database it may use, the client, and its place.
pub async fn login<F: Front>(
    stream: Stream,
    peer: String,
    front: Arc<F>,
    mut place: Place,
) -> Option<(F::Database, Login, Place)> {
    let rules = place.door.rules();
    let salt = place.door.salt;
    let mut greeting = Greeting { rules: &rules, salt, stream: Some(stream), buf: Vec::new() };
    let result = timeout(rules.login_timeout, greeting.log_in(&*front, &mut place)).await;
    let late = || refused(SqlState::QUERY_CANCELED, "canceling authentication due to timeout");
    match result.unwrap_or_else(|_| late()) {
        Ok((database, startup, minor, accepted)) => {
            let Greeting { stream, buf, .. } = greeting;
            let set = StartupSet::new(startup.parameters.iter().map(|(name, value)| (name, value)));
            let login = Login { stream: stream?, early: buf.into(), accepted: accepted.into(), minor, set, peer };
            Some((database, login, place))
        }
        Err(Stop::Cancel(pid, key)) => {
            front.cancel(pid, &key).await;
            None
        }
        Err(Stop::Silent(reason)) => {
            tracing::debug!(peer, reason, "a connection ended before its login did");
            None
        }
        Err(Stop::Refused(code, reason)) => {
            tracing::info!(peer, code = code.as_str(), reason = &*reason, "a login was refused");
            front.refused(code);
            let _ = timeout(LEAVING, greeting.refuse(&code, &reason)).await;
            None
        }
    }
}

/// A connection on its way to a login.
struct Greeting<'a> {
    rules: &'a Rules,
    salt: Salt,
    /// Not there while TLS is being agreed on, nor if that failed.
    stream: Option<Stream>,
    /// What was read and not understood yet.
    buf: Vec<u8>,
}

impl Greeting<'_> {
    /// Also what the client is to be told of it.
    async fn log_in<F: Front>(
        &mut self,
        front: &F,
        place: &mut Place,
    ) -> Result<(F::Database, Startup, u16, Vec<u8>), Stop> {
        let startup = self.startup().await?;
        let newest = front.newest_minor(&startup.database);
        let minor = startup.negotiated(newest);
        if startup.needs_negotiation(newest) {
            let mut out = Vec::new();
            message::negotiate_protocol_version(&mut out, minor, &startup.unknown_options);
            self.write(&out).await?;
        }
        self.check_transport()?;
        if startup.replication {
            return refused(SqlState::FEATURE_NOT_SUPPORTED, "replication connections are not supported by a pooler");
        }
        let Found { database, verifiers } = front
            .find(&startup.database, &startup.user, Instant::now())
            .or_else(|unknown| is_not_served(&startup, unknown))?;
        let max = self.rules.max_clients;
        let set = StartupSet::new(startup.parameters.iter().map(|(name, value)| (name, value)));
        if !front.is_own(&set) && !place.become_client(max) {
            return refused(
                SqlState::TOO_MANY_CONNECTIONS,
                format!("sorry, too many clients already: the limit is {max}"),
            );
        }
        let mut out = Vec::new();
        if self.rules.auth == Auth::ScramSha256 {
            self.prove(&startup.user, &verifiers, &mut out).await?;
        }
        message::authentication_ok(&mut out);
        Ok((database, startup, minor, out))
    }

    /// Everything up to the StartupMessage.
    async fn startup(&mut self) -> Result<Startup, Stop> {
        self.accept_direct_tls().await?;
        // Inside TLS neither may be asked for again.
        let (mut asked_ssl, mut asked_gss) = (self.is_tls(), self.is_tls());
        loop {
            match self.packet().await? {
                Initial::Startup(startup) => return Ok(startup),
                Initial::Cancel { pid, key } => return Err(Stop::Cancel(pid, key)),
                Initial::Ssl if !asked_ssl => {
                    self.nothing_follows("SSL")?;
                    asked_ssl = true;
                    if let Some(acceptor) = self.acceptor() {
                        self.write(b"S").await?;
                        self.accept_tls(acceptor).await?;
                        asked_gss = true;
                    } else {
                        self.write(b"N").await?;
                    }
                }
                Initial::Gss if !asked_gss => {
                    self.nothing_follows("GSSAPI encryption")?;
                    asked_gss = true;
                    self.write(b"N").await?;
                }
                Initial::Ssl | Initial::Gss => {
                    return refused(SqlState::PROTOCOL_VIOLATION, "encryption was asked for already");
                }
            }
        }
    }

    /// What came before TLS was agreed on came from anybody, and must not be taken for the client's
    /// (CVE-2021-23214).
    fn nothing_follows(&self, request: &str) -> Result<(), Stop> {
        if self.buf.is_empty() {
            return Ok(());
        }
        refused(SqlState::PROTOCOL_VIOLATION, format!("received unencrypted data after {request} request"))
    }

    fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// TLS for this connection; none over unix sockets, as in PostgreSQL.
    fn acceptor(&self) -> Option<Acceptor> {
        self.rules.tls.clone().filter(|_| matches!(self.stream, Some(Stream::Tcp(_))))
    }

    /// A client may begin with TLS instead of asking for it (PostgreSQL 17).
    async fn accept_direct_tls(&mut self) -> Result<(), Stop> {
        let (Some(acceptor), Some(Stream::Tcp(tcp))) = (self.acceptor(), &self.stream) else { return Ok(()) };
        let mut first = [0];
        if tcp.peek(&mut first).await? == 0 || first != [TLS_HANDSHAKE] {
            return Ok(());
        }
        self.accept_tls(acceptor).await?;
        match &self.stream {
            Some(Stream::ClientTls(tls)) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(()),
            _ => refused(
                SqlState::PROTOCOL_VIOLATION,
                "received direct SSL connection request without ALPN protocol negotiation extension",
            ),
        }
    }

    async fn accept_tls(&mut self, acceptor: Acceptor) -> Result<(), Stop> {
        let Some(Stream::Tcp(tcp)) = self.stream.take() else { return Err(Stop::Silent("no TCP".into())) };
        let tls = TlsAcceptor::from(acceptor.config).accept(tcp).await;
        let tls = tls.map_err(|error| Stop::Silent(format!("TLS: {error}")))?;
        self.stream = Some(Stream::ClientTls(Box::new(tls)));
        Ok(())
    }

    /// Where clients must show a certificate, TCP without TLS would be a way around it.
    fn check_transport(&self) -> Result<(), Stop> {
        match self.acceptor() {
            Some(Acceptor { demands_certificate: true, .. }) => {
                refused(SqlState::INVALID_AUTHORIZATION, "connection requires TLS with a client certificate")
            }
            _ => Ok(()),
        }
    }

    /// The client proves that it knows the password; what it is still to be told goes to `out`.
    async fn prove(&mut self, user: &str, verifiers: &[Verifier], out: &mut Vec<u8>) -> Result<(), Stop> {
        let binding = self.rules.tls.as_ref().filter(|_| self.is_tls()).and_then(|acceptor| acceptor.end_point.clone());
        let mut request = Vec::new();
        message::authentication_sasl(&mut request, scram::mechanisms(binding.as_deref()));
        self.write(&request).await?;
        let first = self.sasl().await?;
        let mut body = Reader::new(&first);
        let (mechanism, length) = match (body.cstr(), body.i32()) {
            (Some(mechanism), Some(length)) => (mechanism, length),
            _ => return refused(SqlState::PROTOCOL_VIOLATION, "malformed SASLInitialResponse"),
        };
        // -1 says that there is no message yet, which SCRAM does not have: what is empty is refused below.
        let data = if length < 0 { &[] } else { body.rest() };
        let (exchange, answer) = Exchange::start(mechanism, data, binding.as_deref(), self.salt)?;
        request.clear();
        message::authentication_sasl_continue(&mut request, answer.as_bytes());
        self.write(&request).await?;
        let last = self.sasl().await?;
        let answer = exchange.finish(&last, verifiers).map_err(|error| match error {
            ScramError::Password => {
                Stop::Refused(error.sqlstate(), format!("password authentication failed for user \"{user}\"").into())
            }
            error => error.into(),
        })?;
        message::authentication_sasl_final(out, answer.as_bytes());
        Ok(())
    }

    /// The next first packet.
    async fn packet(&mut self) -> Result<Initial, Stop> {
        loop {
            match startup::initial(&self.buf, self.rules.max_startup_packet) {
                Ok(Some((initial, taken))) => {
                    self.buf.drain(..taken);
                    return Ok(initial);
                }
                Ok(None) => self.read().await?,
                Err(error) => return refused(error.sqlstate(), error.to_string()),
            }
        }
    }

    /// The body of the client's next message, which must be one of SASL.
    async fn sasl(&mut self) -> Result<Vec<u8>, Stop> {
        loop {
            match frame::header(&self.buf) {
                Ok(None) => {}
                Ok(Some(header)) if header.tag == b'p' && header.body <= MAX_SASL => {
                    if let Some(body) = self.buf.get(frame::HEADER..header.total()) {
                        let body = body.to_vec();
                        self.buf.drain(..header.total());
                        return Ok(body);
                    }
                }
                Ok(Some(header)) if header.tag == b'X' => return Err(Stop::Silent("the client left".into())),
                Ok(Some(header)) if header.tag == b'p' => {
                    return refused(SqlState::PROTOCOL_VIOLATION, format!("invalid message length {}", header.body));
                }
                Ok(Some(header)) => {
                    let tag = header.tag.escape_ascii();
                    return refused(
                        SqlState::PROTOCOL_VIOLATION,
                        format!("expected SASL response, got message type {tag}"),
                    );
                }
                Err(error) => return refused(SqlState::PROTOCOL_VIOLATION, error.to_string()),
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Stop> {
        let Some(stream) = &mut self.stream else { return Err(Stop::Silent("no connection".into())) };
        self.buf.reserve(READ);
        match stream.read_buf(&mut self.buf).await? {
            0 => Err(Stop::Silent("the client left".into())),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let Some(stream) = &mut self.stream else { return Err(Stop::Silent("no connection".into())) };
        stream.write_all(bytes).await?;
        Ok(stream.flush().await?)
    }

    /// Tells the client why, then waits until it has left: closing on bytes that nobody read would make the system
    /// send a reset, and the client might never see the reason.
    async fn refuse(&mut self, code: &SqlState, reason: &str) -> Result<(), Stop> {
        let mut out = Vec::new();
        message::error_response(&mut out, Severity::Fatal, code, reason, None, None);
        self.write(&out).await?;
        let Some(stream) = &mut self.stream else { return Ok(()) };
        stream.shutdown().await?;
        let mut rest = [0; 512];
        while stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

/// Says what is served instead of what was asked for.
fn is_not_served<T>(startup: &Startup, unknown: Unknown) -> Result<T, Stop> {
    let names = |names: Vec<String>| match &*names {
        [] => "nothing is".to_owned(),
        [one] => format!("only \"{one}\" is"),
        many => format!("only {} are", many.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")),
    };
    let Startup { database, user, .. } = startup;
    match unknown {
        Unknown::Database { served } => {
            let text = format!("database \"{database}\" is not served here, {}", names(served));
            refused(SqlState::INVALID_CATALOG_NAME, text)
        }
        Unknown::Nothing => {
            let text = "no database is served here yet: the sidecar waits for its policy";
            refused(SqlState::CANNOT_CONNECT_NOW, text)
        }
        Unknown::User { served } => {
            let text = format!("user \"{user}\" is not served by database \"{database}\", {}", names(served));
            refused(SqlState::INVALID_PASSWORD, text)
        }
    }
}
