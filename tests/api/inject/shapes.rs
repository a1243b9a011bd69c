//! The golden pods on a real API server.

use super::*;

/// The pods of the golden files that get a sidecar, without what only the test's own server can have.
fn injected_shapes(namespace: &str, known: &Known) -> Vec<(String, Value)> {
    let mut files: Vec<_> =
        std::fs::read_dir("tests/golden/inject").unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let mut shapes = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let mut documents = serde_yaml::Deserializer::from_str(&text).map(|d| Value::deserialize(d).unwrap());
        let (mut pod, after) = (documents.next().unwrap(), documents.next().unwrap());
        // Asked for by the namespace, of a later version, or with a projected token of an older cluster's.
        if after["pod"].is_null() || text.contains("# with: ") || name == "unknown-fields" {
            continue;
        }
        pod["metadata"]["namespace"] = namespace.into();
        // A controller that is not there would have its pods removed.
        pod["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        shapes.push((name, pod));
    }
    for policy in manifests("tests/inject/policies.yaml") {
        let mut policy = policy;
        policy["metadata"]["namespace"] = namespace.into();
        policy["metadata"]["uid"] = format!("{namespace}-{}", policy["metadata"]["name"]).into();
        known.add(&policy);
    }
    shapes
}

async fn create(client: &Client, namespace: &str, pod: &Value) -> Result<Value, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod.clone()).unwrap()).await?;
    let mut made = serde_json::to_value(&made).unwrap();
    made.as_object_mut().unwrap().remove("status");
    Ok(made)
}

/// What the webhook would do to a pod as the API server holds it.
fn inject_again(known: &Known, namespace: &str, pod: &Value) -> Value {
    let labels = inject::labels(pod);
    let policies = known.index().matching(namespace, &labels);
    let withheld = known.index().withheld(namespace, &labels);
    let ask = Ask { namespace, namespace_asks: false, policies: &policies, withheld: &withheld };
    match inject::inject(pod, &ask, &settings()) {
        Verdict::Inject(injected) => injected.pod,
        other => panic!("{other:?}"),
    }
}

fn named<'a>(items: &'a Value, name: &str) -> &'a Value {
    items.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap()
}

#[tokio::test]
async fn every_shape_is_taken_and_nothing_is_left_to_do() {
    let Some(world) = world() else { return };
    let (namespace, client) = (world.namespace().await, world.client().await);
    let shapes = injected_shapes(&namespace, &world.known);
    assert!(shapes.len() >= 20, "{}", shapes.len());
    for (name, pod) in shapes {
        let made = create(&client, &namespace, &pod).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        // The API server has filled in its defaults: nothing of ours may look unfinished to it, or to us.
        let again = inject_again(&world.known, &namespace, &made);
        let patch = json_patch::diff(&made, &again);
        assert!(patch.is_empty(), "{name}: {patch}");
        let sidecar = &made["spec"]["initContainers"][0];
        let mounts: Vec<_> = sidecar["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["name"]).collect();
        assert!(
            mounts.iter().all(|mount| mount.as_str().unwrap().starts_with("poolkeeper-")),
            "{name}: no token for the API server: {mounts:?}"
        );
        let expected = inject_again(&world.known, &namespace, &pod);
        let ours = &expected["spec"]["initContainers"][0];
        let added = json_patch::diff(ours, sidecar);
        assert!(added.is_empty(), "{name}: the API server adds nothing to what we write: {added}");
        for volume in expected["spec"]["volumes"].as_array().unwrap() {
            let name = volume["name"].as_str().unwrap();
            if name.starts_with("poolkeeper-") {
                assert_eq!(named(&made["spec"]["volumes"], name), volume);
            }
        }
    }
}

/// `kubectl get -o yaml` of an injected pod, created again under another name.
#[tokio::test]
async fn a_pod_made_from_an_injected_one_is_the_same() {
    let Some(world) = world() else { return };
    let (namespace, client) = (world.namespace().await, world.client().await);
    let first = create(&client, &namespace, &serde_json::to_value(pod("a", &[INJECT])).unwrap()).await.unwrap();
    let mut copy = first.clone();
    copy["metadata"] =
        json!({ "name": "b", "labels": first["metadata"]["labels"], "annotations": first["metadata"]["annotations"] });
    let second = create(&client, &namespace, &copy).await.unwrap();
    assert_eq!(second["spec"], first["spec"]);
    assert_eq!(second["metadata"]["annotations"], first["metadata"]["annotations"]);
    // A change of the pod does not ask the webhook, and changes nothing else.
    world.server.kubectl_ok(&["-n", &namespace, "label", "pod", "a", "tier=web"]);
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let changed = serde_json::to_value(pods.get("a").await.unwrap()).unwrap();
    assert_eq!(changed["spec"], first["spec"]);
}

fn restricted() -> Value {
    json!({ "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        "seccompProfile": { "type": "RuntimeDefault" } })
}

#[tokio::test]
async fn a_restricted_namespace_takes_injected_pods() {
    let Some(world) = world() else { return };
    let (namespace, client) = (world.namespace().await, world.client().await);
    for mode in ["enforce", "enforce-version"] {
        let value = if mode == "enforce" { "restricted" } else { "latest" };
        world.label(&namespace, &format!("pod-security.kubernetes.io/{mode}={value}"));
    }
    // The plugin reads labels by a watch: from here on it is in force.
    let bad = serde_json::to_value(pod("bad", &[])).unwrap();
    let in_force = async {
        let mut number = 0;
        loop {
            let mut bad = bad.clone();
            bad["metadata"]["name"] = format!("bad-{number}").into();
            number += 1;
            match create(&client, &namespace, &bad).await {
                Err(error) => break error.to_string(),
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, in_force).await.unwrap();
    assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
    let mut taken = 0;
    for (name, mut pod) in injected_shapes(&namespace, &world.known) {
        // Nobody may have the node's network there; whatever else the user's part breaks is mended.
        if pod["spec"]["hostNetwork"] == true {
            continue;
        }
        for kind in ["initContainers", "containers"] {
            for container in pod["spec"][kind].as_array_mut().into_iter().flatten() {
                container["securityContext"] = restricted();
                container["securityContext"]["runAsUser"] = 1000.into();
            }
        }
        let root = pod["spec"]["securityContext"]["runAsUser"] == 0;
        let made = create(&client, &namespace, &pod).await;
        if root {
            // A pod-level uid of 0 is refused for itself, and for nothing of the sidecar's.
            let error = made.unwrap_err().to_string();
            assert!(
                error.contains("runAsUser=0 (pod must not set runAsUser=0)") && !error.contains("poolkeeper\""),
                "{error}"
            );
            continue;
        }
        let made = made.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(made["spec"]["initContainers"][0]["name"], "poolkeeper", "{name}");
        taken += 1;
    }
    assert!(taken >= 15, "{taken}");
}
