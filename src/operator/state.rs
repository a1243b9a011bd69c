//! What all tasks of the operator share.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::PodCondition;

use super::index::{Index, Key};
use super::metrics::{Kind, Metrics};
use super::queue::{Item, Queue};
use super::reports::Reports;
use crate::api::v1alpha1::DbPoolPolicyStatus;

/// What the cluster says of objects that only we write, by uid.
#[derive(Debug, Default)]
pub struct Seen {
    /// Statuses of policies.
    pub policies: HashMap<String, DbPoolPolicyStatus>,
    /// Conditions of pods, ours alone.
    pub pods: HashMap<String, Vec<PodCondition>>,
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
            let pods = index.pod_keys();
            let uids = pods.iter().filter_map(|key| index.pod(key)).map(|(pod, _)| pod.uid.clone()).collect();
            *self.reports() = Reports::new(now, uids);
            (index.policy_keys(), pods)
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
        self.metrics.streams.set(i64::try_from(self.reports().streams()).unwrap_or(i64::MAX));
    }
}
