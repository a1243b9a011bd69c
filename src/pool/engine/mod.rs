//! The decisions of a pool: `(event, now) -> effects`. No I/O, no clock, no randomness but a seed.
//!
//! Numbers, not permits: a permit that is out cannot be taken back when the pool shrinks, a number is
//! simply smaller. Everything follows from two sums:
//!
//! ```text
//! records  = lent + opening + idle + empty             what SQLAlchemy counts; shrinks to the limit
//! physical = lent + opening + idle + closing           what the server counts; < limit before any connect
//! ```
//!
//! After each event `pump` restores what must always hold:
//! 1. no request waits while a usable idle connection of its key is there;
//! 2. no request waits while a slot is free: an opening is under way for it, or begins as soon as a closing
//!    connection has ended;
//! 3. a request that has neither finds no idle connection at all: one of another key is closed for it.
//!
//! Rooms: `event` what can happen and what follows; `serve` requests and how they are granted; `flow` the life of a connection; `upkeep` time and
//! change; `queue` the line.

mod event;
mod flow;
mod queue;
mod serve;
mod upkeep;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use self::event::{ConnId, Effect, Effects, Event, Replace, RequestId};
use self::queue::Queue;
use super::config::{Config, Order};
use super::reason::CloseReason;
use super::stats::Stats;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Opening {
        /// The slot was there before: if the connect fails it goes back, empty.
        slot_kept: bool,
    },
    Idle,
    Lent {
        /// Its client was asked to end, and agreed.
        claimed: bool,
    },
    Closing,
}

#[derive(Debug)]
struct Server<K> {
    key: K,
    serial: u64,
    state: State,
    /// Just before the connect: SQLAlchemy's `starttime`.
    opened_at: Instant,
    /// When the server was known to live.
    heard_at: Instant,
    idle_since: Instant,
    /// From this moment it is never lent again; an opening is closed when it has opened.
    retire_at: Option<Instant>,
    /// Opened in this very event.
    fresh: bool,
    /// Lent to a probe, for which it has not ceased to be idle.
    probed: bool,
    /// The pass over the line in which this opening was set against a request.
    claimed_in: u64,
}

impl<K> Server<K> {
    fn is_retired(&self, now: Instant) -> bool {
        self.retire_at.is_some_and(|at| at <= now)
    }
}

/// Totals that only grow.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    opened: u64,
    closed: [u64; CloseReason::ALL.len()],
    connect_failures: u64,
    close_deadlines: u64,
    granted: u64,
    timeouts: u64,
    refused: u64,
}

/// The pool's state. See the module's head for what holds between events.
#[derive(Debug)]
pub struct Engine<K> {
    config: Config,
    /// `config.limit()`, or `u32::MAX`: it is asked at every step.
    limit: u32,
    /// `config.kept()`, or `u32::MAX`.
    kept: u32,
    seed: u64,
    servers: Vec<Option<Server<K>>>,
    free: Vec<ConnId>,
    /// The records that wait for a request, longest idle first; `None` is an empty slot.
    idle: VecDeque<Option<ConnId>>,
    /// How many of `idle` are empty.
    empty: u32,
    openings: Vec<ConnId>,
    lent: u32,
    closing: u32,
    /// How many of `lent` were claimed for the shrink.
    claimed: u32,
    /// How many of `lent` are with probes.
    probed: u32,
    pending: Queue<K>,
    /// Numbers the passes over the line; see `Server::claimed_in`.
    pass: u64,
    next_serial: u64,
    invalidated_at: Option<Instant>,
    /// Since when there is more than the limit allows.
    shrink_since: Option<Instant>,
    /// The shrink deadline has passed.
    shrink_due: bool,
    /// What connections for `min_idle` are opened with: what was last asked for.
    refill_key: K,
    refill_at: Option<Instant>,
    refill_pause: Duration,
    alarm: Option<Instant>,
    closed: bool,
    totals: Totals,
}

impl<K: Clone + Eq> Engine<K> {
    /// An empty pool. `key` is what connections for `min_idle` are opened with before anybody asked;
    /// `seed` spreads recycling and replacement over time.
    pub fn new(config: Config, key: K, seed: u64) -> Self {
        Self {
            limit: config.limit().unwrap_or(u32::MAX),
            kept: config.kept().unwrap_or(u32::MAX),
            config,
            seed,
            servers: Vec::new(),
            free: Vec::new(),
            idle: VecDeque::new(),
            empty: 0,
            openings: Vec::new(),
            lent: 0,
            closing: 0,
            claimed: 0,
            probed: 0,
            pending: Queue::new(),
            pass: 0,
            next_serial: 0,
            invalidated_at: None,
            shrink_since: None,
            shrink_due: false,
            refill_key: key,
            refill_at: None,
            refill_pause: upkeep::REFILL_PAUSE_FIRST,
            alarm: None,
            closed: false,
            totals: Totals::default(),
        }
    }

