//! 6.1 Cancel.

use crate::support::hostile::{self, Server};
use crate::support::wire::{Canceller, Client};
use crate::support::{Bed, PATIENCE, Policy, Postgres, Sidecar, bed, eventually, fe};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What a fake server saw, in order.
type Events = Arc<Mutex<Vec<String>>>;

fn saw(events: &Events, what: &str) -> bool {
    events.lock().unwrap().iter().any(|event| event == what)
}

fn note(events: &Events, what: &str) {
    events.lock().unwrap().push(what.to_owned());
}

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
    let seen = Arc::clone(&events);
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            note(&seen, "cancel");
            thread::sleep(Duration::from_millis(400));
            note(&seen, "cancel closed");
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if sql.contains("'first'") {
                note(&seen, "first");
                eventually("the cancel", || saw(&seen, "cancel"));
            } else if sql.contains("'second'") {
                note(&seen, "second");
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
    eventually("the first query", || saw(&events, "first"));
    let canceller = first.canceller();
    thread::scope(|scope| {
        scope.spawn(|| canceller.send());
        first.expect("T D:1 C Z:I");
        second.send(&[fe::query("SELECT 'second'")]);
        second.expect("T D:1 C Z:I");
    });
    let events = events.lock().unwrap();
    let at = |what: &str| events.iter().position(|event| event == what).unwrap();
    assert!(at("second") > at("cancel closed"), "{events:?}");
}

