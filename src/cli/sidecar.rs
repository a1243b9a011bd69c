//! `poolkeeper sidecar`.

mod operator;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use self::operator::OperatorArgs;
use crate::sidecar::options::{HttpAddress, Options};
use crate::sidecar::{self, RunError};
use crate::telemetry::{self, LogFormat};

/// Serve clients: a PostgreSQL pooler whose pool follows its policy file while it serves.
///
/// Clients connect to 127.0.0.1:6432 or to the unix socket in /run/poolkeeper (listen in the policy says otherwise), with
/// the user, password and database name they always had. Save the policy file, and the pool changes within 50 ms: no
/// client is disconnected. A wrong file changes nothing; every problem is logged and shown by poolkeeper status.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Policy file, or directory with .yaml, .yml or .json files of policies; watched.
    #[arg(long, value_name = "FILE_OR_DIR", env = "POOLKEEPER_POLICY")]
    policy: Option<PathBuf>,
    /// Directory with one directory per Secret: DIR/NAME/username, password, ca.crt, tls.crt, tls.key; watched.
    #[arg(long, value_name = "DIR", env = "POOLKEEPER_SECRETS_DIR")]
    secrets_dir: Option<PathBuf>,
    /// Address of the HTTP endpoints, or the path of a unix socket for them: / (for people) /livez /readyz /startupz /status
    /// /metrics /api/health.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_HTTP", default_value = "127.0.0.1:9432")]
    http: HttpAddress,
    /// Serve clients on the unix sockets alone, whatever listen.port says; for pods in their node's network.
    #[arg(long, env = "POOLKEEPER_SOCKET_ONLY")]
    socket_only: bool,
    /// Threads that serve clients; one is enough for most databases.
    #[arg(long, value_name = "N", env = "POOLKEEPER_WORKERS", default_value = "1", value_parser = workers)]
    workers: NonZeroUsize,
    /// How events are written to stderr.
    #[arg(long, value_enum, env = "POOLKEEPER_LOG_FORMAT", default_value_t)]
    log_format: LogFormat,
    /// error, warn, info, debug or trace, or directives as in warn,poolkeeper=debug; without it RUST_LOG, then info.
    #[arg(long, value_name = "LEVEL", env = "POOLKEEPER_LOG_LEVEL")]
    log_level: Option<String>,
    #[command(flatten)]
    operator: OperatorArgs,
}

const EXAMPLES: &str = "\
Without a policy the environment is the configuration, over the preset Production:
  DATABASE_URL     postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=...&sslrootcert=...
  DB_POOL_SIZE     connections kept (20; 0 = unlimited)
  DB_MAX_OVERFLOW  connections opened above that while needed (10; -1 = unlimited)
  DB_POOL_RECYCLE  seconds after which a connection is replaced (3600; -1 = never)
  DB_POOL_TIMEOUT  seconds a client waits for a connection (30)
A policy wins over them; one that names no Secret takes user and password from DATABASE_URL.

Signals: TERM or INT drains and ends (a second one at once), HUP reads the configuration again.

Examples:
  DATABASE_URL=postgres://app:secret@db/orders poolkeeper sidecar
  poolkeeper sidecar --policy orders.yaml --secrets-dir secrets
  poolkeeper sidecar --policy /etc/poolkeeper --workers 2 --log-format json
  poolkeeper sidecar --operator https://poolkeeper.poolkeeper-system:9443 --operator-ca ca.crt --token token \
      --secrets-dir secrets --state-dir state    # as injection writes it into a pod

See also: poolkeeper check --resolved orders.yaml";

/// More threads than any machine has cores for are a mistake, and each costs memory for every counter.
const MAX_WORKERS: usize = 256;

fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let workers = text.parse().ok().filter(|workers: &NonZeroUsize| workers.get() <= MAX_WORKERS);
    workers.ok_or_else(|| format!("write a number from 1 to {MAX_WORKERS}"))
}

/// Runs the sidecar until it is told to end.
pub fn run(args: Args) -> ExitCode {
    if let Err(error) = telemetry::init(args.log_format, args.log_level.as_deref()) {
        eprintln!("poolkeeper sidecar: {error}");
        return ExitCode::from(2);
    }
    let Args { policy, secrets_dir, http, socket_only, operator, workers, .. } = args;
    let operator = operator.options();
    match sidecar::run(&Options { policy, secrets_dir, http, socket_only, workers, operator }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(RunError::Configuration(findings)) => {
            for finding in &findings {
                tracing::error!(file = finding.file, field = finding.problem.path, "{}", finding.problem.message);
            }
            tracing::error!(problems = findings.len(), "not started: the configuration is not valid");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!("not started: {error}");
            ExitCode::FAILURE
        }
    }
}
