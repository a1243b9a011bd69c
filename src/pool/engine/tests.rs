//! Each rule of shared/design/pool-semantics.md by itself, at the engine.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::pool::config::Settings;
use crate::pool::reason::Refusal;

/// An engine whose effects the test carries out by hand, on a clock of its own.
struct Bench {
    engine: Engine<char>,
    fx: Effects<char>,
    now: Instant,
    requests: u32,
}

type Fx = Effect<char>;

fn settings() -> Settings {
    Settings { size: 2, max_overflow: Some(1), pre_ping: false, recycle: None, ..Settings::default() }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let engine = Engine::new(Config::new(settings).unwrap(), 'a', 7);
        Self { engine, fx: Effects::new(), now: Instant::now(), requests: 0 }
    }

    fn on(&mut self, event: Event<char>) -> Vec<Fx> {
        self.engine.on(event, self.now, &mut self.fx);
        let stats = self.engine.stats();
        assert_eq!(i64::from(stats.checked_in) + i64::from(stats.checked_out), i64::from(self.engine.records()));
        self.fx.drain(..).collect()
    }

    fn ask(&mut self, key: char) -> (RequestId, Vec<Fx>) {
        self.requests += 1;
        let request = RequestId(self.requests);
        (request, self.on(Event::Request { request, key }))
    }

    fn request(&mut self, key: char) -> Vec<Fx> {
        self.ask(key).1
    }

    /// A request that must be granted, its connection being opened if need be.
    fn lend(&mut self, key: char) -> ConnId {
        let (request, fx) = self.ask(key);
        let fx = match connects(&fx)[..] {
            [] => fx,
            [conn] => self.on(Event::Opened { conn }),
            ref many => panic!("{many:?}"),
        };
        granted(&fx, request).unwrap_or_else(|| panic!("not granted: {fx:?}"))
    }

    fn back(&mut self, conn: ConnId) -> Vec<Fx> {
        self.on(Event::CheckIn { conn, heard: true })
    }

    fn discard(&mut self, conn: ConnId) -> Vec<Fx> {
        self.on(Event::Discard { conn, reason: CloseReason::Disconnected, invalidate: false })
    }

    /// A server was lost just now: all that were opened before are suspect.
    fn invalidate(&mut self) {
        self.engine.invalidated_at = Some(self.now);
    }

    fn ended(&mut self, conn: ConnId) -> Vec<Fx> {
        self.on(Event::Closed { conn, ended: true })
    }

    fn pass(&mut self, time: Duration) -> Vec<Fx> {
        self.now += time;
        self.on(Event::Tick)
    }

    fn set(&mut self, settings: Settings, replace: Replace) -> Vec<Fx> {
        self.on(Event::Reconfigure { config: Config::new(settings).unwrap(), replace })
    }

    /// checked in, checked out, overflow
    fn counters(&self) -> (u32, u32, i64) {
        let stats = self.engine.stats();
        (stats.checked_in, stats.checked_out, stats.overflow)
    }

    /// idle, in use, connecting, closing
    fn physical(&self) -> (u32, u32, u32, u32) {
        let stats = self.engine.stats();
        (stats.idle, stats.in_use, stats.connecting, stats.closing)
    }
}

fn connects(fx: &[Fx]) -> Vec<ConnId> {
    fx.iter().filter_map(|e| if let Effect::Connect { conn, .. } = e { Some(*conn) } else { None }).collect()
}

fn closes(fx: &[Fx]) -> Vec<(ConnId, CloseReason)> {
    fx.iter()
        .filter_map(|e| if let Effect::Close { conn, reason } = e { Some((*conn, *reason)) } else { None })
        .collect()
}

fn granted(fx: &[Fx], to: RequestId) -> Option<ConnId> {
    fx.iter().find_map(|e| match e {
        Effect::Grant { request, conn, .. } if *request == to => Some(*conn),
        _ => None,
    })
}

fn failed(fx: &[Fx], whom: RequestId) -> Option<Refusal> {
    fx.iter().find_map(|e| match e {
        Effect::Fail { request, why } if *request == whom => Some(*why),
        _ => None,
    })
}

mod change;
mod keys;
mod queuepool;
mod waiting;
