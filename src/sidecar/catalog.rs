//! Whether one database is quiet ([`crate::pg::session::catalog`]): asked in the background, on an idle server of the
//! pool, as the health query does: it never stands in line, and it opens none. Where no server ever idles,
//! it takes one that a client gives back. Nobody waits for the verdict: until it is known, the database is not quiet.
//!
//! The catalog is read at first, after a change of target, and when its *pulse* shows that something was defined. The
//! pulse is taken at once after a definition seen here, and every 3 s while clients are served; nothing is asked of a
//! database that nobody uses, and the verdict on it counts no more until somebody does.

mod look;
mod offers;
mod pace;
mod state;
mod watch;
mod witness;

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::look::Found;
use self::offers::Offers;
use self::pace::Outcome;
use self::state::{Begun, Known, Seen, State};
pub use self::watch::watch;
pub use self::witness::Witness;
use super::backend::PgBackend;
use super::status;
use crate::pg::session::catalog::{Cure, Verdict};
use crate::pool::Lease;

/// A verdict that could not be confirmed for so long counts no more.
const DOUBTFUL: Duration = Duration::from_secs(15);
/// Names in the log; all that are kept stand in `/status`.
const LOGGED: usize = 3;
/// The kinds of a remedy: the lowest bits beside the number of the definitions that it is of.
const SCRUB: u64 = 1;
const CLOSE: u64 = 2;
/// Beside one of them: it was not looked at for long, so that it counts no more until it is found unchanged.
const STALE: u64 = 4;
const KINDS: u32 = 3;

/// What is known of one database's catalog.
#[derive(Debug, Default)]
pub struct Catalog {
    state: State,
    /// How often code was defined or removed.
    code: AtomicU64,
    /// What was read, and at which of those numbers: it counts for no other.
    remedy: AtomicU64,
    prepares_nothing: AtomicBool,
    /// To be read without the lock: there is a statement in `disconnect`.
    disconnects: AtomicBool,
    disconnect: Mutex<Option<Arc<str>>>,
    read: Mutex<Read>,
    wake: Notify,
    offers: Offers,
    retired: CancellationToken,
    kin: Arc<Kin>,
}

/// All that is known of the targets of one pool: they may be the same database by another name, or for another role.
type Kin = Mutex<Vec<Weak<Catalog>>>;

/// What makes a session clean in which a client may have left anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Not known: nothing was read yet, or a routine was defined since.
    Unknown,
    /// A scrub.
    Scrub,
    /// Nothing but its end: a routine can do what no scrub undoes.
    Close,
}

/// What was known at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sight {
    state: Seen,
    remedy: u64,
}

/// The last reading.
#[derive(Debug, Default)]
struct Read {
    verdict: Arc<Verdict>,
    cure: Cure,
    pulse: Option<Vec<u8>>,
    /// When the verdict was last found to hold.
    at: Option<Instant>,
    /// How long the last whole reading took.
    took: Duration,
    /// Why the last look went wrong, if it did.
    failure: Option<String>,
    /// The last answer was that this role may not look.
    refused: bool,
}

impl Catalog {
    /// For a pool's first target.
    pub fn first() -> Arc<Self> {
        Self::of(Arc::default())
    }

    /// For the pool's next target; nobody looks at this one again: what is known of it counts until its servers have
    /// been replaced.
    pub fn succeeded(&self) -> Arc<Self> {
        self.retired.cancel();
        self.wake.notify_one();
        Self::of(Arc::clone(&self.kin))
    }

