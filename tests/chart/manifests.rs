//! What is rendered is what a real API server takes, field for field.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::helm::{documents, file, template};
use super::support::ApiServer;

/// kubectl refuses fields that the server does not know.
const DRY: [&str; 4] = ["apply", "--server-side", "--dry-run=server", "--force-conflicts"];

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn make_namespace(server: &ApiServer, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "pod-security.kubernetes.io/enforce": "restricted" } },
    });
    let path = write(folder.path(), "namespace.json", &namespace.to_string());
    server.kubectl_ok(&["apply", "--server-side", "-f", &path]);
}

/// `kubectl apply -f deploy/`, as docs/install.md has it; a second time, too.
#[test]
fn the_plain_manifests_are_applied_by_one_command() {
    let server = ApiServer::start();
    if server.is_external() {
        eprintln!("skipped: not on a cluster of somebody's own");
        return;
    }
    let paths = ["crds/", "deploy/"].map(|path| file(path).to_str().unwrap().to_owned());
    for _ in 0..2 {
        server.kubectl_ok(&["apply", "--server-side", "-f", &paths[0], "-f", &paths[1], "--force-conflicts"]);
    }
    for namespace in ["shop", "orders"] {
        make_namespace(&server, namespace);
    }
    for samples in ["deploy/policies", "deploy/samples"] {
        let said = server.kubectl_ok(&[&DRY[..], &["-f", file(samples).to_str().unwrap()]].concat());
        assert!(said.contains("dbpoolpolicy"), "{said}");
    }
    let kinds = "deployments,poddisruptionbudgets,services,serviceaccounts,roles,rolebindings";
    let there = server.kubectl_ok(&["-n", "poolkeeper", "get", kinds, "-o", "name"]);
    assert_eq!(there.lines().count(), 8, "{there}");
}

/// With prometheus-operator's CRDs there, which check what is for it.
#[test]
fn the_api_server_takes_everything_that_is_rendered() {
    let server = ApiServer::shared();
    let folder = tempfile::tempdir().unwrap();
    if !server.is_external() {
        server.kubectl_ok(&["apply", "--server-side", "-f", file("tests/chart/crds").to_str().unwrap()]);
        let all = ["podmonitors", "prometheusrules", "servicemonitors"]
            .map(|name| format!("crd/{name}.monitoring.coreos.com"));
        let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
        server.kubectl_ok(&[&wait[..], &all.each_ref().map(String::as_str)].concat());
    }
    make_namespace(server, "poolkeeper");
    for name in ["default", "everything", "minimal"] {
        let rendered = template(&["--values", &format!("tests/golden/chart/{name}.values.yaml")]).unwrap();
        let path = write(folder.path(), &format!("{name}.yaml"), &rendered);
        server.kubectl_ok(&[&DRY[..], &["-f", &path]].concat());
        pod_is_restricted(server, folder.path(), &rendered);
    }
}

/// The operator's own pod, in a namespace where the restricted Pod Security Standard is enforced.
fn pod_is_restricted(server: &ApiServer, folder: &Path, rendered: &str) {
    let all = documents(rendered);
    let deployment = all.iter().find(|document| document["kind"] == "Deployment").unwrap();
    let mut pod = deployment["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "operator".into();
    pod["metadata"]["namespace"] = "poolkeeper".into();
    let account: Value = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": { "name": pod["spec"]["serviceAccountName"], "namespace": "poolkeeper" },
    });
    let account = write(folder, "account.json", &account.to_string());
    server.kubectl_ok(&["apply", "--server-side", "-f", &account]);
    let path = write(folder, "pod.json", &pod.to_string());
    server.kubectl_ok(&["create", "--dry-run=server", "-f", &path]);
}
