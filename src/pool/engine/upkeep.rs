//! Time and change: deadlines, idle timeout, minimum idle, generations, shrink, close.

use std::time::{Duration, Instant};

use super::{Effect, Effects, Engine, Replace, Server};
use crate::pool::config::Config;
use crate::pool::reason::{CloseReason, Refusal};

/// How long `min_idle` waits after an opening failed; doubled with each failure in a row.
pub(super) const REFILL_PAUSE_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause.
pub(super) const REFILL_PAUSE_MOST: Duration = Duration::from_secs(30);
/// When to look again at a request whose time is over while an opening is under way for it.
const OVERDUE_LOOK: Duration = Duration::from_millis(250);

impl<K: Clone + Eq> Engine<K> {
    pub(super) fn tick(&mut self, now: Instant, fx: &mut Effects<K>) {
        self.close_retired(now, fx);
        self.close_long_idle(now, fx);
        self.check_shrink(now, fx);
        self.pump(now, fx);
        self.expire(now, fx);
        self.rearm(now);
    }

    pub(super) fn reconfigure(&mut self, config: Config, replace: Replace, now: Instant, fx: &mut Effects<K>) {
        let limit_before = self.limit;
        self.limit = config.limit().unwrap_or(u32::MAX);
        self.kept = config.kept().unwrap_or(u32::MAX);
        self.config = config;
        self.retire(replace, now);
        self.close_retired(now, fx);
        self.shed(fx);
        // Taken back at the end of this event if there is not more than the limit allows.
        if self.limit < limit_before || self.shrink_since.is_none() {
            self.shrink_since = Some(now);
            self.shrink_due = false;
        }
        self.check_shrink(now, fx);
        self.pump(now, fx);
        self.rearm(now);
    }

    /// Gives every connection that exists the moment from which it is never lent again.
    fn retire(&mut self, replace: Replace, now: Instant) {
        let window = match replace {
            Replace::Keep => return,
            Replace::Now => Duration::ZERO,
            Replace::Within(window) => window,
        };
        let seed = self.seed;
        for server in self.servers.iter_mut().flatten() {
            let at = now + share(window, 100, spread(seed, server.serial, 1));
            server.retire_at = Some(server.retire_at.map_or(at, |before| before.min(at)));
        }
    }

    fn close_retired(&mut self, now: Instant, fx: &mut Effects<K>) {
        let retired = |engine: &Self| {
            engine
                .idle
                .iter()
                .position(|slot| slot.and_then(|conn| engine.server(conn)).is_some_and(|server| server.is_retired(now)))
        };
        while let Some(place) = retired(self) {
            self.close_idle(place, CloseReason::Replaced, false, fx);
        }
    }

    fn close_long_idle(&mut self, now: Instant, fx: &mut Effects<K>) {
        let Some(timeout) = self.config.settings().idle_timeout else { return };
        while self.idle_live() > self.config.settings().min_idle {
            let Some(place) = self.idle.iter().position(Option::is_some) else { return };
            let server = self.idle[place].and_then(|conn| self.server(conn));
            if server.is_none_or(|server| now.saturating_duration_since(server.idle_since) < timeout) {
                return;
            }
            self.close_idle(place, CloseReason::IdleTimeout, false, fx);
        }
    }

    /// After a shrink: what is idle and too much goes at once, empty slots first, then the longest idle.
    fn shed(&mut self, fx: &mut Effects<K>) {
        while !self.idle.is_empty() && (self.records() > self.limit || super::count(self.idle.len()) > self.kept) {
            match self.idle.iter().position(Option::is_none) {
                Some(place) => {
                    self.idle.remove(place);
                    self.empty -= 1;
                }
                None => self.close_idle(0, CloseReason::Shrunk, false, fx),
            }
        }
    }

    fn check_shrink(&mut self, now: Instant, fx: &mut Effects<K>) {
        if self.records() > self.limit && !self.shrink_due && self.shrink_at().is_some_and(|at| at <= now) {
            self.shrink_due = true;
            fx.push_back(Effect::EndSurplus);
        }
    }

    fn shrink_at(&self) -> Option<Instant> {
        Some(self.shrink_since? + self.config.settings().shrink?)
    }

    /// Opens connections ahead of need up to `min_idle`, in slots that nobody in line needs and never above `size`.
    pub(super) fn refill(&mut self, now: Instant, fx: &mut Effects<K>) {
        while self.wants_refill(now) && self.refill_at.is_none_or(|at| at <= now) {
            self.open(self.refill_key.clone(), now, fx);
        }
    }

    fn wants_refill(&self, now: Instant) -> bool {
        let min_idle = self.config.settings().min_idle;
        if min_idle == 0 || self.closed {
            return false;
        }
        let coming = self.openings.iter().filter_map(|conn| self.server(*conn));
        let coming = coming.filter(|server| !server.is_retired(now)).count();
        let spare = super::count(coming).saturating_sub(self.pending.len());
        let room = self.empty > 0 || self.records() < self.limit.min(self.kept);
        self.idle_live() + self.probed + spare < min_idle && room && self.physical() < self.limit
    }

    pub(super) fn close(&mut self, fx: &mut Effects<K>) {
        self.closed = true;
        while let Some(request) = self.pending.first() {
            self.pending.remove(request);
            fx.push_back(Effect::Fail { request, why: Refusal::Closed });
        }
        while let Some(place) = self.idle.iter().position(Option::is_some) {
            self.close_idle(place, CloseReason::Shutdown, false, fx);
        }
        self.alarm = None;
    }

    /// Sets the alarm anew from all that depends on time.
    fn rearm(&mut self, now: Instant) {
        self.alarm = None;
        let mut next = self.pending.first();
        while let Some(pending) = next.and_then(|request| self.pending.get(request)) {
            let deadline = pending.deadline();
            next = next.and_then(|request| self.pending.after(request));
            self.arm(if deadline <= now { now + OVERDUE_LOOK } else { deadline });
        }
        let retiring = self.idle().filter_map(|conn| self.server(conn)?.retire_at).min();
        let longest_idle = self.idle().next().and_then(|conn| self.server(conn)).map(|server| server.idle_since);
        let expiring = match (longest_idle, self.config.settings().idle_timeout) {
            (Some(since), Some(timeout)) if self.idle_live() > self.config.settings().min_idle => Some(since + timeout),
            _ => None,
        };
        let shrink = self.shrink_at().filter(|_| !self.shrink_due && self.records() > self.limit);
        let refill = self.refill_at.filter(|at| *at > now && self.config.settings().min_idle > 0);
        for at in [retiring, expiring, shrink, refill].into_iter().flatten() {
            self.arm(at);
        }
    }

    /// The age above which `server` is replaced at its next checkout.
    pub(super) fn recycle_after(&self, server: &Server<K>) -> Option<Duration> {
        let settings = self.config.settings();
        let recycle = settings.recycle?;
        match settings.recycle_jitter_percent {
            0 => Some(recycle),
            percent => Some(recycle - share(recycle, percent, spread(self.seed, server.serial, 0))),
        }
    }
}

/// `percent` of `whole`, times a random share of it (`random` over 2^32).
fn share(whole: Duration, percent: u8, random: u32) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(percent) / 100 * u128::from(random)) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A random number that is always the same for a connection and a purpose (SplitMix64, Steele et al. 2014).
fn spread(seed: u64, serial: u64, purpose: u64) -> u32 {
    let mut z = seed.wrapping_add((serial * 2 + purpose).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 32) as u32
}
