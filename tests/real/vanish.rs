//! Clients that vanish at every point of a session.

use crate::support::{Bed, eventually, fe};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Closes with a reset instead of an orderly end.
fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

#[test]
fn cut_after_every_byte() {
    let bed = Bed::sized(2);
    bed.setup("CREATE TABLE t (a int)");
    let connect = bed.connect();
    let sessions: [Vec<u8>; 4] = [
        [fe::query("BEGIN"), fe::query("INSERT INTO t VALUES (1)"), fe::query("SELECT 'x'")].concat(),
        [fe::parse("s", "SELECT $1::int", &[]), fe::run("s", &["1"]), fe::close("s"), fe::sync()].concat(),
        [fe::query("COPY t FROM STDIN"), fe::copy_data(b"1\n2\n"), fe::copy_data(b"3\n")].concat(),
        [fe::query("SET work_mem = '7MB'"), fe::query("CREATE TEMP TABLE mine (a int)")].concat(),
    ];
    let startup = connect.startup();
    let mut turn = 0;
    for session in &sessions {
        let whole = [startup.clone(), session.clone()].concat();
        for cut in 0..=whole.len() {
            turn += 1;
            let port = bed.sidecar().map_or(bed.pg.port, |sidecar| sidecar.port);
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let _ = stream.write_all(&whole[..cut.min(startup.len())]);
            if cut > startup.len() {
                // Logged in (where the server trusts), or refused: then the rest falls on deaf ears.
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(&whole[startup.len()..cut]);
            }
            if turn % 2 == 0 {
                reset(&stream);
            }
            drop(stream);
        }
        // Nothing of all these is left: no row, no setting, no server out of step, none too many.
        let mut clients = [bed.client(), bed.client()];
        clients.iter_mut().for_each(|client| drop(client.rows("BEGIN")));
        for client in &mut clients {
            assert_eq!(client.value("SELECT count(*) FROM t"), "0");
            assert_eq!(client.value("SHOW work_mem"), "4MB");
            assert_eq!(
                client.value(
                    "SELECT count(*) = 0 FROM pg_class WHERE relname = 'mine' AND relnamespace = pg_my_temp_schema()"
                ),
                "t"
            );
            client.rows("COMMIT");
            client.works();
        }
    }
    let Some(sidecar) = bed.sidecar() else { return };
    eventually("all servers are back", || sidecar.health()["checked_out"] == 0);
    assert!(bed.backends().len() <= 2, "{:?}", bed.backends());
    assert_eq!(sidecar.metric("poolkeeper_clients"), 0.0);
}

#[test]
fn many_that_vanish_while_they_wait() {
    let bed = Bed::sized(1);
    let Some(sidecar) = bed.sidecar() else { return };
    let mut holder = bed.client();
    for round in 0..5 {
        holder.rows("BEGIN");
        let mut waiting: Vec<_> = (0..30).map(|_| bed.client()).collect();
        for client in &mut waiting {
            client.send(&[fe::query("SELECT pg_sleep(0.001)")]);
        }
        eventually("they wait", || sidecar.metric("poolkeeper_pool_waiting") >= 30.0);
        // Some go while they wait, one is cancelled, the rest is served.
        for gone in waiting.drain(..20) {
            drop(gone);
        }
        if round % 2 == 0 {
            waiting[0].canceller().send();
            waiting[0].expect("E:57014 Z:I");
            waiting.remove(0);
        }
        eventually("those are forgotten", || sidecar.metric("poolkeeper_pool_waiting") <= 10.0);
        holder.rows("COMMIT");
        for client in &mut waiting {
            client.expect("T D C Z:I");
        }
    }
    eventually("all servers are back", || sidecar.health()["checked_out"] == 0);
}

#[test]
fn logins_that_vanish_while_they_wait_for_a_first_server() {
    let bed = Bed::sized(1);
    let Some(sidecar) = bed.sidecar() else { return };
    let mut holder = bed.client();
    holder.rows("BEGIN");
    // A startup set that no server was seen with: the login itself waits for one.
    let startup = bed.connect().param("TimeZone", "Pacific/Chatham").startup();
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", sidecar.port)).unwrap();
            stream.write_all(&startup).unwrap();
            stream
        })
        .collect();
    eventually("they wait", || sidecar.metric("poolkeeper_pool_waiting") >= 5.0);
    drop(waiting);
    eventually("those are forgotten", || sidecar.metric("poolkeeper_pool_waiting") == 0.0);
    holder.rows("COMMIT");
    holder.works();
}
