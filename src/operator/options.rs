//! What the operator is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::inject::Settings;

/// What the operator is started with, from flags and environment.
#[derive(Clone, Debug)]
pub struct Options {
    /// The API server's address and credentials; without it what a pod has, else the usual kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The operator's own namespace: Lease, Secret and Services are there.
    pub namespace: String,
    /// Another name for each process.
    pub identity: String,
    /// Address of the streams.
    pub stream: SocketAddr,
    /// Address of the HTTP endpoints.
    pub http: SocketAddr,
    /// Where sidecars reach the streams of this replica; `None`: the stream's Service is not ours to write.
    pub advertise: Option<SocketAddr>,
    /// Names and addresses for the certificate, beside those of the Services.
    pub names: Vec<String>,
    /// Address of the webhooks, and what they inject; `None`: there are none.
    pub webhook: Option<(SocketAddr, Settings)>,
}
