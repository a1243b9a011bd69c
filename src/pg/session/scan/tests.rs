use super::*;

fn asks(text: &str) -> Asks {
    scan(text.as_bytes()).asks
}

#[test]
fn ordinary_statements_are_harmless_and_ask_nothing() {
    for text in [
        "",
        "select 1",
        "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
        "update t set a = 1 where temp > 3",
        "insert into weather(temperature) values (1)",
        "begin; set local app.tenant to 'x'; commit",
        "set local statement_timeout = 5",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "set constraints all deferred",
        "prepare transaction 'x'",
        "select pg_advisory_xact_lock(1)",
        "select count(*) from pg_locks where locktype = 'advisory'",
        "declare c cursor for select 1",
        "create table contemporary(a int)",
        "select reset, listen from do_it",
        "select nextval('s')",
    ] {
        let scan = scan(text.as_bytes());
        assert!(scan.asks.is_empty() && scan.pin.is_none() && !scan.touches, "{text}");
    }
}

#[test]
fn what_outlives_the_transaction_is_asked_about() {
    for (text, expected) in [
        ("set a = 1", Asks::SETTINGS),
        ("  -- hello\n /* a /* nested */ b */ SET ROLE x", Asks::SETTINGS),
        ("select 1; set session authorization y", Asks::SETTINGS),
        ("select set_config('a.b', $1, false)", Asks::SETTINGS),
        ("reset all", Asks::SETTINGS),
        ("discard all", Asks::SETTINGS),
        ("update pg_settings set setting = 1", Asks::ALL_SETTINGS),
        ("LISTEN jobs", Asks::LISTEN),
        ("create temp table t(a int)", Asks::TEMPORARY),
        ("create or replace temporary view v as select 1", Asks::TEMPORARY),
        ("select 1 into temp t", Asks::TEMPORARY),
        ("create table pg_temp.x(a int)", Asks::TEMPORARY),
        ("begin; set local search_path to pg_temp; create table x(a int); commit", Asks::TEMPORARY),
        ("set local schema 'pg_temp'", Asks::TEMPORARY),
        ("-- a carriage return ends it\rset a = 1", Asks::SETTINGS),
        ("-- so\rdeclare c cursor with hold for select 1", Asks::CURSORS),
        ("select pg_advisory_lock(1)", Asks::LOCKS),
        ("select pg_try_advisory_lock_shared(1)", Asks::LOCKS),
        ("prepare p as select 1", Asks::PREPARED),
        ("declare c cursor with hold for select 1", Asks::CURSORS),
        ("begin; declare c cursor with hold for select 1; commit", Asks::CURSORS),
        ("do $$ begin set a.b = 1; end $$", Asks::SETTINGS),
        ("execute p", Asks::ALL),
        ("select U&\"\\0061\"()", Asks::ALL),
    ] {
        let scan = scan(text.as_bytes());
        assert!(scan.asks.has(expected), "{text}: {scan:?}");
        assert!(scan.touches && scan.pin.is_none(), "{text}: {scan:?}");
    }
}

#[test]
fn what_nobody_can_ask_about_keeps_the_server() {
    assert_eq!(scan(b"select setseed(0.5)").pin, Some(Pin::Code));
    assert_eq!(scan(b"load 'x'").pin, Some(Pin::Code));
    assert_eq!(scan(b"set seed to 0.5").pin, Some(Pin::Code));
    assert_eq!(scan(b"set local seed to 0.5").pin, Some(Pin::Code));
    assert_eq!(scan(b"set \"seed\" to 0.5").pin, Some(Pin::Code));
    assert_eq!(scan(b"set session U&\"\\0073eed\" to 0.5").pin, Some(Pin::Code));
    for text in ["set app.seed to 'x'", "set seed.x = 1", "select set_config('app.seed', 'x', false)", "set a = 'seed'"]
    {
        assert_eq!(scan(text.as_bytes()).pin, None, "{text}");
    }
    assert!(scan(b"select query_to_xml('select ' || f(), true, true, '')").hides);
    assert!(scan(b"select * from ts_stat($1)").hides);
    assert!(!scan(b"select * from ts_stat('select a from t')").hides);
    assert_eq!(scan(b"do $$ begin execute 'x'; end $$").pin, Some(Pin::Setting));
    assert_eq!(scan(b"select dblink_connect('x')").pin, Some(Pin::Code));
    assert_eq!(scan(b"select pg_backup_start('x')").pin, Some(Pin::Code));
    assert_eq!(scan(b"select set_config('app.' || 'x', 'y', false)").pin, Some(Pin::Code));
    assert_eq!(scan(b"select set_config('\\163eed', '0.5', false)").pin, Some(Pin::Code));
    assert_eq!(scan(b"select set_config('Seed', '0.5', false)").pin, Some(Pin::Code));
    assert_eq!(scan(b"prepare p as select set_config($1, $2, false)").pin, Some(Pin::Code));
    assert_eq!(scan(b"select set_config( $1::text, 'y', false)").pin, None);
}

