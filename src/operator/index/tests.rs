#![allow(clippy::unwrap_used)]
use serde_json::{Value, json};

use k8s_openapi::jiff::Timestamp;

use super::*;
use crate::api::resolve::resolve_value;

pub fn policy(name: &str, created: i64, generation: i64, spec: Value) -> Policy {
    let key = Key::new("shop", name);
    let document = json!({
        "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
        "metadata": { "name": name, "namespace": "shop", "generation": generation }, "spec": spec,
    });
    let selector = serde_json::from_value(spec["selector"].clone()).ok();
    let assign = |resolved| Assigned::new(key.clone(), format!("uid-{name}"), generation, resolved);
    let verdict = resolve_value(document).map(|resolved| Arc::new(assign(resolved)));
    let created = Timestamp::from_second(created).unwrap();
    Policy { uid: format!("uid-{name}"), key, created, generation, selector, verdict }
}

pub fn spec(app: &str, database: &str, size: i32) -> Value {
    json!({
        "selector": { "matchLabels": { "app": app } },
        "database": { "host": "db", "name": database, "credentials": { "secretName": "s" } },
        "pool": { "size": size },
    })
}

pub fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Pod { key: Key::new("shop", name), uid: format!("uid-{name}"), labels, ..Pod::default() }
}

fn told(index: &Index, name: &str) -> Vec<String> {
    let (_, told) = index.pod(&Key::new("shop", name)).unwrap();
    let show = |entry: &Entry| match entry {
        Entry::Run(assigned) => format!("{}@{}", assigned.key.name, assigned.generation),
        Entry::Keep { key, .. } => format!("keep {}", key.name),
    };
    told.iter().map(show).collect()
}

fn standing(index: &Index, name: &str) -> Standing {
    index.policy(&Key::new("shop", name)).unwrap().standing
}

fn names(keys: &BTreeSet<Key>) -> Vec<&str> {
    keys.iter().map(|key| key.name.as_str()).collect()
}

#[test]
fn a_policy_reaches_its_pods_and_no_others() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_pod(pod("b", &[("app", "bills")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    let changes = index.flush();
    assert_eq!((names(&changes.policies), names(&changes.pods)), (vec!["orders"], vec!["a", "b"]));
    assert_eq!((told(&index, "a"), told(&index, "b")), (vec!["orders@1".to_owned()], vec![]));
    let mut stream = index.subscribe(&Key::new("shop", "a"), "uid-a").unwrap();
    stream.borrow_and_update();
    index.apply_policy(policy("orders", 1, 2, spec("orders", "orders", 6)));
    let changes = index.flush();
    assert_eq!((names(&changes.policies), names(&changes.pods)), (vec!["orders"], vec!["a"]));
    assert!(stream.has_changed().unwrap());
    let pods = index.policy(&Key::new("shop", "orders")).unwrap().pods;
    assert_eq!(pods.iter().map(|(name, uid, _)| (name.as_str(), uid.as_str())).collect::<Vec<_>>(), [("a", "uid-a")]);
}

#[test]
fn what_is_the_same_wakes_nobody() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    index.flush();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    assert_eq!(index.flush(), Changes::default());
}

#[test]
fn a_label_names_the_only_policy() {
    let mut index = Index::default();
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    let mut none = spec("x", "other", 5);
    none.as_object_mut().unwrap().remove("selector");
    index.apply_policy(policy("other", 1, 1, none));
    index.apply_pod(pod("a", &[("app", "orders"), (POLICY, "other")]));
    index.apply_pod(pod("b", &[("app", "orders"), (POLICY, "nobody")]));
    index.flush();
    assert_eq!((told(&index, "a"), told(&index, "b")), (vec!["other@1".to_owned()], vec![]));
}

#[test]
fn of_two_for_one_name_the_older_wins() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("newer", 2, 1, spec("orders", "orders", 5)));
    index.flush();
    assert_eq!(told(&index, "a"), ["newer@1"]);
    // An older one takes the name; the pod that runs the newer is contested.
    index.apply_policy(policy("older", 1, 1, spec("orders", "orders", 9)));
    index.apply_pod(pod("b", &[("app", "orders")]));
    let changes = index.flush();
    assert_eq!(names(&changes.policies), ["newer", "older"]);
    let Standing::Conflicted(why) = standing(&index, "newer") else { panic!() };
    assert!(why.contains("older") && why.contains("spec.database.alias"), "{why}");
    assert_eq!(standing(&index, "older"), Standing::Accepted);
    assert_eq!(told(&index, "b"), ["older@1"]);
    assert_eq!(told(&index, "a"), ["older@1"], "a contested pod has the older");
    index.delete_policy(&Key::new("shop", "older"));
    index.flush();
    assert_eq!((standing(&index, "newer"), told(&index, "b")), (Standing::Accepted, vec!["newer@1".to_owned()]));
}

