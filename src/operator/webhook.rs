//! The admission webhooks over HTTPS: `/mutate` and `/mutate/namespace` give pods their sidecar, `/validate` looks at
//! policies.
//!
//! Every replica answers, leader or not, from what its watches know: no request asks the API server anything.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::ContentType;
use actix_web::{App, HttpResponse, HttpServer, web};
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use self::review::Asks;
pub use self::review::Facts;

mod review;

/// A request's head must be complete within this time, and its body within the same again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest body: the API server takes objects of up to 3 MiB, and an update brings two.
const LONGEST: usize = 8 << 20;
/// The API server keeps its connections for the next review.
const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// Connections at once; further ones wait in the listener's backlog.
const CONNECTIONS: usize = 512;
/// Requests under way have this long at the end, in seconds.
const DRAIN: u64 = 5;
/// What a watch has not brought yet may make the difference between yes and no: a policy may have been applied a moment
/// before its pod.
const SECOND_LOOKS: u32 = 10;
/// Time between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Answers reviews until told to stop. Certificates are the configuration's affair: a resolver may change them.
///
/// # Errors
/// If the listener can't be used.
pub async fn run(
    listener: TcpListener,
    tls: ServerConfig,
    facts: Arc<dyn Facts>,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let data = web::Data::from(facts);
    let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(routes))
        .workers(1)
        .disable_signals()
        .client_request_timeout(PATIENCE)
        .client_disconnect_timeout(Duration::from_secs(1))
        .tls_handshake_timeout(PATIENCE)
        .keep_alive(KEEP_ALIVE)
        .max_connections(CONNECTIONS)
        .shutdown_timeout(DRAIN)
        .listen_rustls_0_23(listener, tls)?
        .run();
    let handle = server.handle();
    let ended = tokio::select! {
        ended = server => return ended,
        () = stop.cancelled() => handle.stop(true),
    };
    ended.await;
    Ok(())
}

fn routes(config: &mut web::ServiceConfig) {
    config
        .service(web::resource("/mutate").route(web::post().to(mutate)))
        .service(web::resource("/mutate/namespace").route(web::post().to(mutate_by_namespace)))
        .service(web::resource("/validate").route(web::post().to(validate)));
}

type Data = web::Data<dyn Facts>;

/// A pod that asks for the sidecar itself.
async fn mutate(body: web::Payload, facts: Data) -> HttpResponse {
    give(body, facts, Asks::Pod).await
}

/// A pod of a namespace that asks for all its pods.
async fn mutate_by_namespace(body: web::Payload, facts: Data) -> HttpResponse {
    give(body, facts, Asks::Namespace).await
}

async fn give(body: web::Payload, facts: Data, asks: Asks) -> HttpResponse {
    let request = match read(body).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    let mut response = review::pod(&request, asks, &**facts);
    for _ in 0..SECOND_LOOKS {
        if response.allowed {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        response = review::pod(&request, asks, &**facts);
    }
    answer(&request, response, &**facts)
}

async fn validate(body: web::Payload, facts: Data) -> HttpResponse {
    match read(body).await {
        Ok(request) => answer(&request, review::policy(&request, &**facts), &**facts),
        Err(response) => response,
    }
}

/// The request of a review, or what to answer to something else.
async fn read(body: web::Payload) -> Result<AdmissionRequest<DynamicObject>, HttpResponse> {
    let refuse = |code: StatusCode, why: &str| {
        tracing::warn!(code = code.as_u16(), "a request that is no review: {why}");
        HttpResponse::build(code).insert_header(ContentType::plaintext()).body(format!("{why}\n"))
    };
    let bytes = match tokio::time::timeout(PATIENCE, body.to_bytes_limited(LONGEST)).await {
        Ok(Ok(Ok(bytes))) => bytes,
        Ok(Ok(Err(error))) => return Err(refuse(StatusCode::BAD_REQUEST, &error.to_string())),
        Ok(Err(_)) => return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long")),
        Err(_) => return Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    };
    let review: AdmissionReview<DynamicObject> =
        serde_json::from_slice(&bytes).map_err(|error| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
    review.try_into().map_err(|_| refuse(StatusCode::BAD_REQUEST, "the review holds no request"))
}

fn answer(request: &AdmissionRequest<DynamicObject>, response: AdmissionResponse, facts: &dyn Facts) -> HttpResponse {
    facts.reviewed(request, response.allowed);
    let (namespace, name) = (request.namespace.as_deref().unwrap_or_default(), review::name(request));
    let kind = request.kind.kind.as_str();
    if response.allowed {
        tracing::debug!(kind, namespace, name, changed = response.patch.is_some(), "admitted");
    } else {
        tracing::info!(kind, namespace, name, why = response.result.message, "refused");
    }
    HttpResponse::Ok().json(response.into_review())
}