/// A cancel while the pooler itself asks the server something (here: its ping before lending) must
/// not hit that.
#[test]
fn case_02_cancel_does_not_hit_the_poolers_own_query() {
    let events = Events::default();
    let seen = Arc::clone(&events);
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            note(&seen, "cancel");
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if !sql.contains("'mine'") && saw(&seen, "armed") {
                note(&seen, "ping");
                thread::sleep(Duration::from_millis(500));
                assert!(!saw(&seen, "cancel"), "the pooler's own query was cancelled");
                note(&seen, "ping done");
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
    // Silent for longer than a connection goes unpinged.
    thread::sleep(Duration::from_millis(900));
    note(&events, "armed");
    client.send(&[fe::query("SELECT 'mine'")]);
    eventually("the ping", || saw(&events, "ping"));
    client.canceller().send();
    // Cancelled while it waited, or answered: both are right. The ping goes on.
    let first = client.message();
    assert!(matches!(first.tag, b'E' | b'T'), "{first:?}");
    client.expect(if first.tag == b'E' { "Z:I" } else { "D:1 C Z:I" });
    eventually("the ping's end", || saw(&events, "ping done"));
    let mut other = sidecar.client();
    other.send(&[fe::query("SELECT 'mine'")]);
    other.expect("T D:1 C Z:I");
    assert!(!events.lock().unwrap().iter().skip_while(|event| *event != "ping").any(|event| event == "cancel"));
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
        let end = Instant::now() + Duration::from_secs(2);
        let mut logins = 0;
        while Instant::now() < end {
            let start = Instant::now();
            bed.client().works();
            assert!(start.elapsed() < PATIENCE / 2, "a login took {:?}", start.elapsed());
            logins += 1;
            victim.query("SELECT 1").ok();
        }
        stop.store(true, Ordering::Relaxed);
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
    let seen = Arc::clone(&events);
    let server = Server::start(move |session, _| {
        let login = session.login();
        if session.cancelled.is_some() {
            note(&seen, "cancel");
            thread::sleep(Duration::from_secs(5));
            return Ok(());
        }
        login?;
        session.serve_with(|sql| {
            if sql.contains("'slow'") {
                note(&seen, "slow");
                eventually("a cancel", || saw(&seen, "cancel"));
                thread::sleep(Duration::from_secs(1));
            }
            None
        })
    });
    let sidecar = Sidecar::start(&Policy::new(server.port, "db").set("pool.size", 2).set("pool.maxOverflow", 0));
    let mut client = sidecar.client();
    client.send(&[fe::query("SELECT 'slow'")]);
    eventually("the query", || saw(&events, "slow"));
    let canceller = client.canceller();
    for _ in 0..300 {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", sidecar.port)).unwrap();
        socket.write_all(&fe::cancel(canceller.pid, &canceller.key)).unwrap();
    }
    sidecar.client().rows("SELECT 1");
    client.expect("T D:1 C Z:I");
    let cancels = events.lock().unwrap().iter().filter(|event| *event == "cancel").count();
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
    thread::sleep(Duration::from_millis(100));
    client.canceller().send();
    client.expect("T* E:57014 Z:I");
    client.works();
    // More bytes behind the request are no reason for an answer either.
    let mut raw = bed.connect().raw().unwrap();
    let _ = raw.write(&[fe::cancel(client.pid, &client.key), fe::query("SELECT 1")].concat());
    raw.expect_end(None);
    client.works();
}

#[test]
fn case_06_server_without_backend_key_data() {
    if bed::is_direct() {
        return;
    }
    let events = Events::default();
    let seen = Arc::clone(&events);
    let server = Server::start(move |session, _| {
        let startup = session.startup();
        if session.cancelled.is_some() {
            note(&seen, "cancel");
        }
        startup?;
        session.send(&[hostile::authentication(0, &[]), hostile::usual_parameters(), hostile::ready(b'I')])?;
        session.serve_with(|sql| {
            if sql.contains("'slow'") {
                note(&seen, "slow");
                thread::sleep(Duration::from_millis(300));
            }
            None
        })
    });
    let sidecar = Sidecar::start(&Policy::new(server.port, "db"));
    let mut client = sidecar.client();
    client.send(&[fe::query("SELECT 'slow'")]);
    eventually("the query", || saw(&events, "slow"));
    client.canceller().send();
    client.expect("T D:1 C Z:I");
    assert!(!saw(&events, "cancel"), "there is no key to cancel with");
}

#[test]
fn case_07_long_keys_of_protocol_3_2() {
    let bed = Bed::on(Postgres::shared_18(), |policy| policy);
    for (minor, length) in [(0, 4), (2, 32)] {
        let mut client = bed.connect().minor(minor).open().unwrap();
        assert_eq!(client.key.len(), length, "3.{minor}");
        assert!(client.negotiated.is_empty());
        client.send(&[fe::query("SELECT pg_sleep(30)")]);
        thread::sleep(Duration::from_millis(100));
        client.canceller().send();
        client.expect("T* E:57014 Z:I");
        client.works();
    }
}

/// A server's key is given back to it byte for byte, whatever its length.
#[test]
fn case_07_server_keys_of_any_length_are_kept() {
    if bed::is_direct() {
        return;
    }
    for length in [4, 32, 256] {
        let sent: Vec<u8> = (0..length).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        let (events, key) = (Events::default(), sent.clone());
        let got = Arc::new(Mutex::new(None));
        let (seen, answer) = (Arc::clone(&events), Arc::clone(&got));
        let server = Server::start(move |session, _| {
            let startup = session.startup();
            if let Some(cancel) = session.cancelled.take() {
                *answer.lock().unwrap() = Some(cancel);
            }
            startup?;
            // Keys of another length than 4 exist since protocol 3.2 only.
            let key = if session.minor < 2 { &key[..4] } else { &key[..] };
            session.send(&[
                hostile::authentication(0, &[]),
                hostile::usual_parameters(),
                hostile::key(4711, key),
                hostile::ready(b'I'),
            ])?;
            session.serve_with(|sql| {
                if sql.contains("'slow'") {
                    note(&seen, "slow");
                    thread::sleep(Duration::from_millis(500));
                }
                None
            })
        });
        let sidecar = Sidecar::start(&Policy::new(server.port, "db"));
        let mut client = sidecar.client();
        client.send(&[fe::query("SELECT 'slow'")]);
        eventually("the query", || saw(&events, "slow"));
        client.canceller().send();
        client.expect("T D:1 C Z:I");
        let got = got.lock().unwrap().clone().expect("no cancel came");
        let want = if got.1.len() == 4 { &sent[..4] } else { &sent[..] };
        assert_eq!((got.0, &got.1[..]), (4711, want));
        assert!(length == 4 || got.1.len() > 4, "the pooler does not ask for protocol 3.2");
    }
}

#[test]
fn case_08_wrong_keys_are_closed_silently() {
    for minor in [0, 2] {
        let bed = Bed::on(Postgres::shared_18(), |policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0));
        let mut client = bed.connect().minor(minor).open().unwrap();
        client.send(&[fe::query("SELECT pg_sleep(1)")]);
        thread::sleep(Duration::from_millis(100));
        let right = client.canceller();
        let wrong = |change: &dyn Fn(&mut Canceller)| {
            let mut canceller = right.clone();
            change(&mut canceller);
            canceller.send();
        };
        wrong(&|c| c.key[0] ^= 1);
        wrong(&|c| *c.key.last_mut().unwrap() ^= 0x80);
        wrong(&|c| c.key.push(0));
        wrong(&|c| c.key.truncate(3));
        wrong(&|c| c.key.clear());
        wrong(&|c| c.key = vec![0; 256]);
        wrong(&|c| c.pid = c.pid.wrapping_add(1));
        wrong(&|c| c.pid = 0);
        wrong(&|c| c.pid = u32::MAX);
        client.expect("T D: C:SELECT_1 Z:I");
        client.works();
    }
}

#[test]
fn case_09_no_peering_between_sidecars() {
    let pg = Postgres::shared();
    let beds = [Bed::on(Arc::clone(&pg), |policy| policy), Bed::on(pg, |policy| policy)];
    if bed::is_direct() {
        return;
    }
    let mut client = beds[0].client();
    client.send(&[fe::query("SELECT pg_sleep(0.5)")]);
    thread::sleep(Duration::from_millis(100));
    let mut elsewhere = beds[1].client().canceller();
    (elsewhere.pid, elsewhere.key) = (client.pid, client.key.clone());
    elsewhere.send();
    client.expect("T D: C:SELECT_1 Z:I");
    client.works();
}
