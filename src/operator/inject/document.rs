//! The pod as JSON: putting things in, taking ours out.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{CONTAINER, volumes};

/// The first 12 hexadecimal digits of what is injected.
pub fn hash(container: &Value, volumes: &[Value]) -> String {
    let text = serde_json::to_vec(&(container, volumes)).unwrap_or_default();
    Sha256::digest(text).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// A typed object as JSON.
pub fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Whether the sidecar is among the init containers.
pub fn has_sidecar(pod: &Value) -> bool {
    pod["spec"]["initContainers"].as_array().is_some_and(|containers| containers.iter().any(is_sidecar))
}

fn is_sidecar(container: &Value) -> bool {
    container["name"] == CONTAINER
}

fn is_our_volume(volume: &Value) -> bool {
    volume["name"].as_str().is_some_and(volumes::is_ours)
}

/// Takes away what an earlier injection added, but for marks, which are written anew, and environment variables, which
/// can't be told from the user's.
pub fn strip(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec") else { return };
    let mut socket = None;
    edit(spec, "initContainers", |containers| {
        // Where the sockets were is where they were mounted into the app's containers, too.
        socket = containers.iter().find(|container| is_sidecar(container)).and_then(socket_path);
        containers.retain(|container| !is_sidecar(container));
    });
    edit(spec, "volumes", |volumes| volumes.retain(|volume| !is_our_volume(volume)));
    let theirs = |mount: &Value| mount["name"] != volumes::SOCKET || socket.as_ref() != Some(&mount["mountPath"]);
    for kind in ["initContainers", "containers"] {
        edit(spec, kind, |containers| {
            containers.iter_mut().for_each(|container| edit(container, "volumeMounts", |mounts| mounts.retain(theirs)));
        });
    }
}

fn socket_path(container: &Value) -> Option<Value> {
    let mount = container["volumeMounts"].as_array()?.iter().find(|mount| mount["name"] == volumes::SOCKET)?;
    Some(mount["mountPath"].clone())
}

/// Puts the sidecar before all other init containers; one that is there stays as it is.
pub fn put_first(pod: &mut Value, container: Value) {
    edit(&mut pod["spec"], "initContainers", |containers| {
        let there = containers.iter().position(is_sidecar);
        let container = there.map_or(container, |index| containers.remove(index));
        containers.insert(0, container);
    });
}

/// Adds a volume; one of that name stays as it is.
pub fn put_volume(pod: &mut Value, volume: Value) {
    edit(&mut pod["spec"], "volumes", |volumes| {
        if volumes.iter().all(|known| known["name"] != volume["name"]) {
            volumes.push(volume);
        }
    });
}

/// Sets a label or an annotation.
pub fn set_metadata(pod: &mut Value, map: &str, key: &str, value: String) {
    pod["metadata"][map][key] = value.into();
}

/// Changes a list of `parent`, an object; one that is not there and stays empty is not made.
pub fn edit<R>(parent: &mut Value, name: &str, change: impl FnOnce(&mut Vec<Value>) -> R) -> R {
    let there = parent.get_mut(name).map(Value::take);
    let (mut items, made) = match there {
        Some(Value::Array(items)) => (items, false),
        _ => (Vec::new(), true),
    };
    let result = change(&mut items);
    if made && items.is_empty() {
        if let Some(parent) = parent.as_object_mut() {
            parent.remove(name);
        }
    } else {
        parent[name] = Value::Array(items);
    }
    result
}
