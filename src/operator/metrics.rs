//! The operator's own `/metrics`, in OpenMetrics' text format.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Labels of what was done to one kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Done {
    /// `policy`, `pod`, `lease`, …
    pub kind: &'static str,
    /// `ok`, or the category of the error.
    pub result: &'static str,
}

/// Labels of one kind of object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Kind {
    /// `policy` or `pod`.
    pub kind: &'static str,
}

/// Labels of one condition of one policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyCondition {
    /// The policy's namespace: `namespace` would be taken for the operator's own.
    pub policy_namespace: String,
    /// The policy's name.
    pub policy: String,
    /// `Accepted`, `ResolvedRefs`, `Programmed` or `Ready`.
    pub condition: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why.
    pub reason: String,
}

/// Labels of one policy's pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PolicyPods {
    /// The policy's namespace.
    pub policy_namespace: String,
    /// The policy's name.
    pub policy: String,
    /// `matched`, `applied`, `healthy` or `restart_required`.
    pub state: &'static str,
}

/// Everything that the operator counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Reconciles by kind and result.
    pub reconciles: Family<Done, Counter>,
    /// How long they took.
    pub reconcile_time: Family<Kind, Histogram>,
    /// Writes to the API server by kind and result.
    pub writes: Family<Done, Counter>,
    /// Errors of watches by kind.
    pub watch_errors: Family<Kind, Counter>,
    /// Streams of sidecars that stand now.
    pub streams: Gauge,
    /// Streams by what became of their greeting: `welcome` or the reason of the refusal.
    pub greetings: Family<Done, Counter>,
    /// From a policy's change to its being applied by all its pods.
    pub programmed: Histogram,
    /// Whether this replica leads.
    pub leading: Gauge,
    /// Policies and pods that are known.
    pub objects: Family<Kind, Gauge>,
    /// Conditions of policies, 1 each; of the leader alone, so that none counts twice.
    pub conditions: Family<PolicyCondition, Gauge>,
    /// Pods of policies by what became of them; of the leader alone.
    pub pods: Family<PolicyPods, Gauge>,
    /// Admission requests by kind and verdict.
    pub admissions: Family<Done, Counter>,
    /// When the certificate authority ends, in seconds since 1970.
    pub authority_ends: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histogram = || Histogram::new(BUCKETS);
        let mut metrics = Self {
            registry: Registry::with_prefix("poolkeeper_operator"),
            reconciles: Family::default(),
            reconcile_time: Family::new_with_constructor(histogram),
            writes: Family::default(),
            watch_errors: Family::default(),
            streams: Gauge::default(),
            greetings: Family::default(),
            programmed: histogram(),
            leading: Gauge::default(),
            objects: Family::default(),
            conditions: Family::default(),
            pods: Family::default(),
            admissions: Family::default(),
            authority_ends: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let Self {
            registry,
            reconciles,
            reconcile_time,
            writes,
            watch_errors,
            streams,
            greetings,
            programmed,
            leading,
            objects,
            conditions,
            pods,
            admissions,
            authority_ends,
        } = self;
        registry.register("reconciles", "Reconciles by kind and result", reconciles.clone());
        let help = "How long reconciles took";
        registry.register_with_unit("reconcile_duration", help, Unit::Seconds, reconcile_time.clone());
        registry.register("api_writes", "Writes to the API server by kind and result", writes.clone());
        registry.register("watch_errors", "Errors of watches by kind", watch_errors.clone());
        registry.register("streams", "Streams of sidecars that stand now", streams.clone());
        registry.register("greetings", "Sidecars that came, by what they were told", greetings.clone());
        let help = "From a policy's change until every pod said that it runs it";
        registry.register_with_unit("time_to_programmed", help, Unit::Seconds, programmed.clone());
        registry.register("leading", "Whether this replica leads: 1 or 0", leading.clone());
        registry.register("objects", "Policies and pods that are known", objects.clone());
        let help = "Conditions of policies, 1 each; told by the leader";
        registry.register("policy_condition", help, conditions.clone());
        let help = "Pods of policies: matched, applied, healthy, restart_required; told by the leader";
        registry.register("policy_pods", help, pods.clone());
        registry.register("admissions", "Admission requests by kind and verdict", admissions.clone());
        let help = "When the certificate authority ends, since 1970";
        registry.register_with_unit("authority_end_timestamp", help, Unit::Seconds, authority_ends.clone());
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Done { kind, result }).inc();
        self.reconcile_time.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
    }

    /// All of it as text.
    ///
    /// # Errors
    /// Never, unless the encoder refuses what it is given.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_prometheus_like() {
        let metrics = Metrics::default();
        metrics.reconciled("policy", "ok", Duration::from_millis(3));
        metrics.streams.set(7);
        let text = metrics.render().unwrap();
        for line in [
            "poolkeeper_operator_reconciles_total{kind=\"policy\",result=\"ok\"} 1",
            "poolkeeper_operator_reconcile_duration_seconds_count{kind=\"policy\"} 1",
            "poolkeeper_operator_streams 7",
            "# TYPE poolkeeper_operator_time_to_programmed_seconds histogram",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
