//! From a host's name to a stream: DNS, TCP or a unix socket, TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsConnector, client};

use super::{ConnectError, Phase, Target};
use crate::pg::auth::binding::tls_server_end_point;
use crate::pg::startup::ssl_request;
use crate::pg::stream::Stream;

/// Time between TCP's questions to a silent peer, and how many go unanswered before it counts as gone.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(10);
pub(super) const PROBES: u32 = 3;

/// Whether TLS is used towards a server. What it verifies is in the configuration.
#[derive(Debug, Clone)]
pub enum Tls {
    /// Never.
    Disable,
    /// If the server has it; only its plain "no" leads to a connection without.
    Prefer(Arc<ClientConfig>),
    /// Always.
    Require(Arc<ClientConfig>),
}

/// What was agreed on with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite.
    pub cipher: &'static str,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
}

/// Where a session's server is: its address as it was used, and its TLS.
#[derive(Debug, Clone)]
pub enum Addr {
    /// TCP, and TLS if the session has it.
    Tcp {
        /// The address that answered.
        socket: SocketAddr,
        /// TLS, and the name that the server's certificate is checked against.
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// A stream on which the StartupMessage may be sent.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) addr: Addr,
    pub(super) tls: Option<TlsInfo>,
    /// What SCRAM may bind to.
    pub(super) binding: Option<Vec<u8>>,
}

/// Opens a stream to `target`; `phase` says how far it got if this future is dropped.
pub(super) async fn open(target: &Target, deadline: Instant, phase: &mut Phase) -> Result<Opened, ConnectError> {
    if target.host.starts_with('/') {
        *phase = Phase::Tcp;
        let path = PathBuf::from(format!("{}/.s.PGSQL.{}", target.host, target.port));
        let unix = UnixStream::connect(&path).await.map_err(|error| {
            ConnectError::local(Phase::Tcp, format!("cannot connect to server {}: {error}", path.display()))
        })?;
        return Ok(Opened { stream: Stream::Unix(unix), addr: Addr::Unix(path), tls: None, binding: None });
    }
    let addresses = resolve(&target.host, target.port).await?;
    *phase = Phase::Tcp;
    let (tcp, socket) = connect_any(target, &addresses, deadline).await?;
    *phase = Phase::Tls;
    secure(target, tcp, socket).await
}

/// All addresses of the host, as the system says now: a changed answer counts from the next connection on.
///
/// # Errors
/// If the host has no address, or nobody could be asked.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let failed = |reason: &str| ConnectError::local(Phase::Dns, format!("cannot resolve server {host}: {reason}"));
    let mut addresses: Vec<_> = lookup_host((host, port)).await.map_err(|error| failed(&error.to_string()))?.collect();
    addresses.dedup();
    if addresses.is_empty() { Err(failed("it has no address")) } else { Ok(addresses) }
}

/// Tries the addresses in order. Each has its share of the time that is left, so that one that is silent leaves
/// time for the others.
async fn connect_any(
    target: &Target,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let mut reasons = Vec::new();
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = Instant::now() + deadline.saturating_duration_since(Instant::now()) / left;
        match timeout_at(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                prepare(&tcp, target.keepalive);
                return Ok((tcp, address));
            }
            Ok(Err(error)) => reasons.push(format!("{address}: {error}")),
            Err(_) => reasons.push(format!("{address}: no answer")),
        }
    }
    let reasons = reasons.join("; ");
    Err(ConnectError::local(Phase::Tcp, format!("cannot connect to server {}: {reasons}", target.host)))
}

/// Small packets leave at once, and a server that is gone without a word is noticed.
fn prepare(tcp: &TcpStream, keepalive: Option<Duration>) {
    // Both can only fail on a socket that is dead already, which the next call will say.
    let _ = tcp.set_nodelay(true);
    if let Some(time) = keepalive {
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(PROBE_EVERY).with_retries(PROBES);
        let _ = SockRef::from(tcp).set_tcp_keepalive(&keepalive);
    }
}

/// Agrees on TLS, as the target wants it.
async fn secure(target: &Target, mut tcp: TcpStream, socket: SocketAddr) -> Result<Opened, ConnectError> {
    let host = &target.host;
    let failed = |reason: String| ConnectError::local(Phase::Tls, format!("TLS with server {host}: {reason}"));
    let (config, required) = match &target.tls {
        Tls::Disable => return Ok(plain(tcp, socket)),
        Tls::Prefer(config) => (config, false),
        Tls::Require(config) => (config, true),
    };
    if !request(&mut tcp).await.map_err(|error| failed(error.to_string()))? {
        return if required { Err(failed("the server does not support it".into())) } else { Ok(plain(tcp, socket)) };
    }
    let name = ServerName::try_from(host.clone())
        .map_err(|_| failed("the host is neither a DNS name nor an address".into()))?;
    let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await;
    let tls = tls.map_err(|error| failed(error.to_string()))?;
    let (info, binding) = facts(&tls);
    Ok(Opened {
        stream: Stream::ServerTls(Box::new(tls)),
        addr: Addr::Tcp { socket, tls: Some((Arc::clone(config), name)) },
        tls: Some(info),
        binding,
    })
}

fn plain(tcp: TcpStream, socket: SocketAddr) -> Opened {
    Opened { stream: Stream::Tcp(tcp), addr: Addr::Tcp { socket, tls: None }, tls: None, binding: None }
}

/// Asks for TLS; whether the server agrees.
async fn request(tcp: &mut TcpStream) -> io::Result<bool> {
    let mut packet = Vec::new();
    ssl_request(&mut packet);
    tcp.write_all(&packet).await?;
    // Room for more than the one byte that is due: what follows it in clear must not be taken for something
    // that came through TLS (CVE-2021-23222).
    let mut answer = [0; 16];
    let read = tcp.read(&mut answer).await?;
    let wrong = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    match answer.get(..read).unwrap_or_default() {
        b"S" => Ok(true),
        b"N" => Ok(false),
        [] => wrong("the server closed the connection when it was asked for TLS"),
        [b'S', ..] => wrong("the server sent unencrypted data after it agreed to TLS (CVE-2021-23222)"),
        // An error message in clear could come from anybody: it is not shown (CVE-2024-10977).
        [b'E', ..] => wrong("the server answered the request for TLS with an error"),
        _ => wrong("the server's answer to the request for TLS is not PostgreSQL's"),
    }
}

fn facts(tls: &client::TlsStream<TcpStream>) -> (TlsInfo, Option<Vec<u8>>) {
    let (_, session) = tls.get_ref();
    let info = TlsInfo {
        version: match session.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    };
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    (info, leaf.and_then(|leaf| tls_server_end_point(leaf)))
}

/// Another connection to a session's server, protected as the session is.
pub(super) async fn reopen(addr: &Addr) -> io::Result<Stream> {
    let (socket, tls) = match addr {
        Addr::Unix(path) => return Ok(Stream::Unix(UnixStream::connect(path).await?)),
        Addr::Tcp { socket, tls } => (socket, tls),
    };
    let mut tcp = TcpStream::connect(socket).await?;
    prepare(&tcp, None);
    let Some((config, name)) = tls else { return Ok(Stream::Tcp(tcp)) };
    if !request(&mut tcp).await? {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the server no longer supports TLS"));
    }
    let tls = TlsConnector::from(Arc::clone(config)).connect(name.clone(), tcp).await?;
    Ok(Stream::ServerTls(Box::new(tls)))
}
