//! Logging in: clients to the sidecar, the sidecar to servers; passwords that change.

use crate::support::{Bed, Launch, Options, Policy, Postgres, bed, eventually, pg};
use std::thread;
use std::time::Duration;

/// Every method that a server may ask for, by pg_hba.conf.
#[test]
fn the_sidecar_logs_in_by_every_method() {
    for (method, encryption) in [("trust", "scram-sha-256"), ("scram-sha-256", "scram-sha-256"), ("md5", "md5")] {
        let server = Postgres::start(&Options {
            hba: vec![format!("host all {} 127.0.0.1/32 {method}", pg::USER)],
            conf: vec![format!("password_encryption = '{encryption}'")],
            ..Options::default()
        });
        let database = server.create_database();
        server.connect(&database).open().unwrap().works();
        if !bed::is_direct() {
            let sidecar = crate::support::Sidecar::start(&Policy::new(server.port, &database));
            sidecar.client().works();
        }
    }
}

#[test]
fn clients_prove_the_configured_password() {
    let bed = Bed::with(|policy| policy.set("listen.auth", "ScramSha256"));
    let connect = bed.connect();
    connect.open().unwrap().works();
    for wrong in ["", "wrong", "app-password ", "APP-PASSWORD"] {
        let error = connect.clone().password(wrong).open().err().expect("a wrong password was accepted");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28P01"), "{error:?}");
    }
    let stranger = connect.clone().user("somebody").open().err().unwrap();
    assert_eq!(stranger.code, "28P01", "{stranger:?}");
    connect.open().unwrap().works();
}

/// The documented order: the Secret first, then the role.
#[test]
fn a_new_password_of_the_same_user() {
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    if bed::is_direct() {
        return;
    }
    let policy = Policy::new(server.port, &database)
        .set("listen.auth", "ScramSha256")
        .set("pool.size", 2)
        .set("pool.maxOverflow", 0);
    let sidecar = Launch::new(&policy).start();
    let mut client = sidecar.client();
    sidecar.settle();
    let before = client.backend();
    sidecar.save_credentials(pg::USER, "another-password");
    eventually("the new password is known", || sidecar.connect().password("another-password").open().is_ok());
    // The old one for a while too: not every client restarts in that moment.
    sidecar.client().works();
    // Others may have been opened meanwhile, for a look at the catalog among them.
    let there = client.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {before}"));
    assert_eq!(there, "1", "servers of the same user stay");
    // The role still has the old password: new logins fall back to it, and take the new one once it is there.
    let mut second = sidecar.client();
    client.rows("BEGIN");
    second.works();
    client.rows("COMMIT");
    server.admin("postgres").rows(&format!("ALTER ROLE {} PASSWORD 'another-password'", pg::USER));
    server.admin("postgres").rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
    eventually("the servers are gone", || server.backends(&database).is_empty());
    for _ in 0..5 {
        let mut client = sidecar.connect().password("another-password").open().unwrap();
        eventually("service", || client.query("SELECT 1").is_ok());
        client.works();
    }
    assert!(!sidecar.log().contains("another-password"));
}

/// The other order: the role has changed, the Secret follows.
#[test]
fn a_password_that_changed_at_the_server_first() {
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    if bed::is_direct() {
        return;
    }
    let sidecar = Launch::new(&Policy::new(server.port, &database).set("pool.size", 2)).start();
    let mut client = sidecar.client();
    client.works();
    server.admin("postgres").rows(&format!("ALTER ROLE {} PASSWORD 'another-password'", pg::USER));
    // What is open still serves.
    client.works();
    thread::sleep(Duration::from_millis(50));
    client.works();
    sidecar.save_credentials(pg::USER, "another-password");
    eventually("new servers can be opened", || {
        let mut clients = [sidecar.client(), sidecar.client()];
        clients.iter_mut().all(|client| client.query("BEGIN").is_ok())
    });
}

#[test]
fn another_user_is_a_new_generation() {
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    if bed::is_direct() {
        return;
    }
    let mut admin = server.admin("postgres");
    admin.rows("CREATE ROLE second LOGIN PASSWORD 'second-password'");
    let sidecar = Launch::new(&Policy::new(server.port, &database).set("pool.size", 3)).start();
    let mut client = sidecar.client();
    assert_eq!(client.value("SELECT current_user"), pg::USER);
    sidecar.save_credentials("second", "second-password");
    eventually("the new user serves", || {
        client.query("SELECT current_user").unwrap()[0][0].as_deref() == Some("second")
    });
    eventually("nobody of the old one is left", || {
        admin.value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'") == "0"
    });
    client.works();
}
