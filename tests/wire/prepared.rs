//! 6.3 Prepared statements, as far as they need no session state (24–27, 31–36, 38).

use crate::support::wire::{Client, Message};
use crate::support::{Bed, bed, eventually, fe, pg};
use std::process::Command;

/// Prepares and describes a statement: the bodies of ParameterDescription and RowDescription or NoData.
fn described(client: &mut Client, name: &str, sql: &str, types: &[u32]) -> Vec<(u8, Vec<u8>)> {
    client.send(&[fe::parse(name, sql, types), fe::describe(name), fe::sync()]);
    client.expect("1");
    facts(client)
}

fn facts(client: &mut Client) -> Vec<(u8, Vec<u8>)> {
    let messages = [client.message(), client.message(), client.message()];
    assert_eq!(messages[2].tag, b'Z', "{messages:?}");
    messages.into_iter().take(2).map(|message: Message| (message.tag, message.body)).collect()
}

#[test]
fn case_24_close_of_what_was_never_prepared() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[fe::close("never"), fe::close_portal("never"), fe::close(""), fe::sync()]);
    client.expect("3 3 3 Z:I");
    client.send(&[fe::close("never"), fe::flush()]);
    client.expect("3");
    client.send(&[fe::sync()]);
    client.expect("Z:I");
    // In a failed transaction too, and between other messages.
    client.send(&[fe::query("BEGIN; SELEC"), fe::close("never"), fe::sync(), fe::query("ROLLBACK")]);
    client.expect("E:42601 Z:I 3 Z:I C:ROLLBACK Z:I");
    client.rows("BEGIN");
    client.query("SELEC").unwrap_err();
    client.send(&[fe::close("never"), fe::sync(), fe::query("ROLLBACK")]);
    client.expect("3 Z:E C:ROLLBACK Z:I");
    client.works();
}

#[test]
fn case_25_statements_and_portals_have_name_spaces_of_their_own() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[
        fe::parse("x", "SELECT $1::int", &[]),
        fe::bind("x", "x", &["1"]),
        fe::close_portal("x"),
        fe::bind("x", "x", &["2"]),
        fe::execute("x"),
        fe::sync(),
    ]);
    client.expect("1 2 3 2 D:2 C Z:I");
    client.send(&[fe::run("x", &["3"]), fe::close("x"), fe::bind("", "x", &["4"]), fe::sync()]);
    client.expect("2 D:3 C Z:I 3 E:26000 Z:I");
    // Closing the statement leaves the name free for another, whose portal works.
    client.send(&[fe::parse("x", "SELECT 'other'", &[]), fe::bind("x", "x", &[]), fe::execute("x"), fe::sync()]);
    client.expect("1 2 D:other C Z:I");
}

#[test]
fn case_26_unnamed_statements_are_each_clients_own() {
    let bed = Bed::sized(1);
    let (mut a, mut b, mut fresh) = (bed.client(), bed.client(), bed.client());
    a.send(&[fe::parse("", "SELECT 'a'", &[]), fe::sync()]);
    a.expect("1 Z:I");
    fresh.send(&[fe::run("", &[])]);
    fresh.expect("E:26000 Z:I");
    b.send(&[fe::parse("", "SELECT 'b'", &[]), fe::sync()]);
    b.expect("1 Z:I");
    for _ in 0..3 {
        // Some drivers (lib/pq) bind the unnamed statement after another Sync.
        a.send(&[fe::run("", &[])]);
        a.expect("2 D:a C Z:I");
        b.send(&[fe::describe(""), fe::sync(), fe::run("", &[])]);
        b.expect("t T Z:I 2 D:b C Z:I");
    }
    // A Query ends it, an error in Parse too.
    a.send(&[fe::query("SELECT 1"), fe::run("", &[])]);
    a.expect("T D:1 C Z:I E:26000 Z:I");
    b.send(&[fe::parse("", "SELEC", &[]), fe::sync(), fe::run("", &[])]);
    b.expect("E:42601 Z:I E:26000 Z:I");
    // Unnamed portals end with the transaction and are nobody else's.
    a.send(&[fe::parse("", "SELECT 'a'", &[]), fe::bind("", "", &[]), fe::sync(), fe::execute(""), fe::sync()]);
    a.expect("1 2 Z:I E:34000 Z:I");
    fresh.send(&[fe::execute(""), fe::sync()]);
    fresh.expect("E:34000 Z:I");
}

