//! Flags of a sidecar that follows an operator.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::sidecar::link::{self, Url};
use crate::sidecar::options::Operator;
use crate::sidecar::source::told::Place;

/// Flags of a sidecar that follows an operator.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "In a pod, with an operator")]
pub struct OperatorArgs {
    /// Where the operator listens; it tells which policies to serve. In place of --policy. TERM then means that the app
    /// has ended: the sidecar ends within 2 s.
    #[arg(
        long, value_name = "URL", env = "POOLKEEPER_OPERATOR", conflicts_with = "policy",
        requires_all = ["operator_ca", "token"]
    )]
    operator: Option<Url>,
    /// Authorities (PEM) that may have signed the operator's certificate. Several: repeat it, or separate by commas; any
    /// of them will do, files that are not there are passed over, and they are read anew for each connection.
    #[arg(long, value_name = "FILE", env = "POOLKEEPER_OPERATOR_CA", value_delimiter = ',', requires = "operator")]
    operator_ca: Vec<PathBuf>,
    /// The name in the operator's certificate, where it is not the URL's host.
    #[arg(long, value_name = "NAME", env = "POOLKEEPER_OPERATOR_NAME", requires = "operator")]
    operator_name: Option<String>,
    /// The projected ServiceAccount token (audience poolkeeper) that says which pod this is; read again when it changes.
    #[arg(long, value_name = "FILE", env = "POOLKEEPER_TOKEN", requires = "operator")]
    token: Option<PathBuf>,
    /// Directory for the last good configuration, which the sidecar starts with if it is started again: an emptyDir.
    /// Nothing secret is written there.
    #[arg(long, value_name = "DIR", env = "POOLKEEPER_STATE_DIR", requires = "operator")]
    state_dir: Option<PathBuf>,
    /// File with the configuration that the pod was made with (annotation poolkeeper.dev/configuration, by downward API),
    /// to start with while the state directory is empty.
    #[arg(long, value_name = "FILE", env = "POOLKEEPER_STAMPED", requires = "operator")]
    stamped: Option<PathBuf>,
    /// Where clients are served if no policy says where when the sidecar starts; 127.0.0.1:6432 without it.
    #[arg(long, value_name = "ADDRESS:PORT", env = "POOLKEEPER_LISTEN", requires = "operator")]
    listen: Option<SocketAddr>,
    /// Directory of the unix sockets if no policy names one when the sidecar starts; /run/poolkeeper without it.
    #[arg(long, value_name = "DIR", env = "POOLKEEPER_SOCKET_DIR", requires = "operator")]
    socket_dir: Option<PathBuf>,
}

impl OperatorArgs {
    /// The same, if there is an operator.
    pub fn options(self) -> Option<Operator> {
        let (url, token) = self.operator.zip(self.token)?;
        let (authorities, server_name) = (self.operator_ca, self.operator_name);
        Some(Operator {
            link: link::Options { url, authorities, server_name, token },
            state_dir: self.state_dir,
            stamped: self.stamped,
            place: Place { address: self.listen, socket: self.socket_dir },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;
    use clap::error::ErrorKind;

    #[derive(Debug, Parser)]
    struct Flags {
        #[arg(long)]
        policy: Option<PathBuf>,
        #[command(flatten)]
        operator: OperatorArgs,
    }

    fn parse(flags: &str) -> Result<Option<Operator>, ErrorKind> {
        let flags = std::iter::once("sidecar").chain(flags.split_whitespace());
        Flags::try_parse_from(flags).map(|flags| flags.operator.options()).map_err(|error| error.kind())
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        let whole = "--operator https://o.svc:9443 --operator-ca a,b --operator-ca c --token t";
        let operator = parse(whole).unwrap().unwrap();
        assert_eq!(operator.link.authorities, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!((operator.link.url.port, operator.state_dir, operator.place.address), (9443, None, None));
        let more = format!("{whole} --operator-name o --state-dir s --stamped f --listen 127.0.0.1:0 --socket-dir d");
        let operator = parse(&more).unwrap().unwrap();
        assert_eq!((operator.link.server_name.as_deref(), operator.state_dir), (Some("o"), Some("s".into())));
        assert!(parse("").unwrap().is_none() && parse("--policy p").unwrap().is_none());
        assert_eq!(parse(&format!("{whole} --policy p")).unwrap_err(), ErrorKind::ArgumentConflict);
        for part in ["--operator https://o:1", "--operator https://o:1 --token t", "--token t", "--state-dir s"] {
            assert_eq!(parse(part).unwrap_err(), ErrorKind::MissingRequiredArgument, "{part}");
        }
        assert_eq!(parse("--operator o:1 --operator-ca a --token t").unwrap_err(), ErrorKind::ValueValidation);
    }
}
