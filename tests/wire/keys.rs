//! 6.1 Cancel keys (6–9).

use crate::support::hostile::{self, Events, Server};
use crate::support::wire::Canceller;
use crate::support::{Bed, Policy, Postgres, Sidecar, bed, eventually, fe};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[test]
fn case_06_server_without_backend_key_data() {
    if bed::is_direct() {
        return;
    }
    let events = Events::default();
    let seen = events.clone();
    let server = Server::start(move |session, _| {
        let startup = session.startup();
        if session.cancelled.is_some() {
            seen.note("cancel");
        }
        startup?;
        session.send(&[hostile::authentication(0, &[]), hostile::usual_parameters(), hostile::ready(b'I')])?;
        session.serve_with(|sql| {
            if sql.contains("'slow'") {
                seen.note("slow");
                thread::sleep(Duration::from_millis(300));
            }
            None
        })
    });
    let sidecar = Sidecar::start(&Policy::new(server.port, "db"));
    let mut client = sidecar.client();
    client.send(&[fe::query("SELECT 'slow'")]);
    eventually("the query", || events.saw("slow"));
    client.canceller().send();
    client.expect("T D:1 C Z:I");
    assert!(!events.saw("cancel"), "there is no key to cancel with");
}

#[test]
fn case_07_long_keys_of_protocol_3_2() {
    let bed = Bed::on(Postgres::shared_18(), |policy| policy);
    for (minor, length) in [(0, 4), (2, 32)] {
        let mut client = bed.connect().minor(minor).open().unwrap();
        assert_eq!(client.key.len(), length, "3.{minor}");
        assert!(client.negotiated.is_empty());
        client.send(&[fe::query("SELECT pg_sleep(30)")]);
        client.cancel_running();
        client.expect("T* E:57014 Z:I");
        client.works();
    }
}

/// A server's key is given back to it byte for byte, whatever its length.
#[test]
fn case_07_server_keys_of_any_length_are_kept() {
    if bed::is_direct() {
        return;
    }
    for length in [4, 32, 256] {
        let sent: Vec<u8> = (0..length).map(|n: u32| u8::try_from(n % 251).unwrap()).collect();
        let (events, key) = (Events::default(), sent.clone());
        let got = Arc::new(Mutex::new(None));
        let (seen, answer) = (events.clone(), Arc::clone(&got));
        let server = Server::start(move |session, _| {
            let startup = session.startup();
            if let Some(cancel) = session.cancelled.take() {
                *answer.lock().unwrap() = Some(cancel);
            }
            startup?;
            session.send(&[
                hostile::authentication(0, &[]),
                hostile::usual_parameters(),
                hostile::key(4711, &key),
                hostile::ready(b'I'),
            ])?;
            session.serve_with(|sql| {
                if sql.contains("'slow'") {
                    seen.note("slow");
                    thread::sleep(Duration::from_millis(500));
                }
                None
            })
        });
        let sidecar = Sidecar::start(&Policy::new(server.port, "db"));
        let mut client = sidecar.client();
        client.send(&[fe::query("SELECT 'slow'")]);
        eventually("the query", || events.saw("slow"));
        client.canceller().send();
        client.expect("T D:1 C Z:I");
        let got = got.lock().unwrap().clone().expect("no cancel came");
        assert_eq!(got, (4711, sent));
    }
}

#[test]
fn case_08_wrong_keys_are_closed_silently() {
    for minor in [0, 2] {
        let bed = Bed::on(Postgres::shared_18(), |policy| policy.set("pool.size", 1).set("pool.maxOverflow", 0));
        let mut client = bed.connect().minor(minor).open().unwrap();
        client.send(&[fe::query("SELECT pg_sleep(1)")]);
        thread::sleep(Duration::from_millis(100));
        let right = client.canceller();
        let wrong = |change: &dyn Fn(&mut Canceller)| {
            let mut canceller = right.clone();
            change(&mut canceller);
            canceller.send();
        };
        wrong(&|c| c.key[0] ^= 1);
        wrong(&|c| *c.key.last_mut().unwrap() ^= 0x80);
        wrong(&|c| c.key.push(0));
        wrong(&|c| c.key.truncate(3));
        wrong(&|c| c.key.clear());
        wrong(&|c| c.key = vec![0; 256]);
        wrong(&|c| c.pid = c.pid.wrapping_add(1));
        wrong(&|c| c.pid = 0);
        wrong(&|c| c.pid = u32::MAX);
        client.expect("T D: C:SELECT_1 Z:I");
        client.works();
    }
}

#[test]
fn case_09_no_peering_between_sidecars() {
    let pg = Postgres::shared();
    let beds = [Bed::on(Arc::clone(&pg), |policy| policy), Bed::on(pg, |policy| policy)];
    if bed::is_direct() {
        return;
    }
    let mut client = beds[0].client();
    client.send(&[fe::query("SELECT pg_sleep(0.5)")]);
    thread::sleep(Duration::from_millis(100));
    let mut elsewhere = beds[1].client().canceller();
    (elsewhere.pid, elsewhere.key) = (client.pid, client.key.clone());
    elsewhere.send();
    client.expect("T D: C:SELECT_1 Z:I");
    client.works();
}