#[test]
fn what_may_free_a_bound_client_is_noticed() {
    assert!(scan(b"select pg_advisory_unlock(1)").frees.has(Asks::LOCKS));
    assert!(scan(b"drop table t").frees.has(Asks::TEMPORARY));
    assert!(scan(b"close c").frees.has(Asks::CURSORS));
    assert!(!scan(b"drop table t").touches && !scan(b"close c").touches);
    assert_eq!(scan(b"discard all").frees, Asks::ALL);
    assert!(scan(b"unlisten *").frees.has(Asks::LISTEN) && asks("unlisten *").is_empty());
}

#[test]
fn settings_of_a_transaction_touch_only_if_plans_depend_on_them() {
    for text in ["set local timezone = 'x'", "set local search_path to x", "set local role x"] {
        assert!(scan(text.as_bytes()).touches, "{text}");
        assert!(asks(text).is_empty(), "{text}");
    }
    assert!(!scan(b"set local app.tenant = 'x'").touches);
    assert!(scan(b"set local app.tenant = 'x'").sets);
}

#[test]
fn only_constants_prove_themselves() {
    for text in ["begin", "COMMIT;", "rollback to savepoint a", "show all", "select 1, 2.5", "begin; select 1; end", ""]
    {
        assert!(scan(text.as_bytes()).constant, "{text}");
    }
    for text in
        ["-- a; show b\ninsert into t values (f())", "/*;begin */ update t set a = f()", "begin; -- a;show b\ncall f()"]
    {
        assert!(!scan(text.as_bytes()).constant, "a comment hides the statement behind it: {text}");
    }
    for text in
        ["select f()", "select a", "commit prepared 'x'", "begin; select f()", "select 'a;b'", "select -1", "vacuum"]
    {
        assert!(!scan(text.as_bytes()).constant, "{text}");
    }
}

#[test]
fn sequences_and_sql_prepared_statements_are_seen() {
    assert!(scan(b"select currval('s')").sequence);
    assert!(scan(b"SELECT LASTVAL()").sequence);
    assert!(!scan(b"select nextval('s')").sequence);
    assert!(scan(b"execute p(1)").names_prepared && scan(b"deallocate p").names_prepared);
    assert!(scan(b"select * from pg_prepared_statements").names_prepared);
    assert!(scan(b"select 1; call p()").calls);
}

#[test]
fn tags_say_what_the_text_did_not() {
    assert_eq!(tag(b"SET", true), Tag::default());
    assert!(tag(b"SET", false).asks.has(Asks::ALL_SETTINGS));
    assert_eq!(tag(b"SELECT 1", false), Tag::default());
    assert_eq!(tag(b"INSERT 0 1", false), Tag::default());
    assert!(tag(b"DO", false).touches);
    assert!(tag(b"LISTEN", false).asks.has(Asks::LISTEN));
    assert!(tag(b"WHATEVER COMES", false).touches);
}

#[test]
fn an_unfinished_comment_is_no_statement() {
    assert!(asks("/* /* set a = 1").is_empty());
    assert!(asks("-- set a = 1").is_empty());
}

#[test]
fn a_do_defines_nothing_only_if_all_of_its_text_shows_that() {
    let does = |text: &str| {
        let scan = scan(text.as_bytes());
        (scan.does, scan.does_more)
    };
    for text in [
        "DO $$BEGIN SET app.tag = 'a'; END$$",
        "do /* so */ $x$ begin perform f(created_at, executed) from t; end $x$;",
        "\x0bDO$$BEGIN NULL; END$$; select 1",
        "begin; DO $$BEGIN UPDATE t SET a = 1; END$$; commit",
    ] {
        assert_eq!(does(text), (true, false), "{text:?}");
    }
    for text in [
        "DO $$BEGIN EXECUTE'cre' || 'ate function …'; END$$",
        "DO $$BEGIN Create VIEW v AS SELECT 1; END$$",
        "DO $$BEGIN SET seed TO 0.5; END$$",
        "DO $$BEGIN PERFORM set_config('seed', '0.5', false); END$$",
        "DO LANGUAGE plperl $$$$",
        "DO $$$$ LANGUAGE plperl",
        "DO 'BEGIN cre'\n'ate …'",
        "DO E'BEGIN \\x63reate …'",
        "DO $$BEGIN NULL; END$$; DO 'BEGIN NULL; END'",
    ] {
        assert_eq!(does(text), (true, true), "{text:?}");
    }
    assert_eq!(does("insert into t values (1) on conflict do nothing; update do_it set a = 1"), (false, false));
}
