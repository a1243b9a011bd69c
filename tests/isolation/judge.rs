//! Verdicts: what was seen that must not be, with all that is needed to find out why.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something of another session was seen, or something that is neither its own nor the beginning's.
    Leak,
    /// An error, a notice or an end that nothing of this client explains.
    Foreign,
    /// The session's own state is lost.
    Carry,
    /// No answer came.
    Missing,
    /// The session's own state is lost that a function had set unseen: the documentation says what is kept of it.
    Hidden,
    /// That somebody else was there shows: a custom setting that this session never touched reads '' and not NULL.
    Trace,
}

impl Kind {
    /// Whether the run fails because of it.
    pub fn fails(self) -> bool {
        match self {
            Self::Leak | Self::Foreign | Self::Carry | Self::Missing => true,
            Self::Hidden => false,
            // A name that no text has shown (dynamic SQL, a routine) can't be known: docs/session-state.md says so.
            Self::Trace => std::env::var_os("ISOLATION_TRACES").is_some_and(|value| value == "1"),
        }
    }
}

/// One violation.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Its kind.
    pub kind: Kind,
    /// The operation in which it was seen.
    pub operation: &'static str,
    /// What was seen, in a few words without tags: equal ones are one finding.
    pub what: String,
    /// Everything else.
    pub story: String,
}

/// Collects what all clients of a run see.
#[derive(Debug)]
pub struct Judge {
    /// Operations done.
    pub operations: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    found: Mutex<BTreeMap<(Kind, String), (u64, Violation)>>,
    /// What each client did last.
    recent: Vec<Mutex<VecDeque<String>>>,
    stop: AtomicBool,
    deadline: OnceLock<Instant>,
    time: Duration,
    most_operations: u64,
    most_found: usize,
}

const RECENT: usize = 24;

impl Judge {
    /// For so many clients; ends the run after a time, a number of operations or of distinct violations.
    pub fn new(clients: usize, time: Duration, most_operations: u64, most_found: usize) -> Self {
        Self {
            operations: AtomicU64::new(0),
            counts: Mutex::default(),
            ends: Mutex::default(),
            found: Mutex::default(),
            recent: (0..clients).map(|_| Mutex::default()).collect(),
            stop: AtomicBool::new(false),
            deadline: OnceLock::new(),
            time,
            most_operations,
            most_found,
        }
    }

    /// Everything stands: the time runs from now on.
    pub fn begin(&self) {
        self.deadline.get_or_init(|| Instant::now() + self.time);
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.deadline.get().is_some_and(|deadline| Instant::now() >= *deadline)
            || self.operations.load(Ordering::Relaxed) >= self.most_operations
    }

    /// Counts operations of one session.
    pub fn count(&self, counts: &BTreeMap<&'static str, u64>) {
        let mut all = self.counts.lock().unwrap();
        for (name, n) in counts {
            *all.entry(name).or_default() += n;
        }
    }

    /// Counts one operation at once, so that a bound on their number holds.
    pub fn step(&self) {
        self.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts how a session ended.
    pub fn ended(&self, how: &str) {
        *self.ends.lock().unwrap().entry(how.to_owned()).or_default() += 1;
    }

    /// Remembers what a client does.
    pub fn note(&self, client: usize, what: String) {
        let mut recent = self.recent[client].lock().unwrap();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(what);
    }

    /// What a client did last, one thing a line.
    pub fn recent(&self, client: usize) -> String {
        let recent = self.recent.get(client).map(|recent| recent.lock().unwrap().iter().cloned().collect::<Vec<_>>());
        recent.unwrap_or_default().iter().map(|line| format!("      {line:.300}\n")).collect()
    }

    /// Adds a violation. `others` are clients whose tags were seen.
    pub fn found(&self, client: usize, others: &BTreeSet<usize>, mut violation: Violation) {
        let key = (violation.kind, violation.what.clone());
        let mut found = self.found.lock().unwrap();
        if let Some((times, _)) = found.get_mut(&key) {
            *times += 1;
            return;
        }
        let mut story = std::mem::take(&mut violation.story);
        let _ = write!(story, "\n    what client {client} did last:\n{}", self.recent(client));
        for other in others.iter().filter(|other| **other != client) {
            let _ = write!(story, "    what client {other}, whose tag was seen, did last:\n{}", self.recent(*other));
        }
        violation.story = story;
        found.insert(key, (1, violation));
        if found.keys().filter(|(kind, _)| kind.fails()).count() >= self.most_found {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// All violations so far, each with how often it was seen.
    pub fn violations(&self) -> Vec<(u64, Violation)> {
        self.found.lock().unwrap().values().cloned().collect()
    }

    /// Numbers for people: operations by name and ends of sessions.
    pub fn report(&self, name: &str, elapsed: Duration) -> String {
        let operations = self.operations.load(Ordering::Relaxed);
        let rate = operations as f64 / elapsed.as_secs_f64().max(0.001);
        let list = |counts: Vec<(String, u64)>| {
            counts.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let counts = self.counts.lock().unwrap().iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let ends = self.ends.lock().unwrap().iter().map(|(name, n)| (name.clone(), *n)).collect();
        let mut text = format!(
            "isolation {name}: {operations} operations in {elapsed:.1?} ({rate:.0}/s)\n  by kind: {}\n  ends: {}\n",
            list(counts),
            list(ends)
        );
        for (times, violation) in self.violations() {
            let Violation { kind, operation, what, story } = violation;
            let _ = writeln!(text, "  {kind:?} ({times} times) in {operation}: {what}\n{story}");
        }
        text
    }
}
