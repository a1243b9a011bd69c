//! One watch a kind: what the API server says goes into the index.
//!
//! Policies are read as plain JSON, so that no object, however old or strange, stops the watch; the index gets a verdict
//! of each. Pods are those that injection has labelled.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod as KubePod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::index::{Assigned, Key, Pod, Policy};
use super::metrics::Kind;
use super::state::State;
use crate::api::annotations::{INJECTED, POOL_CONFIGURED, POOL_HEALTHY};
use crate::api::resolve::resolve_value;
use crate::api::v1alpha1::{DbPoolPolicy, DbPoolPolicyStatus};
use crate::telemetry::causes;

/// After the first failure; doubled with each.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// At most.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// The API server ends each watch after so many seconds, and another begins where it was: one whose connection is dead
/// is noticed soon after. Shorter than API servers keep what happened.
pub const TURN: u32 = 45;
/// A watch that held so long was a good one: the next failure is a first.
const LASTED: Duration = Duration::from_secs(30);

/// Between two attempts of a watch: longer each time, and never the same for two replicas. Failures that follow each
/// other are one row whatever lies between them: a watch says that it begins each time, and that is no success.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    last: Option<Instant>,
}

impl Iterator for Pace {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.replace(now).is_none_or(|last| now.saturating_duration_since(last) >= LASTED) {
            self.failures = 0;
        }
        let most = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LAST_RETRY);
        self.failures += 1;
        Some(most.mul_f64(rand::random_range(0.5..1.0)))
    }
}

impl Backoff for Pace {
    fn reset(&mut self) {}
}

/// One kind of object that is watched.
trait Watched: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static {
    /// As metrics call it.
    const KIND: &'static str;
    fn key(&self) -> Key;
    fn apply(self, state: &State);
    fn delete(self, state: &State);
    /// Everything else of the kind is gone.
    fn retain(listed: &BTreeSet<Key>, state: &State);
}

/// Watches policies until told to stop; `synced` becomes true with the first full list.
pub async fn policies(client: Client, state: Arc<State>, synced: watch::Sender<bool>, stop: CancellationToken) {
    let api: Api<DynamicObject> = Api::all_with(client, &ApiResource::erase::<DbPoolPolicy>(&()));
    run(watcher(api, watcher::Config::default().timeout(TURN)), &state, &synced, &stop).await;
}

/// The same for pods with a sidecar.
pub async fn pods(client: Client, state: Arc<State>, synced: watch::Sender<bool>, stop: CancellationToken) {
    let config = watcher::Config::default().labels(INJECTED).timeout(TURN);
    run(watcher(Api::<KubePod>::all(client), config), &state, &synced, &stop).await;
}

async fn run<K: Watched>(
    events: impl futures_util::Stream<Item = watcher::Result<Event<K>>> + Send,
    state: &State,
    synced: &watch::Sender<bool>,
    stop: &CancellationToken,
) {
    // A handful of watches in all: what is the API server's own pace after an outage is ours, too.
    let mut events = pin!(events.backoff(Pace::default()));
    let mut listed = None;
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.next() => event,
        };
        let Some(event) = event else { return };
        take(event, &mut listed, state, synced);
        // What is there already is settled together.
        while let Some(Some(event)) = events.next().now_or_never() {
            take(event, &mut listed, state, synced);
        }
        if listed.is_none() {
            state.settle();
        }
    }
}

/// Takes one event in; `listed` is what a list under way has brought so far.
fn take<K: Watched>(
    event: watcher::Result<Event<K>>,
    listed: &mut Option<BTreeSet<Key>>,
    state: &State,
    synced: &watch::Sender<bool>,
) {
    match event {
        Ok(Event::Init) => *listed = Some(BTreeSet::new()),
        Ok(Event::InitApply(object)) => {
            if let Some(listed) = listed {
                listed.insert(object.key());
            }
            object.apply(state);
        }
        Ok(Event::InitDone) => {
            if let Some(listed) = listed.take() {
                K::retain(&listed, state);
            }
            synced.send_replace(true);
        }
        Ok(Event::Apply(object)) => object.apply(state),
        Ok(Event::Delete(object)) => object.delete(state),
        Err(error) => {
            state.metrics.watch_errors.get_or_create(&Kind { kind: K::KIND }).inc();
            tracing::warn!(kind = K::KIND, error = causes(&error), "the watch had an error and goes on");
        }
    }
}

impl Watched for DynamicObject {
    const KIND: &'static str = "policy";

    fn key(&self) -> Key {
        Key::new(self.namespace().unwrap_or_default(), self.name_any())
    }

    fn apply(self, state: &State) {
        // A status that can't be read is none: it is written anew.
        let status = serde_json::from_value::<DbPoolPolicyStatus>(self.data["status"].clone()).ok();
        state.index().apply_policy(policy(&self));
        state.saw_policy(&Watched::key(&self), self.uid().unwrap_or_default(), status);
    }

    fn delete(self, state: &State) {
        state.seen().policies.remove(&self.uid().unwrap_or_default());
        state.index().delete_policy(&self.key());
    }

    fn retain(listed: &BTreeSet<Key>, state: &State) {
        state.index().retain_policies(listed);
        state.retain_policies();
    }
}

