//! The life of a connection: opening, given back, found dead, closed.

use std::time::Instant;

use super::{ConnId, Effect, Effects, Engine, RequestId, Server, State};
use crate::pool::config::Order;
use crate::pool::reason::{CloseReason, Refusal};

impl<K: Clone + Eq> Engine<K> {
    /// Begins an opening in the first empty slot, or in a new one. The caller has checked both sums.
    pub(super) fn open(&mut self, key: K, now: Instant, fx: &mut Effects<K>) -> ConnId {
        debug_assert!(self.physical() < self.limit && self.slots() > 0);
        let empty = self.lending_order().find(|(_, slot)| slot.is_none()).map(|(place, _)| place);
        if let Some(place) = empty {
            self.idle.remove(place);
            self.empty -= 1;
        }
        let conn = self.free.pop().unwrap_or_else(|| {
            self.servers.push(None);
            ConnId(super::count(self.servers.len() - 1))
        });
        self.next_serial += 1;
        self.servers[conn.0 as usize] = Some(Server {
            key: key.clone(),
            serial: self.next_serial,
            state: State::Opening { slot_kept: empty.is_some() },
            opened_at: now,
            heard_at: now,
            idle_since: now,
            retire_at: None,
            fresh: false,
            probed: false,
            claimed_in: 0,
        });
        self.openings.push(conn);
        fx.push_back(Effect::Connect { conn, key });
        conn
    }

    pub(super) fn opened(&mut self, conn: ConnId, now: Instant, fx: &mut Effects<K>) {
        let above = self.records() > self.limit;
        if self.end_opening(conn).is_none() {
            return;
        }
        self.totals.opened += 1;
        self.refill_pause = super::upkeep::REFILL_PAUSE_FIRST;
        self.refill_at = None;
        if let Some(reason) = self.unwanted(conn, above, now) {
            self.begin_close(conn, reason, fx);
            self.pump(now, fx);
            return;
        }
        if let Some(server) = self.server_mut(conn) {
            server.fresh = true;
            server.heard_at = now;
        }
        self.put_idle(conn, now, fx);
        if let Some(server) = self.server_mut(conn) {
            server.fresh = false;
        }
    }

    pub(super) fn open_failed(&mut self, conn: ConnId, now: Instant, fx: &mut Effects<K>) {
        let Some(slot_kept) = self.end_opening(conn) else { return };
        self.totals.connect_failures += 1;
        self.refill_at = Some(now + self.refill_pause);
        self.arm(now + self.refill_pause);
        self.refill_pause = (self.refill_pause * 2).min(super::upkeep::REFILL_PAUSE_MOST);
        if slot_kept {
            self.put_empty(false);
        }
        let failed = self.forget(conn);
        // What went wrong on the way to a target that no longer holds concerns nobody.
        if let Some(server) = failed.filter(|server| !server.is_retired(now)) {
            let mut next = self.pending.first();
            while let Some(request) = next {
                if self.pending.get(request).is_some_and(|pending| pending.key == server.key) {
                    self.pending.remove(request);
                    fx.push_back(Effect::Fail { request, why: Refusal::ConnectFailed });
                    break;
                }
                next = self.pending.after(request);
            }
        }
        self.pump(now, fx);
    }

    /// Takes `conn` out of the openings; says whether its slot was there before.
    fn end_opening(&mut self, conn: ConnId) -> Option<bool> {
        let State::Opening { slot_kept } = self.server(conn)?.state else { return None };
        self.openings.retain(|other| *other != conn);
        Some(slot_kept)
    }

    /// Why `conn`, just opened or given back, is not kept; `above` if it was one above the limit.
    fn unwanted(&self, conn: ConnId, above: bool, now: Instant) -> Option<CloseReason> {
        if self.closed {
            Some(CloseReason::Shutdown)
        } else if above {
            Some(CloseReason::Shrunk)
        } else {
            self.server(conn)?.is_retired(now).then_some(CloseReason::Replaced)
        }
    }

