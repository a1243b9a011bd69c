//! Quiet or noisy: what can touch a session behind an ordinary statement's back, asked of real catalogs.

use crate::support::{Bed, Client, Load, Options, Postgres, bed, eventually, pg};
use poolkeeper::pg::session::catalog::{Row, Verdict, judge, question};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod cases;

/// What is asked of the catalog through one connection, as the sidecar asks it.
fn ask(client: &mut Client) -> (String, Verdict) {
    let opening = client.rows(&question::opening()).remove(0);
    let [version, encoding, pulse] = opening.try_into().unwrap();
    let rows = client.rows(&question::reading(version.unwrap().parse().unwrap(), &encoding.unwrap()));
    client.rows(question::CLOSING);
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let rows: Vec<[String; 3]> = rows.iter().map(|row| [text(&row[0]), text(&row[1]), text(&row[2])]).collect();
    let rows = rows.iter().map(|[kind, name, detail]| Row {
        kind: kind.as_bytes(),
        name: name.as_bytes(),
        detail: detail.as_bytes(),
    });
    (pulse.unwrap(), judge(rows))
}

fn names(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Noisy { names, .. } => names,
        Verdict::Quiet => Vec::new(),
        Verdict::Unknown => panic!("it was asked"),
    }
}

/// A session of a role that owns nothing and was granted nothing.
fn nobody(server: &Postgres, database: &str) -> Client {
    server.connect(database).user("nobody").password("nobody-password").open().unwrap()
}

fn servers() -> [(u32, Arc<Postgres>); 3] {
    [(13, Postgres::shared_13()), (15, Postgres::shared()), (18, Postgres::shared_18())]
}

/// Each kind of object that makes a database noisy, by its name and reason; and near misses that must not.
#[test]
fn each_rule_on_each_version() {
    std::thread::scope(|scope| {
        for (version, server) in servers() {
            scope.spawn(move || {
                let mut admin = server.admin("postgres");
                admin.rows("CREATE ROLE nobody LOGIN PASSWORD 'nobody-password'");
                for case in cases::CASES.iter().filter(|case| version >= case.since) {
                    let database = server.create_database();
                    let mut owner = server.admin(&database);
                    let mut nobody = nobody(&server, &database);
                    owner.rows(case.before);
                    let (before, verdict) = ask(&mut nobody);
                    assert_eq!(names(verdict), [""; 0], "{version}: before {}", case.sql);
                    if let Err(error) = owner.query(case.sql) {
                        panic!("{version}: {}: {error:?}", case.sql);
                    }
                    let (after, verdict) = ask(&mut nobody);
                    let names = names(verdict);
                    match case.noisy {
                        Some(expected) => {
                            assert!(names.iter().any(|name| name == expected), "{version}: {}: {names:?}", case.sql);
                            assert_ne!(before, after, "{version}: the pulse of {}", case.sql);
                        }
                        None => assert_eq!(names, [""; 0], "{version}: {}", case.sql),
                    }
                    drop((owner, nobody));
                    admin.rows(&format!("DROP DATABASE {database}"));
                }
            });
        }
    });
}

/// Every extension that is here and known to leave sessions alone is quiet as a whole, its SQL functions included.
#[test]
fn known_extensions_are_quiet_as_they_come() {
    for (version, server) in servers() {
        let database = server.create_database();
        let mut owner = server.admin(&database);
        let known = "adminpack amcheck autoinc bloom btree_gin btree_gist citext cube dict_int dict_xsyn earthdistance \
                     file_fdw fuzzystrmatch hstore insert_username intagg intarray lo ltree moddatetime old_snapshot \
                     pageinspect pg_buffercache pg_freespacemap pg_logicalinspect pg_prewarm pg_stat_statements \
                     pg_surgery pg_trgm pg_visibility pg_walinspect pgcrypto pgrowlocks pgstattuple postgres_fdw seg \
                     sslinfo tcn tsm_system_rows tsm_system_time unaccent uuid-ossp vector";
        let mut installed = 0;
        for name in known.split_whitespace() {
            // Not each version has each.
            installed += u32::from(owner.query(&format!("CREATE EXTENSION \"{name}\" CASCADE")).is_ok());
        }
        assert!(installed > 25, "{version}: {installed}");
        assert_eq!(names(ask(&mut owner).1), [""; 0], "{version}");
    }
}

