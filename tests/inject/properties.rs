//! What holds for any pod.

use k8s_openapi::api::core::v1::Pod;
use poolkeeper::operator::inject::Verdict;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::pss;
use crate::support::webhook::settings;
use crate::world::inject_into;

fn some(name: &'static str, value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Value> {
    option::of(value).prop_map(move |value| value.map_or(json!({}), |value| json!({ name: value }))).boxed()
}

/// Objects made one.
fn merged(parts: Vec<BoxedStrategy<Value>>) -> impl Strategy<Value = Value> {
    parts.prop_map(|parts| {
        let objects = parts.into_iter().filter_map(|part| if let Value::Object(map) = part { Some(map) } else { None });
        Value::Object(objects.flatten().collect::<Map<_, _>>())
    })
}

fn amounts() -> impl Strategy<Value = Value> {
    merged(vec![some("cpu", select(vec!["1", "100m"]).prop_map(Value::from)), some("memory", Just(json!("1Gi")))])
}

fn resources() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({ "limits": { "cpu": "1", "memory": "1Gi" } })),
        Just(json!({ "limits": { "cpu": "1", "memory": "1Gi" }, "requests": { "cpu": "1", "memory": "1Gi" } })),
        merged(vec![some("limits", amounts()), some("requests", amounts())]),
    ]
}

fn security() -> impl Strategy<Value = Value> {
    merged(vec![
        some("runAsUser", select(vec![0, 1000]).prop_map(Value::from)),
        some("runAsNonRoot", any::<bool>().prop_map(Value::from)),
        some("fsGroup", Just(json!(2000))),
        some("seccompProfile", Just(json!({ "type": "Unconfined" }))),
    ])
}

/// Names and paths that injection uses are among them.
fn mount() -> impl Strategy<Value = Value> {
    let paths =
        vec!["/data", "/run", "/run/poolkeeper", "/run/poolkeeper/", "/var/lib/poolkeeper", "/var/run/postgresql"];
    (select(vec!["data", "tmp", "poolkeeper-socket"]), select(paths), any::<bool>())
        .prop_map(|(name, path, only)| json!({ "name": name, "mountPath": path, "readOnly": only }))
}

fn container(name: String) -> impl Strategy<Value = Value> {
    let variable =
        select(vec!["PGHOST", "PGPORT", "A", "B"]).prop_map(|name| json!({ "name": name, "value": "theirs" }));
    let port = select(vec![80, 6432, 9432]).prop_map(|port| json!({ "containerPort": port }));
    let mut parts = vec![
        Just(json!({ "name": name, "image": "app" })).boxed(),
        some("env", vec(variable, 0..3).prop_map(Value::from)),
        some("ports", vec(port, 0..2).prop_map(Value::from)),
        some("volumeMounts", vec(mount(), 0..3).prop_map(Value::from)),
        some("resources", resources()),
        some("securityContext", security()),
        some("futureField", Just(json!({ "a": [1, { "b": null }] }))),
    ];
    if name.starts_with("init") {
        parts.push(some("restartPolicy", Just(json!("Always"))));
    }
    merged(parts)
}

