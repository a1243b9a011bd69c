//! values.yaml, its schema and the README's table say the same, and what is wrong is refused by name.

use std::fs;

use serde_json::{Value, json};

use super::helm::{documents, file, read, template};

/// A value of the chart: where it stands, what it means, and its default.
struct Leaf {
    path: String,
    meaning: String,
    default: Value,
}

/// Every value that the schema knows, by name.
fn leaves(schema: &Value, defaults: &Value, path: &str, found: &mut Vec<Leaf>) {
    let Some(properties) = schema["properties"].as_object() else {
        let meaning = schema["description"].as_str().unwrap_or_else(|| panic!("{path} has no description"));
        let default = defaults.clone();
        found.push(Leaf { path: path.into(), meaning: meaning.replace('|', "\\|"), default });
        return;
    };
    for (name, below) in properties {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        // What a parent chart gives to all of its charts.
        if path != "global" {
            let default = defaults.get(name).unwrap_or_else(|| panic!("values.yaml has no {path}"));
            leaves(below, default, &path, found);
        }
    }
    for name in defaults.as_object().unwrap().keys() {
        assert!(properties.contains_key(name), "values.schema.json has no {path}.{name}");
    }
}

fn table() -> String {
    let schema: Value = serde_json::from_str(&read("charts/poolkeeper/values.schema.json")).unwrap();
    let defaults = documents(&read("charts/poolkeeper/values.yaml")).remove(0);
    let mut found = Vec::new();
    leaves(&schema, &defaults, "", &mut found);
    let row = |leaf: &Leaf| {
        let default = match &leaf.default {
            Value::String(text) if text.is_empty() => "".into(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        format!("| `{}` | {} | {default} |\n", leaf.path, leaf.meaning)
    };
    let rows: String = found.iter().map(row).collect();
    format!("| Value | Meaning | Default |\n|---|---|---|\n{rows}")
}

/// `POOLKEEPER_BLESS=1 cargo test --test chart values` writes it.
#[test]
fn the_readmes_table_has_every_value_with_its_default() {
    let readme = read("charts/poolkeeper/README.md");
    let (begin, end) = ("<!-- values:begin -->\n", "<!-- values:end -->");
    let (before, rest) = readme.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let wanted = format!("{before}{begin}{}{end}{after}", table());
    if std::env::var_os("POOLKEEPER_BLESS").is_some() {
        fs::write(file("charts/poolkeeper/README.md"), &wanted).unwrap();
        return;
    }
    assert!(readme == wanted, "the table of values is stale: POOLKEEPER_BLESS=1 cargo test --test chart values");
}

#[test]
fn wrong_values_are_refused_by_name() {
    let cases = [
        ("imag.tag=1", "'imag' not allowed"),
        ("image.tagg=1", "at '/image': additional properties 'tagg' not allowed"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy'"),
        ("image.repository=", "at '/image/repository'"),
        ("image.digest=sha256:12", "at '/image/digest'"),
        ("image.pullSecrets={a}", "at '/image/pullSecrets/0'"),
        ("sidecar.resources.limits.cpu=lots", "at '/sidecar/resources/limits/cpu'"),
        ("sidecar.resources.requests.gpu=1", "'gpu' not allowed"),
        ("replicas=two", "at '/replicas'"),
        ("replicas=-1", "at '/replicas'"),
        ("resources.requests.memory=1Zi", "at '/resources/requests/memory'"),
        ("logLevel=", "at '/logLevel'"),
        ("logFormat=xml", "at '/logFormat'"),
        ("labels.a=1", "at '/labels/a'"),
        ("podDisruptionBudget.enabled=maybe", "at '/podDisruptionBudget/enabled'"),
        ("crds.keep=false", "at '/crds': additional properties 'keep' not allowed"),
        ("webhooks.timeoutSeconds=31", "at '/webhooks/timeoutSeconds'"),
        ("webhooks.failurePolicy=Ignore", "'failurePolicy' not allowed"),
        ("webhooks.excludedNamespaces={Upper}", "at '/webhooks/excludedNamespaces/0'"),
        ("networkPolicy.apiServer.ports={0}", "at '/networkPolicy/apiServer/ports/0'"),
        ("networkPolicy.apiServer.cidrs={10.0.0.1}", "at '/networkPolicy/apiServer/cidrs/0'"),
        ("monitoring.podMonitor.interval=often", "at '/monitoring/podMonitor/interval'"),
    ];
    for (value, wanted) in cases {
        let said = template(&["--set", value]).expect_err(value);
        assert!(said.contains(wanted), "{value}: {said}");
    }
}

/// What the operator is told of sidecars, by their values.
#[test]
fn images_and_resources_reach_the_operator() {
    let env = |options: &[&str]| {
        let rendered = documents(&template(options).unwrap());
        let pod = rendered.iter().find(|document| document["kind"] == "Deployment").unwrap();
        let container = pod["spec"]["template"]["spec"]["containers"][0].clone();
        let mut found: Vec<_> = ["POOLKEEPER_IMAGE", "POOLKEEPER_IMAGE_PULL_POLICY"]
            .map(|name| {
                let all = container["env"].as_array().unwrap();
                all.iter().find(|env| env["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
            })
            .into();
        found.insert(0, container["image"].as_str().unwrap().to_owned());
        (found, container)
    };
    let digest = format!("sha256:{:064}", 0);
    let set = |value: &str| value.replace("DIGEST", &digest);
    let cases = [
        (vec!["image.tag=7"], ["localhost/poolkeeper:7", "localhost/poolkeeper:7", "IfNotPresent"]),
        (vec!["image.digest=DIGEST"], ["localhost/poolkeeper@DIGEST", "localhost/poolkeeper@DIGEST", "IfNotPresent"]),
        // A mirror has the same image.
        (
            vec!["image.digest=DIGEST", "sidecar.image.repository=mirror/p"],
            ["localhost/poolkeeper@DIGEST", "mirror/p@DIGEST", "IfNotPresent"],
        ),
        // Sidecars of another version than the operator's.
        (
            vec!["image.digest=DIGEST", "sidecar.image.tag=6", "sidecar.image.pullPolicy=Always"],
            ["localhost/poolkeeper@DIGEST", "localhost/poolkeeper:6", "Always"],
        ),
    ];
    for (values, wanted) in cases {
        let values: Vec<_> = values.into_iter().flat_map(|value| ["--set-string".to_owned(), set(value)]).collect();
        let values: Vec<_> = values.iter().map(String::as_str).collect();
        assert_eq!(env(&values).0, wanted.map(set), "{values:?}");
    }
    let (_, container) = env(&["--set", "sidecar.resources.limits.memory=1Gi,sidecar.resources.requests.cpu=null"]);
    let all = container["env"].as_array().unwrap();
    let told = all.iter().find(|env| env["name"] == "POOLKEEPER_SIDECAR_RESOURCES").unwrap()["value"].as_str().unwrap();
    let wanted = json!({
        "requests": { "memory": "32Mi" }, "limits": { "memory": "1Gi" }, "guaranteed": { "cpu": "250m", "memory": "256Mi" },
    });
    assert_eq!(serde_json::from_str::<Value>(told).unwrap(), wanted);
    // The operator itself reads it.
    let operator: poolkeeper::operator::inject::Resources = serde_json::from_str(told).unwrap();
    assert_eq!(operator.limits["memory"].0, "1Gi");
}

/// Without an own word in the values, pods get what injection has by default.
#[test]
fn the_charts_resources_are_injections_own() {
    let defaults = documents(&read("charts/poolkeeper/values.yaml")).remove(0);
    let of = |value: &Value| serde_json::from_value::<poolkeeper::operator::inject::Resources>(value.clone()).unwrap();
    assert_eq!(of(&defaults["sidecar"]["resources"]), poolkeeper::operator::inject::Resources::default());
}
