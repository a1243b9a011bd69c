//! When the catalog is looked at: pure, `(what is known, now) → step`.

use std::time::{Duration, Instant};

use super::state::Known;

/// How old a verdict may grow while clients are served.
const PULSE: Duration = Duration::from_secs(3);
/// How often is tried for a server at first, and the least time between two looks.
const SHORT: Duration = Duration::from_millis(250);
/// The longest time between two tries for a server.
const BUSY: Duration = Duration::from_secs(3);
/// After that time a server that comes back from a client is taken.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between a failed look and the next: at first, and at most.
const FAILED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A server is busy with looks for at most a tenth of the time.
const REST: u32 = 9;
/// The longest rest after a look.
const MAX_REST: Duration = Duration::from_secs(10);

/// What there is to know for the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// The verdict.
    pub known: Known,
    /// No transaction is open that has defined something.
    pub settled: bool,
    /// It is not known what a scrub undoes.
    pub wants_remedy: bool,
    /// Transactions of clients so far.
    pub transactions: u64,
    /// A server is idle.
    pub idle: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look now.
    Look,
    /// Nothing before this moment, unless something happens.
    Wait(Instant),
    /// Nobody has used the database since the last look: the verdict is too old, and nobody needs a newer one.
    Rest(Instant),
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The catalog has answered; it took so long.
    Answered(Duration),
    /// No server could be had.
    Busy,
    /// It went wrong.
    Failed,
}

/// When looks were and what they led to.
#[derive(Debug, Clone)]
pub struct Pace {
    not_before: Instant,
    answered: Option<Instant>,
    /// Transactions at the beginning of the last look.
    transactions: u64,
    /// Since when a server is wanted and not to be had.
    wanted: Option<Instant>,
    pause: Duration,
}

impl Pace {
    /// Nothing was looked at yet.
    pub fn new(now: Instant) -> Self {
        Self { not_before: now, answered: None, transactions: 0, wanted: None, pause: Duration::ZERO }
    }

    /// Another target from now on.
    pub fn renew(&mut self, now: Instant) {
        *self = Self { transactions: self.transactions, ..Self::new(now) };
    }

    /// What to do now.
    pub fn step(&mut self, sight: Sight, now: Instant) -> Step {
        if now < self.not_before {
            return Step::Wait(self.not_before);
        }
        let used = sight.transactions != self.transactions;
        match sight.known {
            // It wakes us when it ends. Meanwhile others may define what no scrub undoes.
            Known::Nothing if !sight.settled && !sight.wants_remedy => {
                let due = self.answered.map_or(now, |answered| answered + PULSE);
                if now < due {
                    return Step::Wait(due);
                }
                if !used {
                    return Step::Rest(now + PULSE);
                }
            }
            // No client has come yet.
            Known::Nothing if self.answered.is_none() && !used && !sight.idle => return Step::Wait(now + SHORT),
            Known::Nothing => {}
            Known::Quiet | Known::Stale | Known::Noisy => {
                let due = self.answered.map_or(now, |answered| answered + PULSE);
                if now < due {
                    return Step::Wait(due);
                }
                if !used {
                    return Step::Rest(now + PULSE);
                }
            }
        }
        let wanted = *self.wanted.get_or_insert(now);
        // While nothing is known, every change of client costs a scrub: that is more than one server for a moment.
        if !sight.idle && sight.known != Known::Nothing && now < wanted + PATIENCE {
            self.ended(Outcome::Busy, now);
            return Step::Wait(self.not_before);
        }
        self.transactions = sight.transactions;
        Step::Look
    }

