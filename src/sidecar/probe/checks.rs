//! What is known of one database's health, and what to do next to know it: pure, `(event, now) → step`.
//!
//! The rule is decision 3: a server's reply newer than the interval proves health for free; else, if a connection
//! is free, one query asks; if none is free and no server has answered for the interval and the timeout, the pool is
//! saturated and silent, which is degraded, not unhealthy.

use std::time::{Duration, Instant};

/// What a policy says about health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How old a proof may be.
    pub interval: Duration,
    /// How long a health query may take, logging in included.
    pub timeout: Duration,
    /// How many checks in a row must fail before the database is unhealthy; at least 1.
    pub failure_threshold: u32,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It answered lately.
    #[default]
    Healthy,
    /// A check failed but not often enough, all connections are busy and silent, or it was not checked yet.
    Degraded,
    /// `failureThreshold` checks in a row failed.
    Unhealthy,
}

impl Verdict {
    /// The name in `/status` and `/api/health`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// How one look or one query ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The health query was answered.
    Answered,
    /// It was not, for this reason.
    Failed(String),
    /// No connection was free for it.
    Full,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Run the health query now and report the outcome.
    Ask,
    /// Nothing before this moment (or a change of the rules).
    Wait(Instant),
    /// Nothing to ask: a reply to a client proved it. Look again then.
    Proven(Instant),
    /// No connection is free to ask with. Look again then.
    Saturated(Instant),
}

/// The memory of one database's checks.
#[derive(Debug, Clone)]
pub struct Checks {
    born: Instant,
    /// When it was last looked at; for a free proof, the moment of the reply.
    looked: Option<Instant>,
    /// The last proof that the database answers.
    proven: Option<Instant>,
    failures: u32,
    failure: Option<String>,
    silent: bool,
    saturated: bool,
    /// A query is under way; it must have ended by then.
    asking_until: Option<Instant>,
    verdict: Verdict,
}

/// Beyond the timeout: after that, a query that reported nothing counts as failed.
const GRACE: Duration = Duration::from_secs(5);

impl Checks {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            looked: None,
            proven: None,
            failures: 0,
            failure: None,
            silent: false,
            saturated: false,
            asking_until: None,
            verdict: Verdict::Degraded,
        }
    }

    /// What to do at `now`. `heard` is the last reply of any server to a client; `free` whether a connection is idle
    /// or may be opened.
    pub fn look(&mut self, rules: &Rules, heard: Option<Instant>, free: bool, now: Instant) -> Step {
        if let Some(until) = self.asking_until {
            if now < until {
                return Step::Wait(until);
            }
            self.ended(rules, heard, Outcome::Failed("the health query reported nothing".into()), now);
        }
        let due = self.due(rules, heard);
        if now < due {
            return Step::Wait(due);
        }
        if self.proven_by(rules, heard, now) {
            return Step::Proven(self.due(rules, heard));
        }
        if free {
            self.asking_until = Some(after(now, rules.timeout + GRACE));
            return Step::Ask;
        }
        self.full(rules, heard, now);
        Step::Saturated(self.due(rules, heard))
    }

    /// A query that [`Checks::look`] asked for has ended.
    pub fn ended(&mut self, rules: &Rules, heard: Option<Instant>, outcome: Outcome, now: Instant) {
        self.asking_until = None;
        match outcome {
            Outcome::Answered => self.proof(now, now),
            Outcome::Full => self.full(rules, heard, now),
            // A client got a reply meanwhile: that proves more than a query that came too late.
            Outcome::Failed(_) if self.proven_by(rules, heard, now) => {}
            Outcome::Failed(reason) => {
                self.looked = Some(now);
                self.saturated = false;
                self.failures = self.failures.saturating_add(1);
                self.failure = Some(reason);
            }
        }
        self.judge(rules);
    }

    /// The verdict, and why it is not the best.
    pub fn verdict(&self, now: Instant) -> (Verdict, Option<String>) {
        let reason = if self.failures > 0 {
            let times = match self.failures {
                1 => "once".to_owned(),
                n => format!("{n} times in a row"),
            };
            self.failure.as_ref().map(|reason| format!("the health query failed {times}: {reason}"))
        } else if self.silent {
            let quiet = now.saturating_duration_since(self.last_sign(None)).as_secs();
            Some(format!("every connection is busy and no server has answered for {quiet} s"))
        } else if self.proven.is_none() {
            Some("not checked yet".into())
        } else {
            None
        };
        (self.verdict, reason)
    }

    /// Whether the database has answered at least once and is not unhealthy.
    pub fn usable(&self) -> bool {
        self.proven.is_some() && self.verdict != Verdict::Unhealthy
    }

    /// The last proof that the database answers.
    pub fn proven(&self) -> Option<Instant> {
        self.proven
    }

    /// Checks that failed in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn due(&self, rules: &Rules, heard: Option<Instant>) -> Instant {
        let Some(looked) = self.looked else { return self.born };
        let due = after(looked, rules.interval);
        // Saturated: not later than the moment from which silence counts.
        let silence = after(self.last_sign(heard), rules.interval + rules.timeout + Duration::from_millis(1));
        if self.saturated && silence > looked { due.min(silence) } else { due }
    }

    fn last_sign(&self, heard: Option<Instant>) -> Instant {
        heard.max(self.proven).unwrap_or(self.born)
    }

    fn proven_by(&mut self, rules: &Rules, heard: Option<Instant>, now: Instant) -> bool {
        let Some(heard) = heard.filter(|heard| now.saturating_duration_since(*heard) <= rules.interval) else {
            return false;
        };
        // The next look comes once this reply is older than the interval, not an interval after this look.
        self.proof(heard, after(heard, Duration::from_millis(1)));
        self.judge(rules);
        true
    }

    fn proof(&mut self, at: Instant, looked: Instant) {
        self.proven = self.proven.max(Some(at));
        self.looked = Some(looked);
        self.failures = 0;
        self.failure = None;
        self.silent = false;
        self.saturated = false;
    }

    fn full(&mut self, rules: &Rules, heard: Option<Instant>, now: Instant) {
        self.looked = Some(now);
        self.saturated = true;
        self.silent = now.saturating_duration_since(self.last_sign(heard)) > rules.interval + rules.timeout;
        self.judge(rules);
    }

    fn judge(&mut self, rules: &Rules) {
        self.verdict = if self.failures >= rules.failure_threshold.max(1) {
            Verdict::Unhealthy
        } else if self.failures > 0 || self.silent || self.proven.is_none() {
            Verdict::Degraded
        } else {
            Verdict::Healthy
        };
    }
}

/// `start + time`, or `start` should the clock not reach so far.
fn after(start: Instant, time: Duration) -> Instant {
    start.checked_add(time).unwrap_or(start)
}

#[cfg(test)]
mod tests;
