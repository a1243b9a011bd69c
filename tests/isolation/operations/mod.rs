//! What clients do.

pub mod bound;
pub mod code;
pub mod copy;
pub mod far;
pub mod hidden;
pub mod prepared;
pub mod queries;
pub mod settings;
pub mod transactions;
pub mod vanish;

use crate::probe;
use crate::session::{Session, Step};
use std::sync::LazyLock;

/// What kind of session an operation belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Leaves nothing behind.
    Plain,
    /// Looks at the whole session.
    Probe,
    /// Settings and roles.
    Settings,
    /// What only its server has: temporary objects, locks, channels, cursors, statements prepared in SQL.
    Bound,
    /// Code whose text does not show what it does: needs a noisy database.
    Hidden,
    /// dblink and postgres_fdw.
    Far,
}

/// One thing that a client can do.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Its name in reports.
    pub name: &'static str,
    /// Its group.
    pub group: Group,
    /// Whether it can be part of a transaction.
    pub inner: bool,
    /// Does it.
    pub run: fn(&mut Session<'_>) -> Step,
}

/// Outside transactions only.
pub const fn outer(name: &'static str, group: Group, run: fn(&mut Session<'_>) -> Step) -> Operation {
    Operation { name, group, inner: false, run }
}

/// Anywhere.
pub const fn inner(name: &'static str, group: Group, run: fn(&mut Session<'_>) -> Step) -> Operation {
    Operation { name, group, inner: true, run }
}

/// A kind of session: chances of each group in a hundred.
#[derive(Debug, Clone, Copy)]
pub struct Profile {
    /// Most operations of a session.
    pub longest: usize,
    /// Plain, Probe, Settings, Bound, Hidden, Far.
    pub chances: [(Group, usize); 6],
}

const fn profile(longest: usize, chances: [usize; 6]) -> Profile {
    let [plain, probe, settings, bound, hidden, far] = chances;
    let chances = [
        (Group::Plain, plain),
        (Group::Probe, probe),
        (Group::Settings, settings),
        (Group::Bound, bound),
        (Group::Hidden, hidden),
        (Group::Far, far),
    ];
    Profile { longest, chances }
}

/// The kinds of sessions; half of them do nothing but look.
pub const PROFILES: [Profile; 8] = [
    profile(60, [70, 30, 0, 0, 0, 0]),
    profile(60, [50, 50, 0, 0, 0, 0]),
    profile(40, [70, 30, 0, 0, 0, 0]),
    profile(30, [25, 30, 45, 0, 0, 0]),
    profile(20, [20, 30, 10, 40, 0, 0]),
    profile(25, [20, 30, 0, 0, 50, 0]),
    profile(25, [20, 25, 20, 15, 15, 5]),
    profile(10, [30, 40, 0, 0, 30, 0]),
];

static ALL: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let mut all = vec![outer("probe", Group::Probe, probe::probe)];
    let groups = [
        queries::ALL,
        prepared::ALL,
        copy::ALL,
        transactions::ALL,
        settings::ALL,
        bound::ALL,
        code::ALL,
        hidden::ALL.as_slice(),
        far::ALL,
    ];
    all.extend(groups.concat());
    if let Ok(only) = std::env::var("ISOLATION_ONLY") {
        let words: Vec<_> = only.split(',').collect();
        all.retain(|operation| operation.name == "probe" || words.iter().any(|word| operation.name.contains(word)));
    }
    if let Ok(without) = std::env::var("ISOLATION_WITHOUT") {
        all.retain(|operation| !without.split(',').any(|word| operation.name.contains(word)));
    }
    all
});

fn allowed(session: &Session<'_>, operation: &Operation) -> bool {
    let scenario = &session.world.scenario;
    if scenario.without.contains(&operation.name) {
        return false;
    }
    match operation.group {
        Group::Hidden => scenario.noisy,
        Group::Bound => !scenario.calm,
        Group::Far => scenario.foreign,
        _ => true,
    }
}

/// An operation for this session.
pub fn choose(session: &mut Session<'_>, profile: Profile) -> &'static Operation {
    let mut roll = session.dice.below(100);
    let mut group = Group::Plain;
    for (candidate, chance) in profile.chances {
        if roll < chance {
            group = candidate;
            break;
        }
        roll -= chance;
    }
    pick(session, |operation| operation.group == group)
        .or_else(|| pick(session, |operation| operation.group == Group::Plain))
        .or_else(|| pick(session, |_| true))
        .unwrap()
}

/// An operation that can be part of a transaction.
pub fn choose_inner(session: &mut Session<'_>) -> Option<&'static Operation> {
    pick(session, |operation| operation.inner)
}

fn pick(session: &mut Session<'_>, fits: impl Fn(&Operation) -> bool) -> Option<&'static Operation> {
    let fitting: Vec<_> = ALL.iter().filter(|operation| fits(operation) && allowed(session, operation)).collect();
    (!fitting.is_empty()).then(|| *session.dice.pick(&fitting))
}
