//! 6.1 Cancel (1–5).

use crate::support::hostile::{Events, Server};
use crate::support::wire::Client;
use crate::support::{Bed, PATIENCE, Policy, Sidecar, bed, eventually, fe};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Sends Query and reads its answer: the SQLSTATE of its error, if any.
fn outcome(client: &mut Client, sql: &str) -> Option<String> {
    client.query(sql).err().map(|error| error.code)
}

#[test]
fn case_01_cancel_never_hits_another_clients_query() {
    let bed = Bed::sized(1);
    let mut victim = bed.client();
    let canceller = victim.canceller();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // However this ends, the helpers end with it.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for _ in 0..2 {
            let canceller = canceller.clone();
            scope.spawn(|| {
                let canceller = canceller;
                while !stop.load(Ordering::Relaxed) {
                    canceller.send();
                }
            });
        }
        let bystander = scope.spawn(|| {
            let mut client = bed.client();
            for n in 0..300 {
                // Long enough to be hit by a late cancel, short enough for many tries.
                let rows = client.query(&format!("SELECT {n} FROM pg_sleep(0.002)"));
                assert_eq!(rows.expect("a cancel meant for another"), [[Some(n.to_string())]]);
            }
        });
        let mut cancelled = 0;
        while !bystander.is_finished() {
            match outcome(&mut victim, "SELECT pg_sleep(0.003)").as_deref() {
                None => {}
                Some("57014") => cancelled += 1,
                Some(other) => panic!("{other}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        bystander.join().unwrap();
        assert!(cancelled > 0, "no cancel ever arrived");
    });
    victim.works();
}

/// The server is lent to nobody while the cancel connection is open: PostgreSQL may act on it until
/// it has closed it.
#[test]
fn case_01_server_is_kept_until_the_cancel_connection_is_closed() {
    let events = Events::default();
    let seen = events.clone();
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            seen.note("cancel");
            thread::sleep(Duration::from_millis(400));
            seen.note("cancel closed");
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if sql.contains("'first'") {
                seen.note("first");
                eventually("the cancel", || seen.saw("cancel"));
            } else if sql.contains("'second'") {
                seen.note("second");
            }
            None
        })
    });
    if bed::is_direct() {
        return;
    }
    let sidecar = Sidecar::start(&Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0));
    let (mut first, mut second) = (sidecar.client(), sidecar.client());
    first.send(&[fe::query("SELECT 'first'")]);
    eventually("the first query", || events.saw("first"));
    let canceller = first.canceller();
    thread::scope(|scope| {
        scope.spawn(|| canceller.send());
        first.expect("T D:1 C Z:I");
        second.send(&[fe::query("SELECT 'second'")]);
        second.expect("T D:1 C Z:I");
    });
    let events = events.all();
    let at = |what: &str| events.iter().position(|event| event == what).unwrap();
    assert!(at("second") > at("cancel closed"), "{events:?}");
}

/// A cancel while the pooler itself asks the server something (here: its ping before lending) must
/// not hit that.
#[test]
fn case_02_cancel_does_not_hit_the_poolers_own_query() {
    let events = Events::default();
    let seen = events.clone();
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            seen.note("cancel");
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if sql.trim_end_matches('\0').is_empty() && seen.saw("armed") {
                seen.note("ping");
                thread::sleep(Duration::from_millis(500));
                assert!(!seen.saw("cancel"), "the pooler's own query was cancelled");
                seen.note("ping done");
            }
            None
        })
    });
    if bed::is_direct() {
        return;
    }
    let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
    let sidecar = Sidecar::start(&policy.set("pool.prePing", true).set("health.interval", "60s"));
    let mut client = sidecar.client();
    client.send(&[fe::query("SELECT 'mine'")]);
    client.expect("T D:1 C Z:I");
    events.note("armed");
    // Silent for longer than a connection goes unpinged, unless the pooler asks for something of its own meanwhile.
    eventually("the ping", || {
        thread::sleep(Duration::from_millis(900));
        client.send(&[fe::query("SELECT 'mine'")]);
        thread::sleep(Duration::from_millis(100));
        let pinged = events.saw("ping");
        if !pinged {
            client.expect("T D:1 C Z:I");
        }
        pinged
    });
    client.canceller().send();
    // Cancelled while it waited, or answered: both are right. The ping goes on.
    let first = client.message();
    assert!(matches!(first.tag, b'E' | b'T'), "{first:?}");
    client.expect(if first.tag == b'E' { "Z:I" } else { "D:1 C Z:I" });
    eventually("the ping's end", || events.saw("ping done"));
    let mut other = sidecar.client();
    other.send(&[fe::query("SELECT 'mine'")]);
    other.expect("T D:1 C Z:I");
    assert!(!events.all().iter().skip_while(|event| *event != "ping").any(|event| event == "cancel"));
}

