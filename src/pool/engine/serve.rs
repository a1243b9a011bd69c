//! Requests: who is granted what, and what is opened or closed for it.

use std::time::{Duration, Instant};

use super::queue::Pending;
use super::{ConnId, Effect, Effects, Engine, RequestId, Server, State};
use crate::pool::reason::{CloseReason, Refusal};

/// Nobody whose connection has to be opened first, at the limit and in place of another, is overtaken by a request that
/// came later than this after it. Without any of it clients of two kinds would have each other's connections
/// closed at every turn of a busy pool.
const OVERTAKING: Duration = Duration::from_millis(20);
/// How many may be overtaken at once; it bounds the work of one check-in.
const PASSED_OVER_MOST: u32 = 64;

impl<K: Clone + Eq> Engine<K> {
    pub(super) fn request(&mut self, request: RequestId, key: K, now: Instant, fx: &mut Effects<K>) {
        if self.closed {
            fx.push_back(Effect::Fail { request, why: Refusal::Closed });
        } else if let Some((place, conn)) = self.at_hand(&key, |_| true, now) {
            self.lend(place, conn);
            fx.push_back(Effect::Grant { request, conn, ping: false, fresh: false });
        } else if let Some(conn) = self.pick(|k| *k == key, now, fx) {
            self.grant(request, conn, now, fx);
        } else {
            self.stand_in_line(request, key, now, fx);
        }
    }

    /// The connection that a request for `key` would be granted at once with nothing else to follow, and its place: the
    /// path of a query. `last` is the number of the connection that the request would rather have than the first in order,
    /// if it is idle. Take it with [`Engine::lend`], before anything else happens.
    pub fn offer(&self, key: &K, last: Option<u64>, now: Instant) -> Option<(usize, ConnId)> {
        let alone = !self.closed && self.config.settings().min_idle == 0;
        let rather = || last.and_then(|last| self.at_hand(key, |server| server.serial == last, now));
        if alone { rather().or_else(|| self.at_hand(key, |_| true, now)) } else { None }
    }

    /// The first idle connection of `key` that is `wanted`, if it is neither stale nor to be pinged.
    fn at_hand(&self, key: &K, wanted: impl Fn(&Server<K>) -> bool, now: Instant) -> Option<(usize, ConnId)> {
        let of_key = |(place, slot): (usize, Option<ConnId>)| {
            let conn = slot?;
            self.server(conn).filter(|server| server.key == *key && wanted(server)).map(|server| (place, conn, server))
        };
        let (place, conn, server) = self.lending_order().find_map(of_key)?;
        let sound = self.stale(server, now).is_none() && !self.wants_ping(server, now);
        sound.then_some((place, conn))
    }

    /// Lends the idle connection at `place`; says its number.
    pub fn lend(&mut self, place: usize, conn: ConnId) -> u64 {
        self.idle.remove(place);
        self.lent += 1;
        self.totals.granted += 1;
        self.server_mut(conn).map_or(0, |server| {
            server.state = State::Lent { claimed: false };
            server.serial
        })
    }

    fn wants_ping(&self, server: &Server<K>, now: Instant) -> bool {
        let settings = self.config.settings();
        settings.pre_ping && now.saturating_duration_since(server.heard_at) >= settings.ping_after
    }

    /// A probe takes an idle connection of whatever key, or a slot that nobody in line needs.
    pub(super) fn probe(&mut self, request: RequestId, key: K, now: Instant, fx: &mut Effects<K>) {
        if self.closed {
            fx.push_back(Effect::Fail { request, why: Refusal::Closed });
        } else if let Some(conn) = self.pick(|_| true, now, fx) {
            self.grant(request, conn, now, fx);
            self.probed += 1;
            if let Some(server) = self.server_mut(conn) {
                server.probed = true;
            }
        } else if self.slots() > self.unopened(now) {
            self.push_pending(request, key, now);
            self.pump(now, fx);
        } else {
            fx.push_back(Effect::Fail { request, why: Refusal::Busy });
        }
    }

    fn stand_in_line(&mut self, request: RequestId, key: K, now: Instant, fx: &mut Effects<K>) {
        let max = self.config.settings().max_waiting;
        // A request that a slot is free for does not wait in line, nor do those that openings are under way for.
        if max > 0 && self.slots() == 0 && self.pending.len() >= max.saturating_add(self.opening()) {
            self.totals.refused += 1;
            fx.push_back(Effect::Fail { request, why: Refusal::TooManyWaiting { max } });
            return;
        }
        self.push_pending(request, key, now);
        self.pump(now, fx);
        if self.config.settings().acquire.is_zero() {
            self.expire(now, fx);
        }
    }

