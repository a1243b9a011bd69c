//! An operator for tests: speaks the contract over TLS, tells what it is given and remembers what it hears.

use super::certs::Certs;
use super::{PATIENCE, eventually};
use futures_util::{SinkExt, StreamExt};
use poolkeeper::contract::{
    Configuration, Hello, MAX_FRAME, PING, Policy, PolicyReport, Refusal, Report, ToOperator, ToSidecar,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

/// What it does with whoever comes.
#[derive(Clone, Default)]
struct Orders {
    term: u64,
    configuration: Option<Configuration>,
    authorities: Option<String>,
    refusal: Option<Refusal>,
    /// Counts up to have connections closed.
    close: u32,
}

/// An operator; dropped, it is gone without a word.
pub struct Operator {
    port: u16,
    certs: Certs,
    orders: watch::Sender<Orders>,
    heard: Arc<Mutex<Vec<(Instant, ToOperator)>>>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Operator {
    /// What stands in the token file at first.
    pub const TOKEN: &str = "the-first-token";

    /// Starts one, of term 1, which tells nothing yet.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, certs) = (listener.local_addr().unwrap().port(), Certs::new());
        let (orders, heard) = (watch::Sender::new(Orders { term: 1, ..Orders::default() }), Arc::default());
        let mut operator = Self { port, certs, orders, heard, stop: CancellationToken::new(), thread: None };
        operator.serve(listener);
        operator
    }

    fn serve(&mut self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let stop = CancellationToken::new();
        let (orders, heard) = (self.orders.clone(), Arc::clone(&self.heard));
        let acceptor = acceptor(&self.certs);
        self.stop = stop.clone();
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                    tokio::spawn(talk(stream, acceptor.clone(), orders.subscribe(), Arc::clone(&heard)));
                }
            });
        }));
    }

    /// Ends it: connections break, and nobody listens any more.
    pub fn kill(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Starts it again at the same address with the same authority.
    pub fn start_again(&mut self) {
        // Its old connections may hold the address for a moment.
        let mut listener = None;
        eventually("the operator's address is free", || {
            listener = std::net::TcpListener::bind(("127.0.0.1", self.port)).ok();
            listener.is_some()
        });
        self.serve(listener.unwrap());
    }

    /// For `--operator`.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// For `--operator-ca`.
    pub fn ca(&self) -> PathBuf {
        self.certs.path("ca.crt")
    }

    /// Another authority and certificate, from the next start on. The file of [`Self::ca`] is gone.
    pub fn set_certs(&mut self, certs: Certs) {
        self.certs = certs;
    }

    /// The policies of its pod from now on.
    pub fn tell(&self, policies: &[Policy]) {
        self.orders.send_modify(|orders| {
            orders.configuration = Some(Configuration { term: orders.term, policies: policies.to_vec() });
        });
    }

    /// The authorities of its certificates from now on.
    pub fn tell_authorities(&self, pem: String) {
        self.orders.send_modify(|orders| orders.authorities = Some(pem));
    }

    /// Leads in this term from now on; streams are closed.
    pub fn lead(&self, term: u64) {
        self.orders.send_modify(|orders| {
            orders.term = term;
            orders.close += 1;
            if let Some(configuration) = &mut orders.configuration {
                configuration.term = term;
            }
        });
    }

    /// Refuses everybody who comes, or no more.
    pub fn refuse(&self, refusal: Option<Refusal>) {
        self.orders.send_modify(|orders| {
            orders.refusal = refusal;
            orders.close += 1;
        });
    }

    /// Everything that was heard since the start, with the time.
    pub fn heard(&self) -> MutexGuard<'_, Vec<(Instant, ToOperator)>> {
        self.heard.lock().unwrap()
    }

    /// Forgets what was heard.
    pub fn forget(&self) {
        self.heard().clear();
    }

    /// Every Hello so far.
    pub fn hellos(&self) -> Vec<Hello> {
        let heard = self.heard();
        let hellos = heard.iter().filter_map(|(_, message)| match message {
            ToOperator::Hello(hello) => Some((**hello).clone()),
            _ => None,
        });
        hellos.collect()
    }

    /// Every report so far, with the time.
    pub fn reports(&self) -> Vec<(Instant, Report)> {
        let heard = self.heard();
        let reports = heard.iter().filter_map(|(at, message)| match message {
            ToOperator::Report(report) => Some((*at, report.clone())),
            _ => None,
        });
        reports.collect()
    }

    /// Waits for a newest report that is as it should be.
    #[track_caller]
    pub fn until(&self, what: &str, fits: impl Fn(&Report) -> bool) -> Report {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = self.reports().pop();
            match last {
                Some((_, report)) if fits(&report) => return report,
                last => assert!(Instant::now() < end, "in vain: {what}; the last report: {last:#?}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Waits until the report on this policy is as it should be.
    #[track_caller]
    pub fn until_policy(&self, name: &str, what: &str, fits: impl Fn(&PolicyReport) -> bool) -> PolicyReport {
        let find = |report: &Report| report.policies.iter().find(|policy| policy.name == name).cloned();
        find(&self.until(what, |report| find(report).is_some_and(|policy| fits(&policy)))).unwrap()
    }

    /// Waits until this revision of the policy is reported as applied.
    #[track_caller]
    pub fn until_applied(&self, name: &str, revision: &str) -> PolicyReport {
        self.until_policy(name, revision, |policy| runs(policy) == Some(revision))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The revision that a policy's pool runs.
pub fn runs(policy: &PolicyReport) -> Option<&str> {
    policy.applied.as_ref().map(|applied| applied.revision.as_str())
}

fn acceptor(certs: &Certs) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_file(certs.path("tls.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(certs.path("tls.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

type Frames = Framed<TlsStream<TcpStream>, LengthDelimitedCodec>;

async fn say(frames: &mut Frames, message: &ToSidecar) -> Option<()> {
    let bytes = serde_json::to_vec(message).unwrap();
    frames.send(Bytes::from(bytes)).await.ok()
}

/// One connection: a Hello must come first; then it is told whatever is ordered, as soon as it is.
async fn talk(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    mut orders: watch::Receiver<Orders>,
    heard: Arc<Mutex<Vec<(Instant, ToOperator)>>>,
) -> Option<()> {
    let stream = acceptor.accept(stream).await.ok()?;
    let codec = LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME).new_codec();
    let mut frames = Framed::new(stream, codec);
    let hear = |frame: &[u8]| {
        let message: ToOperator = serde_json::from_slice(frame).unwrap();
        let is_hello = matches!(message, ToOperator::Hello(_));
        heard.lock().unwrap().push((Instant::now(), message));
        is_hello
    };
    if !hear(&frames.next().await?.ok()?) {
        return None;
    }
    let first = orders.borrow_and_update().clone();
    let welcome = match first.refusal {
        Some(reason) => ToSidecar::Refused { reason, message: "not now".into() },
        None => ToSidecar::Welcome { term: first.term, version: "test".into() },
    };
    say(&mut frames, &welcome).await?;
    if first.refusal.is_some() {
        return None;
    }
    let (mut told, mut ping) = (Orders::default(), tokio::time::interval(PING));
    loop {
        let now = orders.borrow_and_update().clone();
        if now.close != first.close {
            return None;
        }
        let configuration = now.configuration.clone().filter(|_| now.configuration != told.configuration);
        let authorities = now.authorities.clone().filter(|_| now.authorities != told.authorities);
        let authorities = authorities.map(|pem| ToSidecar::Authorities { pem });
        for message in authorities.into_iter().chain(configuration.map(ToSidecar::Configuration)) {
            say(&mut frames, &message).await?;
        }
        told = now;
        tokio::select! {
            frame = frames.next() => drop(hear(&frame?.ok()?)),
            changed = orders.changed() => changed.ok()?,
            _ = ping.tick() => {
                say(&mut frames, &ToSidecar::Ping).await?;
            }
        }
    }
}
