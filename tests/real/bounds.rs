//! Bounds: memory with lying lengths and readers that never read, clients, idle ones, logins.

use crate::support::hostile::Server;
use crate::support::{Bed, Policy, Sidecar, bed, eventually, fe, process};
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

const MB: u64 = 1_000_000;

/// Grows by less than `most` while `work` is done.
fn bounded(sidecar: &Sidecar, most: u64, what: &str, work: impl FnOnce()) {
    let before = process::resident(sidecar.pid());
    let done = std::sync::atomic::AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = before;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                peak = peak.max(process::resident(sidecar.pid()));
                thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        work();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        watch.join().unwrap()
    });
    let grown = peak.saturating_sub(before);
    assert!(grown < most, "{what}: grew by {} MB", grown / MB);
}

#[test]
fn clients_with_lying_lengths() {
    let bed = Bed::sized(2);
    let Some(sidecar) = bed.sidecar() else { return };
    bed.client().works();
    bounded(sidecar, 60 * MB, "messages of a gigabyte that are never sent", || {
        let mut liars = vec![];
        for n in 0..60u8 {
            let mut client = bed.client();
            let tag = b"QPBDECFdcfHSpX\0\xff"[usize::from(n) % 16];
            let length: u32 = [0x3fff_ffff, 0x7fff_ffff, 0xffff_ffff, 3, 0, 0x0100_0000][usize::from(n) % 6];
            let _ = client.write(&[&[tag][..], &length.to_be_bytes(), b"x\0x"].concat());
            liars.push(client);
        }
        bed.client().works();
        thread::sleep(Duration::from_millis(300));
    });
    // Large and true: passes through in pieces.
    bounded(sidecar, 60 * MB, "a query of 100 MB", || {
        let mut client = bed.client();
        let sql = format!("SELECT 1 /* {} */", "x".repeat(100_000_000));
        client.send(&[fe::query(&sql)]);
        client.expect("T D:1 C Z:I");
        client.works();
    });
    bed.client().works();
}

#[test]
fn readers_that_never_read() {
    let bed = Bed::sized(10);
    let Some(sidecar) = bed.sidecar() else { return };
    bounded(sidecar, 60 * MB, "ten clients that do not read 200 MB each", || {
        let mut deaf: Vec<_> = (0..9).map(|_| bed.client()).collect();
        for client in &mut deaf {
            client.send(&[fe::query("SELECT repeat('x', 1000000) FROM generate_series(1, 200)")]);
        }
        thread::sleep(Duration::from_millis(500));
        bed.client().works();
        // And one that writes a pipeline and never reads its answers.
        let mut client = deaf.pop().unwrap();
        client.socket.set_write_timeout(Duration::from_millis(500));
        let many = fe::query("SELECT repeat('y', 10000)").repeat(100);
        while client.write(&many).is_ok() {}
        bed.client().works();
    });
    eventually("all servers are back", || sidecar.health()["checked_out"] == 0);
    bed.client().works();
}

#[test]
fn servers_with_lying_lengths() {
    if bed::is_direct() {
        return;
    }
    let server = Server::start(|session, number| {
        session.login()?;
        session.serve_with(|sql| {
            sql.contains("'mine'").then(|| match number % 3 {
                // A row of a gigabyte, of which half comes.
                0 => [vec![b'D', 0x3f, 0xff, 0xff, 0xff], vec![0; 50_000_000]].concat(),
                // Less than its own length.
                1 => vec![b'D', 0, 0, 0, 2, 0, 0],
                // An error of 50 MB.
                _ => fe::message(b'E', &[b"SERROR\0C42601\0M".to_vec(), vec![b'x'; 50_000_000]].concat()),
            })
        })
    });
    let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
    let sidecar = Sidecar::start(&policy.set("health.interval", "60s"));
    bounded(&sidecar, 60 * MB, "a server that lies", || {
        for _ in 0..6 {
            let mut client = sidecar.client();
            client.send(&[fe::query("SELECT 'mine'")]);
            thread::sleep(Duration::from_millis(300));
            drop(client);
        }
    });
    assert_eq!(sidecar.get("/livez").0, 200);
}

#[test]
fn a_client_too_many_is_told() {
    let bed = Bed::with(|policy| policy.set("listen.maxClients", 5));
    if bed::is_direct() {
        return;
    }
    let mut clients: Vec<_> = (0..5).map(|_| bed.client()).collect();
    let error = bed.connect().open().err().expect("one client too many");
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"), "{error:?}");
    clients.iter_mut().for_each(crate::support::Client::works);
    clients.pop();
    eventually("there is room again", || bed.connect().open().is_ok());
}

#[test]
fn one_waiting_too_many_is_told() {
    let bed = Bed::with(|policy| policy.set("listen.maxWaiting", 2).set("pool.size", 1).set("pool.maxOverflow", 0));
    let Some(sidecar) = bed.sidecar() else { return };
    let mut holder = bed.client();
    let mut waiting = [bed.client(), bed.client()];
    let mut third = bed.client();
    holder.rows("BEGIN");
    waiting.iter_mut().for_each(|client| client.send(&[fe::query("SELECT 'waited'")]));
    eventually("they wait", || sidecar.metric("poolkeeper_pool_waiting") >= 2.0);
    assert_eq!(third.query("SELECT 1").unwrap_err().code, "53300");
    holder.rows("COMMIT");
    waiting.iter_mut().for_each(|client| drop(client.expect("T D:waited C Z:I")));
    third.works();
}

#[test]
fn idle_clients_and_slow_logins_end() {
    let bed = Bed::with(|policy| policy.set("listen.idleTimeout", "1s").set("listen.loginTimeout", "1s"));
    if bed::is_direct() {
        return;
    }
    let (mut idle, mut busy) = (bed.client(), bed.client());
    let mut silent = std::net::TcpStream::connect(("127.0.0.1", bed.sidecar().unwrap().port)).unwrap();
    silent.write_all(&[0, 0, 0, 60, 0, 3]).unwrap();
    busy.rows("BEGIN");
    let start = Instant::now();
    idle.expect_end(Some("57P05"));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    // Not inside a transaction.
    thread::sleep(Duration::from_millis(800));
    assert_eq!(busy.value("SELECT 'still'"), "still");
    silent.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut rest = vec![];
    std::io::Read::read_to_end(&mut silent, &mut rest).expect("a login has no time limit");
}
