//! Session, transaction and statement mode: what a client keeps, and what the next one must not meet.

use crate::support::{Bed, bed, eventually, fe};
use std::thread;
use std::time::Duration;

/// Statements that leave session state behind, and a question whose answer shows it (`t`).
const STATE: [(&str, &str, &str); 9] = [
    ("a setting", "SET work_mem = '7MB'", "SELECT current_setting('work_mem') = '7MB'"),
    ("a role", "SET ROLE NONE; SET search_path = pg_catalog", "SELECT current_setting('search_path') = 'pg_catalog'"),
    (
        "a custom setting",
        "SELECT set_config('app.who', 'me', false)",
        "SELECT coalesce(current_setting('app.who', true), '') = 'me'",
    ),
    (
        "a temporary table",
        "CREATE TEMP TABLE mine AS SELECT 1",
        "SELECT count(*) = 1 FROM pg_class WHERE relname = 'mine' AND relnamespace = pg_my_temp_schema()",
    ),
    ("LISTEN", "LISTEN news", "SELECT count(*) = 1 FROM pg_listening_channels()"),
    (
        "an advisory lock",
        "SELECT pg_advisory_lock(42)",
        "SELECT count(*) = 1 FROM pg_locks WHERE locktype LIKE 'adv%' AND pid = pg_backend_pid()",
    ),
    ("SQL PREPARE", "PREPARE mine AS SELECT 1", "SELECT count(*) = 1 FROM pg_prepared_statements WHERE name = 'mine'"),
    (
        "a holdable cursor",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) = 1 FROM pg_cursors WHERE name = 'mine'",
    ),
    ("a DO block's setting", "DO $$BEGIN SET work_mem = '6MB'; END$$", "SELECT current_setting('work_mem') = '6MB'"),
];

#[test]
fn state_stays_with_its_client_and_reaches_no_other() {
    for mode in ["Session", "Transaction"] {
        let bed = Bed::with(|policy| policy.set("pool.mode", mode).set("pool.size", 2).set("pool.maxOverflow", 0));
        for (what, make, question) in STATE {
            let mut owner = bed.client();
            let (mut one, mut two) = (bed.client(), (mode == "Transaction").then(|| bed.client()));
            owner.rows(make);
            for _ in 0..3 {
                assert_eq!(owner.value(question), "t", "{mode}: {what} is lost");
                assert_eq!(one.value(question), "f", "{mode}: {what} leaked");
                if let Some(two) = &mut two {
                    assert_eq!(two.value(question), "f", "{mode}: {what} leaked");
                }
            }
            // The client leaves; its server, clean or new, serves others.
            drop((owner, one, two));
            let mut next = [bed.client(), bed.client()];
            for client in &mut next {
                client.rows("BEGIN");
            }
            for client in &mut next {
                assert_eq!(client.value(question), "f", "{mode}: {what} survived its client");
                client.rows("COMMIT");
            }
        }
    }
}

#[test]
fn transaction_mode_shares_one_server_and_local_settings_bind_nothing() {
    let bed = Bed::sized(1);
    let mut clients = [bed.client(), bed.client(), bed.client()];
    for client in &mut clients {
        client.rows("BEGIN; SET LOCAL work_mem = '9MB'; SET TRANSACTION READ ONLY; COMMIT");
        client.rows("SELECT pg_advisory_xact_lock(1)");
        client.rows("BEGIN; DECLARE c CURSOR FOR SELECT 1; COMMIT");
    }
}

#[test]
fn notifications_reach_a_listening_client_between_its_transactions() {
    let bed = Bed::sized(2);
    let (mut listener, mut speaker) = (bed.client(), bed.client());
    listener.rows("LISTEN news");
    speaker.rows("NOTIFY news, 'one'");
    let message = listener.message();
    assert_eq!((message.tag, message.texts().last().map(String::as_str)), (b'A', Some("one")));
    speaker.rows("BEGIN; NOTIFY news, 'two'");
    listener.expect_silence(Duration::from_millis(100));
    speaker.rows("COMMIT");
    assert_eq!(listener.message().tag, b'A');
    listener.works();
}

#[test]
fn session_mode_keeps_one_server_per_client() {
    let bed = Bed::with(|policy| policy.set("pool.mode", "Session").set("pool.size", 1).set("pool.maxOverflow", 0));
    let mut first = bed.client();
    let server = first.backend();
    first.send(&[fe::parse("s", "SELECT 's'", &[]), fe::sync()]);
    first.expect("1 Z:I");
    if !bed::is_direct() {
        // The next client is let in when the first has gone, and meets nothing of it.
        thread::scope(|scope| {
            let next = scope.spawn(|| {
                let mut next = bed.client();
                let same = next.backend() == server;
                next.send(&[fe::run("s", &[])]);
                next.expect("E:26000 Z:I");
                same
            });
            thread::sleep(Duration::from_millis(200));
            assert!(!next.is_finished());
            first.works();
            assert_eq!(first.backend(), server);
            drop(first);
            assert!(next.join().unwrap(), "the server was closed instead of reset");
        });
    }
}

#[test]
fn statement_mode_has_no_transactions_of_several_statements() {
    let bed = Bed::with(|policy| policy.set("pool.mode", "Statement").set("pool.size", 1).set("pool.maxOverflow", 0));
    if bed::is_direct() {
        return;
    }
    let mut other = bed.client();
    for begin in ["BEGIN", "START TRANSACTION", "SELECT 1; BEGIN; SELECT 2"] {
        let mut client = bed.client();
        client.works();
        // Refused, or answered and then ended: in either case nothing can follow inside it.
        if client.query(begin).is_ok() {
            client.expect_end(Some("0A000"));
        }
        other.works();
    }
    let mut client = bed.client();
    client.rows("SELECT 1; SELECT 2");
    client.works();
}

