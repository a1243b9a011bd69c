//! What the sidecar is started with.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// What the sidecar is started with, from flags and environment.
#[derive(Clone, Debug)]
pub struct Options {
    /// File or directory of policies; without one the environment is the configuration.
    pub policy: Option<PathBuf>,
    /// Directory with one directory per Secret.
    pub secrets_dir: Option<PathBuf>,
    /// Address of the HTTP endpoints.
    pub http: SocketAddr,
    /// Threads that serve clients.
    pub workers: NonZeroUsize,
}
