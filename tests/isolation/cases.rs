//! What the stress has found, one test each, as small as it goes. They are of use from the build on that proves
//! servers clean.

use crate::scenarios::proves;
use crate::support::{Bed, Sidecar, fe};

#[test]
fn a_pinned_client_gets_no_others_sequence_value() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    bed.setup("CREATE SEQUENCE s");
    let (mut a, mut b) = (bed.client(), bed.client());
    a.rows("SELECT nextval('s')");
    b.rows("SET work_mem = '7MB'");
    for question in ["SELECT currval('s')", "SELECT lastval()"] {
        let error = b.query(question).unwrap_err();
        assert_eq!(error.code, "55000", "{question}: {error:?}");
    }
}

#[test]
fn cached_plans_of_another_time_zone_are_not_met() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    bed.setup(
        "CREATE FUNCTION noon() RETURNS bigint LANGUAGE plpgsql AS \
         $$BEGIN RETURN extract(epoch FROM timestamptz '2020-01-01 12:00'); END$$",
    );
    let (mut a, mut b) = (bed.client(), bed.client());
    a.rows("BEGIN; SET LOCAL TimeZone = '<A>-05:00'; SELECT noon(); COMMIT");
    assert_eq!(b.value("SELECT noon()"), b.value("SELECT extract(epoch FROM timestamptz '2020-01-01 12:00')::bigint"));
}

#[test]
fn reset_all_leads_back_to_the_clients_own_name_and_says_so() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    // Opens the server under no name.
    bed.client().works();
    let mut client = bed.connect().param("application_name", "mine").open().unwrap();
    client.rows("SET work_mem = '7MB'");
    client.rows("RESET ALL");
    assert_eq!(client.value("SHOW application_name"), "mine");
    assert_eq!(client.parameter("application_name"), Some("mine"));
}

#[test]
fn a_reset_of_something_else_leaves_the_name_alone() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    let mut client = bed.connect().param("application_name", "mine").open().unwrap();
    client.rows("SET application_name = 'other'");
    client.rows("RESET work_mem");
    assert_eq!(client.value("SHOW application_name"), "other");
    assert_eq!(client.parameter("application_name"), Some("other"));
}

#[test]
fn a_setting_that_nobody_of_mine_touched_is_unset() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    let (mut a, mut b) = (bed.client(), bed.client());
    a.rows("BEGIN; SET LOCAL app.tenant = 'a'; COMMIT");
    assert_eq!(b.value("SELECT current_setting('app.tenant', true) IS NULL"), "t");
}

/// A client that reads settings by name while others have set theirs.
#[test]
fn whoever_reads_settings_by_name_gets_an_answer() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(2);
    bed.sidecar().into_iter().for_each(Sidecar::settle);
    let (mut a, mut b) = (bed.client(), bed.client());
    for turn in 0..5 {
        a.rows(&format!("DO $$BEGIN SET app.tag = 'a{turn}'; END$$"));
        b.rows(&format!("SET app.tag = 'b{turn}'"));
        assert_eq!(a.value("SELECT current_setting('app.tag', true)"), format!("a{turn}"));
        assert_eq!(b.value("SELECT current_setting('app.tag', true)"), format!("b{turn}"));
        assert_eq!(bed.client().value("SELECT current_setting('app.tag', true) IS NULL"), "t");
    }
    let Some(sidecar) = bed.sidecar() else { return };
    let closed = sidecar.metric("poolkeeper_server_connections_closed_total");
    assert!(closed <= 8.0, "{closed} servers closed");
}

#[test]
fn after_reset_all_a_setting_is_empty_or_unset() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    let (mut a, mut b) = (bed.client(), bed.client());
    b.rows("SET app.tag = 'b'");
    a.rows("SET app.tag = 'a'");
    a.rows("RESET ALL");
    b.rows("SELECT 1");
    assert_eq!(a.value("SELECT coalesce(current_setting('app.tag', true), '')"), "");
    assert_eq!(b.value("SELECT current_setting('app.tag', true)"), "b");
}

/// However a client has sown `random()`, nobody else draws from its series.
#[test]
fn nobody_meets_anothers_seed() {
    if !proves() {
        return;
    }
    let bed = Bed::sized(1);
    bed.sidecar().into_iter().for_each(Sidecar::settle);
    let mut own = bed.admin();
    own.rows("SELECT setseed(0.5)");
    let next = own.value("SELECT random()");
    let ways = [
        "SELECT setseed(0.5)",
        "SET seed TO 0.5",
        "SET \"seed\" TO 0.5",
        "SET U&\"\\0073eed\" TO 0.5",
        "BEGIN; SET LOCAL seed TO 0.5; COMMIT",
        "SELECT query_to_xml('SELECT set' || 'seed(0.5)', true, true, '')",
        "SELECT set_config('seed', '0.5', false)",
        "SELECT set_config('SE' || 'ED', '0.5', false)",
        "SELECT set_config(name, '0.5', false) FROM (VALUES ('seed')) AS v(name)",
        "PREPARE p AS SELECT set_config($1, '0.5', false); EXECUTE p('se' || 'ed')",
        "DO $$BEGIN SET seed TO 0.5; END$$",
        "DO $$BEGIN PERFORM set_config('seed', '0.5', false); END$$",
        "DO $$BEGIN EXECUTE 'SET se' || 'ed TO 0.5'; END$$",
    ];
    let mut met = Vec::new();
    for way in ways.into_iter().chain(["a parameter"]) {
        let mut sower = bed.client();
        if way == "a parameter" {
            let call = fe::parse("", "SELECT set_config($1, '0.5', false)", &[]);
            sower.send(&[call, fe::run("", &["Seed"]), fe::sync()]);
            sower.expect("1 2 D C Z");
        } else {
            sower.rows(way);
        }
        drop(sower);
        if bed.client().value("SELECT random()") == next {
            met.push(way);
        }
    }
    assert!(met.is_empty(), "{met:?}");
}