/// What the index is to know of a policy.
pub fn policy(object: &DynamicObject) -> Policy {
    let key = Watched::key(object);
    let (uid, generation) = (object.uid().unwrap_or_default(), object.metadata.generation.unwrap_or_default());
    let spec = &object.data["spec"];
    let document = json!({
        "apiVersion": object.types.as_ref().map(|types| types.api_version.as_str()),
        "kind": object.types.as_ref().map(|types| types.kind.as_str()),
        "metadata": { "name": key.name, "namespace": key.namespace, "generation": generation },
        "spec": spec,
    });
    let assigned = |resolved| Arc::new(Assigned::new(key.clone(), uid.clone(), generation, resolved));
    Policy {
        uid: uid.clone(),
        created: object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        generation,
        selector: serde_json::from_value(spec["selector"].clone()).ok(),
        verdict: resolve_value(document).map(assigned),
        key: key.clone(),
    }
}

impl Watched for KubePod {
    const KIND: &'static str = "pod";

    fn key(&self) -> Key {
        Key::new(self.namespace().unwrap_or_default(), self.name_any())
    }

    fn apply(self, state: &State) {
        let status = self.status.as_ref();
        let ours = |kind: &str| kind == POOL_CONFIGURED || kind == POOL_HEALTHY;
        let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
        let conditions = conditions.filter(|condition| ours(&condition.type_)).cloned().collect();
        let pod = Pod {
            key: Watched::key(&self),
            uid: self.uid().unwrap_or_default(),
            deleting: self.metadata.deletion_timestamp.is_some(),
            ended: status.and_then(|s| s.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")),
            labels: self.metadata.labels.clone().unwrap_or_default(),
        };
        let (key, uid) = (pod.key.clone(), pod.uid.clone());
        state.index().apply_pod(pod);
        state.saw_pod(&key, uid, conditions);
    }

    fn delete(self, state: &State) {
        let uid = self.uid().unwrap_or_default();
        state.seen().pods.remove(&uid);
        state.index().delete_pod(&self.key());
        state.reports().forget(&uid);
    }

    fn retain(listed: &BTreeSet<Key>, state: &State) {
        state.index().retain_pods(listed);
        state.retain_pods();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::Value;

    use super::*;

    fn object(spec: Value) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "poolkeeper.dev/v1alpha1", "kind": "DbPoolPolicy",
            "metadata": { "name": "orders", "namespace": "shop", "uid": "u", "generation": 3,
                "creationTimestamp": "2026-11-23T00:00:00Z", "managedFields": [{ "manager": "kubectl" }] },
            "spec": spec, "status": { "conditions": "broken" },
        }))
        .unwrap()
    }

    #[test]
    fn what_was_deleted_while_the_watch_was_away_is_gone() {
        let (state, synced, mut listed) = (State::default(), watch::Sender::new(false), None);
        let spec = || json!({ "database": { "host": "h", "name": "n" } });
        let known = || state.index().policy_keys();
        let mut event = |event| take(event, &mut listed, &state, &synced);
        event(Ok(Event::Init));
        event(Ok(Event::InitApply(object(spec()))));
        assert!(!*synced.borrow());
        event(Ok(Event::InitDone));
        assert!(*synced.borrow() && known().len() == 1);
        // 410 Gone: the list comes anew, without it.
        event(Err(watcher::Error::NoResourceVersion));
        event(Ok(Event::Init));
        assert_eq!(known().len(), 1, "nothing is taken away before the list is whole");
        state.saw_policy(&Key::new("shop", "orders"), "u".into(), Some(DbPoolPolicyStatus::default()));
        event(Ok(Event::InitDone));
        assert_eq!(known(), []);
        assert!(state.seen().policies.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_again_and_again_is_tried_less_and_less() {
        let error = || Err(watcher::Error::NoResourceVersion);
        // As the watcher has it: each attempt begins well.
        let events = futures_util::stream::iter(0..)
            .map(|n| if n % 2 == 0 { Ok(Event::<DynamicObject>::Init) } else { error() });
        let (state, synced, stop) = (State::default(), watch::Sender::new(false), CancellationToken::new());
        let _ = tokio::time::timeout(Duration::from_secs(120), run(events, &state, &synced, &stop)).await;
        let tries = state.metrics.watch_errors.get_or_create(&Kind { kind: "policy" }).get();
        assert!((24..60).contains(&tries), "{tries}");
    }

    #[test]
    fn a_status_that_somebody_takes_away_is_forgotten() {
        let state = State::default();
        let mut policy = object(json!({}));
        policy.data["status"] = json!({ "observedGeneration": 3 });
        policy.clone().apply(&state);
        assert_eq!(state.seen().policies["u"].observed_generation, Some(3));
        policy.data.as_object_mut().unwrap().remove("status");
        policy.apply(&state);
        assert!(state.seen().policies.is_empty());
    }

    #[test]
    fn whatever_a_policy_holds_it_is_read() {
        let good = policy(&object(
            json!({ "selector": { "matchLabels": { "a": "b" } }, "database": { "host": "h", "name": "n" } }),
        ));
        assert_eq!((good.uid.as_str(), good.generation, good.verdict.is_ok()), ("u", 3, true));
        assert!(good.selector.is_some());
        for bad in [json!(null), json!(7), json!({ "database": 7, "selector": [] }), json!({ "new": { "field": 1 } })] {
            let state = State::default();
            object(bad.clone()).apply(&state);
            let policy = policy(&object(bad));
            assert!(policy.verdict.is_err() && policy.key == Key::new("shop", "orders"));
        }
    }
}
