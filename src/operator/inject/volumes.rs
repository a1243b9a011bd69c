//! The sidecar's volumes.
//!
//! All are of kinds that the restricted Pod Security Standard allows. Files are readable for whatever uid the sidecar
//! has: 0644 without an fsGroup (nobody but the sidecar mounts them), group-readable with one, which all containers of
//! the pod then belong to. Values that the API server would fill in are written out, so that nothing changes when it has.

use k8s_openapi::api::core::v1::{
    DownwardAPIProjection, DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, ObjectFieldSelector,
    ProjectedVolumeSource, SecretVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use serde_json::Value;

use super::document::json;
use super::plan::Plan;
use super::sidecar::{OPERATOR_DIR, SECRETS_DIR, STATE_DIR};
use crate::api::annotations::{CA, CONFIGURATION};
use crate::contract::AUDIENCE;

/// The unix sockets' volume; a container of the user's may mount it somewhere else, too.
pub const SOCKET: &str = "poolkeeper-socket";
const STATE: &str = "poolkeeper-state";
const OPERATOR: &str = "poolkeeper-operator";
/// Begins the names of the Secrets' volumes.
const SECRET: &str = "poolkeeper-secret-";

/// The token for the operator, below [`OPERATOR_DIR`].
pub const TOKEN: &str = "token";
/// The operator's authorities, below [`OPERATOR_DIR`].
pub const CA_FILE: &str = "ca.crt";
/// The stamped configuration, below [`OPERATOR_DIR`].
pub const STAMPED: &str = "configuration.json";

/// Life of a token in seconds; the kubelet renews it at 80 %.
const TOKEN_LIFE: i64 = 3600;
/// Files are readable for everyone who sees the volume.
const MODE: i32 = 0o644;
/// What a sidecar may need of a Secret: nothing else of it is mounted.
const KEYS: [&str; 5] = ["username", "password", "ca.crt", "tls.crt", "tls.key"];
/// Where the API server mounts a token for itself into every container that has no other mount there.
const API_TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Whether a volume of this name is the sidecar's.
pub fn is_ours(name: &str) -> bool {
    [SOCKET, STATE, OPERATOR].contains(&name) || name.starts_with(SECRET)
}

/// All volumes.
pub fn all(plan: &Plan<'_>) -> Vec<Value> {
    let mut volumes = vec![operator(), empty(STATE)];
    volumes.extend(plan.socket.iter().map(|_| empty(SOCKET)));
    volumes.extend(plan.secrets.iter().enumerate().map(|(index, name)| secret(index, name)));
    volumes.iter().map(json).collect()
}

/// Where the sidecar mounts them.
pub fn mounts(plan: &Plan<'_>) -> Vec<VolumeMount> {
    let mut mounts = vec![
        VolumeMount { read_only: Some(true), ..mount(OPERATOR, OPERATOR_DIR) },
        mount(STATE, STATE_DIR),
        // The sidecar asks the API server nothing: an empty directory keeps the token away.
        VolumeMount { read_only: Some(true), sub_path: Some("no-api-token".into()), ..mount(STATE, API_TOKEN_DIR) },
    ];
    mounts.extend(plan.socket.iter().map(|path| mount(SOCKET, path)));
    let secrets = plan.secrets.iter().enumerate();
    mounts.extend(secrets.map(|(index, name)| VolumeMount {
        read_only: Some(true),
        ..mount(&format!("{SECRET}{index}"), &format!("{SECRETS_DIR}/{name}"))
    }));
    mounts
}

/// A volume at a path.
pub fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), ..VolumeMount::default() }
}

fn empty(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// A Secret that may come later: else the pod would hang before it could say what it lacks.
fn secret(index: usize, name: &str) -> Volume {
    let key = |key: &str| KeyToPath { key: key.into(), path: key.into(), mode: None };
    let source = SecretVolumeSource {
        secret_name: Some(name.into()),
        optional: Some(true),
        items: Some(KEYS.into_iter().map(key).collect()),
        default_mode: Some(MODE),
    };
    Volume { name: format!("{SECRET}{index}"), secret: Some(source), ..Volume::default() }
}

/// Token, authorities and configuration: what it takes to start and to find the operator.
fn operator() -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(AUDIENCE.into()),
        expiration_seconds: Some(TOKEN_LIFE),
        path: TOKEN.into(),
    };
    let annotation = |path: &str, key: &str| DownwardAPIVolumeFile {
        path: path.into(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".into()),
            field_path: format!("metadata.annotations['{key}']"),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let stamped =
        DownwardAPIProjection { items: Some(vec![annotation(CA_FILE, CA), annotation(STAMPED, CONFIGURATION)]) };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { downward_api: Some(stamped), ..VolumeProjection::default() },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(MODE), sources: Some(sources) };
    Volume { name: OPERATOR.into(), projected: Some(projected), ..Volume::default() }
}
