//! Pods of every shape get a sidecar that serves.

use kube::ResourceExt;
use serde_json::{Value, json};

use super::app::{Load, template};
use super::database::Database;
use super::world::World;

/// Each by its name, as it differs from the template.
fn shapes() -> Vec<(&'static str, Value)> {
    let shape = |name, change: &dyn Fn(&mut Value)| {
        let mut template = template("orders", &[("CLIENTS", "2"), ("PAUSE_MS", "20")]);
        template["metadata"]["name"] = json!(name);
        template["metadata"]["labels"]["shape"] = json!(name);
        change(&mut template);
        (name, template)
    };
    vec![
        shape("host-network", &|pod| {
            pod["spec"]["hostNetwork"] = json!(true);
            // Else it asks the node's name servers, which don't know where the operator is.
            pod["spec"]["dnsPolicy"] = json!("ClusterFirstWithHostNet");
            // Its host's name would be the node's.
            let more = [("LISTEN", "0.0.0.0:18080"), ("HOSTNAME", "host-network")];
            let environment = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
            environment.extend(more.map(|(name, value)| json!({ "name": name, "value": value })));
            pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"] = json!(18080);
        }),
        shape("root", &|pod| {
            pod["spec"]["securityContext"] = json!({ "runAsUser": 0 });
        }),
        shape("guaranteed", &|pod| {
            let resources = json!({ "cpu": "50m", "memory": "64Mi" });
            pod["spec"]["containers"][0]["resources"] = json!({ "requests": resources, "limits": resources });
        }),
        shape("two-containers", &|pod| {
            let mut second = pod["spec"]["containers"][0].clone();
            second["name"] = json!("second");
            second["readinessProbe"]["httpGet"]["port"] = json!(8081);
            let more = [("LISTEN", "0.0.0.0:8081"), ("HOSTNAME", "second")];
            second["env"]
                .as_array_mut()
                .unwrap()
                .extend(more.map(|(name, value)| json!({ "name": name, "value": value })));
            pod["spec"]["containers"].as_array_mut().unwrap().push(second);
        }),
    ]
}

#[tokio::test]
async fn each_is_injected_and_serves() {
    let Some(world) = World::new().await else { return };
    let database = Database::start(world.node);
    // hostNetwork and root are not restricted.
    let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged" });
    let namespace = json!({ "name": world.namespace, "labels": labels });
    world.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": namespace })).await;
    world.secret("orders-db", database.credentials()).await;
    world.secret("orders-db-ca", database.authority()).await;
    world.policy("orders", &database.policy("orders")).await;
    let mut count = 0;
    for (_, mut pod) in shapes() {
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        world.apply(pod).await;
        count += 1;
    }
    let mut daemons = template("orders", &[("CLIENTS", "2")]);
    daemons["metadata"]["labels"]["shape"] = json!("daemon");
    world
        .apply(json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "daemon" },
            "spec": { "selector": { "matchLabels": { "shape": "daemon" } }, "template": daemons },
        }))
        .await;
    let pods = world.until_ready("orders", count + 1).await;
    for pod in &pods {
        let sidecar = &pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap()[0];
        assert_eq!((sidecar.name.as_str(), sidecar.restart_policy.as_deref()), ("poolkeeper", Some("Always")));
        world.until_pod(&pod.name_any(), "PoolConfigured=True/Applied").await;
        world.until_pod(&pod.name_any(), "PoolHealthy=True/Connected").await;
    }
    let named = |name: &str| pods.iter().find(|pod| pod.name_any() == name).unwrap();
    assert_eq!(named("guaranteed").status.as_ref().unwrap().qos_class.as_deref(), Some("Guaranteed"));
    let served = pods.iter().filter(|pod| pod.name_any() != "host-network").cloned().collect();
    Load::of(served).await.unharmed().await;
    // Its counters are at another port; what it has committed is in its ledger.
    for account in ["host-network-0", "second-0"] {
        super::world::eventually(account, async || {
            database.count(&format!("SELECT count(*) FROM ledger WHERE account LIKE '%{account}'")) == 1
        })
        .await;
    }
    world.until("orders", &["Programmed=True/AllPodsApplied", "Ready=True/Ready"]).await;
    assert_eq!(world.restarts().await, 0);
}
