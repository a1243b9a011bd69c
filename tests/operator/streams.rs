//! Who is let in to the streams, and what ends one.

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use kube::ResourceExt;
use poolkeeper::contract::{Refusal, ToOperator, ToSidecar, Token};
use serde_json::json;

use super::talker::{Talker, hello};
use super::world::World;

#[tokio::test]
async fn nobody_is_let_in_but_the_pod_itself() {
    let world = World::new().await;
    let operator = world.operator("a");
    operator.until_it_leads();
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let pod = world.pod("orders-1", "orders").await;
    // The right one, first: after this, the operator knows the pod.
    Talker::of(&world, &operator, &pod).await.until_size(5).await;
    let refusal = async |token: &str| Talker::greet(&world, &operator, hello(token)).await.err().flatten();
    let unauthenticated = Some(Refusal::Unauthenticated);
    assert_eq!(refusal("").await, unauthenticated);
    assert_eq!(refusal("nonsense").await, unauthenticated);
    assert_eq!(refusal(&world.server.pod_token(&pod, None).await).await, unauthenticated, "another audience");
    assert_eq!(refusal(&world.server.token(&world.namespace, "default").await).await, unauthenticated, "no pod");
    let audience = TokenRequestSpec { audiences: vec!["poolkeeper".into()], ..TokenRequestSpec::default() };
    let unbound = world.server.request_token(&world.namespace, "default", audience).await;
    assert_eq!(refusal(&unbound).await, unauthenticated, "the right audience, bound to no pod");
    let mut old = hello(&world.server.pod_token(&pod, Some("poolkeeper")).await);
    old.contract = 0;
    assert_eq!(Talker::greet(&world, &operator, old).await.err().flatten(), Some(Refusal::Version));

    // A pod without the label is not ours; one that is gone, and its successor of the same name, are others.
    let token = world.server.pod_token(&pod, Some("poolkeeper")).await;
    world.delete_pod("orders-1").await;
    let successor = world.pod("orders-1", "orders").await;
    assert_ne!(pod.uid(), successor.uid());
    let end = std::time::Instant::now() + crate::support::PATIENCE;
    while refusal(&token).await.is_none_or(|refusal| !matches!(refusal, Refusal::UnknownPod | Refusal::Unauthenticated))
    {
        assert!(std::time::Instant::now() < end);
    }
    Talker::of(&world, &operator, &successor).await.until_size(5).await;
}

#[tokio::test]
async fn a_pod_gets_its_own_configuration_and_no_other() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    world.apply("bills", "bills", json!({ "size": 7 })).await;
    let (orders, bills) = (world.pod("orders-1", "orders").await, world.pod("bills-1", "bills").await);
    let mut orders = Talker::of(&world, &operator, &orders).await;
    let mut bills = Talker::of(&world, &operator, &bills).await;
    orders.until_size(5).await;
    bills.until_size(7).await;
    assert_eq!((orders.configuration.policies.len(), bills.configuration.policies.len()), (1, 1));
    // What one says of another's policy counts for nothing.
    let mut report = bills.applied();
    report.policies.extend(orders.applied().policies);
    bills.report(report).await;
    world.until("bills", &["Programmed=True/AllPodsApplied"]).await;
    world.until("orders", &["Programmed=False/Pending"]).await;
}

#[tokio::test]
async fn what_makes_no_sense_ends_one_stream() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5 })).await;
    let pod = world.pod("orders-1", "orders").await;
    let other = world.pod("orders-2", "orders").await;
    let mut good = Talker::of(&world, &operator, &other).await;
    good.until_size(5).await;
    for bytes in [&b"{"[..], b"[]", b"\xff\xfe", br#"{"type":"report","policies":7}"#] {
        let mut bad = Talker::of(&world, &operator, &pod).await;
        bad.say_bytes(bytes).await;
        bad.until_closed().await;
    }
    let mut twice = Talker::of(&world, &operator, &pod).await;
    twice.say(&ToOperator::Hello(Box::new(hello("x")))).await;
    twice.until_closed().await;
    let mut thief = Talker::of(&world, &operator, &pod).await;
    let token = world.server.pod_token(&other, Some("poolkeeper")).await;
    thief.say(&ToOperator::Renew { token: Token::new(token) }).await;
    let refused = loop {
        match thief.hear().await {
            Some(ToSidecar::Refused { reason, .. }) => break reason,
            Some(_) => {}
            None => panic!("closed without a word"),
        }
    };
    assert_eq!(refused, Refusal::Unauthenticated);
    // A message of a later version is passed over, and the other stream has not noticed anything.
    good.say_bytes(br#"{"type":"later","x":1}"#).await;
    good.report_applied().await;
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    good.until_size(6).await;
    assert!(!operator.log().contains(&world.server.pod_token(&pod, Some("poolkeeper")).await));
}

#[tokio::test]
async fn a_stream_ends_with_its_token_and_lives_on_with_a_new_one() {
    let world = World::new().await;
    let operator = world.operator("a");
    let (pod, mut sidecar) = Talker::serving(&world, &operator).await;
    let bound = BoundObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name_any()),
        uid: pod.uid(),
    };
    let spec = TokenRequestSpec {
        audiences: vec!["poolkeeper".into()],
        bound_object_ref: Some(bound),
        expiration_seconds: Some(600),
    };
    let token = world.server.request_token(&world.namespace, "default", spec).await;
    sidecar.say(&ToOperator::Renew { token: Token::new(token) }).await;
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    world.apply("orders", "orders", json!({ "size": 6 })).await;
    sidecar.until_size(6).await;
}

#[tokio::test]
async fn an_older_sidecar_gets_what_it_knows() {
    let world = World::new().await;
    let operator = world.operator("a");
    world.apply("orders", "orders", json!({ "size": 5, "maxPinned": "50%" })).await;
    let pod = world.pod("orders-1", "orders").await;
    Talker::of(&world, &operator, &pod).await;
    let mut old = hello(&world.server.pod_token(&pod, Some("poolkeeper")).await);
    old.fields.retain(|field| field != "spec.pool.maxPinned");
    let mut sidecar = Talker::greet(&world, &operator, old).await.ok().unwrap();
    sidecar.until_size(5).await;
    let spec = sidecar.configuration.policies[0].spec.clone().unwrap();
    assert!(spec["pool"].get("maxPinned").is_none(), "{spec}");
    sidecar.report_applied().await;
    world.until("orders", &["Programmed=True/AllPodsApplied"]).await;
    world.apply("orders", "orders", json!({ "size": 6, "maxPinned": "10%" })).await;
    sidecar.until_size(6).await;
    sidecar.report_applied().await;
    let status = world.until("orders", &["Programmed=False/RestartRequired"]).await;
    assert!(status["conditions"][2]["message"].as_str().unwrap().contains("spec.pool.maxPinned"), "{status:#}");
}
