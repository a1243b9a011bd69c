//! `pool.sessionState` and `pool.maxPinned`: what is carried, what binds and when it is free again, what is refused.

use crate::support::wire::Client;
use crate::support::{Bed, bed, eventually, fe};

/// Servers that were closed because nothing else makes them clean.
const CLOSED: &str = "poolkeeper_server_connections_closed_total{reason=\"hygiene\"}";

/// Transaction mode with so many servers and this `sessionState`.
fn with(state: &str, size: u32) -> Bed {
    Bed::with(|policy| policy.set("pool.sessionState", state).set("pool.size", size).set("pool.maxOverflow", 0))
}

/// Runs `check` on each of a bed's two servers, for a client that nothing binds.
#[track_caller]
fn on_both(bed: &Bed, client: &mut Client, mut check: impl FnMut(&mut Client)) {
    let mut holders = [bed.client(), bed.client()];
    for holder in &mut holders {
        holder.rows("BEGIN");
    }
    for holder in &mut holders {
        holder.rows("COMMIT");
        check(client);
        holder.rows("BEGIN");
    }
}

fn metric(bed: &Bed, name: &str) -> f64 {
    bed.sidecar().map_or(0.0, |sidecar| sidecar.metric(name))
}

#[test]
fn settings_and_role_go_with_their_client_from_server_to_server() {
    let bed = Bed::sized(2);
    let role = format!("{}_tenant", bed.database);
    bed.admin().rows(&format!("CREATE ROLE {role}; GRANT {role} TO app"));
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("SET DateStyle = 'German'; SET search_path = \"a b\", public; SET app.tenant = 'it''s \\ mine'");
    client.rows(&format!("SET ROLE {role}"));
    on_both(&bed, &mut client, |client| {
        let own = client.value(
            "SELECT concat_ws('|', current_user, current_setting('DateStyle'), current_setting('search_path'), \
             current_setting('app.tenant'))",
        );
        assert_eq!(own, format!("{role}|German, DMY|\"a b\", public|it's \\ mine"));
    });
    on_both(&bed, &mut other, |other| {
        assert_eq!(other.value("SELECT concat_ws('|', current_user, current_setting('DateStyle'))"), "app|ISO, MDY");
    });
    assert!(bed::is_direct() || metric(&bed, "poolkeeper_session_adaptations_total") > 0.0);
    assert!(bed::is_direct() || metric(&bed, "poolkeeper_session_audits_total{kind=\"targeted\"}") > 0.0);
    assert_eq!(metric(&bed, "poolkeeper_pins_total"), 0.0, "nothing of it binds");
}

#[test]
fn values_are_carried_in_the_clients_encoding() {
    let bed = Bed::sized(2);
    let mut client = bed.client();
    client.rows("SET client_encoding = 'latin1'");
    // Two bytes, and two characters in this encoding.
    client.rows("SET app.tenant = 'Müller'");
    on_both(&bed, &mut client, |client| {
        let same = "SELECT current_setting('app.tenant') = 'M' || chr(195) || chr(188) || 'ller'";
        assert_eq!(client.value(same), "t");
        assert_eq!(client.value("SHOW client_encoding"), "LATIN1");
    });
}

#[test]
fn what_no_text_shows_reaches_nobody_else() {
    for state in ["Preserve", "Strict"] {
        let bed = with(state, 1);
        bed.setup(
            "CREATE FUNCTION hidden() RETURNS text LANGUAGE sql AS \
             $$SELECT set_config('app.tenant', 'mine', false) || set_config('work_mem', '7MB', false)$$",
        );
        let (mut client, mut other) = (bed.client(), bed.client());
        for _ in 0..3 {
            client.rows("SELECT hidden()");
            assert!(bed::is_direct() || other.value("SHOW work_mem") == "4MB", "{state}");
            let tenant = other.value("SELECT coalesce(current_setting('app.tenant', true), '')");
            assert!(bed::is_direct() || tenant.is_empty(), "{state}: {tenant}");
        }
    }
}

/// From the moment in which such a routine is there: before the catalog is read, and after.
#[test]
fn what_no_scrub_undoes_reaches_nobody_else() {
    for state in ["Preserve", "Strict"] {
        let bed = with(state, 1);
        if bed::is_direct() {
            return;
        }
        let (mut one, mut two) = (bed.client(), bed.client());
        // Whose text names it is bound, and leaves a server that is closed.
        bed.client().rows("CREATE FUNCTION sow() RETURNS void LANGUAGE sql AS $$SELECT setseed(0.5)$$");
        for turn in 0..3 {
            one.rows("SELECT sow()");
            let sown = one.backend();
            assert_ne!(two.backend(), sown, "{state}, {turn}");
            let mut leaves = bed.client();
            leaves.rows("BEGIN; SELECT sow()");
            let sown = leaves.backend();
            drop(leaves);
            assert_ne!(two.backend(), sown, "{state}, {turn}: its client left in a transaction");
            eventually("the catalog was read", || {
                two.works();
                bed.sidecar().is_some_and(|sidecar| sidecar.get("/status").1.contains("sow"))
            });
        }
    }
}