/// The same for the scrub after a client with session state has gone.
#[test]
fn case_02_cancel_does_not_hit_the_scrub() {
    let bed = Bed::sized(1);
    for _ in 0..20 {
        let mut client = bed.client();
        client.rows("SET application_name = 'mine'");
        let canceller = client.canceller();
        client.send(&[fe::terminate()]);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| canceller.send());
            }
            let mut next = bed.client();
            assert_ne!(next.value("SHOW application_name"), "mine");
            next.works();
        });
    }
}

#[test]
fn case_03_cancel_of_a_waiting_client_touches_no_server() {
    let bed = Bed::sized(1);
    let Some(sidecar) = bed.sidecar() else { return };
    let (mut holder, mut waiting, mut behind) = (bed.client(), bed.client(), bed.client());
    holder.send(&[fe::query("BEGIN; SELECT pg_sleep(1)")]);
    eventually("the holder sleeps", || sidecar.health()["checked_out"] == 1);
    thread::sleep(Duration::from_millis(50));
    waiting.send(&[fe::query("SELECT 'never'")]);
    behind.send(&[fe::query("SELECT 'behind'")]);
    waiting.expect_silence(Duration::from_millis(100));
    waiting.canceller().send();
    waiting.expect("E:57014 Z:I");
    // The holder's query was not cancelled, the next in the queue is served.
    holder.expect("C:BEGIN T D C:SELECT_1 Z:T");
    behind.expect_silence(Duration::from_millis(50));
    holder.rows("COMMIT");
    behind.expect("T D:behind C:SELECT_1 Z:I");
    waiting.works();
    // The same in the extended protocol: everything up to Sync is answered by one error.
    holder.rows("BEGIN");
    waiting.send(&[fe::extended("SELECT $1::int", &["1"])]);
    waiting.expect_silence(Duration::from_millis(100));
    waiting.canceller().send();
    waiting.expect("E:57014 Z:I");
    holder.rows("COMMIT");
    waiting.works();
}

/// Sets it when it goes, be it by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn case_04_cancel_flood_is_bounded_and_starves_no_login() {
    let bed = Bed::sized(2);
    let mut victim = bed.client();
    let stop = AtomicBool::new(false);
    let fds = |pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let before = bed.sidecar().map(|sidecar| fds(sidecar.pid()));
    thread::scope(|scope| {
        for n in 0..8u32 {
            let mut canceller = victim.canceller();
            if n % 2 == 0 {
                canceller.key = n.to_be_bytes().to_vec();
            }
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    canceller.send();
                }
            });
        }
        // Whatever happens: a flood without end would take the ports of the tests that follow.
        let stopped = Stop(&stop);
        let end = Instant::now() + Duration::from_secs(2);
        let mut logins = 0;
        while Instant::now() < end {
            let start = Instant::now();
            bed.client().works();
            assert!(start.elapsed() < PATIENCE / 2, "a login took {:?}", start.elapsed());
            logins += 1;
            victim.query("SELECT 1").ok();
        }
        drop(stopped);
        assert!(logins > 5, "only {logins} logins in two seconds");
    });
    victim.works();
    if let (Some(sidecar), Some(before)) = (bed.sidecar(), before) {
        eventually("the cancel connections are closed", || fds(sidecar.pid()) <= before + 4);
    }
}

/// Cancel connections to a server that hangs must not pile up without bound.
#[test]
fn case_04_cancels_to_a_hung_server_do_not_pile_up() {
    if bed::is_direct() {
        return;
    }
    let events = Events::default();
    let seen = events.clone();
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            seen.note("cancel");
            thread::sleep(Duration::from_secs(5));
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if sql.contains("'slow'") {
                seen.note("slow");
                eventually("a cancel", || seen.saw("cancel"));
                thread::sleep(Duration::from_secs(1));
            }
            None
        })
    });
    let sidecar = Sidecar::start(&Policy::new(server.port, "db").set("pool.size", 2).set("pool.maxOverflow", 0));
    let mut client = sidecar.client();
    client.send(&[fe::query("SELECT 'slow'")]);
    eventually("the query", || events.saw("slow"));
    let canceller = client.canceller();
    for _ in 0..300 {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", sidecar.port)).unwrap();
        socket.write_all(&fe::cancel(canceller.pid, &canceller.key)).unwrap();
    }
    sidecar.client().rows("SELECT 1");
    client.expect("T D:1 C Z:I");
    let cancels = events.all().iter().filter(|event| *event == "cancel").count();
    assert!((1..=16).contains(&cancels), "{cancels} connections to cancel one query");
}

#[test]
fn case_05_cancel_connection_gets_no_reply() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    // Idle, running, unknown: Canceller::send asserts that nothing but the end comes.
    client.canceller().send();
    client.works();
    client.send(&[fe::query("SELECT pg_sleep(30)")]);
    client.cancel_running();
    client.expect("T* E:57014 Z:I");
    client.works();
    // More bytes behind the request are no reason for an answer either.
    let mut raw = bed.connect().raw().unwrap();
    let _ = raw.write(&[fe::cancel(client.pid, &client.key), fe::query("SELECT 1")].concat());
    raw.expect_end(None);
    client.works();
}
