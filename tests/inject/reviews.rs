//! The webhooks over real TLS.

use std::sync::Arc;
use std::time::Duration;

use poolkeeper::operator::inject::Verdict;
use serde_json::{Value, json};

use crate::golden::shapes;
use crate::support::webhook::{Known, Webhook, settings};
use crate::world::{inject_into, policies};

fn known() -> Arc<Known> {
    let known = Known::new();
    policies().iter().for_each(|policy| known.add(policy));
    known
}

fn review(kind: &str, operation: &str, object: &Value) -> Value {
    let (group, version, resource) = match kind {
        "Pod" => ("", "v1", "pods"),
        _ => ("poolkeeper.dev", "v1alpha1", "dbpoolpolicies"),
    };
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "42", "kind": { "group": group, "version": version, "kind": kind },
            "resource": { "group": group, "version": version, "resource": resource },
            "name": object["metadata"]["name"].as_str().unwrap_or_default(), "namespace": "shop",
            "operation": operation, "userInfo": { "username": "somebody" },
            "object": if operation == "DELETE" { &Value::Null } else { object }, "oldObject": null, "dryRun": false,
        },
    })
}

/// The pod after the response's patch.
fn patched(pod: &Value, response: &Value) -> Value {
    let mut pod = pod.clone();
    if !response["patch"].is_null() {
        assert_eq!(response["patchType"], "JSONPatch");
        // Bytes as numbers, which Go's JSON takes as well as base64.
        let bytes: Vec<u8> = serde_json::from_value(response["patch"].clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
    }
    pod
}

#[test]
fn every_shape_gets_what_its_golden_file_says() {
    let webhook = Webhook::start(known());
    for shape in shapes().into_iter().filter(|shape| shape.settings == settings()) {
        let path = if shape.namespace_asks { "/mutate/namespace" } else { "/mutate" };
        let response = webhook.review(path, &review("Pod", "CREATE", &shape.pod));
        let name = &shape.name;
        assert_eq!(response["uid"], "42", "{name}");
        match shape.verdict() {
            Verdict::Inject(injected) => {
                assert_eq!(response["allowed"], true, "{name}: {response}");
                assert!(patched(&shape.pod, &response) == injected.pod, "{name}");
                let warnings = response["warnings"].as_array().cloned().unwrap_or_default();
                assert_eq!(json!(warnings), json!(injected.warnings), "{name}");
                let again = webhook.review(path, &review("Pod", "CREATE", &injected.pod));
                assert_eq!(again["patch"], Value::Null, "{name}: nothing is left to do");
            }
            Verdict::Skip(_) => {
                assert_eq!((&response["allowed"], &response["patch"]), (&true.into(), &Value::Null), "{name}")
            }
            Verdict::Deny(sentence) => {
                assert_eq!((&response["allowed"], &response["status"]["code"]), (&false.into(), &403.into()), "{name}");
                assert_eq!(response["status"]["message"], sentence, "{name}");
            }
        }
    }
}

#[test]
fn only_the_creation_of_pods_is_answered_with_a_patch() {
    let webhook = Webhook::start(known());
    let pod = shapes().into_iter().find(|shape| shape.name == "plain").unwrap().pod;
    for operation in ["UPDATE", "DELETE", "CONNECT"] {
        let response = webhook.review("/mutate", &review("Pod", operation, &pod));
        assert_eq!((&response["allowed"], &response["patch"]), (&true.into(), &Value::Null), "{operation}");
    }
    let mut of_a_part = review("Pod", "CREATE", &pod);
    of_a_part["request"]["subResource"] = "binding".into();
    assert_eq!(webhook.review("/mutate", &of_a_part)["patch"], Value::Null);
    let other = webhook.review("/mutate", &review("DbPoolPolicy", "CREATE", &pod));
    assert_eq!((&other["allowed"], &other["patch"]), (&true.into(), &Value::Null));
}

/// `kubectl apply` of a policy and its pod: the watch brings the policy a moment after the pod is asked about.
#[test]
fn a_policy_that_comes_a_moment_later_is_waited_for() {
    let known = Known::new();
    let webhook = Webhook::start(Arc::clone(&known) as _);
    let pod = shapes().into_iter().find(|shape| shape.name == "plain").unwrap().pod;
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(120));
        policies().iter().for_each(|policy| known.add(policy));
    });
    let response = webhook.review("/mutate", &review("Pod", "CREATE", &pod));
    later.join().unwrap();
    let Verdict::Inject(injected) = inject_into(&pod, false, &settings()) else { panic!() };
    assert!(patched(&pod, &response) == injected.pod);
}

