//! The engine under random events, with a database that is a table of states, and what must hold after each.
//!
//! The driver believes the effects only: from them it knows what is open, opening and closing at the
//! database, who waits and who has what; then it compares that with what the engine says of itself.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::config::{Config, Order, Settings};
use super::engine::{ConnId, Effect, Effects, Engine, Event, Replace, RequestId};
use super::reason::{CloseReason, Refusal};

type Key = u8;

/// What may happen next; numbers choose among what there is, modulo how many there are.
#[derive(Debug, Clone)]
enum Act {
    Request(Key),
    Probe(Key),
    Cancel(usize),
    CheckIn(usize, bool),
    Discard(usize, bool),
    /// A granted connection turns out dead before its request saw it.
    Unfit(usize, bool),
    /// An idle connection is found dead.
    Dead(usize),
    Opened(usize),
    OpenFailed(usize),
    Closed(usize, bool),
    Pass(u32),
    Set(Box<Settings>, Replace),
    ClaimEnd(usize),
}

fn acts() -> impl Strategy<Value = Act> {
    let n = 0..1000_usize;
    prop_oneof![
        12 => (0..3_u8).prop_map(Act::Request),
        1 => (0..3_u8).prop_map(Act::Probe),
        2 => n.clone().prop_map(Act::Cancel),
        10 => (n.clone(), any::<bool>()).prop_map(|(n, heard)| Act::CheckIn(n, heard)),
        2 => (n.clone(), prop::bool::weighted(0.2)).prop_map(|(n, invalidate)| Act::Discard(n, invalidate)),
        2 => (n.clone(), prop::bool::weighted(0.3)).prop_map(|(n, invalidate)| Act::Unfit(n, invalidate)),
        1 => n.clone().prop_map(Act::Dead),
        8 => n.clone().prop_map(Act::Opened),
        2 => n.clone().prop_map(Act::OpenFailed),
        6 => (n.clone(), prop::bool::weighted(0.9)).prop_map(|(n, ended)| Act::Closed(n, ended)),
        4 => (0..40_u32).prop_map(Act::Pass),
        2 => (settings(), replaces()).prop_map(|(settings, replace)| Act::Set(Box::new(settings), replace)),
        1 => n.prop_map(Act::ClaimEnd),
    ]
}

fn replaces() -> impl Strategy<Value = Replace> {
    prop_oneof![
        4 => Just(Replace::Keep),
        1 => Just(Replace::Now),
        1 => (0..30_u64).prop_map(|secs| Replace::Within(Duration::from_secs(secs))),
    ]
}

