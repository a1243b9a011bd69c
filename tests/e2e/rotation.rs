//! Credentials change under load, both ways, in the order that the policy's condition gives: no query fails, and PostgreSQL
//! says that nobody uses the old ones.

use serde_json::json;

use super::app::{Load, deployment, sql};
use super::database::Database;
use super::support::pg::USER;
use super::world::{World, eventually};

/// Another role, with the same rights.
const OTHER: &str = "app_too";

#[tokio::test]
async fn a_password_and_then_the_role_are_changed_under_load() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    database.admin(&format!("CREATE ROLE {OTHER} LOGIN PASSWORD 'of the other'"));
    for (name, data) in [
        ("orders-db", database.credentials()),
        ("orders-db-ca", database.authority()),
        // The app has its own copy, which follows when the sidecars have read theirs.
        ("app-db", database.credentials()),
    ] {
        world.secret(name, data).await;
    }
    // Every server connection logs in anew within seconds, and so do clients.
    let mut spec = database.policy("orders");
    spec["pool"] = json!({ "size": 4, "maxOverflow": 2, "recycle": "2s" });
    world.policy("orders", &spec).await;
    let mut app = deployment("orders", 2, &[("RELOGIN", "20")]);
    app["spec"]["template"]["spec"]["volumes"][0]["secret"] = json!({ "secretName": "app-db" });
    world.apply(app).await;
    let load = Load::of(world.until_ready("orders", 2).await).await;
    world.until("orders", &["Ready=True/Ready"]).await;

    // Another password: the Secret, the condition, the role.
    let changed = json!({ "username": USER, "password": "another password" });
    world.secret("orders-db", changed.clone()).await;
    world.until("orders", &["CredentialsRotated=True/AllRead", "Ready=True/Ready"]).await;
    load.advance(60).await;
    let altered = database.admin(&format!("ALTER ROLE {USER} PASSWORD 'another password'; SELECT clock_timestamp()"));
    let altered = altered[0][0].clone().unwrap();
    world.secret("app-db", changed).await;
    let before =
        format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}' AND backend_start < '{altered}'");
    eventually("every server has logged in with the new password", async || database.count(&before) == 0).await;
    load.advance(60).await;
    load.unharmed().await;

    // Another role: the Secret, the condition, the end of the old role.
    let other = json!({ "username": OTHER, "password": "of the other" });
    world.secret("orders-db", other.clone()).await;
    world.until("orders", &["CredentialsRotated=True/OldRoleUnused", "Ready=True/Ready"]).await;
    assert_eq!(database.servers(), 0, "sessions of the old role");
    database.admin(&format!("ALTER ROLE {USER} NOLOGIN"));
    world.secret("app-db", other).await;
    load.advance(100).await;
    let done = load.unharmed().await;
    assert_eq!(database.servers(), 0, "sessions of the old role");
    assert!(database.count(&format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{OTHER}'")) > 0);
    for pod in &load.pods {
        assert_eq!(sql(pod, "SELECT session_user").await.as_deref(), Ok(OTHER));
    }
    eprintln!("a password and a role changed: 0 of {done} transactions failed");
    assert_eq!(world.restarts().await, 0);
}
