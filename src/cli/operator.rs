//! `poolkeeper operator`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::operator;
use crate::operator::inject::{Resources, Settings};
use crate::operator::leader::STREAM_SERVICE;
use crate::operator::options::Options;
use crate::telemetry::{self, LogFormat};

/// Who the sidecar is in pods that run as root: nobody that any base image knows.
const SIDECAR_USER: i64 = 65_532;

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
    /// Address of the HTTP endpoints: / (for people) /livez /readyz /metrics.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_OPERATOR_HTTP", default_value = "0.0.0.0:9432")]
    http: SocketAddr,
    /// Address and port at which sidecars reach this replica's streams: the pod's. While it leads, it writes it into the
    /// EndpointSlice of the Service poolkeeper-stream; without it that Service is left alone.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_ADVERTISE", value_parser = advertised)]
    advertise: Option<SocketAddr>,
    /// A further name or address for the operator's certificate; may be given several times.
    #[arg(long = "name", value_name = "NAME", env = "POOLKEEPER_NAMES", value_delimiter = ',')]
    names: Vec<String>,
    /// The image that pods get as their sidecar: this program's. Without it there are no webhooks.
    #[arg(long, value_name = "IMAGE", env = "POOLKEEPER_IMAGE")]
    image: Option<String>,
    /// When that image is pulled: IfNotPresent, Always or Never.
    #[arg(long, value_name = "POLICY", env = "POOLKEEPER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: PullPolicy,
    /// Where sidecars find the streams; by default the Service poolkeeper-stream of the operator's namespace.
    #[arg(long, value_name = "URL", env = "POOLKEEPER_STREAM_URL")]
    stream_url: Option<String>,
    /// What sidecars ask for and may take, as JSON: {"requests":{"cpu":"20m"},"limits":{"memory":"256Mi"}}; guaranteed
    /// holds both for pods whose quality of service is Guaranteed. What is left out stays as it is.
    #[arg(long, value_name = "JSON", env = "POOLKEEPER_SIDECAR_RESOURCES", value_parser = resources)]
    sidecar_resources: Option<Resources>,
    /// Address of the webhooks (TLS).
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_WEBHOOK", default_value = "0.0.0.0:8443")]
    webhook: SocketAddr,
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

/// When an image is pulled.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
enum PullPolicy {
    /// If the node does not have it.
    IfNotPresent,
    /// At each start.
    Always,
    /// Not at all.
    Never,
}

/// An address and a port; a pod's IPv6 address comes without brackets (`$(POD_IP):9443`).
fn advertised(text: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{text:?} is no address with a port: write 10.0.0.7:9443 or [fd00::7]:9443");
    let (address, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let address = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    match (address.parse(), port.parse()) {
        (Ok(address), Ok(port)) => Ok(SocketAddr::new(address, port)),
        _ => Err(wrong()),
    }
}

fn resources(text: &str) -> Result<Resources, String> {
    let error = |error: serde_json::Error| format!("{error}: write {{\"requests\":{{\"cpu\":\"20m\"}}}}, for example");
    serde_json::from_str(text).map_err(error)
}

/// The webhooks' address and what they inject.
fn webhook(args: &Args) -> Option<(SocketAddr, Settings)> {
    let Some(image) = args.image.clone() else {
        tracing::warn!("no --image: there are no webhooks, and no pod gets a sidecar");
        return None;
    };
    let default = || format!("https://{STREAM_SERVICE}.{}.svc:9443", args.namespace);
    let settings = Settings {
        image,
        image_pull_policy: format!("{:?}", args.image_pull_policy),
        operator: args.stream_url.clone().unwrap_or_else(default),
        ca: String::new(),
        http_port: 9432,
        user: SIDECAR_USER,
        resources: args.sidecar_resources.clone().unwrap_or_default(),
        kubernetes: None,
    };
    Some((args.webhook, settings))
}

/// Runs the operator until it is told to end.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = telemetry::init(args.log_format, args.log_level.as_deref()) {
        eprintln!("poolkeeper operator: {error}");
        return ExitCode::from(2);
    }
    let webhook = webhook(&args);
    let Args { kubeconfig, namespace, identity, stream, http, advertise, names, .. } = args;
    let identity = match getrandom::u32() {
        Ok(random) => format!("{identity}-{random:08x}"),
        Err(error) => {
            tracing::error!("not started: no random bytes: {error}");
            return ExitCode::FAILURE;
        }
    };
    match operator::run(&Options { kubeconfig, namespace, identity, stream, http, advertise, names, webhook }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("not started: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_of_either_family_is_advertised() {
        for (text, wanted) in [("10.0.0.7:1", "10.0.0.7:1"), ("fd00::7:9443", "[fd00::7]:9443"), ("[::1]:9", "[::1]:9")]
        {
            assert_eq!(advertised(text).unwrap(), wanted.parse().unwrap());
        }
        for text in ["10.0.0.7", "host:9443", ":9443", "[::1:9443"] {
            assert!(advertised(text).is_err_and(|error| error.contains("[fd00::7]:9443")), "{text}");
        }
    }
}