    /// A healthy connection comes back, nothing is to be done about it, and nobody waits for it: the path of a query. False
    /// if there is more to it: nothing has happened then.
    pub fn check_in_quietly(&mut self, conn: ConnId, now: Instant) -> bool {
        let settings = self.config.settings();
        let on_time = |alarm: Instant| settings.idle_timeout.is_none_or(|timeout| alarm <= now + timeout);
        let quiet = !self.closed
            && self.pending.is_empty()
            && self.records() <= self.limit
            && super::count(self.idle.len()) < self.kept
            && self.shrink_since.is_none()
            && settings.min_idle == 0
            && (settings.idle_timeout.is_none() || self.alarm.is_some_and(on_time));
        let Some(server) = self.server_mut(conn).filter(|_| quiet) else { return false };
        if server.state != (State::Lent { claimed: false }) || server.probed || server.retire_at.is_some() {
            return false;
        }
        server.state = State::Idle;
        server.heard_at = now;
        server.idle_since = now;
        self.lent -= 1;
        self.idle.push_back(Some(conn));
        true
    }

    pub(super) fn check_in(&mut self, conn: ConnId, heard: bool, now: Instant, fx: &mut Effects<K>) {
        if heard && self.check_in_quietly(conn, now) {
            return;
        }
        let above = self.records() > self.limit;
        if !self.end_lent(conn) {
            return;
        }
        if let Some(server) = self.server_mut(conn).filter(|_| heard) {
            server.heard_at = now;
        }
        if let Some(reason) = self.unwanted(conn, above, now) {
            self.begin_close(conn, reason, fx);
            self.pump(now, fx);
        } else {
            self.put_idle(conn, now, fx);
        }
    }

    pub(super) fn discard(
        &mut self,
        conn: ConnId,
        reason: CloseReason,
        invalidate: bool,
        now: Instant,
        fx: &mut Effects<K>,
    ) {
        if !self.end_lent(conn) {
            return;
        }
        if invalidate {
            self.invalidate_since(conn, now);
        }
        self.begin_close(conn, reason, fx);
        self.put_empty(false);
        self.pump(now, fx);
    }

    pub(super) fn unfit(
        &mut self,
        conn: ConnId,
        request: Option<RequestId>,
        reason: CloseReason,
        invalidate: bool,
        now: Instant,
        fx: &mut Effects<K>,
    ) {
        let Some(server) = self.server(conn) else { return };
        match server.state {
            State::Idle => {
                if let Some(place) = self.idle.iter().position(|slot| *slot == Some(conn)) {
                    self.close_idle(place, reason, true, fx);
                }
            }
            State::Lent { .. } => {
                let key = server.key.clone();
                self.end_lent(conn);
                self.begin_close(conn, reason, fx);
                // The request keeps its slot: it is the next to be taken.
                self.put_empty(true);
                match request {
                    Some(request) if self.closed => fx.push_back(Effect::Fail { request, why: Refusal::Closed }),
                    Some(request) => self.back_in_line(request, key, now),
                    None => {}
                }
            }
            State::Opening { .. } | State::Closing => return,
        }
        if invalidate {
            self.invalidate_since(conn, now);
        }
        self.pump(now, fx);
    }

    /// SQLAlchemy's pool-wide invalidation on account of `conn`: nothing new if it was opened before the last one.
    fn invalidate_since(&mut self, conn: ConnId, now: Instant) {
        let Some(opened_at) = self.server(conn).map(|server| server.opened_at) else { return };
        if self.invalidated_at.is_none_or(|at| at < opened_at) {
            self.invalidated_at = Some(now);
        }
    }

    pub(super) fn closed(&mut self, conn: ConnId, ended: bool, now: Instant, fx: &mut Effects<K>) {
        if self.server(conn).is_none_or(|server| server.state != State::Closing) {
            return;
        }
        self.forget(conn);
        self.closing -= 1;
        if !ended {
            self.totals.close_deadlines += 1;
        }
        self.pump(now, fx);
    }

    /// Takes `conn` out of the lent ones; false if it is not lent.
    fn end_lent(&mut self, conn: ConnId) -> bool {
        let Some(State::Lent { claimed }) = self.server(conn).map(|server| server.state) else { return false };
        let probed = self.server(conn).is_some_and(|server| server.probed);
        self.lent -= 1;
        self.claimed -= u32::from(claimed);
        self.probed -= u32::from(probed);
        true
    }

