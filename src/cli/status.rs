//! `poolkeeper status`: the running sidecar's pools and clients.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::sidecar::status::Status;

mod ask;
mod table;

/// Time between two looks with `--watch`.
const BEAT: Duration = Duration::from_secs(1);
/// Clients shown with `--watch`, so that a screen holds them.
const CLIENTS_WATCHED: usize = 20;

/// Show the pools and clients of a running sidecar.
///
/// Reads /status of the sidecar's HTTP port. IN USE counts connections that are lent or being opened against the most
/// that may exist; WAIT P99 is how long 99 of 100 requests waited at most for a connection, since the start.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the sidecar's HTTP listens: an address, or the path of a unix socket.
    #[arg(long, value_name = "ADDR", env = "POOLKEEPER_HTTP", default_value = "127.0.0.1:9432")]
    pub http: String,
    /// Look again each second until interrupted.
    #[arg(long, short)]
    pub watch: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Ask one question, print the answer's line, and fail if it is no: for probes by command.
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with_all = ["watch", "output"])]
    pub probe: Option<Probe>,
}

/// A question of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Are the listeners bound? (/startupz)
    Started,
    /// Is the policy's rule of readiness met? (/readyz)
    Ready,
    /// Does the loop that serves clients turn? (/livez)
    Live,
}

impl Probe {
    fn path(self) -> &'static str {
        match self {
            Self::Started => "/startupz",
            Self::Ready => "/readyz",
            Self::Live => "/livez",
        }
    }
}

/// How to print it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Tables for people.
    Table,
    /// What the sidecar says, as JSON; with --watch one line a second.
    Json,
}

/// Runs the command.
pub fn run(args: &Args) -> ExitCode {
    let out = &mut io::stdout().lock();
    let done = match args.probe {
        Some(probe) => ask_once(args, probe, out),
        None => watch(args, out).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever reads (head, less) has seen enough.
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("poolkeeper status: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0:?} is no address: write HOST:PORT, such as 127.0.0.1:9432")]
    Address(String),
    #[error("no sidecar answers at {address}: {error}. Is one running? --http or POOLKEEPER_HTTP says where")]
    Nobody { address: String, error: io::Error },
    #[error("what answers at {0} is not a Poolkeeper sidecar: {1}")]
    Stranger(String, String),
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Whether the answer is yes.
fn ask_once(args: &Args, probe: Probe, out: &mut impl Write) -> Result<bool, Failure> {
    let answer = ask::get(&args.http, probe.path())?;
    writeln!(out, "{}", crate::telemetry::escape(answer.text().trim_end()))?;
    match answer.code {
        200 => Ok(true),
        503 => Ok(false),
        _ => Err(answer.stranger(&args.http)),
    }
}

fn watch(args: &Args, out: &mut impl Write) -> Result<(), Failure> {
    let screen = args.watch && args.output == Output::Table && io::stdout().is_terminal();
    let mut rates = Rates::default();
    loop {
        let body = ask::get(&args.http, "/status").and_then(|answer| answer.good(&args.http));
        let text = match (body, args.output) {
            (Ok(body), Output::Json) => json(&args.http, &body, args.watch)?,
            (Ok(body), Output::Table) => {
                let status = parse(&args.http, &body)?;
                let rates = rates.update(&status, Instant::now());
                table::render(&status, args.watch.then_some((rates, CLIENTS_WATCHED)))
            }
            // A sidecar that restarts is waited for; one that never was there is an error.
            (Err(failure @ Failure::Nobody { .. }), Output::Table) if screen && rates.seen() => format!("{failure}\n"),
            (Err(failure), _) => return Err(failure),
        };
        if screen {
            // Home, each line cleared to its end, then whatever is left below: no flicker.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            write!(out, "{text}")?;
        }
        if !args.watch {
            return Ok(());
        }
        if !screen && args.output == Output::Table {
            writeln!(out)?;
        }
        out.flush()?;
        std::thread::sleep(BEAT);
    }
}

fn parse(address: &str, body: &[u8]) -> Result<Status, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure::Stranger(address.into(), error.to_string()))
}

/// What the sidecar said, indented for a reader or in one line.
fn json(address: &str, body: &[u8], line: bool) -> Result<String, Failure> {
    let stranger = |error: serde_json::Error| Failure::Stranger(address.into(), error.to_string());
    let value: serde_json::Value = serde_json::from_slice(body).map_err(stranger)?;
    let text = if line { serde_json::to_string(&value) } else { serde_json::to_string_pretty(&value) };
    Ok(text.map_err(stranger)? + "\n")
}

/// Transactions each second, between two looks.
#[derive(Debug, Default)]
struct Rates {
    last: Option<(Instant, HashMap<String, u64>)>,
}

impl Rates {
    fn seen(&self) -> bool {
        self.last.is_some()
    }

    /// By database; empty at the first look.
    fn update(&mut self, status: &Status, now: Instant) -> HashMap<String, f64> {
        let totals: HashMap<_, _> =
            status.pools.iter().map(|pool| (pool.database.clone(), pool.traffic.transactions)).collect();
        let Some((then, before)) = self.last.replace((now, totals.clone())) else { return HashMap::new() };
        let seconds = now.saturating_duration_since(then).as_secs_f64().max(0.001);
        let rate = |(name, total): (String, u64)| {
            // A sidecar that was restarted counts from zero.
            let done = total.saturating_sub(*before.get(&name)?);
            Some((name, done as f64 / seconds))
        };
        totals.into_iter().filter_map(rate).collect()
    }
}

#[cfg(test)]
mod tests;
