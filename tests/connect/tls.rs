//! TLS with a real server: the modes of libpq's `sslmode`, and channel binding against somebody in between.

use std::sync::Arc;
use std::time::Duration;

use poolkeeper::api::v1alpha1::TlsMode;
use poolkeeper::pg::auth::answer::AuthError;
use poolkeeper::pg::connect::{Phase, Target, Tls, cancel};
use poolkeeper::pg::startup::ssl_request;
use poolkeeper::tls::acceptor::Acceptor;
use poolkeeper::tls::to_server;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::support::certs::Certs;
use crate::support::{Options, Postgres};
use crate::{app, ask, log_in, run, tcp, who};

fn read(certs: &Certs, name: &str) -> Vec<u8> {
    std::fs::read(certs.path(name)).unwrap()
}

fn server(certs: &Certs) -> Postgres {
    let hba = vec!["hostssl all clear all password".into(), "hostnossl all clear all reject".into()];
    let server = Postgres::start(&Options { tls: certs.for_postgres(), hba, ..Options::default() });
    server.admin("postgres").query("CREATE ROLE clear LOGIN PASSWORD 'clear-secret'").unwrap();
    server
}

fn target(server: &Postgres, host: &str, mode: TlsMode, ca: Option<&[u8]>) -> Target {
    Target { host: host.into(), tls: to_server(mode, ca).unwrap(), ..tcp(server) }
}

#[test]
fn every_mode() {
    let (certs, others) = (Certs::new(), Certs::new());
    certs.issue(&["localhost"]);
    let server = server(&certs);
    let (ours, theirs) = (read(&certs, "ca.crt"), read(&others, "ca.crt"));
    let (ours, theirs) = (Some(&*ours), Some(&*theirs));
    run(async {
        use TlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
        for (host, mode, ca, good) in [
            ("localhost", VerifyFull, ours, true),
            ("127.0.0.1", VerifyFull, ours, false),
            ("localhost", VerifyFull, theirs, false),
            ("127.0.0.1", VerifyCa, ours, true),
            ("localhost", VerifyCa, theirs, false),
            ("127.0.0.1", Require, theirs, true),
            ("127.0.0.1", Prefer, None, true),
            ("127.0.0.1", Disable, None, true),
        ] {
            let result = log_in(&target(&server, host, mode, ca), &app()).await;
            assert_eq!(result.is_ok(), good, "{host} {mode:?} {result:?}");
            match result {
                Ok(mut session) => {
                    let tls = ask(&mut session, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await;
                    let expected = if mode == Disable { "f" } else { "t" };
                    assert_eq!((tls.unwrap(), session.stream.is_tls()), (expected.into(), mode != Disable));
                    assert_eq!(session.tls.is_some_and(|tls| tls.version == "TLSv1.3"), mode != Disable);
                }
                Err(error) => assert!(error.phase == Phase::Tls && error.message.contains("certificate"), "{error}"),
            }
        }
    });
}

#[test]
fn a_server_without_tls() {
    let server = Postgres::shared();
    run(async {
        assert!(!log_in(&target(&server, "127.0.0.1", TlsMode::Prefer, None), &app()).await.unwrap().stream.is_tls());
        let error = log_in(&target(&server, "127.0.0.1", TlsMode::Require, None), &app()).await.unwrap_err();
        assert!(error.phase == Phase::Tls && error.message.ends_with("the server does not support it"), "{error}");
    });
}

#[test]
fn a_password_in_clear_inside_tls_and_a_cancel() {
    let certs = Certs::new();
    let server = server(&certs);
    let ca = read(&certs, "ca.crt");
    let target = target(&server, "127.0.0.1", TlsMode::VerifyFull, Some(&ca));
    run(async {
        let mut session = log_in(&target, &who("clear", "clear-secret")).await.unwrap();
        let (addr, pid, key) = (session.addr.clone(), session.pid, session.key.clone());
        let cancels = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cancel(&addr, pid, &key, Duration::from_secs(20)).await.unwrap();
        };
        let (answer, ()) = tokio::join!(ask(&mut session, "SELECT pg_sleep(60)"), cancels);
        assert_eq!(answer, Err("57014".into()));
    });
}

#[test]
fn what_postgresqls_documentation_teaches() {
    // `openssl req -new -x509 -days 365 -nodes -text -out server.crt -keyout server.key -subj "/CN=…"`: a CA by its
    // extensions, no alternative name, its own root; and a key of the older kind, RSA.
    let dir = tempfile::tempdir().unwrap();
    let (crt, key) = (dir.path().join("server.crt"), dir.path().join("server.key"));
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let made = std::process::Command::new("openssl")
        .args(["req", "-new", "-x509", "-days", "365", "-nodes", "-text", "-subj", "/CN=localhost"])
        .args([std::ffi::OsStr::new("-out"), crt.as_ref(), "-keyout".as_ref(), key.as_ref()])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    crate::support::pg::own(&key);
    let server = Postgres::start(&Options { tls: Some((crt.clone(), key)), ..Options::default() });
    let ca = std::fs::read(crt).unwrap();
    run(async {
        log_in(&target(&server, "localhost", TlsMode::VerifyFull, Some(&ca)), &app()).await.unwrap();
        let other = log_in(&target(&server, "127.0.0.1", TlsMode::VerifyFull, Some(&ca)), &app()).await.unwrap_err();
        assert_eq!(other.phase, Phase::Tls);
    });
}

/// Somebody in between: TLS with a certificate of its own towards the client, TLS towards the server.
async fn in_between(certs: Certs, server: u16) -> u16 {
    let acceptor = Acceptor::new(&read(&certs, "tls.crt"), &read(&certs, "tls.key"), None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&acceptor.config));
            tokio::spawn(async move {
                client.read_exact(&mut [0; 8]).await.unwrap();
                client.write_all(b"S").await.unwrap();
                let mut client = acceptor.accept(client).await.unwrap();
                let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let mut request = Vec::new();
                ssl_request(&mut request);
                server.write_all(&request).await.unwrap();
                server.read_exact(&mut [0; 1]).await.unwrap();
                let Tls::Require(config) = to_server(TlsMode::Require, None).unwrap() else { panic!() };
                let connector = tokio_rustls::TlsConnector::from(config);
                let mut server = connector.connect("localhost".try_into().unwrap(), server).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

#[test]
fn case_61_channel_binding_finds_somebody_in_between() {
    let certs = Certs::new();
    let server = server(&certs);
    run(async {
        let port = in_between(Certs::new(), server.port).await;
        let through = Target { port, ..target(&server, "localhost", TlsMode::Require, None) };
        // Without -PLUS this would go through: Require verifies no certificate.
        let found = log_in(&through, &app()).await.unwrap_err();
        let words = found.server.unwrap().message;
        assert!(words.contains("channel binding"), "{words}");
        // A password in clear is read by whoever is in between: that is what Require means.
        log_in(&through, &who("clear", "clear-secret")).await.unwrap();
    });
    assert!(AuthError::Clear.to_string().contains("TLS"));
}
