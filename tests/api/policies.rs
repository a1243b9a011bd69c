//! The CRD on a real API server: what it takes, what it refuses and where, and that `poolkeeper check` says the same.

use super::support::ApiServer;
use super::support::papers::{Paper, papers};
use kube::Client;
use kube::api::PostParams;
use kube::core::{Request, Status};
use poolkeeper::api::v1alpha1::DbPoolPolicy;
use poolkeeper::api::{document, resolve, schema};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

/// Policies of one namespace, as the API server is sent them: no type of ours stands between.
pub struct Policies {
    client: Client,
    namespace: String,
}

impl Policies {
    pub async fn new(server: &ApiServer, namespace: &str) -> Self {
        Self { client: server.client().await, namespace: namespace.to_owned() }
    }

    /// Creates one; `dry` runs everything but the storing. The answer, or every cause of the refusal by its path.
    pub async fn create(&self, policy: &Value, dry: bool) -> Result<Value, Vec<(String, String)>> {
        let mut policy = policy.clone();
        policy["metadata"]["namespace"] = self.namespace.as_str().into();
        for made_by_the_server in ["uid", "resourceVersion", "generation", "creationTimestamp"] {
            policy["metadata"].as_object_mut().unwrap().remove(made_by_the_server);
        }
        let url = format!("/apis/poolkeeper.dev/v1alpha1/namespaces/{}/dbpoolpolicies", self.namespace);
        let options = PostParams { dry_run: dry, field_manager: None };
        let request = Request::new(url).create(&options, serde_json::to_vec(&policy).unwrap()).unwrap();
        match self.client.request::<Value>(request).await {
            Ok(stored) => Ok(stored),
            Err(kube::Error::Api(status)) => Err(causes(&status)),
            Err(other) => panic!("{other}: {policy}"),
        }
    }
}

/// Every cause with its path. A wrong type also makes rules unevaluable, which says nothing more.
fn causes(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code, 422, "{status:?}");
    let causes = status.details.as_ref().unwrap().causes.iter();
    let unchecked = |message: &str| message.contains("some validation rules were not checked");
    let causes = causes.filter(|cause| !unchecked(&cause.message));
    causes.map(|cause| (cause.field.clone(), cause.message.clone())).collect()
}

fn problems(paper: &Paper) -> Vec<resolve::Problem> {
    document::read(&paper.text).remove(0).policy.err().unwrap_or_default()
}

/// Papers that can be sent at all: what is wrong with them is wrong in the spec, and no field is unknown.
fn sendable(folder: &str) -> Vec<Paper> {
    let about_spec =
        |problem: &resolve::Problem| problem.path.starts_with("spec") && !problem.message.contains("is unknown");
    papers(folder).into_iter().filter(|paper| problems(paper).iter().all(about_spec)).collect()
}

#[tokio::test]
async fn what_is_wrong_is_refused_where_check_refuses_it() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies = Policies::new(server, &namespace).await;
    let mut refused = 0;
    for paper in sendable("tests/policies/invalid") {
        let Err(causes) = policies.create(&paper.value(), true).await else { panic!("was taken: {paper:?}") };
        let paths: BTreeSet<_> = causes.iter().map(|(path, _)| path.as_str()).collect();
        let expected: BTreeSet<_> = paper.expected().into_iter().map(|(path, _)| path).collect();
        // The API server ends at its first failing layer, check does not.
        assert!(!paths.is_empty() && paths.is_subset(&expected), "{causes:#?}\n{paper:?}");
        if let Some(broken) = paper.breaks() {
            assert_eq!(paths, expected, "{causes:#?}\n{paper:?}");
            let says = |(_, rule): (&str, &str)| causes.iter().any(|(_, message)| message.contains(rule));
            assert!(broken.split_once(" rule ").is_none_or(says), "{causes:#?}\n{paper:?}");
        }
        refused += 1;
    }
    println!("{refused} wrong policies refused");
    assert!(refused >= 200, "{refused}");
}

