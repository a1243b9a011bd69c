//! Servers that are killed, hang, come back.

use crate::support::{Bed, Load, Options, Policy, Postgres, Sidecar, bed, eventually, fe, process};
use std::thread;
use std::time::{Duration, Instant};

struct Own {
    // Before the server, so that it is dropped first.
    sidecar: Sidecar,
    server: Postgres,
    database: String,
}

fn own(change: impl FnOnce(Policy) -> Policy) -> Option<Own> {
    if bed::is_direct() {
        return None;
    }
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    let sidecar = Sidecar::start(&change(Policy::new(server.port, &database)));
    Some(Own { sidecar, server, database })
}

#[test]
fn a_backend_that_is_killed_under_its_query() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    for _ in 0..5 {
        client.send(&[fe::query("SELECT pg_sleep(30)")]);
        let running = "FROM pg_stat_activity WHERE datname = current_database() AND query = 'SELECT pg_sleep(30)'";
        let mut admin = bed.admin();
        eventually("it runs", || admin.value(&format!("SELECT count(*) {running}")) == "1");
        admin.rows(&format!("SELECT pg_terminate_backend(pid) {running}"));
        // The server's own words, then the end.
        loop {
            match client.poll_message(client.timeout()).expect("neither an answer nor the end") {
                Some(message) if message.tag == b'E' => assert_eq!(message.field(b'C'), "57P01"),
                Some(message) => assert!(b"TSN".contains(&message.tag), "{message:?}"),
                None => break,
            }
        }
        client = bed.client();
        client.works();
    }
}

#[test]
fn a_server_that_is_killed_and_started_again_under_load() {
    let Some(own) = own(|policy| policy.set("pool.size", 4).set("timeouts.connect", "2s")) else { return };
    own.server.admin(&own.database).rows(Load::TABLE);
    let load = Load::start(&own.sidecar.connect(), 8);
    load.advance(500);
    own.server.kill();
    thread::sleep(Duration::from_millis(500));
    own.server.start_again();
    load.advance(2_000);
    own.server.stop();
    own.server.start_again();
    load.advance(2_000);
    let (_, _, errors) = load.stop();
    // Errors there were; each with an SQLSTATE or a plain end, and never a wrong answer or none.
    assert!(!errors.iter().any(|error| error.contains("WRONG") || error.contains("MISSING")), "{errors:#?}");
    assert!(!errors.iter().any(|error| error.contains("panic")), "{errors:#?}");
    let mut client = own.sidecar.client();
    client.works();
    assert!(own.server.backends(&own.database).len() <= 4 + 10);
}

#[test]
fn a_server_that_hangs() {
    let change = |policy: Policy| {
        let policy = policy.set("pool.size", 2).set("pool.maxOverflow", 0).set("timeouts.acquire", "1s");
        policy.set("timeouts.connect", "1s").set("health.timeout", "1s").set("health.interval", "1s")
    };
    let Some(own) = own(change) else { return };
    let (mut one, mut two, mut three) = (own.sidecar.client(), own.sidecar.client(), own.sidecar.client());
    one.works();
    two.works();
    own.server.signal_all("STOP");
    one.send(&[fe::query("SELECT 'one'")]);
    two.send(&[fe::query("SELECT 'two'")]);
    // Both servers are taken, if they were lent at all; a third is told in time.
    let start = Instant::now();
    let error = three.query("SELECT 'three'").unwrap_err();
    assert!(error.code == "53300" || error.code.starts_with("08"), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // The sidecar itself answers, and says that it is not well.
    eventually("the health check sees it", || own.sidecar.get("/api/health").1.contains("\"status\":\""));
    assert_eq!(own.sidecar.get("/livez").0, 200);
    own.server.signal_all("CONT");
    eventually("service again", || own.sidecar.connect().open().is_ok_and(|mut c| c.query("SELECT 1").is_ok()));
    for client in [&mut one, &mut two] {
        // Answered late, or told an error; the connection is usable or closed, never out of step.
        match client.poll_message(client.timeout()).expect("no answer at all") {
            Some(message) if message.tag == b'T' => drop(client.expect("D C Z:I")),
            Some(message) => assert_eq!(message.tag, b'E', "{message:?}"),
            None => {}
        }
    }
    own.sidecar.client().works();
}

/// A connect that hangs (a server that accepts and says nothing) holds up nobody whom another can serve.
#[test]
fn a_connect_that_hangs() {
    let change = |policy: Policy| {
        let policy = policy.set("pool.size", 2).set("pool.maxOverflow", 0).set("pool.prePing", false);
        policy.set("timeouts.connect", "2s").set("timeouts.acquire", "1s").set("health.interval", "60s")
    };
    let Some(own) = own(change) else { return };
    let (mut one, mut two) = (own.sidecar.client(), own.sidecar.client());
    one.rows("BEGIN");
    // The postmaster alone hangs: open sessions go on, new ones do not come about.
    process::signal(own.server.pid(), "STOP");
    let waited = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let start = Instant::now();
            two.query("SELECT 'two'").map(|_| start.elapsed())
        });
        thread::sleep(Duration::from_millis(300));
        one.rows("COMMIT");
        asking.join().unwrap()
    });
    process::signal(own.server.pid(), "CONT");
    let waited = waited.expect("the connection that came back was not given to the waiting client");
    assert!(waited < Duration::from_millis(900), "{waited:?}");
}