#[test]
fn a_policy_in_conflict_stays_where_it_runs_and_spreads_no_further() {
    let mut index = Index::default();
    let both = |tier: &str, created, name: &str| {
        let mut spec = spec("orders", "orders", 5);
        if !tier.is_empty() {
            spec["selector"] = json!({ "matchLabels": { "tier": tier } });
        }
        policy(name, created, 1, spec)
    };
    index.apply_policy(both("", 2, "newer"));
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.flush();
    index.apply_policy(both("web", 1, "older"));
    index.apply_pod(pod("contested", &[("app", "orders"), ("tier", "web")]));
    index.apply_pod(pod("late", &[("app", "orders")]));
    index.flush();
    assert_eq!(told(&index, "a"), ["keep newer"]);
    assert_eq!(told(&index, "contested"), ["older@1"]);
    assert_eq!(told(&index, "late"), Vec::<String>::new());
}

#[test]
fn an_invalid_policy_is_kept_by_those_that_run_it() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    index.flush();
    index.apply_policy(policy("orders", 1, 2, spec("orders", "orders", -5)));
    index.apply_pod(pod("b", &[("app", "orders")]));
    index.flush();
    assert!(matches!(standing(&index, "orders"), Standing::Invalid(problems) if problems[0].path == "spec.pool.size"));
    assert_eq!((told(&index, "a"), told(&index, "b")), (vec!["keep orders".to_owned()], vec![]));
    // A new leader has not given it to anybody, but hears who runs it.
    index.runs(&Key::new("shop", "b"), "uid-b", ["uid-orders".to_owned()]);
    index.runs(&Key::new("shop", "b"), "another pod", ["uid-x".to_owned()]);
    index.flush();
    assert_eq!(told(&index, "b"), ["keep orders"]);
}

#[test]
fn another_pod_of_the_same_name_has_a_stream_of_its_own() {
    let mut index = Index::default();
    let key = Key::new("shop", "a");
    index.apply_pod(pod("a", &[]));
    index.flush();
    let old = index.subscribe(&key, "uid-a").unwrap();
    assert!(index.subscribe(&key, "uid-b").is_none());
    index.apply_pod(Pod { uid: "uid-b".into(), ..pod("a", &[]) });
    index.flush();
    assert!(old.has_changed().is_err(), "the old pod's stream ends");
    assert!(index.subscribe(&key, "uid-a").is_none() && index.subscribe(&key, "uid-b").is_some());
    index.apply_pod(Pod { uid: "uid-b".into(), deleting: true, ..pod("a", &[]) });
    assert!(index.subscribe(&key, "uid-b").is_none(), "a pod that goes gets no new stream");
}

#[test]
fn what_a_full_list_lacks_is_gone() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_pod(pod("b", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    index.flush();
    index.retain_pods(&BTreeSet::from([Key::new("shop", "b")]));
    let changes = index.flush();
    assert_eq!((names(&changes.policies), names(&changes.pods)), (vec!["orders"], vec!["a"]));
    index.retain_policies(&BTreeSet::new());
    assert_eq!(names(&index.flush().pods), ["b"]);
    assert_eq!(told(&index, "b"), Vec::<String>::new());
}

#[test]
fn what_injection_would_give_a_pod() {
    let mut index = Index::default();
    index.apply_policy(policy("newer", 2, 1, spec("orders", "orders", 5)));
    index.apply_policy(policy("older", 1, 1, spec("orders", "orders", 5)));
    index.apply_policy(policy("other", 3, 1, spec("orders", "reports", 5)));
    index.flush();
    let labels = pod("a", &[("app", "orders")]).labels;
    let names: Vec<_> = index.matching("shop", &labels).iter().map(|policy| policy.key.name.clone()).collect();
    assert_eq!(names, ["older", "other"]);
}

#[test]
fn a_pod_that_goes_counts_no_more() {
    let mut index = Index::default();
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", 5)));
    index.flush();
    index.apply_pod(Pod { deleting: true, ..pod("a", &[("app", "orders")]) });
    assert_eq!(names(&index.flush().policies), ["orders"]);
    let view = index.policy(&Key::new("shop", "orders")).unwrap();
    assert_eq!(view.pods, []);
    assert_eq!(view.leaving[0].0, "a", "but it is there until it is gone");
    index.delete_pod(&Key::new("shop", "a"));
    assert_eq!(names(&index.flush().policies), ["orders"]);
    assert_eq!(index.policy(&Key::new("shop", "orders")).unwrap().leaving, []);
}

#[test]
fn what_a_sidecar_makes_up_is_not_remembered() {
    let (mut index, key) = (Index::default(), Key::new("shop", "a"));
    index.apply_pod(pod("a", &[("app", "orders")]));
    index.apply_policy(policy("orders", 1, 1, spec("orders", "orders", -5)));
    index.flush();
    index.runs(&key, "uid-a", (0..1_000).map(|n| n.to_string()));
    let runs = &index.namespaces["shop"].pods["a"].runs;
    assert!(runs.is_empty(), "{runs:?}");
    index.runs(&key, "uid-a", ["uid-orders".to_owned()]);
    index.flush();
    assert_eq!(told(&index, "a"), ["keep orders"]);
}