#[test]
fn case_26_an_unnamed_statement_outlives_a_ping_of_its_server() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    let mut admin = bed.admin();
    client.send(&[fe::parse("", "SELECT 'kept'", &[]), fe::sync()]);
    client.expect("1 Z:I");
    // Longer than the pool lends a server without asking whether it is still there (half a second).
    eventually("its server has been idle", || {
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND datname = current_database() \
                    AND clock_timestamp() - state_change > '1 s'";
        admin.value(idle) == "1"
    });
    client.send(&[fe::run("", &[])]);
    client.expect("2 D:kept C Z:I");
}

#[test]
fn case_27_a_failed_parse_prepares_nothing() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::parse("s", "SELEC", &[]), fe::sync(), fe::run("s", &[])]);
    client.expect("E:42601 Z:I E:26000 Z:I");
    client.send(&[fe::parse("s", "SELEC", &[]), fe::bind("", "s", &[]), fe::execute(""), fe::sync()]);
    client.expect("E:42601 Z:I");
    client.send(&[fe::describe("s"), fe::sync()]);
    client.expect("E:26000 Z:I");
    // Skipped behind an error: not prepared either.
    client.send(&[fe::parse("t", "SELEC", &[]), fe::parse("s", "SELECT 1", &[]), fe::sync()]);
    client.expect("E:42601 Z:I");
    client.send(&[fe::run("s", &[])]);
    client.expect("E:26000 Z:I");
    // The name is free; the same text that failed for want of a table works once it is there.
    client.send(&[fe::parse("s", "SELECT a FROM later", &[]), fe::sync()]);
    client.expect("E:42P01 Z:I");
    bed.setup("CREATE TABLE later (a int); INSERT INTO later VALUES (5)");
    client.send(&[fe::parse("s", "SELECT a FROM later", &[]), fe::run("s", &[])]);
    client.expect("1 2 D:5 C Z:I");
    other.send(&[fe::parse("s", "SELECT a FROM later", &[]), fe::run("s", &[])]);
    other.expect("1 2 D:5 C Z:I");
    // A statement prepared before the error in the same pipeline stays.
    client.send(&[fe::parse("u", "SELECT 'u'", &[]), fe::bind("", "nope", &[]), fe::sync(), fe::run("u", &[])]);
    client.expect("1 E:26000 Z:I 2 D:u C Z:I");
}

