//! 6.4 COPY.

use crate::support::wire::Client;
use crate::support::{Bed, bed, eventually, fe};
use std::thread;
use std::time::Duration;

const MOMENT: Duration = Duration::from_millis(150);
const IN: &str = "COPY t (a) FROM STDIN";

fn table() -> Bed {
    let bed = Bed::sized(1);
    bed.setup("CREATE TABLE t (a int)");
    bed
}

/// Bind and Execute of `IN`, prepared as `copy`.
fn run() -> Vec<u8> {
    fe::all(&[fe::bind("", "copy", &[]), fe::execute("")])
}

#[test]
fn case_39_copy_in_keeps_its_server() {
    let bed = table();
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::query(IN)]);
    client.expect("G");
    other.send(&[fe::query("SELECT 'other'")]);
    if !bed::is_direct() {
        other.expect_silence(Duration::from_millis(300));
    }
    client.send(&[fe::copy_data(b"1\n2\n")]);
    thread::sleep(MOMENT);
    client.send(&[fe::copy_data(b"3\n"), fe::copy_done()]);
    client.expect("C:COPY_3 Z:I");
    other.expect("T D:other C Z:I");
    assert_eq!(other.value("SELECT sum(a) FROM t"), "6");
    // Several in one Query, with other statements between.
    client.send(&[fe::query(&format!("SELECT 1; {IN}; SELECT 2; {IN}; SELECT count(*) FROM t"))]);
    client.expect("T D:1 C G");
    client.send(&[fe::copy_data(b"4\n"), fe::copy_done()]);
    client.expect("C:COPY_1 T D:2 C G");
    thread::sleep(MOMENT);
    client.send(&[fe::copy_data(b"5\n"), fe::copy_done()]);
    client.expect("C:COPY_1 T D:5 C Z:I");
    client.works();
}

#[test]
fn case_40_sync_and_flush_during_copy_are_not_owed_anything() {
    let bed = table();
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::query(IN)]);
    client.expect("G");
    client.send(&[fe::copy_data(b"1\n"), fe::sync(), fe::flush(), fe::sync(), fe::copy_data(b"2\n"), fe::copy_done()]);
    client.expect("C:COPY_2 Z:I");
    client.works();
    other.works();
    // Extended: the Sync behind Execute is read as part of the COPY and ignored.
    client.send(&[fe::parse("copy", IN, &[]), run(), fe::sync()]);
    client.expect("1 2 G");
    client.send(&[fe::copy_data(b"3\n"), fe::flush(), fe::sync(), fe::copy_done(), fe::sync()]);
    client.expect("C:COPY_1 Z:I");
    client.expect_silence(Duration::from_millis(100));
    client.works();
    other.works();
    // All in one segment, the way drivers that know the data beforehand send it.
    client.send(&[run(), fe::sync(), fe::copy_data(b"4\n"), fe::copy_done(), fe::sync(), fe::query("SELECT 'next'")]);
    client.expect("2 G C:COPY_1 Z:I T D:next C Z:I");
    client.works();
    assert_eq!(other.value("SELECT sum(a) FROM t"), "10");
}

#[test]
fn case_41_late_copy_data_after_an_error_is_swallowed() {
    let bed = table();
    let (mut client, mut other) = (bed.client(), bed.client());
    let late = fe::all(&[fe::copy_data(b"2\n"), fe::copy_data(b"3\n"), fe::copy_done()]);
    // The error has come before the rest is sent.
    client.send(&[fe::query(IN)]);
    client.expect("G");
    client.send(&[fe::copy_data(b"nonsense\n")]);
    client.expect("E:22P02 Z:I");
    other.works();
    client.send(std::slice::from_ref(&late));
    client.expect_silence(MOMENT);
    client.works();
    other.works();
    // Everything in one segment.
    client.send(&[fe::query(IN), fe::copy_data(b"nonsense\n"), late.clone(), fe::query("SELECT 'next'")]);
    client.expect("G E:22P02 Z:I T D:next C Z:I");
    other.works();
    // While the late messages keep coming, in a transaction, another waits for the server and gets it.
    client.rows("BEGIN");
    client.send(&[fe::query(IN)]);
    client.expect("G");
    client.send(&[fe::copy_data(b"nonsense\n")]);
    client.expect("E:22P02 Z:E");
    client.send(&[late.clone(), fe::query("ROLLBACK"), late.clone()]);
    client.expect("C:ROLLBACK Z:I");
    other.works();
    client.works();
    // Extended: what follows the error is discarded up to Sync.
    client.send(&[fe::parse("copy", IN, &[]), run(), fe::flush()]);
    client.expect("1 2 G");
    client.send(&[fe::copy_data(b"nonsense\n")]);
    client.expect("E:22P02");
    client.send(&[late.clone(), fe::bind("", "copy", &[]), fe::sync()]);
    client.expect("Z:I");
    client.works();
    other.works();
    assert_eq!(other.value("SELECT count(*) FROM t"), "0");
    // Megabytes behind an error.
    client.send(&[fe::query(IN), fe::copy_data(b"nonsense\n")]);
    let piece = fe::copy_data("1\n".repeat(20_000).as_bytes());
    for _ in 0..200 {
        client.write(&piece).unwrap();
    }
    client.send(&[fe::copy_done()]);
    client.expect("G E:22P02 Z:I");
    other.works();
    client.works();
}

