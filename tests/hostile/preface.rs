//! A server that refuses to be made the next client's: nothing of the client has run on it, so another one is asked.

use crate::support::hostile::{Events, Server, error};
use crate::support::{Policy, Sidecar, bed, eventually};

#[test]
fn a_server_that_refuses_its_scrub_costs_the_client_nothing() {
    if bed::is_direct() {
        return;
    }
    let events = Events::default();
    let seen = events.clone();
    let server = Server::start(move |session, number| {
        session.login()?;
        let seen = seen.clone();
        session.serve_with(move |text| {
            seen.note(&format!("{number} {text}"));
            let refuses = text.contains("SET SESSION AUTHORIZATION DEFAULT");
            refuses.then(|| error(&[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "42501"), (b'M', "not here")]))
        })
    });
    let policy = Policy::new(server.port, "db")
        .set("pool.size", 1)
        .set("pool.maxOverflow", 0)
        .set("pool.sessionState", "Strict")
        .set("health.interval", "1h");
    let sidecar = Sidecar::start(&policy);
    let (mut one, mut two) = (sidecar.client(), sidecar.client());
    // Its catalog cannot be read; until that is given up, a server is closed rather than scrubbed.
    eventually("a server is scrubbed", || {
        one.value("SELECT 'one'");
        two.value("SELECT 'two'");
        events.all().iter().any(|text| text.contains("SET SESSION AUTHORIZATION DEFAULT"))
    });
    let before = events.all().len();
    for round in 0..3 {
        assert_eq!(one.value("SELECT 'one'"), "1", "round {round}");
        assert_eq!(two.value("SELECT 'two'"), "1", "round {round}");
    }
    assert!(sidecar.metric("poolkeeper_server_connections_closed_total{reason=\"hygiene\"}") >= 5.0);
    let asked = events.all()[before..].iter().filter(|text| text.contains("SELECT 'two'")).count();
    assert_eq!(
        asked, 6,
        "each text came twice, and ran once: behind the gate of the server that refused, it is skipped"
    );
}
