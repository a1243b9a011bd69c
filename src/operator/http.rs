//! The operator's own HTTP: / (for people) /livez /readyz /metrics.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, ContentType};
use actix_web::middleware::DefaultHeaders;
use actix_web::{App, HttpResponse, HttpServer, web};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::overview::Overview;
use super::page::{self, About};
use super::state::State;

/// The media type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The operator's runtime must answer within this time to be alive.
const ALIVE: Duration = Duration::from_secs(10);

/// What readiness waits for, each with what it is called.
pub type Waits = Vec<(&'static str, watch::Receiver<bool>)>;

/// What the handlers need.
pub struct HttpState {
    /// The replica's name.
    pub identity: String,
    /// What is counted.
    pub state: Arc<State>,
    /// What readiness waits for.
    pub waits: Waits,
    /// The runtime that does the work: `/livez` asks it for a sign of life.
    pub runtime: tokio::runtime::Handle,
}

impl HttpState {
    /// What readiness still waits for.
    fn missing(&self) -> Vec<&'static str> {
        self.waits.iter().filter(|(_, done)| !*done.borrow()).map(|(what, _)| *what).collect()
    }
}

/// Serves until told to stop; blocks, and is meant for a thread of its own.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(listener: TcpListener, state: HttpState, stop: CancellationToken) -> std::io::Result<()> {
    actix_web::rt::System::new().block_on(async move {
        let data = web::Data::new(state);
        let server = HttpServer::new(move || {
            let headers =
                DefaultHeaders::new().add((CACHE_CONTROL, "no-store")).add(("X-Content-Type-Options", "nosniff"));
            App::new().app_data(data.clone()).wrap(headers).configure(routes)
        })
        .workers(1)
        .disable_signals()
        .client_request_timeout(Duration::from_secs(5))
        .max_connections(256)
        .listen(listener)?
        .run();
        let handle = server.handle();
        actix_web::rt::spawn(async move {
            stop.cancelled().await;
            handle.stop(false).await;
        });
        server.await
    })
}

fn routes(config: &mut web::ServiceConfig) {
    config.service(web::resource("/").route(web::get().to(people)).route(web::head().to(people)));
    config.service(web::resource("/livez").route(web::get().to(livez)).route(web::head().to(livez)));
    config.service(web::resource("/readyz").route(web::get().to(readyz)).route(web::head().to(readyz)));
    config.service(web::resource("/metrics").route(web::get().to(metrics)));
}

fn line(good: bool, text: &str) -> HttpResponse {
    let code = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(code).insert_header(ContentType::plaintext()).body(format!("{text}\n"))
}

async fn livez(state: web::Data<HttpState>) -> HttpResponse {
    match tokio::time::timeout(ALIVE, state.runtime.spawn(async {})).await {
        Ok(Ok(())) => line(true, "alive"),
        _ => line(false, "the operator's tasks gave no sign of life"),
    }
}

/// The operator for people.
async fn people(state: web::Data<HttpState>) -> HttpResponse {
    let overview = Overview::of(&state.state);
    let about = About { identity: state.identity.clone(), missing: state.missing() };
    let main = page::main(&about, &overview, SystemTime::now());
    crate::page::respond(&page::title(&overview), &page::top(&about, &overview), &main)
}

/// 200 when every watch has synced and there is a certificate; leading is no condition.
async fn readyz(state: web::Data<HttpState>) -> HttpResponse {
    match state.missing().as_slice() {
        [] => line(true, "ready"),
        missing => line(false, &format!("waiting for {}", missing.join(", "))),
    }
}

async fn metrics(state: web::Data<HttpState>) -> HttpResponse {
    state.state.count();
    match state.state.metrics.render() {
        Ok(text) => HttpResponse::Ok().insert_header((CONTENT_TYPE, OPENMETRICS)).body(text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be rendered");
            HttpResponse::InternalServerError().finish()
        }
    }
}