/// Nor does it if the routine is gone when its client gives the server back.
#[test]
fn a_routine_that_is_dropped_meanwhile_is_not_forgiven() {
    let bed = with("Preserve", 2);
    if bed::is_direct() {
        return;
    }
    bed.setup("CREATE FUNCTION sow() RETURNS void LANGUAGE sql AS $$SELECT setseed(0.5)$$");
    let (mut one, mut two) = (bed.client(), bed.client());
    one.rows("BEGIN; SELECT sow()");
    let sown = one.backend();
    bed.setup("DROP FUNCTION sow()");
    eventually("the catalog was read", || {
        two.works();
        metric(&bed, "poolkeeper_catalog_quiet") == 1.0
    });
    one.rows("COMMIT");
    two.rows("BEGIN");
    let mut three = bed.client();
    three.rows("BEGIN");
    let pids = [two.backend(), three.backend()];
    assert!(!pids.contains(&sown), "{sown} among {pids:?}");
}

/// Temporary tables all the time: what a scrub undoes gets known all the same, and servers are shared, not closed.
#[test]
fn tables_that_come_and_go_do_not_cost_servers() {
    for state in ["Preserve", "Strict"] {
        let bed = with(state, 1);
        if bed::is_direct() {
            return;
        }
        let (mut one, mut two) = (bed.client(), bed.client());
        let mut round = || {
            one.rows("CREATE TEMP TABLE passing (a int); DROP TABLE passing");
            two.backend()
        };
        let mut last = round();
        eventually("two rounds on one server", || std::mem::replace(&mut last, round()) == last);
        let pids: std::collections::HashSet<_> = (0..20).map(|_| round()).collect();
        assert!(pids.len() <= 2, "{state}: {} servers for twenty rounds", pids.len());
    }
}

/// Nor does a definition in a transaction that stays open: the catalog is read all the same, for what others can see.
#[test]
fn a_definition_that_stays_open_does_not_cost_servers() {
    let bed = with("Strict", 2);
    let mut defining = bed.client();
    defining.rows("BEGIN; CREATE TABLE mine (a int)");
    let (mut one, mut two) = (bed.client(), bed.client());
    // Code, so that nobody knows any more what a scrub undoes.
    one.rows("CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    let mut round = || [one.backend(), two.backend()];
    eventually("a round on one server", || {
        let [first, second] = round();
        first == second
    });
    let closed = metric(&bed, CLOSED);
    for _ in 0..20 {
        round();
    }
    assert_eq!(metric(&bed, CLOSED), closed);
    defining.rows("COMMIT");
}

/// Where every session is closed for the next client, all are served all the same.
#[test]
fn nobody_starves_where_no_scrub_helps() {
    let bed = with("Preserve", 1);
    bed.setup("CREATE FUNCTION sow() RETURNS int LANGUAGE sql AS $$SELECT setseed(0.5); SELECT 7$$");
    std::thread::scope(|threads| {
        for _ in 0..6 {
            threads.spawn(|| {
                let mut client = bed.client();
                (0..15).for_each(|_| assert_eq!(client.value("SELECT sow()"), "7"));
            });
        }
    });
}

#[test]
fn strict_scrubs_at_every_change_of_client() {
    let bed = with("Strict", 1);
    let (mut one, mut two) = (bed.client(), bed.client());
    bed.sidecar().inspect(|sidecar| sidecar.settle());
    let before = metric(&bed, "poolkeeper_session_scrubs_total");
    for _ in 0..5 {
        one.works();
        two.works();
    }
    assert!(bed::is_direct() || metric(&bed, "poolkeeper_session_scrubs_total") >= before + 9.0);
}

#[test]
fn a_quiet_database_needs_no_scrubs_for_ordinary_statements() {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int)");
    if bed::is_direct() {
        return;
    }
    let (mut one, mut two) = (bed.client(), bed.client());
    eventually("the catalog was read", || {
        one.rows("INSERT INTO t VALUES (1)");
        metric(&bed, "poolkeeper_catalog_quiet") == 1.0
    });
    one.works();
    two.works();
    let before = metric(&bed, "poolkeeper_session_scrubs_total");
    for _ in 0..10 {
        one.rows("BEGIN; INSERT INTO t VALUES (1); COMMIT");
        two.rows("SELECT count(*) FROM t");
    }
    assert_eq!(metric(&bed, "poolkeeper_session_scrubs_total"), before);
}

