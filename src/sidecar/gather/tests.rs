#![allow(clippy::unwrap_used)]
use serde_json::json;

use super::*;
use crate::api::resolve::{Resolved, resolve_value};
use crate::pg::auth::Secret;
use crate::pg::auth::scram::Salt;
use crate::sidecar::clients::{Activity, NewClient};
use crate::sidecar::database::Settings;
use crate::sidecar::source::{Credentials, Finding, Policy, Snapshot};

/// In the credentials of every fixture; must be seen nowhere.
pub const PASSWORD: &str = "hunter2-hunter2";

/// A policy with the preset's values.
pub fn policy(name: &str, readiness: &str) -> Arc<Resolved> {
    policy_with(name, json!({ "readiness": readiness }))
}

/// The same with these fields of `spec.health`.
pub fn policy_with(name: &str, health: serde_json::Value) -> Arc<Resolved> {
    let value = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1",
        "kind": "DbPoolPolicy",
        "metadata": { "name": name },
        "spec": {
            "database": { "host": "127.0.0.1", "name": name, "credentials": { "secretName": "db" }, "tls": { "mode": "Disable" } },
            "health": health,
        },
    });
    Arc::new(resolve_value(value).unwrap())
}

/// Databases that run these policies, without any network.
pub struct Fixture {
    pub sight: Sight,
    config: watch::Sender<State>,
}

fn state(policies: &[Arc<Resolved>]) -> State {
    let first = policies.first().unwrap();
    let credentials = Arc::new(credentials());
    let policies = policies.iter().map(|resolved| Policy {
        resolved: Arc::clone(resolved),
        credentials: Arc::clone(&credentials),
        origin: "policy.yaml".into(),
        told: None,
        orphaned: false,
    });
    let snapshot = Snapshot {
        policies: policies.collect(),
        listen: first.listen.clone(),
        tls: None,
        shutdown_grace: first.shutdown_grace,
    };
    State { snapshot: Arc::new(snapshot), rejection: None, told: None, accepted: 1, rejected: 0 }
}

fn credentials() -> Credentials {
    Credentials { user: "app".into(), password: Secret::new(PASSWORD), previous: None, ca_pem: None }
}

impl Fixture {
    pub fn new(policies: &[Arc<Resolved>]) -> Self {
        let registry = Arc::new(Registered::new());
        for policy in policies {
            let (policy, credentials) = (Arc::clone(policy), Arc::new(credentials()));
            let settings = Settings::new(policy, credentials, Salt::random().unwrap(), 1, None).unwrap();
            registry.add(Arc::new(Database::new(settings, 2)));
        }
        let (sender, config) = watch::channel(state(policies));
        let sight = Sight {
            registry,
            config,
            shutdown: Shutdown::new(),
            token: Arc::new(Token::random().unwrap()),
            listeners: OnceLock::from(vec!["127.0.0.1:6432".to_owned()]),
            operator: None,
        };
        Self { sight, config: sender }
    }

    /// Other policies are in force but not applied yet.
    pub fn announce(&self, policies: &[Arc<Resolved>]) {
        self.config.send_replace(state(policies));
    }
}

#[tokio::test]
async fn a_pool_is_described_whole() {
    let fixture = Fixture::new(&[policy("orders", "Config")]);
    let database = fixture.sight.registry.get("orders").unwrap();
    database.workers[0].queries.add(3);
    database.workers[1].queries.add(4);
    database.workers[0].pins[1].inc();
    database.workers[1].acquire.observe(Duration::from_millis(3));
    database.workers[0].scrubs.add(2);
    database.workers[1].scrubs.add(3);
    database.workers[0].adaptations.add(4);
    database.workers[1].targeted_audits.add(5);
    database.workers[0].full_audits.inc();
    database.bound.store(2, Relaxed);
    let status = fixture.sight.status();
    assert!(status.ready, "{:?}", status.reason);
    let pool = &status.pools[0];
    assert_eq!(
        (pool.database.as_str(), pool.policy.as_str(), pool.namespace.as_str()),
        ("orders", "orders", "default")
    );
    assert_eq!(pool.settings["pool"]["size"], 20);
    assert_eq!((pool.connections.size, pool.connections.limit, pool.connections.overflow), (20, Some(30), -20));
    assert_eq!((pool.connections.utilization_percent, pool.connections.total_connections), (Some(0.0), 0));
    assert_eq!((pool.traffic.queries, pool.traffic.pins["listen"], pool.traffic.pins.len()), (7, 1, 8));
    assert_eq!((pool.traffic.acquire.count, pool.traffic.acquire.p99_seconds), (1, Some(0.005)));
    assert_eq!((pool.traffic.scrubs, pool.traffic.adaptations), (5, 4));
    assert_eq!(serde_json::to_value(&pool.traffic.audits).unwrap(), json!({ "targeted": 5, "full": 1 }));
    assert_eq!(pool.pinned, status::Pinned { clients: 2, limit: Some(15) }, "half of size and overflow");
    let applied = pool.applied_at.parse::<jiff::Timestamp>().unwrap().duration_since(jiff::Timestamp::now());
    assert!(applied.abs().as_secs() < 60, "{}", pool.applied_at);
    assert!(pool.applied_at.ends_with('Z') && (unix(SystemTime::now()) - pool.applied_seconds).abs() < 60.0);
}

