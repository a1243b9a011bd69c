//! Lies at login, beyond those of `wire security::case_63…`: the client is told, the next login works.

use crate::honest;
use crate::support::hostile::{self, Server, Session};
use crate::support::{Client, Policy, Sidecar, bed, fe, process};
use crate::victim::{How, ask, is_well, next_ones, value};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

type Login = fn(&mut Session) -> io::Result<()>;

/// An ordinary login's messages after the startup packet.
fn usual() -> Vec<Vec<u8>> {
    vec![
        hostile::authentication(0, &[]),
        hostile::usual_parameters(),
        hostile::key(4242, b"\x01\x02\x03\x04"),
        hostile::ready(b'I'),
    ]
}

fn surplus(s: &mut Session, extra: &[Vec<u8>]) -> io::Result<()> {
    s.startup()?;
    s.send(&[usual().concat(), extra.concat()])
}

const LOGINS: &[(&str, Login)] = &[
    ("ready twice", |s| surplus(s, &[hostile::ready(b'I')])),
    ("an answer that nobody asked for", |s| surplus(s, &[hostile::row(&["stale"]), hostile::complete("SELECT 1")])),
    ("an error behind ready", |s| {
        surplus(s, &[hostile::error(&[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "42601"), (b'M', "stale")])])
    }),
    ("a notification behind ready", |s| surplus(s, &[fe::message(b'A', b"\0\0\0\x01ch\0stale\0")])),
    ("half a message behind ready", |s| surplus(s, &[vec![b'D', 0, 0, 0, 20, 0, 1]])),
    ("ready first", |s| {
        s.startup()?;
        s.send(&[hostile::ready(b'I')])
    }),
    ("ready in a transaction", |s| {
        s.startup()?;
        s.send(&[usual()[..3].concat(), hostile::ready(b'T')])
    }),
    ("ready without a status", |s| {
        s.startup()?;
        s.send(&[usual()[..3].concat(), fe::message(b'Z', &[])])
    }),
    ("a key cut short", |s| {
        s.startup()?;
        s.send(&[usual()[..2].concat(), fe::message(b'K', b"\0\0"), hostile::ready(b'I')])
    }),
    ("a key of a kilobyte", |s| {
        s.startup()?;
        s.send(&[usual()[..2].concat(), hostile::key(1, &[7; 1000]), hostile::ready(b'I')])
    }),
    ("a parameter without an end", |s| {
        s.startup()?;
        s.send(&[hostile::authentication(0, &[]), fe::message(b'S', b"server_version"), usual()[1..].concat()])
    }),
    ("a parameter of two megabytes", |s| {
        s.startup()?;
        s.send(&[
            hostile::authentication(0, &[]),
            hostile::parameter("x", &"y".repeat(2_000_000)),
            usual()[1..].concat(),
        ])
    }),
    ("notices without end", |s| {
        s.startup()?;
        loop {
            s.send(&[fe::message(b'N', b"SNOTICE\0C00000\0Mhi\0\0").repeat(500)])?;
        }
    }),
    ("parameters without end", |s| {
        s.startup()?;
        s.send(&[hostile::authentication(0, &[])])?;
        for n in 0.. {
            s.send(&[hostile::parameter(&format!("p{n}"), &"y".repeat(1000))])?;
        }
        Ok(())
    }),
    ("another protocol version", |s| {
        s.startup()?;
        s.send(&[fe::message(b'v', &[0, 0]), usual().concat()])
    }),
    ("a row at login", |s| {
        s.startup()?;
        s.send(&[hostile::authentication(0, &[]), hostile::row(&["x"]), usual()[1..].concat()])
    }),
    ("a length below 4", |s| {
        s.startup()?;
        s.send(&[vec![b'R', 0, 0, 0, 1]])
    }),
    ("an error with a FATAL nobody knows", |s| {
        s.startup()?;
        s.send(&[hostile::error(&[(b'S', "FATAL"), (b'C', "\u{1}\u{2}"), (b'M', "no")])])
    }),
    ("silence", |s| {
        s.startup()?;
        s.swallow()
    }),
];

/// The first client's login, and one question if that works: whatever comes, its errors are whole.
fn first(sidecar: &Sidecar) -> Result<(), String> {
    let whole = |code: &str| code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match sidecar.connect().open() {
        Err(error) if whole(&error.code) => Ok(()),
        Err(error) => Err(format!("the first client's login: {error:?}")),
        Ok(mut client) => asked(&mut client),
    }
}

fn asked(client: &mut Client) -> Result<(), String> {
    for (tag, body) in ask(client, How::Simple, "first", Duration::from_secs(10)) {
        if tag == 'D' && value(&body) != "first" || tag == 'A' {
            return Err(format!("the first client got {tag} {:?}", String::from_utf8_lossy(&body)));
        }
    }
    Ok(())
}

#[test]
fn lies_at_login() {
    if bed::is_direct() {
        return;
    }
    let mut failures = vec![];
    for (what, login) in LOGINS {
        let lies = Arc::new(AtomicBool::new(true));
        let lying = Arc::clone(&lies);
        let server = Server::start(move |session, _| {
            if lying.load(Ordering::SeqCst) {
                login(session)?;
            } else {
                session.login()?;
            }
            honest::serve(session, &|_, _| Ok(()))
        });
        let policy = Policy::new(server.port, "db")
            .set("pool.size", 1)
            .set("pool.maxOverflow", 0)
            .set("health.interval", "1h")
            .set("timeouts.connect", "500ms")
            .set("timeouts.acquire", "1s");
        let mut sidecar = Sidecar::start(&policy);
        let before = process::resident(sidecar.pid());
        failures.extend(first(&sidecar).err().map(|failure| format!("{what}: {failure}")));
        lies.store(false, Ordering::SeqCst);
        failures.extend(next_ones(&sidecar, what).err());
        is_well(&mut sidecar, before, 40_000_000);
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
