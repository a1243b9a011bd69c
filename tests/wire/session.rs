//! 6.5 Session state, and what of 6.3 needs it (28–30, 37, 45–56). Clients take turns on one server, or one client is
//! led from server to server: it has what it set, and nobody else does.

use crate::support::wire::Client;
use crate::support::{Bed, bed, eventually, fe};
use std::time::Duration;

/// Runs `check` on each of a bed's two servers, for a client that nothing binds.
#[track_caller]
fn on_both(bed: &Bed, client: &mut Client, mut check: impl FnMut(&mut Client)) {
    let mut holders = [bed.client(), bed.client()];
    let mut servers = vec![];
    for holder in &mut holders {
        holder.rows("BEGIN");
    }
    for holder in &mut holders {
        holder.rows("COMMIT");
        check(client);
        servers.push(client.backend());
        holder.rows("BEGIN");
    }
    assert!(bed::is_direct() || servers[0] != servers[1], "it was on one server only");
}

/// Waits until no client is bound to a server any more.
#[track_caller]
fn nobody_is_bound(bed: &Bed) {
    if let Some(sidecar) = bed.sidecar() {
        eventually("nobody is bound", || sidecar.metric("poolkeeper_pinned_clients") == 0.0);
    }
}

#[test]
fn case_28_a_name_in_use_is_refused_and_the_client_stays() {
    let bed = Bed::sized(2);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::parse("mine", "SELECT 'first'", &[]), fe::sync()]);
    client.expect("1 Z:I");
    on_both(&bed, &mut client, |client| {
        for text in ["SELECT 'first'", "SELECT 'second'"] {
            client.send(&[fe::parse("mine", text, &[]), fe::run("mine", &[])]);
            let error = client.expect("E:42P05 Z:I").remove(0);
            assert!(error.field(b'M').contains("\"mine\""), "not the client's own name: {error:?}");
            client.send(&[fe::run("mine", &[])]);
            client.expect("2 D:first C Z:I");
        }
    });
    // It fails a transaction, as any error does; the name is another client's own too.
    client.rows("BEGIN");
    client.send(&[fe::parse("mine", "SELECT 'first'", &[]), fe::sync(), fe::query("ROLLBACK")]);
    client.expect("E:42P05 Z:E C:ROLLBACK Z:I");
    other.send(&[fe::parse("mine", "SELECT 'theirs'", &[]), fe::run("mine", &[])]);
    other.expect("1 2 D:theirs C Z:I");
    // Closed, it is free.
    client.send(&[fe::close("mine"), fe::parse("mine", "SELECT 'second'", &[]), fe::run("mine", &[])]);
    client.expect("3 1 2 D:second C Z:I");
}

#[test]
fn case_29_deallocate_all_and_discard_all_end_every_statement() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    other.send(&[fe::parse("s", "SELECT 'other'", &[]), fe::sync()]);
    other.expect("1 Z:I");
    for (sql, tag) in [("DEALLOCATE ALL", "C:DEALLOCATE_ALL"), ("DISCARD ALL", "C:DISCARD_ALL")] {
        for protocol in [fe::query(sql), fe::extended(sql, &[])] {
            client.send(&[fe::parse("s", "SELECT 'mine'", &[]), fe::parse("t", "SELECT 't'", &[]), fe::sync()]);
            client.expect("1 1 Z:I");
            let extended = protocol[0] == b'P';
            client.send(&[protocol]);
            client.expect(&if extended { format!("1 2 n {tag} Z:I") } else { format!("{tag} Z:I") });
            client.send(&[fe::run("s", &[]), fe::run("t", &[])]);
            client.expect("E:26000 Z:I E:26000 Z:I");
            // Other clients keep theirs, whatever became of them on the server.
            other.send(&[fe::run("s", &[])]);
            other.expect("2 D:other C Z:I");
        }
    }
}

#[test]
fn case_30_sql_prepare_execute_and_deallocate() {
    // Each of the two binds a server.
    let bed = Bed::with(|policy| policy.set("pool.size", 2).set("pool.maxOverflow", 0).set("pool.maxPinned", "100%"));
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("PREPARE s AS SELECT 'mine'");
    for _ in 0..3 {
        assert_eq!(client.value("EXECUTE s"), "mine");
        assert_eq!(other.query("EXECUTE s").unwrap_err().code, "26000");
    }
    other.rows("PREPARE s AS SELECT 'other'");
    assert_eq!((client.value("EXECUTE s"), other.value("EXECUTE s")), ("mine".into(), "other".into()));
    for client in [&mut client, &mut other] {
        client.rows("DEALLOCATE s");
        assert_eq!(client.query("EXECUTE s").unwrap_err().code, "26000");
    }
    nobody_is_bound(&bed);
    // SQL names what the protocol has prepared, on whatever server that is now.
    client.send(&[fe::parse("p", "SELECT $1::int", &[]), fe::sync()]);
    client.expect("1 Z:I");
    on_both(&bed, &mut client, |client| assert_eq!(client.value("EXECUTE p(3)"), "3"));
    client.rows("DEALLOCATE p");
    client.send(&[fe::run("p", &["1"])]);
    client.expect("E:26000 Z:I");
}

