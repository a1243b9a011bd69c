//! The sample application of the demo and of the tests on a real node: clients that work all the time with an ordinary
//! driver (sqlx), check every value that they read, and count. It knows nothing of a pooler: PGHOST, PGPORT and PGDATABASE
//! say where the database is.
//!
//! GET / answers with what it has counted; POST /ask and /abandon run a statement of the caller's. SIGTERM ends it in order:
//! transactions finish, connections say goodbye, and its result is written to the table `runs`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

mod client;
mod counts;
mod http;

use client::Database;
use counts::Counts;

/// What can be set; every flag is an environment variable, too.
#[derive(Parser, Debug, Clone)]
struct Options {
    /// Clients, each with a connection of its own; 0: none, it only runs what it is asked to.
    #[arg(long, env = "CLIENTS", default_value_t = 8)]
    clients: u32,
    /// Milliseconds that a client thinks between transactions.
    #[arg(long, env = "PAUSE_MS", default_value_t = 5)]
    pause_ms: u64,
    /// Milliseconds that every fourth transaction holds its connection.
    #[arg(long, env = "HOLD_MS", default_value_t = 0)]
    hold_ms: u32,
    /// Ends by itself when every client has done so many; 0: works until it is told to end.
    #[arg(long, env = "TRANSACTIONS", default_value_t = 0)]
    transactions: u64,
    /// Transactions after which a client leaves and logs in anew; 0: never.
    #[arg(long, env = "RELOGIN", default_value_t = 500)]
    relogin: u64,
    /// Folder with the files username and password, read at every login; else PGUSER and PGPASSWORD.
    #[arg(long, env = "CREDENTIALS")]
    credentials: Option<PathBuf>,
    /// Where its counters are served.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: String,
    /// What it calls itself in the database.
    #[arg(long, env = "HOSTNAME", default_value = "orders")]
    name: String,
    /// SIGTERM is not heard.
    #[arg(long, env = "IGNORE_TERM")]
    ignore_term: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    let database = Database::new(options.credentials.clone());
    let counts = Arc::new(Counts::new(&options.name));
    let server = match http::serve(&options.listen, Arc::clone(&counts), database.clone()) {
        Ok(server) => server,
        Err(error) => {
            eprintln!("{}: {error}", options.listen);
            return ExitCode::FAILURE;
        }
    };
    tokio::spawn(server);
    tokio::spawn(told_to_end(options.ignore_term, Arc::clone(&counts)));
    tokio::spawn(print(Arc::clone(&counts)));
    let clients: Vec<_> = (0..options.clients)
        .map(|number| tokio::spawn(client::run(number, options.clone(), database.clone(), Arc::clone(&counts))))
        .collect();
    for client in clients {
        if let Err(error) = client.await {
            counts.failed(&format!("a client ended: {error}"));
        }
    }
    // Without clients it runs what it is asked to, until it is told to end.
    while options.clients == 0 && !counts.ending() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    if let Err(error) = database.write_result(&counts).await {
        counts.failed(&format!("the result: {error}"));
    }
    println!("{}", counts.show());
    if counts.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Ends the clients at SIGTERM.
async fn told_to_end(ignore: bool, counts: Arc<Counts>) {
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    while term.recv().await.is_some() {
        if !ignore {
            counts.end();
        }
    }
}

/// Prints the counters every five seconds, for `kubectl logs`.
async fn print(counts: Arc<Counts>) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        println!("{}", counts.show());
    }
}
