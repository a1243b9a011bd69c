//! Wires the sidecar together and runs it until it is asked to end.
//!
//! The main thread is the first worker: it accepts and serves clients and owns the pools' upkeep. Further workers
//! (`--workers`) accept and serve beside it. HTTP and the health probe have a thread of their own, so that a scrape
//! never stands in a query's way.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clients::signal;
use super::core::Core;
use super::database::Registered;
use super::drain::{drain, leave};
use super::front::{self, Desk};
use super::gather::Sight;
use super::http::{self, HttpState};
use super::link::{Bound, Link, View, keep};
use super::listen::Door;
use super::listen::accept::accept;
use super::listen::sockets::{BindError, Sockets};
use super::options::{HttpAddress, Operator, Options};
use super::probe::{self, FrontDoor, Token};
use super::proxy::{self, Worker};
use super::source::{self, Finding, Snapshot, Source, State};
use crate::shutdown::Shutdown;
use crate::tls::TlsError;

/// Descriptors beside those of clients and servers: listeners, HTTP, files.
const OTHER_FILES: u64 = 512;

/// How long the thread of HTTP may take to end; in a pod there is little time.
const HTTP_ENDS: Duration = Duration::from_millis(150);

/// Why the sidecar did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong; every finding was logged.
    #[error("the configuration is not valid: {}", list(.0))]
    Configuration(Vec<Finding>),
    /// A listener could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The HTTP endpoints' address could not be bound.
    #[error("cannot listen on {0} for HTTP: {1}; choose another address with --http")]
    Http(HttpAddress, io::Error),
    /// The certificate for clients can't be used.
    #[error("listen.tls: {0}")]
    Tls(#[from] TlsError),
    /// Too few files may be open.
    #[error(
        "{needed} files must be able to be open for listen.maxClients and the pool, and the limit is {limit}: \
         raise it (ulimit -n, LimitNOFILE=) or lower listen.maxClients"
    )]
    Files {
        /// How many may be needed.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// The system refused something else.
    #[error(transparent)]
    System(#[from] io::Error),
    /// No random bytes could be had.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Runs the sidecar until it has drained.
///
/// # Errors
/// If it can't start; once it serves, nothing ends it but a signal.
pub fn run(options: &Options) -> Result<(), RunError> {
    let runtime = runtime()?;
    let result = runtime.block_on(serve(options));
    // What still hangs, as a look-up of a name does, must not keep the process.
    runtime.shutdown_background();
    result
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

async fn serve(options: &Options) -> Result<(), RunError> {
    let source = source::start(options).map_err(RunError::Configuration)?;
    let view = options.operator.as_ref().map(|operator| recall(operator, &source));
    let states = source.subscribe();
    let snapshot = Arc::clone(&states.borrow().snapshot);
    let workers = options.workers.get();
    match (raise_files(&snapshot), &options.operator) {
        (Err(error), Some(_)) => tracing::warn!("{error}"),
        (raised, _) => raised?,
    }

    let shutdown = Shutdown::new();
    tokio::spawn(shutdown.catch()?.run());
    let (token, stop) = (Arc::new(Token::random()?), CancellationToken::new());
    let core = Core::start(source, workers, stop.clone())?;
    let registered = Arc::clone(&core.registered);

    let mut bound = Bound { listen: snapshot.listen.clone(), socket_only: options.socket_only };
    let (sockets, addresses, front_door) = match (bind(&bound, options.operator.is_some()), &options.operator) {
        (Err(error), Some(operator)) => {
            // Whoever ends here never hears of a policy that is right.
            tracing::error!(%error, "not where the policy wants it, but where there is none");
            bound.listen = source::told::empty(&operator.place).map_err(RunError::Configuration)?.listen;
            bind(&bound, true)?
        }
        (listening, _) => listening?,
    };
    let door = Arc::new(Door::new(front::rules(&snapshot)?, core.salt));
    tokio::spawn(keep_rules(Arc::clone(&door), states.clone()));
    tokio::spawn(send_idle_away(Arc::clone(&registered)));
    let link = options.operator.as_ref().zip(view.clone()).map(|(operator, view)| {
        let link = core.link(operator.link.clone(), Arc::clone(&view), shutdown.draining().clone(), Some(bound))?;
        link_thread(link, &view, operator, core.states(), &stop)
    });
    link.transpose()?;
    tokio::spawn(reload(shutdown.clone(), core.source));

    let sight = Sight {
        registry: Arc::clone(&registered),
        config: states.clone(),
        shutdown: shutdown.clone(),
        token: Arc::clone(&token),
        listeners: OnceLock::new(),
        operator: view,
    };
    let _ = sight.listeners.set(addresses.clone());
    let http = http_thread(&options.http, sight, front_door, stop.clone())?;

    let accepting = CancellationToken::new();
    let crew = Crew { registered: Arc::clone(&registered), token, door, stop: accepting.clone() };
    crew.serve(&sockets, 0)?;
    let others = (1..workers).map(|number| crew.thread(&sockets, number, &stop)).collect::<io::Result<Vec<_>>>()?;
    tracing::info!(listeners = ?addresses, http = %options.http, "ready for clients");

    shutdown.draining().cancelled().await;
    let grace = states.borrow().snapshot.shutdown_grace;
    match options.operator {
        Some(_) => leave(&registered, &shutdown, &accepting).await,
        None => drain(&registered, &shutdown, grace, &accepting).await,
    }
    stop.cancel();
    // Their work is done; a thread that hangs must not keep the process.
    drop(others);
    let _ = tokio::time::timeout(HTTP_ENDS, tokio::task::spawn_blocking(move || http.join())).await;
    tracing::info!("ended");
    Ok(())
}

/// What all workers share.
struct Crew {
    registered: Arc<Registered>,
    token: Arc<Token>,
    door: Arc<Door>,
    stop: CancellationToken,
}

impl Crew {
    /// Accepts and serves clients on this thread's runtime.
    fn serve(&self, sockets: &Sockets, number: usize) -> io::Result<()> {
        let worker =
            Arc::new(Worker { number, registered: Arc::clone(&self.registered), token: Arc::clone(&self.token) });
        let desk =
            Arc::new(Desk { registered: Arc::clone(&self.registered), token: Arc::clone(&self.token), worker: number });
        for listener in sockets.listeners()? {
            let worker = Arc::clone(&worker);
            let serve = move |database, login| proxy::serve(Arc::clone(&worker), database, login);
            tokio::spawn(accept(listener, Arc::clone(&self.door), Arc::clone(&desk), self.stop.clone(), serve));
        }
        Ok(())
    }

    /// Another worker, on a thread of its own.
    fn thread(
        &self,
        sockets: &Sockets,
        number: usize,
        stop: &CancellationToken,
    ) -> io::Result<std::thread::JoinHandle<()>> {
        let runtime = runtime()?;
        {
            let _inside = runtime.enter();
            self.serve(sockets, number)?;
        }
        let stop = stop.clone();
        std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || runtime.block_on(stop.cancelled()))
    }
}

/// Puts to work what was kept of an earlier run, or what the pod was made with.
fn recall(operator: &Operator, source: &Source) -> Arc<View> {
    let memory = keep::restore(operator.state_dir.as_deref(), operator.stamped.as_deref(), &source.teller());
    Arc::new(View::new(&operator.link.url, memory))
}

/// Starts the thread that talks to the operator: what it reads and writes never stands in a query's way.
fn link_thread(
    link: Link,
    view: &View,
    operator: &Operator,
    states: watch::Receiver<State>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let runtime = runtime()?;
    let keeper = operator.state_dir.clone().map(|directory| keep::run(directory, states, view.memory(), stop.clone()));
    let stop = stop.clone();
    std::thread::Builder::new().name("operator".into()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(link.run(stop), futures_util::future::OptionFuture::from(keeper));
        });
    })?;
    Ok(())
}