#[tokio::test]
async fn what_is_right_is_taken_and_comes_back_as_it_was() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies = Policies::new(server, &namespace).await;
    let all = ["tests/policies/valid", "deploy/policies"].into_iter().flat_map(papers);
    let mut taken = 0;
    for (number, paper) in all.enumerate() {
        let mut sent = paper.value();
        sent["metadata"]["name"] = format!("p{number}").into();
        let stored = policies.create(&sent, false).await.unwrap_or_else(|causes| panic!("{causes:#?}\n{paper:?}"));
        let kept = without_nulls(&sent["spec"]);
        let mut with_default = kept.clone();
        with_default.as_object_mut().unwrap().entry("preset").or_insert("Production".into());
        assert_eq!(whole(&stored["spec"]), whole(&with_default), "{paper:?}");
        // Our types lose nothing of it either, and mean the same by it.
        let typed: DbPoolPolicy = serde_json::from_value(stored.clone()).unwrap();
        let (here, there) = (document::read(&paper.text).remove(0).policy.unwrap(), resolve::resolve(&typed).unwrap());
        assert_eq!((here.revision, here.effective), (there.revision, there.effective), "{paper:?}");
        taken += 1;
    }
    println!("{taken} right policies taken");
    assert!(taken >= 30, "{taken}");
}

/// The API server drops nulls of fields that may be left out.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        other => other.clone(),
    }
}

/// With 20.0 written as 20.
fn whole(value: &Value) -> Value {
    match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), whole(value))).collect(),
        Value::Number(number) if number.as_f64().is_some_and(|f| f.fract() == 0.0) => json!(number.as_f64()),
        other => other.clone(),
    }
}

#[tokio::test]
async fn the_command_check_says_the_same_as_the_api_server() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies = Policies::new(server, &namespace).await;
    let folder = tempfile::tempdir().unwrap();
    let mut refused = BTreeSet::new();
    let mut files = Vec::new();
    for folder_of_papers in ["tests/policies/valid", "tests/policies/invalid", "deploy/policies"] {
        for paper in sendable(folder_of_papers) {
            let file = format!("{}.yaml", files.len());
            std::fs::write(folder.path().join(&file), &paper.text).unwrap();
            if policies.create(&paper.value(), true).await.is_err() {
                refused.insert(file.clone());
            }
            files.push(file);
        }
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_poolkeeper"));
    check.args(["check", "-o", "json"]).args(&files).current_dir(folder.path());
    let out: Value = serde_json::from_slice(&check.output().unwrap().stdout).unwrap();
    let said: BTreeSet<_> = out["problems"].as_array().unwrap().iter().map(|p| p["file"].as_str().unwrap()).collect();
    assert_eq!(said, refused.iter().map(String::as_str).collect());
    assert!(files.len() > 250 && refused.len() > 200);
}

/// Strict kubectl refuses them as check does; without, the API server drops them, and what is left is judged alike.
#[tokio::test]
async fn unknown_fields_are_refused_by_kubectl_and_pruned_by_the_api_server() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let policies = Policies::new(server, &namespace).await;
    let folder = tempfile::tempdir().unwrap();
    for paper in papers("tests/policies/invalid").into_iter().filter(|paper| paper.file.ends_with("unknown.yaml")) {
        let file = folder.path().join("policy.yaml");
        std::fs::write(&file, &paper.text).unwrap();
        let file = file.to_str().unwrap();
        let out = server.kubectl(&["-n", &namespace, "apply", "--dry-run=server", "-f", file]);
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(!out.status.success());
        for (path, _) in paper.expected() {
            assert!(said.contains(&format!("unknown field \"{path}\"")), "{path} is not in: {said}");
        }
        let pruned = policies.create(&paper.value(), true).await.map(|stored| stored["spec"].clone());
        assert!(pruned.is_ok(), "{pruned:?}\n{paper:?}");
        let walked = schema::walk(paper.value());
        let mut expected = walked.repaired["spec"].clone();
        expected.as_object_mut().unwrap().entry("preset").or_insert("Production".into());
        assert_eq!(pruned.unwrap(), expected, "{paper:?}");
    }
}

#[test]
fn the_api_server_has_no_complaint_about_the_crd() {
    let server = ApiServer::shared();
    let crd = server.kubectl_ok(&["get", "crd", "dbpoolpolicies.poolkeeper.dev", "-o", "json"]);
    let crd: Value = serde_json::from_str(&crd).unwrap();
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    let status = |wanted: &str| conditions.iter().find(|c| c["type"] == wanted).map(|c| c["status"].clone());
    assert_eq!((status("Established"), status("NamesAccepted")), (Some("True".into()), Some("True".into())));
    assert_eq!((status("NonStructuralSchema"), status("KubernetesAPIApprovalPolicyConformant")), (None, None));
    let resources = server.kubectl_ok(&["api-resources", "--api-group=poolkeeper.dev", "--categories=poolkeeper"]);
    assert!(resources.contains("dbpool,dbpools"), "{resources}");
}
