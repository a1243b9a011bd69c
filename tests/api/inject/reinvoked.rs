//! Another webhook changes the pod after ours: the API server asks us again.

use super::*;
use crate::support::certs::Certs;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

/// A webhook that puts a native sidecar and a container into every pod, both first; it answers for as long as the process lives.
fn another(certs: &Certs) -> u16 {
    let chain = CertificateDer::pem_file_iter(certs.path("tls.crt")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certs.path("tls.key")).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let tls = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let session = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
            // One that is broken off is the API server's affair.
            let _ = answer(rustls::StreamOwned::new(session, stream));
        }
    });
    port
}

fn answer(stream: rustls::StreamOwned<rustls::ServerConnection, TcpStream>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let review: Value = serde_json::from_slice(&body)?;
    let pod = &review["request"]["object"];
    let first = if pod["spec"]["initContainers"].is_null() { "/spec/initContainers" } else { "/spec/initContainers/0" };
    let proxy = json!({ "name": "late-proxy", "image": "proxy", "restartPolicy": "Always" });
    let proxy = if first.ends_with('0') { proxy } else { json!([proxy]) };
    let patch = json!([
        { "op": "add", "path": first, "value": proxy },
        { "op": "add", "path": "/spec/containers/0", "value": { "name": "late", "image": "late" } },
    ]);
    let patch = k8s_openapi::ByteString(patch.to_string().into_bytes());
    let response =
        json!({ "uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch });
    let review =
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response }).to_string();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json";
    let stream = reader.get_mut();
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{review}", review.len())?;
    stream.conn.send_close_notify();
    stream.flush()
}

#[tokio::test]
async fn what_comes_after_us_is_connected_too() {
    let Some(world) = world() else { return };
    let (namespace, certs) = (world.namespace().await, Certs::new());
    let port = another(&certs);
    let bundle = std::fs::read(certs.path("ca.crt")).unwrap();
    // By its name it is asked after ours.
    apply(
        &world.server,
        &json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration",
            "metadata": { "name": "zz-another" },
            "webhooks": [{
                "name": "another.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": { "url": format!("https://127.0.0.1:{port}/"), "caBundle": k8s_openapi::ByteString(bundle) },
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": &*namespace } },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
            }],
        }),
    );
    let pods: Api<Pod> = Api::namespaced(world.client().await, &namespace);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let changed = async {
        loop {
            let made = serde_json::to_value(pods.create(&dry, &pod("a", &[INJECT])).await.unwrap()).unwrap();
            if made["spec"]["containers"][0]["name"] == "late" {
                break made;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let made = tokio::time::timeout(PATIENCE, changed).await.unwrap();
    let names = |list: &str| -> Vec<String> {
        let items = made["spec"][list].as_array().unwrap().iter();
        items.map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("initContainers"), ["poolkeeper", "late-proxy"], "first again");
    assert_eq!(names("containers"), ["late", "app"]);
    for (list, index) in [("containers", 0), ("containers", 1), ("initContainers", 1)] {
        let mounts = made["spec"][list][index]["volumeMounts"].as_array().unwrap();
        let sockets = mounts.iter().filter(|mount| mount["name"] == "poolkeeper-socket").count();
        assert_eq!(sockets, 1, "{list} {index}");
    }
    world.server.kubectl_ok(&["delete", "mutatingwebhookconfiguration", "zz-another"]);
}
