//! 6.2 Pipelining, Flush, Sync.

use crate::support::hostile::{self, Server};
use crate::support::{Bed, Policy, Sidecar, bed, eventually, fe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(150);

/// Parse, Bind and Execute of an unnamed statement, without Sync.
fn batch(sql: &str) -> Vec<u8> {
    fe::all(&[fe::parse("", sql, &[]), fe::bind("", "", &[]), fe::execute("")])
}

#[test]
fn case_10_flush_delivers_without_sync() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[fe::parse("s", "SELECT $1::int", &[]), fe::flush()]);
    client.expect("1");
    client.send(&[fe::describe("s"), fe::flush()]);
    client.expect("t T");
    client.send(&[fe::bind("", "s", &["7"]), fe::execute(""), fe::flush()]);
    client.expect("2 D:7 C:SELECT_1");
    client.expect_silence(Duration::from_millis(50));
    client.send(&[fe::sync()]);
    client.expect("Z:I");
    // A Flush alone asks for nothing and gets nothing.
    client.send(&[fe::flush(), fe::flush()]);
    client.expect_silence(Duration::from_millis(50));
    client.works();
}

#[test]
fn case_11_parse_describe_flush_then_silence() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::parse("s", "SELECT $1::int", &[]), fe::describe("s"), fe::flush()]);
    client.expect("1 t T");
    other.send(&[fe::query("SELECT 'other'")]);
    if bed::is_direct() {
        other.expect("T D:other C Z:I");
    } else {
        // The batch is open: its server stays.
        other.expect_silence(Duration::from_millis(500));
    }
    client.send(&[fe::bind("", "s", &["8"]), fe::execute(""), fe::sync()]);
    client.expect("2 D:8 C:SELECT_1 Z:I");
    if !bed::is_direct() {
        other.expect("T D:other C Z:I");
    }
    client.send(&[fe::run("s", &["9"])]);
    client.expect("2 D:9 C:SELECT_1 Z:I");
    other.works();
}

#[test]
fn case_12_messages_split_at_every_byte() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[fe::parse("s", "SELECT $1::int", &[]), fe::describe("s")]);
    thread::sleep(MOMENT);
    client.send(&[fe::sync()]);
    client.expect("1 t T Z:I");
    let whole = fe::all(&[
        fe::extended("SELECT $1::int", &["5"]),
        fe::query("SELECT 6"),
        fe::parse("x", "SELECT 7", &[]),
        fe::run("x", &[]),
        fe::close("x"),
        fe::sync(),
    ]);
    let replies = "1 2 T D:5 C Z:I T D:6 C Z:I 1 2 D:7 C Z:I 3 Z:I";
    for at in 1..whole.len() {
        client.write(&whole[..at]).unwrap();
        thread::sleep(Duration::from_millis(1));
        client.write(&whole[at..]).unwrap();
        client.expect(replies);
    }
    for byte in &whole {
        client.write(&[*byte]).unwrap();
    }
    client.expect(replies);
}

#[test]
fn case_13_portal_stays_open_over_sync_in_a_transaction() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.rows("BEGIN");
    client.send(&[
        fe::parse("s", "SELECT generate_series(1, 5)", &[]),
        fe::bind("p", "s", &[]),
        fe::execute_some("p", 2),
        fe::sync(),
    ]);
    client.expect("1 2 D:1 D:2 s Z:T");
    other.send(&[fe::query("SELECT 'other'")]);
    if !bed::is_direct() {
        other.expect_silence(MOMENT);
    }
    client.send(&[fe::execute_some("p", 2), fe::sync()]);
    client.expect("D:3 D:4 s Z:T");
    client.send(&[fe::query("SELECT 'between'")]);
    client.expect("T D:between C Z:T");
    client.send(&[fe::execute_some("p", 2), fe::close_portal("p"), fe::sync()]);
    client.expect("D:5 C:SELECT_1 3 Z:T");
    client.rows("COMMIT");
    other.expect("T D:other C Z:I");
    // Outside a transaction a portal ends at Sync.
    client.send(&[fe::bind("p", "s", &[]), fe::execute_some("p", 2), fe::sync(), fe::execute("p"), fe::sync()]);
    client.expect("2 D:1 D:2 s Z:I E:34000 Z:I");
}

