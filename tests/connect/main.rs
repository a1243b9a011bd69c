//! Logging in to real servers (`pg::connect`): every method of authentication, every TLS mode, and what is left
//! behind when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod limit;
mod tls;

use std::future::Future;
use std::time::Duration;

use poolkeeper::pg::auth::Secret;
use poolkeeper::pg::connect::{self, ConnectError, Credentials, Session, Target, Tls};
use poolkeeper::pg::error::SqlState;
use poolkeeper::pg::startup::StartupSet;
use poolkeeper::pg::{frame, message};
use support::{Options, Postgres, pg};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs a test's future as the sidecar runs its own: on one thread.
fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn who(user: &str, password: &str) -> Credentials {
    Credentials { user: user.into(), password: Secret::new(password) }
}

fn app() -> Credentials {
    who(pg::USER, pg::PASSWORD)
}

fn tcp(server: &Postgres) -> Target {
    let (host, timeout) = ("127.0.0.1".to_owned(), Duration::from_secs(20));
    Target {
        host,
        port: server.port,
        tls: Tls::Disable,
        timeout,
        keepalive: Some(Duration::from_secs(60)),
        bare: false,
    }
}

fn unix(server: &Postgres) -> Target {
    Target { host: server.socket_dir().to_str().unwrap().to_owned(), ..tcp(server) }
}

async fn log_in(target: &Target, who: &Credentials) -> Result<Session, ConnectError> {
    connect::connect(target, std::slice::from_ref(who), "postgres", &StartupSet::default(), &[]).await
}

/// The first value of the answer, or the error's code.
async fn ask(session: &mut Session, sql: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    message::query(&mut bytes, sql);
    session.stream.write_all(&bytes).await.unwrap();
    session.stream.flush().await.unwrap();
    let (mut buf, mut at, mut answer) = (Vec::new(), 0, Ok(String::new()));
    loop {
        while let Some(frame) = frame::whole(&buf[at..]).unwrap() {
            match frame.tag {
                b'D' => answer = Ok(String::from_utf8(frame.body[6..].to_vec()).unwrap()),
                b'E' => answer = Err(message::ErrorFields::parse(frame.body).unwrap().code.to_owned()),
                b'Z' => return answer,
                _ => {}
            }
            at += frame.total();
        }
        assert!(session.stream.read_buf(&mut buf).await.unwrap() > 0, "the server closed");
    }
}

#[test]
fn scram() {
    let server = Postgres::shared();
    run(async {
        let mut session = log_in(&tcp(&server), &app()).await.unwrap();
        assert_eq!(ask(&mut session, "SELECT current_user").await.unwrap(), pg::USER);
        assert_eq!(ask(&mut session, "SELECT pg_backend_pid()").await.unwrap(), session.pid.to_string());
        assert_eq!((session.key.len(), session.has_key, session.bare), (4, true, false));
        let parameter = |name: &str| session.parameters.iter().find(|(have, _)| have == name).unwrap().1.as_str();
        assert_eq!((parameter("server_encoding"), parameter("session_authorization")), ("UTF8", pg::USER));
        assert!(session.leftover.is_empty());
        let wrong = log_in(&tcp(&server), &who(pg::USER, "wrong")).await.unwrap_err();
        assert_eq!(wrong.sqlstate, Some(SqlState::INVALID_PASSWORD));
        assert_eq!(wrong.server.unwrap().message, "password authentication failed for user \"app\"");
    });
}

#[test]
fn case_65_strange_and_very_long_passwords() {
    let server = Postgres::shared();
    let mut admin = server.admin("postgres");
    admin.query("CREATE ROLE strange LOGIN").unwrap();
    run(async {
        let token = "t".repeat(900) + "=/+";
        for password in ["with 'quotes' \" and \\", "p\u{e4}ss \u{2168} \u{ad}", &token] {
            let quoted = password.replace('\'', "''");
            // Without backslash escapes, whatever the server's default.
            admin
                .query(&format!("SET standard_conforming_strings = on; ALTER ROLE strange PASSWORD '{quoted}'"))
                .unwrap();
            log_in(&tcp(&server), &who("strange", password)).await.unwrap();
        }
    });
}

#[test]
fn md5_trust_and_no_way_in() {
    let options = Options {
        hba: vec![
            "host all hashed all md5".into(),
            "host all clear all password".into(),
            "host all out all reject".into(),
        ],
        ..Options::default()
    };
    let server = Postgres::start(&options);
    let mut admin = server.admin("postgres");
    admin.query("SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'md5-secret'").unwrap();
    admin.query("CREATE ROLE clear LOGIN PASSWORD 'clear-secret'").unwrap();
    run(async {
        log_in(&tcp(&server), &who("hashed", "md5-secret")).await.unwrap();
        let wrong = log_in(&tcp(&server), &who("hashed", "x")).await.unwrap_err();
        assert_eq!(wrong.sqlstate, Some(SqlState::INVALID_PASSWORD));
        log_in(&unix(&server), &who("hashed", "is not asked for")).await.unwrap();
        let clear = log_in(&tcp(&server), &who("clear", "clear-secret")).await.unwrap_err();
        assert!(clear.message.contains("inside TLS only"), "{clear}");
        let out = log_in(&tcp(&server), &who("out", "x")).await.unwrap_err();
        assert_eq!(out.sqlstate, Some(SqlState::INVALID_AUTHORIZATION));
        let nowhere = connect::connect(&unix(&server), &[app()], "nowhere", &StartupSet::default(), &[]).await;
        assert_eq!(nowhere.unwrap_err().sqlstate, Some(SqlState::INVALID_CATALOG_NAME));
    });
    // The password never went over the wire, nor into the server's log.
    assert!(!server.log().contains("clear-secret"));
}

