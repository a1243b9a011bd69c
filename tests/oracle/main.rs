//! The engine against SQLAlchemy itself.
//!
//! `generate.py` beside this file drives the real `QueuePool` and writes down each step; here the engine does the same
//! steps and must give the same outcome, do the same to the database in the same order, and show the same counters.
//!
//! `traces.txt` is a small share (`--sequences 200 --seed 3`), checked in, so that `cargo test` needs no Python. `make test`
//! generates all of it and names the file in `POOLKEEPER_ORACLE`; then the numbers below must be reached.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod replay;
mod trace;

use std::collections::BTreeMap;

use replay::{Replay, Verdict};
use trace::{Sequence, parse};

/// Where the engine differs from SQLAlchemy 2.1.9 on purpose.
///
/// The first two show in the traces: the sequence is compared up to there. The others cannot be asked of this
/// engine, so the generator doesn't ask.
const DIFFERENCES: [(&str, &str); 10] = [
    (
        "usable-first",
        "A request takes a usable idle connection before an empty or stale slot, whatever their order, instead of \
         waiting for a connect. A stale one in its way is still closed at that moment.",
    ),
    (
        "slow-connect",
        "A connection that took longer to open than `recycle` allows, or that was opened while the pool was \
         invalidated, is lent; SQLAlchemy opens it a second time.",
    ),
    ("clock", "Time is monotonic, not the wall clock."),
    ("line", "Requests wait in line and are served in their order; SQLAlchemy promises no order."),
    (
        "early",
        "A slot that comes free through a discarded connection or a failed connect is used at once for whoever \
         waits; SQLAlchemy's waiter notices when its own wait ends.",
    ),
    (
        "limit",
        "A connection counts against the limit until the server has ended it; SQLAlchemy opens the next one \
         right after close().",
    ),
    ("recycle-zero", "The engine has SQLAlchemy's recycle 0; in a policy 0s, and in DB_POOL_RECYCLE 0, mean never."),
    ("soft", "There is no soft invalidation of one connection: `Replace` retires connections by generation."),
    ("dispose", "There is no dispose(), recreate() or detach(): counters are never reset, nothing leaves the count."),
    (
        "text",
        "The timeout's text ends before SQLAlchemy's pointer to its web page. Giving back twice does not compile.",
    ),
];

/// What can happen in SQLAlchemy, and must have been compared often enough.
const BRANCHES: [&str; 36] = [
    "back-kept",
    "back-surplus",
    "drop-kept",
    "drop-surplus",
    "empty-slot",
    "fifo",
    "fresh-not-pinged",
    "invalidated",
    "invalidated-just-not",
    "lifo",
    "lost",
    "lost-nothing-new",
    "new",
    "new-overflow",
    "new-overflow-unlimited",
    "new-unlimited",
    "ping-alive",
    "ping-dead",
    "ping-invalidates",
    "ping-invalidates-nothing-new",
    "ping-odd",
    "recycle",
    "recycle-just-not",
    "refused-after-ping",
    "refused-empty-slot",
    "refused-invalidated",
    "refused-new",
    "refused-new-overflow",
    "refused-new-overflow-unlimited",
    "refused-new-unlimited",
    "refused-recycle",
    "reset-failed-kept",
    "reset-failed-surplus",
    "reuse",
    "timeout",
    "wait",
];
const LEAST_SEQUENCES: usize = 2000;
const LEAST_PER_BRANCH: usize = 50;

#[derive(Default)]
struct Tally {
    whole: usize,
    steps: usize,
    branches: BTreeMap<String, usize>,
    differences: BTreeMap<&'static str, usize>,
}

fn replay(sequence: &Sequence, tally: &mut Tally) {
    let mut replay = Replay::new(&sequence.settings);
    for step in &sequence.steps {
        match replay.step(step) {
            Verdict::Same => {}
            Verdict::Differs(name) => {
                assert!(DIFFERENCES.iter().any(|(known, _)| *known == name));
                *tally.differences.entry(name).or_default() += 1;
                return;
            }
            Verdict::Wrong(how) => {
                panic!("line {}: {}\n{how}\nin a pool of {:?}", step.line, step.text, sequence.settings);
            }
        }
        tally.steps += 1;
        for branch in &step.branches {
            *tally.branches.entry(branch.clone()).or_default() += 1;
        }
    }
    tally.whole += 1;
}

#[test]
fn the_engine_does_what_sqlalchemy_does() {
    let all = std::env::var_os("POOLKEEPER_ORACLE");
    let checked_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/traces.txt").into();
    let text = std::fs::read_to_string(all.as_ref().unwrap_or(&checked_in)).expect("the traces");
    let mut tally = Tally::default();
    for sequence in parse(&text) {
        replay(&sequence, &mut tally);
    }
    let Tally { whole, steps, branches, differences } = tally;
    println!("{whole} sequences agree to their end, {steps} steps in all");
    for (name, why) in DIFFERENCES {
        println!("{:6} ended at a difference: {name}: {why}", differences.get(name).copied().unwrap_or(0));
    }
    for branch in BRANCHES {
        println!("{:6} {branch}", branches.get(branch).copied().unwrap_or(0));
    }
    for branch in branches.keys() {
        assert!(BRANCHES.contains(&branch.as_str()), "{branch} is not in the list");
    }
    let (sequences, times) = if all.is_some() { (LEAST_SEQUENCES, LEAST_PER_BRANCH) } else { (100, 1) };
    assert!(whole >= sequences, "only {whole} sequences");
    for branch in BRANCHES {
        let compared = branches.get(branch).copied().unwrap_or(0);
        assert!(compared >= times, "{branch} was compared {compared} times only");
    }
}