/// How a COPY is sent, in the words of PgBouncer's matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Simple,
    Extended,
    Prepared,
}

/// Starts a COPY and reads up to its CopyInResponse or CopyOutResponse (`response`).
fn start(client: &mut Client, way: Way, sql: &str, response: &str) {
    match way {
        Way::Simple => {
            client.send(&[fe::query(sql)]);
            client.expect(response);
        }
        Way::Extended => {
            let messages = [fe::parse("", sql, &[]), fe::bind("", "", &[]), fe::describe_portal(""), fe::execute("")];
            client.send(&[messages.concat(), fe::sync()]);
            client.expect(&format!("1 2 n {response}"));
        }
        Way::Prepared => {
            client.send(&[fe::parse("p1", sql, &[]), fe::sync()]);
            client.expect("1 Z");
            client.send(&[fe::bind("", "p1", &[]), fe::execute(""), fe::sync()]);
            client.expect(&format!("2 {response}"));
        }
    }
}

/// What ends the client's side of a COPY IN: the Sync that the extended protocol needs is the one
/// after the data, since the one before was ignored.
fn done(way: Way) -> Vec<u8> {
    if way == Way::Simple { fe::copy_done() } else { fe::all(&[fe::copy_done(), fe::sync()]) }
}

fn end(client: &mut Client, way: Way) {
    if way == Way::Prepared {
        client.send(&[fe::close("p1"), fe::sync()]);
        client.expect("3 Z");
    }
}

#[test]
fn case_42_the_matrix() {
    let bed = table();
    let (mut client, mut other) = (bed.client(), bed.client());
    for way in [Way::Simple, Way::Extended, Way::Prepared] {
        for transaction in [false, true] {
            let begin = |client: &mut Client| {
                client.rows(if transaction { "TRUNCATE t; BEGIN" } else { "TRUNCATE t" });
            };
            let (good, bad) = if transaction { ("Z:T", "Z:E") } else { ("Z:I", "Z:I") };
            let commit = |client: &mut Client, other: &mut Client| {
                end(client, way);
                client.rows("COMMIT");
                other.works();
                client.works();
            };
            // COPY FROM STDIN that succeeds.
            begin(&mut client);
            start(&mut client, way, IN, "G");
            client.send(&[fe::copy_data(b"1\n"), done(way)]);
            client.expect(&format!("C:COPY_1 {good}"));
            commit(&mut client, &mut other);
            assert_eq!(other.value("SELECT a FROM t"), "1", "{way:?}");
            // An error that comes before CopyDone is sent.
            begin(&mut client);
            start(&mut client, way, IN, "G");
            client.send(&[fe::copy_data(b"\n")]);
            client.expect("E:22P02");
            thread::sleep(Duration::from_millis(50));
            client.send(&[done(way)]);
            client.expect(bad);
            commit(&mut client, &mut other);
            // An error that comes after CopyDone was sent.
            begin(&mut client);
            start(&mut client, way, IN, "G");
            client.send(&[fe::copy_data(b"\n"), done(way)]);
            client.expect(&format!("E:22P02 {bad}"));
            commit(&mut client, &mut other);
            // COPY TO STDOUT, and one that fails after its first rows.
            begin(&mut client);
            client.rows("INSERT INTO t VALUES (1), (2)");
            let out = "COPY (SELECT a FROM t ORDER BY a) TO STDOUT";
            start(&mut client, way, out, &format!("H d:1 d:2 c C:COPY_2 {good}"));
            end(&mut client, way);
            let failing = "COPY (SELECT 1 / (3 - a) FROM generate_series(1, 5) a) TO STDOUT";
            start(&mut client, way, failing, &format!("H d:0 d:1 E:22012 {bad}"));
            commit(&mut client, &mut other);
        }
    }
    // COPY inside a longer pipeline.
    client.send(&[
        fe::parse("", "BEGIN", &[]),
        fe::bind("", "", &[]),
        fe::execute(""),
        fe::parse("", "COPY (SELECT 7) TO STDOUT", &[]),
        fe::bind("", "", &[]),
        fe::execute(""),
        fe::parse("", "COMMIT", &[]),
        fe::bind("", "", &[]),
        fe::execute(""),
        fe::sync(),
    ]);
    client.expect("1 2 C:BEGIN 1 2 H d:7 c C:COPY_1 1 2 C:COMMIT Z:I");
    client.works();
    other.works();
}

