//! The streams: configuration down, reports up. One task a sidecar.
//!
//! A stream stands only while this replica leads, its token is valid, and the index holds its pod. Each ends a stream by
//! itself; the sidecar comes back, here or to the next leader, and serves its clients meanwhile.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{SinkExt, StreamExt};
use rustls::ServerConfig;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::auth::{AuthError, Identity, Reviewer};
use super::facts::known;
use super::index::{Entry, Told};
use super::metrics::Done;
use super::queue::Item;
use super::reports::{self, News};
use super::state::State;
use super::status::NUMBERS;
use crate::contract::{
    Configuration, GREETING, Hello, MAX_FRAME, PING, Policy, Refusal, Report, SILENCE, ToOperator, ToSidecar, VERSION,
};

/// Handshakes under way at once.
const HANDSHAKES: usize = 128;
/// The longest that one may take once its first bytes are there.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Connections at once that have not said anything yet: they cost a socket, and keep no other from a handshake.
const SILENT: usize = 4_096;
/// The longest first message in bytes: who says it has not proved anything yet.
const MAX_HELLO: usize = 128 << 10;
/// A token that the API server took just now is good for so long at least, whatever our clock says.
const TRUST: Duration = Duration::from_secs(60);
/// A sidecar that takes nothing for this long is dropped.
const STALLED: Duration = Duration::from_secs(10);
/// Between attempts to accept where the system refuses.
const PAUSE: Duration = Duration::from_millis(100);

/// A term that this replica leads.
#[derive(Clone, Debug)]
pub struct Leading {
    /// Its number.
    pub term: u64,
    /// Cancelled when it ends.
    pub scope: CancellationToken,
}

/// What streams need.
#[derive(Debug)]
pub struct Streams {
    /// Policies, pods and reports.
    pub state: Arc<State>,
    /// Asks who a sidecar is.
    pub reviewer: Reviewer,
    /// Whether this replica leads.
    pub leading: watch::Receiver<Option<Leading>>,
    /// The authorities that sign our certificates, in PEM.
    pub authorities: watch::Receiver<Arc<str>>,
}

