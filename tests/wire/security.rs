//! 6.6 TLS and authentication (58, 59, 61, 63, 65).

use crate::support::hostile::{self, Server};
use crate::support::wire::{Binding, Client, Socket, Tls};
use crate::support::{Bed, Launch, Options, Policy, Postgres, Sidecar, bed, certs::Certs, fe, pg, process};
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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
            // Refused at once, or answered and then refused.
            assert!(first[0] == b'E' || first[0] == if gss { b'N' } else { *answer }, "{first:?}");
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
                let refusal = raw.message();
                let code = refusal.field(b'C');
                assert!(refusal.tag == b'E' && ["0A000", "08P01"].contains(&code.as_str()), "{refusal:?}");
                raw.expect_end(None);
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