#[test]
fn decision_27_old_and_new_password() {
    let server = Postgres::shared();
    let mut admin = server.admin("postgres");
    admin.query("CREATE ROLE rotated LOGIN PASSWORD 'old'").unwrap();
    run(async {
        let both = [who("rotated", "new"), who("rotated", "old")];
        let connect =
            || async { connect::connect(&tcp(&server), &both, "postgres", &StartupSet::default(), &[]).await };
        assert_eq!(connect().await.unwrap().credential, 1);
        admin.query("ALTER ROLE rotated PASSWORD 'new'").unwrap();
        assert_eq!(connect().await.unwrap().credential, 0);
    });
}

#[test]
fn settings_ours_the_defaults_and_the_clients() {
    let server = Postgres::shared();
    let defaults = [("statement_timeout".to_owned(), "30000".to_owned())];
    run(async {
        let with = |set: &'static [(&str, &str)]| {
            let (target, defaults, set) = (tcp(&server), &defaults, StartupSet::new(set.iter().copied()));
            async move { connect::connect(&target, &[app()], "postgres", &set, defaults).await }
        };
        let mut session = with(&[("Application_Name", "me"), ("TIMEZONE", "CET")]).await.unwrap();
        for (setting, value) in [
            ("client_connection_check_interval", "1s"),
            ("tcp_keepalives_idle", "60"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
            ("statement_timeout", "30s"),
            ("application_name", "me"),
            ("timezone", "CET"),
        ] {
            assert_eq!(ask(&mut session, &format!("SHOW {setting}")).await.unwrap(), value, "{setting}");
        }
        // Decision 5: RESET comes back to the default.
        let reset = "SET statement_timeout = 1; RESET statement_timeout; SHOW statement_timeout";
        assert_eq!(ask(&mut session, reset).await.unwrap(), "30s");
        let mut own = with(&[("statement_timeout", "5s")]).await.unwrap();
        assert_eq!(ask(&mut own, "SHOW statement_timeout").await.unwrap(), "5s");
        let mut inside = with(&[("options", "-c statement_timeout=7s -c application_name=a\\ b")]).await.unwrap();
        assert_eq!(ask(&mut inside, "SHOW statement_timeout").await.unwrap(), "7s");
        assert_eq!(ask(&mut inside, "SHOW application_name").await.unwrap(), "a b");
        let mut beside = with(&[("options", "-c geqo=off")]).await.unwrap();
        assert_eq!(ask(&mut beside, "SHOW statement_timeout").await.unwrap(), "30s");
        // Case 66: what the server does not know is its refusal, after one more try without ours.
        let unknown = with(&[("no_such_setting", "1")]).await.unwrap_err();
        assert_eq!(unknown.sqlstate, Some(SqlState::UNDEFINED_OBJECT));
        // A name that only looks like the user is a setting that no server has.
        let user = with(&[("User", "postgres")]).await.unwrap_err();
        assert_eq!(user.sqlstate, Some(SqlState::UNDEFINED_OBJECT));
    });
}

#[test]
fn a_cancel_has_arrived_when_it_ends() {
    let server = Postgres::shared();
    run(async {
        for target in [tcp(&server), unix(&server)] {
            let mut session = log_in(&target, &app()).await.unwrap();
            let (addr, pid, key) = (session.addr.clone(), session.pid, session.key.clone());
            let cancel = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                connect::cancel(&addr, pid, &key, Duration::from_secs(20)).await.unwrap();
            };
            let (answer, ()) = tokio::join!(ask(&mut session, "SELECT pg_sleep(60)"), cancel);
            assert_eq!(answer, Err("57014".into()));
            // A wrong key cancels nothing, and is not answered either.
            connect::cancel(&addr, pid, b"nope", Duration::from_secs(20)).await.unwrap();
            assert_eq!(ask(&mut session, "SELECT 1").await.unwrap(), "1");
        }
    });
}

#[test]
fn a_name_with_several_addresses() {
    // `localhost` is ::1 and 127.0.0.1 where there is IPv6; the server listens on the second one only.
    let server = Postgres::shared();
    run(async { log_in(&Target { host: "localhost".into(), ..tcp(&server) }, &app()).await.unwrap() });
}

#[test]
fn a_server_that_hangs() {
    let server = Postgres::start(&Options::default());
    server.signal_all("STOP");
    let target = Target { timeout: Duration::from_millis(300), ..tcp(&server) };
    let error = run(log_in(&target, &app())).unwrap_err();
    assert_eq!((error.phase, error.sqlstate), (connect::Phase::Timeout, None));
    server.signal_all("CONT");
    run(log_in(&tcp(&server), &app())).unwrap();
}