#[test]
fn what_is_no_review_is_refused_and_nothing_breaks() {
    let webhook = Webhook::start(known());
    for body in [&b""[..], b"{", b"[]", br#"{"apiVersion":"v1","kind":"Pod"}"#, b"\xff\xfe"] {
        assert_eq!(webhook.request("POST", "/mutate", body).0, 400, "{body:?}");
        assert_eq!(webhook.request("POST", "/validate", body).0, 400, "{body:?}");
    }
    assert_eq!(webhook.request("POST", "/mutate", &vec![b' '; 9 << 20]).0, 413);
    assert_eq!(webhook.request("GET", "/mutate", b"").0, 405);
    assert_eq!(webhook.request("POST", "/elsewhere", b"{}").0, 404);
    let broken =
        json!({ "metadata": { "labels": { "poolkeeper.dev/inject": "enabled" } }, "spec": { "containers": 7 } });
    let response = webhook.review("/mutate", &review("Pod", "CREATE", &broken));
    assert_eq!(response["allowed"], false, "{response}");
}

#[test]
fn it_stops_when_told() {
    Webhook::start(known()).stop();
}

fn orders() -> Value {
    policies().into_iter().find(|policy| policy["metadata"]["name"] == "orders").unwrap()
}

/// The warnings about a policy.
fn warnings(webhook: &Webhook, policy: &Value) -> Vec<String> {
    let response = webhook.review("/validate", &review("DbPoolPolicy", "UPDATE", policy));
    assert_eq!(response["allowed"], true, "{response}");
    serde_json::from_value(response.get("warnings").cloned().unwrap_or_else(|| json!([]))).unwrap()
}

#[test]
fn an_invalid_policy_is_refused_with_every_path() {
    let webhook = Webhook::start(known());
    let mut policy = orders();
    policy["spec"]["pool"] = json!({ "size": 2, "minIdle": 5 });
    policy["spec"]["health"] = json!({ "interval": "1s", "timeout": "2s" });
    for operation in ["CREATE", "UPDATE"] {
        let response = webhook.review("/validate", &review("DbPoolPolicy", operation, &policy));
        let status = &response["status"];
        assert_eq!(
            (&response["allowed"], &status["code"], &status["reason"]),
            (&false.into(), &422.into(), &"Invalid".into())
        );
        let causes = status["details"]["causes"].as_array().unwrap();
        let paths: Vec<_> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
        assert_eq!(paths, ["spec.health.timeout", "spec.pool.minIdle"]);
        let message = status["message"].as_str().unwrap();
        assert!(paths.iter().all(|path| message.contains(path)), "{message}");
    }
    let deleted = webhook.review("/validate", &review("DbPoolPolicy", "DELETE", &policy));
    assert_eq!(deleted["allowed"], true);
}

/// A way to change a policy, and words of the warning that must follow.
type Case = (fn(&mut Value), &'static str);

#[test]
fn what_will_hurt_is_warned_of() {
    let known = known();
    known.add_pod("shop", "a", &[("app", "orders"), ("pod-template-hash", "1")]);
    known.use_connections("shop", "orders", 12);
    let webhook = Webhook::start(known);
    assert_eq!(warnings(&webhook, &orders()), Vec::<String>::new());
    let cases: [Case; 8] = [
        (
            |p| p["spec"]["pool"] = json!({ "size": 5, "maxOverflow": 5 }),
            "at most 10 connections, and a pod uses 12 now",
        ),
        (
            |p| p["spec"]["selector"] = json!({ "matchLabels": { "app": "bills" } }),
            "no pod with a sidecar in namespace shop matches",
        ),
        (|p| p["spec"]["selector"] = Value::Null, "only pods labelled poolkeeper.dev/policy: orders"),
        (|p| p["spec"]["database"]["tls"] = json!({ "mode": "Require" }), "Require verifies nothing"),
        (|p| p["spec"]["listen"] = json!({ "auth": "Trust" }), "Trust lets in every process"),
        (|p| p["spec"]["database"]["credentials"] = Value::Null, "spec.database.credentials: is missing"),
        (
            |p| p["spec"]["selector"]["matchLabels"]["pod-template-hash"] = "1".into(),
            "label pod-template-hash has generated values",
        ),
        (
            |p| p["spec"]["database"]["credentials"]["secretName"] = "db-7f9k2m4t5h".into(),
            "seems to have a generated name",
        ),
    ];
    for (change, words) in cases {
        let mut policy = orders();
        change(&mut policy);
        let warnings = warnings(&webhook, &policy);
        assert!(warnings.len() == 1 && warnings[0].contains(words), "{words}: {warnings:?}");
    }
}

#[test]
fn a_conflict_is_a_warning() {
    let known = known();
    known.add_pod("shop", "a", &[("app", "orders")]);
    let webhook = Webhook::start(known);
    let mut policy = orders();
    policy["metadata"] = json!({ "name": "newer", "namespace": "shop", "uid": "uid-newer", "creationTimestamp": "2026-02-01T00:00:00Z" });
    let warnings = warnings(&webhook, &policy);
    assert!(warnings.len() == 1 && warnings[0].starts_with("conflict: newer: the older policy orders"), "{warnings:?}");
}
