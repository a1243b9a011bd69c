//! The sidecar's HTTP: / (for people) /livez /readyz /startupz /status /metrics /api/health. It only tells; nothing can be changed here,
//! and nothing it says is secret.
//!
//! It runs on a thread of its own: a scrape costs the query path nothing but cache lines.

use std::any::Any;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Extensions;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ContentType};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio_util::sync::CancellationToken;

use super::gather::Sight;
use super::listen::sockets;
use super::metrics;
use super::options::HttpAddress;
use super::status::Status;

mod health;
mod page;

/// A request's head must be complete within this time.
const HEAD: Duration = Duration::from_secs(5);
/// A connection without a request is closed after this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A peer that takes nothing of a response for this long is dropped.
const STALLED: Duration = Duration::from_secs(10);
/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 256;
/// The workers' loop must turn within this time to be alive.
const ALIVE: Duration = Duration::from_secs(10);

/// What the handlers need.
#[derive(Debug)]
pub struct HttpState {
    /// What to tell.
    pub sight: Sight,
    /// The runtime that serves clients: `/livez` asks it for a sign of life.
    pub runtime: tokio::runtime::Handle,
}

/// A socket of the HTTP endpoints.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and its file, which is removed with it.
    Unix(UnixListener, sockets::File),
}

/// Binds the endpoints' address. `[::]` is every address that the machine has, of IPv4 alone where it has no IPv6.
///
/// # Errors
/// When the address can't be had.
pub fn bind(address: &HttpAddress) -> io::Result<Listener> {
    let address = match address {
        HttpAddress::Tcp(address) => *address,
        HttpAddress::Unix(path) => return sockets::bind_file(path).map(|(socket, file)| Listener::Unix(socket, file)),
    };
    let bound = TcpListener::bind(address).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ if address.ip() == Ipv6Addr::UNSPECIFIED => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())),
        _ => Err(error),
    });
    bound.and_then(|listener| listener.set_nonblocking(true).map(|()| Listener::Tcp(listener)))
}

/// Serves until told to stop; blocks, and is meant for a thread of its own.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(listener: Listener, state: Arc<HttpState>, stop: CancellationToken) -> io::Result<()> {
    actix_web::rt::System::new().block_on(async move {
        let data = web::Data::from(state);
        let server = HttpServer::new(move || {
            let headers =
                DefaultHeaders::new().add((CACHE_CONTROL, "no-store")).add(("X-Content-Type-Options", "nosniff"));
            App::new().app_data(data.clone()).wrap(headers).configure(routes)
        })
        .workers(1)
        .disable_signals()
        .client_request_timeout(HEAD)
        .client_disconnect_timeout(Duration::from_secs(1))
        .keep_alive(KEEP_ALIVE)
        .max_connections(CONNECTIONS)
        .on_connect(bound_stalls);
        let mut file = None;
        let server = match listener {
            Listener::Tcp(listener) => server.listen(listener)?,
            Listener::Unix(listener, made) => {
                file = Some(made);
                server.listen_uds(listener)?
            }
        };
        let server = server.run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            stop.cancelled().await;
            handle.stop(false).await;
        });
        let ended = server.await;
        drop(file);
        ended
    })
}

/// Lets the kernel drop a connection whose peer acknowledges nothing or keeps its window closed.
fn bound_stalls(connection: &dyn Any, _: &mut Extensions) {
    let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(STALLED)) {
        tracing::debug!(%error, "an HTTP connection without TCP_USER_TIMEOUT");
    }
}

fn routes(config: &mut web::ServiceConfig) {
    // GET and HEAD; other methods of these paths get 405, other paths 404.
    macro_rules! route {
        ($path:literal, $handler:path) => {
            config.service(web::resource($path).route(web::get().to($handler)).route(web::head().to($handler)));
        };
    }
    route!("/", page::show);
    route!("/livez", livez);
    route!("/readyz", readyz);
    route!("/startupz", startupz);
    route!("/status", status);
    route!("/metrics", scrape);
    route!("/api/health", health::health);
}

type Data = web::Data<HttpState>;

fn line(good: bool, text: &str) -> HttpResponse {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(code).insert_header(ContentType::plaintext()).body(format!("{text}\n"))
}

/// 200 as long as the loop that serves clients turns.
async fn livez(state: Data) -> HttpResponse {
    let sign = tokio::time::timeout(ALIVE, state.runtime.spawn(async {})).await;
    match sign {
        Ok(Ok(())) => line(true, "alive"),
        Ok(Err(_)) => line(false, "the workers have ended"),
        Err(_) => line(false, &format!("the workers gave no sign of life for {} s", ALIVE.as_secs())),
    }
}

/// 200 if the policy's rule of readiness is met, else 503 and why.
async fn readyz(state: Data) -> HttpResponse {
    let status = state.sight.pools();
    match &status.reason {
        None => line(true, &ready(&status)),
        Some(reason) => line(false, &crate::telemetry::escape(reason)),
    }
}

/// What a sidecar that is ready says: also which policies are gone.
fn ready(status: &Status) -> String {
    let orphans = status.pools.iter().filter(|pool| pool.orphaned);
    let orphans: Vec<_> = orphans.map(|pool| format!("{}/{}", pool.namespace, pool.policy)).collect();
    match &*orphans {
        [] => "ready".into(),
        orphans => format!("ready, but gone and served on: {}", crate::telemetry::escape(&orphans.join(", "))),
    }
}

/// 200 once the listeners are bound, whatever the configuration or the database.
async fn startupz(state: Data) -> HttpResponse {
    match state.sight.listeners.get() {
        Some(_) => line(true, "started"),
        None => line(false, "the listeners are not bound yet"),
    }
}

/// Everything, as JSON.
async fn status(state: Data) -> HttpResponse {
    HttpResponse::Ok().json(state.sight.status())
}

/// Everything that is a number, as OpenMetrics.
async fn scrape(state: Data) -> HttpResponse {
    match metrics::render(state.sight.pools()) {
        Ok(text) => HttpResponse::Ok().insert_header((CONTENT_TYPE, metrics::CONTENT_TYPE)).body(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            HttpResponse::InternalServerError().finish()
        }
    }
}

#[cfg(test)]
mod tests;
