//! 6.7 The pool: idle servers, timeouts, reload (69, 70, 74, 76–78).

use crate::support::hostile::{self, Server};
use crate::support::{Bed, Launch, Options, PATIENCE, Policy, Postgres, Sidecar, always, bed, eventually, fe, pg};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Has so many servers open at once, so that they lie idle afterwards.
fn warm(bed: &Bed, servers: usize) {
    let mut clients: Vec<_> = (0..servers).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
    clients.iter_mut().for_each(|client| drop(client.rows("COMMIT")));
    assert_eq!(bed.backends().len(), servers);
}

fn terminate_all(bed: &Bed) {
    let (database, old) = (&bed.database, bed.backends());
    bed.pg.admin("postgres").rows(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}' \
         AND backend_type = 'client backend'"
    ));
    // Others may have come: the pooler asks its own questions.
    eventually("the servers are gone", || !bed.backends().iter().any(|pid| old.contains(pid)));
}

#[test]
fn case_69_idle_servers_that_were_closed_are_noticed() {
    for ping in [false, true] {
        let bed = Bed::with(|policy| policy.set("pool.size", 3).set("pool.maxOverflow", 0).set("pool.prePing", ping));
        if bed::is_direct() {
            return;
        }
        let mut client = bed.client();
        for _ in 0..3 {
            warm(&bed, 3);
            terminate_all(&bed);
            for _ in 0..5 {
                client.works();
            }
        }
    }
}

/// Bytes that nobody asked for lie in the socket of an idle server: it is not lent.
#[test]
fn case_69_idle_servers_with_pending_bytes_are_noticed() {
    if bed::is_direct() {
        return;
    }
    let junk: [(&str, Vec<u8>); 4] = [
        ("a fatal error", hostile::error(&[(b'S', "FATAL"), (b'C', "57P01"), (b'M', "bye")])),
        ("a row", hostile::row(&["stale"])),
        ("half a message", vec![b'D', 0, 0, 0, 200, 0]),
        ("no protocol at all", vec![0xff; 64]),
    ];
    for (what, bytes) in junk {
        let served = Arc::new(Mutex::new(vec![]));
        let numbers = Arc::clone(&served);
        let server = Server::start(move |session, number| {
            session.login()?;
            let stream = session.stream.try_clone()?;
            let (seen, bytes) = (Arc::clone(&numbers), bytes.clone());
            session.serve_with(move |sql| {
                if sql.contains("'mine'") {
                    let mut seen = seen.lock().unwrap();
                    seen.push(number);
                    if seen.len() == 1 {
                        let (mut stream, bytes) = (stream.try_clone().unwrap(), bytes.clone());
                        thread::spawn(move || {
                            thread::sleep(Duration::from_millis(100));
                            let _ = io::Write::write_all(&mut stream, &bytes);
                        });
                    }
                }
                None
            })
        });
        let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
        let sidecar = Sidecar::start(&policy.set("pool.prePing", false).set("health.interval", "60s"));
        let mut client = sidecar.client();
        client.send(&[fe::query("SELECT 'mine'")]);
        client.expect("T D:1 C Z:I");
        thread::sleep(Duration::from_millis(250));
        client.send(&[fe::query("SELECT 'mine'")]);
        client.expect("T D:1 C Z:I");
        let served = served.lock().unwrap();
        assert!(served.len() == 2 && served[0] != served[1], "{what}: {served:?}");
    }
}

/// What a server may say at any time is no reason to give it up.
#[test]
fn case_69_notices_and_parameters_while_idle_are_consumed() {
    // Of its own: reading its configuration again tells every session.
    let server = Arc::new(Postgres::start(&Options::default()));
    let bed = Bed::on(server, |policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0));
    let mut client = bed.client();
    let before = client.backend();
    // A server tells of its new configuration when it is next asked something: here by the client.
    if let Some(sidecar) = bed.sidecar() {
        eventually("the catalog was read", || sidecar.status()["pools"][0]["catalog"]["verdict"] == "quiet");
    }
    bed.pg.configure(&["DateStyle = 'ISO, DMY'"]);
    thread::sleep(Duration::from_millis(300));
    client.works();
    assert_eq!(client.value("SHOW DateStyle"), "ISO, DMY");
    assert_eq!(client.backend(), before);
    assert_eq!(client.parameter("DateStyle"), Some("ISO, DMY"), "the client was not told");
}

/// A promotion is told to every session; it is nobody's setting and binds no client to its server.
#[test]
fn case_69_a_promotion_binds_nobody() {
    if bed::is_direct() {
        return;
    }
    let server = Server::start(|session, _| {
        session.login()?;
        session.serve_with(|sql| {
            let rows = [hostile::columns(&["v"]), hostile::row(&["1"]), hostile::complete("SELECT 1")].concat();
            let told = [hostile::parameter("in_hot_standby", "off"), rows, hostile::ready(b'I')].concat();
            sql.contains("'promoted'").then_some(told)
        })
    });
    let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
    let sidecar = Sidecar::start(&policy);
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    for client in [&mut one, &mut two] {
        client.send(&[fe::query("SELECT 'promoted'")]);
        client.expect("S T D:1 C Z:I");
    }
    assert_eq!(one.value("SELECT 1"), "1");
}

