//! Credentials change, by the contract: the Secret, then what the policy says, then the role.

use std::time::Duration;

use serde_json::{Value, json};

use super::sidecar::Sidecar;
use super::support::wire::Client;
use super::support::{Connect, Postgres, eventually};
use super::world::{Operator, World};

const OLD: (&str, &str) = ("rotation_old", "first");
const NEW: (&str, &str) = ("rotation_new", "second");

/// Two pods of one policy, each with its sidecar, on a role of their own.
struct Bed {
    world: World,
    _operator: Operator,
    sidecars: [Sidecar; 2],
    postgres: std::sync::Arc<Postgres>,
    database: String,
}

impl Bed {
    async fn new() -> Self {
        let world = World::new().await;
        let operator = world.operator("a");
        operator.until_it_leads();
        world.webhooks(&operator).await;
        let postgres = Postgres::shared();
        let database = postgres.create_database();
        let mut sidecars = Vec::new();
        for name in ["orders-1", "orders-2"] {
            let labels = json!({ "app": "orders", "poolkeeper.dev/inject": "enabled" });
            let pod = world.injected(name, labels, json!({ "poolkeeper.dev/credentials": "orders-db" })).await;
            sidecars.push(Sidecar::start(&world, &operator, &pod).await);
        }
        let sidecars: [Sidecar; 2] = sidecars.try_into().ok().unwrap();
        Self { world, _operator: operator, sidecars, postgres, database }
    }

    fn admin(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.postgres.admin(&self.database).rows(sql)
    }

    async fn serve(&self) {
        for (user, password) in [OLD, NEW] {
            self.admin(&format!("DROP ROLE IF EXISTS {user}; CREATE ROLE {user} LOGIN PASSWORD '{password}'"));
        }
        let spec = json!({
            "selector": { "matchLabels": { "app": "orders" } },
            "database": { "host": "127.0.0.1", "port": self.postgres.port, "name": self.database, "alias": "orders",
                "credentials": { "secretName": "orders-db" }, "tls": { "mode": "Disable" } },
            "pool": { "size": 3, "maxOverflow": 0 },
            "listen": self.sidecars[0].listen(),
        });
        for sidecar in &self.sidecars {
            sidecar.give_secret(OLD.0, OLD.1);
        }
        self.world.apply_spec("orders", spec).await;
        self.world.until("orders", &["ResolvedRefs=True/ResolvedRefs"]).await;
        self.world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
        self.world.until_pod("orders-2", "PoolHealthy=True/Connected").await;
    }

    fn client(&self, sidecar: usize, (user, password): (&str, &str)) -> Client {
        let address = Connect::tcp(self.sidecars[sidecar].port).database("orders");
        let mut client = address.user(user).password(password).open().unwrap();
        client.works();
        client
    }

    /// Sessions of a role at the server.
    fn sessions(&self, (user, _): (&str, &str)) -> usize {
        self.admin(&format!("SELECT pid FROM pg_stat_activity WHERE usename = '{user}'")).len()
    }

    /// Ends all sessions of the two roles, so that whatever works afterwards has logged in anew.
    fn end_sessions(&self) {
        self.admin("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename LIKE 'rotation_%'");
    }

    async fn rotated(&self, wanted: &str) -> String {
        let status = self.world.until("orders", &[&format!("CredentialsRotated={wanted}")]).await;
        message(&status).unwrap()
    }
}

fn message(status: &Value) -> Option<String> {
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let found = conditions.find(|condition| condition["type"] == "CredentialsRotated")?;
    Some(found["message"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_policy_says_when_to_go_on() {
    let bed = Bed::new().await;
    bed.serve().await;
    assert_eq!(message(&bed.world.status("orders").await), None, "nothing is rotated");

    // Another password. One pod's kubelet is slower; the role has its old password all the time.
    let changed = (OLD.0, "changed");
    let mut clients = [bed.client(0, OLD), bed.client(1, OLD)];
    bed.sidecars[0].give_secret(changed.0, changed.1);
    let said = bed.rotated("False/SecretNotReadByAll").await;
    assert_eq!(said, "1/2 pods have read the new credentials; not yet: orders-2");
    clients.iter_mut().for_each(Client::works);
    bed.sidecars[1].give_secret(changed.0, changed.1);
    bed.rotated("True/AllRead").await;
    // Before the role changes the old password opens servers, after it the new one; clients may have either.
    for sql in ["SELECT 1", &format!("ALTER ROLE {} PASSWORD '{}'", changed.0, changed.1)] {
        bed.admin(sql);
        bed.end_sessions();
        for password in [OLD, changed] {
            (0..2).for_each(|sidecar| bed.client(sidecar, password).works());
        }
    }

    // Another role. Whoever is in a transaction keeps the old one's session.
    let mut busy = bed.client(1, changed);
    busy.rows("BEGIN");
    bed.sidecars.iter().for_each(|sidecar| sidecar.give_secret(NEW.0, NEW.1));
    // Idle sessions go within seconds.
    while !bed.rotated("False/OldRoleInUse").await.ends_with("are open in orders-2") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(bed.sessions(OLD) > 0);
    (0..2).for_each(|sidecar| bed.client(sidecar, NEW).works());
    busy.rows("COMMIT");
    bed.rotated("True/OldRoleUnused").await;
    assert_eq!(bed.sessions(OLD), 0);
    bed.admin(&format!("ALTER ROLE {} NOLOGIN", OLD.0));
    bed.end_sessions();
    eventually("both serve as the new role", || (0..2).all(|sidecar| works(&bed, sidecar)));
    let events = bed.world.server.kubectl_ok(&["get", "events", "-A", "-o", "yaml"]);
    assert!(events.contains("OldRoleUnused") && events.contains("AllRead"));
}

fn works(bed: &Bed, sidecar: usize) -> bool {
    let address = Connect::tcp(bed.sidecars[sidecar].port).database("orders").user(NEW.0).password(NEW.1);
    address.open().is_ok_and(|mut client| {
        client.works();
        true
    })
}