    fn push_pending(&mut self, request: RequestId, key: K, now: Instant) {
        let timeout = self.config.settings().acquire;
        self.pending.push_back(request, Pending { key, since: now, timeout });
        self.arm(now + timeout);
    }

    /// Puts a request whose connection turned out dead back to where it was: at the head of the line.
    pub(super) fn back_in_line(&mut self, request: RequestId, key: K, now: Instant) {
        let timeout = self.config.settings().acquire;
        self.pending.push_front(request, Pending { key, since: now, timeout });
        self.arm(now + timeout);
    }

    /// The idle connection to lend next, taken out of the idle ones.
    ///
    /// One stale connection met on the way is closed: this is its checkout, and its slot stays. The rest are
    /// left for their own. Unlike SQLAlchemy the request need not wait for the reconnect if another one is usable.
    fn pick(&mut self, matches: impl Fn(&K) -> bool, now: Instant, fx: &mut Effects<K>) -> Option<ConnId> {
        let mut usable = None;
        let mut stale = None;
        let mut empty_first = false;
        for (place, slot) in self.lending_order() {
            let Some(conn) = slot else {
                empty_first |= stale.is_none();
                continue;
            };
            let Some(server) = self.server(conn).filter(|server| matches(&server.key)) else { continue };
            match self.stale(server, now) {
                Some(reason) => stale = stale.or(Some((place, reason))),
                None => {
                    usable = Some((place, conn));
                    break;
                }
            }
        }
        if let Some((place, reason)) = stale
            && (usable.is_some() || !empty_first)
        {
            self.close_idle(place, reason, true, fx);
        }
        // Closing left its slot in place, so `place` still holds.
        let (place, conn) = usable?;
        self.idle.remove(place);
        Some(conn)
    }

    /// Why `server` must not be lent (again), if so. In SQLAlchemy's order.
    pub(super) fn stale(&self, server: &Server<K>, now: Instant) -> Option<CloseReason> {
        if server.is_retired(now) {
            return Some(CloseReason::Replaced);
        }
        if server.fresh {
            return None;
        }
        let age = now.saturating_duration_since(server.opened_at);
        if self.recycle_after(server).is_some_and(|recycle| age > recycle) {
            return Some(CloseReason::Recycled);
        }
        self.invalidated_at.is_some_and(|at| at > server.opened_at).then_some(CloseReason::Invalidated)
    }

    pub(super) fn grant(&mut self, request: RequestId, conn: ConnId, now: Instant, fx: &mut Effects<K>) {
        let ping = self.server(conn).is_some_and(|server| !server.fresh && self.wants_ping(server, now));
        let Some(server) = self.server_mut(conn) else { return };
        let fresh = std::mem::take(&mut server.fresh);
        server.state = State::Lent { claimed: false };
        self.lent += 1;
        self.totals.granted += 1;
        fx.push_back(Effect::Grant { request, conn, ping, fresh });
    }

    /// Serves the line from its head, as far as there is anything to serve it with. See the module's head.
    pub(super) fn pump(&mut self, now: Instant, fx: &mut Effects<K>) {
        self.pass += 1;
        let mut slots = self.slots();
        // Those passed over, and when the first of them came.
        let mut patient = 0_u32;
        let mut patient_since = None;
        let mut next = self.pending.first();
        while let Some(request) = next {
            next = self.pending.after(request);
            let Some(since) = self.pending.get(request).map(|pending| pending.since) else { return };
            if patient_since.is_some_and(|first| since > first + OVERTAKING) || patient == PASSED_OVER_MOST {
                self.make_room(std::mem::take(&mut patient), now, fx);
                patient_since = None;
            }
            let Some(pending) = self.pending.get(request) else { return };
            if let Some((place, conn)) = self.find_usable(&pending.key, now) {
                self.idle.remove(place);
                self.pending.remove(request);
                self.grant(request, conn, now, fx);
            } else if let Some(conn) = self.find_opening(&pending.key, now) {
                self.claim_opening(conn);
            } else if slots > 0 {
                slots -= 1;
                if self.physical() < self.limit {
                    let key = pending.key.clone();
                    self.refill_key = key.clone();
                    let conn = self.open(key, now, fx);
                    self.claim_opening(conn);
                }
            } else if self.idle_live() == 0 {
                return;
            } else if self.is_key_lent(&pending.key) {
                patient += 1;
                patient_since = patient_since.or(Some(pending.since));
            } else {
                self.close_longest_idle(now, fx);
            }
        }
        self.make_room(patient, now, fx);
    }