/// The answers do not depend on what a client has set, nor on objects that stand for PostgreSQL's own.
#[test]
fn a_clients_settings_and_operators_do_not_change_the_answer() {
    for (_, server) in servers() {
        let database = server.create_database();
        let mut owner = server.admin(&database);
        owner.rows(
            "CREATE SCHEMA trap; CREATE TABLE trap.pg_proc (oid oid, prosrc text);
             CREATE FUNCTION trap.no(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
             CREATE OPERATOR trap.= (leftarg = text, rightarg = text, procedure = trap.no);
             CREATE OPERATOR trap.~ (leftarg = text, rightarg = text, procedure = trap.no);
             CREATE OPERATOR trap.<> (leftarg = text, rightarg = text, procedure = trap.no);
             CREATE FUNCTION trap.concat(VARIADIC \"any\") RETURNS text LANGUAGE internal IMMUTABLE AS 'text_concat';
             CREATE TABLE public.t (a int DEFAULT lastval()); GRANT USAGE ON SCHEMA trap TO public",
        );
        let mut client = server.connect(&database).open().unwrap();
        client.rows(
            "SET search_path = trap, public, pg_catalog; SET standard_conforming_strings = off; \
             SET client_encoding = 'SJIS'; SET bytea_output = 'escape'; SET quote_all_identifiers = on; \
             SET extra_float_digits = 0; SET enable_seqscan = off; SET enable_hashjoin = off; \
             SET default_transaction_isolation = 'serializable'; SET default_transaction_deferrable = on; \
             CREATE TEMP TABLE pg_attrdef (adbin text); CREATE TEMP TABLE pg_language (lanname text)",
        );
        let found = names(ask(&mut client).1);
        assert!(found.iter().any(|name| name.starts_with("default public.t.a: ")), "{found:?}");
        assert_eq!(client.value("SHOW client_encoding"), "SJIS", "all of it was rolled back");
        assert_eq!(client.value("SHOW search_path"), "\"trap\", \"public\", \"pg_catalog\"".replace('"', ""));
    }
}

/// A standby has the catalog of its primary, and answers.
#[test]
fn a_hot_standby_answers() {
    let server = Postgres::start(&Options::default());
    let database = server.create_database();
    server.admin(&database).rows("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT setseed(1); SELECT 1'");
    server.stop();
    server.become_standby();
    server.start_again();
    assert_eq!(server.admin(&database).value("SELECT pg_is_in_recovery()"), "t");
    let (_, verdict) = ask(&mut server.connect(&database).open().unwrap());
    assert_eq!(names(verdict), ["function public.f: setseed"]);
}

/// How long the reading takes where there is much to read.
#[test]
fn a_large_catalog_is_read_in_time() {
    let server = Postgres::shared();
    let database = server.create_database();
    let mut owner = server.admin(&database);
    owner.rows(cases::LARGE);
    let mut client = server.connect(&database).open().unwrap();
    let started = Instant::now();
    let (pulse, verdict) = ask(&mut client);
    let whole = started.elapsed();
    let started = Instant::now();
    let same = client.rows(&question::opening())[0][2].clone().unwrap();
    let opening = started.elapsed();
    client.rows(question::CLOSING);
    println!("2 000 functions, 500 tables, 300 views: the reading took {whole:?}, the pulse alone {opening:?}");
    assert_eq!((names(verdict), same), (vec![], pulse));
    assert!(whole < Duration::from_secs(10));
}

fn catalog(bed: &Bed) -> Value {
    bed.sidecar().unwrap().status()["pools"][0]["catalog"].clone()
}

#[track_caller]
fn becomes(bed: &Bed, verdict: &str) -> Value {
    // Somebody has to use the database for anybody to ask.
    let mut client = bed.client();
    eventually(verdict, || {
        client.works();
        let catalog = catalog(bed);
        catalog["verdict"] == verdict && catalog["quiet"] == (verdict == "quiet")
    });
    catalog(bed)
}

#[test]
fn ddl_through_the_pooler_counts_at_once() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::new();
    let status = becomes(&bed, "quiet");
    assert_eq!((status["names"].as_array().unwrap().len(), &status["failure"]), (0, &Value::Null));
    assert!(status["milliseconds"].as_f64().unwrap() > 0.0 && status["read_seconds_ago"].as_f64().unwrap() < 60.0);
    assert_eq!(bed.sidecar().unwrap().metric("poolkeeper_catalog_quiet"), 1.0);
    let mut client = bed.client();
    client.rows("BEGIN; CREATE FUNCTION f() RETURNS void LANGUAGE sql AS $$ SELECT set_config('a.b', 'c', false) $$");
    // Nobody else can see it yet, so no reading would; and none is believed before the transaction ends.
    for _ in 0..20 {
        assert_eq!(catalog(&bed)["quiet"], false);
        std::thread::sleep(Duration::from_millis(20));
    }
    client.rows("COMMIT");
    assert_eq!(catalog(&bed)["quiet"], false);
    let status = becomes(&bed, "noisy");
    assert_eq!(status["names"][0], "function public.f: set_config");
    assert_eq!(bed.sidecar().unwrap().metric("poolkeeper_catalog_quiet"), 0.0);
    client.rows("DROP FUNCTION f()");
    becomes(&bed, "quiet");
    client.rows("BEGIN; CREATE TABLE t (a int); ROLLBACK");
    assert_eq!(catalog(&bed)["quiet"], false, "it may have been anything");
    becomes(&bed, "quiet");
    let log = bed.sidecar().unwrap().log();
    assert!(log.contains("the database is quiet") && log.contains("function public.f: set_config"), "{log}");
}

#[test]
fn a_function_from_elsewhere_is_seen_within_seconds() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::new();
    becomes(&bed, "quiet");
    let started = Instant::now();
    bed.setup("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN SET app.x = 1; END $$");
    becomes(&bed, "noisy");
    println!("seen after {:?}", started.elapsed());
    bed.setup("CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$");
    becomes(&bed, "quiet");
}

