//! What Poolkeeper sends ahead of a client's message never makes a pipeline of what follows: that would be a transaction block of
//! its own kind, in which a CALL may not commit, and which a simple Query behind it does not end. Newer releases say XX000 then.

use crate::support::wire::Client;
use crate::support::{Bed, Postgres, fe};
use std::sync::Arc;

fn beds() -> impl Iterator<Item = (u32, Bed)> {
    let servers: [(u32, Arc<Postgres>); 3] =
        [(13, Postgres::shared_13()), (15, Postgres::shared()), (18, Postgres::shared_18())];
    servers.into_iter().map(|(version, server)| {
        (version, Bed::on(server, |policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0)))
    })
}

/// VACUUM runs in no transaction block of any kind.
#[track_caller]
fn is_in_no_block(client: &mut Client, version: u32) {
    for _ in 0..3 {
        if let Err(error) = client.query("VACUUM t") {
            panic!("{version}: {error:?}");
        }
    }
}

#[test]
fn names_that_are_forgotten_with_the_application_name_under_way() {
    for (version, bed) in beds() {
        bed.setup("CREATE TABLE t (a int)");
        let mut client = bed.connect().param("application_name", "mine").open().unwrap();
        client.send(&[fe::parse("s", "SELECT 1", &[]), fe::sync()]);
        client.expect("1 Z");
        assert_eq!(
            client.value("SELECT count(*) FROM pg_prepared_statements; RESET application_name"),
            "1",
            "{version}"
        );
        is_in_no_block(&mut client, version);
        assert_eq!(client.value("SHOW application_name"), "mine", "{version}");
    }
}

#[test]
fn sequences_that_are_forgotten_behind_an_adaptation() {
    for (version, bed) in beds() {
        bed.setup("CREATE TABLE t (a int); CREATE SEQUENCE s");
        let (mut one, mut two) = (bed.client(), bed.client());
        one.rows("SET work_mem = '7MB'");
        one.rows("SELECT nextval('s')");
        let _ = one.query("SELECT lastval()");
        for _ in 0..2 {
            two.rows("SELECT nextval('s')");
            is_in_no_block(&mut one, version);
            two.works();
            assert_eq!(one.query("SELECT lastval()").unwrap_err().code, "55000", "{version}: the other's");
            assert_eq!(one.value("SHOW work_mem"), "7MB");
        }
    }
}

#[test]
fn a_call_that_commits_after_another_client_has_prepared() {
    for (version, bed) in beds() {
        bed.setup(
            "CREATE TABLE t (a int); \
             CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END'",
        );
        let (mut one, mut two) = (bed.client(), bed.client());
        for round in 1..4 {
            two.rows("PREPARE theirs AS SELECT 1; EXECUTE theirs; DEALLOCATE theirs");
            one.send(&[fe::parse("", "CALL commits()", &[]), fe::bind("", "", &[]), fe::execute(""), fe::sync()]);
            one.expect("1 2 C Z");
            assert_eq!(two.value("SELECT count(*) FROM t"), round.to_string(), "{version}");
        }
    }
}

#[test]
fn a_text_behind_others_that_are_not_answered_yet() {
    for (version, bed) in beds() {
        bed.setup("CREATE TABLE t (a int); CREATE SEQUENCE s");
        let (mut one, mut two) = (bed.client(), bed.client());
        two.rows("SELECT nextval('s')");
        one.send(&[fe::query("SELECT 1"), fe::query("SELECT lastval()"), fe::query("VACUUM t")]);
        one.expect("T D:1 C Z:I");
        one.expect("T E:55000 Z:I");
        one.expect("C:VACUUM Z:I");
        is_in_no_block(&mut one, version);
    }
}
