//! TLS on both sides.

use crate::support::wire::Tls;
use crate::support::{Bed, Launch, Options, Policy, Postgres, Sidecar, bed, certs::Certs, eventually};
use std::time::Duration;

fn server(certs: &Certs) -> Postgres {
    let only_tls = vec!["hostnossl all all all reject".to_owned()];
    Postgres::start(&Options { tls: certs.for_postgres(), hba: only_tls, ..Options::default() })
}

fn encrypted(sidecar: &Sidecar) -> Result<bool, String> {
    let ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = sidecar.connect().open().and_then(|mut client| client.query(ask));
    rows.map(|rows| rows[0][0].as_deref() == Some("t")).map_err(|error| error.code)
}

#[test]
fn every_mode_towards_servers() {
    let (certs, others) = (Certs::new(), Certs::new());
    let server = server(&certs);
    let database = server.create_database();
    server.connect(&database).tls(Tls::Request(certs.client())).open().unwrap().works();
    if bed::is_direct() {
        return;
    }
    // mode, host, the authority that is trusted, what comes of it
    let cases: [(&str, &str, &Certs, Result<bool, &str>); 8] = [
        ("Disable", "localhost", &certs, Err("28000")),
        ("Prefer", "localhost", &others, Ok(true)),
        ("Require", "127.0.0.1", &certs, Ok(true)),
        ("VerifyCa", "127.0.0.2", &certs, Err("08001")),
        ("VerifyCa", "localhost", &others, Err("08001")),
        ("VerifyFull", "localhost", &certs, Ok(true)),
        ("VerifyFull", "127.0.0.1", &certs, Ok(true)),
        ("VerifyFull", "localhost", &others, Err("08001")),
    ];
    for (mode, host, authority, want) in cases {
        let policy = Policy::new(server.port, &database).set("database.tls.mode", mode).set("database.host", host);
        let sidecar = Launch::new(&policy.set("timeouts.connect", "3s")).certs("db", authority).start();
        assert_eq!(encrypted(&sidecar), want.map_err(str::to_owned), "{mode} {host}");
    }
    // A certificate for another name: VerifyCa takes it, VerifyFull does not.
    certs.issue(&["elsewhere.test"]);
    let server = self::server(&certs);
    let database = server.create_database();
    for (mode, want) in [("VerifyCa", Ok(true)), ("VerifyFull", Err("08001".to_owned()))] {
        let policy = Policy::new(server.port, &database).set("database.tls.mode", mode);
        let sidecar = Launch::new(&policy.set("timeouts.connect", "3s")).certs("db", &certs).start();
        assert_eq!(encrypted(&sidecar), want, "{mode}");
    }
}

#[test]
fn a_server_without_tls() {
    let bed = Bed::new();
    if bed::is_direct() {
        return;
    }
    let certs = Certs::new();
    for (mode, want) in [("Prefer", Ok(false)), ("Require", Err("08001")), ("VerifyFull", Err("08001"))] {
        let policy = Policy::new(bed.pg.port, &bed.database).set("database.tls.mode", mode);
        let sidecar = Launch::new(&policy.set("timeouts.connect", "3s")).certs("db", &certs).start();
        assert_eq!(encrypted(&sidecar), want.map_err(str::to_owned), "{mode}");
    }
}

/// A password in clear is asked for inside TLS.
#[test]
fn password_method_inside_tls() {
    let certs = Certs::new();
    let hba = vec!["hostssl all all all password".to_owned()];
    let server = Postgres::start(&Options { tls: certs.for_postgres(), hba, ..Options::default() });
    let database = server.create_database();
    server.connect(&database).tls(Tls::Request(certs.client())).open().unwrap().works();
    if bed::is_direct() {
        return;
    }
    let policy = Policy::new(server.port, &database).set("database.host", "localhost");
    let sidecar = Launch::new(&policy.set("database.tls.mode", "VerifyFull")).certs("db", &certs).start();
    sidecar.client().works();
}

/// Certificates are read again when the files change; open connections stay.
#[test]
fn the_listeners_certificate_is_renewed_live() {
    let bed = Bed::new();
    if bed::is_direct() {
        return;
    }
    let (certs, renewed) = (Certs::new(), Certs::new());
    let policy = Policy::new(bed.pg.port, &bed.database).set("listen.tls.secretName", "tls");
    let sidecar = Launch::new(&policy).certs("tls", &certs).start();
    let connect = |certs: &Certs| sidecar.connect().tls(Tls::Request(certs.client()));
    let mut old = connect(&certs).open().unwrap();
    old.works();
    for key in ["tls.crt", "tls.key"] {
        let path = sidecar.secrets().join("tls").join(key);
        std::fs::copy(renewed.path(key), path.with_extension("new")).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }
    let trusts = |certs: &Certs| connect(certs).open().is_ok();
    eventually("the new certificate", || trusts(&renewed));
    assert!(!trusts(&certs), "the old one is still shown");
    old.works();
    std::thread::sleep(Duration::from_millis(50));
    // Half a pair changes nothing: the last good one stays.
    std::fs::write(sidecar.secrets().join("tls/tls.key"), "not a key").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(trusts(&renewed));
}
