#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::sidecar::stats::BUCKETS;
use crate::sidecar::status::{Connections, Health, Problem, Rejection, Times, Traffic};

/// What a client, a policy's author or a server might call a thing.
const NASTY: &str = "<b onclick='x()'>\u{202e}\u{7}&";

fn pool() -> Pool {
    let mut buckets = vec![0; BUCKETS.len() + 1];
    (buckets[0], buckets[6], buckets[BUCKETS.len()]) = (50, 49, 1);
    Pool {
        database: "orders".into(),
        policy: "orders".into(),
        namespace: "shop".into(),
        revision: "abc123".into(),
        generation: Some(7),
        settings: json!({ "pool": { "mode": "Transaction", "maxOverflow": 10 } }),
        connections: Connections {
            size: 20,
            limit: Some(30),
            in_use: 21,
            idle: 3,
            closing: 1,
            checked_out: 21,
            overflow: 4,
            waiting: 2,
            timeouts: 1_234,
            utilization_percent: Some(70.0),
            closed: BTreeMap::from([("recycled".into(), 3), ("idle_timeout".into(), 0)]),
            ..Connections::default()
        },
        health: Health { status: Verdict::Healthy, ..Health::default() },
        traffic: Traffic { acquire: Times::new(buckets, 5_000), ..Traffic::default() },
        ..Pool::default()
    }
}

fn text(status: &Status) -> String {
    format!("{}{}{}", title(status), top(status).into_string(), main(status).into_string())
}

#[test]
fn the_numbers_are_the_statuss() {
    let status = Status { ready: true, pools: vec![pool()], ..Status::default() };
    let text = text(&status);
    for part in [
        "orders 70 % · Poolkeeper",
        "<b>21</b> of 30 in use",
        "70 %, within 60–80 %",
        "2 waiting",
        "21 in use, 0 opening, 3 idle, 1 closing, of 30; the band is 60 to 80 %",
        "4 of 10<small>above the size of 20</small>",
        "≤ 100 µs, ≤ 10 ms",
        "<span class=\"bad\">1\u{202f}234</span>",
        "closed: 3 recycled",
        "policy shop/orders, generation 7, revision <code>abc123</code>",
        "maxOverflow: 10",
        // 21 of 30 are 700 of the bar's 1000.
        "<rect class=\"use\" x=\"0.0\" y=\"8\" width=\"700.0\"",
        "<line class=\"tick\" x1=\"666.7\"",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn an_unlimited_pool_and_no_pool_have_a_page_too() {
    let mut unlimited = pool();
    (unlimited.connections.limit, unlimited.connections.utilization_percent) = (None, None);
    unlimited.settings = json!({});
    let shown = text(&Status { pools: vec![unlimited, pool()], ..Status::default() });
    assert!(shown.contains("in use, no limit") && shown.contains("orders, orders · Poolkeeper"), "{shown}");
    let empty = Status { reason: Some("no policy is applied yet".into()), ..Status::default() };
    let shown = text(&empty);
    assert!(shown.contains("No pool yet") && shown.contains("no policy is applied yet"), "{shown}");
}

#[test]
fn whatever_comes_from_outside_is_escaped() {
    let nasty = || NASTY.to_owned();
    let mut pool = pool();
    (pool.database, pool.policy, pool.namespace, pool.revision) = (nasty(), nasty(), nasty(), nasty());
    pool.settings = json!({ "pool": { "mode": NASTY }, NASTY: NASTY });
    pool.health = Health { status: Verdict::Unhealthy, reason: Some(nasty()), ..Health::default() };
    pool.server.degraded = vec![nasty()];
    pool.catalog.names = vec![nasty()];
    pool.catalog.failure = Some(nasty());
    pool.traffic.pins = BTreeMap::from([(nasty(), 1)]);
    let client = Client {
        database: nasty(),
        application: nasty(),
        peer: nasty(),
        activity: "waiting".into(),
        ..Client::default()
    };
    let problem = Problem { file: nasty(), path: nasty(), message: nasty() };
    let operator = Operator { url: nasty(), error: Some(nasty()), version: Some(nasty()), ..Operator::default() };
    let status = Status {
        version: nasty(),
        commit: nasty(),
        reason: Some(nasty()),
        listeners: vec![nasty()],
        rejection: Some(Rejection { at: nasty(), problems: vec![problem] }),
        operator: Some(operator),
        refused_logins: BTreeMap::from([(nasty(), 1)]),
        pools: vec![pool],
        clients: vec![client],
        ..Status::default()
    };
    let body = format!("{}{}", top(&status).into_string(), main(&status).into_string());
    assert!(!body.contains("<b onclick") && !body.contains('\u{202e}') && !body.contains('\u{7}'), "{body}");
    assert!(body.matches("&lt;b onclick").count() >= 25, "{}", body.matches("&lt;b onclick").count());
}

#[test]
fn clients_that_matter_come_first_and_are_not_too_many() {
    let client = |n: u32, activity: &str, pinned: Option<&str>| Client {
        database: "orders".into(),
        application: format!("app-{n}"),
        activity: activity.into(),
        pinned: pinned.map(str::to_owned),
        ..Client::default()
    };
    let mut clients: Vec<_> = (0..30).map(|n| client(n, "active", None)).collect();
    clients.push(client(90, "waiting", None));
    clients.push(client(91, "idle", Some("listen")));
    clients.push(client(92, "idle", None));
    let shown = self::clients(&pool(), &clients).into_string();
    assert!(shown.contains("pinned: 32 of 33") && shown.contains("and 12 more in"), "{shown}");
    assert!(shown.find("app-91").unwrap() < shown.find("app-90").unwrap() && !shown.contains("app-92"));
}
