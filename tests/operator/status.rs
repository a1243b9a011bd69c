//! What a policy's status and its pods' conditions say, reached and left.

use poolkeeper::contract::{Health, HealthState, ReferenceState, References};
use serde_json::json;

use super::talker::Talker;
use super::world::World;
use crate::support::always;
use std::time::Duration;

#[tokio::test]
async fn a_policy_on_its_way_to_a_pod_and_back() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let status = world
        .until(
            "orders",
            &[
                "Accepted=True/Accepted",
                "ResolvedRefs=Unknown/Pending",
                "Programmed=True/NoMatchingPods",
                "Ready=True/Ready",
            ],
        )
        .await;
    assert_eq!(status["pods"]["summary"], "0/0");

    let pod = world.pod("orders-1", "orders").await;
    world.until("orders", &["Programmed=False/Pending", "Ready=False/Pending"]).await;
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(5).await;
    let spec = sidecar.configuration.policies[0].spec.clone().unwrap();
    assert_eq!(
        (&spec["pool"]["maxOverflow"], spec.get("selector")),
        (&json!(10), None),
        "effective values, no selector"
    );
    sidecar.report_applied().await;
    let status = world
        .until("orders", &["ResolvedRefs=True/ResolvedRefs", "Programmed=True/AllPodsApplied", "Ready=True/Ready"])
        .await;
    assert_eq!(
        status["pods"],
        json!({ "matched": 1, "applied": 1, "healthy": 1, "restartRequired": 0, "summary": "1/1" })
    );
    assert_eq!((&status["pool"]["inUse"], &status["pool"]["utilizationPercent"]), (&json!(12), &json!(40)));
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
    let line = world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
    assert_eq!(line, "12/30 in use (40%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 1");

    // A change reaches the sidecar at once, and is Programmed only when the sidecar has said so.
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    sidecar.until_size(6).await;
    assert!(sidecar.authorities.contains("BEGIN CERTIFICATE"));
    let status = world.until("orders", &["Programmed=False/Pending"]).await;
    assert_eq!(status["pods"]["summary"], "0/1");
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;

    world.delete_pod("orders-1").await;
    sidecar.until_closed().await;
    world.until("orders", &["Programmed=True/NoMatchingPods"]).await;
    let events = world.events("orders").await;
    for reason in ["Accepted", "NoMatchingPods", "Pending", "AllPodsApplied"] {
        assert!(events.iter().any(|event| event == reason), "{reason}: {events:?}");
    }
    assert!(operator.metric("poolkeeper_operator_time_to_programmed_seconds_count") >= 2.0);
    world.server.kubectl_ok(&[
        "-n",
        &world.namespace,
        "wait",
        "--for=condition=Ready",
        "--timeout=20s",
        "dbpool/orders",
    ]);
}

#[tokio::test]
async fn a_pod_that_refuses_lacks_or_cannot_is_named() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (_, mut sidecar) = Talker::serving(&world, &operator).await;

    let refused = sidecar.rejected("spec.pool.size: 5 is too few");
    sidecar.report(refused).await;
    let status = world.until("orders", &["Programmed=False/PodsRejected", "Ready=False/PodsRejected"]).await;
    assert!(
        status["conditions"][2]["message"].as_str().unwrap().contains("orders-1 (spec.pool.size: 5 is too few)"),
        "{status:#}"
    );
    assert_eq!(
        world.until_pod("orders-1", "PoolConfigured=False/Rejected").await,
        "orders: spec.pool.size: 5 is too few"
    );

    for (state, reason) in [
        (ReferenceState::SecretNotFound, "SecretNotFound"),
        (ReferenceState::SecretKeyMissing, "SecretKeyMissing"),
        (ReferenceState::InvalidCaCertificateRef, "InvalidCACertificateRef"),
    ] {
        let mut report = sidecar.applied();
        report.policies[0].references = References { state, message: "Secret db".into() };
        report.policies[0].applied = None;
        sidecar.report(report).await;
        world.until("orders", &[&format!("ResolvedRefs=False/{reason}"), "Programmed=False/Pending"]).await;
    }

    let mut report = sidecar.applied();
    report.policies[0].restart = vec!["spec.listen.port".into()];
    sidecar.report(report).await;
    let status = world.until("orders", &["Programmed=False/RestartRequired"]).await;
    assert_eq!((&status["pods"]["restartRequired"], &status["pods"]["applied"]), (&json!(1), &json!(0)));
    world.until_pod("orders-1", "PoolConfigured=False/RestartRequired").await;

    for (state, reason) in [(HealthState::NoBackend, "NoBackend"), (HealthState::AuthFailed, "AuthFailed")] {
        let mut report = sidecar.applied();
        report.policies[0].health = Health { state, message: "no route to host".into() };
        sidecar.report(report).await;
        assert_eq!(
            world.until_pod("orders-1", &format!("PoolHealthy=False/{reason}")).await,
            "orders: no route to host"
        );
    }
    // A database that is down is no fault of the policy.
    world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;

    let mut report = sidecar.applied();
    report.draining = true;
    sidecar.report(report).await;
    world.until_pod("orders-1", "PoolHealthy=False/Draining").await;
    sidecar.report_applied().await;
    world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
}

