//! Each lie in each protocol, and the clients that come after it.

use crate::honest;
use crate::lies;
use crate::support::hostile::{self, Events, Server};
use crate::support::{Policy, Sidecar, bed, eventually, process};
use crate::victim::{ALL, How, ask, is_well, next_ones, out_of_step, question, value};
use std::time::Duration;

/// A server whose lie is the one whose number the trigger names, `lie 7`, and which notes when it was told.
pub fn liar(events: &Events) -> Server {
    let events = events.clone();
    Server::start(move |session, _| {
        session.login()?;
        let events = events.clone();
        let lie = move |session: &mut crate::support::hostile::Session, honest: Vec<Vec<u8>>| {
            let text = String::from_utf8_lossy(&honest.concat()).into_owned();
            let number = text.split("lie ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
            let case = &lies::ALL[number.unwrap()];
            let result = (case.lie)(session, honest);
            events.note(&format!("told {}", number.unwrap()));
            result
        };
        honest::serve(session, &lie)
    })
}

/// One server at most, so that whoever comes next gets the liar or its successor.
pub fn policy(port: u16) -> Policy {
    Policy::new(port, "db")
        .set("pool.size", 1)
        .set("pool.maxOverflow", 0)
        .set("health.interval", "1h")
        .set("timeouts.acquire", "10s")
}

fn run(how: How) {
    if bed::is_direct() {
        return;
    }
    let mut failures = vec![];
    let events = Events::default();
    let server = liar(&events);
    let mut sidecar = Sidecar::start(&policy(server.port));
    let before = process::resident(sidecar.pid());
    for (number, case) in lies::ALL.iter().enumerate() {
        let what = format!("{} ({how:?})", case.name);
        let closed = out_of_step(&sidecar);
        let mut victim = sidecar.client();
        let patience = if case.silent { Duration::from_millis(150) } else { Duration::from_secs(10) };
        ask(&mut victim, how, &format!("lie {number} "), patience);
        if !case.silent {
            // All of it is on its way: what comes later can't be told from an answer to the next question.
            eventually(&what, || events.saw(&format!("told {number}")));
        }
        drop(victim);
        if let Err(failure) = next_ones(&sidecar, case.name) {
            failures.push(format!("{how:?}: {failure}"));
        }
        if case.out_of_step && out_of_step(&sidecar) <= closed {
            failures.push(format!("{what}: not counted as out of step"));
        }
        events.clear();
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    is_well(&mut sidecar, before, 40_000_000);
}

#[test]
fn simple_queries() {
    run(How::Simple);
}

#[test]
fn the_extended_protocol() {
    run(How::Extended);
}

#[test]
fn named_statements() {
    run(How::Named);
}

/// The next client waits already when the lie is told: what can be known to be no answer must not reach it.
#[test]
fn the_next_client_is_waiting() {
    if bed::is_direct() {
        return;
    }
    let lying = |session: &mut crate::support::hostile::Session, honest: Vec<Vec<u8>>| {
        std::thread::sleep(Duration::from_millis(200));
        session.send(&[hostile::ready(b'I')])?;
        std::thread::sleep(Duration::from_millis(100));
        session.send(&[honest.concat(), hostile::ready(b'I')])
    };
    let server = Server::start(move |session, _| {
        session.login()?;
        honest::serve(session, &lying)
    });
    let sidecar = Sidecar::start(&policy(server.port));
    for how in ALL {
        let (mut victim, mut next) = (sidecar.client(), sidecar.client());
        let _ = victim.write(&question(how, "lie"));
        eventually("the server is taken", || sidecar.health()["checked_out"] == 1);
        let got = ask(&mut next, How::Simple, "mine", Duration::from_secs(10));
        let rows: Vec<_> = got.iter().filter(|(tag, _)| *tag == 'D').map(|(_, body)| value(body)).collect();
        assert_eq!(rows, ["mine"], "{how:?}");
    }
}
