//! What the user's containers get: the sockets' directory, and variables if they are asked for.

use k8s_openapi::api::core::v1::VolumeMount;
use serde_json::{Value, json};

use super::CONTAINER;
use super::document::{self, edit};
use super::plan::{Plan, Variable};
use super::volumes::{self, SOCKET};

/// Connects every container of the user's, init containers too: the sidecar is there before them.
///
/// # Errors
/// If a container has something of its own where the sockets are to be.
pub fn connect(pod: &mut Value, plan: &Plan<'_>, warnings: &mut Vec<String>) -> Result<(), String> {
    for kind in ["initContainers", "containers"] {
        edit(&mut pod["spec"], kind, |containers| {
            for container in containers.iter_mut().filter(|container| container["name"] != CONTAINER) {
                mount(container, plan)?;
                set_environment(container, plan, warnings);
            }
            Ok::<(), String>(())
        })?;
    }
    Ok(())
}

/// The sockets can be used through a mount that is read-only, and not be removed.
fn mount(container: &mut Value, plan: &Plan<'_>) -> Result<(), String> {
    let Some(path) = &plan.socket else { return Ok(()) };
    let container_name = name(container);
    edit(container, "volumeMounts", |mounts| {
        let plain = |path: &str| path.trim_end_matches('/').to_owned();
        let there = mounts.iter().find(|mount| mount["mountPath"].as_str().map(plain) == Some(plain(path)));
        match there.map(name) {
            Some(other) if other != SOCKET => Err(format!(
                "container {container_name:?} mounts its own volume {other:?} at {path}, where the sidecar's sockets are \
                 to be: move it, or set spec.listen.socket of the policy"
            )),
            Some(_) => Ok(()),
            None => {
                mounts.push(document::json(&VolumeMount { read_only: Some(true), ..volumes::mount(SOCKET, path) }));
                Ok(())
            }
        }
    })
}

/// Sets what the pod asks for, before the container's own variables, which may be made of them.
fn set_environment(container: &mut Value, plan: &Plan<'_>, warnings: &mut Vec<String>) {
    if plan.environment.is_empty() {
        return;
    }
    let container_name = name(container);
    edit(container, "env", |variables| {
        for variable in plan.environment.iter().rev() {
            let (key, value) = (variable.name(), value(*variable, plan));
            match variables.iter().find(|known| known["name"] == key) {
                None => variables.insert(0, json!({ "name": key, "value": value })),
                Some(known) if known["value"] == value => {}
                Some(_) => warnings.push(format!("container {container_name:?} sets {key} itself: that stays")),
            }
        }
        let port_is_set = variables.iter().any(|known| known["name"] == Variable::Port.name());
        if let (Some((_, port)), false) = (plan.tcp, port_is_set) {
            warnings.push(format!(
                "container {container_name:?} gets PGHOST without PGPORT: clients look for port 5432 unless told, the \
                 sidecar has {port}"
            ));
        }
    });
}

/// By TCP where there is TCP: every client library can do that.
fn value(variable: Variable, plan: &Plan<'_>) -> String {
    match (variable, plan.tcp, &plan.socket) {
        (Variable::Host, Some((address, _)), _) => address.to_string(),
        (Variable::Port, Some((_, port)), _) => port.to_string(),
        (Variable::Host, None, socket) => socket.clone().unwrap_or_default(),
        (Variable::Port, None, _) => "5432".into(),
    }
}

fn name(object: &Value) -> String {
    object["name"].as_str().unwrap_or_default().to_owned()
}
