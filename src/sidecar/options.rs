//! What the sidecar is started with.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::source::told::Place;

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
    /// The operator, whose policies come first of all.
    pub operator: Option<Operator>,
}

/// What a sidecar that follows an operator is started with.
#[derive(Clone, Debug)]
pub struct Operator {
    /// Where clients are expected until a policy says where.
    pub place: Place,
}
