use super::*;

fn check(text: &str) -> Option<&'static str> {
    reason(text.as_bytes())
}

#[test]
fn what_leaves_the_session_alone() {
    for text in [
        "",
        "SELECT 1",
        "UPDATE t SET a = 1",
        "update only public.\"T\" as x\n   set a = 1 where temp > 3",
        "-- update\nUPDATE t\n-- all of them\nSET a = 1",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = excluded.b",
        "insert into t values (1) on conflict do nothing",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN UPDATE SET b = 1 WHEN NOT MATCHED THEN DO NOTHING",
        "-- SET app.tenant to 'x' is done elsewhere; EXECUTE set_config()\nSELECT 1",
        "/* set a = 1; /* reset all */ listen x */ SELECT 1",
        "BEGIN RAISE NOTICE 'please set the value; then reset it'; END",
        "BEGIN SET CONSTRAINTS ALL DEFERRED; SET TRANSACTION READ ONLY; END",
        "ALTER TABLE t ALTER COLUMN a SET DEFAULT 5",
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2, 3)",
        "SELECT nextval('s'), setval('s', 3), set_bit(a, 1, 1), setweight(v, 'A') FROM accounts_status",
        "SELECT orders_status, result_set, offset_limit FROM jobs OFFSET 3",
        "DECLARE temp int; reset_at timestamp; BEGIN temp := 3; NEW.temp = temp; RETURN NEW; END",
        "DECLARE x CURSOR FOR SELECT 1; BEGIN OPEN x; FETCH x INTO y; CLOSE x; END",
        "CREATE TABLE IF NOT EXISTS contemporary (a int)",
        "CREATE UNIQUE INDEX ON t (a); CREATE OR REPLACE VIEW v AS SELECT 1; ALTER TABLE t ADD b int",
        "SELECT load, listen, discard FROM t WHERE prepare > 1",
        "SELECT CASE WHEN a THEN b ELSE c END, d ->> 'set' FROM t",
        "BEGIN PERFORM pg_notify('a', 'b'); NOTIFY x; RETURN NEW; END",
        "SELECT $1, $a$ set; $a$, E'a\\nb', U&'d\\0061t', \"a set\"",
        "CREATE TRIGGER t AFTER INSERT ON x FOR EACH ROW WHEN (true)",
        "WITH hold AS (SELECT 1) SELECT * FROM hold",
    ] {
        // The last one is a false alarm that costs nothing but speed.
        let expected = if text.starts_with("WITH hold") { Some("WITH HOLD") } else { None };
        assert_eq!(check(text), expected, "{text}");
    }
}

#[test]
fn names_that_touch_the_session() {
    for (text, name) in [
        ("SELECT set_config('app.tenant', $1, false)", "set_config"),
        ("SELECT pg_catalog.SET_CONFIG('a', 'b', true)", "set_config"),
        ("SELECT \"set_config\"('a', 'b', true)", "set_config"),
        ("SELECT pg_catalog . /* x */ set_config ('a', 'b', true)", "set_config"),
        ("SELECT run('SELECT set_config(1)')", "set_config"),
        ("SELECT run($x$ SELECT lastval() $x$)", "lastval"),
        ("UPDATE pg_settings SET setting = 'x' WHERE name = 'a'", "pg_settings"),
        ("SELECT pg_advisory_lock(1)", "advisory_lock"),
        ("SELECT pg_try_advisory_lock_shared(1)", "advisory_lock"),
        ("SELECT pg_advisory_unlock_all()", "advisory_unlock"),
        ("SELECT currval('s')", "currval"),
        ("SELECT setseed(0.5)", "setseed"),
        ("SELECT set_limit(0.5)", "set_limit"),
        ("SELECT dblink_connect('x')", "dblink"),
        ("SELECT lo_open(1, 2)", "lo_open"),
        ("SELECT query_to_xml('select 1', true, true, '')", "query_to_xml"),
        ("SELECT * FROM ts_stat('select v from t')", "ts_stat"),
        ("SELECT ts_rewrite(q, 'select a, b from t')", "ts_rewrite"),
        ("SELECT * FROM pg_temp.t", "pg_temp"),
        ("SELECT pg_temp_3.f()", "pg_temp"),
        ("SELECT name FROM pg_prepared_statements", "pg_prepared_statements"),
        ("SELECT pg_create_physical_replication_slot('a', true, true)", "replication_slot"),
        ("SELECT pg_replication_origin_session_setup('a')", "replication_origin"),
        ("SELECT pg_backup_start('a')", "pg_backup_"),
        ("SELECT U&\"\\0073et_config\"('a', 'b', false)", "U&\""),
        ("SELECT u&\"set!005fconfig\" UESCAPE '!' ('a')", "U&\""),
    ] {
        assert_eq!(check(text), Some(name), "{text}");
    }
}