/// Binds what the configuration names. A directory for unix sockets that can't be had is no reason not to serve, if
/// nobody asked for it, or `lenient`.
fn bind(bound: &Bound, lenient: bool) -> Result<(Sockets, Vec<String>, FrontDoor), RunError> {
    let Bound { listen, socket_only } = bound;
    let socket_only = *socket_only;
    let mut sockets = Sockets::new();
    let (mut addresses, mut door) = (Vec::new(), None);
    if listen.port != 0 && !socket_only {
        let address = SocketAddr::new(listen.address, listen.port);
        sockets.bind_tcp(address)?;
        addresses.push(address.to_string());
        door = Some(FrontDoor::Tcp(address));
    }
    if let Some(directory) = &listen.socket {
        match sockets.bind_unix(directory) {
            Ok(()) => {
                addresses.push(directory.display().to_string());
                door = Some(FrontDoor::Unix(directory.clone(), 6432));
            }
            Err(error) if (listen.socket_is_default || lenient) && door.is_some() => {
                tracing::warn!(%error, "no unix socket; name a directory that can be written in listen.socket");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let nobody = if socket_only { "with --socket-only" } else { "listen.port is 0" };
    let nobody = || io::Error::other(format!("{nobody} and listen.socket is empty: nobody could connect"));
    let door = door.ok_or_else(nobody)?;
    Ok((sockets, addresses, door))
}

/// Starts the thread of HTTP and the health probe.
fn http_thread(
    address: &HttpAddress,
    sight: Sight,
    door: FrontDoor,
    stop: CancellationToken,
) -> Result<std::thread::JoinHandle<()>, RunError> {
    let listener = http::bind(address).map_err(|error| RunError::Http(address.clone(), error))?;
    let (registered, token) = (Arc::clone(&sight.registry), Arc::clone(&sight.token));
    let state = Arc::new(HttpState { sight, runtime: Handle::current() });
    let probing = stop.clone();
    let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
        let prober = runtime().map(|runtime| {
            std::thread::Builder::new()
                .name("probe".into())
                .spawn(move || runtime.block_on(probe::run(registered, door, token, probing)))
        });
        if let Err(error) | Ok(Err(error)) = prober {
            tracing::error!(%error, "no health probe");
        }
        if let Err(error) = http::serve(listener, state, stop) {
            tracing::error!(%error, "HTTP has ended");
        }
    })?;
    Ok(thread)
}

/// Keeps the door's rules as the newest configuration has them.
async fn keep_rules(door: Arc<Door>, mut states: watch::Receiver<State>) {
    while states.changed().await.is_ok() {
        let snapshot = Arc::clone(&states.borrow_and_update().snapshot);
        if let Err(error) = raise_files(&snapshot) {
            tracing::warn!("{error}");
        }
        match front::rules(&snapshot) {
            Ok(rules) => door.set_rules(rules),
            Err(error) => tracing::error!(%error, "the certificate for clients can't be used; the last good one stays"),
        }
    }
}

/// Ends clients that were idle for longer than `listen.idleTimeout`.
async fn send_idle_away(registered: Arc<Registered>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let limits = registered.all();
        let limit = |database: &str| {
            let database = limits.iter().find(|known| known.alias == database)?;
            database.settings().policy.listen.idle_timeout
        };
        if !limits.iter().any(|database| limit(&database.alias).is_some()) {
            continue;
        }
        let now = Instant::now();
        for client in registered.clients.all() {
            let limit = limit(&client.database);
            if client.idle_for(now).zip(limit).is_some_and(|(idle, limit)| idle > limit) {
                client.signal(signal::IDLE);
            }
        }
    }
}

/// SIGHUP reads everything anew. Owns the source: it lives as long as the process.
async fn reload(shutdown: Shutdown, source: Source) {
    loop {
        shutdown.reload_asked().await;
        source.reload();
    }
}

/// Raises the limit of open files to what the configuration may need.
fn raise_files(snapshot: &Snapshot) -> Result<(), RunError> {
    let servers = snapshot.policies.iter().filter_map(|policy| policy.resolved.pool.limit());
    let needed = OTHER_FILES + u64::from(snapshot.listen.max_clients) + servers.map(u64::from).sum::<u64>();
    let (soft, hard) = rlimit::Resource::NOFILE.get()?;
    if soft < needed {
        if hard < needed {
            return Err(RunError::Files { needed, limit: hard });
        }
        rlimit::Resource::NOFILE.set(needed, hard)?;
    }
    Ok(())
}