    /// Closes an idle connection each for so many requests that none of them fits.
    fn make_room(&mut self, requests: u32, now: Instant, fx: &mut Effects<K>) {
        for _ in 0..requests {
            self.close_longest_idle(now, fx);
        }
    }

    /// Whether a connection of this key is in use, so that one may come back.
    fn is_key_lent(&self, key: &K) -> bool {
        let mut servers = self.servers.iter().flatten();
        servers.any(|server| matches!(server.state, State::Lent { .. }) && server.key == *key)
    }

    /// The first idle connection in order that may be lent for `key`.
    fn find_usable(&self, key: &K, now: Instant) -> Option<(usize, ConnId)> {
        self.lending_order().filter_map(|(place, slot)| Some((place, slot?))).find(|(_, conn)| {
            self.server(*conn).is_some_and(|server| server.key == *key && self.stale(server, now).is_none())
        })
    }

    /// An opening for `key` that no request before this one in line can count on.
    fn find_opening(&self, key: &K, now: Instant) -> Option<ConnId> {
        self.openings.iter().copied().find(|conn| {
            self.server(*conn)
                .is_some_and(|server| server.claimed_in != self.pass && server.key == *key && !server.is_retired(now))
        })
    }

    fn claim_opening(&mut self, conn: ConnId) {
        let pass = self.pass;
        if let Some(server) = self.server_mut(conn) {
            server.claimed_in = pass;
        }
    }

    /// How many in line have no opening under way for them.
    fn unopened(&mut self, now: Instant) -> u32 {
        self.pass += 1;
        let mut unopened = 0;
        let mut next = self.pending.first();
        while let Some(request) = next {
            next = self.pending.after(request);
            match self.pending.get(request).and_then(|pending| self.find_opening(&pending.key, now)) {
                Some(conn) => self.claim_opening(conn),
                None => unopened += 1,
            }
        }
        unopened
    }

    /// Tells those whose time is over, except those for whom an opening is under way, or begins once a closing
    /// connection has ended: the timeout bounds the wait in line, not the connecting.
    pub(super) fn expire(&mut self, now: Instant, fx: &mut Effects<K>) {
        self.pass += 1;
        let mut slots = self.slots();
        let mut next = self.pending.first();
        while let Some(request) = next {
            next = self.pending.after(request);
            let Some(pending) = self.pending.get(request) else { return };
            let (deadline, timeout) = (pending.deadline(), pending.timeout);
            if let Some(conn) = self.find_opening(&pending.key, now) {
                self.claim_opening(conn);
            } else if slots > 0 {
                slots -= 1;
            } else if deadline <= now {
                self.pending.remove(request);
                self.totals.timeouts += 1;
                let (size, overflow) = (self.config.settings().size, self.overflow());
                fx.push_back(Effect::Fail { request, why: Refusal::Timeout { size, overflow, timeout } });
            }
        }
    }
}

#[cfg(test)]
impl<K: Clone + Eq> Engine<K> {
    /// What must hold between events; see the module's head.
    pub fn check_line(&self, now: Instant) {
        let mut openings: Vec<_> = self.openings.clone();
        let mut slots = self.slots();
        let mut next = self.pending.first();
        while let Some(pending) = next.and_then(|request| self.pending.get(request)) {
            next = next.and_then(|request| self.pending.after(request));
            assert!(self.find_usable(&pending.key, now).is_none(), "one waits while a usable connection is idle");
            let opening = openings.iter().position(|conn| {
                self.server(*conn).is_some_and(|server| server.key == pending.key && !server.is_retired(now))
            });
            if let Some(opening) = opening {
                openings.remove(opening);
            } else if slots > 0 {
                slots -= 1;
                assert!(self.physical() >= self.limit, "one waits while a slot is free");
            } else {
                assert_eq!(self.idle_live(), 0, "one waits while a connection could make room");
            }
        }
    }

    /// Slots in which something may be opened.
    pub fn slots_left(&self) -> u32 {
        self.slots()
    }
}
