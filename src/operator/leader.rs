//! What a replica does while it leads: reconciles, answers for the stream's Service, and puts its authority into the
//! webhooks' configurations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ByteString, Resource};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::apply::{MANAGER, REQUEST, WriteError, Writer, bounded};
use super::election::Claim;
use super::reconcile::Reconciler;
use super::state::State;
use super::stream::Leading;
use crate::telemetry::causes;

/// The Service of the streams; it has no selector: the leader writes its one EndpointSlice.
pub const STREAM_SERVICE: &str = "poolkeeper-stream";
/// The Service of the webhooks, which every replica answers.
pub const WEBHOOK_SERVICE: &str = "poolkeeper-webhook";
/// The name of both webhook configurations.
pub const WEBHOOKS: &str = "poolkeeper";
/// Between two looks whether Service and webhooks are as they should be.
const LOOK: Duration = Duration::from_secs(15);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What leading needs.
pub struct Leader {
    /// Policies, pods and reports.
    pub state: Arc<State>,
    /// Writes.
    pub writer: Writer,
    /// The operator's namespace.
    pub namespace: String,
    /// Where sidecars reach this replica's streams; `None`: the Service is not ours to write.
    pub address: Option<SocketAddr>,
    /// The authorities that sign our certificates, in PEM.
    pub authorities: watch::Receiver<Arc<str>>,
    /// Whether this replica leads, for the streams.
    pub leading: watch::Sender<Option<Leading>>,
}

impl Leader {
    /// Leads whenever the claim says so, until told to stop.
    pub async fn run(self: Arc<Self>, mut claim: watch::Receiver<Claim>, stop: CancellationToken) {
        loop {
            let term = tokio::select! {
                () = stop.cancelled() => return,
                term = won(&mut claim) => term,
                never = self.state.queue.discard() => match never {},
            };
            let Some(term) = term else { return };
            let scope = stop.child_token();
            let mut work = tokio::spawn(Arc::clone(&self).lead(term, scope.clone()));
            let ended = tokio::select! {
                () = stop.cancelled() => None,
                () = lost(&mut claim, term) => {
                    tracing::warn!(term, "this replica does not lead any more");
                    None
                }
                // It has no end of its own: it is begun anew.
                ended = &mut work => Some(ended),
            };
            // The streams go first: a sidecar must not take an old leader for the new one.
            scope.cancel();
            self.leading.send_replace(None);
            self.state.metrics.leading.set(0);
            let ended = match ended {
                Some(ended) => ended,
                None => work.await,
            };
            if let Err(error) = ended {
                tracing::error!(%error, "the leader's work has panicked");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn lead(self: Arc<Self>, term: u64, scope: CancellationToken) {
        self.state.begin();
        self.state.metrics.leading.set(1);
        self.leading.send_replace(Some(Leading { term, scope: scope.clone() }));
        let reconciler = Arc::new(Reconciler::new(Arc::clone(&self.state), self.writer.clone()));
        let tidying = async {
            loop {
                tokio::time::sleep(Duration::from_secs(60)).await;
                reconciler.tidy();
            }
        };
        tokio::select! {
            () = self.state.queue.run(|item| Arc::clone(&reconciler).look(item), scope.clone()) => {}
            () = tidying => {}
            () = self.stand_for_it() => {}
            () = scope.cancelled() => {}
        }
    }

    /// Keeps Service and webhooks as they should be.
    async fn stand_for_it(&self) {
        let mut authorities = self.authorities.clone();
        loop {
            let bundle = authorities.borrow_and_update().clone();
            let (endpoints, webhooks) = tokio::join!(self.endpoints(), self.webhooks(&bundle));
            let mut pause = LOOK;
            for (what, done) in [("the stream's EndpointSlice", endpoints), ("the webhooks' caBundle", webhooks)] {
                if let Err(error) = done {
                    tracing::warn!(error = causes(&error), "{what} could not be written");
                    pause = RETRY;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = authorities.changed() => {}
            }
        }
    }

    /// Sidecars that connect to the Service reach this replica.
    async fn endpoints(&self) -> Result<(), WriteError> {
        let Some(address) = self.address else { return Ok(()) };
        let api: Api<EndpointSlice> = Api::namespaced(self.writer.client(), &self.namespace);
        let wanted = slice(address);
        let known = bounded(REQUEST, api.get_opt(STREAM_SERVICE)).await?;
        if known.is_some_and(|known| is_same(&known, &wanted)) {
            return Ok(());
        }
        let params = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(&wanted);
        self.writer.write("endpointslice", api.patch(STREAM_SERVICE, &params, &patch)).await?;
        tracing::info!(%address, "the stream's Service leads here");
        Ok(())
    }

    /// The API server trusts the webhooks' certificates.
    async fn webhooks(&self, bundle: &str) -> Result<(), WriteError> {
        if bundle.is_empty() {
            return Ok(());
        }
        self.trust::<MutatingWebhookConfiguration>(bundle).await?;
        self.trust::<ValidatingWebhookConfiguration>(bundle).await
    }

    async fn trust<K>(&self, bundle: &str) -> Result<(), WriteError>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Resource
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = Api::all(self.writer.client());
        // Without webhooks there is nothing to trust: only the streams are wanted.
        let Some(known) = bounded(REQUEST, api.get_opt(WEBHOOKS)).await? else { return Ok(()) };
        let Some(patch) = trusting(&serde_json::to_value(&known).unwrap_or_default(), bundle) else { return Ok(()) };
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap_or_default();
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.writer.write("webhook", api.patch(WEBHOOKS, &params, &Patch::<()>::Json(patch))).await?;
        tracing::info!(kind = K::KIND, "the webhooks' caBundle is written");
        Ok(())
    }
}

/// The operations that put the bundle into every webhook that lacks it; `None` if none does. The test of each name keeps
/// a configuration that changed meanwhile from being patched in the wrong place.
fn trusting(configuration: &Value, bundle: &str) -> Option<Value> {
    let wanted = serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap_or_default();
    let mut operations = Vec::new();
    for (index, webhook) in configuration["webhooks"].as_array().into_iter().flatten().enumerate() {
        if webhook["clientConfig"]["caBundle"] != wanted {
            operations
                .push(json!({ "op": "test", "path": format!("/webhooks/{index}/name"), "value": webhook["name"] }));
            let path = format!("/webhooks/{index}/clientConfig/caBundle");
            operations.push(json!({ "op": "add", "path": path, "value": wanted }));
        }
    }
    (!operations.is_empty()).then_some(Value::Array(operations))
}

fn slice(address: SocketAddr) -> EndpointSlice {
    let labels =
        [("kubernetes.io/service-name", STREAM_SERVICE), ("endpointslice.kubernetes.io/managed-by", "poolkeeper.dev")];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(STREAM_SERVICE.into()),
            labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
            ..ObjectMeta::default()
        },
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
        endpoints: vec![Endpoint {
            addresses: vec![address.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some("stream".into()),
            port: Some(i32::from(address.port())),
            protocol: Some("TCP".into()),
            ..EndpointPort::default()
        }]),
    }
}

fn is_same(known: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let addresses = |slice: &EndpointSlice| -> Vec<_> {
        slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone()).collect()
    };
    addresses(known) == addresses(wanted) && known.ports == wanted.ports && known.address_type == wanted.address_type
}