#[tokio::test]
async fn a_sidecar_that_is_silent_is_missed_after_a_while_only() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (pod, mut sidecar) = Talker::serving(&world, &operator).await;
    sidecar.report_applied().await;
    let before = world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    // It comes back before anybody notices.
    drop(sidecar);
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(5).await;
    sidecar.report_applied().await;
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    sidecar.until_size(6).await;
    sidecar.report_applied().await;
    let after = world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    assert_eq!(before["pods"], after["pods"]);
    // It does not.
    drop(sidecar);
    let long = Duration::from_secs(90);
    let status = world.until_within(long, "orders", &["Programmed=False/PodsUnreachable"]).await;
    assert_eq!(status["pods"]["healthy"], 0);
    world.until_pod("orders-1", "PoolConfigured=Unknown/Stale").await;
    world.until_pod("orders-1", "PoolHealthy=Unknown/Stale").await;
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(6).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
}

#[tokio::test]
async fn of_two_policies_for_one_name_the_newer_is_in_conflict() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("older", "orders", json!({ "size": 5 })).await;
    // Kubernetes' times have seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    world.apply("newer", "orders", json!({ "size": 9 })).await;
    let pod = world.pod("orders-1", "orders").await;
    let status = world.until("newer", &["Accepted=False/Conflicted", "Ready=False/Conflicted"]).await;
    assert!(status["conditions"][0]["message"].as_str().unwrap().contains("older"), "{status:#}");
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(5).await;
    sidecar.report_applied().await;
    world.until("older", &["Programmed=True/AllPodsApplied"]).await;

    world.delete_policy("older").await;
    sidecar.until_size(9).await;
    sidecar.report_applied().await;
    world.until("newer", &["Accepted=True/Accepted", "Programmed=True/AllPodsApplied"]).await;

    // Nobody's pod any more: it serves on and says so.
    world.delete_policy("newer").await;
    sidecar.until(|configuration| configuration.policies.is_empty()).await;
    let message = world.until_pod("orders-1", "PoolConfigured=False/NoPolicy").await;
    assert!(message.contains("newer"), "{message}");
}

#[tokio::test]
async fn a_policy_that_breaks_a_rule_is_given_to_nobody() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (_, mut sidecar) = Talker::serving(&world, &operator).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    // An older or newer CRD lets through what this operator refuses.
    world.loosen_the_schema().await;
    world.apply("orders", "orders", json!({ "size": -7 })).await;
    let status =
        world.until("orders", &["Accepted=False/Invalid", "Programmed=False/Pending", "Ready=False/Invalid"]).await;
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("spec.pool.size: -7"), "{message}");
    let kept = sidecar.until(|configuration| configuration.policies.iter().any(|policy| policy.spec.is_none())).await;
    assert_eq!(kept.policies.len(), 1, "what runs stays");
    // Bad objects of every kind do not stop the watch.
    world.apply_spec("strange", json!({ "database": 7, "selector": [1, 2], "pool": { "size": { "a": [] } } })).await;
    world.until("strange", &["Accepted=False/Invalid"]).await;
    world.apply("orders", "orders", json!({ "size": 8 })).await;
    sidecar.until_size(8).await;
}

#[tokio::test]
async fn what_takes_no_status_is_told_of_by_an_event() {
    let world = World::new().await;
    // An older CRD let it through; under the present one the API server takes no status of it.
    world.loosen_the_schema().await;
    world.apply_spec("strange", json!({ "database": 7, "pool": { "size": { "a": [] } } })).await;
    world.server.kubectl_ok(&["replace", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/crds")]);
    let _operator = world.operator("a");
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while world.events("strange").await != ["Invalid"] {
        let (events, status) = (world.events("strange").await, world.status("strange").await);
        assert!(std::time::Instant::now() < end, "{events:?}, {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nor can it be applied over.
    world.delete_policy("strange").await;
    world.apply("strange", "orders", json!({ "size": 8 })).await;
    world.until("strange", &["Accepted=True/Accepted"]).await;
}

#[tokio::test]
async fn a_fleet_at_rest_writes_nothing() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let mut sidecars = Vec::new();
    for number in 0..3 {
        let pod = world.pod(&format!("orders-{number}"), "orders").await;
        let mut sidecar = Talker::of(&world, &operator, &pod).await;
        sidecar.until_size(5).await;
        sidecar.report_applied().await;
        sidecars.push(sidecar);
    }
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    for number in 0..3 {
        world.until_pod(&format!("orders-{number}"), "PoolHealthy=True/Connected").await;
    }
    // Events come after what they tell of.
    let mut before = world.writes();
    let mut quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_secs(2) {
        let now = world.writes();
        if now != before {
            (before, quiet) = (now, std::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The same said again, and numbers that move within their class: no write.
    for sidecar in &mut sidecars {
        let mut report = sidecar.applied();
        report.policies[0].numbers.as_mut().unwrap().in_use = 11;
        sidecar.report(report).await;
    }
    let renewals = operator.log().len();
    always("nothing is written", Duration::from_secs(6), || world.writes() == before);
    assert!(operator.leads(), "{renewals}");
    // A change of class is written at once.
    let mut report = sidecars[0].applied();
    report.policies[0].numbers.as_mut().unwrap().waiting = 4;
    sidecars[0].report(report).await;
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while world.status("orders").await["pool"]["waiting"] != 4 {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let line = loop {
        let line = world.until_pod("orders-0", "PoolHealthy=True/Connected").await;
        if line.contains("waiting 4") {
            break line;
        }
        assert!(std::time::Instant::now() < end);
    };
    assert!(line.contains("generation 1"));
}