    /// Takes note of `event` and appends what has to be done to `fx`.
    /// An event about a connection or request that is not in the state for it is ignored.
    pub fn on(&mut self, event: Event<K>, now: Instant, fx: &mut Effects<K>) {
        match event {
            Event::Request { request, key } => self.request(request, key, now, fx),
            Event::Probe { request, key } => self.probe(request, key, now, fx),
            Event::Cancel { request } => {
                if self.pending.remove(request).is_some() {
                    self.pump(now, fx);
                }
            }
            Event::CheckIn { conn, heard } => self.check_in(conn, heard, now, fx),
            Event::Discard { conn, reason, invalidate } => self.discard(conn, reason, invalidate, now, fx),
            Event::Unfit { conn, request, reason, invalidate } => {
                self.unfit(conn, request, reason, invalidate, now, fx);
            }
            Event::Opened { conn } => self.opened(conn, now, fx),
            Event::OpenFailed { conn } => self.open_failed(conn, now, fx),
            Event::Closed { conn, ended } => self.closed(conn, ended, now, fx),
            Event::Reconfigure { config, replace } => self.reconfigure(config, replace, now, fx),
            Event::Tick => self.tick(now, fx),
            Event::Close => self.close(fx),
        }
        self.refill(now, fx);
        if self.records() <= self.limit {
            self.shrink_since = None;
            self.shrink_due = false;
        }
    }

    /// The latest moment of the next [`Event::Tick`]; `None` if nothing depends on time.
    pub fn due(&self) -> Option<Instant> {
        self.alarm
    }

    /// The settings that hold now.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The number of this connection, never used twice.
    pub fn serial(&self, conn: ConnId) -> Option<u64> {
        self.server(conn).map(|server| server.serial)
    }

    /// Whether clients idle in a transaction may claim their end now.
    pub fn ending(&self) -> bool {
        self.shrink_due && self.claimed < self.records().saturating_sub(self.limit)
    }

    /// Whether the client of `conn` is to be ended for the shrink. Says yes once per connection, and
    /// only as often as there are connections above the limit.
    pub fn claim_end(&mut self, conn: ConnId) -> bool {
        if !self.ending() {
            return false;
        }
        match self.server_mut(conn).map(|server| &mut server.state) {
            Some(State::Lent { claimed }) if !*claimed => *claimed = true,
            _ => return false,
        }
        self.claimed += 1;
        true
    }

    /// The idle connections, longest idle first.
    pub fn idle(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.idle.iter().flatten().copied()
    }

    /// Whether the pool is closed and nothing of it is left.
    pub fn is_gone(&self) -> bool {
        self.closed && self.physical() == 0
    }

    /// The numbers.
    pub fn stats(&self) -> Stats {
        let Totals { opened, closed, connect_failures, close_deadlines, granted, timeouts, refused } = self.totals;
        Stats {
            size: self.config.settings().size,
            checked_in: count(self.idle.len()),
            checked_out: self.lent + self.opening(),
            overflow: self.overflow(),
            limit: self.config.limit(),
            idle: self.idle_live(),
            in_use: self.lent,
            connecting: self.opening(),
            closing: self.closing,
            waiting: self.pending.len(),
            opened,
            closed,
            connect_failures,
            close_deadlines,
            granted,
            timeouts,
            refused,
        }
    }

    /// Lets connections be lent that are suspect, as a test needs it.
    #[cfg(test)]
    pub fn forget_invalidation(&mut self) {
        self.invalidated_at = None;
    }

    /// SQLAlchemy's `overflow()`.
    fn overflow(&self) -> i64 {
        match self.config.settings().size {
            0 => 0,
            size => i64::from(self.records()) - i64::from(size),
        }
    }

    fn opening(&self) -> u32 {
        count(self.openings.len())
    }

    fn idle_live(&self) -> u32 {
        count(self.idle.len()) - self.empty
    }

    fn records(&self) -> u32 {
        self.lent + self.opening() + count(self.idle.len())
    }

    fn physical(&self) -> u32 {
        self.lent + self.opening() + self.idle_live() + self.closing
    }

    /// Slots in which a connection may be opened: empty records, and records not made yet.
    fn slots(&self) -> u32 {
        self.empty + self.limit.saturating_sub(self.records())
    }

    fn server(&self, conn: ConnId) -> Option<&Server<K>> {
        self.servers.get(conn.0 as usize)?.as_ref()
    }

    fn server_mut(&mut self, conn: ConnId) -> Option<&mut Server<K>> {
        self.servers.get_mut(conn.0 as usize)?.as_mut()
    }

    /// The places of `idle` in the order in which they are lent.
    fn lending_order(&self) -> impl Iterator<Item = (usize, Option<ConnId>)> + '_ {
        let lifo = self.config.settings().order == Order::Lifo;
        let last = self.idle.len();
        (0..last).map(move |n| if lifo { last - 1 - n } else { n }).map(|place| (place, self.idle[place]))
    }

    /// Makes sure that a Tick comes at `at` or before.
    fn arm(&mut self, at: Instant) {
        self.alarm = Some(self.alarm.map_or(at, |alarm| alarm.min(at)));
    }
}

/// A length as a number of connections; the configuration bounds them far below `u32::MAX`.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
