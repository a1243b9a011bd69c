//! 6.2 Both directions at once (17).

use crate::support::wire::{Client, Socket, Tls};
use crate::support::{Bed, Launch, Options, Policy, Postgres, Sidecar, bed, certs::Certs, fe};
use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

const BLOB: usize = 100_000;

const BLOBS: usize = 200;

/// A pipeline of large queries with large answers, in both protocols.
fn huge_pipeline() -> Vec<u8> {
    let comment = "c".repeat(BLOB);
    let messages = (0..BLOBS).map(|n| {
        let sql = format!("SELECT {n}, repeat('r', {BLOB}) /* {comment} */");
        if n % 2 == 0 { fe::query(&sql) } else { fe::extended(&sql, &[]) }
    });
    messages.collect::<Vec<_>>().concat()
}

fn expect_huge_pipeline(client: &mut Client) {
    for n in 0..BLOBS {
        let messages = client.expect(if n % 2 == 0 { "T D C:SELECT_1 Z:I" } else { "1 2 T D C:SELECT_1 Z:I" });
        let row = messages.iter().find(|message| message.tag == b'D').unwrap().row();
        assert_eq!(row[0].as_deref(), Some(n.to_string().as_str()));
        assert!(row[1].as_ref().unwrap().len() == BLOB && row[1].as_ref().unwrap().bytes().all(|byte| byte == b'r'));
    }
}

#[test]
fn case_17_full_duplex() {
    let bed = Bed::sized(2);
    let mut client = bed.client();
    let mut writer = client.socket.try_clone();
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&huge_pipeline()).unwrap());
        // Let every buffer on the way fill up first.
        thread::sleep(Duration::from_millis(500));
        expect_huge_pipeline(&mut client);
    });
    client.works();
}

/// The same over TLS on both sides, with new traffic keys on the way.
#[test]
fn case_17_full_duplex_over_tls_with_key_updates() {
    let certs = Certs::new();
    let pg = Postgres::start(&Options { tls: certs.for_postgres(), ..Options::default() });
    let database = pg.create_database();
    let policy = Policy::new(pg.port, &database)
        .set("database.tls.mode", "VerifyFull")
        .set("database.host", "localhost")
        .set("listen.tls.secretName", "tls");
    let sidecar = (!bed::is_direct()).then(|| Launch::new(&policy).certs("tls", &certs).certs("db", &certs).start());
    let connect = sidecar.as_ref().map_or_else(|| pg.connect(&database), Sidecar::connect);
    let client = connect.tls(Tls::Request(certs.client())).open().unwrap();
    let Socket::Tls(stream) = client.socket else { panic!("no TLS") };
    let (mut tls, mut socket) = (stream.conn, stream.sock);
    socket.set_nonblocking(true).unwrap();
    let whole = huge_pipeline();
    let (mut sent, mut received, mut updates) = (0, vec![], 0);
    let end = Instant::now() + Duration::from_secs(60);
    let replies = |bytes: &[u8]| bytes.windows(6).filter(|at| *at == [b'Z', 0, 0, 0, 5, b'I']).count();
    let (mut counted, mut ready) = (0, 0);
    while ready < BLOBS {
        assert!(Instant::now() < end, "deadlock: {sent} bytes sent, {} received, {ready} answers", received.len());
        if sent < whole.len() && !tls.wants_write() {
            sent += tls.writer().write(&whole[sent..whole.len().min(sent + 16_384)]).unwrap();
            if sent / 1_000_000 > updates {
                updates += 1;
                tls.refresh_traffic_keys().unwrap();
            }
        }
        let wrote = tls.wants_write() && tls.write_tls(&mut socket).is_ok();
        let read = match tls.read_tls(&mut socket) {
            Ok(0) => panic!("closed after {} bytes", received.len()),
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        tls.process_new_packets().unwrap();
        let before = received.len();
        let _ = tls.reader().read_to_end(&mut received);
        if received.len() > before {
            let from = counted.max(5) - 5;
            ready += replies(&received[from..]);
            counted = received.len();
        }
        if !wrote && !read {
            thread::sleep(Duration::from_micros(200));
        }
    }
    assert!(updates > 10 && received.len() > BLOB * BLOBS);
}