/// Waits until the claim holds; its term, or `None` if there is no election any more.
async fn won(claim: &mut watch::Receiver<Claim>) -> Option<u64> {
    loop {
        if let Some(term) = claim.borrow_and_update().term(Instant::now()) {
            return Some(term);
        }
        claim.changed().await.ok()?;
    }
}

/// Waits until the claim on this term has ended, by news or by time.
async fn lost(claim: &mut watch::Receiver<Claim>, term: u64) {
    loop {
        let now = *claim.borrow_and_update();
        let Some(until) = now.until().filter(|_| now.term(Instant::now()) == Some(term)) else { return };
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => {}
            changed = claim.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_webhooks_that_lack_it_get_the_bundle() {
        let configuration = |bundles: [&str; 2]| {
            let webhook = |(name, bundle)| json!({ "name": name, "clientConfig": { "caBundle": bundle } });
            let webhooks: Vec<_> = ["a", "b"].into_iter().zip(bundles).map(webhook).collect();
            json!({ "webhooks": webhooks })
        };
        assert_eq!(trusting(&configuration(["cGVt", "cGVt"]), "pem"), None);
        let patch = trusting(&configuration(["cGVt", ""]), "pem").unwrap();
        assert_eq!(patch.as_array().unwrap().len(), 2);
        assert_eq!(patch[0], json!({ "op": "test", "path": "/webhooks/1/name", "value": "b" }));
        let mut known = configuration(["", "cGVt"]);
        let patch: json_patch::Patch = serde_json::from_value(trusting(&known, "pem").unwrap()).unwrap();
        json_patch::patch(&mut known, &patch).unwrap();
        assert_eq!(known, configuration(["cGVt", "cGVt"]));
    }

    #[test]
    fn a_slice_is_the_same_whatever_the_api_server_adds() {
        let wanted = slice("10.0.0.7:9443".parse().unwrap());
        let mut known = wanted.clone();
        known.metadata.resource_version = Some("7".into());
        assert!(is_same(&known, &wanted));
        assert!(!is_same(&known, &slice("10.0.0.8:9443".parse().unwrap())));
        assert_eq!(slice("[::1]:1".parse().unwrap()).address_type, "IPv6");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_not_renewed_is_lost_by_time() {
        let sender = watch::Sender::new(Claim::default());
        let mut claim = sender.subscribe();
        let begun = tokio::time::Instant::now();
        // The claim is by the real clock, which does not move here: the timer wakes, and looks.
        sender.send_replace(Claim::new(3, Instant::now() + Duration::from_secs(1)));
        assert_eq!(won(&mut claim).await, Some(3));
        sender.send_replace(Claim::new(4, Instant::now() + Duration::from_secs(1)));
        lost(&mut claim, 3).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "another term");
        sender.send_replace(Claim::default());
        lost(&mut claim, 4).await;
    }
}
