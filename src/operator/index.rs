//! Policies × pods → what each pod is to run. Pure: no I/O, no clock.
//!
//! Watches feed it, [`Index::flush`] settles the namespaces that changed and says which policies and pods want a new
//! status. Each pod owns a `watch` channel whose receiver is its sidecar's stream, so that a configuration travels at
//! once and never waits for a reconcile.
//!
//! Several policies may be for one pod if the names under which clients find them differ. Of two that claim the same
//! name, or want different listeners of one sidecar, the older wins; the newer is in conflict everywhere: pods that run
//! it keep it as it is, others don't get it.

mod model;
mod outlook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::watch;

pub use self::model::{Assigned, Changes, Entry, Key, Pod, Policy, PolicyView, Standing, Told};
use super::selector;
use crate::api::annotations::POLICY;
use crate::api::resolve;

#[derive(Debug)]
struct PodEntry {
    pod: Pod,
    told: watch::Sender<Told>,
    /// Uids of the policies that it was given or said to run.
    runs: BTreeSet<String>,
}

/// Everything that is known of one namespace.
#[derive(Debug, Default)]
struct Namespace {
    policies: BTreeMap<String, Arc<Policy>>,
    conflicts: BTreeMap<String, String>,
    pods: BTreeMap<String, PodEntry>,
}

/// Policies × pods.
#[derive(Debug, Default)]
pub struct Index {
    namespaces: BTreeMap<String, Namespace>,
    dirty: BTreeSet<String>,
    changes: Changes,
}

impl Index {
    /// Takes a policy in, new or changed.
    pub fn apply_policy(&mut self, policy: Policy) {
        let namespace = self.touch(&policy.key.namespace);
        let known = namespace.policies.get(&policy.key.name);
        if known.is_some_and(|known| **known == policy) {
            return;
        }
        let key = policy.key.clone();
        namespace.policies.insert(key.name.clone(), Arc::new(policy));
        self.changes.policies.insert(key);
    }

    /// Forgets a policy.
    pub fn delete_policy(&mut self, key: &Key) {
        if self.touch(&key.namespace).policies.remove(&key.name).is_some() {
            self.changes.policies.insert(key.clone());
        }
    }

    /// Takes a pod in, new or changed. A pod of the same name with another uid takes the old one's place.
    pub fn apply_pod(&mut self, pod: Pod) {
        let key = pod.key.clone();
        if let Some(known) = self.namespaces.get_mut(&key.namespace).and_then(|known| known.pods.get_mut(&key.name)) {
            if known.pod == pod {
                return;
            }
            if known.pod.uid == pod.uid {
                if known.pod.deleting != pod.deleting {
                    // It counts no more.
                    let told = known.told.borrow().clone();
                    self.changes.policies.extend(told.iter().map(|entry| entry.key().clone()));
                }
                known.pod = pod;
                self.touch(&key.namespace);
                self.changes.pods.insert(key);
                return;
            }
            // Its stream ends with the channel.
            self.delete_pod(&key);
        }
        let entry = PodEntry { pod, told: watch::Sender::default(), runs: BTreeSet::new() };
        self.touch(&key.namespace).pods.insert(key.name.clone(), entry);
        self.changes.pods.insert(key);
    }

    /// Forgets a pod.
    pub fn delete_pod(&mut self, key: &Key) {
        let Some(entry) = self.touch(&key.namespace).pods.remove(&key.name) else { return };
        let told = entry.told.borrow().clone();
        self.changes.policies.extend(told.iter().map(|entry| entry.key().clone()));
        self.changes.pods.insert(key.clone());
    }

    /// What is left of a full list: everything else of that kind is gone.
    pub fn retain_policies(&mut self, listed: &BTreeSet<Key>) {
        for key in self.policy_keys() {
            if !listed.contains(&key) {
                self.delete_policy(&key);
            }
        }
    }

    /// The same for pods.
    pub fn retain_pods(&mut self, listed: &BTreeSet<Key>) {
        for key in self.pod_keys() {
            if !listed.contains(&key) {
                self.delete_pod(&key);
            }
        }
    }

    /// A sidecar said which policies it runs, by uid: a new leader learns what a pod keeps.
    pub fn runs(&mut self, key: &Key, uid: &str, policies: impl IntoIterator<Item = String>) {
        let Some(namespace) = self.namespaces.get_mut(&key.namespace) else { return };
        let Some(entry) = namespace.pods.get_mut(&key.name).filter(|entry| entry.pod.uid == uid) else { return };
        // It may say what it likes: what is not there is not worth remembering.
        let known: BTreeSet<_> = namespace.policies.values().map(|policy| policy.uid.as_str()).collect();
        let before = entry.runs.len();
        entry.runs.extend(policies.into_iter().filter(|uid| known.contains(uid.as_str())));
        if entry.runs.len() != before {
            self.touch(&key.namespace);
        }
    }

