#![allow(clippy::unwrap_used)]
//! Servers that are scripts: what they say byte by byte, and what becomes of it.

use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::pg::message;

/// A server that runs `script` for every connection, and what it read of each.
struct Fake {
    port: u16,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server does next.
#[derive(Clone)]
enum Act {
    /// Reads until this many bytes of the connection were read.
    Read(usize),
    Say(Vec<u8>),
    /// Stays, and says nothing.
    Hang,
}

/// `scripts[n]` is for connection n, the last one for all that follow.
async fn fake(scripts: Vec<Vec<Act>>) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&heard);
    let task = tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            log.lock().unwrap().push(Vec::new());
            tokio::spawn(act(stream, scripts[usize::min(n, scripts.len() - 1)].clone(), Arc::clone(&log), n));
        }
    });
    Fake { port, heard, task }
}

async fn act(mut stream: TcpStream, script: Vec<Act>, log: Arc<Mutex<Vec<Vec<u8>>>>, n: usize) {
    for act in script {
        match act {
            Act::Read(bytes) => {
                let mut buf = vec![0; bytes];
                let _ = stream.read_exact(&mut buf).await;
                log.lock().unwrap()[n].extend(buf);
            }
            Act::Say(bytes) => {
                let _ = stream.write_all(&bytes).await;
            }
            Act::Hang => std::future::pending().await,
        }
    }
}

fn target(port: u16) -> Target {
    Target {
        host: "127.0.0.1".into(),
        port,
        tls: Tls::Disable,
        timeout: Duration::from_secs(5),
        keepalive: None,
        bare: true,
    }
}

fn who(password: &str) -> Credentials {
    Credentials { user: "app".into(), password: Secret::new(password) }
}

async fn log_in(target: &Target) -> Result<Session, ConnectError> {
    connect(target, &[who("new"), who("old")], "shop", &StartupSet::default(), &[]).await
}

fn ready() -> Vec<u8> {
    let mut out = Vec::new();
    message::authentication_ok(&mut out);
    message::parameter_status(&mut out, "server_version", "15.1");
    message::parameter_status(&mut out, "TimeZone", "UTC");
    message::parameter_status(&mut out, "TimeZone", "CET");
    message::backend_key_data(&mut out, 42, b"secretkey");
    message::ready_for_query(&mut out, b'I');
    out
}

fn error(code: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let code = SqlState::parse(code).unwrap();
    message::error_response(&mut out, message::Severity::Fatal, &code, text, None, Some("a hint"));
    out
}

/// Length of the StartupMessage of `app` for `shop` without settings.
const STARTUP: usize = 4 + 4 + 5 + 4 + 9 + 5 + 1;

fn answers(bytes: Vec<u8>) -> Vec<Act> {
    vec![Act::Read(STARTUP), Act::Say(bytes)]
}

#[tokio::test]
async fn what_a_server_tells_is_kept() {
    let mut bytes = ready();
    bytes.extend(b"N\0\0\0\x05\0");
    let server = fake(vec![answers(bytes)]).await;
    let session = log_in(&target(server.port)).await.unwrap();
    assert_eq!((session.pid, &*session.key, session.has_key), (42, &b"secretkey"[..], true));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(session.parameters, [pair("server_version", "15.1"), pair("TimeZone", "CET")]);
    assert_eq!(session.leftover, b"N\0\0\0\x05\0");
    assert_eq!((session.credential, session.bare, session.tls), (0, true, None));
}

#[tokio::test]
async fn what_nobody_asked_for_behind_ready_ends_the_login() {
    let notice = b"N\0\0\0\x05\0";
    for (more, fine) in [
        (&b"Z\0\0\0\x05I"[..], false),
        (b"D", false),
        (&[notice, &b"C\0\0\0\x04"[..]].concat(), false),
        (b"N\0\0\0\0", false),
        (&notice.repeat(2), true),
        (&[notice, &b"S\0"[..]].concat(), true),
    ] {
        let server = fake(vec![answers([ready(), more.to_vec()].concat())]).await;
        assert_eq!(log_in(&target(server.port)).await.is_ok(), fine, "{more:?}");
    }
}

