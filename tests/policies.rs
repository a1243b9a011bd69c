//! Policies on paper: what is right is taken, what is wrong is refused with every path, and the API server's own rules
//! (CEL) say the same.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, clippy::expect_used, clippy::panic)]
#[path = "support/papers.rs"]
mod papers;

use std::collections::BTreeSet;

use kube_cel::Validator;
use poolkeeper::api::resolve::{Problem, Resolved};
use poolkeeper::api::{document, schema};

use papers::{Paper, papers};

fn judge(paper: &Paper) -> Result<Resolved, Vec<Problem>> {
    let mut documents = document::read(&paper.text);
    assert_eq!(documents.len(), 1, "{paper:?}");
    documents.remove(0).policy
}

/// What the schema and the CEL rules of the API server say, in this order.
fn api_server(paper: &Paper) -> (Vec<Problem>, Vec<String>) {
    let walked = schema::walk(paper.value());
    let cel = Validator::new().validate_with_defaults(schema::document(), &walked.repaired, None);
    let errors = cel.err().map(|errors| errors.into_vec()).unwrap_or_default();
    (walked.problems, errors.into_iter().map(|error| format!("{}: {}", error.field_path, error.message)).collect())
}

#[test]
fn what_is_right_is_taken() {
    for below in ["tests/policies/valid", "deploy/policies"] {
        for paper in papers(below) {
            assert!(judge(&paper).is_ok(), "{:?}\n{paper:?}", judge(&paper));
            assert_eq!(api_server(&paper), (vec![], vec![]), "{paper:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_refused_with_every_path() {
    for paper in papers("tests/policies/invalid") {
        let expected = paper.expected();
        let problems = judge(&paper).unwrap_err();
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let wanted: Vec<_> = expected.iter().map(|(path, _)| *path).collect();
        assert_eq!(paths, wanted, "{problems:#?}\n{paper:?}");
        for (problem, (_, words)) in problems.iter().zip(&expected) {
            assert!(problem.message.contains(words), "{problem} does not say {words:?}: {paper:?}");
        }
    }
}

/// The CRD's own list of what it asks for: a bound without a policy that breaks it fails here.
#[test]
fn every_bound_choice_and_rule_has_a_policy_that_breaks_it_and_one_that_touches_it() {
    let spec = &schema::document()["properties"]["spec"];
    let invalid = papers("tests/policies/invalid");
    let broken: BTreeSet<_> = invalid.iter().filter_map(Paper::breaks).map(str::to_owned).collect();
    let asked = papers::constraints(spec);
    assert_eq!(asked.difference(&broken).collect::<Vec<_>>(), Vec::<&String>::new(), "nothing breaks these");
    assert_eq!(broken.difference(&asked).collect::<Vec<_>>(), Vec::<&String>::new(), "the CRD does not ask for these");
    assert!(asked.len() > 80);

    let valid: Vec<_> = papers("tests/policies/valid").iter().map(Paper::value).collect();
    assert!(valid.len() >= 30);
    let touched = |(path, edge): &(String, papers::Edge)| {
        valid.iter().any(|document| papers::at(document, path).iter().any(|value| edge.is(value)))
    };
    let missing: Vec<_> = papers::edges(spec).into_iter().filter(|edge| !touched(edge)).collect();
    assert_eq!(missing, vec![], "no valid policy has these values");
}

#[test]
fn rules_between_fields_hold_in_the_api_server_too() {
    let mut rules = 0;
    for paper in papers("tests/policies/invalid").into_iter().filter(|paper| paper.file.ends_with("rules.yaml")) {
        let (by_schema, by_cel) = api_server(&paper);
        assert_eq!(by_schema, [], "this file is for rules only: {paper:?}");
        let problems = judge(&paper).unwrap_err();
        assert!(!by_cel.is_empty(), "the API server would take it: {problems:?}\n{paper:?}");
        for error in &by_cel {
            let known = problems.iter().any(|problem| error.starts_with(&problem.path));
            assert!(known, "{error} is none of {problems:?}\n{paper:?}");
        }
        rules += 1;
    }
    assert!(rules > 10);
}

#[test]
fn a_policy_read_again_with_its_defaults_written_out_is_the_same() {
    for paper in papers("tests/policies/valid") {
        let first = judge(&paper).unwrap();
        let document = serde_json::json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
            "metadata": { "name": first.name, "namespace": first.namespace, "generation": first.generation },
            "spec": first.effective
        });
        let text = serde_yaml::to_string(&document).unwrap();
        let mut second = judge(&Paper { text, ..paper }).unwrap();
        second.listen.socket_is_default = first.listen.socket_is_default;
        assert_eq!(first, second);
    }
}

#[test]
fn samples_are_served_together() {
    let samples: Vec<_> = papers("deploy/policies").iter().map(|paper| judge(paper).unwrap()).collect();
    assert_eq!(samples.len(), 3);
    assert_eq!(poolkeeper::api::resolve::conflicts(&samples.iter().collect::<Vec<_>>()), []);
}
