//! What of a policy will hurt.

use super::Facts;
use crate::api::resolve::{Auth, CredentialsSource, Resolved, TlsMode};
use crate::operator::index::Policy;
use crate::operator::inject::is_generated_name;

/// Labels whose values controllers generate: another rollout has other ones.
const GENERATED_LABELS: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
];

/// All warnings about a valid policy.
pub fn warnings(policy: &Policy, resolved: &Resolved, facts: &dyn Facts) -> Vec<String> {
    let outlook = facts.outlook(policy);
    let mut warnings: Vec<_> = outlook.conflicts.iter().map(|conflict| format!("conflict: {conflict}")).collect();
    selection(policy, outlook.pods, &mut warnings);
    if let Some((limit, in_use)) = resolved.pool.limit().zip(facts.in_use(&policy.key)).filter(|(l, used)| l < used) {
        warnings.push(format!(
            "spec.pool: at most {limit} connections, and a pod uses {in_use} now: clients will wait until enough are given back"
        ));
    }
    let mode = resolved.database.tls;
    if matches!(mode, TlsMode::Prefer | TlsMode::Require) {
        warnings.push(format!(
            "spec.database.tls.mode: {mode:?} verifies nothing: whoever can answer in the server's place gets in between; \
             VerifyFull does not allow that"
        ));
    }
    if resolved.listen.auth == Auth::Trust {
        warnings.push(
            "spec.listen.auth: Trust lets in every process that reaches the sidecar, without a password: all containers of \
             the pod, and with hostNetwork whoever can open the socket"
                .into(),
        );
    }
    match &resolved.credentials {
        CredentialsSource::Environment => warnings.push(
            "spec.database.credentials: is missing, and sidecars in pods have no DATABASE_URL: they will not log in"
                .into(),
        ),
        CredentialsSource::Secret(_) => {}
    }
    for secret in resolved.secrets().into_iter().filter(|name| is_generated_name(name)) {
        warnings.push(format!(
            "Secret {secret} seems to have a generated name: with another one pods must be made anew, while a Secret that \
             keeps its name is read again as it changes"
        ));
    }
    warnings
}

fn selection(policy: &Policy, pods: usize, warnings: &mut Vec<String>) {
    let selector = policy.selector.as_ref();
    let labels = selector.and_then(|selector| selector.match_labels.as_ref()).into_iter().flatten().map(|(key, _)| key);
    let expressions = selector.and_then(|selector| selector.match_expressions.as_ref()).into_iter().flatten();
    for key in labels.chain(expressions.map(|expression| &expression.key)) {
        if GENERATED_LABELS.contains(&key.as_str()) {
            warnings.push(format!(
                "spec.selector: label {key} has generated values: pods of the next rollout will not match; select by a \
                 label of your own"
            ));
        }
    }
    if pods > 0 {
        return;
    }
    let (namespace, name) = (&policy.key.namespace, &policy.key.name);
    warnings.push(match selector {
        Some(_) => format!("spec.selector: no pod with a sidecar in namespace {namespace} matches yet"),
        None => format!(
            "spec.selector: is missing: only pods labelled poolkeeper.dev/policy: {name} get this policy, and there is none yet"
        ),
    });
}