#[tokio::test]
async fn one_byte_at_a_time() {
    let mut script = vec![Act::Read(STARTUP)];
    script.extend(ready().into_iter().map(|byte| Act::Say(vec![byte])));
    let server = fake(vec![script]).await;
    assert_eq!(log_in(&target(server.port)).await.unwrap().pid, 42);
}

#[tokio::test]
async fn case_6_a_server_without_key_data() {
    let mut bytes = Vec::new();
    message::authentication_ok(&mut bytes);
    message::ready_for_query(&mut bytes, b'I');
    let server = fake(vec![answers(bytes)]).await;
    let session = log_in(&target(server.port)).await.unwrap();
    assert_eq!((session.pid, &*session.key, session.has_key), (0, &b""[..], false));
}

#[tokio::test]
async fn case_7_keys_of_every_length() {
    for length in [0, 1, 4, 32, 256] {
        let mut bytes = Vec::new();
        message::authentication_ok(&mut bytes);
        message::backend_key_data(&mut bytes, 1, &vec![7; length]);
        message::ready_for_query(&mut bytes, b'I');
        let server = fake(vec![answers(bytes)]).await;
        assert_eq!(log_in(&target(server.port)).await.unwrap().key, vec![7; length]);
    }
}

#[tokio::test]
async fn notices_and_negotiation_are_tolerated() {
    let mut bytes = Vec::new();
    message::negotiate_protocol_version(&mut bytes, 0, &["_pq_.x".into()]);
    message::frame(&mut bytes, b'N', |out| out.extend(b"Mhello\0\0"));
    let rest = ready();
    let (ok, rest) = rest.split_at(9);
    bytes.extend(ok);
    message::frame(&mut bytes, b'N', |out| out.extend(b"Mhello\0\0"));
    bytes.extend(rest);
    let server = fake(vec![answers(bytes)]).await;
    assert_eq!(log_in(&target(server.port)).await.unwrap().pid, 42);
}

#[tokio::test]
async fn case_75_the_servers_refusal_is_passed_on() {
    let server = fake(vec![answers(error("53300", "too many clients"))]).await;
    let refused = log_in(&target(server.port)).await.unwrap_err();
    assert_eq!((refused.phase, refused.sqlstate), (Phase::Auth, Some(SqlState::TOO_MANY_CONNECTIONS)));
    assert_eq!(refused.to_string(), "the server refused the login: too many clients (53300)");
    let words = refused.server.unwrap();
    assert_eq!((&*words.severity, &*words.message, &*words.hint), ("FATAL", "too many clients", "a hint"));
}

#[tokio::test]
async fn the_other_password_is_tried_once() {
    let wrong = || answers(error("28P01", "wrong password"));
    let server = fake(vec![wrong(), answers(ready())]).await;
    assert_eq!(log_in(&target(server.port)).await.unwrap().credential, 1);
    let server = fake(vec![wrong(), answers(error("28P01", "still wrong"))]).await;
    let refused = log_in(&target(server.port)).await.unwrap_err();
    assert_eq!(refused.server.unwrap().message, "wrong password", "the first refusal counts");
    assert_eq!(server.heard.lock().unwrap().len(), 2);
    let server = fake(vec![wrong()]).await;
    let one = connect(&target(server.port), &[who("x")], "shop", &StartupSet::default(), &[]).await;
    assert_eq!(one.unwrap_err().sqlstate, Some(SqlState::INVALID_PASSWORD));
    assert_eq!(server.heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn settings_that_a_server_refuses_are_left_out_once() {
    let refuses = || vec![Act::Read(STARTUP), Act::Say(error("42704", "unrecognized configuration parameter"))];
    let server = fake(vec![refuses(), answers(ready())]).await;
    let mut target = target(server.port);
    target.bare = false;
    assert!(log_in(&target).await.unwrap().bare);
    let lengths: Vec<bool> =
        server.heard.lock().unwrap().iter().map(|heard| heard[..4] == (STARTUP as u32).to_be_bytes()).collect();
    assert_eq!(lengths, [false, true], "the second StartupMessage has no settings");
    // It was not about ours: once is enough.
    let server = fake(vec![refuses()]).await;
    target.port = server.port;
    assert_eq!(log_in(&target).await.unwrap_err().sqlstate, Some(SqlState::UNDEFINED_OBJECT));
    assert_eq!(server.heard.lock().unwrap().len(), 2);
    // Known to refuse them: not even tried.
    let server = fake(vec![refuses()]).await;
    (target.port, target.bare) = (server.port, true);
    assert!(log_in(&target).await.is_err());
    assert_eq!(server.heard.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_failed_login_waits_for_the_servers_end() {
    // Else its backend would still hold a slot when the next one is opened.
    let (closed, mut is_closed) = tokio::sync::oneshot::channel::<()>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; STARTUP]).await.unwrap();
        stream.write_all(&error("53300", "full")).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "we say that we are done");
        tokio::time::sleep(Duration::from_millis(100)).await;
        closed.send(()).unwrap();
    });
    assert!(log_in(&target(port)).await.is_err());
    assert!(is_closed.try_recv().is_ok());
    server.await.unwrap();
}

