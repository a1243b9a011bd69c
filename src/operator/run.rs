//! Wires the operator together and runs it until it is asked to end.
//!
//! ```text
//!  watch ─→ index ─→ stream ─→ (sidecar) ─→ stream ─→ reports ─→ queue ─→ reconcile ─→ status, pod ─→ apply
//! ```
//!
//! Every replica watches, keeps its certificate young and answers webhooks; the leader alone has streams and writes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::apply::Writer;
use super::auth::Reviewer;
use super::certs::{self, Served};
use super::election::Election;
use super::http::{self, HttpState, Waits};
use super::inject::Settings;
use super::keeper::Keeper;
use super::leader::{Leader, STREAM_SERVICE, WEBHOOK_SERVICE};
use super::options::Options;
use super::state::State;
use super::stream::{self, Streams};
use super::watch;
use super::webhook;
use crate::shutdown::Shutdown;
use crate::tls::{self, TlsError};

/// The Lease of the election.
pub const LEASE: &str = "poolkeeper-operator";
/// An API server that says nothing for this long is gone: longer than a watch without news.
const SILENCE: Duration = Duration::from_secs(watch::TURN as u64 + 15);
/// How long tasks may take to end.
const END: Duration = Duration::from_secs(5);

/// Why the operator did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It is not known where the API server is.
    #[error("no API server is known: {0}; run in a pod, or set KUBECONFIG or --kubeconfig")]
    Config(String),
    /// The client can't be made.
    #[error("the API server's client: {0}")]
    Client(#[from] kube::Error),
    /// An address could not be bound.
    #[error("cannot listen on {0} for {1}: {2}; choose another address with --{1}")]
    Bind(SocketAddr, &'static str, io::Error),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It would have gone on without a part of itself.
    #[error("a task of the operator has ended; the log says which")]
    Task,
    /// The system refused something else.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Runs the operator until it is told to end.
///
/// # Errors
/// If it can't start; once it runs, nothing ends it but a signal.
pub fn run(options: &Options) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: &Options) -> Result<(), RunError> {
    let shutdown = Shutdown::new();
    tokio::spawn(shutdown.catch()?.run());
    let client = client(options).await?;
    let stop = CancellationToken::new();
    let state = Arc::new(State::default());
    let mut tasks = tokio::task::JoinSet::new();

    let election = Election::new(Api::namespaced(client.clone(), &options.namespace), LEASE, options.identity.as_str());
    let claim = election.claim();
    let served = Arc::new(Served::default());
    let names = certs::names(&options.namespace, &[STREAM_SERVICE, WEBHOOK_SERVICE], &options.names);
    let (namespace, keeper_claim) = (options.namespace.as_str(), claim.clone());
    let keeper = Keeper::new(client.clone(), namespace, names, Arc::clone(&served), keeper_claim, Arc::clone(&state));
    let authorities = keeper.bundle();
    tasks.spawn(keeper.run(stop.clone()));

    let waits = watches(&client, &state, &authorities, &stop, &mut tasks);
    let leading = channel::Sender::new(None);
    let streams = Arc::new(Streams {
        state: Arc::clone(&state),
        reviewer: Reviewer::new(client.clone()),
        leading: leading.subscribe(),
        authorities: authorities.clone(),
    });
    let listener = bind(options.stream, "stream")?;
    let address = listener.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let tls = Arc::new(tls::acceptor::with_resolver(Arc::clone(&served) as _)?);
    tasks.spawn(stream::run(listener, tls, streams, stop.clone()));

    let http = bind(options.http, "http")?;
    let http_address = http.local_addr()?;
    let http_state = HttpState {
        identity: options.identity.clone(),
        state: Arc::clone(&state),
        waits: waits.clone(),
        runtime: tokio::runtime::Handle::current(),
    };
    let http_stop = stop.clone();
    let http = std::thread::Builder::new().name("http".into()).spawn(move || {
        if let Err(error) = http::serve(http, http_state, http_stop) {
            tracing::error!(%error, "HTTP has ended");
        }
    })?;

    if let Some((address, settings)) = &options.webhook {
        let settings = Settings { kubernetes: version(&client).await, ..settings.clone() };
        let admission = Admission::new(Arc::clone(&state), settings, authorities.clone());
        let tls = tls::acceptor::with_resolver(served)?;
        webhooks(bind(*address, "webhook")?, tls, Arc::new(admission), stop.clone())?;
    }

    let leader = Arc::new(Leader {
        writer: Writer::new(client, claim.clone(), &options.identity, Arc::clone(&state)),
        state,
        namespace: options.namespace.clone(),
        address: options.advertise,
        authorities,
        leading,
    });
    tasks.spawn(leader.run(claim, stop.clone()));
    // Who has not seen everything must not lead: it would say of every pod that it has no policy.
    let electing = stop.clone();
    let election = tokio::spawn(async move {
        tokio::select! {
            () = all(waits) => election.run(electing).await,
            () = electing.cancelled() => {}
        }
    });
    tracing::info!(stream = %address, http = %http_address, namespace = options.namespace, identity = options.identity, "running");

    let failed = tokio::select! {
        () = shutdown.draining().cancelled() => false,
        // None of them ends by itself: without it the operator would only look alive.
        Some(ended) = tasks.join_next() => {
            tracing::error!(?ended, "a task of the operator has ended");
            true
        }
    };
    tracing::info!("ending");
    stop.cancel();
    // The Lease is given back last, when nothing is written any more.
    let _ = tokio::time::timeout(END, async { while tasks.join_next().await.is_some() {} }).await;
    let _ = tokio::time::timeout(END, election).await;
    let _ = tokio::time::timeout(END, tokio::task::spawn_blocking(move || http.join())).await;
    tracing::info!("ended");
    if failed { Err(RunError::Task) } else { Ok(()) }
}

/// Starts the thread of the webhooks.
fn webhooks(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    facts: Arc<Admission>,
    stop: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("webhook".into()).spawn(move || {
        let served = actix_web::rt::System::new().block_on(webhook::run(listener, tls, facts, stop));
        if let Err(error) = served {
            tracing::error!(%error, "the webhooks have ended");
        }
    })?;
    tracing::info!(%address, "webhooks");
    Ok(())
}

/// Major and minor version of the API server, if it says so in time.
async fn version(client: &Client) -> Option<(u32, u32)> {
    let info = tokio::time::timeout(END, client.apiserver_version()).await.ok()?.ok()?;
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    Some((number(&info.major)?, number(&info.minor)?))
}

/// Starts the watches; what readiness waits for.
fn watches(
    client: &Client,
    state: &Arc<State>,
    authorities: &channel::Receiver<Arc<str>>,
    stop: &CancellationToken,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Waits {
    let [policies, pods, certificate] = [(); 3].map(|()| channel::Sender::new(false));
    let waits = vec![
        ("policies", policies.subscribe()),
        ("pods", pods.subscribe()),
        ("a certificate", certificate.subscribe()),
    ];
    tasks.spawn(watch::policies(client.clone(), Arc::clone(state), policies, stop.clone()));
    tasks.spawn(watch::pods(client.clone(), Arc::clone(state), pods, stop.clone()));
    let (mut authorities, stop) = (authorities.clone(), stop.clone());
    tasks.spawn(async move {
        tokio::select! {
            Ok(_) = authorities.wait_for(|bundle| !bundle.is_empty()) => { certificate.send_replace(true); }
            () = stop.cancelled() => {}
        }
        stop.cancelled().await;
    });
    waits
}

/// Waits until everything that readiness waits for is there.
async fn all(waits: Waits) {
    for (_, mut done) in waits {
        let _ = done.wait_for(|done| *done).await;
    }
}

async fn client(options: &Options) -> Result<Client, RunError> {
    let wrong = |error: &dyn std::fmt::Display| RunError::Config(error.to_string());
    let mut config = match &options.kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
            let options = KubeConfigOptions::default();
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| wrong(&error))?
        }
        None => kube::Config::infer().await.map_err(|error| wrong(&error))?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    // A list has no end of its own, and an API server may fall silent in the midst of one.
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, RunError> {
    let listener = TcpListener::bind(address).map_err(|error| RunError::Bind(address, what, error))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
