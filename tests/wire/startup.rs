//! 6.6 Startup, TLS, authentication.

use crate::support::hostile::{self, Server};
use crate::support::wire::{Binding, Client, Socket, Tls};
use crate::support::{
    Bed, Connect, Launch, Options, Policy, Postgres, Sidecar, bed, certs::Certs, eventually, fe, pg, process,
};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A sidecar with TLS towards clients, before a shared server.
struct Secure {
    sidecar: Sidecar,
    certs: Certs,
    _bed: Bed,
}

fn secure(change: impl FnOnce(Policy) -> Policy) -> Secure {
    let bed = Bed::new();
    let certs = Certs::new();
    let policy = change(Policy::new(bed.pg.port, &bed.database).set("listen.tls.secretName", "tls"));
    let sidecar = Launch::new(&policy).certs("tls", &certs).start();
    Secure { sidecar, certs, _bed: bed }
}

#[test]
fn case_57_protocol_versions_are_negotiated_once() {
    // 18 knows 3.2 itself; the pooler's answers are the same before any server.
    let mut beds = vec![Bed::on(Postgres::shared_18(), |policy| policy)];
    if !bed::is_direct() {
        beds.push(Bed::new());
    }
    for bed in &beds {
        let open = |minor: u16, options: &[(&str, &str)]| {
            let connect = bed.connect().minor(minor);
            let mut client =
                options.iter().fold(connect, |connect, (name, value)| connect.param(name, value)).open().unwrap();
            client.works();
            client.negotiated
        };
        let version = |minor: u32| 3 << 16 | minor;
        assert_eq!(open(0, &[]), []);
        assert_eq!(open(2, &[]), []);
        assert_eq!(open(9999, &[]), [(version(2), vec![])]);
        assert_eq!(open(3, &[]), [(version(2), vec![])]);
        assert_eq!(open(0, &[("_pq_.grease", "1")]), [(version(0), vec!["_pq_.grease".into()])]);
        let both = open(9999, &[("_pq_.a", "1"), ("_pq_.b", "2")]);
        assert_eq!(both, [(version(2), vec!["_pq_.a".into(), "_pq_.b".into()])]);
        let mut raw = bed.connect().raw().unwrap();
        raw.send(&[fe::untagged(4 << 16, b"user\0app\0\0")]);
        raw.expect_end(Some("0A000"));
        // To protocol 2 PostgreSQL answers in protocol 2's form: any error will do.
        let mut raw = bed.connect().raw().unwrap();
        raw.send(&[fe::untagged(2 << 16, b"user\0app\0\0")]);
        let mut answer = vec![];
        let _ = raw.socket.read_to_end(&mut answer);
        assert!(answer.starts_with(b"E"), "{answer:?}");
    }
}

