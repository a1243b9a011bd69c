//! Rules between the fields of a policy, in CEL for the API server; [`super::resolve`] holds the same ones.

use kube::core::Rule;

use super::duration::no_duration;
use super::v1alpha1::Preset;

/// A ternary over the presets.
fn by_preset(value: fn(Preset) -> i32) -> String {
    let [development, production, high] = Preset::ALL.map(value);
    format!("(self.preset == 'Development' ? {development} : self.preset == 'HighTraffic' ? {high} : {production})")
}

/// Above size a connection is closed when given back, so more could not stay idle.
pub fn min_idle() -> Rule {
    let size = format!("(has(self.pool.size) ? self.pool.size : {})", by_preset(Preset::size));
    Rule::new(format!("!has(self.pool) || !has(self.pool.minIdle) || {size} == 0 || self.pool.minIdle <= {size}"))
        .message("pool.minIdle is above size: lower it, or raise size")
        .field_path(".pool.minIdle")
}

pub fn requirement() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0")
        .message("In and NotIn need values; Exists and DoesNotExist take none")
        .field_path(".values")
}

pub fn tls_on_unix_socket() -> Rule {
    Rule::new(
        "!self.host.startsWith('/') || !has(self.tls) || !has(self.tls.mode) || self.tls.mode in ['Disable', 'Prefer']",
    )
    .message("a unix socket has no TLS: leave tls.mode out, or give a host name")
    .field_path(".tls.mode")
}

pub fn ca_needs_verification() -> Rule {
    Rule::new(
        "!has(self.tls) || !has(self.tls.caSecretName) || (has(self.tls.mode) ? self.tls.mode in ['VerifyCa', 'VerifyFull'] : !self.host.startsWith('/'))",
    )
    .message("caSecretName is used by VerifyCa and VerifyFull only: set one of them, or leave it out")
    .field_path(".tls.caSecretName")
}

pub fn health_timeout() -> Rule {
    let within =
        "duration(has(self.timeout) ? self.timeout : '2s') <= duration(has(self.interval) ? self.interval : '5s')";
    let (timeout, interval) = (no_duration("self.timeout"), no_duration("self.interval"));
    Rule::new(format!("{within} || (has(self.timeout) && {timeout}) || (has(self.interval) && {interval})"))
        .message("timeout is above interval: lower it, or raise interval")
        .field_path(".timeout")
}

pub fn address() -> Rule {
    Rule::new("isIP(self)").message("must be an IP address, as 127.0.0.1 or ::1")
}

pub fn listen_somewhere() -> Rule {
    Rule::new("!has(self.port) || self.port != 0 || !has(self.socket) || self.socket != ''")
        .message("port 0 and socket \"\" leave nothing to listen on: set one of them")
        .field_path(".port")
}

pub fn trust_is_local() -> Rule {
    Rule::new(
        "!has(self.auth) || self.auth != 'Trust' || !has(self.address) || (has(self.port) && self.port == 0) || (isIP(self.address) && ip(self.address).isLoopback())",
    )
    .message("Trust lets in whoever reaches the port: use ScramSha256, a loopback address, or port 0")
    .field_path(".auth")
}
