//! `poolkeeper operator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::operator;
use crate::operator::options::Options;
use crate::telemetry::{self, LogFormat};

/// Bring policies to pods: watch them, stream each sidecar its configuration, write what became of it.
///
/// Runs in the cluster, two replicas or more: one leads, the others take over. Sidecars serve on whatever happens here.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Access to the API server, for a run outside of the cluster; without it what a pod has, then KUBECONFIG.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The operator's own namespace, which holds its Lease, its Secret and its Services.
    #[arg(long, value_name = "NAME", env = "POOLKEEPER_NAMESPACE", default_value = "poolkeeper")]
    namespace: String,
    /// What tells this replica from others: the pod's name. A random part is added.
    #[arg(long, value_name = "NAME", env = "POOLKEEPER_IDENTITY", default_value = "operator")]
    identity: String,
    /// Address of the sidecars' streams (TLS).
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_STREAM", default_value = "0.0.0.0:9443")]
    stream: SocketAddr,
    /// Address of the HTTP endpoints: /livez /readyz /metrics.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_OPERATOR_HTTP", default_value = "0.0.0.0:9432")]
    http: SocketAddr,
    /// Address and port at which sidecars reach this replica's streams: the pod's. While it leads, it writes it into the
    /// EndpointSlice of the Service poolkeeper-stream; without it that Service is left alone.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_ADVERTISE")]
    advertise: Option<SocketAddr>,
    /// A further name or address for the operator's certificate; may be given several times.
    #[arg(long = "name", value_name = "NAME", env = "POOLKEEPER_NAMES", value_delimiter = ',')]
    names: Vec<String>,
    /// How events are written to stderr.
    #[arg(long, value_enum, env = "POOLKEEPER_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// error, warn, info, debug or trace, or directives as in warn,poolkeeper=debug; without it RUST_LOG, then info.
    #[arg(long, value_name = "LEVEL", env = "POOLKEEPER_LOG_LEVEL")]
    log_level: Option<String>,
}

const EXAMPLES: &str = "\
Signals: TERM or INT gives the Lease back and ends.

Examples:
  poolkeeper operator --advertise $POD_IP:9443 --identity $POD_NAME
  poolkeeper operator --kubeconfig ~/.kube/config --stream 127.0.0.1:9443 --http 127.0.0.1:9432 --name 127.0.0.1
      outside of the cluster, to try it

See also: poolkeeper crd | kubectl apply -f -";

/// Runs the operator until it is told to end.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = telemetry::init(args.log_format, args.log_level.as_deref()) {
        eprintln!("poolkeeper operator: {error}");
        return ExitCode::from(2);
    }
    let Args { kubeconfig, namespace, identity, stream, http, advertise, names, .. } = args;
    let identity = match getrandom::u32() {
        Ok(random) => format!("{identity}-{random:08x}"),
        Err(error) => {
            tracing::error!("not started: no random bytes: {error}");
            return ExitCode::FAILURE;
        }
    };
    match operator::run(&Options { kubeconfig, namespace, identity, stream, http, advertise, names }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("not started: {error}");
            ExitCode::FAILURE
        }
    }
}