type Connection = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum End {
    /// It was refused, and told so.
    #[error("{1}")]
    Refused(Refusal, String),
    /// The connection broke.
    #[error("{0}")]
    Broken(#[from] std::io::Error),
    /// What it said is no message.
    #[error("no message of the contract: {0}")]
    Garbage(#[from] serde_json::Error),
    /// It said nothing, or took nothing, for too long.
    #[error("silent for too long")]
    Silent,
    /// It closed the connection.
    #[error("closed by the sidecar")]
    Closed,
    /// While it was asked who this is, the same sidecar came again.
    #[error("the sidecar has come again")]
    Overtaken,
    /// This replica does not lead any more.
    #[error("this replica does not lead any more")]
    NotLeader,
    /// The pod is gone.
    #[error("the pod is gone")]
    PodGone,
    /// The token expired and no other came.
    #[error("the token has expired")]
    Expired,
}

/// Accepts streams until told to stop.
pub async fn run(listener: TcpListener, tls: Arc<ServerConfig>, streams: Arc<Streams>, stop: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let (silent, handshakes) = (Arc::new(Semaphore::new(SILENT)), Arc::new(Semaphore::new(HANDSHAKES)));
    loop {
        let Ok(place) = Arc::clone(&silent).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a stream could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, streams, stop) = (acceptor.clone(), Arc::clone(&streams), stop.clone());
        let handshakes = Arc::clone(&handshakes);
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            let greeted = async {
                let Ok(Ok(())) = timeout(GREETING, socket.readable()).await else { return };
                let Ok(slot) = handshakes.acquire_owned().await else { return };
                drop(place);
                let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(socket)).await else { return };
                // A handshake is what costs; what follows waits.
                drop(slot);
                let mut connection = LengthDelimitedCodec::builder().max_frame_length(MAX_HELLO).new_framed(stream);
                streams.serve(&mut connection, peer).await;
                let _ = timeout(Duration::from_secs(1), connection.get_mut().shutdown()).await;
            };
            tokio::select! {
                () = greeted => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Streams {
    async fn serve(&self, connection: &mut Connection, peer: SocketAddr) {
        let mut pod = String::new();
        let end = match self.greet(connection).await {
            Ok(session) => {
                pod = session.identity.pod.to_string();
                self.state.metrics.greetings.get_or_create(&Done { kind: "stream", result: "welcome" }).inc();
                tracing::debug!(pod, %peer, "a sidecar has come");
                let end = self.talk(connection, &session).await;
                self.leave(&session);
                end
            }
            Err(end) => Err(end),
        };
        let Err(end) = end;
        if let End::Refused(reason, message) = &end {
            let result = refusal_name(*reason);
            self.state.metrics.greetings.get_or_create(&Done { kind: "stream", result }).inc();
            let refused = ToSidecar::Refused { reason: *reason, message: message.clone() };
            let _ = send(connection, &refused).await;
            tracing::debug!(%peer, reason = result, message, "a sidecar was refused");
            return;
        }
        tracing::debug!(pod, %peer, %end, "a stream has ended");
    }

    /// From the first message to the welcome.
    async fn greet(&self, connection: &mut Connection) -> Result<Session, End> {
        let message = timeout(GREETING, receive(connection)).await.map_err(|_| End::Silent)??;
        let ToOperator::Hello(hello) = message else {
            return Err(End::Refused(Refusal::Protocol, "the first message must say who you are".into()));
        };
        let Some(leading) = self.leading.borrow().clone() else {
            return Err(End::Refused(Refusal::NotLeader, "another replica leads".into()));
        };
        if hello.contract != VERSION {
            let message =
                format!("contract version {} is not served here; this operator speaks {VERSION}", hello.contract);
            return Err(End::Refused(Refusal::Version, message));
        }
        let number = self.state.reports().number();
        let identity = self.identify(&hello).await?;
        // That took its time.
        if leading.scope.is_cancelled() {
            return Err(End::Refused(Refusal::NotLeader, "another replica leads".into()));
        }
        connection.codec_mut().set_max_frame_length(MAX_FRAME);
        let told = self.state.index().subscribe(&identity.pod, &identity.uid);
        let Some(told) = told else {
            let message = format!("pod {} with uid {} is not known here", identity.pod, identity.uid);
            return Err(End::Refused(Refusal::UnknownPod, message));
        };
        if !self.state.reports().connected(number, identity.pod.clone(), &identity.uid, &hello) {
            return Err(End::Overtaken);
        }
        let session = Session { identity, number, leading, told, fields: reports::fields(&hello) };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let welcome = ToSidecar::Welcome { term: session.leading.term, version };
        if let Err(end) = send(connection, &welcome).await {
            self.leave(&session);
            return Err(end);
        }
        Ok(session)
    }

    async fn identify(&self, hello: &Hello) -> Result<Identity, End> {
        self.reviewer.review(&hello.token).await.map_err(|error| match error {
            // Not the sidecar's fault: it comes again.
            AuthError::Unavailable(_) => End::Refused(Refusal::Other, error.to_string()),
            _ => End::Refused(Refusal::Unauthenticated, error.to_string()),
        })
    }

    /// Configuration down, reports up, until something ends it.
    async fn talk(&self, connection: &mut Connection, session: &Session) -> Result<std::convert::Infallible, End> {
        let mut told = session.told.clone();
        let mut authorities = self.authorities.clone();
        let mut expires = deadline(session.identity.expires);
        let mut beat = tokio::time::interval(PING);
        let mut heard = Instant::now();
        told.mark_changed();
        authorities.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = session.leading.scope.cancelled() => return Err(End::NotLeader),
                changed = told.changed() => {
                    changed.map_err(|_| End::PodGone)?;
                    let configuration = session.configuration(&told.borrow_and_update().clone());
                    send(connection, &ToSidecar::Configuration(configuration)).await?;
                }
                Ok(()) = authorities.changed() => {
                    let pem = authorities.borrow_and_update().to_string();
                    send(connection, &ToSidecar::Authorities { pem }).await?;
                }
                message = receive(connection) => {
                    heard = Instant::now();
                    match message? {
                        ToOperator::Report(report) => self.report(session, report),
                        ToOperator::Renew { token } => expires = deadline(self.renew(session, &token).await?),
                        ToOperator::Ping | ToOperator::Unknown => {}
                        ToOperator::Hello(_) => {
                            return Err(End::Refused(Refusal::Protocol, "you have said who you are already".into()));
                        }
                    }
                }
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(End::Silent);
                    }
                    if Instant::now() >= expires {
                        return Err(End::Expired);
                    }
                    send(connection, &ToSidecar::Ping).await?;
                }
            }
        }
    }

    fn report(&self, session: &Session, report: Report) {
        let Identity { pod, uid, .. } = &session.identity;
        let runs: Vec<_> = report.policies.iter().filter(|policy| policy.applied.is_some()).collect();
        let runs: Vec<_> = runs.into_iter().map(|policy| policy.uid.clone()).collect();
        let news = self.state.reports().report(uid, session.number, report);
        match news {
            News::Nothing => {}
            News::Numbers => {
                for entry in session.told.borrow().iter() {
                    self.state.queue.add(Item::Policy(entry.key().clone()), NUMBERS);
                }
            }
            News::Class => {
                self.state.index().runs(pod, uid, runs);
                self.state.settle();
                self.state.ask_for_pod(pod);
            }
        }
    }

    /// A new token must be of the same pod.
    async fn renew(&self, session: &Session, token: &crate::contract::Token) -> Result<SystemTime, End> {
        let refused = |message: String| End::Refused(Refusal::Unauthenticated, message);
        let identity = self.reviewer.review(token).await.map_err(|error| refused(error.to_string()))?;
        if identity.uid != session.identity.uid || identity.pod != session.identity.pod {
            return Err(refused("the new token is another pod's".into()));
        }
        Ok(identity.expires)
    }

    fn leave(&self, session: &Session) {
        let Identity { pod, uid, .. } = &session.identity;
        let now = Instant::now();
        // A leader that has gone writes no more, and the next one hears for itself.
        if self.state.reports().disconnected(uid, session.number, now) && !session.leading.scope.is_cancelled() {
            self.state.ask_for_pod(pod);
        }
    }
}