#[test]
fn case_37_types_and_settings_are_part_of_a_statement() {
    let bed = Bed::sized(1);
    bed.setup(
        "CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.t AS SELECT 'one' AS v; \
         CREATE TABLE two.t AS SELECT 'two' AS v",
    );
    let mut clients = [bed.client(), bed.client()];
    let (types, zones, schemas): ([u32; 2], _, _) = ([23, 25], ["UTC", "Asia/Tokyo"], ["one", "two"]);
    let expected = [["integer", "1577880000", "one"], ["text", "1577847600", "two"]];
    for (n, client) in clients.iter_mut().enumerate() {
        client.rows(&format!("SET TimeZone = '{}'", zones[n]));
        client.rows(&format!("SET search_path = {}", schemas[n]));
        client.send(&[
            fe::parse("types", "SELECT pg_typeof($1)", &[types[n]]),
            fe::parse("zone", "SELECT extract(epoch FROM timestamptz '2020-01-01 12:00')::bigint", &[]),
            fe::parse("path", "SELECT v FROM t", &[]),
            fe::sync(),
        ]);
        client.expect("1 1 1 Z:I");
    }
    for _ in 0..3 {
        for (client, [kind, zone, path]) in clients.iter_mut().zip(expected) {
            client.send(&[fe::run("types", &["1"]), fe::run("zone", &[]), fe::run("path", &[])]);
            client.expect(&format!("2 D:{kind} C Z:I 2 D:{zone} C Z:I 2 D:{path} C Z:I"));
        }
    }
}

#[test]
fn case_45_a_set_that_is_rolled_back() {
    let bed = Bed::sized(2);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("SET work_mem = '7MB'");
    client.rows("BEGIN; SET work_mem = '8MB'; ROLLBACK");
    client.rows("BEGIN; SAVEPOINT a; SET work_mem = '9MB'; ROLLBACK TO a; COMMIT");
    client.query("SET work_mem = '10MB'; SELECT 1 / 0").unwrap_err();
    on_both(&bed, &mut client, |client| assert_eq!(client.value("SHOW work_mem"), "7MB"));
    client.rows("BEGIN; SET work_mem = '8MB'");
    client.rows("COMMIT");
    on_both(&bed, &mut client, |client| assert_eq!(client.value("SHOW work_mem"), "8MB"));
    assert_eq!(other.value("SHOW work_mem"), "4MB");
}

#[test]
fn case_46_set_local_ends_with_its_transaction() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("BEGIN; SET LOCAL work_mem = '7MB'; SET LOCAL app.tenant = 'mine'");
    assert_eq!(client.value("SELECT current_setting('work_mem') || current_setting('app.tenant')"), "7MBmine");
    client.rows("COMMIT");
    assert_eq!(client.value("SHOW work_mem"), "4MB");
    // A name that was never set reads NULL, also where another client has set it for a transaction.
    assert_eq!(other.value("SELECT current_setting('app.tenant', true) IS NULL"), "t");
    assert_eq!(other.value("SHOW work_mem"), "4MB");
}

#[test]
fn case_47_reset_and_discard_all() {
    let bed = Bed::sized(2);
    let mut client = bed.client();
    for undo in ["RESET work_mem", "SET work_mem TO DEFAULT", "RESET ALL", "DISCARD ALL"] {
        client.rows("SET work_mem = '7MB'");
        on_both(&bed, &mut client, |client| assert_eq!(client.value("SHOW work_mem"), "7MB"));
        client.rows(undo);
        on_both(&bed, &mut client, |client| assert_eq!(client.value("SHOW work_mem"), "4MB", "{undo}"));
    }
    client.rows("SET work_mem = '7MB'");
    client.rows("BEGIN; RESET ALL; ROLLBACK");
    on_both(&bed, &mut client, |client| assert_eq!(client.value("SHOW work_mem"), "7MB"));
}

#[test]
fn case_48_set_config_through_bind() {
    let bed = Bed::sized(2);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::extended("SELECT set_config($1, $2, false)", &["app.tenant", "it's \"mine\", \\"])]);
    client.expect("1 2 T D C Z:I");
    client.send(&[fe::parse("set", "SELECT set_config($1, $2, $3)", &[]), fe::run("set", &["work_mem", "7MB", "f"])]);
    client.expect("1 2 D:7MB C Z:I");
    on_both(&bed, &mut client, |client| {
        assert_eq!(client.value("SHOW app.tenant"), "it's \"mine\", \\");
        assert_eq!(client.value("SHOW work_mem"), "7MB");
    });
    on_both(&bed, &mut other, |other| {
        assert_eq!(other.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
        assert_eq!(other.value("SHOW work_mem"), "4MB");
    });
}

#[test]
fn case_49_a_role_does_not_leak() {
    let bed = Bed::sized(1);
    let role = format!("{}_reader", bed.database);
    bed.admin().rows(&format!("CREATE ROLE {role}; GRANT {role} TO app"));
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows(&format!("SET ROLE {role}"));
    for _ in 0..3 {
        assert_eq!(client.value("SELECT current_user"), role);
        assert_eq!(other.value("SELECT current_user"), "app");
    }
    client.rows("RESET ROLE");
    assert_eq!(client.value("SELECT current_user"), "app");
    drop((client, other));
    drop(bed.admin().query(&format!("DROP ROLE {role}")));
}