#[test]
fn statements_that_touch_the_session() {
    for (text, name) in [
        ("SET a = 1", "SET"),
        ("  -- hello\n /* a /* nested */ b */ SET ROLE x", "SET"),
        ("BEGIN SET LOCAL app.tenant = 'x'; END", "SET"),
        ("BEGIN SET -- what\n search_path TO x; END", "SET"),
        ("-- please update\nSET a = 1", "SET"),
        ("SELECT 'update x'; SET a = 1", "SET"),
        ("IF a = 'update' THEN SET a = 1; END IF", "SET"),
        ("IF x THEN NULL; ELSE SET a = 1; END IF", "SET"),
        ("LOOP SET a TO 1; END LOOP", "SET"),
        ("<<here>> SET a TO 1", "SET"),
        ("SELECT '--'; SET a = 1", "SET"),
        ("SELECT \"/*\" FROM t; SET a = 1", "SET"),
        ("SELECT $q$ /* $q$; SET a = 1", "SET"),
        ("SELECT E'/*'; SET a = 1", "SET"),
        ("-- so\rSET a = 1", "SET"),
        ("SET \"a.b\" = 1", "SET"),
        ("SET", "SET"),
        ("RESET ALL", "reset"),
        ("BEGIN DISCARD ALL; END", "discard"),
        ("LOAD 'x'", "load"),
        ("LISTEN x", "listen"),
        ("SELECT 1; UNLISTEN *", "unlisten"),
        ("PREPARE p AS SELECT 1", "prepare"),
        ("DEALLOCATE ALL", "deallocate"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c", "import"),
        ("DO E'BEGIN PERFORM s\\x65t_config(1); END'", "DO"),
        ("DO LANGUAGE plpgsql $$ BEGIN END $$", "DO"),
        ("BEGIN EXECUTE 'sel' || 'ect'; END", "EXECUTE"),
        ("FOR r IN EXECUTE q LOOP NULL; END LOOP", "EXECUTE"),
        ("EXECUTE p", "EXECUTE"),
        ("CREATE TEMP TABLE t (a int)", "TEMP"),
        ("CREATE OR REPLACE TEMPORARY VIEW v AS SELECT 1", "TEMP"),
        ("CREATE LOCAL /* x */ TEMP SEQUENCE s", "TEMP"),
        ("SELECT 1 AS a INTO TEMPORARY t", "TEMP"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "WITH HOLD"),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS E'select s\\145tseed(1)'", "CREATE or ALTER of code"),
        ("BEGIN CREATE OR REPLACE /* ; */ PROCEDURE p() AS 'x'; END", "CREATE or ALTER of code"),
        ("CREATE EXTENSION dblink", "CREATE or ALTER of code"),
        ("CREATE FOREIGN TABLE t (a int) SERVER s", "CREATE or ALTER of code"),
        ("ALTER EVENT TRIGGER x ENABLE", "CREATE or ALTER of code"),
        ("CREATE \"x\"", "CREATE or ALTER of code"),
        ("CREATE", "CREATE or ALTER of code"),
    ] {
        assert_eq!(check(text), Some(name), "{text}");
    }
}

#[test]
fn where_strings_end_is_not_always_certain() {
    // With standard_conforming_strings off all up to the last quote is one string, or the other way round.
    assert_eq!(check("SELECT 'a\\'; SET a = 1; --'"), Some("set"));
    assert_eq!(check("SELECT 'a\\' ; /* '; SET a = 1"), Some("set"));
    assert_eq!(check("SELECT 'a\\'; SELECT upset, temperature"), None);
}

#[test]
fn unfinished_texts_end() {
    for text in
        ["'", "\"", "$$", "$a$", "/*", "/* /* */", "--", "E'\\", "u&\"", "u&'", "$", "$1", "a$", "'a''", "/", "-", ">"]
    {
        let _ = check(text);
        let _ = check(&format!("SELECT {text}"));
    }
}

proptest::proptest! {
    /// A statement that is surely one is found whatever stands before it.
    #[test]
    fn a_statement_is_found_after_any_complete_one(
        words in proptest::collection::vec("[a-z_]{1,8}|'[^'\\\\]{0,9}'|\"[^\"\\\\]{0,9}\"|--[^\r\n\\\\]{0,9}\n|/\\*[^*/\\\\]{0,9}\\*/|[(),=<:]", 0..12)
    ) {
        let text = format!("SELECT {} ; SET a = 1", words.join(" "));
        proptest::prop_assert!(check(&text).is_some(), "{}", text);
    }

    /// Any bytes are read to their end.
    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = reason(&bytes);
    }
}
