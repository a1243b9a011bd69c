//! The engine doing what a trace says, with connects, pings and closings that end at once, as SQLAlchemy's do.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use poolkeeper::pool::engine::{ConnId, Effect, Effects, Engine, Event, RequestId};
use poolkeeper::pool::reason::Refusal;
use poolkeeper::pool::{CheckoutError, CloseReason, Config, Order, Settings};

use super::trace::{self, Action, Ping, Step};

pub enum Verdict {
    Same,
    /// It differs as this entry of the table says.
    Differs(&'static str),
    Wrong(String),
}

/// A request is the only one of its time.
const REQUEST: RequestId = RequestId(0);

pub struct Replay {
    engine: Engine<()>,
    now: Instant,
    recycle: Option<Duration>,
    acquire: Duration,
    /// The number that SQLAlchemy's trace has for each open connection.
    numbers: BTreeMap<ConnId, u32>,
    opened: u32,
    lent: BTreeMap<u32, ConnId>,
    connects: VecDeque<(bool, u64)>,
    pings: VecDeque<Ping>,
    did: Vec<String>,
    /// The longest connect of this step.
    slowest: Duration,
    /// After how many doings of this step a connection was granted that was there before.
    reused_at: Vec<usize>,
    outcome: Option<String>,
}

impl Replay {
    pub fn new(settings: &trace::Settings) -> Self {
        let recycle = u64::try_from(settings.recycle).ok().map(Duration::from_secs);
        let acquire = Duration::from_secs(settings.timeout);
        let config = Config::new(Settings {
            size: settings.size,
            max_overflow: u32::try_from(settings.max_overflow).ok(),
            cap: None,
            acquire,
            recycle,
            recycle_jitter_percent: 0,
            pre_ping: settings.pre_ping,
            ping_after: Duration::ZERO,
            order: if settings.lifo { Order::Lifo } else { Order::Fifo },
            min_idle: 0,
            idle_timeout: None,
            shrink: None,
            max_waiting: 0,
        });
        Self {
            engine: Engine::new(config.unwrap(), (), 0),
            now: Instant::now(),
            recycle,
            acquire,
            numbers: BTreeMap::new(),
            opened: 0,
            lent: BTreeMap::new(),
            connects: VecDeque::new(),
            pings: VecDeque::new(),
            did: Vec::new(),
            slowest: Duration::ZERO,
            reused_at: Vec::new(),
            outcome: None,
        }
    }

    pub fn step(&mut self, step: &Step) -> Verdict {
        self.did.clear();
        self.outcome = None;
        self.slowest = Duration::ZERO;
        self.reused_at.clear();
        match &step.action {
            Action::Out { connects, pings } => {
                self.connects = connects.iter().copied().collect();
                self.pings = pings.iter().copied().collect();
                self.tell(Event::Request { request: REQUEST, key: () });
                if self.outcome.is_none() {
                    self.now += self.acquire;
                    self.tell(Event::Tick);
                }
            }
            Action::Back { number, reset_failed } => {
                let conn = self.lent.remove(number).expect("lent");
                let reason = CloseReason::ResetFailed;
                self.tell(match reset_failed {
                    false => Event::CheckIn { conn, heard: true },
                    true => Event::Discard { conn, reason, invalidate: false },
                });
            }
            Action::Drop { number } => self.discard(*number, false),
            Action::Lost { number } => self.discard(*number, true),
            Action::Wait { seconds } => {
                self.now += Duration::from_secs(*seconds);
                self.tell(Event::Tick);
            }
        }
        self.compare(step)
    }

    fn compare(&self, step: &Step) -> Verdict {
        let stats = self.engine.stats();
        let counters = (stats.checked_in, stats.checked_out, stats.overflow);
        let outcome = self.outcome.as_deref().unwrap_or("ok");
        let did = self.did.join(" ");
        if (outcome, did.as_str(), counters) == (step.outcome.as_str(), step.did.as_str(), step.counters) {
            return Verdict::Same;
        }
        match self.difference(&step.did) {
            Some(name) => Verdict::Differs(name),
            None => Verdict::Wrong(format!("the engine: {outcome} ; {did} ; {counters:?}")),
        }
    }