prop_compose! {
    fn settings()(
        size in prop_oneof![1 => Just(0_u32), 8 => 1..6_u32],
        max_overflow in prop_oneof![1 => Just(None), 6 => (0..4_u32).prop_map(Some)],
        cap in prop_oneof![3 => Just(None), 1 => (0..6_u32).prop_map(Some)],
        acquire in 0..30_u64,
        recycle in prop::option::of(0..60_u64),
        (jitter, pre_ping, lifo, min_idle) in (0..=100_u8, any::<bool>(), any::<bool>(), 0..4_u32),
        idle_timeout in prop::option::of(1..60_u64),
        shrink in prop::option::of(0..20_u64),
        max_waiting in prop_oneof![3 => Just(0_u32), 1 => 1..5_u32],
    ) -> Settings {
        let secs = Duration::from_secs;
        Settings {
            size,
            max_overflow,
            cap,
            acquire: secs(acquire),
            recycle: recycle.map(secs),
            recycle_jitter_percent: jitter,
            pre_ping,
            ping_after: secs(acquire % 3),
            order: if lifo { Order::Lifo } else { Order::Fifo },
            min_idle: if size == 0 { min_idle } else { min_idle.min(size) },
            idle_timeout: idle_timeout.map(secs),
            shrink: shrink.map(secs),
            max_waiting,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Opening,
    Idle,
    Lent(RequestId),
    Closing,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    key: Key,
    any_key: bool,
    /// Smaller was here earlier.
    turn: i64,
    deadline: Instant,
}

struct Sim {
    engine: Engine<Key>,
    now: Instant,
    conns: BTreeMap<ConnId, (Key, At)>,
    waiting: BTreeMap<RequestId, Asked>,
    turns: i64,
    /// The next that goes back to the head of the line comes before all who are there.
    head_turns: i64,
    requests: u32,
    claimed: BTreeSet<ConnId>,
    end_told: bool,
    /// Grants, timeouts and refusals so far.
    told: [u64; 3],
}

impl Sim {
    fn new(settings: Settings) -> Self {
        Self {
            engine: Engine::new(Config::new(settings).unwrap(), 0, 42),
            now: Instant::now(),
            conns: BTreeMap::new(),
            waiting: BTreeMap::new(),
            turns: 0,
            head_turns: 0,
            requests: 0,
            claimed: BTreeSet::new(),
            end_told: false,
            told: [0; 3],
        }
    }

    fn limit(&self) -> usize {
        self.engine.config().limit().map_or(usize::MAX, |limit| limit as usize)
    }

    fn count(&self, which: impl Fn(At) -> bool) -> usize {
        self.conns.values().filter(|(_, at)| which(*at)).count()
    }

    /// The `n`th connection in that state, if there is any.
    fn nth(&self, n: usize, which: impl Fn(At) -> bool) -> Option<ConnId> {
        let all: Vec<_> = self.conns.iter().filter(|(_, (_, at))| which(*at)).map(|(conn, _)| *conn).collect();
        all.get(n.checked_rem(all.len())?).copied()
    }

    fn act(&mut self, act: Act) {
        let lent = |at| matches!(at, At::Lent(_));
        match act {
            Act::Request(key) => self.ask(key, false),
            Act::Probe(key) => self.ask(key, true),
            Act::Cancel(n) => {
                let request = n.checked_rem(self.waiting.len()).and_then(|n| self.waiting.keys().nth(n).copied());
                if let Some(request) = request {
                    self.waiting.remove(&request);
                    self.on(Event::Cancel { request });
                }
            }
            Act::CheckIn(n, heard) => {
                if let Some(conn) = self.nth(n, lent) {
                    self.come_back(conn);
                    self.on(Event::CheckIn { conn, heard });
                }
            }
            Act::Discard(n, invalidate) => {
                if let Some(conn) = self.nth(n, lent) {
                    self.come_back(conn);
                    self.on(Event::Discard { conn, reason: CloseReason::Disconnected, invalidate });
                    self.must_be_closing(conn);
                }
            }
            Act::Unfit(n, invalidate) => self.unfit(n, invalidate),
            Act::Dead(n) => {
                if let Some(conn) = self.nth(n, |at| at == At::Idle) {
                    let reason = CloseReason::Disconnected;
                    self.on(Event::Unfit { conn, request: None, reason, invalidate: false });
                    self.must_be_closing(conn);
                }
            }
            Act::Opened(n) => {
                if let Some(conn) = self.nth(n, |at| at == At::Opening) {
                    self.conns.get_mut(&conn).unwrap().1 = At::Idle;
                    self.on(Event::Opened { conn });
                }
            }
            Act::OpenFailed(n) => {
                if let Some(conn) = self.nth(n, |at| at == At::Opening) {
                    self.conns.remove(&conn);
                    self.on(Event::OpenFailed { conn });
                }
            }
            Act::Closed(n, ended) => {
                if let Some(conn) = self.nth(n, |at| at == At::Closing) {
                    self.conns.remove(&conn);
                    self.on(Event::Closed { conn, ended });
                }
            }
            Act::Pass(seconds) => self.pass(Duration::from_secs(seconds.into())),
            Act::Set(settings, replace) => self.set(*settings, replace),
            Act::ClaimEnd(n) => self.claim_end(n),
        }
    }

    fn ask(&mut self, key: Key, any_key: bool) {
        self.requests += 1;
        self.turns += 1;
        let request = RequestId(self.requests);
        let deadline = self.now + self.engine.config().acquire();
        self.waiting.insert(request, Asked { key, any_key, turn: self.turns, deadline });
        self.on(if any_key { Event::Probe { request, key } } else { Event::Request { request, key } });
        if any_key && let Some(asked) = self.waiting.get_mut(&request) {
            // From here on it stands behind an opening of its own key.
            asked.any_key = false;
        }
    }

    fn come_back(&mut self, conn: ConnId) {
        self.claimed.remove(&conn);
        self.conns.get_mut(&conn).unwrap().1 = At::Idle;
    }

    fn must_be_closing(&self, conn: ConnId) {
        assert_eq!(self.conns[&conn].1, At::Closing);
    }

    fn unfit(&mut self, n: usize, invalidate: bool) {
        let Some(conn) = self.nth(n, |at| matches!(at, At::Lent(_))) else { return };
        let (key, At::Lent(request)) = self.conns[&conn] else { return };
        self.come_back(conn);
        self.head_turns -= 1;
        let deadline = self.now + self.engine.config().acquire();
        let asked = Asked { key, any_key: false, turn: self.head_turns, deadline };
        let again = n & 3 > 0;
        if again {
            self.waiting.insert(request, asked);
        }
        let request = again.then_some(request);
        self.on(Event::Unfit { conn, request, reason: CloseReason::PingFailed, invalidate });
        self.must_be_closing(conn);
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        // A keeper that wakes when it is due, and not only then.
        while let Some(due) = self.engine.due().filter(|due| *due < until) {
            self.now = self.now.max(due);
            self.tick();
        }
        self.now = until;
        self.tick();
    }

    fn tick(&mut self) {
        self.on(Event::Tick);
        assert!(self.engine.due().is_none_or(|due| due > self.now), "a tick leaves nothing that is due");
        let overdue = self.waiting.values().filter(|asked| asked.deadline <= self.now).count();
        // Those may stay for whom an opening is under way or a slot comes free.
        let slots = self.engine.slots_left() as usize;
        assert!(overdue <= self.count(|at| at == At::Opening) + slots, "{overdue} are overdue");
    }

    fn set(&mut self, settings: Settings, replace: Replace) {
        self.end_told = false;
        self.on(Event::Reconfigure { config: Config::new(settings).unwrap(), replace });
    }

    fn claim_end(&mut self, n: usize) {
        let Some(conn) = self.nth(n, |at| matches!(at, At::Lent(_))) else { return };
        let surplus = self.engine.stats().checked_out.saturating_sub(u32::try_from(self.limit()).unwrap_or(u32::MAX));
        if self.engine.claim_end(conn) {
            assert!(self.claimed.insert(conn), "claimed twice");
            assert!(self.claimed.len() <= surplus as usize, "more than are too many");
        }
        self.check();
    }

    fn on(&mut self, event: Event<Key>) {
        let mut fx = Effects::new();
        self.engine.on(event, self.now, &mut fx);
        for effect in fx {
            self.carry_out(effect);
        }
        self.check();
    }

    fn carry_out(&mut self, effect: Effect<Key>) {
        match effect {
            Effect::Connect { conn, key } => {
                assert!(self.conns.len() < self.limit(), "above the limit");
                assert!(self.conns.insert(conn, (key, At::Opening)).is_none(), "a place in use");
            }
            Effect::Close { conn, .. } => {
                let at = &mut self.conns.get_mut(&conn).unwrap().1;
                assert_eq!(*at, At::Idle, "closed while in use");
                *at = At::Closing;
            }
            Effect::Grant { request, conn, .. } => {
                let asked = self.waiting.remove(&request).expect("granted to nobody, or twice");
                let (key, at) = self.conns.get_mut(&conn).unwrap();
                assert_eq!(*at, At::Idle, "granted twice");
                assert!(asked.any_key || asked.key == *key, "another key");
                *at = At::Lent(request);
                self.told[0] += 1;
                let earlier = self.waiting.values().any(|other| other.key == *key && other.turn < asked.turn);
                assert!(!earlier, "somebody of this key has waited longer");
            }
            Effect::Fail { request, why } => {
                let asked = self.waiting.remove(&request).expect("failed for nobody, or twice");
                match why {
                    Refusal::Timeout { .. } => {
                        assert!(asked.deadline <= self.now, "before its time");
                        self.told[1] += 1;
                    }
                    Refusal::Busy => assert!(asked.any_key, "only a probe is told that"),
                    Refusal::TooManyWaiting { .. } => self.told[2] += 1,
                    Refusal::ConnectFailed | Refusal::Closed => {}
                }
            }
            Effect::EndSurplus => {
                assert!(!self.end_told, "once per shrink");
                self.end_told = true;
            }
        }
    }

    fn check(&self) {
        let stats = self.engine.stats();
        let count = |which: fn(At) -> bool| u32::try_from(self.count(which)).unwrap();
        let lent = count(|at| matches!(at, At::Lent(_)));
        let opening = count(|at| at == At::Opening);
        assert_eq!(stats.in_use, lent);
        assert_eq!(stats.connecting, opening);
        assert_eq!(stats.idle, count(|at| at == At::Idle));
        assert_eq!(stats.closing, count(|at| at == At::Closing));
        assert_eq!(stats.waiting as usize, self.waiting.len());
        assert_eq!(stats.opened, stats.closed_total() + u64::from(stats.idle) + u64::from(stats.in_use));
        assert_eq!([stats.granted, stats.timeouts, stats.refused], self.told);
        // SQLAlchemy's own sum.
        assert_eq!(stats.checked_out, lent + opening);
        if stats.size > 0 {
            let records = i64::from(stats.checked_in) + i64::from(stats.checked_out);
            assert_eq!(stats.overflow, records - i64::from(stats.size));
            assert!(stats.checked_in <= stats.size, "more kept than size: {stats:?}");
        }
        let records = (stats.checked_in + stats.checked_out) as usize;
        assert!(records <= self.limit() || stats.checked_in == 0, "idle ones above the limit: {stats:?}");
        self.engine.check_line(self.now);
    }

    /// Everything under way ends well, whoever has a connection gives it back: everybody is served in the end.
    fn settle(&mut self) {
        let generous = Settings {
            acquire: Duration::from_secs(1_000_000),
            min_idle: 0,
            idle_timeout: None,
            ..Settings::default()
        };
        let cap = Some(1 + self.requests % 3);
        self.set(Settings { cap, recycle: None, ..generous }, Replace::Keep);
        for round in 0.. {
            assert!(round < 10_000, "it never ends: {:?}", self.engine.stats());
            let (n, idle) = (round * 7 + 3, self.count(|at| at == At::Idle));
            if self.conns.len() == idle {
                break;
            }
            self.act(Act::Opened(n));
            self.act(Act::Closed(n, true));
            self.act(Act::CheckIn(n, true));
        }
        assert!(self.waiting.is_empty(), "they starve: {:?}", self.waiting);
        assert!(self.conns.len() <= self.limit(), "the shrink doesn't converge");
    }

    fn close(&mut self) {
        self.on(Event::Close);
        assert!(self.waiting.is_empty());
        for round in 0.. {
            if self.conns.is_empty() {
                break;
            }
            assert!(round < 10_000, "it never ends: {:?}", self.engine.stats());
            assert!(!self.engine.is_gone());
            for act in [Act::Opened(0), Act::CheckIn(0, true), Act::Closed(0, true)] {
                self.act(act);
            }
        }
        assert!(self.engine.is_gone(), "something leaked: {:?}", self.engine.stats());
        self.ask(0, false);
        assert!(self.waiting.is_empty() && self.conns.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(first in settings(), acts in prop::collection::vec(acts(), 1..120), settle in any::<bool>()) {
        let mut sim = Sim::new(first);
        for act in acts {
            sim.act(act);
        }
        if settle {
            sim.settle();
        }
        sim.close();
    }

    /// Clients that ask again as soon as they have given back, each with its own key, on a database that is slow at random:
    /// nobody waits while others are served over and over.
    #[test]
    fn nobody_starves(limit in 1..5_u32, clients in 2..12_usize, keys in 1..4_u8, luck in prop::collection::vec(0..1000_usize, 400)) {
        let mut sim = Sim::new(Settings {
            size: limit,
            max_overflow: Some(0),
            acquire: Duration::from_secs(1_000_000),
            recycle: None,
            pre_ping: false,
            ..Settings::default()
        });
        let key = |client: usize| client as Key % keys;
        for client in 0..clients {
            sim.ask(key(client), false);
        }
        let (mut client, mut served, mut waits) = (clients, 0_usize, BTreeMap::new());
        for luck in luck {
            let before: BTreeSet<_> = sim.waiting.keys().copied().collect();
            sim.now += Duration::from_millis(3);
            sim.act(match luck % 4 {
                0 => Act::Opened(luck / 4),
                1 => Act::Closed(luck / 4, true),
                _ => Act::CheckIn(luck / 4, true),
            });
            let granted = before.iter().filter(|request| !sim.waiting.contains_key(request)).count();
            served += granted;
            for _ in 0..granted {
                sim.ask(key(client), false);
                client += 1;
            }
            for request in sim.waiting.keys() {
                let since = *waits.entry(*request).or_insert(served);
                // Its turn has come after all who were there, but for those served meanwhile by connections that
                // were not opened for it.
                prop_assert!(served - since <= 4 * (clients + limit as usize), "{request:?} has waited too long");
            }
        }
    }
}
