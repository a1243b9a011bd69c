//! What the operator says about a policy: `status`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the policy. Only the operator writes it.
//
// Until it has, an object without a status would count as done by kstatus' rules, so that Helm and GitOps tools would not
// wait for a policy that is new: hence the one default that is not the preset's.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[schemars(extend("default" = { "observedGeneration": -1 }))]
#[serde(rename_all = "camelCase")]
pub struct DbPoolPolicyStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed and Ready, and CredentialsRotated while credentials change; True is good in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Option<Vec<Condition>>,
    /// The pods that the policy is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodsStatus>,
    /// The pools of all those pods together; rounded, and at most one change in 30 s unless a class changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolStatus>,
}

/// The pods that a policy is for.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PodsStatus {
    /// Pods with a sidecar that the policy is given to.
    #[schemars(range(min = 0))]
    pub matched: i32,
    /// Those whose sidecar said that it runs this generation.
    #[schemars(range(min = 0))]
    pub applied: i32,
    /// Those whose database answers.
    #[schemars(range(min = 0))]
    pub healthy: i32,
    /// Those that can't run a field of the policy before they are made anew.
    #[schemars(range(min = 0))]
    pub restart_required: i32,
    /// `applied/matched`.
    #[schemars(length(max = 23))]
    pub summary: String,
}

/// The pools of all pods together.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// Connections kept in each pod.
    #[schemars(range(min = 0))]
    pub size: i32,
    /// Connections opened above size in each pod; -1 = any number.
    #[schemars(range(min = -1))]
    pub max_overflow: i32,
    /// Connections lent to clients, in all pods; rounded to two digits.
    #[schemars(range(min = 0))]
    pub in_use: i32,
    /// The same in percent of all limits, in steps of 5; not there if a pod has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub utilization_percent: Option<i32>,
    /// Requests that wait for a connection, in all pods; rounded to two digits.
    #[schemars(range(min = 0))]
    pub waiting: i32,
    /// The longest of the pods' 99th percentiles of the wait for a connection, as `400us` or `12ms`; not there if nobody asked.
    #[serde(default, rename = "acquireP99", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub acquire_p99: Option<String>,
}