    /// The entry of the table by which the engine left SQLAlchemy's way, if it is one: seen from where
    /// the two first did something else.
    fn difference(&self, theirs: &str) -> Option<&'static str> {
        let theirs: Vec<&str> = theirs.split_whitespace().collect();
        let parted = theirs.iter().zip(&self.did).take_while(|(theirs, ours)| theirs == ours).count();
        let next = theirs.get(parted)?;
        // SQLAlchemy connects, the engine just then took a connection that was there, and perhaps closed a stale
        // one that was before it.
        let closed_stale = self.did.get(parted).is_some_and(|ours| ours.starts_with('-'));
        let taken_at = parted + usize::from(closed_stale);
        if next.starts_with(['+', '!']) && self.reused_at.contains(&taken_at) {
            return Some("usable-first");
        }
        // SQLAlchemy closes what it has just opened, too slowly for `recycle`.
        let opened = parted.checked_sub(1).and_then(|before| theirs[before].strip_prefix('+'));
        let at_once = opened.is_some() && opened == next.strip_prefix('-');
        (at_once && self.recycle.is_some_and(|recycle| self.slowest > recycle)).then_some("slow-connect")
    }

    fn discard(&mut self, number: u32, invalidate: bool) {
        let conn = self.lent.remove(&number).expect("lent");
        self.tell(Event::Discard { conn, reason: CloseReason::Disconnected, invalidate });
    }

    /// Tells the engine, and does what follows until nothing more does.
    fn tell(&mut self, event: Event<()>) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let mut fx = Effects::new();
            self.engine.on(event, self.now, &mut fx);
            for effect in fx {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect<()>) -> Option<Event<()>> {
        match effect {
            Effect::Grant { conn, ping, fresh, .. } => self.grant(conn, ping, fresh),
            Effect::Fail { why, .. } => {
                self.outcome = Some(match why {
                    Refusal::ConnectFailed => "refused".to_owned(),
                    Refusal::Timeout { size, overflow, timeout } => {
                        format!("timeout {}", CheckoutError::<()>::Timeout { size, overflow, timeout })
                    }
                    other => panic!("{other:?}"),
                });
                None
            }
            Effect::Connect { conn, .. } => Some(self.connect(conn)),
            Effect::Close { conn, .. } => {
                let number = self.numbers.remove(&conn).expect("open");
                self.did.push(format!("-{number}"));
                Some(Event::Closed { conn, ended: true })
            }
            Effect::EndSurplus => panic!("nothing shrinks here"),
        }
    }

    fn connect(&mut self, conn: ConnId) -> Event<()> {
        let (well, takes) = self.connects.pop_front().unwrap_or((true, 0));
        let takes = Duration::from_secs(takes);
        self.now += takes;
        self.slowest = self.slowest.max(takes);
        if !well {
            self.did.push("!".to_owned());
            return Event::OpenFailed { conn };
        }
        self.opened += 1;
        self.numbers.insert(conn, self.opened);
        self.did.push(format!("+{}", self.opened));
        Event::Opened { conn }
    }

    fn grant(&mut self, conn: ConnId, ping: bool, fresh: bool) -> Option<Event<()>> {
        let number = self.numbers[&conn];
        if !fresh {
            self.reused_at.push(self.did.len());
        }
        let mut answer = Ping::Alive;
        if ping {
            self.did.push(format!("?{number}"));
            answer = self.pings.pop_front().unwrap_or(Ping::Alive);
        }
        let reason = CloseReason::PingFailed;
        match answer {
            Ping::Alive => {
                self.lent.insert(number, conn);
                self.outcome = Some(format!("lent {number}"));
                None
            }
            Ping::Dead => Some(Event::Unfit { conn, request: Some(REQUEST), reason, invalidate: true }),
            Ping::Odd => {
                self.outcome = Some("odd".to_owned());
                Some(Event::Discard { conn, reason, invalidate: false })
            }
        }
    }
}
