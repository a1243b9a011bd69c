//! The traces as `tests/oracle/generate.py` describes them.

/// A pool's settings and all that was done with it.
pub struct Sequence {
    pub settings: Settings,
    pub steps: Vec<Step>,
}

/// QueuePool's arguments.
#[derive(Debug)]
pub struct Settings {
    pub size: u32,
    pub max_overflow: i64,
    pub timeout: u64,
    pub recycle: i64,
    pub pre_ping: bool,
    pub lifo: bool,
}

/// One step and what SQLAlchemy made of it.
pub struct Step {
    pub line: usize,
    pub text: String,
    pub action: Action,
    pub outcome: String,
    /// What was done to the database.
    pub did: String,
    /// checkedin, checkedout, overflow
    pub counters: (u32, u32, i64),
    pub branches: Vec<String>,
}

pub enum Action {
    /// The next connects: well or not, and how long; the next pings.
    Out {
        connects: Vec<(bool, u64)>,
        pings: Vec<Ping>,
    },
    Back {
        number: u32,
        reset_failed: bool,
    },
    Drop {
        number: u32,
    },
    Lost {
        number: u32,
    },
    Wait {
        seconds: u64,
    },
}

#[derive(Clone, Copy, PartialEq)]
pub enum Ping {
    Alive,
    Dead,
    Odd,
}

pub fn parse(text: &str) -> Vec<Sequence> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        match line.strip_prefix("pool ") {
            Some(settings) => sequences.push(Sequence { settings: parse_settings(settings), steps: Vec::new() }),
            None => sequences.last_mut().expect("a pool first").steps.push(parse_step(number + 1, line)),
        }
    }
    sequences
}

fn parse_settings(text: &str) -> Settings {
    let number = |name: &str| -> i64 {
        let value = text.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).expect(name);
        value.parse().expect(value)
    };
    Settings {
        size: u32::try_from(number("size")).unwrap(),
        max_overflow: number("max_overflow"),
        timeout: number("timeout").unsigned_abs(),
        recycle: number("recycle"),
        pre_ping: number("pre_ping") == 1,
        lifo: number("lifo") == 1,
    }
}

fn parse_step(line: usize, text: &str) -> Step {
    let (asked, rest) = text.split_once(" > ").expect("an outcome");
    let mut parts = rest.split(" ; ");
    let mut part = || parts.next().expect("four parts").trim().to_owned();
    let (outcome, did, counters, branches) = (part(), part(), part(), part());
    let mut counters = counters.split(' ').map(|n| n.parse::<i64>().expect("a number"));
    let mut counter = || counters.next().expect("three counters");
    let unsigned = |n: i64| u32::try_from(n).expect("never negative here");
    Step {
        line,
        text: text.to_owned(),
        action: parse_action(asked),
        outcome,
        did,
        counters: (unsigned(counter()), unsigned(counter()), counter()),
        branches: branches.split(' ').map(str::to_owned).collect(),
    }
}

fn parse_action(text: &str) -> Action {
    let words: Vec<&str> = text.split(' ').collect();
    let number = |word: &str| word.parse().expect(text);
    match words[..] {
        ["out", connects, pings] => Action::Out {
            connects: connects.split(',').map(|c| (c.starts_with('o'), c[1..].parse().expect(c))).collect(),
            pings: pings.split(',').map(parse_ping).collect(),
        },
        ["back", n, reset] => Action::Back { number: number(n), reset_failed: reset == "failed" },
        ["drop", n] => Action::Drop { number: number(n) },
        ["lost", n] => Action::Lost { number: number(n) },
        ["wait", seconds] => Action::Wait { seconds: seconds.parse().expect(text) },
        _ => panic!("what is {text}?"),
    }
}

fn parse_ping(text: &str) -> Ping {
    match text {
        "o" => Ping::Alive,
        "d" => Ping::Dead,
        "x" => Ping::Odd,
        _ => panic!("what ping is {text}?"),
    }
}
