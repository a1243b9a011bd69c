//! Who leads: a Lease of `coordination.k8s.io/v1` that one replica holds.
//!
//! A holder renews it every [`RENEW`] and counts on it for [`VALID`] after it *asked* for the renewal; the others take it
//! when they have seen it unchanged for [`DURATION`] by their own monotonic clock, so no jump of a wall clock and no
//! difference between two of them makes two leaders. Whoever writes asks its [`Claim`] first.
//!
//! The term is the Lease's `leaseTransitions`, raised at every take-over, by the same replica too: sidecars refuse a
//! lower one than they have seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::apply::bounded;
use crate::telemetry::causes;

/// How long others wait since they last saw the Lease change.
pub const DURATION: Duration = Duration::from_secs(10);
/// How long a holder counts on a renewal: less, since others' clocks start later than ours.
pub const VALID: Duration = Duration::from_secs(8);
/// Between two renewals.
pub const RENEW: Duration = Duration::from_millis(2_500);
/// Between two looks of those who wait.
const RETRY: Duration = Duration::from_secs(1);
/// The longest that a request may take.
const REQUEST: Duration = Duration::from_secs(3);

/// A replica's right to lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    held: Option<(u64, Instant)>,
}

impl Claim {
    /// A claim on a term, until then.
    pub const fn new(term: u64, until: Instant) -> Self {
        Self { held: Some((term, until)) }
    }

    /// Until when it holds.
    pub fn until(&self) -> Option<Instant> {
        self.held.map(|(_, until)| until)
    }

    /// The term, if the claim holds now.
    pub fn term(&self, now: Instant) -> Option<u64> {
        self.held.filter(|(_, until)| now < *until).map(|(term, _)| term)
    }
}

/// What to do about the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Take it, for this term.
    Take(u64),
    /// It is ours: renew it.
    Renew(u64),
    /// It is another's.
    Wait,
}

/// What was seen of the Lease, and when it was another last.
#[derive(Debug, Default)]
struct Sight {
    version: Option<String>,
    changed: Option<Instant>,
    /// The highest term that was seen.
    term: u64,
}

impl Sight {
    /// What to do about this Lease.
    fn step(&mut self, lease: Option<&Lease>, me: &str, now: Instant) -> Step {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let version = lease.and_then(|lease| lease.metadata.resource_version.clone());
        if self.version != version {
            self.version = version;
            self.changed = Some(now);
        }
        let term = spec.and_then(|spec| spec.lease_transitions).and_then(|term| u64::try_from(term).ok()).unwrap_or(0);
        // A Lease that somebody deleted or edited must not lead back: sidecars refuse a lower term than they have seen.
        let highest = self.term.max(term);
        self.term = highest;
        match spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default() {
            "" if lease.is_none() => Step::Take(highest.max(first_term(Timestamp::now())) + 1),
            "" => Step::Take(highest + 1),
            holder if holder == me && term == highest => Step::Renew(term),
            holder if holder == me => Step::Take(highest + 1),
            _ if self.changed.is_some_and(|changed| now.saturating_duration_since(changed) >= DURATION) => {
                Step::Take(highest + 1)
            }
            _ => Step::Wait,
        }
    }
}

/// The term before the first of a new Lease: seconds since 2020, which is more than any Lease that was there before can
/// have counted and some sidecar may remember, and for long less than what the Lease's field holds.
fn first_term(now: Timestamp) -> u64 {
    const YEAR_2020: i64 = 1_577_836_800;
    u64::try_from(now.as_second() - YEAR_2020).unwrap_or(0)
}

/// Takes part in the election of one Lease.
#[derive(Clone, Debug)]
pub struct Election {
    api: Api<Lease>,
    name: String,
    me: Arc<str>,
    claim: watch::Sender<Claim>,
}

impl Election {
    /// For the Lease of that name; `me` must be another one for each process.
    pub fn new(api: Api<Lease>, name: impl Into<String>, me: impl Into<Arc<str>>) -> Self {
        Self { api, name: name.into(), me: me.into(), claim: watch::Sender::default() }
    }

    /// The claim as it is, and news of it.
    pub fn claim(&self) -> watch::Receiver<Claim> {
        self.claim.subscribe()
    }