    fn of(kin: Arc<Kin>) -> Arc<Self> {
        let catalog = Arc::new(Self { kin, ..Self::default() });
        let mut all = catalog.kin.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&catalog));
        drop(all);
        catalog
    }

    /// What was defined through a server of this target may be seen through those of the others.
    fn tell_others(&self, code: bool) {
        let all = self.kin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in all.iter().filter_map(Weak::upgrade) {
            if std::ptr::eq(Arc::as_ptr(&other), self) {
                continue;
            }
            if code {
                other.code.fetch_add(1, Release);
            }
            other.ddl_seen();
        }
    }

    /// Whether nothing in the database can touch a session. False while that is not known: before the first reading,
    /// from a definition seen here until a reading that began after it, and for an instant after a time in which nobody
    /// used the database. One load.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        match self.state.known() {
            Known::Quiet => true,
            Known::Stale => {
                if self.state.freshen() {
                    self.wake.notify_one();
                }
                false
            }
            Known::Nothing | Known::Noisy => false,
        }
    }

    /// What becomes of a session in which a client may have left anything since then: a routine can do what no scrub
    /// undoes (`setseed`), and may be gone by now. Somebody who has to know makes the catalog be read soon.
    pub fn remedy(&self, since: Sight) -> Remedy {
        let remedy = self.known_remedy();
        if remedy == Remedy::Unknown {
            self.wake.notify_one();
        }
        // Whatever has happened to routines has changed the number.
        let gone = remedy == Remedy::Scrub && since.remedy & !STALE != self.remedy.load(Acquire);
        if gone { Remedy::Unknown } else { remedy }
    }

    fn known_remedy(&self) -> Remedy {
        let (code, known) = (self.code.load(Acquire), self.remedy.load(Acquire));
        match known & !(u64::MAX << KINDS) {
            SCRUB if known >> KINDS == code => Remedy::Scrub,
            CLOSE if known >> KINDS == code => Remedy::Close,
            _ => Remedy::Unknown,
        }
    }

    /// What is known when a client gets a server, to be held against what is known when it gives it back.
    #[inline]
    pub fn sight(&self) -> Sight {
        Sight { state: self.state.see(), remedy: self.remedy.load(Acquire) }
    }

    /// Whether nothing in the database could touch a session since then: a routine may be gone by now.
    #[inline]
    pub fn was_quiet(&self, since: Sight) -> bool {
        self.is_quiet() && self.state.was_as_quiet(since.state)
    }

    fn set_remedy(&self, cure: &Cure, mut code: u64) {
        let before = self.remedy.load(Acquire);
        if !cure.incurable && before == (code << KINDS | CLOSE) {
            // It was removed elsewhere. What it has done to sessions is there still.
            let counted = self.code.compare_exchange(code, code + 1, AcqRel, Acquire);
            code = if counted.is_ok() { code + 1 } else { code };
        }
        self.remedy.store(code << KINDS | if cure.incurable { CLOSE } else { SCRUB }, Release);
    }

    /// Whether it has to be found out what a scrub undoes.
    fn wants_remedy(&self) -> bool {
        self.known_remedy() == Remedy::Unknown
    }

    /// Whether a routine may prepare statements by SQL, as far as is known: a scrub deallocates them then.
    pub fn prepares(&self) -> bool {
        !self.prepares_nothing.load(Relaxed)
    }

    /// The statement that ends the connections that `postgres_fdw` keeps, where that extension is. One load elsewhere.
    pub fn disconnect(&self) -> Option<Arc<str>> {
        let kept = || self.disconnect.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.disconnects.load(Relaxed).then(kept).flatten()
    }

    /// Something was defined: nothing is known until the catalog has been looked at again.
    pub fn ddl_seen(&self) {
        self.state.defined();
        self.wake.notify_one();
    }

    /// The last reading's verdict, which may have been overtaken by a definition; [`Catalog::is_quiet`] knows.
    pub fn verdict(&self) -> Arc<Verdict> {
        Arc::clone(&self.read().verdict)
    }

    /// What was known counts no more.
    fn expire(&self) {
        self.state.defined();
        self.code.fetch_add(1, Release);
    }

    /// A client gives back a server that is fit to be lent: it is kept for a moment if a look has waited for one in vain.
    /// Returns it otherwise. One load, nearly always.
    #[inline]
    #[must_use = "the server is still to be given back"]
    pub fn offer(lease: Lease<PgBackend>) -> Option<Lease<PgBackend>> {
        if !lease.catalog.offers.is_wanted() {
            return Some(lease);
        }
        let catalog = Arc::clone(&lease.catalog);
        catalog.offers.take(lease)
    }

    /// For `/status`.
    pub fn status(&self, now: Instant) -> status::Catalog {
        let read = self.read();
        let (names, more, login_trigger) = match &*read.verdict {
            Verdict::Noisy { names, more, login_trigger } => (names.clone(), *more, *login_trigger),
            Verdict::Unknown | Verdict::Quiet => (Vec::new(), 0, false),
        };
        status::Catalog {
            verdict: read.verdict.name().into(),
            quiet: self.state.known() == Known::Quiet,
            names,
            more,
            login_trigger,
            read_seconds_ago: read.at.map(|at| now.saturating_duration_since(at).as_secs_f64()),
            milliseconds: read.at.map(|_| (read.took.as_secs_f64() * 10_000.0).round() / 10.0),
            failure: read.failure.clone(),
        }
    }

    /// What asks for more is believed at once, also if something was defined meanwhile: it costs time, never a leak.
    /// `code`: the number of definitions of code when the reading began.
    fn keep_cure(&self, cure: &Cure, holds: bool, code: u64) {
        if holds || cure.prepares {
            self.prepares_nothing.store(!cure.prepares, Relaxed);
        }
        if holds || cure.disconnect.is_some() {
            let disconnect = cure.disconnect.as_deref().map(Arc::from);
            self.disconnects.store(disconnect.is_some(), Relaxed);
            *self.disconnect.lock().unwrap_or_else(PoisonError::into_inner) = disconnect;
        }
        // At last: whoever is let in by it scrubs with what stands above.
        self.set_remedy(cure, code);
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        // It is replaced field by field without code that can panic in between.
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can't be confirmed counts for a while only.
    fn doubt(&self, read: &Read) {
        if read.at.is_some_and(|at| at.elapsed() > DOUBTFUL) {
            self.grow_stale();
        }
    }

    /// It was not looked at for long: what is known counts no more until it is found unchanged.
    fn grow_stale(&self) {
        self.state.grow_stale();
        self.remedy.fetch_or(STALE, AcqRel);
    }

    /// Keeps what a look found, if nothing was defined since it began.
    fn keep(&self, alias: &str, (begun, code): (Begun, u64), found: Found, took: Duration) -> Outcome {
        let mut read = self.read();
        match found {
            Found::Busy => {
                self.doubt(&read);
                Outcome::Busy
            }
            Found::Failed(reason) => {
                self.doubt(&read);
                // A server that nobody can look into, time after time, is pooled all the same: what the last reading said holds on.
                if std::mem::replace(&mut read.refused, true) && self.wants_remedy() {
                    self.set_remedy(&read.cure, self.code.load(Acquire));
                }
                read.fail(alias, reason)
            }
            Found::Lost(reason) => {
                self.doubt(&read);
                read.fail(alias, reason)
            }
            Found::Same => {
                let holds = self.state.confirm(begun, *read.verdict == Verdict::Quiet);
                self.keep_cure(&read.cure, holds, code);
                (read.failure, read.refused) = (None, false);
                if holds {
                    read.at = Some(Instant::now());
                }
                Outcome::Answered(took)
            }
            Found::Read { verdict, cure, pulse } => {
                let holds = self.state.publish(begun, verdict == Verdict::Quiet);
                // What was defined elsewhere may have come and gone in between: what has run meanwhile is not forgiven.
                let other = read.pulse.as_ref().is_some_and(|known| *known != pulse);
                let counted = other && self.code.compare_exchange(code, code + 1, AcqRel, Acquire).is_ok();
                self.keep_cure(&cure, holds, code + u64::from(counted));
                (read.failure, read.refused) = (None, false);
                if holds {
                    if *read.verdict != verdict {
                        report(alias, &verdict);
                    }
                    let (verdict, pulse) = (Arc::new(verdict), Some(pulse));
                    *read = Read { verdict, cure, pulse, at: Some(Instant::now()), took, ..Read::default() };
                }
                Outcome::Answered(took)
            }
        }
    }
}

impl Read {
    fn fail(&mut self, alias: &str, reason: String) -> Outcome {
        if self.failure.as_ref() != Some(&reason) {
            tracing::warn!(database = alias, "the catalog can't be read: {reason}");
        }
        self.failure = Some(reason);
        Outcome::Failed
    }
}

/// Says what the verdict is now.
fn report(database: &str, verdict: &Verdict) {
    match verdict {
        Verdict::Unknown => {}
        Verdict::Quiet => tracing::info!(database, "the database is quiet: nothing in it can touch a session"),
        Verdict::Noisy { names, more, .. } => tracing::info!(
            database,
            more = more + names.len().saturating_sub(LOGGED),
            "the database is noisy: its objects can touch a session: {}",
            names.iter().take(LOGGED).map(String::as_str).collect::<Vec<_>>().join("; ")
        ),
    }
}

#[cfg(test)]
mod tests;
