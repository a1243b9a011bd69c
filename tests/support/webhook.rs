//! The operator's webhooks over real TLS, and what they are to know.

use super::certs::Certs;
use super::eventually;
use k8s_openapi::jiff::Timestamp;
use poolkeeper::api::resolve::resolve_value;
use poolkeeper::operator::index::{Assigned, Index, Key, Outlook, Pod, Policy, Withheld};
use poolkeeper::operator::inject::{Resources, Settings};
use poolkeeper::operator::webhook::{self, Facts};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// What is injected in tests.
pub fn settings() -> Settings {
    Settings {
        image: "ghcr.io/poolkeeper/poolkeeper:0.1.0".into(),
        image_pull_policy: "IfNotPresent".into(),
        operator: "https://poolkeeper-stream.poolkeeper.svc:9443".into(),
        ca: "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n".into(),
        http_port: 9432,
        user: 65532,
        resources: Resources::default(),
        kubernetes: Some((1, 33)),
    }
}

/// A policy as the operator's watch reads it. Without a uid it goes by its name.
pub fn policy(object: &Value) -> Policy {
    let metadata = &object["metadata"];
    let text = |name: &str| metadata[name].as_str();
    let key = Key::new(text("namespace").unwrap(), text("name").unwrap());
    let uid = text("uid").map_or_else(|| format!("uid-{}", key.name), str::to_owned);
    let generation = metadata["generation"].as_i64().unwrap_or(1);
    let assigned = |resolved| Arc::new(Assigned::new(key.clone(), uid.clone(), generation, resolved));
    Policy {
        uid: uid.clone(),
        created: text("creationTimestamp").map_or(Timestamp::UNIX_EPOCH, |time| time.parse().unwrap()),
        generation,
        selector: serde_json::from_value(object["spec"]["selector"].clone()).ok(),
        verdict: resolve_value(object.clone()).map(assigned),
        key: key.clone(),
    }
}

/// What the webhooks know.
pub struct Known {
    index: Mutex<Index>,
    in_use: Mutex<HashMap<Key, u32>>,
}

impl Known {
    /// Nothing yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { index: Mutex::default(), in_use: Mutex::default() })
    }

    /// Policies and pods.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap()
    }

    /// One more policy.
    pub fn add(&self, object: &Value) {
        let mut index = self.index();
        index.apply_policy(policy(object));
        index.flush();
    }

    /// One more pod with a sidecar.
    pub fn add_pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut index = self.index();
        index.apply_pod(Pod { key: Key::new(namespace, name), uid: format!("uid-{name}"), labels, ..Pod::default() });
        index.flush();
    }

    /// What a pod uses of a policy's connections.
    pub fn use_connections(&self, namespace: &str, policy: &str, count: u32) {
        self.in_use.lock().unwrap().insert(Key::new(namespace, policy), count);
    }
}

impl Facts for Known {
    fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<Assigned>> {
        self.index().matching(namespace, labels)
    }

    fn withheld(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Withheld> {
        self.index().withheld(namespace, labels)
    }

    fn outlook(&self, policy: &Policy) -> Outlook {
        self.index().outlook(policy)
    }

    fn in_use(&self, policy: &Key) -> Option<u32> {
        self.in_use.lock().unwrap().get(policy).copied()
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::new(settings())
    }
}

/// The webhooks, serving on a port of this machine.
pub struct Webhook {
    pub port: u16,
    pub certs: Certs,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Webhook {
    /// Starts them.
    pub fn start(facts: Arc<dyn Facts>) -> Self {
        let (certs, stop) = (Certs::new(), CancellationToken::new());
        let chain = CertificateDer::pem_file_iter(certs.path("tls.crt")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(certs.path("tls.key")).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls = builder.with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ends = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(webhook::run(listener, tls, facts, ends)).unwrap();
        });
        Self { port, certs, stop, thread: Some(thread) }
    }

    /// Sends one request; status and body of the answer.
    pub fn request(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(super::PATIENCE)).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let session = rustls::ClientConnection::new(self.certs.client(), name).unwrap();
        let mut stream = rustls::StreamOwned::new(session, stream);
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n")
            .unwrap();
        // Whoever refuses a body does not read all of it.
        let _ = stream.write_all(body).and_then(|()| stream.flush());
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(read) = stream.read(&mut piece) {
            if read == 0 {
                break;
            }
            answer.extend_from_slice(&piece[..read]);
        }
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned())
    }

    /// Sends a review; the `response` of the answer.
    pub fn review(&self, path: &str, review: &Value) -> Value {
        let (code, body) = self.request("POST", path, &serde_json::to_vec(review).unwrap());
        assert_eq!(code, 200, "{body}");
        let mut answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&"admission.k8s.io/v1".into(), &"AdmissionReview".into())
        );
        answer["response"].take()
    }

    /// Ends them, and waits until nobody listens.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        eventually("the webhook is gone", || TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
