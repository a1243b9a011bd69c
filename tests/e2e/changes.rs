//! Every field of `pool` and `timeouts` is changed under load, again and again: no transaction fails, and each change shows where it should.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::{Value, json};

use super::app::{Load, sql};
use super::database::Database;
use super::world::{PATIENCE, World, conditions, eventually};

#[tokio::test]
async fn every_field_is_changed_under_load() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    let load = world.orders(&database, 2, &[("CLIENTS", "6"), ("HOLD_MS", "4")]).await;
    world.until("orders", &["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "Ready=True/Ready"]).await;
    for pod in &load.pods {
        world.until_pod(&pod.name_any(), "PoolConfigured=True/Applied").await;
        world.until_pod(&pod.name_any(), "PoolHealthy=True/Connected").await;
    }

    let mut stage =
        Stage { world: &world, database: &database, load: &load, spec: database.policy("orders"), took: vec![] };
    let began = Instant::now();
    for round in 0..3 {
        stage.pool(round).await;
        stage.timeouts(round).await;
    }
    let (mut took, changes) = (stage.took.clone(), stage.took.len());
    took.sort_unstable();
    let done = load.unharmed().await;
    eprintln!(
        "{changes} changes in {:.1?}, Programmed after {:.0?} (median), {:.0?} (worst); 0 of {done} transactions failed",
        began.elapsed(),
        took[changes / 2],
        took[changes - 1],
    );
    assert!(changes >= 50);
    assert_eq!(world.restarts().await, 0);
}

/// A policy that is changed a field at a time.
struct Stage<'a> {
    world: &'a World,
    database: &'a Database,
    load: &'a Load,
    spec: Value,
    /// From each change until the status said that every pod runs it.
    took: Vec<Duration>,
}

impl Stage<'_> {
    /// Each field of `pool`, with another value in each round.
    async fn pool(&mut self, round: usize) {
        let size = [4, 2, 7][round];
        self.change("pool.size", json!(size)).await;
        let overflow = [0, 1, 3][round];
        self.change("pool.maxOverflow", json!(overflow)).await;
        let limit = 2 * (size + overflow);
        eventually("PostgreSQL counts as many as allowed", async || self.database.servers() <= limit).await;

        self.change("pool.minIdle", json!([2, 1, 3][round])).await;
        let since = self.database.admin("SELECT now()")[0][0].clone().unwrap();
        self.change("pool.recycle", json!(["1s", "2s", "3s"][round])).await;
        let old = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND backend_start < '{since}'");
        eventually("every connection is new", async || self.database.count(&old) == 0).await;
        self.change("pool.recycle", json!("1h")).await;
        self.change("pool.recycleJitter", json!(["10%", "0%", "25%"][round])).await;
        self.change("pool.idleTimeout", json!(["5s", "1m", "0s"][round])).await;
        self.change("pool.prePing", json!([false, true, false][round])).await;
        self.change("pool.order", json!(["Lifo", "Fifo", "Lifo"][round])).await;
        self.change("pool.preparedStatements", json!([10, 1, 200][round])).await;
        self.change("pool.maxPinned", json!(["100%", "20%", "50%"][round])).await;

        let commit = round != 1;
        self.change("pool.resetOnReturn", json!(if commit { "Commit" } else { "Rollback" })).await;
        self.abandoned(commit).await;

        let mode = ["Session", "Transaction", "Session"][round];
        self.change("pool.mode", json!(mode)).await;
        self.change("pool.mode", json!("Transaction")).await;
        let state = ["Reject", "Strict", "Preserve"][round];
        self.change("pool.sessionState", json!(state)).await;
        let listened = sql(&self.load.pods[0], "LISTEN orders").await;
        assert_eq!(listened.is_err(), state == "Reject", "{state}: {listened:?}");
        self.change("pool.sessionState", json!("Preserve")).await;
    }

    /// Each field of `timeouts`.
    async fn timeouts(&mut self, round: usize) {
        self.change("timeouts.acquire", json!(["20s", "1m", "30s"][round])).await;
        self.change("timeouts.connect", json!(["5s", "20s", "10s"][round])).await;
        self.change("timeouts.shrink", json!(["10s", "0s", "1m"][round])).await;
        for (field, setting) in
            [("statement", "statement_timeout"), ("idleInTransaction", "idle_in_transaction_session_timeout")]
        {
            let value = ["21s", "34s", "55s"][round];
            self.change(&format!("timeouts.{field}"), json!(value)).await;
            for pod in &self.load.pods {
                assert_eq!(sql(pod, &format!("SHOW {setting}")).await.as_deref(), Ok(value), "{setting}");
            }
        }
    }

    /// A client that dies within a transaction: what it wrote is kept, or not.
    async fn abandoned(&self, kept: bool) {
        self.database.admin("TRUNCATE notes");
        let pod = &self.load.pods[0];
        let answer = super::world::ask(pod, 8080, "POST", "/abandon", "INSERT INTO notes VALUES ('abandoned')").await;
        assert_eq!(answer.unwrap().0, 200);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE '%notes%'";
        eventually("its transaction is over", async || self.database.count(open) == 0).await;
        assert_eq!(self.database.count("SELECT count(*) FROM notes"), i64::from(kept));
    }

    /// Changes one field, waits until the status says that every pod runs it, and asks every sidecar.
    async fn change(&mut self, path: &str, value: Value) {
        let mut place = &mut self.spec;
        for part in path.split('.') {
            place = &mut place[part];
        }
        if *place == value {
            return;
        }
        *place = value.clone();
        let began = Instant::now();
        let generation = self.world.policy("orders", &self.spec).await.metadata.generation.unwrap();
        let end = began + PATIENCE;
        loop {
            let policy = self.world.read_policy("orders").await;
            let status = &policy.data["status"];
            let shown = conditions(status, generation);
            if shown.iter().any(|shown| shown == "Programmed=True/AllPodsApplied")
                && shown.iter().any(|shown| shown == "Ready=True/Ready")
            {
                assert_eq!(status["observedGeneration"], generation);
                break;
            }
            assert!(Instant::now() < end, "{path} = {value} is not programmed: {status:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.took.push(began.elapsed());
        let pointer = format!("/pools/0/settings/{}", path.replace('.', "/"));
        for pod in &self.load.pods {
            let status = self.world.sidecar(pod).await;
            assert_eq!(status.pointer(&pointer), Some(&value), "{path}");
            assert_eq!(status["pools"][0]["generation"], generation);
        }
        self.load.advance(3).await;
        self.load.unharmed().await;
    }
}
