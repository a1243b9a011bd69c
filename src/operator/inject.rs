//! Pod → pod with a sidecar, or why not. Pure: no I/O, no clock.
//!
//! The sidecar is a native one: an init container that is restarted always, first in order, so that it is there before
//! any other container and ends after them. What the user wrote is never changed, only added to; the one document that
//! is worked on is the JSON as it came, so that fields of a later Kubernetes stay.
//!
//! Injecting twice is injecting once: the webhook is called again when another one changes the pod after it, and pods
//! are made from what `kubectl get -o yaml` printed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;
use serde_json::Value;

use super::index::{Assigned, Withheld};
use crate::api::annotations::{CA, CONFIGURATION, DISABLED, ENABLED, INJECT, INJECTED, INJECTION};
use crate::contract;

mod apps;
mod document;
mod plan;
mod sidecar;
mod stamp;
mod volumes;
mod warnings;

pub use warnings::is_generated as is_generated_name;

/// The sidecar's name among a pod's containers.
pub const CONTAINER: &str = "poolkeeper";

/// What is injected, as the operator was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The sidecar's image.
    pub image: String,
    /// When it is pulled: `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    /// Where sidecars find the operator: `https://HOST:PORT`.
    pub operator: String,
    /// The authorities that sign the operator's certificates (PEM).
    pub ca: String,
    /// Port of the sidecar's HTTP endpoints.
    pub http_port: u16,
    /// The uid that the sidecar has in pods that run as root; elsewhere the pod's or the image's.
    pub user: i64,
    /// What the sidecar asks for and may take.
    pub resources: Resources,
    /// Major and minor version of the API server, if it is known.
    pub kubernetes: Option<(u32, u32)>,
}

/// What the sidecar asks for and may take. What is left out is as by default.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// What it asks for.
    pub requests: BTreeMap<String, Quantity>,
    /// What it may take at most.
    pub limits: BTreeMap<String, Quantity>,
    /// Both, in pods whose quality of service is Guaranteed and stays so.
    pub guaranteed: BTreeMap<String, Quantity>,
}

impl Default for Resources {
    fn default() -> Self {
        let of = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, amount)| ((*name).into(), Quantity((*amount).into()))).collect()
        };
        Self {
            requests: of(&[("cpu", "20m"), ("memory", "32Mi")]),
            // No limit of the CPU: a throttled pooler makes every query slow.
            limits: of(&[("memory", "256Mi")]),
            guaranteed: of(&[("cpu", "250m"), ("memory", "256Mi")]),
        }
    }
}

/// What is known of a pod beside what stands in it.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The namespace is labelled so that its pods get the sidecar.
    pub namespace_asks: bool,
    /// The policies that the pod would run, oldest first.
    pub policies: &'a [Arc<Assigned>],
    /// Policies that are for the pod and not given to it.
    pub withheld: &'a [Withheld],
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It gets the sidecar, or keeps it.
    Inject(Box<Injected>),
    /// It stays as it is.
    Skip(Skip),
    /// It must not be made: why, and what to do.
    Deny(String),
}

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// What will hurt.
    pub warnings: Vec<String>,
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// Neither it nor its namespace asks for a sidecar.
    NotAsked,
    /// It says that it wants none.
    OptedOut,
    /// It mirrors a pod that a kubelet runs from a file: nothing in it can be changed.
    Mirror,
}

/// Gives a pod its sidecar.
pub fn inject(pod: &Value, ask: &Ask<'_>, settings: &Settings) -> Verdict {
    let typed = match Pod::deserialize(pod) {
        Ok(typed) => typed,
        Err(error) => return Verdict::Deny(format!("the pod can't be read: {error}")),
    };
    if let Some(skip) = skip(&typed, ask) {
        return Verdict::Skip(skip);
    }
    match add(pod, &typed, ask, settings) {
        Ok(injected) => Verdict::Inject(Box::new(injected)),
        Err(sentence) => Verdict::Deny(sentence),
    }
}

fn skip(pod: &Pod, ask: &Ask<'_>) -> Option<Skip> {
    let annotations = pod.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key("kubernetes.io/config.mirror")) {
        return Some(Skip::Mirror);
    }
    match label(pod, INJECT) {
        Some(ENABLED) => None,
        Some(DISABLED) => Some(Skip::OptedOut),
        _ => (!ask.namespace_asks).then_some(Skip::NotAsked),
    }
}

/// The pod with everything added that it lacks.
///
/// # Errors
/// A sentence that says why it must not be made.
fn add(pod: &Value, typed: &Pod, ask: &Ask<'_>, settings: &Settings) -> Result<Injected, String> {
    if settings.ca.is_empty() {
        // Its sidecar could never trust the operator.
        return Err("the operator has just begun and has no certificate authority yet: try again".into());
    }
    let plan = plan::Plan::new(typed, ask, settings)?;
    let (container, volumes) = (sidecar::container(&plan), volumes::all(&plan));
    let hash = document::hash(&container, &volumes);
    let mut pod = pod.clone();
    let same = annotation(typed, INJECTION) == Some(hash.as_str()) && document::has_sidecar(&pod);
    if plan.injected_before && !same {
        document::strip(&mut pod);
    }
    document::put_first(&mut pod, container);
    for volume in volumes {
        document::put_volume(&mut pod, volume);
    }
    let mut warnings = warnings::of(&plan, ask);
    apps::connect(&mut pod, &plan, &mut warnings)?;
    let configuration = stamp::configuration(&plan.policies);
    if configuration.is_none() {
        warnings.push(format!(
            "its policies are too long for the annotation {CONFIGURATION}: it can't start without the operator's leader"
        ));
    }
    let marks = [
        ("annotations", CONFIGURATION, configuration.unwrap_or_default()),
        ("annotations", CA, settings.ca.clone()),
        ("annotations", INJECTION, hash),
        ("labels", INJECTED, contract::VERSION.to_string()),
    ];
    for (map, key, value) in marks {
        document::set_metadata(&mut pod, map, key, value);
    }
    Ok(Injected { pod, warnings })
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The labels of a pod as JSON, for whoever looks for its policies.
pub fn labels(pod: &Value) -> BTreeMap<String, String> {
    BTreeMap::deserialize(&pod["metadata"]["labels"]).unwrap_or_default()
}

/// Names, ordered and separated by commas.
fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
}
