//! Where and whom the sidecar serves, and how it ends: `spec.listen`, `spec.shutdown`.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DIRECTORY, SECRET_NAME, cel, undescribed};
use crate::api::duration::{Bounds, Duration};

/// Where and whom the sidecar serves.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = cel::listen_somewhere(), validation = cel::trust_is_local())]
#[serde(rename_all = "camelCase")]
pub struct ListenSpec {
    /// IP address to listen on. 127.0.0.1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 45))]
    #[x_kube(validation = cel::address())]
    pub address: Option<String>,
    /// TCP port. 0 = no TCP. 6432 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i32>,
    /// Directory of the unix sockets .s.PGSQL.5432 and .s.PGSQL.6432, whatever the TCP port is. "" = none. /run/poolkeeper when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80), regex(pattern = DIRECTORY))]
    pub socket: Option<String>,
    /// How clients prove who they are. ScramSha256 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// TLS for clients over TCP. None when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenTlsSpec>,
    /// Clients connected at once; the next gets 53300. 2000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_clients: Option<i32>,
    /// Clients waiting for a connection at once, per database; the next gets 53300. 0 = as many as there are. 0 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_waiting: Option<i32>,
    /// Bytes of a client's start-up packet, as PostgreSQL limits it. 10000 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 512, max = 65536))]
    pub max_startup_packet: Option<i32>,
    /// Bytes held for one client at most. Data of any length passes in pieces; the text of a statement to prepare must fit. 1048576 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 65536, max = 1_073_741_824))]
    pub max_buffered: Option<i32>,
    /// Longest time for a client to log in. 60s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::LOGIN.rule())]
    pub login_timeout: Option<Duration>,
    /// Time after which a client that asks nothing is ended with 57P05; never inside a transaction. 0s = never. 0s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::AGE.rule())]
    pub idle_timeout: Option<Duration>,
    /// Silence after which TCP asks whether the other side lives, for clients and servers. 0s = the system's. 60s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::KEEPALIVE.rule())]
    pub keepalive: Option<Duration>,
}

/// How clients prove who they are.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(transform = undescribed)]
pub enum Auth {
    /// SCRAM-SHA-256 (over TLS also -PLUS) with the configured user name and password.
    #[default]
    ScramSha256,
    /// Not at all; the user name must still be the configured one.
    Trust,
}

/// TLS for clients.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenTlsSpec {
    /// Secret with the keys tls.crt and tls.key.
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub secret_name: String,
    /// Secret whose key ca.crt holds the authorities that must have signed a client's certificate. No certificate is asked when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SECRET_NAME))]
    pub client_ca_secret_name: Option<String>,
}

/// How the sidecar ends.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownSpec {
    /// Longest drain after SIGTERM; then clients are ended with 57P01. 0s = no drain. 30s when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Bounds::GRACE.rule())]
    pub grace: Option<Duration>,
}