/// One stream that stands.
struct Session {
    identity: Identity,
    number: u64,
    leading: Leading,
    told: watch::Receiver<Told>,
    fields: Option<Arc<BTreeSet<String>>>,
}

impl Session {
    /// What the pod is to run, in words that its sidecar knows.
    fn configuration(&self, told: &Told) -> Configuration {
        let policy = |entry: &Entry| match entry {
            Entry::Keep { key, uid, generation } => Policy {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: uid.clone(),
                generation: *generation,
                revision: String::new(),
                spec: None,
            },
            Entry::Run(assigned) => Policy {
                namespace: assigned.key.namespace.clone(),
                name: assigned.key.name.clone(),
                uid: assigned.uid.clone(),
                generation: assigned.generation,
                revision: assigned.resolved.revision.clone(),
                spec: Some(match &self.fields {
                    None => assigned.spec.clone(),
                    Some(fields) => known(assigned, fields),
                }),
            },
        };
        Configuration { term: self.leading.term, policies: told.iter().map(policy).collect() }
    }
}

/// When a token that was just reviewed ends by the clock that does not jump.
fn deadline(expires: SystemTime) -> Instant {
    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left.max(TRUST)).unwrap_or(now + TRUST)
}

async fn receive(connection: &mut Connection) -> Result<ToOperator, End> {
    match connection.next().await {
        None => Err(End::Closed),
        Some(frame) => Ok(serde_json::from_slice(&frame?)?),
    }
}

async fn send(connection: &mut Connection, message: &impl Serialize) -> Result<(), End> {
    let bytes = serde_json::to_vec(message)?;
    timeout(STALLED, connection.send(Bytes::from(bytes))).await.map_err(|_| End::Silent)??;
    Ok(())
}

/// As metrics call it.
fn refusal_name(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotLeader => "not_leader",
        Refusal::Unauthenticated => "unauthenticated",
        Refusal::UnknownPod => "unknown_pod",
        Refusal::Version => "version",
        Refusal::Protocol => "protocol",
        Refusal::Other => "unavailable",
    }
}