#[test]
fn case_14_an_error_discards_until_sync() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    // One ReadyForQuery per Sync, none per discarded message.
    client.send(&[
        batch("SELEC"),
        batch("SELECT 'discarded'"),
        fe::close("x"),
        fe::describe("x"),
        fe::flush(),
        fe::sync(),
        batch("SELECT 'kept'"),
        fe::sync(),
        fe::sync(),
        batch("SELECT 1/0"),
        fe::sync(),
    ]);
    client.expect("E:42601 Z:I 1 2 D:kept C Z:I Z:I 1 E:22012 Z:I");
    client.send(&[fe::query("SELECT 'simple'")]);
    client.expect("T D:simple C Z:I");
    // At every place of a pipeline, inside and outside a transaction.
    for transaction in [false, true] {
        let status = if transaction { "Z:E" } else { "Z:I" };
        for bad in 0..4 {
            if transaction {
                client.rows("BEGIN");
            }
            let steps = (0..4).map(|n| batch(&format!("SELECT 8 / {}", if n == bad { 0 } else { 2 })));
            let mut messages: Vec<_> = steps.collect();
            messages.push(fe::sync());
            client.send(&messages);
            client.expect(&format!("{}1 E:22012 {status}", "1 2 D:4 C ".repeat(bad)));
            client.send(&[fe::query("ROLLBACK")]);
            client.expect("C:ROLLBACK Z:I");
            client.works();
        }
    }
    // A Query message among discarded ones is discarded too.
    client.send(&[fe::parse("", "SELEC", &[]), fe::query("SELECT 'discarded'"), fe::sync()]);
    client.expect("E:42601 Z:I");
    client.works();
}

/// What the pooler answers itself stands where PostgreSQL would have put it.
#[test]
fn case_15_the_poolers_own_answers_keep_their_place() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[
        batch("SELECT 'slow' FROM pg_sleep(0.2)"),
        fe::close("never-prepared"),
        batch("SELECT 'behind'"),
        fe::bind("", "no-such-statement", &[]),
        fe::execute(""),
        batch("SELECT 'discarded'"),
        fe::sync(),
        fe::query("SELECT 'next'"),
    ]);
    client.expect("1 2 D:slow C 3 1 2 D:behind C E:26000 Z:I T D:next C Z:I");
    // Also when rows enough to fill every buffer are under way, and when nobody reads for a while.
    client.send(&[
        batch("SELECT repeat('x', 100000) FROM generate_series(1, 100)"),
        fe::bind("", "no-such-statement", &[]),
        fe::sync(),
    ]);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(client.expect("1 2 D* C:SELECT_100 E:26000 Z:I").len(), 105);
    client.works();
}

#[test]
fn case_16_errors_are_not_held_back() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    // Neither Flush nor Sync: PostgreSQL sends an error at once.
    client.send(&[fe::parse("", "SELEC", &[])]);
    client.expect("E:42601");
    client.expect_silence(Duration::from_millis(50));
    client.send(&[fe::sync()]);
    client.expect("Z:I");
    client.send(&[fe::bind("", "no-such-statement", &[])]);
    client.expect("E:26000");
    client.send(&[fe::sync()]);
    client.expect("Z:I");
    client.works();
}

