//! The sidecar's container.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, ExecAction, HTTPGetAction, Probe, ResourceRequirements, SeccompProfile,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::CONTAINER;
use super::document::json;
use super::plan::Plan;
use super::volumes::{self, CA_FILE, STAMPED, TOKEN};

/// Token, authorities and stamped configuration.
pub const OPERATOR_DIR: &str = "/var/run/secrets/poolkeeper.dev";
/// A directory per Secret.
pub const SECRETS_DIR: &str = "/etc/poolkeeper/secrets";
/// The last good configuration.
pub const STATE_DIR: &str = "/var/lib/poolkeeper";
/// What the sidecar keeps for itself.
pub const DIRECTORIES: [&str; 3] = [OPERATOR_DIR, SECRETS_DIR, STATE_DIR];

/// Where the image has the program.
const PROGRAM: &str = "/poolkeeper";
/// The HTTP endpoints' socket in a pod with hostNetwork: in a volume that no other container mounts.
const HTTP_SOCKET: &str = "/var/lib/poolkeeper/http.sock";
/// The HTTP port's name; a PodMonitor finds it by that.
const HTTP_PORT: &str = "poolkeeper-http";

/// The sidecar, with everything written out that the API server would fill in.
pub fn container(plan: &Plan<'_>) -> Value {
    let settings = plan.settings;
    let http_port = i32::from(settings.http_port);
    let port = ContainerPort {
        name: Some(HTTP_PORT.into()),
        container_port: http_port,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    json(&Container {
        name: CONTAINER.into(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(arguments(plan)),
        // With this an init container is a native sidecar: it runs as long as the pod, and ends last.
        restart_policy: Some("Always".into()),
        // In the node's network it would be the node's.
        ports: (!plan.host_network).then(|| vec![port]),
        // Nothing is asked of configuration or database: the app must not wait for them.
        startup_probe: Some(probe(plan, ("/startupz", "started"), Beat { period: 1, timeout: 2, failures: 120 })),
        readiness_probe: Some(probe(plan, ("/readyz", "ready"), Beat { period: 5, timeout: 5, failures: 3 })),
        // The sidecar itself waits 10 s for a sign of life before it says no.
        liveness_probe: Some(probe(plan, ("/livez", "live"), Beat { period: 15, timeout: 12, failures: 3 })),
        resources: Some(resources(plan)),
        security_context: Some(security_context(plan)),
        volume_mounts: Some(volumes::mounts(plan)),
        termination_message_path: Some("/dev/termination-log".into()),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    })
}

fn arguments(plan: &Plan<'_>) -> Vec<String> {
    let settings = plan.settings;
    let file = |name: &str| format!("{OPERATOR_DIR}/{name}");
    let http = if plan.host_network { HTTP_SOCKET.into() } else { format!("[::]:{}", settings.http_port) };
    let pairs = [
        ("--operator", settings.operator.clone()),
        ("--operator-ca", file(CA_FILE)),
        ("--token", file(TOKEN)),
        ("--stamped", file(STAMPED)),
        ("--state-dir", STATE_DIR.into()),
        ("--secrets-dir", SECRETS_DIR.into()),
        ("--http", http),
    ];
    let mut arguments = vec!["sidecar".to_owned()];
    arguments.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    // It binds these even if the stamped policies can't be applied yet: they are where the pod expects it.
    if plan.host_network {
        arguments.push("--socket-only".into());
    } else {
        arguments.extend(["--listen".into(), plan.listen.to_string()]);
    }
    if let Some(socket) = &plan.socket {
        arguments.extend(["--socket-dir".into(), socket.clone()]);
    }
    arguments
}

/// How often a probe asks, how long it waits, and how many failures in a row count; seconds.
struct Beat {
    period: i32,
    timeout: i32,
    failures: i32,
}

/// Over HTTP, or by command over the socket where the port would be the node's.
fn probe(plan: &Plan<'_>, (path, word): (&str, &str), beat: Beat) -> Probe {
    let mut probe = Probe {
        period_seconds: Some(beat.period),
        timeout_seconds: Some(beat.timeout),
        failure_threshold: Some(beat.failures),
        success_threshold: Some(1),
        ..Probe::default()
    };
    if plan.host_network {
        let command = [PROGRAM, "status", "--probe", word, "--http", HTTP_SOCKET];
        probe.exec = Some(ExecAction { command: Some(command.map(str::to_owned).into()) });
    } else {
        probe.http_get = Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(i32::from(plan.settings.http_port)),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        });
    }
    probe
}

/// A pod whose quality of service is Guaranteed keeps it. One with resources of its own shares them.
fn resources(plan: &Plan<'_>) -> ResourceRequirements {
    if plan.spec.resources.is_some() {
        return ResourceRequirements::default();
    }
    let ours = &plan.settings.resources;
    let (requests, limits) = if plan.containers().all(is_guaranteed) {
        (&ours.guaranteed, &ours.guaranteed)
    } else {
        (&ours.requests, &ours.limits)
    };
    ResourceRequirements { requests: Some(requests.clone()), limits: Some(limits.clone()), claims: None }
}

/// Whether limits are set for CPU and memory, and nothing else is asked for.
fn is_guaranteed(container: &Container) -> bool {
    let Some(resources) = &container.resources else { return false };
    let get =
        |map: &Option<BTreeMap<String, Quantity>>, name: &str| map.as_ref().and_then(|map| map.get(name).cloned());
    ["cpu", "memory"].into_iter().all(|name| {
        let limit = get(&resources.limits, name);
        // The API server sets a request that is not there to the limit, and writes equal amounts alike.
        limit.is_some() && get(&resources.requests, name).is_none_or(|request| Some(request) == limit)
    })
}

/// What the restricted Pod Security Standard asks for, whatever the pod says for its own containers.
fn security_context(plan: &Plan<'_>) -> SecurityContext {
    let root = plan.spec.security_context.as_ref().is_some_and(|context| context.run_as_user == Some(0));
    // Elsewhere the pod's or the image's uid holds, which is never root's: a namespace may prescribe which ones are allowed.
    let user = root.then_some(plan.settings.user);
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".into()]) }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_group: user,
        run_as_non_root: Some(true),
        run_as_user: user,
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}
