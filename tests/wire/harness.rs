//! The harness itself, so that a case that fails later is not its fault.

use crate::support::{Bed, Options, Postgres, certs::Certs, fe, hostile, wire::*};

#[test]
fn raw_client_speaks_both_protocols() {
    let pg = Postgres::shared();
    let database = pg.create_database();
    let mut client = pg.connect(&database).open().unwrap();
    client.works();
    assert_eq!(client.query("SELEC").unwrap_err().code, "42601");
    assert_eq!(client.parameter("client_encoding"), Some("UTF8"));
    client.send(&[fe::query("SELECT pg_sleep(30)")]);
    client.cancel_running();
    client.expect("T* E:57014 Z:I");
    client.send(&[fe::query("SELECT generate_series(1, 3), null"), fe::terminate()]);
    client.expect("T D:1|~ D* C:SELECT_3 Z:I");
    client.expect_end(None);
    assert_eq!(pg.connect("nowhere").open().err().unwrap().code, "3D000");
    assert_eq!(pg.connect(&database).password("wrong").open().err().unwrap().code, "28P01");
}

#[test]
fn thirteen_is_the_oldest_served() {
    let bed = Bed::on(Postgres::shared_13(), |policy| policy);
    let version = bed.client().rows("SHOW server_version_num");
    assert!(version[0][0].as_deref().unwrap().starts_with("13"), "{version:?}");
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

/// docs/wire-cases.md names every case, and every test that it names is there.
#[test]
fn every_case_of_the_table_has_its_tests() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = std::fs::read_to_string(root.join("docs/wire-cases.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .filter(|row: &Vec<&str>| row[0].parse::<u32>().is_ok())
        .collect();
    let numbers: Vec<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=78).collect::<Vec<_>>());
    let mut named = vec![];
    for row in &rows {
        let tests: Vec<_> = row[2].split('`').skip(1).step_by(2).collect();
        let later = row[2].starts_with("not built");
        assert!(later == tests.is_empty(), "case {} has neither a test nor a reason", row[0]);
        for test in tests {
            let (module, function) = test.split_once("::").unwrap();
            let source = std::fs::read_to_string(root.join(format!("tests/wire/{module}.rs"))).unwrap();
            assert!(source.contains(&format!("#[test]\nfn {function}()")), "{test} does not exist");
            assert!(function.starts_with(&format!("case_{:0>2}_", row[0])), "{test} is not about case {}", row[0]);
            named.push(function.to_owned());
        }
    }
    for file in std::fs::read_dir(root.join("tests/wire")).unwrap() {
        let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for line in source.lines().filter_map(|line| line.strip_prefix("fn case_")) {
            let function = format!("case_{}", line.split_once('(').unwrap().0);
            assert!(named.contains(&function), "{function} is missing in docs/wire-cases.md");
        }
    }
}