#[test]
fn case_70_statement_timeout() {
    let bed =
        Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("timeouts.statement", "400ms"));
    if bed::is_direct() {
        return;
    }
    let mut client = bed.client();
    let server = client.backend();
    // Nothing runs: nothing ends.
    thread::sleep(Duration::from_millis(900));
    client.works();
    client.rows("BEGIN");
    thread::sleep(Duration::from_millis(900));
    assert_eq!(client.value("SELECT 1"), "1");
    client.rows("COMMIT");
    for _ in 0..3 {
        assert_eq!(client.query("SELECT pg_sleep(5)").unwrap_err().code, "57014");
        client.send(&[fe::extended("SELECT pg_sleep($1)", &["5"])]);
        client.expect("1 2 T E:57014 Z:I");
        client.works();
    }
    assert_eq!(client.backend(), server, "a statement timeout is no fault of the server's");
    // It is a default that the client may change, and comes back to.
    client.rows("SET statement_timeout = '5s'");
    client.rows("SELECT pg_sleep(0.6)");
    client.rows("RESET statement_timeout");
    assert_eq!(client.value("SHOW statement_timeout"), "400ms");
    drop(client);
    let mut next = bed.connect().param("statement_timeout", "3s").open().unwrap();
    assert_eq!(next.value("SHOW statement_timeout"), "3s");
    assert_eq!(bed.client().value("SHOW statement_timeout"), "400ms");
}

#[test]
fn case_74_reload_with_an_invalid_value_changes_nothing() {
    let mut bed = Bed::sized(2);
    if bed::is_direct() {
        return;
    }
    let mut client = bed.client();
    let server = client.backend();
    let database = bed.database.clone();
    let sidecar = bed.sidecar_mut().unwrap();
    let good = sidecar.policy.clone();
    let bad = [
        good.clone().set("pool.size", -3).yaml(),
        good.clone().set("pool.size", "many").yaml(),
        good.clone().set("pool.sise", 3).yaml(),
        good.clone().set("pool.minIdle", 3).yaml(),
        good.clone().set("timeouts.acquire", "soon").yaml(),
        good.yaml().replace("kind:", "kind: ["),
    ];
    for (n, text) in bad.iter().enumerate() {
        sidecar.save(text);
        eventually("the rejection", || {
            sidecar.metric("poolkeeper_reloads_total{result=\"rejected\"}") > f64::from(u32::try_from(n).unwrap())
        });
        assert_eq!(sidecar.health()["size"], 2, "{text}");
        client.works();
    }
    assert!(sidecar.log().contains("spec.pool.size"), "the log does not say what is wrong");
    // One good among the reloads still works, and the connections are the same.
    sidecar.apply(|policy| policy.set("pool.size", 3));
    eventually("the new size", || sidecar.health()["size"] == 3);
    client.works();
    assert!(bed.pg.backends(&database).contains(&server));
}

#[test]
fn case_74_reload_without_a_change_touches_no_connection() {
    let bed = Bed::sized(3);
    let Some(sidecar) = bed.sidecar() else { return };
    warm(&bed, 3);
    let before = bed.backends();
    let mut client = bed.client();
    for _ in 0..5 {
        sidecar.save(&sidecar.policy.yaml());
        sidecar.save_credentials(pg::USER, pg::PASSWORD);
        sidecar.signal("HUP");
        thread::sleep(Duration::from_millis(50));
        client.works();
    }
    assert_eq!(bed.backends(), before);
}

#[test]
fn case_76_min_idle_above_the_limit_and_no_thrash() {
    if bed::is_direct() {
        return;
    }
    let server = Server::start(|session, _| {
        session.login()?;
        session.serve()
    });
    // Equal to the limit, with idle ones ended quickly, and under load: opened once each.
    let policy = Policy::new(server.port, "db")
        .set("pool.size", 3)
        .set("pool.maxOverflow", 0)
        .set("pool.minIdle", 3)
        .set("pool.idleTimeout", "1s")
        .set("health.interval", "1s")
        .set("health.timeout", "1s");
    let mut sidecar = Sidecar::start(&policy);
    eventually("three servers", || sidecar.health()["total_connections"] == 3);
    let opened = server.accepted();
    let mut client = sidecar.client();
    always("nothing is opened or closed", Duration::from_millis(3_500), || {
        client.rows("SELECT 1");
        sidecar.health()["total_connections"] == 3
    });
    // The health query's own login may have taken one of another set's.
    assert!(server.accepted() <= opened + 3, "{} connections opened", server.accepted());
    // Above the limit: said so, and nothing changes.
    let text = sidecar.policy.clone().set("pool.minIdle", 4).yaml();
    sidecar.save(&text);
    eventually("the rejection", || sidecar.metric("poolkeeper_reloads_total{result=\"rejected\"}") > 0.0);
    assert!(sidecar.log().contains("minIdle"), "the log does not name the field");
    // With two at least, the third ends once and is not opened again. (While the health query has one of
    // the two, a third may be opened: it asks seldom now.)
    sidecar.apply(|policy| policy.set("pool.minIdle", 2).set("health.interval", "60s"));
    eventually("two servers", || sidecar.health()["total_connections"] == 2);
    always("it stays at that", Duration::from_millis(2_500), || sidecar.health()["total_connections"] == 2);
}

