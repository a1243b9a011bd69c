//! What drivers expect of a session and a pooler has to arrange: names of statements in SQL, tables that change under
//! them, defaults that change for all sessions, what is said at login.

use crate::support::wire::Client;
use crate::support::{Bed, Postgres, bed, eventually, fe};

const LIST: &str = "SELECT coalesce(string_agg(name, '+' ORDER BY name), '') FROM pg_prepared_statements";

/// Two clients on one server, the second of which has left statements of both kinds on it.
fn neighbours() -> (Bed, Client, Client) {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    other.send(&[fe::parse("theirs", "SELECT 'theirs'", &[]), fe::run("theirs", &[])]);
    other.expect("1 2 D:theirs C Z:I");
    client.send(&[fe::parse("mine", "SELECT $1::int + 1", &[]), fe::run("mine", &["1"])]);
    client.expect("1 2 D:2 C Z:I");
    (bed, client, other)
}

#[test]
fn sql_sees_the_clients_own_names_and_nobody_elses() {
    let (_bed, mut client, mut other) = neighbours();
    for _ in 0..2 {
        assert_eq!(client.value(LIST), "mine");
        assert_eq!(other.value(LIST), "theirs");
    }
    let plan = client.rows("EXPLAIN (COSTS OFF) EXECUTE mine(1)");
    assert!(plan[0][0].as_deref().is_some_and(|line| line.starts_with("Result")), "{plan:?}");
    // By the extended protocol, unnamed and named; the statement that asks is one of those that are shown.
    client.send(&[fe::extended(LIST, &[])]);
    client.expect("1 2 T* D:mine C Z:I");
    client.send(&[fe::parse("list", LIST, &[]), fe::run("list", &[])]);
    client.expect("1 2 T* D:list+mine C Z:I");
    other.works();
    client.send(&[fe::run("mine", &["2"])]);
    client.expect("2 D:3 C Z:I");
    assert_eq!(client.query("EXPLAIN EXECUTE theirs").unwrap_err().code, "26000");
    // What is left on the server is nobody else's, nor the client's own once it has closed it.
    other.send(&[fe::describe("mine"), fe::sync(), fe::run("mine", &["1"])]);
    other.expect("E:26000 Z:I E:26000 Z:I");
    assert_eq!(client.value(LIST), "list+mine");
    client.send(&[fe::close("mine"), fe::sync(), fe::run("mine", &["1"])]);
    client.expect("3 Z:I E:26000 Z:I");
}

#[test]
fn statements_of_both_kinds_share_their_names_as_in_one_session() {
    let (_bed, mut client, mut other) = neighbours();
    let error = client.query("PREPARE mine AS SELECT 1").unwrap_err();
    assert_eq!((error.code.as_str(), error.message.contains("\"mine\"")), ("42P05", true), "{error:?}");
    client.rows("PREPARE sql AS SELECT 'sql'");
    assert_eq!(client.value(LIST), "mine+sql");
    assert_eq!(client.value("EXECUTE sql"), "sql");
    client.send(&[fe::parse("sql", "SELECT 1", &[]), fe::sync()]);
    client.expect("E:42P05 Z:I");
    // In a transaction, in the middle of which a new one is prepared and an old one goes.
    client.rows("BEGIN");
    client.send(&[fe::parse("more", "SELECT 'more'", &[]), fe::run("more", &[])]);
    client.expect("1 2 D:more C Z:T");
    assert_eq!(client.value(LIST), "mine+more+sql");
    client.rows("DEALLOCATE mine");
    assert_eq!(client.value(LIST), "more+sql");
    client.rows("COMMIT; DEALLOCATE sql");
    other.works();
    client.send(&[fe::run("more", &[])]);
    client.expect("2 D:more C Z:I");
    client.send(&[fe::run("mine", &["2"])]);
    client.expect("E:26000 Z:I");
    assert_eq!(client.value(LIST), "more");
    client.rows("DEALLOCATE ALL");
    assert_eq!(client.value(LIST), "");
    assert_eq!(other.value(LIST), "theirs");
}

#[test]
fn a_statement_that_can_be_prepared_no_more_is_left_out_of_the_list() {
    let (bed, mut client, mut other) = neighbours();
    bed.setup("CREATE TABLE gone (a int)");
    client.send(&[fe::parse("doomed", "SELECT a FROM gone", &[]), fe::run("doomed", &[])]);
    client.expect("1 2 C Z:I");
    bed.setup("DROP TABLE gone");
    other.works();
    let seen = client.value(LIST);
    assert!(seen == "mine" || (bed::is_direct() && seen == "doomed+mine"), "{seen}");
    client.works();
}

#[test]
fn a_table_that_changed_under_a_statement_is_told_as_postgresql_tells_it() {
    let bed = Bed::sized(2);
    bed.setup("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2)");
    let mut client = bed.client();
    client.send(&[fe::parse("s", "SELECT * FROM t", &[]), fe::describe("s"), fe::run("s", &[])]);
    client.expect("1 t T 2 D:1|2 C Z:I");
    bed.setup("ALTER TABLE t DROP COLUMN b");
    // On whatever server: with a format for each of the columns that it knows.
    let mut bind = b"\0s\0\0\0\0\0".to_vec();
    bind.extend([0, 2, 0, 1, 0, 1]);
    let mut holder = bed.client();
    for _ in 0..2 {
        client.send(&[fe::message(b'B', &bind), fe::execute(""), fe::sync()]);
        client.expect("E:0A000 Z:I");
        holder.rows("BEGIN");
    }
    holder.rows("ROLLBACK");
    client.works();
}

#[test]
fn what_sessions_begin_with_changes_for_those_that_begin_later() {
    let bed = Bed::sized(2);
    let mut client = bed.client();
    bed.admin().rows(&format!("ALTER DATABASE {} OWNER TO app", bed.database));
    let ask = |client: &mut Client| client.value("SHOW work_mem");
    assert_eq!(ask(&mut client), "4MB");
    client.rows(&format!("BEGIN; ALTER DATABASE {} SET work_mem = '7MB'; ROLLBACK", bed.database));
    assert_eq!(ask(&mut bed.client()), "4MB");
    client.rows(&format!("ALTER DATABASE {} SET work_mem = '7MB'", bed.database));
    let mut late = bed.client();
    assert_eq!(ask(&mut late), "7MB");
    late.rows(&format!("ALTER DATABASE {} RESET work_mem", bed.database));
    assert_eq!(ask(&mut bed.client()), "4MB");
}

#[test]
fn a_name_that_is_too_long_is_cut_and_the_client_told() {
    let bed = Bed::new();
    let name = "n".repeat(70);
    let mut client = bed.connect().param("application_name", &name).open().unwrap();
    assert_eq!(client.value("SHOW application_name"), name[..63]);
    assert_eq!(client.notices.len(), 1, "{:?}", client.notices);
    assert!(client.notices[0].starts_with("42622"), "{:?}", client.notices);
}

#[test]
fn the_protocols_version_is_that_of_the_servers() {
    let bed = Bed::on(Postgres::shared(), |policy| policy);
    bed.client().works();
    let client = bed.connect().minor(2).open().unwrap();
    assert_eq!((client.key.len(), client.negotiated), (4, vec![(3 << 16, vec![])]));
    if let Some(sidecar) = bed.sidecar() {
        eventually("it is counted", || sidecar.metric("poolkeeper_clients") >= 1.0);
    }
}