#[tokio::test]
async fn clients_are_listed_but_the_probes_secret_is_not() {
    let fixture = Fixture::new(&[policy("orders", "Config")]);
    let clients = Arc::clone(&fixture.sight.registry.clients);
    let new = |application: &str| NewClient {
        database: "orders".into(),
        application: application.into(),
        peer: "unix".into(),
        targets: Arc::default(),
    };
    let app = clients.add(new("shop"), Box::default(), Instant::now());
    app.set_activity(Activity::Holding);
    app.pinned.store(2, Relaxed);
    let secret = fixture.sight.token.application_name().to_owned();
    let _probe = clients.add(new(&secret), Box::default(), Instant::now());
    let status = fixture.sight.status();
    let shown: Vec<_> = status
        .clients
        .iter()
        .map(|c| (c.pid, c.application.as_str(), c.activity.as_str(), c.pinned.as_deref()))
        .collect();
    assert_eq!(
        shown,
        [(1 << 22, "shop", "holding", Some("listen")), ((1 << 22) + 1, "poolkeeper-probe", "idle", None)]
    );
    assert!(!serde_json::to_string(&status).unwrap().contains(&secret));
    assert!(fixture.sight.pools().clients.is_empty());
}

#[tokio::test]
async fn rejections_and_orphans_are_told() {
    let policies = [policy("orders", "Config"), policy("audit", "Config")];
    let fixture = Fixture::new(&policies);
    let mut state = state(&policies);
    Arc::make_mut(&mut state.snapshot).policies[1].orphaned = true;
    let problem = crate::api::resolve::Problem::new("spec.pool.size", "-1 is too small");
    let findings = vec![Finding::new("p.yaml", problem)];
    state.rejection = Some(Arc::new(Rejection { at: UNIX_EPOCH + Duration::from_millis(1_500), findings }));
    (state.accepted, state.rejected) = (3, 2);
    fixture.config.send_replace(state);
    let status = fixture.sight.pools();
    assert_eq!((status.reloads.applied, status.reloads.rejected), (3, 2));
    let rejection = status.rejection.unwrap();
    assert_eq!(rejection.at, "1970-01-01T00:00:01.500Z");
    assert_eq!(
        (rejection.problems[0].file.as_str(), rejection.problems[0].path.as_str()),
        ("p.yaml", "spec.pool.size")
    );
    let orphaned: Vec<_> = status.pools.iter().map(|pool| (pool.database.as_str(), pool.orphaned)).collect();
    assert_eq!(orphaned, [("audit", true), ("orders", false)]);
}

#[test]
fn readiness_gives_the_first_reason() {
    let pool = |name: &str, required, usable| status::Pool {
        database: name.into(),
        health: status::Health { required, usable, ..status::Health::default() },
        ..status::Pool::default()
    };
    let of = |listeners: &[&str], pools: Vec<status::Pool>| Status {
        listeners: listeners.iter().map(|l| (*l).to_owned()).collect(),
        pools,
        ..Status::default()
    };
    let up = || vec![pool("a", true, true), pool("b", false, false)];
    assert_eq!(unready(&of(&["x"], up()), ["a", "b"].into_iter()), None);
    let reason = |status: Status, expected: &[&str]| unready(&status, expected.iter().copied()).unwrap();
    assert_eq!(reason(of(&[], up()), &[]), "the listeners are not bound yet");
    assert_eq!(reason(of(&["x"], up()), &["a", "c"]), "database c: its policy is not applied yet");
    assert_eq!(reason(of(&["x"], Vec::new()), &[]), "no policy is applied yet");
    assert_eq!(reason(of(&["x"], vec![pool("a", true, false)]), &["a"]), "database a: it does not answer");
    let mut draining = of(&["x"], up());
    draining.draining = true;
    assert_eq!(reason(draining, &[]), "draining: the sidecar was asked to end");
}
