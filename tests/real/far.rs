//! Connections that `postgres_fdw` keeps: no client meets those of another.

use crate::support::{Bed, Postgres, bed, pg};
use std::sync::Arc;

const KEPT: &str = "SELECT count(*) FROM far.postgres_fdw_get_connections()";

/// A database with a foreign table, whose extension is in a schema of its own.
fn far(pg: Arc<Postgres>, mode: &str) -> Bed {
    let bed = Bed::on(pg, |policy| policy.set("pool.mode", mode).set("pool.size", 1).set("pool.maxOverflow", 0));
    let user = pg::USER;
    bed.admin().rows(&format!(
        "CREATE SCHEMA far; GRANT USAGE ON SCHEMA far TO PUBLIC; CREATE EXTENSION postgres_fdw SCHEMA far; \
         CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw \
         OPTIONS (host '127.0.0.1', port '{}', dbname '{}'); \
         CREATE USER MAPPING FOR {user} SERVER there OPTIONS (user '{user}', password '{}'); \
         CREATE TABLE here (a int); INSERT INTO here VALUES (1); GRANT ALL ON here TO PUBLIC; \
         CREATE FOREIGN TABLE there (a int) SERVER there OPTIONS (table_name 'here'); GRANT ALL ON there TO PUBLIC",
        bed.pg.port,
        bed.database,
        pg::PASSWORD
    ));
    bed
}

#[test]
fn the_connections_of_postgres_fdw_end_with_the_scrub() {
    for pg in [Postgres::shared(), Postgres::shared_18()] {
        let bed = far(pg, "Transaction");
        let Some(sidecar) = bed.sidecar() else { return };
        sidecar.settle();
        let (mut client, mut other) = (bed.client(), bed.client());
        let backend = other.backend();
        for _ in 0..3 {
            assert_eq!(client.value("SELECT a FROM there"), "1");
            assert_eq!(other.value(KEPT), "0");
        }
        assert_eq!(other.backend(), backend, "it was scrubbed, not closed");
        // Bound state is undone by DISCARD ALL, which leaves such connections open.
        let mut bound = bed.client();
        bound.rows("CREATE TEMP TABLE t (a int)");
        assert_eq!(bound.value("SELECT a FROM there"), "1");
        drop(bound);
        assert_eq!(other.value(KEPT), "0");
        assert_eq!(other.backend(), backend, "it was discarded, not closed");
    }
}

#[test]
fn the_connections_of_postgres_fdw_end_with_the_session() {
    let bed = far(Postgres::shared(), "Session");
    for _ in 0..3 {
        let mut client = bed.client();
        assert_eq!(client.value(KEPT), "0");
        assert_eq!(client.value("SELECT a FROM there"), "1");
        assert_eq!(client.value(KEPT), "1");
    }
}

#[test]
fn postgresql_13_cannot_end_them_so_the_server_is_closed() {
    let bed = far(Postgres::shared_13(), "Transaction");
    let Some(sidecar) = bed.sidecar() else { return };
    sidecar.settle();
    let (mut client, mut other) = (bed.client(), bed.client());
    assert_eq!(client.value("SELECT a FROM there"), "1");
    let used = client.backend();
    assert_ne!(other.backend(), used);
    assert!(bed::is_direct() || sidecar.metric("poolkeeper_server_connections_closed_total{reason=\"hygiene\"}") > 0.0);
}