fn containers(kind: &'static str, least: usize) -> impl Strategy<Value = Value> {
    (least..4_usize).prop_flat_map(move |count| {
        (0..count).map(|number| container(format!("{kind}-{number}"))).collect::<Vec<_>>().prop_map(Value::from)
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let labels = ["app", "audited", "elsewhere", "contested", "tier"];
    let labels = btree_map(select(labels.to_vec()), select(vec!["orders", "yes", "no-port", "no-socket"]), 0..5);
    let volume = select(vec!["data", "tmp"]).prop_map(|name| json!({ "name": name, "emptyDir": {} }));
    let annotations = merged(vec![
        some("poolkeeper.dev/credentials", select(vec!["orders-db", "a, b", "", "B"]).prop_map(Value::from)),
        some("poolkeeper.dev/inject-env", select(vec!["PGHOST", "PGHOST,PGPORT", "X"]).prop_map(Value::from)),
        some("theirs", Just(json!("x"))),
    ]);
    let spec = merged(vec![
        containers("app", 1).prop_map(|containers| json!({ "containers": containers })).boxed(),
        some("initContainers", containers("init", 0)),
        some("volumes", vec(volume, 0..3).prop_map(Value::from)),
        some("hostNetwork", any::<bool>().prop_map(Value::from)),
        some("securityContext", security()),
        some("resources", resources()),
        some("terminationGracePeriodSeconds", select(vec![0, 30, 60]).prop_map(Value::from)),
        some("futureField", Just(json!([1]))),
    ]);
    (labels, some("annotations", annotations), spec).prop_map(|(labels, annotations, spec)| {
        let mut labels: Map<String, Value> =
            labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        labels.insert("poolkeeper.dev/inject".into(), "enabled".into());
        let mut metadata = json!({ "name": "pod", "namespace": "shop", "labels": labels, "future": 7 });
        metadata.as_object_mut().unwrap().extend(annotations.as_object().unwrap().clone());
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    })
}

/// Whether all of `before` is in `after`: objects by key, lists in their order, with others between them at most.
fn is_within(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.iter().all(|(key, value)| after.get(key).is_some_and(|after| is_within(value, after)))
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            before.iter().all(|item| rest.any(|after| after["name"] == item["name"] && is_within(item, after)))
        }
        (before, after) => before == after,
    }
}

/// Quality of service, as the kubelet's own rules have it.
fn is_guaranteed(pod: &Value) -> bool {
    let all = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|kind| pod["spec"][kind].as_array().into_iter().flatten());
    let fits = |resources: &Value| {
        ["cpu", "memory"].into_iter().all(|name| {
            let (limit, request) = (&resources["limits"][name], &resources["requests"][name]);
            !limit.is_null() && (request.is_null() || request == limit)
        })
    };
    match &pod["spec"]["resources"] {
        Value::Null => all.into_iter().all(|container| fits(&container["resources"])),
        whole => fits(whole),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_pod_keeps_what_is_its_own(pod in pod(), namespace_asks: bool) {
        let Verdict::Inject(injected) = inject_into(&pod, namespace_asks, &settings()) else { return Ok(()) };
        prop_assert!(is_within(&pod, &injected.pod), "{:#}\nbecame\n{:#}", pod, injected.pod);
        prop_assert_eq!(&injected.pod["spec"]["initContainers"][0]["name"], "poolkeeper");
        prop_assert_eq!(pss::sidecar(&injected.pod), Vec::<String>::new());
        prop_assert_eq!(is_guaranteed(&pod), is_guaranteed(&injected.pod));
        serde_json::from_value::<Pod>(injected.pod.clone()).unwrap();

        let again = inject_into(&injected.pod, namespace_asks, &settings());
        prop_assert_eq!(&again, &Verdict::Inject(injected.clone()), "twice is once");

        // Without what has our names it is what it was.
        let mut bare = injected.pod;
        let ours = |value: &Value| value["name"].as_str().is_some_and(|name| name.starts_with("poolkeeper"));
        for list in ["initContainers", "volumes"] {
            let items = bare["spec"][list].as_array_mut().unwrap();
            items.retain(|item| !ours(item));
            let none = items.is_empty() && pod["spec"][list].is_null();
            if none { bare["spec"].as_object_mut().unwrap().remove(list); }
        }
        prop_assert_eq!(bare["spec"]["volumes"].clone(), pod["spec"]["volumes"].clone());
        for (key, value) in pod["spec"].as_object().unwrap() {
            if !["containers", "initContainers", "volumes"].contains(&key.as_str()) {
                prop_assert_eq!(&bare["spec"][key], value);
            }
        }
        let count = |pod: &Value, list: &str| pod["spec"][list].as_array().map_or(0, Vec::len);
        for list in ["initContainers", "containers"] {
            prop_assert_eq!(count(&bare, list), count(&pod, list));
        }
    }
}