#[test]
fn case_58_bytes_behind_an_ssl_request_are_not_taken_for_encrypted() {
    // Of 18, which has neither TLS nor GSS as it is started here.
    let bed = Bed::on(Postgres::shared_18(), |policy| policy);
    let plain = bed.connect();
    let secure = (!bed::is_direct()).then(|| secure(|policy| policy));
    let mut all = vec![(plain, b'N')];
    if let Some(secure) = &secure {
        all.push((secure.sidecar.connect(), b'S'));
    }
    for (connect, answer) in &all {
        // The startup packet in the same segment as the request: nobody is logged in.
        for request in [fe::ssl_request(), fe::gss_request()] {
            let mut raw = connect.raw().unwrap();
            let gss = request == fe::gss_request();
            raw.send(&[request, connect.startup()]);
            let mut first = [0];
            raw.socket.read_exact(&mut first).unwrap();
            assert_eq!(first[0], if gss { b'N' } else { *answer });
            let mut rest = vec![];
            let _ = raw.socket.read_to_end(&mut rest);
            assert!(!rest.windows(6).any(|at| at == [b'Z', 0, 0, 0, 5, b'I']), "logged in with injected bytes");
        }
        // Either may follow the other, once.
        let ask = |raw: &mut Client, request: Vec<u8>| {
            raw.send(&[request]);
            let mut answer = [0];
            raw.socket.read_exact(&mut answer).unwrap();
            answer[0]
        };
        let mut raw = connect.raw().unwrap();
        assert_eq!(ask(&mut raw, fe::gss_request()), b'N');
        if *answer == b'N' {
            assert_eq!(ask(&mut raw, fe::ssl_request()), b'N');
            raw.send(&[connect.startup()]);
            crate::support::login::run(&mut raw, connect).unwrap();
            raw.works();
            for (one, two) in [(fe::ssl_request(), fe::gss_request()), (fe::gss_request(), fe::ssl_request())] {
                let mut raw = connect.raw().unwrap();
                assert_eq!(ask(&mut raw, one.clone()), b'N');
                assert_eq!(ask(&mut raw, two), b'N');
                raw.send(&[one]);
                raw.expect_end(Some("0A000"));
            }
        }
    }
    if let Some(secure) = &secure {
        secure.sidecar.connect().tls(Tls::Request(secure.certs.client())).open().unwrap().works();
        secure.sidecar.client().works();
    }
}

/// The other direction: a server that sends bytes behind its S.
#[test]
fn case_58_bytes_behind_the_servers_answer_are_refused() {
    if bed::is_direct() {
        return;
    }
    let leaked = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&leaked);
    let server = Server::start(move |session, _| {
        let mut request = [0; 8];
        session.stream.read_exact(&mut request)?;
        session.send(&[b"S".to_vec(), hostile::authentication(3, &[])])?;
        let mut rest = vec![];
        let _ = session.stream.read_to_end(&mut rest);
        if rest.windows(pg::PASSWORD.len()).any(|at| at == pg::PASSWORD.as_bytes()) {
            seen.store(true, Ordering::Relaxed);
        }
        Ok(())
    });
    for mode in ["Require", "Prefer"] {
        let sidecar = Sidecar::start(
            &Policy::new(server.port, "db").set("database.tls.mode", mode).set("timeouts.connect", "2s"),
        );
        let error = refused(&sidecar);
        assert!(error.starts_with("08"), "{error}");
    }
    assert!(!leaked.load(Ordering::Relaxed), "the password was sent");
}

/// What a client is told when the sidecar can't log in to its server: an SQLSTATE, soon.
fn refused(sidecar: &Sidecar) -> String {
    let start = Instant::now();
    let error = match sidecar.connect().open() {
        Err(error) => error,
        Ok(mut client) => client.query("SELECT 1").expect_err("the hostile server was believed"),
    };
    assert!(start.elapsed() < Duration::from_secs(10), "{:?} for {error:?}", start.elapsed());
    assert_ne!(error.code, "-----", "{error:?}");
    error.code
}

#[test]
fn case_59_direct_tls() {
    if bed::is_direct() {
        return;
    }
    let secure = secure(|policy| policy);
    let connect = secure.sidecar.connect().tls(Tls::Direct(secure.certs.client()));
    let mut client = connect.open().unwrap();
    client.works();
    let Socket::Tls(stream) = &client.socket else { panic!() };
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"postgresql"[..]));
    // Without its name, or with another, it could be a confused client of another protocol.
    for names in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = rustls::ClientConfig::clone(&secure.certs.client());
        config.alpn_protocols = names;
        let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", secure.sidecar.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let _ = std::io::Write::write_all(&mut stream, &secure.sidecar.connect().startup());
        let mut answer = vec![];
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.windows(6).any(|at| at == [b'Z', 0, 0, 0, 5, b'I']), "served without ALPN");
    }
    // A sidecar without TLS closes, and lives.
    let plain = Bed::new();
    let mut raw = plain.connect().raw().unwrap();
    let _ = raw.write(&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]);
    let mut rest = vec![];
    let _ = raw.socket.read_to_end(&mut rest);
    plain.client().works();
}

