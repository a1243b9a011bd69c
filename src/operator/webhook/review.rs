//! A request → a response. Pure but for what it asks of the [`Facts`].

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::api::DynamicObject;
use kube::core::Status;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, Operation};
use kube::core::response::{StatusCause, StatusDetails};
use serde_json::Value;

use crate::api::resolve::Problem;
use crate::operator::index::{Assigned, Key, Outlook, Policy, Withheld};
use crate::operator::inject::{self, Ask, Settings, Verdict};
use crate::operator::watch;

mod policy;

/// What is known beside the object itself.
pub trait Facts: Send + Sync + 'static {
    /// The policies that a pod with these labels would run, oldest first.
    fn matching(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Arc<Assigned>>;
    /// The policies that are for such a pod and would not be given to it.
    fn withheld(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Withheld>;
    /// What a policy would bring about.
    fn outlook(&self, policy: &Policy) -> Outlook;
    /// The most server connections that one pod's sidecar has lent out by this policy now; none = nothing was heard.
    fn in_use(&self, policy: &Key) -> Option<u32>;
    /// What is injected.
    fn settings(&self) -> Arc<Settings>;
    /// A review was answered; for whoever counts.
    fn reviewed(&self, _request: &AdmissionRequest<DynamicObject>, _allowed: bool) {}
}

/// Who asks for the sidecar; the API server has looked, since the webhook's selectors say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The pod's own label.
    Pod,
    /// The label of its namespace.
    Namespace,
}

/// The name of the object, or the beginning of one that is to be generated.
pub fn name(request: &AdmissionRequest<DynamicObject>) -> &str {
    let metadata = request.object.as_ref().map(|object| &object.metadata);
    let generated = || metadata.and_then(|metadata| metadata.generate_name.as_deref()).unwrap_or_default();
    if request.name.is_empty() { generated() } else { &request.name }
}

/// Gives a pod its sidecar.
pub fn pod(request: &AdmissionRequest<DynamicObject>, asks: Asks, facts: &dyn Facts) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let Some(object) = request.object.as_ref().filter(|_| is_creation(request, "Pod")) else { return response };
    let before = match serde_json::to_value(object) {
        Ok(before) => before,
        Err(error) => return refuse(response, 400, "BadRequest", error.to_string()),
    };
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let labels = inject::labels(&before);
    let (policies, withheld) = (facts.matching(namespace, &labels), facts.withheld(namespace, &labels));
    let namespace_asks = asks == Asks::Namespace;
    let ask = Ask { namespace, namespace_asks, policies: &policies, withheld: &withheld };
    match inject::inject(&before, &ask, &facts.settings()) {
        Verdict::Skip(_) => response,
        Verdict::Deny(sentence) => refuse(response, 403, "Forbidden", sentence),
        Verdict::Inject(injected) => patched(response, &before, injected.pod, injected.warnings),
    }
}

/// The response with what turns one into the other.
fn patched(response: AdmissionResponse, before: &Value, after: Value, warnings: Vec<String>) -> AdmissionResponse {
    let patch = json_patch::diff(before, &after);
    let response = warn(response, warnings);
    if patch.is_empty() {
        return response;
    }
    let fallback = response.clone();
    match response.with_patch(patch) {
        Ok(response) => response,
        Err(error) => refuse(fallback, 500, "InternalError", error.to_string()),
    }
}

/// Looks at a policy: refuses what breaks a rule, with every path, and warns of what will hurt.
pub fn policy(request: &AdmissionRequest<DynamicObject>, facts: &dyn Facts) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let looked_at = matches!(request.operation, Operation::Create | Operation::Update);
    let Some(object) = request.object.as_ref().filter(|_| looked_at && request.kind.kind == "DbPoolPolicy") else {
        return response;
    };
    let policy = watch::policy(object);
    match &policy.verdict {
        Err(problems) => invalid(response, &policy.key, problems),
        Ok(assigned) => {
            let warnings = policy::warnings(&policy, &assigned.resolved, facts);
            warn(response, warnings)
        }
    }
}

fn is_creation(request: &AdmissionRequest<DynamicObject>, kind: &str) -> bool {
    let whole = request.sub_resource.as_deref().is_none_or(str::is_empty);
    request.operation == Operation::Create && whole && request.kind.kind == kind && request.kind.group.is_empty()
}

fn warn(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    response
}

fn refuse(response: AdmissionResponse, code: u16, reason: &str, message: String) -> AdmissionResponse {
    let mut response = response.deny("");
    response.result = Status::failure(&message, reason).with_code(code);
    response
}

/// As the API server itself says it: all problems in one line, and each with its path for programs.
fn invalid(response: AdmissionResponse, key: &Key, problems: &[Problem]) -> AdmissionResponse {
    let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let mut response = refuse(response, 422, "Invalid", all.join("; "));
    let cause = |problem: &Problem| StatusCause {
        reason: "FieldValueInvalid".into(),
        message: problem.message.clone(),
        field: problem.path.clone(),
    };
    response.result.details = Some(StatusDetails {
        name: key.name.clone(),
        group: "poolkeeper.dev".into(),
        kind: "DbPoolPolicy".into(),
        uid: String::new(),
        causes: problems.iter().map(cause).collect(),
        retry_after_seconds: 0,
    });
    response
}
