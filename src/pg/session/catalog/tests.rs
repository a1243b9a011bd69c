use super::*;

fn row<'a>(kind: &'a str, name: &'a str, detail: &'a str) -> Row<'a> {
    Row { kind: kind.as_bytes(), name: name.as_bytes(), detail: detail.as_bytes() }
}

fn names(rows: &[Row<'_>]) -> Vec<String> {
    match judge(rows.iter().copied()) {
        Verdict::Noisy { names, .. } => names,
        Verdict::Quiet => Vec::new(),
        Verdict::Unknown => panic!("judging leaves nothing unknown"),
    }
}

#[test]
fn an_empty_catalog_is_quiet() {
    assert_eq!(judge([]), Verdict::Quiet);
    assert_eq!(Verdict::default(), Verdict::Unknown, "what was not read is not quiet");
}

#[test]
fn each_kind_is_named_with_its_reason() {
    for (row, expected) in [
        (row("body", "public.f", "SELECT set_config('a.b', 'c', false)"), "function public.f: set_config"),
        (row("setting", "public.g", "app.tenant=x"), "function public.g: SET app.tenant=x"),
        (row("extension", "dblink", ""), "extension dblink: C functions that are not known"),
        (row("compiled", "public.h", "c"), "function public.h: language c"),
        (row("language", "public.i", "plpython3u"), "function public.i: language plpython3u"),
        (row("long", "public.j", ""), "function public.j: too long to be read"),
        (row("event trigger", "audit", ""), "event trigger audit"),
        (row("login trigger", "hello", ""), "login trigger hello"),
        (row("foreign table", "public.far", ""), "foreign table public.far"),
        (row("default", "public.t.a", "currval"), "default public.t.a: currval"),
        (row("something new", "x", "y"), "something new x: y"),
    ] {
        assert_eq!(names(&[row]), [expected]);
    }
}

#[test]
fn only_a_trigger_at_login_counts_as_one() {
    let is_login = |kind| matches!(judge([row(kind, "x", "")]), Verdict::Noisy { login_trigger: true, .. });
    assert!(is_login("login trigger"));
    assert!(!is_login("event trigger"));
}

#[test]
fn settings_of_functions() {
    for entry in [
        "search_path=public",
        "search_path=\"$user\", public",
        "search_path=\"\"",
        "search_path=pg_catalog, pg_temp",
        "search_path=\"pg_catalog\",pg_temp",
        "work_mem=64MB",
        "role=owner",
        "statement_timeout=0",
    ] {
        assert_eq!(names(&[row("setting", "f", entry)]), [""; 0], "{entry}");
    }
    for entry in [
        "search_path=pg_temp",
        "search_path=admin, pg_temp",
        "search_path=\"PG_TEMP\"",
        "search_path=pg_temp, pg_catalog",
        "search_path=pg_catalogue, pg_temp",
        "app.tenant=1",
        "TimeZone=UTC",
        "DateStyle=ISO",
        "IntervalStyle=iso_8601",
    ] {
        assert_eq!(names(&[row("setting", "f", entry)]).len(), 1, "{entry}");
    }
}

#[test]
fn known_extensions_are_quiet() {
    for name in ["plpgsql", "pg_trgm", "hstore", "uuid-ossp", "tsm_system_rows", "vector"] {
        assert_eq!(names(&[row("extension", name, "")]), [""; 0], "{name}");
    }
    for name in ["isn", "tablefunc", "xml2", "dblink", "postgis", "Hstore", ""] {
        assert_eq!(names(&[row("extension", name, "")]).len(), 1, "{name}");
    }
}

#[test]
fn names_are_few_short_and_printable() {
    let rows: Vec<_> = (0..50).map(|_| row("event trigger", "x", "")).collect();
    let Verdict::Noisy { names, more, .. } = judge(rows) else { panic!("noisy") };
    assert_eq!((names.len(), more), (NAMES, 30));
    let long = "é".repeat(1_000);
    let Verdict::Noisy { names, .. } = judge([row("foreign table", &long, &long)]) else { panic!("noisy") };
    assert!(names[0].chars().count() < 2 * LENGTH + 30, "{}", names[0].chars().count());
    let Verdict::Noisy { names, .. } = judge([row("policy of", "a\nb\u{1b}[2J\u{202e}", "\u{7}")]) else {
        panic!("noisy")
    };
    assert_eq!(names[0], "policy of a\\u{a}b\\u{1b}[2J\\u{202e}: \\u{7}");
    let bytes = Row { kind: b"default", name: b"\xff\xfe", detail: b"" };
    let Verdict::Noisy { names, .. } = judge([bytes]) else { panic!("noisy") };
    assert_eq!(names[0], "default \u{fffd}\u{fffd}");
}

#[test]
fn too_much_is_noisy() {
    let mut judge = Judge::default();
    judge.too_many();
    assert_eq!(judge.verdict().name(), "noisy");
}

#[test]
fn definitions_are_known_by_their_tags() {
    for tag in [
        "SELECT 1",
        "INSERT 0 1",
        "UPDATE 3",
        "DELETE 0",
        "MERGE 1",
        "FETCH 2",
        "MOVE 0",
        "COPY 9",
        "BEGIN",
        "START TRANSACTION",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT",
        "RELEASE",
        "SET",
        "SET CONSTRAINTS",
        "RESET",
        "SHOW",
        "LISTEN",
        "UNLISTEN",
        "NOTIFY",
        "DECLARE CURSOR",
        "CLOSE CURSOR",
        "CLOSE CURSOR ALL",
        "PREPARE",
        "PREPARE TRANSACTION",
        "DEALLOCATE",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "DISCARD PLANS",
        "EXPLAIN",
        "LOCK TABLE",
        "TRUNCATE TABLE",
        "ANALYZE",
        "VACUUM",
        "CHECKPOINT",
        "CALL",
    ] {
        assert!(!defines(tag.as_bytes()), "{tag}");
    }
    for tag in [
        "CREATE FUNCTION",
        "CREATE TABLE",
        "ALTER TABLE",
        "DROP FUNCTION",
        "COMMIT PREPARED",
        "DO",
        "CREATE EXTENSION",
        "IMPORT FOREIGN SCHEMA",
        "ALTER ROUTINE",
        "CREATE VIEW",
        "CREATE MATERIALIZED VIEW",
        "CREATE SCHEMA",
        "DO",
        "GRANT",
        "REFRESH MATERIALIZED VIEW",
        "SECURITY LABEL",
        "LOAD",
        "ALTER EVENT TRIGGER",
        "",
        "SOMETHING NEW",
    ] {
        assert!(defines(tag.as_bytes()), "{tag}");
    }
}

#[test]
fn what_no_scrub_undoes_is_found_wherever_it_is_called() {
    let incurable = |row| {
        let mut judge = Judge::default();
        judge.hear(row);
        judge.cure().incurable
    };
    assert!(incurable(row("body", "public.f", "BEGIN PERFORM SetSeed(0.5); END")));
    assert!(incurable(row("view", "public.v", "setseed")));
    assert!(incurable(row("function", "public.atomic", "setseed")));
    assert!(incurable(row("compiled", "public.h", "internal")));
    assert!(incurable(row("long", "public.j", "")));
    assert!(!incurable(row("body", "public.f", "SELECT set_config('a.b', 'c', false)")));
    let mut judge = Judge::default();
    judge.too_many();
    assert!(judge.cure().incurable);
}

#[test]
fn what_brings_code_is_told_by_its_tag() {
    for tag in [
        "CREATE FUNCTION",
        "DROP FUNCTION",
        "CREATE PROCEDURE",
        "ALTER EXTENSION",
        "CREATE CAST",
        "IMPORT FOREIGN SCHEMA",
        "ALTER ROUTINE",
        "CREATE VIEW",
        "CREATE MATERIALIZED VIEW",
        "CREATE SCHEMA",
        "DO",
    ] {
        assert!(brings_code(tag.as_bytes()) && defines(tag.as_bytes()), "{tag}");
    }
    for tag in ["CREATE TABLE", "CREATE INDEX", "CREATE TABLE AS", "DROP TABLE", "GRANT", "CALL"] {
        assert!(!brings_code(tag.as_bytes()), "{tag}");
    }
}