#[test]
fn case_31_eviction_in_the_middle_of_a_pipeline() {
    let bed =
        Bed::with(|policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0).set("pool.preparedStatements", 3));
    let mut clients = [bed.client(), bed.client()];
    for (c, client) in clients.iter_mut().enumerate() {
        let parses = (0..8).map(|n| fe::parse(&format!("s{n}"), &format!("SELECT '{c}-{n}', $1::int"), &[]));
        client.send(&[parses.collect::<Vec<_>>().concat(), fe::sync()]);
        client.expect(&format!("{} Z:I", "1 ".repeat(8)));
    }
    for round in 0..12 {
        for (c, client) in clients.iter_mut().enumerate() {
            // Far more statements than the server keeps, in changing order, some new, some closed.
            let order = (0..16).map(|step| (step * 5 + round * 3 + c) % 8).collect::<Vec<_>>();
            let (mut messages, mut replies) = (vec![], String::new());
            for (step, n) in order.iter().enumerate() {
                messages.push(fe::bind("", &format!("s{n}"), &[&step.to_string()]));
                messages.push(fe::execute(""));
                replies += &format!("2 D:{c}-{n}|{step} C ");
                if step % 5 == 4 {
                    messages.push(fe::close(&format!("s{n}")));
                    messages.push(fe::parse(&format!("s{n}"), &format!("SELECT '{c}-{n}', $1::int"), &[]));
                    replies += "3 1 ";
                }
            }
            messages.push(fe::sync());
            client.send(&messages);
            client.expect(&format!("{replies} Z:I"));
        }
    }
    for (c, client) in clients.iter_mut().enumerate() {
        // A failure in the middle: what was to be evicted and prepared behind it was skipped.
        for bad in 0..6 {
            let (mut messages, mut replies) = (vec![], String::new());
            for n in 0..6 {
                let value = if n == bad { "x" } else { "1" };
                messages.extend([fe::bind("", &format!("s{n}"), &[value]), fe::execute("")]);
                if n < bad {
                    replies += &format!("2 D:{c}-{n}|1 C ");
                }
            }
            messages.push(fe::sync());
            client.send(&messages);
            client.expect(&format!("{replies} E:22P02 Z:I"));
            client.send(&[fe::run("s0", &["7"]), fe::run("s5", &["8"]), fe::run("s7", &["9"])]);
            client.expect(&format!("2 D:{c}-0|7 C Z:I 2 D:{c}-5|8 C Z:I 2 D:{c}-7|9 C Z:I"));
        }
    }
    if !bed::is_direct() {
        // By a function, whose text shows nothing: a client that names the view sees its own statements and no others.
        bed.setup(
            "CREATE FUNCTION kept() RETURNS bigint LANGUAGE sql AS \
             $$SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '^SELECT ''[0-9]-'$$",
        );
        // A statement that is being run is in use: three kept, and perhaps the one that asks.
        let kept: u32 = clients[0].value("SELECT kept()").parse().unwrap();
        assert!(kept <= 4, "{kept} statements kept on the server");
    }
    assert_eq!(clients[0].value("SELECT count(*) FROM pg_prepared_statements"), "8");
}

#[test]
fn case_32_texts_and_parameters_larger_than_any_buffer() {
    // A statement with a name is held by the pooler, up to a limit that the policy sets.
    let bed =
        Bed::with(|policy| policy.set("listen.maxBuffered", 4_000_000).set("pool.size", 1).set("pool.maxOverflow", 0));
    let (mut client, mut other) = (bed.client(), bed.client());
    let text = format!("SELECT length($1::text) /* {} */", "x".repeat(3_000_000));
    client.send(&[fe::parse("long", &text, &[]), fe::sync()]);
    client.expect("1 Z:I");
    for size in [0, 1, 8_191, 8_192, 65_536, 1_048_576, 5_000_000] {
        let value = "v".repeat(size);
        client.send(&[fe::run("long", &[&value])]);
        client.expect(&format!("2 D:{size} C Z:I"));
        other.send(&[fe::extended("SELECT $1::text", &[&value])]);
        let row = other.expect("1 2 T D C Z:I")[3].row();
        assert!(row[0].as_deref() == Some(value.as_str()), "{size} bytes came back changed");
    }
    other.send(&[fe::parse("long", &text, &[]), fe::run("long", &["abc"])]);
    other.expect("1 2 D:3 C Z:I");
    // PostgreSQL takes Describe and Close up to 10 000 bytes.
    let name = "n".repeat(9_000);
    client.send(&[fe::parse(&name, "SELECT 'named'", &[]), fe::run(&name, &[]), fe::describe(&name), fe::sync()]);
    client.expect("1 2 D:named C Z:I t T Z:I");
    other.works();
    client.send(&[fe::run(&name, &[]), fe::close(&name), fe::bind("", &name, &[]), fe::sync()]);
    client.expect("2 D:named C Z:I 3 E:26000 Z:I");
    // Many parameters in one Bind.
    let values: Vec<_> = (0..20_000).map(|n| n.to_string()).collect();
    let list = (1..=values.len()).map(|n| format!("(${n}::int)")).collect::<Vec<_>>().join(", ");
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    client.send(&[fe::extended(&format!("SELECT count(DISTINCT c) FROM (VALUES {list}) v (c)"), &values)]);
    client.expect("1 2 T D:20000 C Z:I");
    if !bed::is_direct() {
        let mut greedy = bed.client();
        let _ = greedy.write(&fe::parse("longer", &text.repeat(2), &[]));
        greedy.expect_end(Some("54000"));
    }
}

