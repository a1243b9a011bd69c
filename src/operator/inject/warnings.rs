//! What will hurt, said to whoever creates the pod.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;

use super::plan::Plan;
use super::{Ask, annotation, label, list};
use crate::api::annotations::{CREDENTIALS, DISABLED, ENABLED, INJECT};
use crate::api::resolve::CredentialsSource;
use crate::operator::index::Withheld;

/// What Kubernetes grants where a pod does not say it, in seconds.
const DEFAULT_GRACE: i64 = 30;
/// What the sidecar needs to close its server connections after the app has ended, in seconds.
const DRAIN: i64 = 2;

/// All warnings but those of single containers.
pub fn of(plan: &Plan<'_>, ask: &Ask<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    label_value(plan, &mut warnings);
    if plan.host_network {
        let socket = plan.socket.as_deref().unwrap_or_default();
        warnings.push(format!("hostNetwork: clients reach the sidecar by the unix socket in {socket} only"));
        let dns = plan.spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
        if dns == "ClusterFirst" || dns == "Default" {
            warnings.push(format!(
                "hostNetwork with dnsPolicy {dns} asks the node's name servers, which do not know the operator's Service: \
                 the sidecar would keep what it was made with; write dnsPolicy: ClusterFirstWithHostNet"
            ));
        }
    }
    grace(plan, &mut warnings);
    ports(plan, &mut warnings);
    secrets(plan, &mut warnings);
    policies(plan, ask, &mut warnings);
    if plan.old_kubelets {
        warnings.push("kubelets of this cluster may be older than 1.29 and have no native sidecars: the pod would not start there".into());
    }
    warnings
}

fn label_value(plan: &Plan<'_>, warnings: &mut Vec<String>) {
    if let Some(value) = label(plan.pod, INJECT).filter(|value| ![ENABLED, DISABLED].contains(value)) {
        warnings
            .push(format!("label {INJECT}: {value:?} is neither enabled nor disabled: the namespace's label holds"));
    }
}

/// The app's own shutdown, then the sidecar's, must fit into the pod's.
fn grace(plan: &Plan<'_>, warnings: &mut Vec<String>) {
    let grace = plan.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    let pause = plan.spec.containers.iter().map(pause).max().unwrap_or(0);
    if grace < pause + DRAIN {
        warnings.push(format!(
            "terminationGracePeriodSeconds is {grace}: a preStop hook takes {pause} s and the sidecar {DRAIN} s after the \
             app has ended; make it {} or more",
            pause + DRAIN
        ));
        return;
    }
    let longest = plan.policies.iter().filter_map(|policy| policy.resolved.timeouts.statement).max();
    let longest = longest.map_or(0, whole_seconds);
    if grace < pause + longest {
        warnings.push(format!(
            "terminationGracePeriodSeconds is {grace}, and spec.timeouts.statement allows {longest} s: a transaction at \
             the end may be cut; make it {} or more, or lower the timeout",
            pause + longest
        ));
    }
}

fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs() + u64::from(time.subsec_nanos() > 0)).unwrap_or(i64::MAX / 2)
}

/// The time that a preStop hook sleeps.
fn pause(container: &Container) -> i64 {
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    hook.and_then(|hook| hook.sleep.as_ref()).map_or(0, |sleep| sleep.seconds)
}

/// Two containers of a pod can't have the same port.
fn ports(plan: &Plan<'_>, warnings: &mut Vec<String>) {
    if plan.host_network {
        return;
    }
    let clients = plan.tcp.map(|(_, port)| (port, "spec.listen.port of the policy"));
    let http = (plan.settings.http_port, "the HTTP endpoints");
    for (ours, purpose) in clients.into_iter().chain([http]) {
        for container in plan.containers() {
            let declared = container.ports.iter().flatten();
            let mut tcp = declared.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            if tcp.any(|port| port.container_port == i32::from(ours)) {
                let name = &container.name;
                warnings.push(format!(
                    "container {name:?} has port {ours}, where the sidecar listens ({purpose}): whoever comes second fails"
                ));
            }
        }
    }
}

fn secrets(plan: &Plan<'_>, warnings: &mut Vec<String>) {
    for name in plan.secrets.iter().filter(|name| is_generated(name)) {
        warnings.push(format!(
            "Secret {name} seems to have a generated name: with another one (new credentials) pods must be made anew, \
             while a Secret that keeps its name is read again as it changes"
        ));
    }
    for policy in &plan.policies {
        let name = &policy.key.name;
        let missing = policy.resolved.secrets().into_iter().filter(|secret| !plan.secrets.iter().any(|s| s == secret));
        let missing = list(missing);
        if plan.secrets_named && !missing.is_empty() {
            warnings.push(format!(
                "DbPoolPolicy {name} needs Secret {missing}, which annotation {CREDENTIALS} does not name"
            ));
        }
        if policy.resolved.credentials == CredentialsSource::Environment {
            warnings.push(format!(
                "DbPoolPolicy {name} names no credentials: set spec.database.credentials.secretName, a sidecar in a pod \
                 has no DATABASE_URL"
            ));
        }
    }
}

/// Whether the name ends as kustomize ends names of generated Secrets: ten characters of its alphabet.
pub fn is_generated(name: &str) -> bool {
    let hash = name.rsplit_once('-').map(|(_, hash)| hash);
    let digit = |hash: &str| hash.contains(|c: char| c.is_ascii_digit());
    hash.is_some_and(|hash| hash.len() == 10 && hash.chars().all(|c| "2456789bcdfghkmt".contains(c)) && digit(hash))
}

fn policies(plan: &Plan<'_>, ask: &Ask<'_>, warnings: &mut Vec<String>) {
    for Withheld { name, why } in plan.clashing.iter().chain(ask.withheld) {
        warnings.push(format!("DbPoolPolicy {name} is not given to the pod: {why}"));
    }
    if plan.policies.is_empty() && annotation(plan.pod, CREDENTIALS).is_some() {
        warnings.push("no DbPoolPolicy is for the pod yet: it starts, and is not ready until one is".into());
    }
}