/// The reason why a server that answers so is refused.
async fn refused(bytes: Vec<u8>) -> ConnectError {
    let server = fake(vec![answers(bytes)]).await;
    tokio::time::timeout(Duration::from_secs(4), log_in(&target(server.port))).await.unwrap().unwrap_err()
}

#[tokio::test]
async fn case_63_hostile_servers() {
    let ok = || {
        let mut out = Vec::new();
        message::authentication_ok(&mut out);
        out
    };
    let with = |rest: &[u8]| [&ok()[..], rest].concat();
    for (bytes, words) in [
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "it said \"HTTP/1.1 400 Bad"),
        (b"Ecould not fork new process\n\0".to_vec(), "could not fork"),
        (b"".to_vec(), "it closed the connection"),
        (b"R\0\0\0".to_vec(), "it closed the connection"),
        (b"R\0\0\0\x06\0\0".to_vec(), "out of order"),
        (b"R\0\0\0\x08\0\0\0\x03".to_vec(), "inside TLS only"),
        (b"R\0\0\0\x08\0\0\0\x07".to_vec(), "authentication method 7"),
        (b"R\x7f\xff\xff\xff\0\0\0\0".to_vec(), "no PostgreSQL server"),
        (b"R\0\x01\0\x05\0\0\0\0".to_vec(), "no PostgreSQL server"),
        (b"S\0\0\0\x08a\0b\0".to_vec(), "unexpected or malformed message 'S'"),
        (b"\xff\0\0\0\x04".to_vec(), "message '\\xff'"),
        (b"E\0\0\0\x04".to_vec(), "without a reason"),
        (b"E\0\0\0\x0dMno code\0".to_vec(), "no code"),
        (with(b"Z\0\0\0\x05T"), "message 'Z'"),
        (with(b"Z\0\0\0\x04"), "message 'Z'"),
        (with(b"K\0\0\0\x05x"), "message 'K'"),
        (with(b"D\0\0\0\x04"), "message 'D'"),
        (with(b"E\0\0\0\x0b M\0\0\0\0\0"), "without a reason"),
    ] {
        let error = refused(bytes.clone()).await;
        assert!(error.message.contains(words), "{bytes:?}: {error}");
        assert_eq!(error.sqlstate, None);
    }
}

#[tokio::test]
async fn case_63_a_server_that_never_stops_talking() {
    let mut endless = Vec::new();
    message::authentication_ok(&mut endless);
    for n in 0..40 {
        message::parameter_status(&mut endless, &n.to_string(), &"x".repeat(60_000));
    }
    assert!(refused(endless).await.message.contains("more than 1048576 bytes"));
}

#[tokio::test]
async fn an_error_of_a_megabyte_is_shortened() {
    let long = refused(error("57P03", &"ä".repeat(20_000))).await;
    let kept = long.server.unwrap().message;
    assert!(kept.len() <= ServerError::LONGEST && kept.len() >= ServerError::LONGEST - 3);
}

#[tokio::test]
async fn a_report_that_is_no_text_is_left_out() {
    let mut bytes = Vec::new();
    message::authentication_ok(&mut bytes);
    message::frame(&mut bytes, b'S', |out| out.extend(b"a\0\xff\0"));
    message::ready_for_query(&mut bytes, b'I');
    let server = fake(vec![answers(bytes)]).await;
    assert!(log_in(&target(server.port)).await.unwrap().parameters.is_empty());
}

