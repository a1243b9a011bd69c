#![allow(clippy::unwrap_used)]
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::OnceLock;

use actix_web::http::Method;
use actix_web::test as http;
use serde_json::{Value, json};

use super::*;
use crate::sidecar::gather::tests::{Fixture, policy};

fn state(fixture: Fixture) -> Arc<HttpState> {
    Arc::new(HttpState { sight: fixture.sight, runtime: tokio::runtime::Handle::current() })
}

async fn ask(state: &Arc<HttpState>, method: Method, path: &str) -> (u16, String, actix_web::http::header::HeaderMap) {
    let app = http::init_service(App::new().app_data(web::Data::from(Arc::clone(state))).configure(routes)).await;
    let response = http::call_service(&app, http::TestRequest::with_uri(path).method(method).to_request()).await;
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    (code, String::from_utf8(http::read_body(response).await.to_vec()).unwrap(), headers)
}

async fn get(state: &Arc<HttpState>, path: &str) -> (u16, String) {
    let (code, body, _) = ask(state, Method::GET, path).await;
    (code, body)
}

#[actix_web::test]
async fn probes_say_what_they_wait_for() {
    let mut fixture = Fixture::new(&[policy("orders", "Database")]);
    fixture.sight.listeners = OnceLock::new();
    let state = state(fixture);
    let not_bound = (503, "the listeners are not bound yet\n".to_owned());
    assert_eq!(get(&state, "/livez").await, (200, "alive\n".into()));
    assert_eq!(get(&state, "/startupz").await, not_bound);
    assert_eq!(get(&state, "/readyz").await, not_bound);
    state.sight.listeners.set(vec!["127.0.0.1:6432".into()]).unwrap();
    assert_eq!(get(&state, "/startupz").await, (200, "started\n".into()));
    assert_eq!(get(&state, "/readyz").await, (503, "database orders: not checked yet\n".into()));
    state.sight.registry.get("orders").unwrap().health.prove();
    assert_eq!(get(&state, "/readyz").await, (200, "ready\n".into()));
    state.sight.shutdown.stop();
    assert_eq!(get(&state, "/readyz").await, (503, "draining: the sidecar was asked to end\n".into()));
    assert_eq!(get(&state, "/livez").await.0, 200, "a drain is no reason to be killed");
}

#[actix_web::test]
async fn readiness_by_config_does_not_ask_the_database() {
    let state = state(Fixture::new(&[policy("orders", "Config")]));
    assert_eq!(get(&state, "/readyz").await, (200, "ready\n".into()));
}

#[actix_web::test]
async fn every_policy_must_be_applied() {
    let fixture = Fixture::new(&[policy("orders", "Config")]);
    fixture.announce(&[policy("orders", "Config"), policy("audit", "Config")]);
    let state = state(fixture);
    assert_eq!(get(&state, "/readyz").await, (503, "database audit: its policy is not applied yet\n".into()));
}

#[actix_web::test]
async fn api_health_sums_or_shows_one() {
    let state = state(Fixture::new(&[policy("orders", "Config"), policy("audit", "Config")]));
    for alias in ["orders", "audit"] {
        state.sight.registry.get(alias).unwrap().health.prove();
    }
    let (code, body) = get(&state, "/api/health").await;
    let all: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &all["status"], &all["service"]), (200, &json!("healthy"), &json!("audit,orders")));
    assert_eq!(all["checks"]["database_pool"]["size"], 40);
    let (_, body) = get(&state, "/api/health?database=orders").await;
    let one: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&one["service"], &one["checks"]["database_pool"]["overflow"]), (&json!("orders"), &json!(-20)));
    let (code, body) = get(&state, "/api/health?database=no%0Asuch").await;
    assert_eq!(code, 404);
    assert_eq!(body.lines().count(), 1, "{body:?}");
}

#[actix_web::test]
async fn status_and_metrics_hold_no_secret() {
    let state = state(Fixture::new(&[policy("orders", "Config")]));
    for path in ["/", "/status", "/metrics"] {
        let (code, body, headers) = ask(&state, Method::GET, path).await;
        assert_eq!(code, 200);
        assert!(body.contains("orders"));
        assert!(!body.contains(crate::sidecar::gather::tests::PASSWORD), "{path}");
        let kind = headers.get(CONTENT_TYPE).unwrap().to_str().unwrap();
        let expected = match path {
            "/" => "text/html; charset=utf-8",
            "/status" => "application/json",
            _ => metrics::CONTENT_TYPE,
        };
        assert_eq!(kind, expected);
    }
    let (_, body) = get(&state, "/metrics").await;
    assert!(body.ends_with("# EOF\n"));
}

#[actix_web::test]
async fn only_get_and_head_of_known_paths() {
    let state = state(Fixture::new(&[policy("orders", "Config")]));
    for path in ["/", "/livez", "/readyz", "/startupz", "/status", "/metrics", "/api/health"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE] {
            assert_eq!(ask(&state, method.clone(), path).await.0, 405, "{method} {path}");
        }
        assert_eq!(ask(&state, Method::HEAD, path).await.0, 200, "HEAD {path}");
    }
    for path in ["/index.html", "/metrics/", "/status/../etc/passwd", "/api"] {
        assert_eq!(get(&state, path).await.0, 404, "{path}");
    }
}

#[test]
fn every_address_of_the_machine_can_be_had() {
    let listener = bind(&"[::]:0".parse().unwrap()).unwrap();
    let Listener::Tcp(tcp) = &listener else { panic!("{listener:?}") };
    let port = tcp.local_addr().unwrap().port();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    let error = bind(&format!("[::]:{port}").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "not half of them");
}

/// Over a real socket: the server answers, HEAD has no body, an incomplete request is ended, and it stops.
#[test]
fn serves_and_stops() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let listener = bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let Listener::Tcp(tcp) = &listener else { panic!("{listener:?}") };
    let address = tcp.local_addr().unwrap();
    let stop = CancellationToken::new();
    let sight = Fixture::new(&[policy("orders", "Config")]).sight;
    let state = Arc::new(HttpState { sight, runtime: runtime.handle().clone() });
    let worker = std::thread::spawn({
        let stop = stop.clone();
        move || runtime.block_on(stop.cancelled())
    });
    let server = std::thread::spawn({
        let stop = stop.clone();
        move || serve(listener, state, stop)
    });
    let exchange = |request: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HEAD * 3)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = exchange("GET /livez HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nalive\n"), "{answer}");
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    let answer = exchange("HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\n") && answer.contains("content-length: 6"), "{answer}");
    let begun = std::time::Instant::now();
    let answer = exchange("GET /livez HTTP/1.1\r\nHos");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(begun.elapsed() >= HEAD - Duration::from_millis(100), "ended by its limit");
    stop.cancel();
    server.join().unwrap().unwrap();
    worker.join().unwrap();
    assert!(TcpStream::connect(address).is_err());
}
