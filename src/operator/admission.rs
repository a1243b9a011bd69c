//! What the webhooks know: the same index as the streams, and what sidecars reported.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::core::admission::AdmissionRequest;
use tokio::sync::watch;

use super::index::{Assigned, Key, Outlook, Policy, Withheld};
use super::inject::Settings;
use super::metrics::Done;
use super::reports::by_uid;
use super::state::State;
use super::webhook::Facts;

/// What the webhooks know.
#[derive(Debug)]
pub struct Admission {
    state: Arc<State>,
    settings: Settings,
    authorities: watch::Receiver<Arc<str>>,
}

impl Admission {
    /// Settings without their authorities, which are whatever signs our certificates at the time.
    pub fn new(state: Arc<State>, settings: Settings, authorities: watch::Receiver<Arc<str>>) -> Self {
        Self { state, settings, authorities }
    }
}

impl Facts for Admission {
    fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<Assigned>> {
        self.state.index().matching(namespace, labels)
    }

    fn withheld(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Withheld> {
        self.state.index().withheld(namespace, labels)
    }

    fn outlook(&self, policy: &Policy) -> Outlook {
        self.state.index().outlook(policy)
    }

    /// Only the leader hears from sidecars: another replica knows nothing, and warns of nothing.
    fn in_use(&self, policy: &Key) -> Option<u32> {
        let view = self.state.policy(policy)?;
        let reports = self.state.reports();
        let of = |uid: &str| {
            let report = reports.get(uid)?.report.as_deref()?;
            by_uid(report).get(view.policy.uid.as_str())?.numbers.as_ref().map(|numbers| numbers.in_use)
        };
        view.pods.iter().filter_map(|(_, uid, _)| of(uid)).max()
    }

    fn reviewed(&self, request: &AdmissionRequest<DynamicObject>, allowed: bool) {
        let kind = if request.kind.kind == "Pod" { "pod" } else { "policy" };
        let result = if allowed { "allowed" } else { "refused" };
        self.state.metrics.admissions.get_or_create(&Done { kind, result }).inc();
    }

    fn settings(&self) -> Arc<Settings> {
        Arc::new(Settings { ca: self.authorities.borrow().to_string(), ..self.settings.clone() })
    }
}