    /// Makes `conn` idle, lends it to whoever waits for it, or closes one if more than `size` are there then.
    fn put_idle(&mut self, conn: ConnId, now: Instant, fx: &mut Effects<K>) {
        let Some(server) = self.server_mut(conn) else { return };
        server.state = State::Idle;
        // A probe leaves its connection where it was in the order, and as long idle as it was.
        let probed = std::mem::take(&mut server.probed);
        if !probed {
            server.idle_since = now;
        }
        if let Some(at) = server.retire_at {
            self.arm(at);
        }
        if probed && self.config.settings().order == Order::Fifo {
            self.idle.push_front(Some(conn));
        } else {
            self.idle.push_back(Some(conn));
        }
        if !self.pending.is_empty() {
            self.pump(now, fx);
        }
        if super::count(self.idle.len()) > self.kept {
            match self.idle.iter().position(Option::is_none).filter(|_| self.idle.back() != Some(&Some(conn))) {
                // It was closed for another key: its slot is one too many, as a record not made it serves as well.
                Some(place) => {
                    self.idle.remove(place);
                    self.empty -= 1;
                }
                None => self.close_idle(self.surplus_place(), CloseReason::Surplus, false, fx),
            }
        }
        if let Some(timeout) = self.config.settings().idle_timeout {
            self.arm(now + timeout);
        }
    }

    /// Which is closed when one too many was given back: that very one, as SQLAlchemy does. But if the
    /// longest idle one has another key it goes instead, else the keys in use would never be kept.
    fn surplus_place(&self) -> usize {
        let back = self.idle.len() - 1;
        let key = |place: usize| self.idle[place].and_then(|conn| self.server(conn)).map(|server| &server.key);
        match self.idle.iter().position(Option::is_some) {
            Some(front) if key(front) != key(back) => front,
            _ => back,
        }
    }

    /// Puts an empty slot among the idle records, where the next request finds it first (`first`) or where one
    /// given back goes; drops it if there are enough records without it.
    fn put_empty(&mut self, first: bool) {
        if self.records() >= self.limit || super::count(self.idle.len()) >= self.kept {
            return;
        }
        self.empty += 1;
        if first && self.config.settings().order == Order::Fifo {
            self.idle.push_front(None);
        } else {
            self.idle.push_back(None);
        }
    }

    /// Closes the idle connection at `place`; its slot stays there, empty, if `keep_slot`.
    pub(super) fn close_idle(&mut self, place: usize, reason: CloseReason, keep_slot: bool, fx: &mut Effects<K>) {
        let slot =
            if keep_slot { self.idle.get_mut(place).and_then(Option::take) } else { self.idle.remove(place).flatten() };
        let Some(conn) = slot else { return };
        self.empty += u32::from(keep_slot);
        self.begin_close(conn, reason, fx);
    }

    /// Closes the connection that was idle longest, if any is, for a request that it does not fit.
    pub(super) fn close_longest_idle(&mut self, now: Instant, fx: &mut Effects<K>) {
        let Some(place) = self.idle.iter().position(Option::is_some) else { return };
        let server = self.idle[place].and_then(|conn| self.server(conn));
        let reason = server.and_then(|server| self.stale(server, now)).unwrap_or(CloseReason::OtherKey);
        self.close_idle(place, reason, true, fx);
    }

    /// From here on `conn` counts as closing and nothing else.
    pub(super) fn begin_close(&mut self, conn: ConnId, reason: CloseReason, fx: &mut Effects<K>) {
        let Some(server) = self.server_mut(conn) else { return };
        server.state = State::Closing;
        self.closing += 1;
        self.totals.closed[reason.index()] += 1;
        fx.push_back(Effect::Close { conn, reason });
    }

    fn forget(&mut self, conn: ConnId) -> Option<Server<K>> {
        let server = self.servers.get_mut(conn.0 as usize)?.take();
        self.free.push(conn);
        server
    }
}