#[test]
fn case_60_startup_packets_in_pieces_and_absurd_ones() {
    let bed = Bed::with(|policy| policy.set("listen.loginTimeout", "3s"));
    let connect = bed.connect().param("application_name", &"n".repeat(3_000));
    let mut raw = connect.raw().unwrap();
    for byte in connect.startup() {
        raw.write(&[byte]).unwrap();
    }
    crate::support::login::run(&mut raw, &connect).unwrap();
    raw.works();
    // Each ends, with an error or without, and never by logging in.
    let absurd: [&[u8]; 11] = [
        &[0, 0, 0, 0],
        &[0, 0, 0, 3],
        &[0, 0, 0, 4],
        &[0, 0, 0, 7, 0, 3, 0],
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        &[0, 0, 0x40, 0, 0, 3, 0, 0],
        &[0, 0, 0, 9, 0, 3, 0, 0, b'x'],
        &[0, 0, 0, 13, 0, 3, 0, 0, b'u', b's', b'e', b'r', 0],
        &[0, 0, 0, 8, 0, 0, 0, 0],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ];
    for bytes in absurd {
        let mut raw = bed.connect().raw().unwrap();
        let _ = raw.write(bytes);
        let mut rest = vec![];
        let _ = raw.socket.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == b'E', "{bytes:?}: {rest:?}");
    }
    let Some(sidecar) = bed.sidecar() else { return };
    // Many at once that promise a gigabyte and send none of it: bounded memory, bounded time.
    let before = process::resident(sidecar.pid());
    let mut hung: Vec<_> = (0..200).map(|_| bed.connect().raw().unwrap()).collect();
    for raw in &mut hung {
        let _ = raw.write(&[0, 0, 0x20, 0, 0, 3, 0, 0, b'u']);
    }
    bed.client().works();
    let grown = process::resident(sidecar.pid()).saturating_sub(before);
    assert!(grown < 40_000_000, "{grown} bytes for 200 clients that have said nothing");
    let start = Instant::now();
    for raw in &mut hung {
        let mut rest = vec![];
        let _ = raw.socket.read_to_end(&mut rest);
    }
    assert!(start.elapsed() < Duration::from_secs(15), "login has no time limit");
    bed.client().works();
}

#[test]
fn case_61_channel_binding_and_its_downgrade() {
    if bed::is_direct() {
        return;
    }
    let secure = secure(|policy| policy.set("listen.auth", "ScramSha256"));
    let plain = secure.sidecar.connect();
    let tls = plain.clone().tls(Tls::Request(secure.certs.client()));
    // -PLUS is offered and used; a client that can't bind says n.
    tls.clone().open().unwrap().works();
    tls.clone().binding(Binding::Never).open().unwrap().works();
    plain.clone().open().unwrap().works();
    // "I could, but you don't offer it" to one who does: somebody in between took the offer away.
    let error = tls.clone().binding(Binding::Claim).open().err().expect("a downgrade went unnoticed");
    assert_eq!((error.severity.as_str(), &error.code[..2]), ("FATAL", "28"), "{error:?}");
    // Without TLS nothing is offered, and the same words are true.
    plain.clone().binding(Binding::Claim).open().unwrap().works();
    for connect in [&plain, &tls] {
        let error = connect.clone().password("wrong").open().err().unwrap();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"), "{error:?}");
        let error = connect.clone().user("somebody").open().err().unwrap();
        assert_eq!(error.code, "28P01", "{error:?}");
    }
}

/// The first messages of a SCRAM login, seen from the server: the client's nonce.
fn scram_nonce(session: &mut hostile::Session) -> std::io::Result<String> {
    session.startup()?;
    session.send(&[hostile::authentication(10, b"SCRAM-SHA-256\0\0")])?;
    let (_, body) = session.message()?;
    let text = String::from_utf8_lossy(&body).into_owned();
    Ok(text.split("r=").nth(1).unwrap_or_default().to_owned())
}

