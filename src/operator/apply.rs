//! All writes to the API server: few at once, each with an end, none without a claim to lead, all counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use super::election::Claim;
use super::index::Key;
use super::metrics::Done;
use super::state::State;
use crate::api::v1alpha1::{DbPoolPolicy, DbPoolPolicyStatus};
use crate::telemetry::causes;

/// Writes under way at once.
const AT_ONCE: usize = 16;
/// The longest that a request may take; the client retries on its own until then.
pub const REQUEST: Duration = Duration::from_secs(5);
/// The field manager of everything that the operator applies.
pub const MANAGER: &str = "poolkeeper";
/// The longest note that an Event takes, in bytes.
const MAX_NOTE: usize = 1_000;

/// Why something was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// This replica does not lead any more.
    #[error("this replica does not lead")]
    NotLeader,
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// The object is gone, or another one has its name.
    #[error("it is gone")]
    Gone,
    /// The API server refuses.
    #[error(transparent)]
    Refused(kube::Error),
}

impl WriteError {
    /// The variant, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotLeader => "not_leader",
            Self::Timeout => "timeout",
            Self::Gone => "gone",
            Self::Refused(kube::Error::Api(status)) if status.is_forbidden() => "forbidden",
            Self::Refused(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            Self::Refused(kube::Error::Api(status)) if status.is_invalid() => "invalid",
            Self::Refused(_) => "refused",
        }
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.is_not_found() => Self::Gone,
            _ => Self::Refused(error),
        }
    }
}

/// A request with an end: the client itself retries for long.
///
/// # Errors
/// The request's own, or that it took longer than `limit`.
pub async fn bounded<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    let late = || kube::Error::Service("the API server did not answer in time".into());
    tokio::time::timeout(limit, request).await.unwrap_or_else(|_| Err(late()))
}

/// Writes for the leader.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    claim: watch::Receiver<Claim>,
    slots: Arc<Semaphore>,
    events: Recorder,
    state: Arc<State>,
}

impl Writer {
    /// With the claim of this replica, whose name is `me`.
    pub fn new(client: Client, claim: watch::Receiver<Claim>, me: &str, state: Arc<State>) -> Self {
        let reporter = Reporter { controller: "poolkeeper.dev/operator".into(), instance: Some(me.to_owned()) };
        let events = Recorder::new(client.clone(), reporter);
        Self { client, claim, slots: Arc::new(Semaphore::new(AT_ONCE)), events, state }
    }

    /// The client that writes.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Writes, if this replica leads at this very moment.
    ///
    /// # Errors
    /// When it does not, or the API server refuses or is silent.
    pub async fn write<T>(
        &self,
        kind: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, WriteError> {
        let _slot = self.slots.acquire().await.map_err(|_| WriteError::NotLeader)?;
        let written = async {
            if self.claim.borrow().term(Instant::now()).is_none() {
                return Err(WriteError::NotLeader);
            }
            match tokio::time::timeout(REQUEST, request).await {
                Ok(written) => written.map_err(WriteError::from),
                Err(_) => Err(WriteError::Timeout),
            }
        }
        .await;
        let result = written.as_ref().err().map_or("ok", WriteError::category);
        self.state.metrics.writes.get_or_create(&Done { kind, result }).inc();
        written
    }

    /// Writes a policy's status. The uid keeps it from landing on a successor of the same name.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn policy(&self, key: &Key, uid: &str, status: &DbPoolPolicyStatus) -> Result<(), WriteError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.namespace, &ApiResource::erase::<DbPoolPolicy>(&()));
        let patch = json!({
            "apiVersion": DbPoolPolicy::api_version(&()), "kind": DbPoolPolicy::kind(&()),
            "metadata": { "name": key.name, "uid": uid }, "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        let written = self.write("policy", api.patch_status(&key.name, &params, &Patch::Apply(&patch))).await;
        gone_if_replaced(written.map(|_| ()))
    }

    /// Writes a pod's conditions.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn pod(&self, key: &Key, uid: &str, conditions: &[PodCondition]) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({ "metadata": { "uid": uid }, "status": { "conditions": conditions } });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let written = self.write("pod", api.patch_status(&key.name, &params, &Patch::Strategic(&patch))).await;
        gone_if_replaced(written.map(|_| ()))
    }

    /// Tells of a transition by an Event; that it can't be told is no reason to try again.
    pub async fn event(
        &self,
        about: &k8s_openapi::api::core::v1::ObjectReference,
        good: bool,
        reason: &str,
        note: &str,
    ) {
        let mut note = note.to_owned();
        while note.len() > MAX_NOTE {
            note.pop();
        }
        let event = Event {
            type_: if good { EventType::Normal } else { EventType::Warning },
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".into(),
            secondary: None,
        };
        if let Err(error) = self.write("event", self.events.publish(&event, about)).await {
            tracing::debug!(error = causes(&error), "an Event was not written");
        }
    }
}

/// A uid that does not fit is 409 or 422: the object of that uid is gone.
fn gone_if_replaced(written: Result<(), WriteError>) -> Result<(), WriteError> {
    match written {
        Err(WriteError::Refused(kube::Error::Api(status)))
            if (status.is_conflict() || status.is_invalid()) && status.message.to_lowercase().contains("uid") =>
        {
            Err(WriteError::Gone)
        }
        other => other,
    }
}
