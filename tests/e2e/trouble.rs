//! What is wrong is refused, or said where one looks, and pods recover by themselves when it is mended.

use std::io::Write;

use kube::ResourceExt;
use serde_json::{Value, json};

use super::app::{Load, deployment, sql};
use super::database::{Database, NAME};
use super::node::{OUTSIDE, root};
use super::support::pg::{ADMIN, PASSWORD, USER};
use super::support::wire::Connect;
use super::world::{World, eventually, is_ready, policy};

#[tokio::test]
async fn a_policy_that_is_not_valid_is_refused() {
    let Some(world) = World::new().await else { return };
    let database = json!({ "host": "db", "name": "orders", "credentials": { "secretName": "orders-db" } });
    let refused = |spec: Value| {
        let file = tempfile::NamedTempFile::new().unwrap();
        write!(&file, "{}", policy("orders", &spec)).unwrap();
        let file = file.path().to_str().unwrap();
        let out = world.node.try_kubectl(&["apply", "-n", &world.namespace, "-f", file]);
        assert!(!out.status.success(), "{spec:#} is taken");
        String::from_utf8(out.stderr).unwrap()
    };
    // By the schema, by its rules, by the webhook: each names the fields.
    let said = refused(json!({ "database": database, "pool": { "size": -3, "recycle": "soon" } }));
    assert!(said.contains("spec.pool.size") && said.contains("spec.pool.recycle"), "{said}");
    let said = refused(json!({ "database": database, "pool": { "size": 5, "maxOverflow": 0, "minIdle": 6 } }));
    assert!(said.contains("minIdle"), "{said}");
    let said = refused(json!({ "database": database, "pool": { "sice": 5 } }));
    assert!(said.contains("sice"), "{said}");
}

#[tokio::test]
async fn one_chart_with_app_and_policy_becomes_ready() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let values = json!({ "database": {
        "host": OUTSIDE, "port": database.postgres.port, "username": USER, "password": PASSWORD,
        "ca": database.authority()["ca.crt"],
    } });
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    write!(&file, "{values}").unwrap();
    let (chart, file) = (root("tests/e2e/chart"), file.path().to_str().unwrap());
    let chart = chart.to_str().unwrap();
    world.node.helm(&["install", "shop", chart, "-n", &world.namespace, "-f", file, "--wait", "--timeout", "3m"]);
    world.until("orders", &["Ready=True/Ready", "Programmed=True/AllPodsApplied"]).await;
    let load = Load::of(world.until_ready("orders", 2).await).await;
    load.unharmed().await;
    assert_eq!(world.restarts().await, 0);
}

#[tokio::test]
async fn trouble_with_the_database_is_named_and_mended() {
    let Some(world) = World::new().await else { return };
    let database = Database::with(world.node, 12);
    let mut spec = database.policy("orders");
    spec["health"] = json!({ "readiness": "Database", "interval": "1s", "timeout": "1s", "failureThreshold": 2 });
    spec["pool"] = json!({ "size": 2, "maxOverflow": 0 });
    spec["timeouts"] = json!({ "acquire": "2s", "connect": "2s" });
    let right = spec.clone();
    // The policy is there, its Secrets are not; the app has its own.
    world.policy("orders", &spec).await;
    let mut app = deployment("orders", 1, &[("CLIENTS", "0")]);
    app["spec"]["template"]["spec"]["volumes"][0]["secret"] = json!({ "secretName": "app-db" });
    world.secret("app-db", database.credentials()).await;
    world.apply(app).await;
    world.until("orders", &["ResolvedRefs=False/SecretNotFound", "Ready=False/Pending"]).await;
    let name = world.pods_of("orders").await[0].name_any();

    // Somebody else's password.
    world.secret("orders-db-ca", database.authority()).await;
    world.secret("orders-db", json!({ "username": USER, "password": "another" })).await;
    world.until("orders", &["ResolvedRefs=True/ResolvedRefs", "Programmed=True/AllPodsApplied"]).await;
    let said = world.until_pod(&name, "PoolHealthy=False/AuthFailed").await;
    assert!(said.contains("28P01") && !said.contains("another"), "{said}");
    unready(&world).await;
    world.secret("orders-db", database.credentials()).await;
    healthy(&world, &name).await;

    // Another host.
    spec["database"]["host"] = json!("db.nowhere.invalid");
    world.policy("orders", &spec).await;
    let said = world.until_pod(&name, "PoolHealthy=False/NoBackend").await;
    assert!(said.contains("db.nowhere.invalid"), "{said}");
    unready(&world).await;
    world.policy("orders", &right).await;
    healthy(&world, &name).await;

    // The database is down: what the policy asks for is done all the same.
    database.postgres.stop();
    world.until_pod(&name, "PoolHealthy=False/NoBackend").await;
    unready(&world).await;
    eventually("nothing healthy", async || world.read_policy("orders").await.data["status"]["pods"]["healthy"] == 0)
        .await;
    world.until("orders", &["Ready=True/Ready", "Programmed=True/AllPodsApplied"]).await;
    database.postgres.start_again();
    healthy(&world, &name).await;

    // The server has no place left: others have taken them all.
    let superuser = Connect::unix(&database.postgres.socket()).user(ADMIN).database(NAME);
    let (mut admin, mut others) = (superuser.open().unwrap(), vec![]);
    eventually("no place is left", async || {
        admin
            .query(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"))
            .unwrap();
        while let Ok(other) = superuser.open() {
            others.push(other);
        }
        let left = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
        admin.query(&left).unwrap()[0][0].as_deref() == Some("0")
    })
    .await;
    let said = world.until_pod(&name, "PoolHealthy=False/NoBackend").await;
    assert!(said.contains("53300"), "{said}");
    unready(&world).await;
    drop(others);
    healthy(&world, &name).await;
    assert_eq!(world.restarts().await, 0);
}

async fn unready(world: &World) {
    eventually("the pod is not ready", async || world.pods_of("orders").await.iter().all(|pod| !is_ready(pod))).await;
}

/// By itself.
async fn healthy(world: &World, name: &str) {
    world.until_pod(name, "PoolHealthy=True/Connected").await;
    let pods = world.until_ready("orders", 1).await;
    eventually("the app is served", async || sql(&pods[0], "SELECT 'served'").await.as_deref() == Ok("served")).await;
    world.until("orders", &["Ready=True/Ready"]).await;
}
