#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use super::*;
use crate::api::duration::Duration;

fn policy(spec: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "a" },
        "spec": { "database": { "host": "h", "name": "d" } }
    });
    for (key, value) in spec.as_object().unwrap() {
        policy["spec"][key] = value.clone();
    }
    policy
}

fn resolved(spec: Value) -> Resolved {
    resolve_value(policy(spec)).unwrap()
}

#[test]
fn presets_differ_in_size_and_overflow_only() {
    for (preset, size, overflow) in [("Development", 5, 5), ("Production", 20, 10), ("HighTraffic", 50, 20)] {
        let is = resolved(json!({ "preset": preset }));
        let pool = is.pool.settings();
        assert_eq!((pool.size, pool.max_overflow, is.pool.limit()), (size, Some(overflow), Some(size + overflow)));
        let said = resolved(json!({ "preset": preset, "pool": { "size": 1, "maxOverflow": 0 } }));
        let production = resolved(json!({ "pool": { "size": 1, "maxOverflow": 0 } }));
        assert_eq!(said.pool, production.pool, "what is written wins over the preset");
        assert_eq!((said.timeouts, said.health, said.listen), (is.timeouts, is.health, is.listen));
    }
}

#[test]
fn what_is_left_out_is_as_documented() {
    let is = resolved(json!({}));
    let secs = StdDuration::from_secs;
    let pool = is.pool.settings();
    assert_eq!((pool.acquire, pool.recycle), (secs(30), Some(secs(3600))));
    assert_eq!((pool.pre_ping, pool.order, pool.min_idle, pool.idle_timeout), (true, pool::Order::Fifo, 0, None));
    assert_eq!((pool.recycle_jitter_percent, pool.shrink, pool.max_waiting, pool.cap), (0, None, 0, None));
    assert_eq!((is.mode, is.reset_on_return, is.prepared_statements), (Mode::Transaction, Reset::Rollback, 200));
    assert_eq!(is.timeouts, Timeouts { connect: secs(10), statement: Some(secs(30)), idle_in_transaction: None });
    let health = Health {
        query: "SELECT 1".into(),
        interval: secs(5),
        timeout: secs(2),
        failure_threshold: 3,
        readiness: Readiness::Config,
    };
    assert_eq!(is.health, health);
    let database = Database {
        alias: "d".into(),
        host: "h".into(),
        port: 5432,
        name: "d".into(),
        tls: TlsMode::VerifyFull,
        ca_secret: None,
    };
    assert_eq!((is.database, is.credentials), (database, CredentialsSource::Environment));
    assert_eq!((is.namespace.as_str(), is.generation, is.shutdown_grace), ("default", None, secs(30)));
    assert_eq!((is.listen.address.to_string().as_str(), is.listen.port), ("127.0.0.1", 6432));
    assert_eq!((is.listen.socket, is.listen.socket_is_default), (Some(DEFAULT_SOCKET_DIR.into()), true));
    assert_eq!((is.listen.auth, is.listen.tls, is.listen.idle_timeout), (Auth::ScramSha256, None, None));
}

#[test]
fn zero_minus_one_and_nothing_mean_what_they_say() {
    let is = resolved(json!({
        "pool": { "size": 0, "maxOverflow": 3, "recycle": "0s" },
        "timeouts": { "acquire": "0s", "statement": "0s" },
        "listen": { "socket": "", "keepalive": "0s", "maxWaiting": 7 }
    }));
    assert_eq!((is.pool.limit(), is.pool.settings().recycle), (None, None));
    assert_eq!((is.pool.settings().acquire, is.timeouts.statement), (StdDuration::ZERO, None));
    assert_eq!((is.listen.socket, is.listen.keepalive, is.pool.settings().max_waiting), (None, None, 7));
    assert_eq!(resolved(json!({ "pool": { "maxOverflow": -1 } })).pool.limit(), None);
}

#[test]
fn a_unix_socket_has_no_tls() {
    let is = resolved(json!({ "database": { "host": "/run/postgresql", "name": "d" } }));
    assert_eq!(is.database.tls, TlsMode::Disable);
    let is = resolved(json!({ "database": { "host": "/run/postgresql", "name": "d", "tls": { "mode": "Prefer" } } }));
    assert_eq!(is.database.tls, TlsMode::Disable);
}

#[test]
fn the_revision_follows_the_effective_values() {
    let revision = |spec| resolved(spec).revision;
    let first = revision(json!({}));
    assert_eq!(first.len(), 12);
    assert_eq!(
        first,
        revision(json!({ "preset": "Production", "pool": { "size": 20 }, "timeouts": { "acquire": "30000ms" } }))
    );
    assert_eq!(first, revision(json!({ "selector": { "matchLabels": { "app": "x" } } })));
    assert_ne!(first, revision(json!({ "pool": { "size": 21 } })));
    assert_ne!(first, revision(json!({ "database": { "host": "h2", "name": "d" } })));
}

#[test]
fn a_typed_policy_is_held_to_the_same_bounds() {
    let mut typed: DbPoolPolicy = serde_json::from_value(policy(json!({ "pool": {}, "health": {} }))).unwrap();
    typed.spec.pool.as_mut().unwrap().size = Some(-1);
    typed.spec.health.as_mut().unwrap().interval = Some(Duration::from_millis(1));
    let paths: Vec<_> = resolve(&typed).unwrap_err().into_iter().map(|problem| problem.path).collect();
    // The timeout's own default is not held against an interval that is refused.
    assert_eq!(paths, ["spec.health.interval", "spec.pool.size"]);
}