    /// Settles what changed, tells the pods, and says whose status may be another now.
    pub fn flush(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        for name in std::mem::take(&mut self.dirty) {
            if let Some(namespace) = self.namespaces.get_mut(&name) {
                namespace.settle(&name, &mut changes);
                if namespace.policies.is_empty() && namespace.pods.is_empty() {
                    self.namespaces.remove(&name);
                }
            }
        }
        changes
    }

    /// What the pod of that uid is to run, and news of it; `None` if it isn't there, is another one, or goes.
    pub fn subscribe(&self, key: &Key, uid: &str) -> Option<watch::Receiver<Told>> {
        let entry = self.namespaces.get(&key.namespace)?.pods.get(&key.name)?;
        (entry.pod.uid == uid && !entry.pod.deleting).then(|| entry.told.subscribe())
    }

    /// A pod, and what it is to run.
    pub fn pod(&self, key: &Key) -> Option<(&Pod, Told)> {
        let entry = self.namespaces.get(&key.namespace)?.pods.get(&key.name)?;
        Some((&entry.pod, entry.told.borrow().clone()))
    }

    /// What is to be known of a policy.
    pub fn policy(&self, key: &Key) -> Option<PolicyView> {
        let namespace = self.namespaces.get(&key.namespace)?;
        let policy = Arc::clone(namespace.policies.get(&key.name)?);
        let standing = namespace.standing(&policy);
        let told = |entry: &PodEntry| {
            let of = entry.told.borrow().iter().find(|told| told.uid() == policy.uid).cloned();
            of.map(|told| (entry.pod.key.name.clone(), entry.pod.uid.clone(), told))
        };
        let (leaving, pods): (Vec<_>, Vec<_>) = namespace.pods.values().partition(|entry| entry.pod.deleting);
        let of = |entries: Vec<&PodEntry>| entries.into_iter().filter_map(told).collect();
        Some(PolicyView { pods: of(pods), leaving: of(leaving), policy, standing })
    }

    /// What a pod with these labels would run, for injection: the accepted policies that are for it, oldest first.
    pub fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<Assigned>> {
        let Some(namespace) = self.namespaces.get(namespace) else { return Vec::new() };
        let mut taken: Vec<&Policy> = Vec::new();
        for policy in namespace.by_age().into_iter().filter(|policy| is_for(policy, labels)) {
            let accepted = namespace.standing(policy) == Standing::Accepted;
            if accepted && taken.iter().all(|older| clash(older, policy).is_none()) {
                taken.push(policy);
            }
        }
        taken.into_iter().filter_map(|policy| policy.verdict.as_ref().ok()).cloned().collect()
    }

    /// All policies of a namespace, whatever their standing.
    pub fn policies(&self, namespace: &str) -> Vec<Arc<Policy>> {
        self.namespaces
            .get(namespace)
            .map(|namespace| namespace.policies.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Every policy, ordered by namespace and name.
    pub fn all_policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.namespaces.values().flat_map(|namespace| namespace.policies.values())
    }

    /// The key of every policy.
    pub fn policy_keys(&self) -> Vec<Key> {
        self.all_policies().map(|policy| policy.key.clone()).collect()
    }

    /// Every pod.
    pub fn pod_keys(&self) -> Vec<Key> {
        let all = self.namespaces.values().flat_map(|namespace| namespace.pods.values());
        all.map(|entry| entry.pod.key.clone()).collect()
    }

    /// Of every pod.
    pub fn pod_uids(&self) -> impl Iterator<Item = String> {
        self.namespaces.values().flat_map(|namespace| namespace.pods.values()).map(|entry| entry.pod.uid.clone())
    }

    /// Of every policy.
    pub fn policy_uids(&self) -> impl Iterator<Item = String> {
        self.namespaces.values().flat_map(|namespace| namespace.policies.values()).map(|policy| policy.uid.clone())
    }

    fn touch(&mut self, namespace: &str) -> &mut Namespace {
        self.dirty.insert(namespace.to_owned());
        self.namespaces.entry(namespace.to_owned()).or_default()
    }
}

impl Namespace {
    fn by_age(&self) -> Vec<&Policy> {
        let mut policies: Vec<_> = self.policies.values().map(|policy| &**policy).collect();
        policies.sort_by(|a, b| (a.created, &a.key).cmp(&(b.created, &b.key)));
        policies
    }