#[test]
fn case_42_large_copies_arrive_whole() {
    let bed = table();
    let (mut client, mut other) = (bed.client(), bed.client());
    client.send(&[fe::query(IN)]);
    client.expect("G");
    let mut writer = client.socket.try_clone();
    thread::scope(|scope| {
        scope.spawn(move || {
            for chunk in 0..200 {
                let rows: String = (0..1000).map(|n| format!("{}\n", chunk * 1000 + n)).collect();
                std::io::Write::write_all(&mut writer, &fe::copy_data(rows.as_bytes())).unwrap();
            }
            std::io::Write::write_all(&mut writer, &fe::copy_done()).unwrap();
        });
        client.expect("C:COPY_200000 Z:I");
    });
    client.send(&[fe::query("COPY (SELECT a FROM t ORDER BY a) TO STDOUT")]);
    let rows = client.expect("H d* c C:COPY_200000 Z:I");
    for (n, row) in rows[1..=200_000].iter().enumerate() {
        assert_eq!(row.body, format!("{n}\n").as_bytes());
    }
    // One row of 20 MB, in one message each way.
    let wide = "w".repeat(20_000_000);
    other.rows("CREATE TABLE wide (a text)");
    other.send(&[fe::query("COPY wide FROM STDIN"), fe::copy_data(format!("{wide}\n").as_bytes()), fe::copy_done()]);
    other.expect("G C:COPY_1 Z:I");
    other.send(&[fe::query("COPY wide TO STDOUT")]);
    let back = other.expect("H d c C:COPY_1 Z:I");
    assert!(back[1].body.len() == wide.len() + 1 && back[1].body.starts_with(wide.as_bytes()));
    client.works();
}

#[test]
fn case_43_copy_fail_and_clients_that_vanish_in_a_copy() {
    let bed = table();
    let mut other = bed.client();
    let mut client = bed.client();
    client.send(&[fe::query(IN), fe::copy_data(b"1\n"), fe::copy_fail("enough")]);
    let messages = client.expect("G E:57014 Z:I");
    assert!(messages[1].field(b'M').contains("enough"), "{messages:?}");
    client.works();
    client.send(&[fe::parse("", IN, &[]), fe::bind("", "", &[]), fe::execute(""), fe::copy_fail("x"), fe::sync()]);
    client.expect("1 2 G E:57014 Z:I");
    client.works();
    other.works();
    for round in 0..12 {
        let mut gone = bed.client();
        match round % 6 {
            0 => gone.send(&[fe::query(IN), fe::copy_data(b"1\n")]),
            1 => gone.send(&[fe::query(IN)]),
            // In the middle of a message.
            2 => gone.send(&[fe::query(IN), fe::copy_data(b"1\n2\n")[..7].to_vec()]),
            3 => gone.send(&[fe::query("BEGIN"), fe::query(IN), fe::copy_data(b"1\n"), fe::copy_done()]),
            4 => gone.send(&[fe::query("COPY (SELECT generate_series(1, 1000000)) TO STDOUT")]),
            _ => gone.send(&[fe::query("BEGIN"), fe::query(IN), fe::terminate()]),
        }
        thread::sleep(Duration::from_millis(20));
        drop(gone);
        other.works();
        assert_eq!(other.value("SELECT count(*) FROM t"), "0", "round {round}");
    }
    eventually("no more servers than allowed", || bed::is_direct() || bed.backends().len() <= 1);
}

#[test]
fn case_44_replication_is_refused() {
    let bed = Bed::sized(1);
    if bed::is_direct() {
        return;
    }
    for value in ["true", "on", "yes", "1", "database"] {
        let error = bed.connect().param("replication", value).open().err().expect("replication was let in");
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "0A000"), "{error:?}");
        assert!(error.message.contains("replication"), "{error:?}");
    }
    for value in ["false", "off", "no", "0"] {
        bed.connect().param("replication", value).open().unwrap().works();
    }
}