#[tokio::test]
async fn time_ends_everywhere() {
    let silent = fake(vec![vec![Act::Hang]]).await;
    let mut target = target(silent.port);
    target.timeout = Duration::from_millis(50);
    let error = log_in(&target).await.unwrap_err();
    assert_eq!(error.phase, Phase::Timeout);
    assert!(error.message.ends_with("within 50ms: the time ended while authenticating"), "{error}");
    target.tls = crate::tls::to_server(crate::api::v1alpha1::TlsMode::Prefer, None).unwrap();
    assert!(log_in(&target).await.unwrap_err().message.contains("while agreeing on TLS"));
    let mut bytes = Vec::new();
    message::authentication_ok(&mut bytes);
    let stops = fake(vec![vec![Act::Read(STARTUP), Act::Say(bytes), Act::Hang]]).await;
    (target.port, target.tls) = (stops.port, Tls::Disable);
    assert!(log_in(&target).await.unwrap_err().message.contains("waiting until it is ready"));
}

#[tokio::test]
async fn nobody_there() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut target = target(free);
    let error = log_in(&target).await.unwrap_err();
    assert_eq!(error.phase, Phase::Tcp);
    assert!(error.message.contains("refused"), "{error}");
    target.host = "does-not-exist.invalid".into();
    assert_eq!(log_in(&target).await.unwrap_err().phase, Phase::Dns);
    target.host = "/nonexistent".into();
    let error = log_in(&target).await.unwrap_err();
    assert_eq!(error.phase, Phase::Tcp);
    assert!(error.message.contains(&format!("/nonexistent/.s.PGSQL.{free}")), "{error}");
    let none = connect(&target, &[], "shop", &StartupSet::default(), &[]).await;
    assert_eq!(none.unwrap_err().phase, Phase::Auth);
}

#[tokio::test]
async fn case_58_what_may_answer_the_request_for_tls() {
    let mut target = target(0);
    for (answer, words) in [
        (&b"Sx"[..], "CVE-2021-23222"),
        (b"E", "with an error"),
        (b"H", "not PostgreSQL's"),
        (b"Nx", "not PostgreSQL's"),
        (b"", "closed the connection"),
    ] {
        for mode in [crate::api::v1alpha1::TlsMode::Prefer, crate::api::v1alpha1::TlsMode::Require] {
            let server = fake(vec![vec![Act::Read(8), Act::Say(answer.to_vec())]]).await;
            (target.port, target.tls) = (server.port, crate::tls::to_server(mode, None).unwrap());
            let error = log_in(&target).await.unwrap_err();
            assert!(error.phase == Phase::Tls && error.message.contains(words), "{answer:?}: {error}");
        }
    }
}

#[tokio::test]
async fn a_server_without_tls() {
    let no = || vec![Act::Read(8), Act::Say(b"N".to_vec()), Act::Read(STARTUP), Act::Say(ready())];
    let server = fake(vec![no()]).await;
    let mut target = target(server.port);
    target.tls = crate::tls::to_server(crate::api::v1alpha1::TlsMode::Prefer, None).unwrap();
    assert!(!log_in(&target).await.unwrap().stream.is_tls());
    target.tls = crate::tls::to_server(crate::api::v1alpha1::TlsMode::Require, None).unwrap();
    let error = log_in(&target).await.unwrap_err();
    assert_eq!((error.phase, error.message.ends_with("the server does not support it")), (Phase::Tls, true));
    assert_eq!(server.heard.lock().unwrap()[1].len(), 8, "nothing else was said");
}

#[tokio::test]
async fn a_cancel_ends_when_the_server_closes() {
    let hangs = vec![Act::Read(14), Act::Say(b"what".to_vec()), Act::Hang];
    let server = fake(vec![vec![Act::Read(14)], hangs]).await;
    let addr = Addr::Tcp { socket: ([127, 0, 0, 1], server.port).into(), tls: None };
    cancel(&addr, 7, b"12", Duration::from_secs(5)).await.unwrap();
    assert_eq!(server.heard.lock().unwrap()[0], b"\0\0\0\x0e\x04\xd2\x16\x2e\0\0\0\x0712");
    let late = cancel(&addr, 7, b"12", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    assert!(cancel(&Addr::Unix("/nonexistent".into()), 7, b"12", Duration::from_secs(5)).await.is_err());
}