#[test]
fn case_33_describe_says_what_postgresql_says() {
    let bed = Bed::sized(2);
    bed.setup("CREATE TABLE t (a int PRIMARY KEY, b text, c numeric(6, 2)[], d timestamptz)");
    let statements: [(&str, &[u32]); 6] = [
        ("SELECT * FROM t WHERE a = $1 AND b = $2", &[]),
        ("SELECT $1, $2", &[23, 25]),
        ("INSERT INTO t VALUES ($1, $2)", &[0, 1043]),
        ("INSERT INTO t VALUES ($1) RETURNING a, d", &[]),
        ("COPY t TO STDOUT", &[]),
        ("", &[]),
    ];
    let mut direct = bed.pg.connect(&bed.database).open().unwrap();
    let mut clients = [bed.client(), bed.client(), bed.client()];
    for (n, (sql, types)) in statements.iter().enumerate() {
        let name = format!("s{n}");
        let want = described(&mut direct, &name, sql, types);
        for client in &mut clients {
            assert_eq!(described(client, &name, sql, types), want, "{sql}");
        }
    }
    // On whatever server the client is now.
    let mut holder = bed.client();
    holder.rows("BEGIN");
    for (n, (sql, _)) in statements.iter().enumerate() {
        let name = format!("s{n}");
        direct.send(&[fe::describe(&name), fe::sync()]);
        let want = facts(&mut direct);
        for client in &mut clients {
            client.send(&[fe::describe(&name), fe::sync()]);
            assert_eq!(facts(client), want, "{sql}");
        }
    }
    holder.rows("ROLLBACK");
}

#[test]
fn case_34_cached_plan_after_ddl() {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let (mut client, mut other) = (bed.client(), bed.client());
    // Until the catalog is known a scrub takes the server's statements with it, and the client's is parsed anew.
    if let Some(sidecar) = bed.sidecar() {
        client.works();
        eventually("the catalog was read", || sidecar.status()["pools"][0]["catalog"]["quiet"] == true);
    }
    for client in [&mut client, &mut other] {
        client.send(&[fe::parse("s", "SELECT * FROM t", &[]), fe::run("s", &[])]);
        client.expect("1 2 D:1 C Z:I");
    }
    bed.setup("ALTER TABLE t ADD b text");
    // The client knows one column: it must not be given two.
    client.send(&[fe::run("s", &[])]);
    client.expect("E:0A000 Z:I");
    client.works();
    // What drivers do then: prepare anew, under the same name or another.
    client.send(&[fe::close("s"), fe::parse("s", "SELECT * FROM t", &[]), fe::describe("s"), fe::run("s", &[])]);
    client.expect("3 1 t T 2 D:1|~ C Z:I");
    other.send(&[fe::parse("again", "SELECT * FROM t", &[]), fe::describe("again"), fe::run("again", &[])]);
    other.expect("1 t T 2 D:1|~ C Z:I");
    let mut late = bed.client();
    late.send(&[fe::parse("s", "SELECT * FROM t", &[]), fe::describe("s"), fe::run("s", &[])]);
    late.expect("1 t T 2 D:1|~ C Z:I");
    // In a transaction the error fails it, and nothing is run again behind the client's back.
    bed.setup("ALTER TABLE t ADD c text");
    late.rows("BEGIN; INSERT INTO t VALUES (2)");
    late.send(&[fe::run("s", &[])]);
    late.expect("E:0A000 Z:E");
    late.rows("ROLLBACK");
    assert_eq!(late.value("SELECT count(*) FROM t"), "1");
    late.send(&[fe::close("s"), fe::parse("s", "SELECT * FROM t", &[]), fe::run("s", &[])]);
    late.expect("3 1 2 D:1|~|~ C Z:I");
}

