//! The restricted Pod Security Standard (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>), as far as
//! it looks at pods of Linux. The API server's own says the same of injected pods in `tests/api`.

use serde_json::Value;

/// Everything that the standard refuses of a pod.
pub fn violations(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut found = Vec::new();
    for flag in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[flag] == true {
            found.push(flag.to_owned());
        }
    }
    const VOLUMES: [&str; 8] =
        ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        found.extend(kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("volume {kind}")));
    }
    for kind in ["initContainers", "containers"] {
        for of in spec[kind].as_array().into_iter().flatten() {
            found.extend(container(of, &spec["securityContext"]));
        }
    }
    found
}

/// What it refuses of the sidecar, whatever the pod says for all its containers.
pub fn sidecar(pod: &Value) -> Vec<String> {
    let ours = &pod["spec"]["initContainers"][0];
    assert_eq!(ours["name"], "poolkeeper");
    container(ours, &pod["spec"]["securityContext"])
}

fn container(container: &Value, pod: &Value) -> Vec<String> {
    let context = &container["securityContext"];
    let effective = |field: &str| if context[field].is_null() { &pod[field] } else { &context[field] };
    let capabilities = &context["capabilities"];
    let ports = container["ports"].as_array().into_iter().flatten();
    let added = capabilities["add"].as_array().into_iter().flatten();
    let dropped = capabilities["drop"].as_array().into_iter().flatten().any(|name| name == "ALL");
    let proc = &context["procMount"];
    let rules = [
        ("privileged", context["privileged"] != true),
        ("allowPrivilegeEscalation", context["allowPrivilegeEscalation"] == false),
        ("capabilities.drop", dropped),
        ("capabilities.add", added.into_iter().all(|name| name == "NET_BIND_SERVICE")),
        ("runAsNonRoot", effective("runAsNonRoot") == true),
        ("runAsUser", *effective("runAsUser") != 0),
        ("seccompProfile", ["RuntimeDefault", "Localhost"].iter().any(|t| effective("seccompProfile")["type"] == *t)),
        ("hostPort", ports.into_iter().all(|port| port["hostPort"].as_u64().unwrap_or(0) == 0)),
        ("procMount", proc.is_null() || proc == "Default"),
        ("appArmorProfile", effective("appArmorProfile")["type"] != "Unconfined"),
        (
            "probe host",
            ["livenessProbe", "readinessProbe", "startupProbe"]
                .iter()
                .all(|p| container[*p]["httpGet"]["host"].is_null()),
        ),
    ];
    rules.iter().filter(|(_, good)| !good).map(|(rule, _)| format!("{}: {rule}", container["name"])).collect()
}