/// A pool of one, held by a client: nothing waits, nothing is opened, and the reading comes when the server is free.
#[test]
fn it_takes_no_servers_place() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::with(|policy| {
        policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("health.interval", "60s").set("pool.prePing", false)
    });
    let mut client = bed.client();
    client.rows("BEGIN");
    std::thread::sleep(Duration::from_millis(600));
    let status = bed.sidecar().unwrap().status();
    assert_eq!(bed.backends().len(), 1);
    assert_eq!(
        (&status["pools"][0]["connections"]["waiting"], &status["pools"][0]["catalog"]["quiet"]),
        (&0.into(), &false.into())
    );
    client.rows("COMMIT");
    let quiet = becomes(&bed, "quiet");
    assert_eq!(quiet["failure"], Value::Null);
    assert_eq!(bed.backends().len(), 1);
    // Its server was left as it was.
    let mut admin = bed.admin();
    let state =
        admin.rows(&format!("SELECT state, xact_start FROM pg_stat_activity WHERE pid = {}", bed.backends()[0]));
    assert_eq!(state, [[Some("idle".to_owned()), None]]);
    assert_eq!(client.value("SHOW search_path"), "\"$user\", public");
    assert_eq!(client.value("SHOW transaction_isolation"), "read committed");
}

/// Where every server goes from client to client at once, none ever idles: one on its way back is taken.
#[test]
fn a_saturated_pool_is_asked_too() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("health.interval", "60s"));
    bed.admin().rows(&format!("{}; GRANT ALL ON load TO {}", Load::TABLE, pg::USER));
    let load = Load::start(&bed.connect(), 8);
    for verdict in ["quiet", "noisy"] {
        eventually(verdict, || catalog(&bed)["verdict"] == verdict);
        load.advance(100);
        bed.setup("CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE sql AS 'UNLISTEN *'");
    }
    load.stop_without_errors();
    assert_eq!(bed.backends().len(), 1);
}

