//! Keeps the authority: in a Secret of the operator's namespace, made by whichever replica is first, read by all; and
//! keeps this replica's certificate young.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::apply::{REQUEST, bounded};
use super::certs::{Authority, CertError, LEAF_RENEWAL, Served};
use super::election::Claim;
use super::state::State;
use crate::telemetry::causes;

/// The Secret's name.
pub const SECRET: &str = "poolkeeper-ca";
/// Between two looks at the Secret.
const LOOK: Duration = Duration::from_secs(20);
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The API server refuses.
    #[error("Secret {SECRET}: {0}")]
    Api(#[from] kube::Error),
    /// What the Secret holds can't be used.
    #[error("Secret {SECRET}: {0}; delete it to have it written again")]
    Content(#[from] CertError),
}

/// Keeps the authority and this replica's certificate.
pub struct Keeper {
    api: Api<Secret>,
    names: Vec<String>,
    served: Arc<Served>,
    claim: watch::Receiver<Claim>,
    bundle: watch::Sender<Arc<str>>,
    state: Arc<State>,
    issued: Option<(Authority, SystemTime)>,
}

impl Keeper {
    /// In this namespace; the certificate is for these names and goes to `served`.
    pub fn new(
        client: Client,
        namespace: &str,
        names: Vec<String>,
        served: Arc<Served>,
        claim: watch::Receiver<Claim>,
        state: Arc<State>,
    ) -> Self {
        let api = Api::namespaced(client, namespace);
        let bundle = watch::Sender::new(Arc::from(""));
        Self { api, names, served, claim, bundle, state, issued: None }
    }

    /// What others are to trust, in PEM.
    pub fn bundle(&self) -> watch::Receiver<Arc<str>> {
        self.bundle.subscribe()
    }

    /// Looks at the Secret until told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = match self.look().await {
                Ok(()) => LOOK,
                Err(error) => {
                    tracing::error!(error = causes(&error), "no certificates yet, or they are not renewed");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn look(&mut self) -> Result<(), KeeperError> {
        let authority = self.authority().await?;
        let now = SystemTime::now();
        let is_young = |at: &SystemTime| now.duration_since(*at).is_ok_and(|age| age < LEAF_RENEWAL);
        if self.issued.as_ref().is_some_and(|(of, at)| *of == authority && is_young(at)) {
            return Ok(());
        }
        self.served.set(authority.issue(&self.names, now)?);
        tracing::info!(names = self.names.len(), "certificate issued");
        let ends = authority.ends().and_then(|ends| ends.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        self.state.metrics.authority_ends.set(ends.as_secs_f64());
        self.bundle.send_if_modified(|bundle| {
            let changed = **bundle != *authority.bundle();
            *bundle = Arc::from(authority.bundle());
            changed
        });
        self.issued = Some((authority, now));
        Ok(())
    }

    /// The authority as the Secret has it, made or renewed where that is due.
    async fn authority(&self) -> Result<Authority, KeeperError> {
        let Some(secret) = bounded(REQUEST, self.api.get_opt(SECRET)).await? else {
            return self.make().await;
        };
        let authority = Authority::read(&secret.data.clone().unwrap_or_default())?;
        let leads = self.claim.borrow().term(Instant::now()).is_some();
        match authority.renewed(SystemTime::now())? {
            Some(renewed) if leads => {
                // The version keeps two leaders from overwriting each other's.
                let wanted = Secret { data: Some(renewed.write()), ..secret };
                bounded(REQUEST, self.api.replace(SECRET, &PostParams::default(), &wanted)).await?;
                tracing::info!("the certificate authority is renewed");
                Ok(renewed)
            }
            _ => Ok(authority),
        }
    }

    /// Whoever deleted the Secret by mistake gets it back: sidecars trust what signed until now. With no replica that
    /// knows it there is another.
    async fn make(&self) -> Result<Authority, KeeperError> {
        let authority = match &self.issued {
            Some((known, _)) => known.clone(),
            None => Authority::new(SystemTime::now())?,
        };
        let labels = [("app.kubernetes.io/name", "poolkeeper"), ("app.kubernetes.io/managed-by", "poolkeeper")];
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.into()),
                labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
                ..ObjectMeta::default()
            },
            data: Some(authority.write()),
            ..Secret::default()
        };
        match bounded(REQUEST, self.api.create(&PostParams::default(), &secret)).await {
            Ok(_) => {
                tracing::info!(known = self.issued.is_some(), "the certificate authority is written");
                Ok(authority)
            }
            // Another replica was faster: its authority counts.
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let secret = bounded(REQUEST, self.api.get(SECRET)).await?;
                Ok(Authority::read(&secret.data.unwrap_or_default())?)
            }
            Err(error) => Err(error.into()),
        }
    }
}