#[test]
fn case_77_read_only_errors_make_a_server_suspect() {
    // A client's own READ ONLY transaction: its server stays.
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.rows("CREATE TABLE t (a int)");
    let server = client.backend();
    for _ in 0..3 {
        client.rows("BEGIN READ ONLY");
        assert_eq!(client.query("INSERT INTO t VALUES (1)").unwrap_err().code, "25006");
        client.rows("ROLLBACK");
        client.works();
    }
    assert_eq!(client.backend(), server);
    if bed::is_direct() {
        return;
    }
    // A server that says so because it is a standby now: it was a primary at login.
    for standby in [true, false] {
        let (asked, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(vec![])));
        let (count, numbers) = (Arc::clone(&asked), Arc::clone(&served));
        let demoted = Arc::new(AtomicBool::new(false));
        let server = Server::start(move |session, number| {
            session.login()?;
            session.serve_with(|sql| {
                if sql.contains("INSERT") {
                    numbers.lock().unwrap().push(number);
                    if !demoted.swap(true, Ordering::SeqCst) {
                        let fields = [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "25006"), (b'M', "read-only")];
                        return Some([hostile::error(&fields), hostile::ready(b'I')].concat());
                    }
                } else if sql.contains("pg_is_in_recovery") {
                    count.fetch_add(1, Ordering::SeqCst);
                    let value = if standby && *numbers.lock().unwrap() == [number] { "t" } else { "f" };
                    let rows = [hostile::columns(&["pg_is_in_recovery"]), hostile::row(&[value])];
                    return Some([rows.concat(), hostile::complete("SELECT 1"), hostile::ready(b'I')].concat());
                }
                None
            })
        });
        let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
        let sidecar = Sidecar::start(&policy.set("health.interval", "60s"));
        let mut client = sidecar.client();
        client.send(&[fe::query("INSERT")]);
        client.expect("E:25006 Z:I");
        client.send(&[fe::query("INSERT")]);
        client.expect("C Z:I");
        assert_eq!(asked.load(Ordering::SeqCst), 1, "asked once, when it was suspect");
        let served = served.lock().unwrap();
        assert!(served.len() == 2 && (served[0] != served[1]) == standby, "{served:?}");
    }
}

/// A fake server at one address that says who it is.
fn named(address: &str, port: u16, name: &'static str) -> Server {
    Server::start_at(address, port, move |session, _| {
        session.login()?;
        session.serve_with(|sql| {
            let rows = [hostile::columns(&["name"]), hostile::row(&[name])].concat();
            let answer = [rows, hostile::complete("SELECT 1"), hostile::ready(b'I')].concat();
            sql.contains("'who'").then_some(answer)
        })
    })
}

#[test]
fn case_78_another_dns_answer() {
    if bed::is_direct() {
        return;
    }
    let old = named("127.0.0.2", 0, "old");
    let new = named("127.0.0.3", old.port, "new");
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), "127.0.0.2 db.test\n127.0.0.1 localhost\n").unwrap();
    let policy = Policy::new(old.port, "db")
        .set("database.host", "db.test")
        .set("pool.size", 2)
        .set("pool.maxOverflow", 0)
        .set("health.interval", "1s")
        .set("health.timeout", "1s");
    let sidecar = Launch::new(&policy).hosts(hosts.path()).start();
    let (mut first, mut second) = (sidecar.client(), sidecar.client());
    assert_eq!(first.value("SELECT 'who'"), "old");
    first.rows("BEGIN");
    std::fs::write(hosts.path(), "127.0.0.3 db.test\n127.0.0.1 localhost\n").unwrap();
    assert_eq!(first.value("SELECT 'who'"), "old");
    first.rows("COMMIT");
    // The old ones are given up without anybody's query failing.
    let end = Instant::now() + PATIENCE;
    while (0..4).any(|_| first.value("SELECT 'who'") == "old" || second.value("SELECT 'who'") == "old") {
        assert!(Instant::now() < end, "still served by the old address");
        thread::sleep(Duration::from_millis(100));
    }
    let before = old.accepted();
    sidecar.connect().param("TimeZone", "Asia/Tokyo").open().unwrap();
    assert!(old.accepted() == before && new.accepted() >= 1, "connected to the old address again");
}
