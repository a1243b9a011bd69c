//! What others do to what is the operator's: a status overwritten, the Lease deleted, words without end, a tie of leaders.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use super::talker::Talker;
use super::world::{HOME, World, conditions};

/// Our own write counts for a while, whatever the watch says.
const SOON: Duration = Duration::from_secs(40);

#[tokio::test]
async fn what_somebody_else_writes_is_put_right() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (_, mut sidecar) = Talker::serving(&world, &operator).await;
    sidecar.report_applied().await;
    let good = ["Accepted=True/Accepted", "Programmed=True/AllPodsApplied", "Ready=True/Ready"];
    world.until("orders", &good).await;
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
    world.until_pod("orders-1", "PoolHealthy=True/Connected").await;

    let patch = |kind: &str, name: &str, patch: serde_json::Value| {
        let arguments = ["patch", kind, name, "--subresource=status", "--type=json", "-p", &patch.to_string()];
        world.server.kubectl_ok(&[&["-n", &world.namespace], &arguments[..]].concat());
    };
    let wrong = json!([{ "op": "replace", "path": "/status/conditions/2/status", "value": "False" },
        { "op": "replace", "path": "/status/conditions/2/reason", "value": "PodsRejected" }]);
    patch("dbpool", "orders", wrong);
    world.until("orders", &["Programmed=False/PodsRejected"]).await;
    let gone = json!([{ "op": "replace", "path": "/status/conditions", "value": [] }]);
    patch("pod", "orders-1", gone);
    world.until_within(SOON, "orders", &good).await;
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
    world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
    patch("dbpool", "orders", json!([{ "op": "remove", "path": "/status" }]));
    world.until_within(SOON, "orders", &good).await;
}

#[tokio::test]
async fn no_term_is_lower_because_somebody_deleted_the_lease() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let pod = world.pod("orders-1", "orders").await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), HOME);
    let mut terms = Vec::new();
    let mut operators = vec![operator];
    for round in 0..3 {
        let operator = operators.last().unwrap();
        let mut sidecar = Talker::of(&world, operator, &pod).await;
        sidecar.until_size(5).await;
        terms.push(sidecar.term);
        if round == 1 {
            // Nobody is left who remembers.
            operators.clear();
        }
        leases.delete("poolkeeper-operator", &Default::default()).await.unwrap();
        sidecar.until_closed().await;
        if operators.is_empty() {
            operators.push(world.operator("b"));
        }
    }
    // What nobody remembers is known by the clock, in seconds: sidecars take the same term again, and no lower one.
    assert!(terms[0] < terms[1] && terms[1] <= terms[2], "{terms:?}");
}

#[tokio::test]
async fn a_takeover_repeats_what_was_wrong_and_a_sidecar_may_say_what_it_likes() {
    let world = World::new().await;
    let mut first = world.operator("a");
    let (pod, mut sidecar) = Talker::serving(&world, &first).await;
    let refused = sidecar.rejected(&"é".repeat(1 << 20));
    sidecar.report(refused).await;
    world.until("orders", &["Programmed=False/PodsRejected"]).await;
    let said = world.until_pod("orders-1", "PoolConfigured=False/Rejected").await;
    assert!(said.len() <= 1_024, "{}", said.len());

    let second = world.operator("b");
    first.signal("TERM");
    first.until_it_ends();
    second.until_it_leads();
    let before = world.status("orders").await;
    for _ in 0..30 {
        let now = world.status("orders").await;
        assert_eq!((conditions(&now, 1), &now["pool"]), (conditions(&before, 1), &before["pool"]));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut sidecar = Talker::of(&world, &second, &pod).await;
    sidecar.until_size(5).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
}