#[test]
fn case_50_read_only_stays_with_its_client() {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int)");
    let (mut client, mut other) = (bed.client(), bed.client());
    for set in ["SET default_transaction_read_only = on", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"] {
        client.rows(set);
        for _ in 0..2 {
            assert_eq!(client.query("INSERT INTO t VALUES (1)").unwrap_err().code, "25006");
            other.rows("INSERT INTO t VALUES (2)");
        }
        client.rows("SET default_transaction_read_only = off");
        client.rows("INSERT INTO t VALUES (1)");
    }
}

#[test]
fn case_51_empty_names_and_other_spellings_of_defaults() {
    let bed = Bed::sized(1);
    let mut plain = bed.client();
    let mut spelled = bed
        .connect()
        .param("application_name", "")
        .param("client_encoding", "utf-8")
        .param("standard_conforming_strings", "TRUE")
        .open()
        .unwrap();
    for _ in 0..3 {
        assert_eq!(spelled.value("SHOW application_name"), "");
        assert_eq!(spelled.value("SHOW standard_conforming_strings"), "on");
        plain.works();
        spelled.works();
    }
}

#[test]
fn case_52_what_is_bound_keeps_its_server_until_it_is_gone() {
    let bed = Bed::sized(2);
    let kinds = [
        ("CREATE TEMP TABLE mine AS SELECT 1 AS a", "SELECT a FROM mine", "DROP TABLE mine"),
        (
            "SELECT pg_advisory_lock(42)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "SELECT pg_advisory_unlock(42)",
        ),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1 FROM generate_series(1, 9)", "FETCH 1 FROM mine", "CLOSE mine"),
    ];
    let (mut client, mut other) = (bed.client(), bed.client());
    for (make, ask, end) in kinds {
        client.rows(make);
        for _ in 0..3 {
            assert_eq!(client.value(ask), "1", "{make}");
            // Not there, or none.
            assert!(other.query(ask).is_err() || other.value(ask) == "0", "{make}");
        }
        client.rows(end);
        nobody_is_bound(&bed);
    }
    on_both(&bed, &mut client, |client| client.works());
}

#[test]
fn case_53_listen_is_not_lost() {
    let bed = Bed::sized(2);
    let (mut listener, mut other) = (bed.client(), bed.client());
    listener.rows("LISTEN news");
    other.rows("NOTIFY news, 'one'");
    // The listener is idle, and hears at once.
    let heard = listener.expect("A").remove(0);
    assert_eq!(heard.texts().last().map(String::as_str), Some("one"));
    other.rows("BEGIN; NOTIFY news, 'two'");
    listener.expect_silence(Duration::from_millis(100));
    other.rows("ROLLBACK");
    listener.rows("UNLISTEN news");
    nobody_is_bound(&bed);
    other.rows("NOTIFY news, 'three'");
    listener.works();
    listener.expect_silence(Duration::from_millis(100));
}

#[test]
fn case_54_a_notification_for_a_client_that_left_reaches_nobody() {
    let bed = Bed::sized(1);
    let mut listener = bed.client();
    listener.rows("LISTEN news");
    listener.send(&[fe::terminate()]);
    listener.expect_end(None);
    // Sent past the pooler, while the server is idle or on its way there.
    bed.setup("NOTIFY news, 'nobody'");
    let mut next = bed.client();
    next.works();
    next.expect_silence(Duration::from_millis(100));
    assert_eq!(next.value("SELECT count(*) FROM pg_listening_channels()"), "0");
}

#[test]
fn case_55_transactions_of_clients_that_left_are_ended() {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int)");
    for failed in [false, true] {
        let mut client = bed.client();
        client.rows("BEGIN; INSERT INTO t VALUES (1)");
        if failed {
            client.query("SELEC").unwrap_err();
        }
        drop(client);
        let mut next = bed.client();
        eventually("its transaction is over", || {
            next.query("LOCK TABLE t NOWAIT").unwrap_err().code == "25P01"
                && bed.admin().value("SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass") == "0"
        });
        assert_eq!(next.value("SELECT count(*) FROM t"), "0");
        next.works();
    }
}

#[test]
fn case_56_options_at_start_up() {
    let bed = Bed::sized(1);
    let options = "-c work_mem=7MB --app.tenant=it's\\ mine -c search_path=a\\\\b,public";
    let mut client = bed.connect().param("options", options).open().unwrap();
    let mut plain = bed.client();
    for _ in 0..2 {
        assert_eq!(client.value("SHOW work_mem"), "7MB");
        assert_eq!(client.value("SHOW app.tenant"), "it's mine");
        assert_eq!(client.value("SHOW search_path"), "a\\b,public");
        assert_eq!(plain.value("SHOW work_mem"), "4MB");
        // It leads back to what the client started with.
        client.rows("SET work_mem = '8MB'");
        client.rows("RESET ALL");
    }
}
