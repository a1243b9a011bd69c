//! Policies that an older CRD let in: they must not stop whoever watches, and their users must be told.

use super::support::{ApiServer, PATIENCE};
use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DeserializeGuard, DynamicObject};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use poolkeeper::api::resolve;
use poolkeeper::api::v1alpha1::DbPoolPolicy;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const CRD: &str = "dbpoolpolicies.poolkeeper.dev";

/// What an older CRD let in, each with the paths that are wrong by today's.
fn bad() -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let labels: BTreeMap<String, String> = (0..5000).map(|n| (format!("label-{n}"), "x".repeat(60))).collect();
    vec![
        (
            "objects-of-a-wrong-type",
            json!({ "database": "orders", "pool": { "size": "many" } }),
            vec!["spec.database", "spec.pool.size"],
        ),
        ("no-database", json!({ "preset": "Production" }), vec!["spec.database"]),
        ("unknown-word", json!({ "database": { "host": "h", "name": "d" }, "preset": "Huge" }), vec!["spec.preset"]),
        (
            "field-of-a-wrong-type",
            json!({ "database": { "host": "h", "name": "d" }, "timeouts": { "acquire": 30 } }),
            vec!["spec.timeouts.acquire"],
        ),
        (
            "bounds",
            json!({ "database": { "host": "h", "name": "d" }, "pool": { "size": 100_000 } }),
            vec!["spec.pool.size"],
        ),
        (
            "huge-selector",
            json!({ "database": { "host": "h", "name": "d" }, "selector": { "matchLabels": labels } }),
            vec!["spec.selector.matchLabels"],
        ),
    ]
}

/// A server with the CRD of another time: no rule for the spec at all.
async fn with_bad_objects(server: &ApiServer, namespace: &str) -> Client {
    let client = server.client().await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    let today = crds.get(CRD).await.unwrap();
    let mut older = today.clone();
    let schema = older.spec.versions[0].schema.as_mut().unwrap().open_api_v3_schema.as_mut().unwrap();
    *schema =
        serde_json::from_value(json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })).unwrap();
    crds.replace(CRD, &PostParams::default(), &older).await.unwrap();
    let any: Api<DynamicObject> = dynamic(&client, namespace);
    for (name, spec, _) in bad() {
        // The API server takes a moment to serve a changed CRD.
        let made = async {
            let object: DynamicObject = serde_json::from_value(json!({
                "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": name }, "spec": spec
            }))
            .unwrap();
            while any.create(&PostParams::default(), &object).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, made).await.unwrap_or_else(|_| panic!("{name} was not taken"));
    }
    let mut again = crds.get(CRD).await.unwrap();
    again.spec = today.spec;
    crds.replace(CRD, &PostParams::default(), &again).await.unwrap();
    // Today's rules hold again as soon as a new one like these is refused.
    let refused = async {
        let (_, spec, _) = bad().remove(1);
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": "late" }, "spec": spec
        }))
        .unwrap();
        while any.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.unwrap();
    client
}

fn dynamic(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<DbPoolPolicy>(&()))
}

fn good(name: &str) -> DbPoolPolicy {
    DbPoolPolicy::new(name, serde_json::from_value(json!({ "database": { "host": "h", "name": "d" } })).unwrap())
}

#[tokio::test]
async fn they_stop_no_watch_and_what_is_wrong_can_be_said() {
    let server = ApiServer::start();
    let namespace = server.namespace().await;
    let client = with_bad_objects(&server, &namespace).await;
    let policies: Api<DbPoolPolicy> = Api::namespaced(client.clone(), &namespace);
    policies.create(&PostParams::default(), &good("good")).await.unwrap();
    assert!(policies.list(&ListParams::default()).await.is_err(), "without a guard one bad object hides all");

    let guarded: Api<DeserializeGuard<DbPoolPolicy>> = Api::namespaced(client.clone(), &namespace);
    let mut watch = watcher(guarded, watcher::Config::default()).boxed();
    let mut seen = BTreeMap::new();
    tokio::time::timeout(PATIENCE, async {
        while !seen.contains_key("afterwards") {
            match watch.next().await.unwrap().unwrap() {
                watcher::Event::InitDone => {
                    policies.create(&PostParams::default(), &good("afterwards")).await.unwrap();
                }
                watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                    seen.insert(object.name_any(), object.0.is_ok());
                }
                _ => {}
            }
        }
    })
    .await
    .unwrap();
    assert_eq!((seen.len(), seen["good"], seen["afterwards"]), (bad().len() + 2, true, true));
    assert!(
        !seen["objects-of-a-wrong-type"]
            && !seen["no-database"]
            && !seen["unknown-word"]
            && !seen["field-of-a-wrong-type"]
    );
    // What our types can read is left to resolve.
    assert!(seen["bounds"] && seen["huge-selector"]);

    let any = dynamic(&client, &namespace);
    for (name, _, paths) in bad() {
        let object = any.get(name).await.unwrap();
        let problems = resolve::resolve_value(serde_json::to_value(&object).unwrap()).unwrap_err();
        let found: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(found, paths, "{name}");
        // The API server looks at what changes only, so a status can be written beside a wrong spec. But server-side apply must
        // know every type (500 else), and so must a rule that reads the field (422 else, however it is written): what cannot
        // be said in the status of those is left to an Event.
        let status = json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy", "metadata": { "name": name },
            "status": { "observedGeneration": object.metadata.generation, "conditions": [{
                "type": "Accepted", "status": "False", "reason": "Invalid", "message": problems[0].to_string(),
                "lastTransitionTime": "2026-01-01T00:00:00Z"
            }] }
        });
        let applied = any.patch_status(name, &PatchParams::apply("test").force(), &Patch::Apply(&status)).await;
        match applied {
            Ok(written) => assert_eq!(written.data["status"]["conditions"][0]["reason"], "Invalid", "{name}"),
            Err(kube::Error::Api(status)) => assert_eq!((name.ends_with("type"), status.code), (true, 500), "{status}"),
            Err(other) => panic!("{name}: {other}"),
        }
    }
    server.kubectl_ok(&["-n", &namespace, "get", "dbpool", "-o", "wide"]);
}
