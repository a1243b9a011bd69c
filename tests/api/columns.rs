//! What `kubectl get` shows of a policy.

use super::support::ApiServer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use poolkeeper::api::v1alpha1::{DbPoolPolicy, DbPoolPolicyStatus, PodsStatus, PoolStatus};
use serde_json::json;

fn policy() -> DbPoolPolicy {
    let spec = serde_json::from_value(json!({ "database": { "host": "db", "name": "orders" } })).unwrap();
    DbPoolPolicy::new("orders", spec)
}

fn status() -> DbPoolPolicyStatus {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: Some(1),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
    };
    DbPoolPolicyStatus {
        observed_generation: Some(1),
        conditions: Some(vec![
            condition("Accepted", "True", "Accepted", "the policy is valid"),
            condition("Programmed", "False", "Pending", "3 of 12 pods do not run generation 1 yet"),
            condition("Ready", "False", "Pending", "3 of 12 pods do not run generation 1 yet"),
        ]),
        pods: Some(PodsStatus {
            matched: 12,
            applied: 9,
            healthy: 12,
            restart_required: 0,
            summary: "9/12".to_owned(),
        }),
        pool: Some(PoolStatus { size: 20, max_overflow: 10, in_use: 64, ..PoolStatus::default() }),
    }
}

/// The columns of a table by their headings; they are three spaces apart at least, words one.
fn columns(table: &str) -> Vec<(String, String)> {
    let mut lines = table.lines().map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()));
    let (headings, cells) = (lines.next().unwrap(), lines.next().unwrap());
    headings.zip(cells).map(|(heading, cell)| (heading.to_owned(), cell.to_owned())).collect()
}

#[tokio::test]
async fn a_policy_shows_its_state_in_a_line() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies: Api<DbPoolPolicy> = Api::namespaced(server.client().await, &namespace);
    policies.create(&PostParams::default(), &policy()).await.unwrap();
    // Before an operator has seen it the line is short, and no error.
    let new = columns(&server.kubectl_ok(&["-n", &namespace, "get", "dbpool"]));
    assert_eq!(new[0], ("NAME".to_owned(), "orders".to_owned()), "{new:?}");

    let patch = json!({ "status": status() });
    policies.patch_status("orders", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let wanted = [
        ("NAME", "orders"),
        ("ACCEPTED", "True"),
        ("PROGRAMMED", "False"),
        ("PODS", "9/12"),
        ("SIZE", "20"),
        ("READY", "False"),
    ];
    for name in ["dbpool", "dbpools", "dbpoolpolicies", "dbpoolpolicy", "poolkeeper"] {
        let table = server.kubectl_ok(&["-n", &namespace, "get", name]);
        let shown = columns(&table);
        let names: Vec<_> = shown.iter().map(|(heading, cell)| (heading.as_str(), cell.as_str())).collect();
        assert_eq!(&names[..6], wanted, "{table}");
        assert_eq!((names.len(), names[6].0), (7, "AGE"), "{table}");
    }
    let table = server.kubectl_ok(&["-n", &namespace, "get", "dbpool", "-o", "wide"]);
    let wide = columns(&table);
    let more: Vec<_> = wide[7..].iter().map(|(heading, cell)| (heading.as_str(), cell.as_str())).collect();
    assert_eq!(more, [("INUSE", "64"), ("MESSAGE", "3 of 12 pods do not run generation 1 yet")], "{table}");
}

#[tokio::test]
async fn the_status_is_written_by_itself_alone() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies: Api<DbPoolPolicy> = Api::namespaced(server.client().await, &namespace);
    let mut with_status = policy();
    with_status.status = Some(status());
    let made = policies.create(&PostParams::default(), &with_status).await.unwrap();
    let nobodys = DbPoolPolicyStatus { observed_generation: Some(-1), ..DbPoolPolicyStatus::default() };
    assert_eq!(made.status, Some(nobodys), "whoever writes a policy does not write its status");

    let patch = json!({ "status": status(), "spec": { "preset": "HighTraffic" } });
    let patched = policies.patch_status("orders", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    assert_eq!((&patched.spec, &patched.status), (&made.spec, &Some(status())));
    assert_eq!(patched.metadata.generation, made.metadata.generation, "a status is no new generation");

    // A condition is found by its type, so that two writers of different ones do not overwrite each other.
    let mut one = status().conditions.unwrap().remove(2);
    one.status = "True".to_owned();
    let apply = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "orders" },
        "status": { "conditions": [one] }
    });
    policies.patch_status("orders", &PatchParams::apply("test").force(), &Patch::Apply(&apply)).await.unwrap();
    server.kubectl_ok(&["-n", &namespace, "wait", "--for=condition=Ready", "--timeout=10s", "dbpool/orders"]);
    let kept = policies.get("orders").await.unwrap().status.unwrap().conditions.unwrap();
    assert_eq!(
        kept.iter().map(|condition| condition.type_.as_str()).collect::<Vec<_>>(),
        ["Accepted", "Programmed", "Ready"]
    );
}
