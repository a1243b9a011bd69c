//! All policies at a glance, for `/metrics` and for people: what the cluster says of each.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::index::Key;
use super::metrics::{Metrics, PolicyCondition, PolicyPods};
use super::state::State;
use crate::api::conditions::{ACCEPTED, CREDENTIALS_ROTATED, Holds, PROGRAMMED, READY, RESOLVED_REFS, Reason};
use crate::api::v1alpha1::{DbPoolPolicyStatus, PodsStatus, PoolStatus};

/// The operator at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// Whether this replica leads; only a leader has streams and speaks for the policies.
    pub leading: bool,
    /// Streams of sidecars that stand.
    pub streams: usize,
    /// Pods with a sidecar.
    pub pods: usize,
    /// When the certificate authority ends, in seconds since 1970; 0 if there is none yet.
    pub authority_ends: f64,
    /// Every policy, ordered by namespace and name.
    pub policies: Vec<PolicyLine>,
}

/// One policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyLine {
    /// Its namespace and name.
    pub key: Key,
    /// Its generation.
    pub generation: i64,
    /// Accepted, ResolvedRefs, Programmed and Ready, in this order; CredentialsRotated while credentials change.
    pub conditions: Vec<Shown>,
    /// Its pods.
    pub pods: PodsStatus,
    /// Their pools together.
    pub pool: Option<PoolStatus>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Its type.
    pub condition: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, in one word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

impl Overview {
    /// Of the state now.
    pub fn of(state: &State) -> Self {
        let (policies, pods) = {
            let index = state.index();
            let policies: Vec<_> = index.all_policies().cloned().collect();
            (policies, index.pod_keys().len())
        };
        let streams = state.reports().streams();
        let seen = state.seen();
        let line = |policy: &std::sync::Arc<super::index::Policy>| {
            PolicyLine::new(policy.key.clone(), policy.generation, seen.policies.get(&policy.uid))
        };
        Self {
            leading: state.metrics.leading.get() == 1,
            streams,
            pods,
            authority_ends: state.metrics.authority_ends.get(),
            policies: policies.iter().map(line).collect(),
        }
    }

    /// Puts the policies into the gauges. Only a leader's have samples.
    pub fn count(&self, metrics: &Metrics) {
        metrics.conditions.clear();
        metrics.pods.clear();
        for line in self.policies.iter().filter(|_| self.leading) {
            let (policy_namespace, policy) = (line.key.namespace.clone(), line.key.name.clone());
            for shown in &line.conditions {
                let labels = PolicyCondition {
                    policy_namespace: policy_namespace.clone(),
                    policy: policy.clone(),
                    condition: shown.condition.to_owned(),
                    status: shown.status.clone(),
                    reason: shown.reason.clone(),
                };
                metrics.conditions.get_or_create(&labels).set(1);
            }
            let PodsStatus { matched, applied, healthy, restart_required, .. } = line.pods;
            let states = [
                ("matched", matched),
                ("applied", applied),
                ("healthy", healthy),
                ("restart_required", restart_required),
            ];
            for (state, count) in states {
                let labels = PolicyPods { policy_namespace: policy_namespace.clone(), policy: policy.clone(), state };
                metrics.pods.get_or_create(&labels).set(count.into());
            }
        }
    }
}

impl PolicyLine {
    /// A policy of this generation, with what the cluster has as its status. What is said of an older generation, or not
    /// at all, is unknown.
    fn new(key: Key, generation: i64, status: Option<&DbPoolPolicyStatus>) -> Self {
        let all = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let shown = |condition: &'static str| {
            let is_this = |c: &&Condition| c.type_ == condition && c.observed_generation == Some(generation);
            all.iter().find(is_this).map(|found| Shown {
                condition,
                status: found.status.clone(),
                reason: found.reason.clone(),
                message: found.message.clone(),
            })
        };
        let unknown = |condition: &'static str| Shown {
            condition,
            status: Holds::Unknown.name().into(),
            reason: Reason::Pending.name().into(),
            message: format!("nothing is written of generation {generation} yet"),
        };
        let always =
            [ACCEPTED, RESOLVED_REFS, PROGRAMMED, READY].map(|name| shown(name).unwrap_or_else(|| unknown(name)));
        Self {
            key,
            generation,
            conditions: always.into_iter().chain(shown(CREDENTIALS_ROTATED)).collect(),
            pods: status.and_then(|status| status.pods.clone()).unwrap_or_default(),
            pool: status.and_then(|status| status.pool.clone()),
        }
    }

    /// A condition by its type.
    pub fn condition(&self, name: &str) -> Option<&Shown> {
        self.conditions.iter().find(|shown| shown.condition == name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn line(observed: i64) -> PolicyLine {
        let condition = |name: &str, status: &str, reason: &str| {
            json!({ "type": name, "status": status, "reason": reason, "message": "why", "observedGeneration": observed,
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let status = json!({
            "observedGeneration": observed,
            "conditions": [condition("Accepted", "True", "Accepted"), condition("Ready", "False", "PodsRejected")],
            "pods": { "matched": 3, "applied": 2, "healthy": 1, "restartRequired": 0, "summary": "2/3" },
        });
        PolicyLine::new(Key::new("shop", "orders"), 7, Some(&serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn what_is_said_of_another_generation_counts_for_nothing() {
        let now = line(7);
        let ready = now.condition(READY).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "PodsRejected"));
        assert_eq!(now.condition(PROGRAMMED).unwrap().status, "Unknown", "nothing is said of it");
        let old = line(6);
        assert!(old.conditions.iter().all(|shown| shown.status == "Unknown" && shown.reason == "Pending"));
        assert_eq!(old.conditions.len(), 4);
    }

    #[test]
    fn only_a_leader_speaks_for_policies_and_what_is_gone_is_gone() {
        let metrics = Metrics::default();
        let mut overview = Overview { leading: true, policies: vec![line(7)], ..Overview::default() };
        overview.count(&metrics);
        let text = metrics.render().unwrap();
        for sample in [
            "poolkeeper_operator_policy_condition{policy_namespace=\"shop\",policy=\"orders\",condition=\"Ready\",status=\"False\",reason=\"PodsRejected\"} 1",
            "poolkeeper_operator_policy_pods{policy_namespace=\"shop\",policy=\"orders\",state=\"applied\"} 2",
        ] {
            assert!(text.contains(sample), "{sample}\n{text}");
        }
        overview.leading = false;
        overview.count(&metrics);
        assert!(!metrics.render().unwrap().contains("policy=\"orders\""));
    }
}
