//! Injection as a real API server sees it: it calls the webhooks over TLS, fills in its defaults, and enforces its own
//! Pod Security Standards on what comes back.

use super::support::webhook::{Known, Webhook, settings};
use super::support::{ApiServer, PATIENCE, apiserver::TestNamespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, PostParams};
use poolkeeper::operator::inject::{self, Ask, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, OnceLock};

mod reinvoked;
mod rights;
mod shapes;

/// An API server with the webhooks of `deploy/webhooks.yaml`.
struct World {
    server: ApiServer,
    known: Arc<Known>,
}

/// The one of this process; none on a cluster that can't reach this machine.
fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    let start = || {
        let server = ApiServer::start();
        if server.is_external() {
            eprintln!("skipped: the external cluster can't call a webhook on this machine");
            return None;
        }
        let known = Known::new();
        // It serves for as long as the process lives.
        let webhook = Box::leak(Box::new(Webhook::start(Arc::clone(&known) as _)));
        for manifest in manifests("deploy/webhooks.yaml") {
            apply(&server, &reachable(manifest, webhook));
        }
        Some(World { server, known })
    };
    WORLD.get_or_init(start).as_ref()
}

fn manifests(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// The configuration with the webhook's address in place of its Service's: there is no network of Services here.
fn reachable(mut configuration: Value, webhook: &Webhook) -> Value {
    let bundle = std::fs::read(webhook.certs.path("ca.crt")).unwrap();
    for hook in configuration["webhooks"].as_array_mut().unwrap() {
        let path = hook["clientConfig"]["service"]["path"].as_str().unwrap();
        let url = format!("https://127.0.0.1:{}{path}", webhook.port);
        hook["clientConfig"] = json!({ "url": url, "caBundle": k8s_openapi::ByteString(bundle.clone()) });
    }
    configuration
}

fn apply(server: &ApiServer, manifest: &Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), manifest.to_string()).unwrap();
    server.kubectl_ok(&["apply", "--server-side", "-f", file.path().to_str().unwrap()]);
}

impl World {
    async fn client(&self) -> Client {
        self.server.client().await
    }

    /// A namespace with a policy for pods labelled `app: orders`, and the webhooks in force.
    async fn namespace(&self) -> TestNamespace {
        let namespace = self.server.namespace().await;
        self.known.add(&json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
            "metadata": { "name": "orders", "namespace": &*namespace },
            "spec": {
                "selector": { "matchLabels": { "app": "orders" } },
                "database": { "host": "db", "name": "orders", "credentials": { "secretName": "orders-db" } },
            },
        }));
        // The API server reads its webhooks by a watch.
        let pods: Api<Pod> = Api::namespaced(self.client().await, &namespace);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let in_force = async {
            while !is_injected(&pods.create(&dry, &pod("probe", &[INJECT])).await.unwrap()) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, in_force).await.unwrap();
        namespace
    }

    fn label(&self, namespace: &str, label: &str) {
        self.server.kubectl_ok(&["label", "--overwrite", "namespace", namespace, label]);
    }
}

const INJECT: (&str, &str) = ("poolkeeper.dev/inject", "enabled");
const OPT_OUT: (&str, &str) = ("poolkeeper.dev/inject", "disabled");

fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
    let labels: serde_json::Map<_, _> = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let mut pod = json!({
        "metadata": { "name": name, "labels": labels },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    });
    pod["metadata"]["labels"]["app"] = "orders".into();
    serde_json::from_value(pod).unwrap()
}

fn is_injected(pod: &Pod) -> bool {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
    init.is_some_and(|init| init.first().is_some_and(|first| first.name == "poolkeeper"))
}

