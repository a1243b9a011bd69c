//! What all tasks of the operator share.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodCondition;

use super::index::{Index, Key, PolicyView};
use super::metrics::{Kind, Metrics};
use super::overview::Overview;
use super::queue::{Item, Queue};
use super::reports::Reports;
use crate::api::conditions::Reason;
use crate::api::v1alpha1::DbPoolPolicyStatus;

/// A status that is another now is looked at after this time: mostly it is the echo of our own write.
const SETTLED: Duration = Duration::from_secs(1);

/// What the cluster says of objects that only we write, by uid.
#[derive(Debug, Default)]
pub struct Seen {
    /// Statuses of policies.
    pub policies: HashMap<String, DbPoolPolicyStatus>,
    /// Conditions of pods, ours alone.
    pub pods: HashMap<String, Vec<PodCondition>>,
}

impl Seen {
    /// Uids of pods whose sidecars were heard from, as their conditions have it.
    fn heard(&self) -> HashSet<String> {
        let silent = [Reason::Pending, Reason::NoPolicy].map(|reason| Some(reason.name()));
        let tells = |condition: &PodCondition| !silent.contains(&condition.reason.as_deref());
        self.pods.iter().filter(|(_, all)| all.iter().any(tells)).map(|(uid, _)| uid.clone()).collect()
    }
}

/// What is known, and what is to be done about it.
#[derive(Debug)]
pub struct State {
    index: Mutex<Index>,
    reports: Mutex<Reports>,
    seen: Mutex<Seen>,
    /// What is to be reconciled.
    pub queue: Queue,
    /// What is counted.
    pub metrics: Metrics,
}

impl Default for State {
    fn default() -> Self {
        Self {
            index: Mutex::default(),
            reports: Mutex::new(Reports::new(Instant::now(), HashSet::new())),
            seen: Mutex::default(),
            queue: Queue::default(),
            metrics: Metrics::default(),
        }
    }
}

impl State {
    /// Policies and pods.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What sidecars said. Where both are needed, the index is locked first.
    pub fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the cluster says.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles the index and asks for a look at everything that this changed.
    pub fn settle(&self) {
        let changes = self.index().flush();
        self.queue.add_changes(changes);
    }

    /// What is to be known of a policy, all of it about the same generation: a watch takes a policy first, and settles what
    /// that means for pods a moment later.
    pub fn policy(&self, key: &Key) -> Option<PolicyView> {
        let (changes, view) = {
            let mut index = self.index();
            (index.flush(), index.policy(key))
        };
        self.queue.add_changes(changes);
        view
    }

    /// A policy's status as it is in the cluster now. One that is not as it was, by whomever, is looked at.
    pub fn saw_policy(&self, key: &Key, uid: String, status: Option<DbPoolPolicyStatus>) {
        let mut seen = self.seen();
        let before = match &status {
            Some(status) => seen.policies.insert(uid, status.clone()),
            None => seen.policies.remove(&uid),
        };
        drop(seen);
        if before != status {
            self.queue.add(Item::Policy(key.clone()), SETTLED);
        }
    }

    /// The same for our conditions of a pod.
    pub fn saw_pod(&self, key: &Key, uid: String, conditions: Vec<PodCondition>) {
        let before = self.seen().pods.insert(uid, conditions.clone());
        if before != Some(conditions) {
            self.queue.add(Item::Pod(key.clone()), SETTLED);
        }
    }

    /// Forgets what was said of and by pods that are not there any more.
    pub fn retain_pods(&self) {
        let uids: HashSet<_> = self.index().pod_uids().collect();
        self.seen().pods.retain(|uid, _| uids.contains(uid));
        self.reports().retain(&uids);
    }

    /// The same for policies.
    pub fn retain_policies(&self) {
        let uids: HashSet<_> = self.index().policy_uids().collect();
        self.seen().policies.retain(|uid, _| uids.contains(uid));
    }

    /// A sidecar's news concern its pod and the policies that the pod was told.
    pub fn ask_for_pod(&self, pod: &Key) {
        let told = self.index().pod(pod).map(|(_, told)| told);
        for entry in told.iter().flat_map(|told| told.iter()) {
            self.queue.add(Item::Policy(entry.key().clone()), Duration::from_millis(50));
        }
        self.queue.add(Item::Pod(pod.clone()), Duration::ZERO);
    }

    /// A new leader: nothing was heard yet, and everything is to be looked at.
    pub fn begin(&self) {
        let now = Instant::now();
        let (policies, pods) = {
            let index = self.index();
            // A pod of which nothing good was ever written has no state to keep: nobody has heard from it.
            let known = self.seen().heard();
            self.reports().begin(now, index.pod_uids().filter(|uid| known.contains(uid)).collect());
            (index.policy_keys(), index.pod_keys())
        };
        for key in policies {
            self.queue.add(Item::Policy(key), Duration::ZERO);
        }
        for key in pods {
            self.queue.add(Item::Pod(key), Duration::ZERO);
        }
    }

    /// Brings the gauges up to date, for a scrape.
    pub fn count(&self) {
        let (policies, pods) = {
            let index = self.index();
            (index.policy_keys().len(), index.pod_keys().len())
        };
        let gauge = |kind, count: usize| {
            self.metrics.objects.get_or_create(&Kind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        gauge("policy", policies);
        gauge("pod", pods);
        Overview::of(self).count(&self.metrics);
        self.metrics.streams.set(i64::try_from(self.reports().streams()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::super::index::Entry;
    use super::super::index::tests::{pod, policy, spec};
    use super::*;

    /// Else pods that run the generation before would be counted as running this one.
    #[test]
    fn a_policy_is_seen_with_what_it_means_for_its_pods() {
        let (state, key) = (State::default(), Key::new("shop", "orders"));
        state.index().apply_pod(pod("orders-1", &[("app", "orders")]));
        for generation in 1..=2 {
            state.index().apply_policy(policy("orders", 1, generation, spec("orders", "orders", 5)));
            let view = state.policy(&key).unwrap();
            assert_eq!(view.policy.generation, generation);
            let Entry::Run(assigned) = &view.pods[0].2 else { panic!("{view:?}") };
            assert_eq!(assigned.generation, generation);
        }
    }
}