#[test]
fn case_63_hostile_servers_fail_cleanly() {
    if bed::is_direct() {
        return;
    }
    type Script = fn(&mut hostile::Session) -> std::io::Result<()>;
    let scripts: [(&str, Script); 16] = [
        ("over-long nonce", |s| {
            let nonce = scram_nonce(s)? + &"x".repeat(1_000_000);
            s.send(&[hostile::authentication(11, format!("r={nonce},s=c2FsdHNhbHQ=,i=4096").as_bytes())])?;
            s.swallow()
        }),
        ("another's nonce", |s| {
            scram_nonce(s)?;
            s.send(&[hostile::authentication(11, b"r=abcdefgh,s=c2FsdHNhbHQ=,i=4096")])?;
            s.swallow()
        }),
        ("rounds without end", |s| {
            let nonce = scram_nonce(s)? + "x";
            s.send(&[hostile::authentication(11, format!("r={nonce},s=c2FsdHNhbHQ=,i=2147483647").as_bytes())])?;
            s.swallow()
        }),
        ("no rounds", |s| {
            let nonce = scram_nonce(s)? + "x";
            s.send(&[hostile::authentication(11, format!("r={nonce},s=c2FsdHNhbHQ=,i=0").as_bytes())])?;
            s.swallow()
        }),
        ("salt that is no base64", |s| {
            let nonce = scram_nonce(s)? + "x";
            s.send(&[hostile::authentication(11, format!("r={nonce},s=!!!,i=4096").as_bytes())])?;
            s.swallow()
        }),
        ("bad signature", |s| {
            let nonce = scram_nonce(s)? + "x";
            s.send(&[hostile::authentication(11, format!("r={nonce},s=c2FsdHNhbHQ=,i=4096").as_bytes())])?;
            s.message()?;
            s.send(&[hostile::authentication(12, b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")])?;
            s.send(&[hostile::authentication(0, &[]), hostile::usual_parameters(), hostile::ready(b'I')])?;
            s.serve()
        }),
        ("no signature", |s| {
            let nonce = scram_nonce(s)? + "x";
            s.send(&[hostile::authentication(11, format!("r={nonce},s=c2FsdHNhbHQ=,i=4096").as_bytes())])?;
            s.message()?;
            s.send(&[hostile::authentication(0, &[]), hostile::usual_parameters(), hostile::ready(b'I')])?;
            s.serve()
        }),
        ("unknown mechanism", |s| {
            s.startup()?;
            s.send(&[hostile::authentication(10, b"FOO\0\0")])?;
            s.swallow()
        }),
        ("unknown method", |s| {
            s.startup()?;
            s.send(&[hostile::authentication(99, &[])])?;
            s.swallow()
        }),
        ("md5 with half a salt", |s| {
            s.startup()?;
            s.send(&[hostile::authentication(5, b"ab")])?;
            s.swallow()
        }),
        ("an authentication without a body", |s| {
            s.startup()?;
            s.send(&[fe::message(b'R', &[])])?;
            s.swallow()
        }),
        ("an error without an SQLSTATE", |s| {
            s.startup()?;
            s.send(&[hostile::error(&[(b'S', "FATAL"), (b'M', "no")])])
        }),
        ("an empty error", |s| {
            s.startup()?;
            s.send(&[fe::message(b'E', &[])])
        }),
        ("a length of a gigabyte", |s| {
            s.startup()?;
            s.send(&[vec![b'R', 0x3f, 0xff, 0xff, 0xff, 0, 0]])?;
            s.swallow()
        }),
        ("an HTTP answer", |s| {
            s.startup()?;
            s.send(&[b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()])?;
            s.swallow()
        }),
        ("closed at once", |s| s.startup().map(|_| ())),
    ];
    for (what, script) in scripts {
        let server = Server::start(move |session, _| script(session));
        let policy = Policy::new(server.port, "db").set("timeouts.connect", "2s").set("timeouts.acquire", "3s");
        let mut sidecar = Sidecar::start(&policy);
        let before = process::resident(sidecar.pid());
        let code = refused(&sidecar);
        assert!(code.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{what}: {code:?}");
        let grown = process::resident(sidecar.pid()).saturating_sub(before);
        assert!(sidecar.runs() && grown < 30_000_000, "{what}: {grown} bytes");
    }
}

/// A password goes in clear inside TLS only, whatever the server asks for.
#[test]
fn case_63_no_clear_password_outside_tls() {
    if bed::is_direct() {
        return;
    }
    let heard = Arc::new(Mutex::new(vec![]));
    let seen = Arc::clone(&heard);
    let server = Server::start(move |session, _| {
        session.startup()?;
        session.send(&[hostile::authentication(3, &[])])?;
        seen.lock().unwrap().push(session.message()?);
        Ok(())
    });
    let sidecar = Sidecar::start(&Policy::new(server.port, "db").set("timeouts.connect", "2s"));
    refused(&sidecar);
    let heard = heard.lock().unwrap();
    assert!(heard.iter().all(|(tag, _)| *tag != b'p'), "the password was sent in clear: {heard:?}");
}

/// CVE-2025-12819: functions of the client's search_path in the pooler's own queries.
#[test]
fn case_64_a_clients_search_path_does_not_reach_the_poolers_queries() {
    let bed = Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("health.interval", "1s"));
    bed.setup(
        "CREATE SCHEMA evil; CREATE SEQUENCE evil.calls; \
         CREATE FUNCTION evil.pg_is_in_recovery() RETURNS bool LANGUAGE sql AS 'SELECT nextval(''evil.calls'') > 0'; \
         CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql \
             AS 'SELECT nextval(''evil.calls'')::text'; \
         CREATE FUNCTION evil.pg_advisory_unlock_all() RETURNS void LANGUAGE sql AS 'SELECT nextval(''evil.calls'')'",
    );
    let evil = bed.connect().param("search_path", "evil,pg_catalog");
    let mut client = evil.open().unwrap();
    assert_eq!(client.value("SHOW search_path"), "evil,pg_catalog");
    assert_eq!(client.value("SELECT pg_is_in_recovery()"), "t", "the trap is not set");
    let before = bed.admin().value("SELECT last_value FROM evil.calls");
    // What makes the pooler ask: pings after a pause, a read-only error, a client that leaves state.
    client.query("BEGIN READ ONLY; CREATE TABLE t (a int)").unwrap_err();
    client.rows("ROLLBACK");
    client.rows("SET work_mem = '8MB'");
    drop(client);
    thread::sleep(Duration::from_millis(1_500));
    let mut client = evil.open().unwrap();
    client.works();
    thread::sleep(Duration::from_millis(700));
    client.works();
    // And an ordinary client on the same pool sees the ordinary catalog.
    let mut other = bed.client();
    assert_eq!(other.value("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(bed.admin().value("SELECT last_value FROM evil.calls"), before, "the trap was stepped into");
}

#[test]
fn case_65_very_long_passwords() {
    let password = "p4ss-".repeat(600);
    let server = Postgres::start(&Options { tls: None, ..Options::default() });
    server.admin("postgres").rows(&format!("ALTER ROLE {} PASSWORD '{password}'", pg::USER));
    let database = server.create_database();
    server.connect(&database).password(&password).open().unwrap().works();
    if bed::is_direct() {
        return;
    }
    let policy = Policy::new(server.port, &database).set("listen.auth", "ScramSha256");
    let sidecar = Launch::new(&policy).credentials(pg::USER, &password).start();
    sidecar.connect().password(&password).open().unwrap().works();
    let wrong = sidecar.connect().password(&password[1..]).open().err().unwrap();
    assert_eq!(wrong.code, "28P01");
    assert!(!sidecar.log().contains("p4ss-p4ss"), "the password stands in the log");
}

#[test]
fn case_66_startup_parameters() {
    let bed = Bed::sized(1);
    let connect = bed.connect();
    let mut tuned = connect
        .clone()
        .param("extra_float_digits", "3")
        .param("statement_timeout", "7777")
        .param("TimeZone", "Asia/Tokyo")
        .param("application_name", "tuned")
        .param("app.tenant", "seven")
        .param("options", "-c work_mem=9MB -c search_path=\"a\\ b\"")
        .open()
        .unwrap();
    let mut plain = connect.clone().open().unwrap();
    for _ in 0..3 {
        let shown = [
            ("extra_float_digits", "3"),
            ("statement_timeout", "7777ms"),
            ("TimeZone", "Asia/Tokyo"),
            ("application_name", "tuned"),
            ("app.tenant", "seven"),
            ("work_mem", "9MB"),
            ("search_path", "\"a b\""),
        ];
        for (name, value) in shown {
            assert_eq!(tuned.value(&format!("SHOW {name}")), value, "{name}");
        }
        assert_ne!(plain.value("SHOW TimeZone"), "Asia/Tokyo");
        assert_eq!(plain.value("SHOW extra_float_digits"), "1");
        assert_eq!(plain.value("SHOW work_mem"), "4MB");
        assert_eq!(plain.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
        tuned.works();
    }
    assert_eq!(tuned.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert_eq!(tuned.parameter("application_name"), Some("tuned"));
    assert_ne!(plain.parameter("TimeZone"), Some("Asia/Tokyo"));
    assert!(plain.parameter("server_version").is_some() && plain.parameter("integer_datetimes") == Some("on"));
    // What the server refuses is refused to this client, in the server's words, and to no other.
    for (name, value, code) in [("no_such_parameter", "1", "42704"), ("TimeZone", "Nowhere/Land", "22023")] {
        let error = connect.clone().param(name, value).open().err().expect("a bad parameter was accepted");
        assert_eq!(error.code, code, "{error:?}");
        connect.clone().open().unwrap().works();
    }
}

#[test]
fn case_67_users_and_databases() {
    let bed = Bed::with(|policy| policy.set("database.alias", pg::USER));
    if bed::is_direct() {
        let admin = bed.admin().query(&format!("CREATE DATABASE {}", pg::USER));
        assert!(admin.is_ok() || admin.unwrap_err().code == "42P04");
    }
    let whole = |parameters: &[(&str, &str)]| {
        let connect = bed.connect();
        let mut raw = connect.raw().unwrap();
        raw.send(&[fe::startup(0, parameters)]);
        crate::support::login::run(&mut raw, &connect).map(|()| raw)
    };
    // The database defaults to the user's name; so does an empty one.
    whole(&[("user", pg::USER)]).unwrap().works();
    whole(&[("user", pg::USER), ("database", "")]).unwrap().works();
    whole(&[("user", pg::USER), ("database", pg::USER)]).unwrap().works();
    for parameters in [&[("database", pg::USER)][..], &[("user", ""), ("database", pg::USER)], &[]] {
        let error = whole(parameters).err().expect("let in without a user");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"), "{error:?}");
    }
    let error = whole(&[("user", pg::USER), ("database", "nowhere")]).err().unwrap();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"), "{error:?}");
    if bed::is_direct() {
        return;
    }
    let error = whole(&[("user", "somebody"), ("database", pg::USER)]).err().unwrap();
    assert_eq!(error.code, "28P01", "{error:?}");
    let socket = Connect::unix(&bed.sidecar().unwrap().socket()).database(pg::USER);
    socket.open().unwrap().works();
    eventually("nobody is left", || bed.sidecar().unwrap().health()["checked_out"] == 0);
}