    fn standing(&self, policy: &Policy) -> Standing {
        match (&policy.verdict, self.conflicts.get(&policy.uid)) {
            (Err(problems), _) => Standing::Invalid(problems.clone()),
            (Ok(_), Some(conflict)) => Standing::Conflicted(conflict.clone()),
            (Ok(_), None) => Standing::Accepted,
        }
    }

    /// Decides who is in conflict, then what each pod is to run.
    fn settle(&mut self, name: &str, changes: &mut Changes) {
        let pods = self.pods.values().filter(|entry| !entry.pod.ended);
        let conflicts = conflicts(&self.by_age(), pods.map(|entry| &entry.pod.labels));
        let moved = |uid: &String| self.conflicts.get(uid) != conflicts.get(uid);
        let news = self.policies.values().filter(|policy| moved(&policy.uid));
        changes.policies.extend(news.map(|policy| policy.key.clone()));
        self.conflicts = conflicts;
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for pod in names {
            let Some(entries) = self.pods.get(&pod).map(|entry| self.entries(entry)) else { continue };
            let Some(entry) = self.pods.get_mut(&pod) else { continue };
            let before = entry.told.borrow().clone();
            if *before == entries {
                continue;
            }
            changes.policies.extend(before.iter().chain(&entries).map(|entry| entry.key().clone()));
            changes.pods.insert(Key::new(name, pod));
            entry.runs.extend(entries.iter().map(|entry| entry.uid().to_owned()));
            entry.told.send_replace(Arc::new(entries));
        }
    }

    fn entries(&self, entry: &PodEntry) -> Vec<Entry> {
        if entry.pod.ended {
            return Vec::new();
        }
        let here: Vec<_> = self.policies.values().filter(|policy| is_for(policy, &entry.pod.labels)).collect();
        let accepted = |policy: &Policy| self.standing(policy) == Standing::Accepted;
        let of = |policy: &Arc<Policy>| {
            if let (Ok(assigned), true) = (&policy.verdict, accepted(policy)) {
                return Some(Entry::Run(Arc::clone(assigned)));
            }
            let contested = || here.iter().any(|rival| accepted(rival) && clash(rival, policy).is_some());
            let (key, uid, generation) = (policy.key.clone(), policy.uid.clone(), policy.generation);
            let keep = entry.runs.contains(&uid) && !contested();
            keep.then_some(Entry::Keep { key, uid, generation })
        };
        here.iter().filter_map(|policy| of(policy)).collect()
    }
}

/// Whether a policy is for pods with these labels.
fn is_for(policy: &Policy, labels: &BTreeMap<String, String>) -> bool {
    match labels.get(POLICY) {
        Some(name) => *name == policy.key.name,
        None => policy.selector.as_ref().is_some_and(|selector| selector::matches(selector, labels)),
    }
}

/// Uid → why, for each policy that meets an older one on a pod and can't be served beside it. `policies` by age.
fn conflicts<'a>(
    policies: &[&Policy],
    pods: impl Iterator<Item = &'a BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    // Pods of one workload have the same labels: look at each set once.
    let kinds: BTreeSet<_> = pods.collect();
    let together: Vec<Vec<usize>> = kinds
        .into_iter()
        .map(|labels| (0..policies.len()).filter(|index| is_for(policies[*index], labels)).collect())
        .collect();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        let here = together.iter().filter(|kind| kind.contains(&index));
        let older: BTreeSet<usize> = here.flatten().copied().filter(|other| *other < index).collect();
        let rival = older
            .into_iter()
            .map(|older| policies[older])
            .filter(|older| !found.contains_key(&older.uid))
            .find_map(|older| clash(older, policy));
        if let Some(conflict) = rival {
            found.insert(policy.uid.clone(), conflict);
        }
    }
    found
}

/// Why the newer policy can't be served beside the older one.
fn clash(older: &Policy, newer: &Policy) -> Option<String> {
    let (Ok(a), Ok(b)) = (&older.verdict, &newer.verdict) else { return None };
    let problems = resolve::conflicts(&[&a.resolved, &b.resolved]);
    let all: Vec<_> = problems.into_iter().map(|(_, problem)| problem.to_string()).collect();
    (!all.is_empty()).then(|| format!("the older policy {} has its place on a pod: {}", older.key.name, all.join("; ")))
}

#[cfg(test)]
pub(super) mod tests;

pub use outlook::{Outlook, Withheld};
