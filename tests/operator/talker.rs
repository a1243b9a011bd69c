//! A sidecar's half of the contract, spoken by a test: it says what it is told to say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use poolkeeper::api::schema;
use poolkeeper::contract::{
    Applied, Configuration, Health, HealthState, Hello, Numbers, PolicyReport, ReferenceState, References, Refusal,
    Rejected, Report, ToOperator, ToSidecar, Token, VERSION,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::support::PATIENCE;
use super::world::{Operator, World};

/// A connection to the operator's stream.
pub struct Talker {
    connection: Framed<TlsStream<TcpStream>, LengthDelimitedCodec>,
    /// The term of the welcome.
    pub term: u64,
    /// The authorities that came down.
    pub authorities: String,
    /// What it was told last.
    pub configuration: Configuration,
}

/// A greeting that is like that of a sidecar of this version.
pub fn hello(token: &str) -> Hello {
    Hello {
        contract: VERSION,
        version: "test".into(),
        boot: "1".into(),
        term: 0,
        fields: schema::fields(),
        token: Token::new(token),
    }
}

impl Talker {
    /// Of a pod with a policy of size 5, which has come to it.
    pub async fn serving(world: &World, operator: &Operator) -> (Pod, Self) {
        world.apply("orders", "orders", json!({ "size": 5 })).await;
        let pod = world.pod("orders-1", "orders").await;
        let mut talker = Self::of(world, operator, &pod).await;
        talker.until_size(5).await;
        (pod, talker)
    }

    /// As the sidecar of a pod; tries until the operator leads and knows the pod.
    pub async fn of(world: &World, operator: &Operator, pod: &Pod) -> Self {
        let token = world.server.pod_token(pod, Some("poolkeeper")).await;
        let trying = async {
            loop {
                match Self::greet(world, operator, hello(&token)).await {
                    Ok(talker) => return talker,
                    Err(Some(Refusal::NotLeader | Refusal::UnknownPod) | None) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Err(refusal) => panic!("refused: {refusal:?}"),
                }
            }
        };
        timeout(PATIENCE, trying).await.expect("the operator does not welcome the pod")
    }

    /// Says that; the refusal, `None` if the connection broke.
    pub async fn greet(world: &World, operator: &Operator, hello: Hello) -> Result<Self, Option<Refusal>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(world.authorities().await.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let socket = TcpStream::connect(("127.0.0.1", operator.stream)).await.map_err(|_| None)?;
        let name = ServerName::try_from("poolkeeper-stream.poolkeeper.svc").unwrap();
        let stream = connector.connect(name, socket).await.map_err(|_| None)?;
        let connection = LengthDelimitedCodec::builder().max_frame_length(4 << 20).new_framed(stream);
        let mut talker =
            Self { connection, term: 0, authorities: String::new(), configuration: Configuration::default() };
        talker.say(&ToOperator::Hello(Box::new(hello))).await;
        match talker.hear().await {
            Some(ToSidecar::Welcome { term, .. }) => {
                talker.term = term;
                Ok(talker)
            }
            Some(ToSidecar::Refused { reason, .. }) => Err(Some(reason)),
            None => Err(None),
            other => panic!("{other:?}"),
        }
    }

    pub async fn say(&mut self, message: &ToOperator) {
        let bytes = Bytes::from(serde_json::to_vec(message).unwrap());
        let _ = self.connection.send(bytes).await;
    }

    /// Bytes that need be no message.
    pub async fn say_bytes(&mut self, bytes: &'static [u8]) {
        let _ = self.connection.send(Bytes::from_static(bytes)).await;
    }

    /// The next message; `None` when the connection ends.
    pub async fn hear(&mut self) -> Option<ToSidecar> {
        let frame = timeout(PATIENCE, self.connection.next()).await.expect("the operator says nothing")?.ok()?;
        Some(serde_json::from_slice(&frame).unwrap())
    }

    /// Listens until the configuration fits.
    pub async fn until(&mut self, fits: impl Fn(&Configuration) -> bool) -> &Configuration {
        let listening = async {
            while !fits(&self.configuration) {
                match self.hear().await.expect("the stream has ended") {
                    ToSidecar::Configuration(configuration) => self.configuration = configuration,
                    ToSidecar::Authorities { pem } => self.authorities = pem,
                    ToSidecar::Ping => self.say(&ToOperator::Ping).await,
                    other => panic!("{other:?}"),
                }
            }
        };
        timeout(PATIENCE, listening).await.expect("no configuration fits");
        &self.configuration
    }

    /// Listens until the policy comes with this size.
    pub async fn until_size(&mut self, size: i64) {
        self.until(|configuration| {
            let mut policies = configuration.policies.iter();
            policies.any(|policy| policy.spec.as_ref().is_some_and(|spec| spec["pool"]["size"] == size))
        })
        .await;
    }

    /// Listens until the operator ends the stream.
    pub async fn until_closed(&mut self) {
        let listening = async { while self.hear().await.is_some() {} };
        timeout(PATIENCE, listening).await.expect("the operator does not end the stream");
    }

    /// That everything it was told runs well.
    pub fn applied(&self) -> Report {
        let numbers = Numbers { size: 20, max_overflow: 10, limit: Some(30), in_use: 12, ..Numbers::default() };
        let report = |policy: &poolkeeper::contract::Policy| PolicyReport {
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            uid: policy.uid.clone(),
            applied: Some(Applied { generation: policy.generation, revision: policy.revision.clone() }),
            references: References { state: ReferenceState::Resolved, message: String::new() },
            health: Health { state: HealthState::Connected, message: String::new() },
            numbers: Some(numbers.clone()),
            ..PolicyReport::default()
        };
        Report { draining: false, policies: self.configuration.policies.iter().map(report).collect() }
    }

    /// That it refuses what it was told.
    pub fn rejected(&self, problem: &str) -> Report {
        let mut report = self.applied();
        for (said, told) in report.policies.iter_mut().zip(&self.configuration.policies) {
            said.applied = None;
            said.rejected = Some(Rejected {
                generation: told.generation,
                revision: told.revision.clone(),
                problems: vec![problem.to_owned()],
            });
        }
        report
    }

    pub async fn report(&mut self, report: Report) {
        self.say(&ToOperator::Report(report)).await;
    }

    /// Says that everything runs well.
    pub async fn report_applied(&mut self) {
        let report = self.applied();
        self.report(report).await;
    }
}
