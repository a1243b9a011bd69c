//! A life of the chart on a real API server: installed, upgraded, taken away, installed again, purged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::helm::{self, file, read};
use super::support::{ApiServer, eventually};

const CRD: &str = "crd/dbpoolpolicies.poolkeeper.dev";

/// An API server without anything of ours, and helm for it.
struct Cluster {
    server: ApiServer,
    home: tempfile::TempDir,
}

impl Cluster {
    /// None on a cluster of somebody's own, which must not lose its policies.
    fn new() -> Option<Self> {
        let controllers = "namespace-controller,clusterrole-aggregation-controller";
        let server = ApiServer::start_with(&["--controllers", controllers]);
        if server.is_external() {
            eprintln!("skipped: not on a cluster of somebody's own");
            return None;
        }
        server.kubectl_ok(&["delete", CRD]);
        Some(Self { server, home: tempfile::tempdir().unwrap() })
    }

    #[track_caller]
    fn helm(&self, arguments: &[&str]) -> String {
        let all = [arguments, &["--namespace", "poolkeeper"]].concat();
        let out = helm::run(self.home.path(), Some(self.server.kubeconfig()), &all);
        assert!(out.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[track_caller]
    fn get(&self, what: &[&str]) -> Value {
        let text = self.server.kubectl_ok(&[&["get", "-o", "json"], what].concat());
        serde_json::from_str(&text).unwrap()
    }

    /// Names of everything of ours that there is, policies and what the operator made for itself aside.
    fn ours(&self) -> Vec<String> {
        let kinds = "deployments,poddisruptionbudgets,services,serviceaccounts,roles,rolebindings,clusterroles,\
                     clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,crds,configmaps";
        let ours = "app.kubernetes.io/name=poolkeeper";
        let found = self.server.kubectl_ok(&["get", kinds, "--all-namespaces", "-l", ours, "-o", "name"]);
        found.lines().map(str::to_owned).collect()
    }
}

/// The chart as it was released last, else this one as if it had been: an older version whose CRD lacks a field and whose
/// operator had other rights.
fn previous(folder: &Path) -> PathBuf {
    let git = |arguments: &[&str]| Command::new("git").current_dir(file("")).args(arguments).output().unwrap();
    let tags = git(&["tag", "--list", "v*", "--sort=-version:refname", "--merged"]);
    let released = String::from_utf8(tags.stdout).unwrap();
    let current = format!("v{}", env!("CARGO_PKG_VERSION"));
    let chart = folder.join("charts/poolkeeper");
    if let Some(tag) = released.lines().find(|tag| *tag != current) {
        let archive = git(&["archive", "--output", folder.join("old.tar").to_str().unwrap(), tag, "charts"]);
        assert!(archive.status.success(), "{archive:?}");
        let tar = Command::new("tar").current_dir(folder).args(["-xf", "old.tar"]).status().unwrap();
        assert!(tar.success());
        return chart;
    }
    fs::create_dir_all(chart.parent().unwrap()).unwrap();
    let copy = Command::new("cp").arg("-r").arg(file("charts/poolkeeper")).arg(&chart).status().unwrap();
    assert!(copy.success());
    let change = |path: &str, from: &str, to: &str| {
        let text = read(&format!("charts/poolkeeper/{path}"));
        assert!(text.contains(from), "{path} has no {from}");
        fs::write(chart.join(path), text.replace(from, to)).unwrap();
    };
    change("Chart.yaml", &format!("ersion: {}", env!("CARGO_PKG_VERSION")), "ersion: 0.0.9");
    change("files/crds/dbpoolpolicies.poolkeeper.dev.yaml", "    - dbpools\n", "");
    change("templates/rbac.yaml", "    verbs: [get, patch]\n", "    verbs: [get, list, patch]\n");
    chart
}

/// As the operator's leader does it.
fn write_ca_bundle(cluster: &Cluster) {
    let patch = r#"[{"op":"add","path":"/webhooks/0/clientConfig/caBundle","value":"LS0="}]"#;
    let webhook = ["patch", "mutatingwebhookconfiguration", "poolkeeper", "--field-manager=poolkeeper", "--type=json"];
    cluster.server.kubectl_ok(&[&webhook[..], &["-p", patch]].concat());
}

#[test]
fn installed_upgraded_taken_away_installed_again_and_purged() {
    let Some(cluster) = Cluster::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let old = previous(folder.path());

    cluster.helm(&["install", "poolkeeper", old.to_str().unwrap(), "--create-namespace"]);
    let policy = folder.path().join("policy.yaml");
    fs::write(
        &policy,
        read("charts/poolkeeper/README.md").split("```yaml\n").nth(1).unwrap().split("```").next().unwrap(),
    )
    .unwrap();
    cluster.server.kubectl_ok(&["create", "namespace", "shop"]);
    eventually("the policy's kind is served", || {
        cluster.server.kubectl(&["apply", "--server-side", "-f", policy.to_str().unwrap()]).status.success()
    });
    write_ca_bundle(&cluster);

    cluster.helm(&["upgrade", "poolkeeper", "charts/poolkeeper"]);
    let names = &cluster.get(&[CRD])["spec"]["names"]["shortNames"];
    assert!(names.as_array().unwrap().contains(&"dbpools".into()), "the CRD is upgraded with the chart: {names}");
    let rules = cluster.get(&["clusterrole", "poolkeeper-operator"])["rules"].clone();
    assert!(rules.as_array().unwrap().iter().all(|rule| rule["verbs"] != serde_json::json!(["get", "list", "patch"])));
    let webhook = cluster.get(&["mutatingwebhookconfiguration", "poolkeeper"]);
    assert_eq!(webhook["webhooks"][0]["clientConfig"]["caBundle"], "LS0=", "an upgrade keeps what the operator wrote");
    // Nothing has changed: nothing is written.
    let version = |what: &[&str]| cluster.get(what)["metadata"]["resourceVersion"].clone();
    let deployment = ["-n", "poolkeeper", "deployment", "poolkeeper-operator"];
    let before = (version(&deployment), version(&[CRD]));
    cluster.helm(&["upgrade", "poolkeeper", "charts/poolkeeper"]);
    assert_eq!(before, (version(&deployment), version(&[CRD])));

    let there = cluster.ours();
    assert!(there.len() > 12, "{there:?}");
    cluster.helm(&["uninstall", "poolkeeper"]);
    assert_eq!(cluster.ours(), ["customresourcedefinition.apiextensions.k8s.io/dbpoolpolicies.poolkeeper.dev"]);
    assert_eq!(cluster.get(&["-n", "shop", "dbpool", "orders"])["spec"]["database"]["name"], "orders");

    // The same release takes the CRD up again.
    cluster.helm(&["install", "poolkeeper", "charts/poolkeeper"]);
    assert_eq!(cluster.ours().len(), there.len());
    assert_eq!(cluster.get(&["-n", "shop", "dbpool", "orders"])["spec"]["database"]["name"], "orders");

    cluster.helm(&["uninstall", "poolkeeper"]);
    cluster.server.kubectl_ok(&["delete", CRD, "namespace/poolkeeper", "--timeout=60s"]);
    assert_eq!(cluster.ours(), [""; 0]);
    assert!(!cluster.server.kubectl(&["get", "namespace", "poolkeeper"]).status.success());
}

/// Two operators would write the same objects.
#[test]
fn a_second_release_is_refused() {
    let Some(cluster) = Cluster::new() else { return };
    cluster.helm(&["install", "poolkeeper", "charts/poolkeeper", "--create-namespace"]);
    let home = tempfile::tempdir().unwrap();
    let second = ["install", "other", "charts/poolkeeper", "--namespace", "other", "--create-namespace"];
    let out = helm::run(home.path(), Some(cluster.server.kubeconfig()), &second);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("poolkeeper"), "{said}");
    built_in_roles_reach_policies(&cluster);
}

/// Who may view or edit a namespace may do so with its policies.
fn built_in_roles_reach_policies(cluster: &Cluster) {
    for (user, role) in [("viewer", "view"), ("editor", "edit"), ("head", "admin")] {
        let (role, user) = (format!("--clusterrole={role}"), format!("--user={user}"));
        cluster.server.kubectl_ok(&["-n", "default", "create", "rolebinding", &user[7..], &role, &user]);
    }
    let may = |user: &str, verb: &str| {
        let who = format!("--as={user}");
        let asked = ["-n", "default", "auth", "can-i", verb, "dbpoolpolicies.poolkeeper.dev", &who];
        cluster.server.kubectl(&asked).status.success()
    };
    for (user, verbs) in [("viewer", "get list watch"), ("editor", "get create patch delete"), ("head", "get update")] {
        for verb in verbs.split(' ') {
            eventually(&format!("{user} may {verb}"), || may(user, verb));
        }
    }
    assert!(!may("viewer", "create") && !may("stranger", "get"));
}
