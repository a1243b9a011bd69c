//! `deploy/rbac.yaml`: what the operator needs, and nothing else.

use super::*;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use poolkeeper::api::v1alpha1::DbPoolPolicy;

/// `(verbs, group, resource, namespace, name)`; no namespace: all of them; no name: any.
type Right = (&'static str, &'static str, &'static str, &'static str, &'static str);

const NEEDED: [Right; 12] = [
    ("list watch", "poolkeeper.dev", "dbpoolpolicies", "", ""),
    ("patch", "poolkeeper.dev", "dbpoolpolicies/status", "shop", "orders"),
    ("list watch", "", "pods", "", ""),
    ("patch", "", "pods/status", "shop", "a"),
    ("create", "authentication.k8s.io", "tokenreviews", "", ""),
    ("create patch", "events.k8s.io", "events", "shop", ""),
    ("get patch", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "poolkeeper"),
    ("get patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "poolkeeper"),
    ("create", "coordination.k8s.io", "leases", "poolkeeper", ""),
    ("get update", "coordination.k8s.io", "leases", "poolkeeper", "poolkeeper-operator"),
    ("get update", "", "secrets", "poolkeeper", "poolkeeper-ca"),
    ("get create patch", "discovery.k8s.io", "endpointslices", "poolkeeper", "poolkeeper-stream"),
];

const DENIED: [Right; 16] = [
    ("get list watch", "", "secrets", "shop", "orders-db"),
    ("get list watch", "", "secrets", "", ""),
    ("get", "", "secrets", "poolkeeper", "another"),
    ("list watch delete", "", "secrets", "poolkeeper", ""),
    ("create update patch delete", "", "pods", "shop", "a"),
    ("create", "", "pods/exec", "shop", "a"),
    ("create", "", "pods/ephemeralcontainers", "shop", "a"),
    ("create", "", "serviceaccounts/token", "shop", "default"),
    ("create update patch delete", "poolkeeper.dev", "dbpoolpolicies", "shop", "orders"),
    ("get list patch", "", "namespaces", "", "shop"),
    ("get list", "", "configmaps", "shop", "a"),
    ("get list", "", "nodes", "", "a"),
    ("get patch update delete", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", "another"),
    ("create delete", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "poolkeeper"),
    ("update patch delete", "coordination.k8s.io", "leases", "poolkeeper", "another"),
    ("patch", "discovery.k8s.io", "endpointslices", "shop", "poolkeeper-stream"),
];

async fn may(client: &Client, right: Right) -> Vec<(&'static str, bool)> {
    let (verbs, group, resource, namespace, name) = right;
    let (resource, sub) = resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub)));
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut found = Vec::new();
    for verb in verbs.split(' ') {
        let attributes = ResourceAttributes {
            group: filled(group),
            resource: filled(resource),
            subresource: sub.map(str::to_owned),
            namespace: filled(namespace),
            name: filled(name),
            verb: filled(verb),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some("system:serviceaccount:poolkeeper:poolkeeper-operator".into()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await.unwrap();
        found.push((verb, answer.status.unwrap().allowed));
    }
    found
}

#[tokio::test]
async fn the_operator_may_do_what_it_must_and_nothing_else() {
    let server = ApiServer::shared();
    for file in ["deploy/namespace.yaml", "deploy/rbac.yaml", "deploy/services.yaml"] {
        manifests(file).iter().for_each(|manifest| apply(server, manifest));
    }
    let client = server.client().await;
    // RBAC reads its objects by a watch.
    let in_force = async {
        for right in NEEDED {
            while may(&client, right).await.iter().any(|(_, allowed)| !allowed) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, in_force).await.expect("a right that is needed is missing");
    for right in DENIED {
        let found = may(&client, right).await;
        assert!(found.iter().all(|(_, allowed)| !allowed), "{right:?}: {found:?}");
    }

    let token = server.token("poolkeeper", "poolkeeper-operator").await;
    let operator = server.client_as(&token).await;
    // What the webhooks know comes by these two lists.
    let policies: Api<DynamicObject> = Api::all_with(operator.clone(), &ApiResource::erase::<DbPoolPolicy>(&()));
    policies.list(&ListParams::default()).await.unwrap();
    let injected = ListParams::default().labels(poolkeeper::api::annotations::INJECTED);
    Api::<Pod>::all(operator.clone()).list(&injected).await.unwrap();
    // A name can restrict who makes an object by server-side apply, since the name is in the request.
    let slice = |name: &str| {
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": { "name": name },
            "addressType": "IPv4", "endpoints": [], "ports": [] })
    };
    let slices: Api<EndpointSlice> = Api::namespaced(operator, "poolkeeper");
    let params = PatchParams::apply("poolkeeper").force();
    slices.patch("poolkeeper-stream", &params, &Patch::Apply(slice("poolkeeper-stream"))).await.unwrap();
    slices.patch("another", &params, &Patch::Apply(slice("another"))).await.unwrap_err();
}