/// Whether the pooler holds a batch back or sends it on: nobody else's message gets between.
#[test]
fn case_18_no_part_of_a_batch_on_a_returned_server() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::parse("", "SELECT $1::int", &[]), fe::bind("", "", &["3"])]);
    thread::sleep(MOMENT);
    other.send(&[fe::query("SELECT 'other'")]);
    thread::sleep(MOMENT);
    client.send(&[fe::execute(""), fe::sync()]);
    client.expect("1 2 D:3 C Z:I");
    other.expect("T D:other C Z:I");
    // A Query ends an open batch as PostgreSQL does it.
    client.send(&[batch("SELECT 1"), fe::query("SELECT 2")]);
    client.expect("1 2 D:1 C T D:2 C Z:I");
    other.works();
    // The client goes in the middle: what it began is nobody's.
    bed.setup("CREATE TABLE t (a int)");
    let mut gone = bed.client();
    gone.send(&[batch("INSERT INTO t VALUES (1)"), fe::parse("left", "SELECT 1", &[])]);
    thread::sleep(MOMENT);
    drop(gone);
    other.works();
    assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    other.send(&[fe::run("left", &[])]);
    other.expect("E:26000 Z:I");
}

/// A client that goes with replies outstanding: nothing is sent to its server before they are in.
#[test]
fn case_19_no_reset_inside_a_pipeline_still_owed() {
    if bed::is_direct() {
        return;
    }
    let (events, answer) = (Arc::new(Mutex::new(Vec::<String>::new())), Arc::new(AtomicBool::new(false)));
    let (seen, go) = (Arc::clone(&events), Arc::clone(&answer));
    let server = Server::start(move |session, number| {
        session.login()?;
        loop {
            let (tag, body) = session.message()?;
            let text = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
            seen.lock().unwrap().push(format!("{number}{}{text}", char::from(tag)));
            if tag == b'X' {
                return Ok(());
            }
            if text.contains("'held'") {
                eventually("the test's word", || go.load(Ordering::Relaxed));
            }
            session.send(&[hostile::answer(tag, &body)])?;
        }
    });
    let policy = Policy::new(server.port, "db").set("pool.size", 1).set("pool.maxOverflow", 0);
    let sidecar = Sidecar::start(&policy.set("health.interval", "60s"));
    let mut client = sidecar.client();
    client.send(&[fe::query("BEGIN"), fe::query("SELECT 'held'"), fe::query("SELECT 2"), fe::query("SELECT 3")]);
    let count = |what: &str| events.lock().unwrap().iter().filter(|event| event.contains(what)).count();
    eventually("the held query", || count("'held'") == 1);
    let before = events.lock().unwrap().len();
    drop(client);
    thread::sleep(Duration::from_millis(300));
    let early: Vec<_> = events.lock().unwrap()[before..].to_vec();
    // The pipeline's own messages may still come, or the end; nothing that the pooler thought of.
    assert!(early.iter().all(|event| event.contains("SELECT") || event.ends_with('X')), "{early:?}");
    answer.store(true, Ordering::Relaxed);
    let mut next = sidecar.client();
    next.send(&[fe::query("SELECT 'next'")]);
    next.expect("T D:1 C Z:I");
    let events = events.lock().unwrap();
    let place = events.iter().position(|event| event.contains("'next'")).unwrap();
    let connection = events[place].chars().next().unwrap();
    // On the same server only after its transaction was ended.
    let ended = events[..place].iter().any(|event| event.contains("ROLLBACK"));
    assert!(connection != '0' || ended, "{events:?}");
}

#[test]
fn case_20_client_gone_with_replies_outstanding() {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int)");
    let mut next = bed.client();
    for round in 0..30 {
        let mut gone = bed.client();
        match round % 6 {
            0 => gone.send(&[fe::query("SELECT 'gone' FROM pg_sleep(0.05)")]),
            1 => gone.send(&[fe::query("SELECT repeat('gone', 10000) FROM generate_series(1, 1000)")]),
            2 => gone.send(&[batch("SELECT 'gone'"), batch("SELECT 'gone' FROM pg_sleep(0.02)"), fe::sync()]),
            3 => gone.send(&[fe::query("BEGIN; INSERT INTO t VALUES (1); SELECT 'gone'")]),
            4 => gone.send(&[batch("SELECT 'gone'"), fe::flush()]),
            _ => gone.send(&[fe::query("BEGIN"), fe::query("SELEC"), fe::query("SELECT 'gone'")]),
        }
        thread::sleep(Duration::from_millis(round % 4 * 10));
        if round % 2 == 0 {
            let _ = gone.write(&fe::terminate());
        }
        drop(gone);
        next.send(&[fe::query(&format!("SELECT {round}")), fe::extended("SELECT $1::int", &[&round.to_string()])]);
        next.expect(&format!("T D:{round} C Z:I 1 2 T D:{round} C Z:I"));
    }
    assert_eq!(next.value("SELECT count(*) FROM t"), "0");
    assert!(bed::is_direct() || bed.backends().len() == 1, "{:?}", bed.backends());
}