    /// Tries to lead until told to stop, then gives the Lease back so that the next need not wait.
    pub async fn run(self, stop: CancellationToken) {
        let mut sight = Sight::default();
        let mut lease = None;
        loop {
            let pause = match self.turn(&mut sight, &mut lease).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(error = causes(&error), "the Lease can't be read or written; trying again");
                    lease = None;
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => break,
            }
        }
        self.release(lease).await;
    }

    /// One look at the Lease and what follows from it; for how long to wait until the next.
    async fn turn(&self, sight: &mut Sight, lease: &mut Option<Lease>) -> Result<Duration, kube::Error> {
        // A holder knows the Lease as it wrote it.
        if lease.is_none() {
            *lease = bounded(REQUEST, self.api.get_opt(&self.name)).await?;
        }
        let now = Instant::now();
        let (term, taken) = match sight.step(lease.as_ref(), &self.me, now) {
            Step::Wait => {
                *lease = None;
                // Somebody else has it, whatever we counted on.
                self.claim.send_if_modified(|claim| std::mem::take(claim).held.is_some());
                return Ok(RETRY);
            }
            Step::Take(term) => (term, true),
            Step::Renew(term) => (term, false),
        };
        let wanted = self.wanted(lease.as_ref(), term, taken);
        let params = PostParams::default();
        let written = match &lease {
            Some(_) => bounded(REQUEST, self.api.replace(&self.name, &params, &wanted)).await,
            None => bounded(REQUEST, self.api.create(&params, &wanted)).await,
        };
        match written {
            Ok(written) => {
                *lease = Some(written);
                self.claim.send_replace(Claim::new(term, now + VALID));
                if taken {
                    tracing::info!(term, "this replica leads");
                }
                Ok(RENEW)
            }
            Err(error) => {
                *lease = None;
                match &error {
                    // Another was faster.
                    kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Ok(RETRY),
                    _ => Err(error),
                }
            }
        }
    }

    fn wanted(&self, lease: Option<&Lease>, term: u64, taken: bool) -> Lease {
        let now = MicroTime(Timestamp::now());
        let before = lease.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.acquire_time.clone());
        let spec = LeaseSpec {
            holder_identity: Some(self.me.to_string()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            lease_transitions: i32::try_from(term).ok(),
            acquire_time: before.filter(|_| !taken).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            ..LeaseSpec::default()
        };
        let metadata = lease.map_or_else(
            || ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            |lease| lease.metadata.clone(),
        );
        Lease { metadata, spec: Some(spec) }
    }

    /// Gives the Lease back if it is ours.
    async fn release(&self, lease: Option<Lease>) {
        let led = self.claim.send_replace(Claim::default()).held.is_some();
        let Some(mut lease) = lease.filter(|_| led) else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        match bounded(REQUEST, self.api.replace(&self.name, &PostParams::default(), &lease)).await {
            Ok(_) => tracing::info!("the Lease is given back"),
            Err(error) => tracing::warn!(
                error = causes(&error),
                "the Lease could not be given back: the next leader waits for it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str, term: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.into()).filter(|holder: &String| !holder.is_empty()),
            lease_transitions: Some(term),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    #[test]
    fn it_is_taken_when_it_is_free_or_stands_still() {
        let (mut sight, start) = (Sight::default(), Instant::now());
        assert_eq!(sight.step(Some(&lease("", "1", 4)), "me", start), Step::Take(5));
        assert_eq!(sight.step(Some(&lease("me", "2", 5)), "me", start), Step::Renew(5));
        assert_eq!(sight.step(Some(&lease("other", "3", 6)), "me", start), Step::Wait);
        let late = start + DURATION;
        assert_eq!(sight.step(Some(&lease("other", "4", 6)), "me", late), Step::Wait, "it was renewed");
        assert_eq!(sight.step(Some(&lease("other", "4", 6)), "me", late + DURATION / 2), Step::Wait);
        assert_eq!(sight.step(Some(&lease("other", "4", 6)), "me", late + DURATION), Step::Take(7));
    }

    #[test]
    fn no_term_comes_twice() {
        let (mut sight, now) = (Sight::default(), Instant::now());
        let Step::Take(first) = sight.step(None, "me", now) else { panic!("it is free") };
        assert!(first > 1_000_000, "more than a Lease that was deleted had counted");
        sight.step(Some(&lease("other", "1", 2_000_000_000)), "me", now);
        assert_eq!(sight.step(None, "me", now), Step::Take(2_000_000_001), "deleted");
        assert_eq!(sight.step(Some(&lease("me", "2", 7)), "me", now), Step::Take(2_000_000_001), "edited");
        assert_eq!(sight.step(Some(&lease("", "3", 7)), "me", now), Step::Take(2_000_000_001));
    }

    #[test]
    fn a_claim_ends_before_others_may_take_the_lease() {
        assert!(VALID + RENEW / 2 < DURATION);
        let now = Instant::now();
        let claim = Claim::new(3, now + VALID);
        assert_eq!((claim.term(now), claim.term(now + VALID)), (Some(3), None));
        assert_eq!(Claim::default().term(now), None);
    }
}