    /// A look has ended.
    pub fn ended(&mut self, outcome: Outcome, now: Instant) {
        let (least, most) = match outcome {
            Outcome::Answered(took) => {
                self.answered = Some(now);
                (self.wanted, self.pause) = (None, Duration::ZERO);
                self.not_before = now + (took * REST).clamp(SHORT, MAX_REST);
                return;
            }
            // Before the first reading every change of client may cost a server.
            Outcome::Busy if self.answered.is_none() => (SHORT, SHORT),
            Outcome::Busy => (SHORT, BUSY),
            Outcome::Failed => FAILED,
        };
        self.pause = (self.pause * 2).clamp(least, most);
        self.not_before = now + self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn sight(known: Known, transactions: u64, idle: bool) -> Sight {
        Sight { known, settled: true, wants_remedy: false, transactions, idle }
    }

    #[test]
    fn nothing_is_asked_of_a_database_that_nobody_uses() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.step(sight(Known::Nothing, 0, false), now), Step::Wait(now + SHORT));
        assert_eq!(pace.step(sight(Known::Nothing, 0, true), now), Step::Look);
    }

    #[test]
    fn it_waits_for_an_idle_server_but_not_for_ever() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.step(sight(Known::Nothing, 1, false), now), Step::Look, "for the first time at once");
        pace.ended(Outcome::Answered(Duration::ZERO), now);
        let now = now + PULSE;
        assert_eq!(pace.step(sight(Known::Nothing, 2, false), now), Step::Look, "each change of client costs a scrub");
        pace.ended(Outcome::Answered(Duration::ZERO), now);
        let now = now + PULSE;
        let (mut at, mut pauses) = (now, Vec::new());
        while let Step::Wait(until) = pace.step(sight(Known::Quiet, 3, false), at) {
            pauses.push((until - at).as_millis());
            at = until;
        }
        assert_eq!(pauses, [250, 500, 1000]);
        assert!(at >= now + PATIENCE);
        pace.ended(Outcome::Busy, at);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), at), Step::Wait(at + Duration::from_secs(2)));
        pace.ended(Outcome::Busy, at);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), at), Step::Wait(at + BUSY));
    }

    #[test]
    fn a_used_database_is_looked_at_every_few_seconds() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(pace.step(sight(Known::Nothing, 0, true), now), Step::Look);
        pace.ended(Outcome::Answered(MS(1)), now);
        assert_eq!(pace.step(sight(Known::Quiet, 5, true), now + SHORT), Step::Wait(now + PULSE));
        assert_eq!(pace.step(sight(Known::Noisy, 5, true), now + PULSE), Step::Look);
        pace.ended(Outcome::Answered(MS(1)), now + PULSE);
        let later = now + 2 * PULSE;
        assert_eq!(pace.step(sight(Known::Quiet, 5, true), later), Step::Rest(later + PULSE), "nobody used it");
        assert_eq!(pace.step(sight(Known::Nothing, 5, true), later), Step::Look, "somebody asked");
    }

    #[test]
    fn definitions_do_not_make_it_look_all_the_time() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.step(sight(Known::Nothing, 0, true), now);
        pace.ended(Outcome::Answered(MS(400)), now);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Wait(now + MS(3_600)));
        pace.ended(Outcome::Answered(Duration::from_secs(9)), now);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Wait(now + MAX_REST));
        let open = Sight { settled: false, ..sight(Known::Nothing, 1, true) };
        assert_eq!(pace.step(open, now + MAX_REST), Step::Look, "others may define what nobody here sees");
        pace.ended(Outcome::Answered(MS(1)), now + MAX_REST);
        let later = now + MAX_REST + SHORT;
        assert_eq!(pace.step(open, later), Step::Wait(now + MAX_REST + PULSE));
        let later = now + MAX_REST + PULSE;
        assert_eq!(pace.step(open, later), Step::Rest(later + PULSE), "nobody used it");
        let wanting = Sight { wants_remedy: true, ..open };
        assert_eq!(pace.step(wanting, later), Step::Look, "somebody has to know");
    }

    #[test]
    fn failures_space_looks_out() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Look);
            pace.ended(Outcome::Failed, now);
            let Step::Wait(until) = pace.step(sight(Known::Nothing, 1, true), now) else { panic!("waits") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        pace.renew(now);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Look);
        for _ in 0..5 {
            pace.ended(Outcome::Busy, now);
            assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Wait(now + SHORT));
        }
        pace.ended(Outcome::Failed, now);
        assert_eq!(pace.step(sight(Known::Nothing, 1, true), now), Step::Wait(now + FAILED.0), "counted anew");
    }
}