#[test]
fn case_21_several_statements_in_one_query() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::query("SELECT 1; SELECT 2; SELECT 3 WHERE false")]);
    client.expect("T D:1 C:SELECT_1 T D:2 C:SELECT_1 T C:SELECT_0 Z:I");
    client.send(&[fe::query("BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2")]);
    client.expect("C:BEGIN T D:1 C C:COMMIT C:BEGIN T D:2 C Z:T");
    other.send(&[fe::query("SELECT 'other'")]);
    if !bed::is_direct() {
        other.expect_silence(MOMENT);
    }
    client.send(&[fe::query("COMMIT; SELECT 3; BEGIN; ROLLBACK")]);
    client.expect("C:COMMIT T D:3 C C:BEGIN C:ROLLBACK Z:I");
    other.expect("T D:other C Z:I");
    client.send(&[fe::query("SELECT 1; SELECT 1/0; SELECT 'never'")]);
    client.expect("T D:1 C T* E:22012 Z:I");
    client.send(&[fe::query("BEGIN; SELECT 1/0; SELECT 'never'")]);
    client.expect("C:BEGIN T* E:22012 Z:E");
    client.send(&[fe::query("SELECT 1; SELECT 2"), fe::query("ROLLBACK")]);
    client.expect("E:25P02 Z:E C:ROLLBACK Z:I");
    client.works();
}

#[test]
fn case_22_empty_queries() {
    let bed = Bed::sized(1);
    let mut client = bed.client();
    client.send(&[fe::query(""), fe::query(";"), fe::query(" -- comment"), fe::query(" ; ; ")]);
    client.expect("I Z:I I Z:I I Z:I I Z:I");
    client.send(&[batch(""), batch("SELECT 1"), batch(""), fe::sync()]);
    client.expect("1 2 I 1 2 D:1 C 1 2 I Z:I");
    client.send(&[fe::extended("", &[])]);
    client.expect("1 2 n I Z:I");
    client.works();
}

#[test]
fn case_23_function_call() {
    let bed = Bed::sized(1);
    let (mut client, mut other) = (bed.client(), bed.client());
    let (plus, divide) = (177, 154);
    client.send(&[fe::function_call(plus, &["40", "2"])]);
    let answer = client.expect("V Z:I");
    assert_eq!(answer[0].body, b"\0\0\0\x0242");
    client.send(&[fe::function_call(divide, &["1", "0"])]);
    client.expect("E:22012 Z:I");
    client.rows("BEGIN");
    client.send(&[fe::function_call(plus, &["1", "2"]), fe::query("SELECT 1"), fe::query("COMMIT")]);
    client.expect("V Z:T T D:1 C Z:T C:COMMIT Z:I");
    client.works();
    drop(client);
    other.works();
    // What a function may have left behind does not reach the next client.
    let set_config = bed.admin().value("SELECT 'pg_catalog.set_config(text,text,boolean)'::regprocedure::oid");
    let mut setter = bed.client();
    setter.send(&[fe::function_call(set_config.parse().unwrap(), &["app.tenant", "secret", "f"])]);
    setter.expect("V Z:I");
    assert_eq!(setter.value("SHOW app.tenant"), "secret");
    drop(setter);
    let tenant = other.query("SELECT current_setting('app.tenant', true)").unwrap();
    assert!(tenant[0][0].as_deref().unwrap_or_default().is_empty(), "{tenant:?}");
}
