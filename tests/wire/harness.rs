//! The harness itself, so that a case that fails later is not its fault.

use crate::support::{Options, Postgres, certs::Certs, fe, hostile, wire::*};

#[test]
fn raw_client_speaks_both_protocols() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut client = pg.connect(&database).open().unwrap();
    client.works();
    assert_eq!(client.query("SELEC").unwrap_err().code, "42601");
    assert_eq!(client.parameter("client_encoding"), Some("UTF8"));
    client.send(&[fe::query("SELECT pg_sleep(30)")]);
    client.canceller().send();
    client.expect("T E:57014 Z:I");
    client.send(&[fe::query("SELECT generate_series(1, 3), null"), fe::terminate()]);
    client.expect("T D:1|~ D* C:SELECT_3 Z:I");
    client.expect_end(None);
    assert_eq!(pg.connect("nowhere").open().err().unwrap().code, "3D000");
    assert_eq!(pg.connect(&database).password("wrong").open().err().unwrap().code, "28P01");
}

#[test]
fn eighteen_speaks_protocol_3_2() {
    let pg = Postgres::shared_18();
    let database = pg.create_database();
    let mut client = pg.connect(&database).minor(2).open().unwrap();
    client.works();
    assert_eq!(client.key.len(), 32);
    let grease = pg.connect(&database).minor(9999).open().unwrap();
    assert_eq!(grease.negotiated, [(3 << 16 | 2, vec![])]);
}

#[test]
fn tls_and_channel_binding() {
    let certs = Certs::new();
    let pg = Postgres::start(&Options { tls: certs.for_postgres(), ..Options::default() });
    let mut client = pg.connect("postgres").tls(Tls::Request(certs.client())).open().unwrap();
    client.works();
    assert_eq!(client.value("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"), "t");
}

#[test]
fn a_server_ends_and_comes_again() {
    let pg = Postgres::start(&Options::default());
    let mut client = pg.connect("postgres").open().unwrap();
    pg.stop();
    client.expect_end(Some("57P01"));
    pg.start_again();
    let mut client = pg.connect("postgres").open().unwrap();
    pg.kill();
    client.expect_end(None);
    pg.start_again();
    pg.connect("postgres").open().unwrap().works();
}

#[test]
fn the_hostile_server_serves() {
    let server = hostile::Server::start(|session, _| {
        session.login()?;
        session.serve()
    });
    let mut client = Connect::tcp(server.port).open().unwrap();
    client.send(&[fe::query("SELECT 1")]);
    client.expect("T D:1 C:SELECT_1 Z:I");
    client.send(&[fe::query("DISCARD ALL")]);
    client.expect("C:DISCARD_ALL Z:I");
}