#[tokio::test]
async fn pods_ask_by_their_own_label_or_by_their_namespaces() {
    let Some(world) = world() else { return };
    let namespace = world.namespace().await;
    let pods: Api<Pod> = Api::namespaced(world.client().await, &namespace);
    let create = async |name: &str, labels: &[(&str, &str)]| {
        is_injected(&pods.create(&PostParams::default(), &pod(name, labels)).await.unwrap())
    };
    assert!(create("asks", &[INJECT]).await && !create("does-not", &[]).await && !create("says-no", &[OPT_OUT]).await);
    world.label(&namespace, "poolkeeper.dev/inject=enabled");
    // Namespaces' labels come by a watch, too.
    let seen = async {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        while !is_injected(&pods.create(&dry, &pod("probe", &[])).await.unwrap()) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.unwrap();
    assert!(create("asks-too", &[INJECT]).await && create("by-namespace", &[]).await);
    assert!(!create("says-no-there", &[OPT_OUT]).await);
}

#[tokio::test]
async fn the_clusters_own_namespaces_are_kept_out() {
    let Some(world) = world() else { return };
    world.namespace().await;
    for namespace in ["kube-system", "poolkeeper"] {
        let _ = world.server.kubectl(&["create", "namespace", namespace]);
        world.server.service_account(namespace, "default").await;
        world.label(namespace, "poolkeeper.dev/inject=enabled");
        let pods: Api<Pod> = Api::namespaced(world.client().await, namespace);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        for labels in [&[INJECT][..], &[]] {
            let made = pods.create(&dry, &pod("a", labels)).await.unwrap();
            assert!(!is_injected(&made), "{namespace} {labels:?}");
        }
    }
}

#[tokio::test]
async fn a_denial_is_a_sentence_and_warnings_are_shown() {
    let Some(world) = world() else { return };
    let namespace = world.namespace().await;
    let run = |arguments: &[&str]| {
        let mut all = vec!["-n", &*namespace, "run", "a", "--image=app", "--dry-run=server"];
        all.extend(arguments);
        let output = world.server.kubectl(&all);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (made, said) = run(&["--labels=poolkeeper.dev/inject=enabled,app=nobody"]);
    assert!(!made && said.contains("(Forbidden)") && said.contains("pods.inject.poolkeeper.dev"), "{said}");
    let sentence =
        format!("no DbPoolPolicy in namespace {} is for it (its labels: app=nobody): apply one", &*namespace);
    assert!(said.contains(&sentence), "{said}");
    let labels = "--labels=poolkeeper.dev/inject=enabled,app=orders";
    assert_eq!(run(&[labels]), (true, String::new()));
    let (made, said) = run(&[labels, r#"--overrides={"spec":{"terminationGracePeriodSeconds":5}}"#]);
    assert!(made && said.contains("Warning: terminationGracePeriodSeconds is 5"), "{said}");
}

#[tokio::test]
async fn policies_are_warned_about_refused_and_deleted() {
    let Some(world) = world() else { return };
    let namespace = world.namespace().await;
    let policy = |spec: &str| {
        let text = format!(
            "{{apiVersion: poolkeeper.dev/v1alpha1, kind: DbPoolPolicy, metadata: {{name: p, namespace: {}}}, spec: {spec}}}",
            &*namespace
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let output = world.server.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (taken, said) = policy("{database: {host: db, name: orders, tls: {mode: Require}}}");
    for words in ["Warning: spec.database.tls.mode: Require verifies nothing", "Warning: spec.database.credentials"] {
        assert!(taken && said.contains(words), "{said}");
    }
    let (taken, said) = policy("{database: {host: db, name: orders}, pool: {size: 2, minIdle: 5}}");
    assert!(!taken && said.contains("minIdle"), "{said}");
    world.server.kubectl_ok(&["-n", &namespace, "delete", "dbpool", "p"]);
}

/// The webhooks' certificates are good and nobody answers.
#[tokio::test]
async fn only_pods_that_ask_depend_on_the_webhook() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let mut webhook = Webhook::start(Known::new());
    webhook.stop();
    for mut manifest in manifests("deploy/webhooks.yaml") {
        manifest["metadata"]["name"] = format!("away-{}", &*namespace).into();
        for hook in manifest["webhooks"].as_array_mut().unwrap() {
            // This test's own namespace alone.
            let mut expressions = hook["namespaceSelector"]["matchExpressions"].as_array().cloned().unwrap_or_default();
            expressions
                .push(json!({ "key": "kubernetes.io/metadata.name", "operator": "In", "values": [&*namespace] }));
            hook["namespaceSelector"]["matchExpressions"] = expressions.into();
        }
        apply(server, &reachable(manifest, &webhook));
    }
    let pods: Api<Pod> = Api::namespaced(server.client().await, &namespace);
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let refused = async |labels: &[(&str, &str)]| {
        let refused = async {
            loop {
                match pods.create(&params, &pod("asks", labels)).await {
                    Err(error) => break error.to_string(),
                    Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, refused).await.unwrap()
    };
    let error = refused(&[INJECT]).await;
    assert!(error.contains("failed calling webhook \"pods.inject.poolkeeper.dev\""), "{error}");
    pods.create(&PostParams::default(), &pod("does-not", &[])).await.unwrap();
    pods.create(&PostParams::default(), &pod("says-no", &[OPT_OUT])).await.unwrap();
    pods.delete("does-not", &DeleteParams::default()).await.unwrap();
    server.kubectl_ok(&["label", "namespace", &namespace, "poolkeeper.dev/inject=enabled"]);
    let error = refused(&[]).await;
    assert!(error.contains("failed calling webhook \"namespaces.inject.poolkeeper.dev\""), "{error}");
    pods.create(&PostParams::default(), &pod("says-no-there", &[OPT_OUT])).await.unwrap();
    let policy = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
        "metadata": { "name": "p", "namespace": &*namespace }, "spec": { "database": { "host": "db", "name": "d" } },
    });
    apply(server, &policy);
    for kind in ["mutatingwebhookconfiguration", "validatingwebhookconfiguration"] {
        server.kubectl_ok(&["delete", kind, &format!("away-{}", &*namespace)]);
    }
}
