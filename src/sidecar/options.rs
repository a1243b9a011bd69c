//! What the sidecar is started with.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use super::link;
use super::source::told::Place;

/// What the sidecar is started with, from flags and environment.
#[derive(Clone, Debug)]
pub struct Options {
    /// File or directory of policies; without one the environment is the configuration.
    pub policy: Option<PathBuf>,
    /// Directory with one directory per Secret.
    pub secrets_dir: Option<PathBuf>,
    /// Where the HTTP endpoints are.
    pub http: HttpAddress,
    /// Clients come in by the unix sockets alone, whatever port the policy names: in the network of a whole machine a
    /// port would be anybody's.
    pub socket_only: bool,
    /// Threads that serve clients.
    pub workers: NonZeroUsize,
    /// The operator, whose policies come first of all.
    pub operator: Option<Operator>,
}

/// What a sidecar that follows an operator is started with.
#[derive(Clone, Debug)]
pub struct Operator {
    /// How the operator is reached.
    pub link: link::Options,
    /// Directory for the last good configuration.
    pub state_dir: Option<PathBuf>,
    /// File with the configuration that the pod was made with.
    pub stamped: Option<PathBuf>,
    /// Where clients are expected until a policy says where.
    pub place: Place,
}

/// Where the HTTP endpoints are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// An address and port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| "write ADDRESS:PORT, such as 127.0.0.1:9432, or the path of a unix socket".into())
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_is_a_path_or_has_a_port() {
        for text in ["127.0.0.1:9432", "[::]:9432", "/run/http.sock"] {
            assert_eq!(text.parse::<HttpAddress>().unwrap().to_string(), text);
        }
        assert_eq!("/x".parse(), Ok(HttpAddress::Unix("/x".into())));
        for text in ["9432", "localhost:9432", "run/http.sock", ""] {
            assert!(text.parse::<HttpAddress>().unwrap_err().contains("127.0.0.1:9432"), "{text}");
        }
    }
}