#[test]
fn trusting_takes_the_databases_routines_at_their_word() {
    let bed = with("Trusting", 1);
    bed.setup("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$SELECT set_config('app.a', '', true)$$");
    let (mut one, mut two) = (bed.client(), bed.client());
    for _ in 0..5 {
        one.rows("SELECT f()");
        two.rows("SELECT f()");
    }
    assert_eq!(metric(&bed, "poolkeeper_session_scrubs_total"), 0.0);
    // What a text shows is kept apart here too.
    one.rows("SET work_mem = '7MB'");
    assert_eq!((two.value("SHOW work_mem"), one.value("SHOW work_mem")), ("4MB".into(), "7MB".into()));
}

#[test]
fn reject_carries_settings_and_refuses_what_would_bind() {
    let bed = with("Reject", 1);
    if bed::is_direct() {
        return;
    }
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("SET work_mem = '7MB'");
    assert_eq!((other.value("SHOW work_mem"), client.value("SHOW work_mem")), ("4MB".into(), "7MB".into()));
    let binding = [
        "LISTEN news",
        "CREATE TEMP TABLE mine (a int)",
        "SELECT pg_advisory_lock(42)",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    ];
    for sql in binding {
        let mut refused = bed.client();
        let error = refused.query(sql).unwrap_err();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "0A000"), "{sql}");
        assert!(error.message.contains("pool.sessionState is Reject"), "{error:?}");
        other.works();
        // The client stays, in every protocol; its transaction has failed with the statement.
        refused.works();
        refused.send(&[fe::extended(sql, &[])]);
        refused.expect("E:0A000 Z:I");
        refused.send(&[fe::parse("s", sql, &[]), fe::describe("s"), fe::sync(), fe::run("s", &[])]);
        refused.expect("E:0A000 Z:I E:26000 Z:I");
        refused.rows("BEGIN");
        assert_eq!(refused.query(sql).unwrap_err().code, "0A000");
        assert_eq!(refused.query("SELECT 1").unwrap_err().code, "25P02");
        refused.rows("ROLLBACK");
        refused.works();
    }
    other.rows("SELECT pg_advisory_xact_lock(42)");
    other.rows("BEGIN; DECLARE mine CURSOR FOR SELECT 1; COMMIT");
    assert_eq!(metric(&bed, "poolkeeper_pins_total"), 0.0);
}

#[test]
fn more_bound_clients_than_allowed_are_told_the_reason_and_the_limit() {
    let bed = Bed::with(|policy| policy.set("pool.size", 4).set("pool.maxOverflow", 0).set("pool.maxPinned", "25%"));
    let Some(sidecar) = bed.sidecar() else { return };
    let (mut first, mut second) = (bed.client(), bed.client());
    first.rows("LISTEN news");
    eventually("it is bound", || sidecar.metric("poolkeeper_pinned_clients") == 1.0);
    assert_eq!(sidecar.metric("poolkeeper_pinned_clients_limit"), 1.0);
    assert_eq!(sidecar.status()["pools"][0]["pinned"], serde_json::json!({ "clients": 1, "limit": 1 }));
    second.send(&[fe::query("SELECT pg_advisory_lock(42)")]);
    let error = second.expect("T D C Z:I E:53400").pop().unwrap();
    let text = error.field(b'M');
    assert!(text.contains("advisory_lock") && text.contains("pool.maxPinned allows 1"), "{text}");
    second.expect_end(None);
    // The lock went with it; when the first is free, another may be bound.
    first.rows("UNLISTEN *");
    eventually("nobody is bound", || sidecar.metric("poolkeeper_pinned_clients") == 0.0);
    let mut third = bed.client();
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = \
                 (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("the lock is gone", || bed.admin().value(locks) == "0");
    assert_eq!(third.value("SELECT pg_try_advisory_lock(42)"), "t");
    third.works();
    eventually("it is bound", || sidecar.metric("poolkeeper_pinned_clients") == 1.0);
}

#[test]
fn the_last_value_of_a_sequence_is_ones_own_or_undefined() {
    let bed = Bed::sized(1);
    bed.setup("CREATE SEQUENCE s");
    if bed::is_direct() {
        return;
    }
    let (mut one, mut two) = (bed.client(), bed.client());
    one.rows("SELECT nextval('s')");
    for question in ["SELECT currval('s')", "SELECT lastval()"] {
        assert_eq!(two.query(question).unwrap_err().code, "55000", "{question}");
    }
    two.rows("BEGIN");
    let own = two.value("SELECT nextval('s')");
    assert_eq!(two.value("SELECT currval('s')"), own, "in one transaction");
    two.rows("COMMIT");
}

#[test]
fn a_server_with_what_nothing_undoes_is_closed() {
    let bed = Bed::sized(1);
    if bed::is_direct() {
        return;
    }
    bed.sidecar().inspect(|sidecar| sidecar.settle());
    let (mut one, mut two) = (bed.client(), bed.client());
    let before = (two.backend(), metric(&bed, CLOSED));
    one.rows("SELECT setseed(0.5)");
    drop(one);
    assert_ne!(two.backend(), before.0);
    assert_eq!(metric(&bed, CLOSED), before.1 + 1.0);
}