#[test]
fn case_35_closing_a_shared_statement_leaves_it_to_the_others() {
    let bed = Bed::sized(1);
    let mut clients: Vec<_> = (0..4).map(|_| bed.client()).collect();
    for client in &mut clients {
        client.send(&[fe::parse("shared", "SELECT $1::int", &[]), fe::run("shared", &["1"])]);
        client.expect("1 2 D:1 C Z:I");
    }
    // Named twice by one client: two names, one closed.
    clients[0].send(&[fe::parse("twice", "SELECT $1::int", &[]), fe::close("shared"), fe::sync()]);
    clients[0].expect("1 3 Z:I");
    clients[0].send(&[fe::run("twice", &["2"]), fe::run("shared", &["2"])]);
    clients[0].expect("2 D:2 C Z:I E:26000 Z:I");
    drop(clients.remove(1));
    clients[1].send(&[fe::close("shared"), fe::run("shared", &["0"])]);
    clients[1].expect("3 E:26000 Z:I");
    clients[2].send(&[fe::run("shared", &["3"])]);
    clients[2].expect("2 D:3 C Z:I");
    clients[0].send(&[fe::run("twice", &["4"])]);
    clients[0].expect("2 D:4 C Z:I");
}

/// `pg_dump` prepares one name again and again (by SQL), sets settings, locks tables.
#[test]
fn case_36_pg_dump_works_through_the_pooler() {
    let bed = Bed::sized(2);
    bed.setup(
        "CREATE TABLE a (id serial PRIMARY KEY, t text DEFAULT 'x'); CREATE VIEW v AS SELECT * FROM a; \
         CREATE TYPE e AS ENUM ('p', 'q'); CREATE DOMAIN d AS int CHECK (VALUE > 0); \
         CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT $1'; \
         CREATE FUNCTION g(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'; \
         CREATE TABLE b (id int REFERENCES a, e e, d d); INSERT INTO a (t) SELECT 'row ' || g FROM generate_series(1, 500) g; \
         INSERT INTO b VALUES (1, 'p', 7)",
    );
    let dump = |port: u16| {
        let mut command = Command::new(pg::bin().join("pg_dump"));
        command.args(["--host", "127.0.0.1", "--username", pg::USER, "--dbname", &bed.database]);
        command.arg(format!("--port={port}")).env("PGPASSWORD", pg::PASSWORD).env_remove("PGOPTIONS");
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        // Newer versions guard each dump with a random word.
        text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
    };
    let want = dump(bed.pg.port);
    assert!(want.contains("row 500"));
    let port = bed.sidecar().map_or(bed.pg.port, |sidecar| sidecar.port);
    for _ in 0..3 {
        assert!(dump(port) == want, "the dump differs");
    }
    // Its settings (search_path = '' among them) and its statements are gone.
    let mut next = bed.client();
    assert_eq!(next.value("SHOW search_path"), "\"$user\", public");
    next.works();
}

#[test]
fn case_38_parse_error_in_a_transaction_then_extended_rollback() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    let statement = |sql: &str| fe::all(&[fe::parse("", sql, &[]), fe::bind("", "", &[]), fe::execute(""), fe::sync()]);
    client.send(&[statement("BEGIN")]);
    client.expect("1 2 C:BEGIN Z:T");
    client.send(&[fe::parse("s", "SELEC", &[]), fe::sync()]);
    client.expect("E:42601 Z:E");
    client.send(&[statement("SELECT 1")]);
    client.expect("E:25P02 Z:E");
    client.send(&[statement("ROLLBACK")]);
    client.expect("1 2 C:ROLLBACK Z:I");
    client.works();
    other.works();
    // Prepared under a name before the error, run after it, on the same server and on another.
    client.send(&[fe::parse("undo", "ROLLBACK", &[]), fe::sync(), statement("BEGIN")]);
    client.expect("1 Z:I 1 2 C:BEGIN Z:T");
    client.send(&[fe::parse("s", "SELEC", &[]), fe::sync(), fe::run("undo", &[])]);
    client.expect("E:42601 Z:E 2 C:ROLLBACK Z:I");
    other.works();
}
