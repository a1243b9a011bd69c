//! The limit, exactly: PostgreSQL has room for the limit and its superusers' reserve, and never has to
//! say 53300 (decision 2).

use crate::support::{Client, Connect, Load, Options, Policy, Postgres, Sidecar, bed, eventually, fe, pg};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const LIMIT: u32 = 8;

/// Sessions with many temporary tables take long to end: their slot is taken until they have.
fn heavy(connect: &Connect, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = connect.open() else { continue };
        let tables: String = (0..60).map(|n| format!("CREATE TEMP TABLE t{n} (a int, b text);")).collect();
        let _ = client.query(&tables);
        // Gone in the middle, so that the server is closed, or in order, so that it is scrubbed.
        if client.pid % 2 == 0 {
            let _ = client.write(&fe::query("SELECT pg_sleep(0.05)"));
        }
    }
}

/// Sessions that end badly.
fn rude(connect: &Connect, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = connect.open() else { continue };
        let _ = client.write(&[fe::query("BEGIN"), fe::query("SELECT pg_sleep(0.01)")].concat());
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn postgresql_never_says_too_many_connections() {
    if bed::is_direct() {
        return;
    }
    let server = Postgres::start(&Options {
        // Three are the superusers'. Everything refused for want of room is in the log.
        max_connections: LIMIT + 3,
        conf: vec!["log_min_messages = info".into()],
        ..Options::default()
    });
    let database = server.create_database();
    let mut admin = server.admin(&database);
    admin.rows(Load::TABLE);
    admin.rows(&format!("GRANT ALL ON load TO {}", pg::USER));
    admin.rows(&format!("CREATE ROLE second LOGIN PASSWORD 'second-password' IN ROLE {}", pg::USER));
    // Its own session would take one of the places.
    drop(admin);
    let policy = Policy::new(server.port, &database)
        .set("pool.size", LIMIT - 3)
        .set("pool.maxOverflow", 3)
        .set("pool.recycle", "1s")
        .set("pool.recycleJitter", "20%")
        .set("pool.idleTimeout", "1s")
        .set("health.interval", "1s")
        .set("health.timeout", "1s");
    let mut sidecar = Sidecar::start(&policy);
    let load = Load::start(&sidecar.connect(), 16);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Whatever happens, the helpers end.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        for _ in 0..2 {
            let (connect, stop) = (sidecar.connect(), &stop);
            scope.spawn(move || heavy(&connect, stop));
            let connect = sidecar.connect();
            scope.spawn(move || rude(&connect, stop));
        }
        let mut names = [(pg::USER, pg::PASSWORD), ("second", "second-password")].iter().cycle().skip(1);
        for round in 0..12u32 {
            load.advance(50);
            match round % 4 {
                0 => sidecar.apply(|policy| policy.set("pool.size", 2).set("pool.maxOverflow", 0)),
                1 => sidecar.apply(|policy| policy.set("pool.size", LIMIT).set("pool.maxOverflow", 0)),
                2 => {
                    let (user, password) = names.next().unwrap();
                    sidecar.save_credentials(user, password);
                    thread::sleep(Duration::from_millis(300));
                }
                _ => sidecar.apply(|policy| policy.set("pool.size", LIMIT - 3).set("pool.maxOverflow", 3)),
            }
        }
    });
    let (done, _, errors) = load.stop();
    assert!(errors.is_empty(), "{done} transactions, {} errors: {errors:#.400?}", errors.len());
    let log = server.log();
    for words in ["too many clients", "remaining connection slots", "53300"] {
        assert!(!log.contains(words), "the server had to refuse: {words}\n{log}");
    }
    eventually("all is given back", || sidecar.health()["checked_out"] == 0);
}

/// Size 0 opens as many as are asked for; a cap of the server's is then the server's to say.
#[test]
fn unlimited_is_unlimited() {
    let bed = crate::support::Bed::with(|policy| policy.set("pool.size", 0));
    if bed::is_direct() {
        return;
    }
    let mut clients: Vec<Client> = (0..40).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
    assert_eq!(bed.backends().len(), 40);
    clients.iter_mut().for_each(|client| drop(client.rows("COMMIT")));
    assert_eq!(bed.backends().len(), 40, "all are kept");
    // One may be lent to the pooler's own question for a moment.
    eventually("all are free", || {
        let health = bed.sidecar().unwrap().health();
        ["checked_in", "checked_out", "overflow"].map(|name| health[name].as_i64()) == [Some(40), Some(0), Some(0)]
    });
}
