//! The API server that the tests stand on does what they need of it.

use super::support::certs::Certs;
use super::support::{ApiServer, process};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::sync::Arc;

fn pod(name: &str, namespace: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] }
    }))
    .unwrap()
}

#[tokio::test]
async fn a_service_account_has_the_rights_it_was_given_and_no_other() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    server.service_account(&namespace, "reader").await;
    let token = server.token(&namespace, "reader").await;
    let pods: Api<Pod> = Api::namespaced(server.client_as(&token).await, &namespace);
    let refused = pods.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_forbidden()), "{refused}");
    let reader = format!("--serviceaccount={}:reader", &*namespace);
    server.kubectl_ok(&["-n", &namespace, "create", "role", "reader", "--verb=get,list", "--resource=pods"]);
    server.kubectl_ok(&["-n", &namespace, "create", "rolebinding", "reader", "--role=reader", &reader]);
    // RBAC reads its objects by a watch.
    let granted = async {
        while pods.list(&ListParams::default()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::support::PATIENCE, granted).await.unwrap();
}

#[tokio::test]
async fn a_pods_token_names_its_pod_for_one_audience_until_the_pod_is_gone() {
    let server = ApiServer::shared();
    let namespace = server.namespace().await;
    let client = server.client().await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = pods.create(&PostParams::default(), &pod("a", &namespace)).await.unwrap();
    let token = server.pod_token(&pod, Some("poolkeeper")).await;
    let review = async |audience: &str| {
        let spec = TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: Some(token.clone()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        Api::all(client.clone()).create(&PostParams::default(), &review).await.unwrap().status.unwrap()
    };
    let status = review("poolkeeper").await;
    assert_eq!(status.authenticated, Some(true));
    let uid = status.user.unwrap().extra.unwrap().remove("authentication.kubernetes.io/pod-uid").unwrap();
    assert_eq!(uid, [pod.metadata.uid.unwrap()]);
    assert_ne!(review("another").await.authenticated, Some(true));
    pods.delete("a", &DeleteParams::default()).await.unwrap();
    let gone = async {
        while review("poolkeeper").await.authenticated == Some(true) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    // The API server keeps a yes for some seconds.
    tokio::time::timeout(std::time::Duration::from_secs(60), gone).await.unwrap();
}

#[tokio::test]
async fn it_can_be_stopped_and_started_and_leaves_nothing() {
    let server = ApiServer::start();
    let namespace = server.namespace().await.to_owned();
    let dir = server.kubeconfig().parent().unwrap().to_owned();
    let before: Value = serde_json::from_str(&server.kubectl_ok(&["get", "ns", &namespace, "-o", "json"])).unwrap();
    server.stop();
    assert!(!server.kubectl(&["get", "ns", &namespace]).status.success());
    server.start_again();
    let after: Value = serde_json::from_str(&server.kubectl_ok(&["get", "ns", &namespace, "-o", "json"])).unwrap();
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    let pids: Vec<u32> = std::fs::read_dir(dir.join("pids"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(pids.len(), 2);
    drop(server);
    assert!(!dir.exists());
    for pid in pids {
        assert!(process::ended(pid), "process {pid} was left behind");
    }
}

/// Admission webhooks of the tests listen on the loopback address, under `clientConfig.url`.
#[tokio::test]
async fn it_asks_a_webhook_on_this_machine() {
    use actix_web::{App, HttpServer, web};
    let server = ApiServer::shared();
    if server.is_external() {
        return;
    }
    let namespace = server.namespace().await;
    let certs = Certs::new();
    let chain = CertificateDer::pem_file_iter(certs.path("tls.crt")).unwrap().collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(certs.path("tls.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let deny = async |review: web::Json<Value>| {
        let uid = &review["request"]["uid"];
        web::Json(json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": { "uid": uid, "allowed": false, "status": { "message": "the webhook was asked" } }
        }))
    };
    let webhook = HttpServer::new(move || App::new().route("/deny", web::post().to(deny))).workers(1).disable_signals();
    let webhook = webhook.bind_rustls_0_23(("127.0.0.1", 0), tls).unwrap();
    let port = webhook.addrs()[0].port();
    tokio::spawn(webhook.run());

    let configuration = serde_json::from_value(json!({
        "metadata": { "name": &*namespace },
        "webhooks": [{
            "name": "deny.poolkeeper.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "clientConfig": {
                "url": format!("https://127.0.0.1:{port}/deny"),
                "caBundle": ByteString(std::fs::read(certs.path("ca.crt")).unwrap())
            },
            "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": &*namespace } },
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }]
        }]
    }));
    let client = server.client().await;
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    webhooks.create(&PostParams::default(), &configuration.unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let asked = async {
        loop {
            match pods.create(&dry, &pod("a", &namespace)).await {
                // The API server takes a moment to know of it.
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                Err(refused) => break refused,
            }
        }
    };
    let refused = tokio::time::timeout(super::support::PATIENCE, asked).await.unwrap().to_string();
    webhooks.delete(&namespace, &DeleteParams::default()).await.unwrap();
    assert!(refused.contains("the webhook was asked"), "{refused}");
}