#[test]
fn an_open_transaction_of_a_client_that_left() {
    for (reset, rows) in [("Rollback", "0"), ("Commit", "1")] {
        for mode in ["Session", "Transaction"] {
            let bed = Bed::with(|policy| {
                let policy = policy.set("pool.mode", mode).set("pool.resetOnReturn", reset);
                policy.set("pool.size", 1).set("pool.maxOverflow", 0)
            });
            if bed::is_direct() {
                return;
            }
            bed.setup("CREATE TABLE t (a int)");
            let mut gone = bed.client();
            gone.rows("BEGIN");
            gone.rows("INSERT INTO t VALUES (1)");
            gone.send(&[fe::terminate()]);
            gone.expect_end(None);
            let mut next = bed.client();
            assert_eq!(next.value("SELECT count(*) FROM t"), rows, "{mode} {reset}");
            drop(next);
            // A failed one is always rolled back.
            let mut gone = bed.client();
            gone.rows("BEGIN; DELETE FROM t");
            gone.query("SELEC").unwrap_err();
            drop(gone);
            let mut next = bed.client();
            assert_eq!(next.value("SELECT count(*) FROM t"), rows, "{mode} {reset}, failed");
            next.works();
        }
    }
}

#[test]
fn sequence_values_are_this_sessions_or_an_error() {
    let bed = Bed::sized(1);
    bed.setup("CREATE SEQUENCE s");
    let (mut a, mut b) = (bed.client(), bed.client());
    a.rows("SELECT nextval('s')");
    b.rows("SELECT nextval('s')");
    // Whatever it answers, never another client's value.
    for question in ["SELECT currval('s')", "SELECT lastval()"] {
        match a.query(question) {
            Ok(rows) => assert_eq!(rows[0][0].as_deref(), Some("1"), "{question}"),
            Err(error) => assert!(["55000", "0A000"].contains(&error.code.as_str()), "{error:?}"),
        }
        a.works();
    }
    // In one transaction it is right, or refused, or (on a server that others have used, asked for the first time) not defined.
    let mut c = bed.client();
    c.rows("BEGIN");
    let next = c.value("SELECT nextval('s')");
    match c.query("SELECT currval('s')") {
        Ok(rows) => assert_eq!(rows[0][0], Some(next)),
        Err(error) => assert!(["55000", "0A000"].contains(&error.code.as_str()), "{error:?}"),
    }
}

#[test]
fn several_policies_in_one_sidecar_keep_apart() {
    let bed = Bed::new();
    let Some(sidecar) = bed.sidecar() else { return };
    let other = bed.pg.create_database();
    let policy = sidecar.policy.clone().set("database.name", other.as_str()).named("second");
    let mut folder = crate::support::Launch::new(&sidecar.policy).folder();
    folder.add("second.yaml", &policy);
    let sidecar = folder.start();
    let (mut one, mut two) = (sidecar.client(), sidecar.connect().database(&other).open().unwrap());
    assert_eq!(one.value("SELECT current_database()"), bed.database);
    assert_eq!(two.value("SELECT current_database()"), other);
    eventually("both are ready", || sidecar.get("/readyz").0 == 200);
    let error = sidecar.connect().database("third").open().err().unwrap();
    assert_eq!(error.code, "3D000");
}

#[test]
fn a_name_that_is_reset_in_a_transaction_is_the_clients_own_at_once() {
    let bed = Bed::sized(1);
    let mut client = bed.connect().param("application_name", "one").open().unwrap();
    let mut other = bed.connect().param("application_name", "other").open().unwrap();
    for (reset, end) in [("RESET application_name", "COMMIT"), ("RESET ALL", "COMMIT"), ("RESET ALL", "ROLLBACK")] {
        client.rows("SET application_name TO mine");
        client.rows("BEGIN");
        client.rows(reset);
        assert_eq!(client.value("SHOW application_name"), "one", "{reset}");
        assert_eq!(client.parameter("application_name"), Some("one"));
        client.rows(end);
        let after = if end == "COMMIT" { "one" } else { "mine" };
        assert_eq!(other.value("SHOW application_name"), "other");
        assert_eq!(client.value("SHOW application_name"), after, "{reset}, {end}");
        client.rows("RESET application_name");
        assert_eq!(client.value("SHOW application_name"), "one");
    }
}

#[test]
fn clients_that_differ_in_their_application_name_share_a_server() {
    let bed = Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0));
    if bed::is_direct() {
        return;
    }
    bed.sidecar().inspect(|sidecar| sidecar.settle());
    let open = |name: &str| bed.connect().param("application_name", name).open().unwrap();
    let (mut one, mut two, mut none) = (open("one"), open("it's \\ two"), bed.client());
    let server = one.backend();
    for _ in 0..3 {
        assert_eq!(one.value("SHOW application_name"), "one");
        assert_eq!(two.value("SHOW application_name"), "it's \\ two");
        assert_eq!(none.value("SHOW application_name"), "");
        one.rows("BEGIN");
        assert_eq!(one.value("SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"), "one");
        one.rows("COMMIT");
    }
    assert_eq!(
        (one.parameter("application_name"), two.parameter("application_name")),
        (Some("one"), Some("it's \\ two"))
    );
    assert_eq!(two.backend(), server, "nothing was opened anew for a name");
}
