//! Leaders that die, come back or do not know that they lead no more; an API server that goes away.

use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use poolkeeper::contract::{ToOperator, ToSidecar};
use poolkeeper::operator::certs::Authority;
use serde_json::json;

use super::talker::Talker;
use super::world::{HOME, World};
use crate::support::{PATIENCE, eventually};

impl World {
    async fn holder(&self) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), HOME);
        let lease = leases.get_opt("poolkeeper-operator").await.unwrap();
        lease.and_then(|lease| lease.spec?.holder_identity).unwrap_or_default()
    }

    /// The port that the stream's Service leads to.
    async fn endpoint(&self) -> Option<i32> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), HOME);
        let slice = slices.get_opt("poolkeeper-stream").await.unwrap()?;
        slice.ports?.first()?.port
    }
}

#[tokio::test]
async fn another_replica_takes_over_and_no_status_flaps() {
    let world = World::new().await;
    let mut first = world.operator("a");
    first.until_it_leads();
    let second = world.operator("b");
    let (pod, mut sidecar) = Talker::serving(&world, &first).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    world.until_pod("orders-1", "PoolHealthy=True/Connected").await;
    eventually("the second replica is ready", || second.get("/readyz").is_some_and(|(code, _)| code == 200));
    assert!(!second.leads());
    assert_eq!(world.endpoint().await, Some(i32::from(first.stream)));
    let before = world.status("orders").await;
    let term = sidecar.term;

    // A leader that ends gives the Lease back, and closes its streams.
    first.signal("TERM");
    sidecar.until_closed().await;
    assert!(first.until_it_ends().success());
    second.until_it_leads();
    let end = Instant::now() + PATIENCE;
    while world.endpoint().await != Some(i32::from(second.stream)) {
        assert!(Instant::now() < end, "the Service does not lead to the second");
    }
    assert!(world.holder().await.starts_with("b-"));
    let mut sidecar = Talker::of(&world, &second, &pod).await;
    assert!(sidecar.term > term);
    sidecar.until_size(5).await;
    sidecar.report_applied().await;
    assert_eq!(world.endpoint().await, Some(i32::from(second.stream)));
    // What was said before the takeover was not taken back in between.
    let transitions = |status: &serde_json::Value| {
        status["conditions"].as_array().unwrap().iter().map(|c| c["lastTransitionTime"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(transitions(&world.status("orders").await), transitions(&before));

    // One that is killed is missed by the clock.
    let third = world.operator("c");
    let killed = Instant::now();
    second.signal("KILL");
    third.until_it_leads();
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    let mut sidecar = Talker::of(&world, &third, &pod).await;
    sidecar.until_size(5).await;
    assert_eq!(transitions(&world.status("orders").await), transitions(&before));
}

#[tokio::test]
async fn a_leader_that_stood_still_is_no_leader() {
    let world = World::new().await;
    let first = world.operator("a");
    first.until_it_leads();
    let second = world.operator("b");
    let (pod, mut old) = Talker::serving(&world, &first).await;
    first.signal("STOP");
    second.until_it_leads();
    let mut sidecar = Talker::of(&world, &second, &pod).await;
    sidecar.until_size(5).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    // It wakes with a report in its socket that says otherwise, and must not write it.
    let wrong = old.rejected("an old leader's");
    old.report(wrong).await;
    first.signal("CONT");
    old.until_closed().await;
    eventually("it knows", || !first.leads());
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    assert!(world.holder().await.starts_with("b-") && second.leads());
    assert!(sidecar.term > old.term);
}

#[tokio::test]
async fn an_api_server_that_goes_away_loses_nothing() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (pod, mut sidecar) = Talker::serving(&world, &operator).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    world.server.stop();
    // Without a Lease to renew it stops to lead, by its own clock.
    sidecar.until_closed().await;
    world.server.start_again();
    operator.until_it_leads();
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(5).await;
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    sidecar.until_size(6).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
}

#[tokio::test]
async fn a_new_authority_reaches_those_who_are_there() {
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    world.webhooks(&operator).await;
    let pod = world.pod("orders-1", "orders").await;
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    let before = world.authorities().await;
    // Deleted by mistake: it comes back as it was.
    let secrets: Api<Secret> = Api::namespaced(world.client.clone(), HOME);
    secrets.delete("poolkeeper-ca", &Default::default()).await.unwrap();
    let end = Instant::now() + PATIENCE * 3;
    while secrets.get_opt("poolkeeper-ca").await.unwrap().is_none() {
        assert!(Instant::now() < end, "the authority does not come back");
        sidecar.say(&ToOperator::Ping).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(before, world.authorities().await);
    let mut secret = secrets.get("poolkeeper-ca").await.unwrap();
    secret.data = Some(Authority::new(SystemTime::now()).unwrap().write());
    secrets.replace("poolkeeper-ca", &Default::default(), &secret).await.unwrap();
    let listening = async {
        loop {
            match sidecar.hear().await {
                Some(ToSidecar::Authorities { pem }) if pem != before => return pem,
                _ => sidecar.say(&ToOperator::Ping).await,
            }
        }
    };
    let pem = tokio::time::timeout(PATIENCE * 3, listening).await.expect("no new authority");
    assert_eq!(pem, world.authorities().await);
    Talker::of(&world, &operator, &pod).await;
    // The API server goes on to trust the webhooks.
    let wanted = serde_json::to_value(k8s_openapi::ByteString(pem.into_bytes())).unwrap();
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        eventually("the webhooks' caBundle is the new one", || {
            let text = world.server.kubectl_ok(&["get", kind, "poolkeeper", "-o", "json"]);
            let configuration: serde_json::Value = serde_json::from_str(&text).unwrap();
            let mut webhooks = configuration["webhooks"].as_array().unwrap().iter();
            webhooks.all(|webhook| webhook["clientConfig"]["caBundle"] == wanted)
        });
    }
    let labels = json!({ "app": "orders", "poolkeeper.dev/inject": "enabled" });
    world.injected("orders-2", labels, json!({ "poolkeeper.dev/credentials": "orders-db" })).await;
}

#[tokio::test]
async fn an_operator_that_dies_at_any_moment_leaves_nothing_half_done() {
    let world = World::new().await;
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let pod = world.pod("orders-1", "orders").await;
    for (round, delay) in [(0, 20), (1, 90), (2, 250), (3, 600)] {
        let size = 10 + round;
        let operator = world.operator("a");
        operator.until_it_leads();
        world.apply("orders", "orders", json!({ "size": size })).await;
        let talking = async {
            let mut sidecar = Talker::of(&world, &operator, &pod).await;
            sidecar.until_size(size).await;
            sidecar.report_applied().await;
            sidecar.until_closed().await;
        };
        // Killed while it greets, sends, hears or writes, as it comes.
        let _ = tokio::time::timeout(Duration::from_millis(delay), talking).await;
    }
    let operator = world.operator("a");
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(13).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    world.until_pod("orders-1", "PoolConfigured=True/Applied").await;
}

#[tokio::test]
async fn what_happened_while_the_watch_was_away_and_is_forgotten_is_listed_anew() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("gone", "gone", json!({ "size": 1 })).await;
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let (pod, _) = (world.pod("orders-1", "orders").await, world.pod("gone-1", "gone").await);
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(5).await;
    assert_eq!(operator.metric("poolkeeper_operator_objects{kind=\"policy\"}"), 2.0);
    operator.signal("STOP");
    world.delete_policy("gone").await;
    world.delete_pod("gone-1").await;
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    world.server.stop();
    world.server.forget_the_past();
    world.server.start_again();
    operator.signal("CONT");
    operator.until_it_leads();
    let mut sidecar = Talker::of(&world, &operator, &pod).await;
    sidecar.until_size(6).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    eventually("what is gone is forgotten", || {
        operator.metric("poolkeeper_operator_objects{kind=\"policy\"}") == 1.0
            && operator.metric("poolkeeper_operator_objects{kind=\"pod\"}") == 1.0
    });
    assert!(operator.log().contains("too old resource version"), "it was told 410:\n{}", operator.log());
}

#[tokio::test]
async fn a_clock_that_jumps_ends_no_term_and_no_stream() {
    let world = World::new().await;
    let clock = tempfile::NamedTempFile::new().unwrap();
    let jump = |to: &str| std::fs::write(clock.path(), to).unwrap();
    jump("+0");
    let operator = world.operator_by("a", clock.path());
    operator.until_it_leads();
    let (pod, mut sidecar) = Talker::serving(&world, &operator).await;
    sidecar.report_applied().await;
    let term = sidecar.term;
    let status = world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    let leases: Api<Lease> = Api::namespaced(world.client.clone(), HOME);
    // Twice for longer than a claim on the Lease lasts.
    for (size, to, seconds) in [(6, "+3h", 9), (7, "-2d", 9), (8, "+40d", 1), (9, "+0", 1)] {
        jump(to);
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            sidecar.say(&ToOperator::Ping).await;
            assert!(operator.leads(), "at {to}:\n{}", operator.log());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        if seconds > 1 {
            let lease = leases.get("poolkeeper-operator").await.unwrap();
            let renewed = lease.spec.unwrap().renew_time.unwrap().0;
            let off = (renewed.as_second() - Timestamp::now().as_second()).abs();
            assert!(off > 3_600, "the clock stood where it was: {off} s");
        }
        world.apply("orders", "orders", json!({ "size": size })).await;
        sidecar.until_size(size).await;
        sidecar.report_applied().await;
        let status = world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
        assert_eq!(status["pods"]["applied"], 1);
    }
    assert_eq!((sidecar.term, Talker::of(&world, &operator, &pod).await.term), (term, term));
    assert_eq!(status["pods"]["summary"], "1/1");
}
