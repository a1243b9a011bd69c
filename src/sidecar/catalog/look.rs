//! One look at the catalog, on a server lent for it alone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pg::session::catalog::{Cure, Judge, Row, Verdict, question};
use crate::pool::{Backend, CloseReason, Lease};
use crate::sidecar::backend::PgBackend;
use crate::sidecar::backend::rows::Ended;
use crate::sidecar::catalog::Catalog;
use crate::sidecar::database::Database;

/// A look must end within this time; each statement of it within 10 s by the server's own clock.
const LIMIT: Duration = Duration::from_secs(20);
/// How long is waited for a server that a client gives back.
const OFFER: Duration = Duration::from_secs(2);
/// The longest message of an answer, in bytes: a body, and whatever names.
const MESSAGE: usize = question::BODY + 64 * 1024;

/// What a look found.
#[derive(Debug)]
pub enum Found {
    /// The pulse is the one that was known.
    Same,
    /// The catalog was read.
    Read {
        /// What a scrub must do.
        cure: Cure,
        /// What it amounts to.
        verdict: Verdict,
        /// Its pulse.
        pulse: Vec<u8>,
    },
    /// No server could be had.
    Busy,
    /// The server has answered with an error: it does not let this role look.
    Failed(String),
    /// There was no answer, which says nothing of the next look.
    Lost(String),
}

/// Looks for this catalog; `pulse` is what is known.
pub async fn look(database: &Database, catalog: &Arc<Catalog>, pulse: Option<&[u8]>) -> Found {
    let mut lease = match server(database, catalog).await {
        Ok(lease) => lease,
        Err(found) => return found,
    };
    match tokio::time::timeout(LIMIT, asked(&mut lease, pulse)).await {
        Ok(Ok(found)) => {
            lease.give_back(Instant::now());
            found
        }
        // Whatever was left in its session is left to nobody.
        Ok(Err(error)) => {
            lease.discard(CloseReason::Disconnected);
            Found::Lost(error.to_string())
        }
        Err(_) => {
            lease.discard(CloseReason::Abandoned);
            Found::Failed(format!("no answer within {} s", LIMIT.as_secs()))
        }
    }
}

/// An idle server, or the next that a client gives back: where all are busy all the time, none ever idles, and those that
/// idle may be of an earlier target. None is opened: where no server changes its client, nobody needs a verdict.
async fn server(database: &Database, catalog: &Arc<Catalog>) -> Result<Lease<PgBackend>, Found> {
    if database.pool.stats().idle > 0 {
        let Some(checkout) = database.pool.probe(database.backend.default_key()) else { return Err(Found::Busy) };
        let lease = checkout.await.map_err(|error| Found::Lost(error.to_string()))?;
        if Arc::ptr_eq(&lease.catalog, catalog) {
            return Ok(lease);
        }
        lease.give_back(Instant::now());
    }
    tokio::time::timeout(OFFER, catalog.offers.next()).await.map_err(|_| Found::Busy)
}

/// Asks, and ends the transaction however that went.
///
/// # Errors
/// If the session is not as it was before.
async fn asked(server: &mut Lease<PgBackend>, known: Option<&[u8]>) -> io::Result<Found> {
    let answer = ask(server, known).await?;
    let ended = server.rows::<0>(question::CLOSING, MESSAGE, |_| {}).await?;
    match ended.error {
        Some(error) => Err(io::Error::other(error)),
        None if ended.status != b'I' => Err(io::Error::other("the transaction goes on after its end")),
        None => Ok(answer.unwrap_or_else(Found::Failed)),
    }
}

/// The answer, or what the server said against it.
async fn ask(server: &mut Lease<PgBackend>, known: Option<&[u8]>) -> io::Result<Result<Found, String>> {
    let (mut version, mut encoding, mut pulse) = (None, String::new(), Vec::new());
    let hear = |[number, name, state]: [&[u8]; 3]| {
        version = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        encoding = String::from_utf8_lossy(name).into_owned();
        pulse = state.to_vec();
    };
    if let Some(error) = wrong(server.rows(&question::opening(), MESSAGE, hear).await?) {
        return Ok(Err(error));
    }
    if known == Some(pulse.as_slice()) {
        return Ok(Ok(Found::Same));
    }
    let Some(version) = version else { return Ok(Err("the server does not say its version".into())) };
    let (mut judge, mut rows) = (Judge::default(), 0_usize);
    let hear = |[kind, name, detail]: [&[u8]; 3]| {
        rows += 1;
        judge.hear(Row { kind, name, detail });
    };
    if let Some(error) = wrong(server.rows(&question::reading(version, &encoding), MESSAGE, hear).await?) {
        return Ok(Err(error));
    }
    if rows > question::ROWS {
        judge.too_many();
    }
    let cure = judge.cure();
    Ok(Ok(Found::Read { verdict: judge.verdict(), cure, pulse }))
}

/// What is wrong with an answer within the transaction.
fn wrong(ended: Ended) -> Option<String> {
    let outside = || (ended.status != b'T').then(|| "the transaction has ended too early".to_owned());
    ended.error.clone().or_else(outside)
}