/// A database that nobody uses is left alone.
#[test]
fn an_idle_database_is_not_asked() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::with(|policy| policy.set("health.interval", "60s"));
    becomes(&bed, "quiet");
    eventually("it grows stale", || catalog(&bed)["quiet"] == false);
    let before = catalog(&bed)["read_seconds_ago"].as_f64().unwrap();
    std::thread::sleep(Duration::from_millis(3_500));
    let after = catalog(&bed);
    assert!(after["read_seconds_ago"].as_f64().unwrap() > before + 3.0, "{after}");
    assert_eq!(after["verdict"], "quiet", "as far as it is known");
    becomes(&bed, "quiet");
}

/// The host changes: what was known is of another server.
#[test]
fn another_server_is_another_catalog() {
    if bed::is_direct() {
        return;
    }
    let (first, second) = (Postgres::shared(), Postgres::shared_18());
    let mut bed = Bed::on(first, |policy| policy);
    second.admin("postgres").rows(&format!("CREATE DATABASE {} OWNER {}", bed.database, pg::USER));
    second.admin(&bed.database).rows("CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'RESET ALL'");
    becomes(&bed, "quiet");
    let port = second.port;
    bed.sidecar_mut().unwrap().apply(|policy| policy.set("database.port", port));
    assert_eq!(catalog(&bed)["quiet"], false);
    assert_eq!(catalog(&bed)["verdict"], "unknown");
    becomes(&bed, "noisy");
}

const SOW: &str = "CREATE FUNCTION sow() RETURNS void LANGUAGE sql AS $$SELECT setseed(0.5)$$";

/// Leaves behind what no scrub undoes: on which server.
fn sow(client: &mut Client) -> Option<String> {
    client.rows("SELECT pg_backend_pid(), sow()")[0][0].clone()
}

/// What was known grows stale while nobody uses the database. Whoever comes first then may have met something new.
#[test]
fn what_has_grown_stale_counts_again_only_if_nothing_has_changed() {
    if bed::is_direct() {
        return;
    }
    let bed = Bed::with(|policy| policy.set("health.interval", "60s").set("pool.size", 1).set("pool.maxOverflow", 0));
    bed.setup("CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1'");
    becomes(&bed, "quiet");
    let (mut one, mut two) = (bed.client(), bed.client());
    let grows_stale = || eventually("it grows stale", || catalog(&bed)["quiet"] == false);
    let server = two.value("SELECT pg_backend_pid()");
    for _ in 0..2 {
        grows_stale();
        one.rows("SELECT plain()");
        assert_eq!(two.value("SELECT pg_backend_pid()"), server, "nothing has changed");
        becomes(&bed, "quiet");
    }
    grows_stale();
    bed.setup(SOW);
    let sown = sow(&mut one);
    assert_ne!(Some(two.value("SELECT pg_backend_pid()")), sown);
}

/// The database by another name of its host: a routine defined through a server of the old one is there at once.
#[test]
fn what_is_defined_through_an_earlier_targets_server_counts_for_the_next() {
    if bed::is_direct() {
        return;
    }
    let mut bed = Bed::with(|policy| policy.set("health.interval", "60s").set("pool.size", 2));
    becomes(&bed, "quiet");
    let mut defining = bed.client();
    defining.rows("BEGIN");
    bed.sidecar_mut().unwrap().apply(|policy| policy.set("database.host", "localhost"));
    becomes(&bed, "quiet");
    let (mut one, mut two) = (bed.client(), bed.client());
    defining.rows(SOW);
    defining.rows("COMMIT");
    let sown = sow(&mut one);
    assert_ne!(Some(two.value("SELECT pg_backend_pid()")), sown);
}
