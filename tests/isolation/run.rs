//! Runs a scenario: one thread a client, session after session.

use crate::bench::World;
use crate::dice::Dice;
use crate::judge::{Judge, Kind, Violation};
use crate::marks::tag;
use crate::model::Model;
use crate::operations::{self, Operation};
use crate::scenarios::Scenario;
use crate::session::{Halt, Session};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.trim().parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn seed() -> u64 {
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    number("ISOLATION_SEED").unwrap_or_else(|| now() % 1_000_000_000)
}

/// A routine may overwrite unseen what a text had set: only where there is none is every loss one.
fn fails(scenario: Scenario, kind: Kind) -> bool {
    kind.fails() && !(scenario.noisy && kind == Kind::Carry)
}

/// A run within `make test`, without a violation.
pub fn short(scenario: Scenario) {
    let time = Duration::from_secs(number("ISOLATION_SECONDS").unwrap_or(6));
    let operations = number("ISOLATION_OPERATIONS").unwrap_or(u64::MAX);
    let (judge, report) = run(scenario, seed(), time, operations, most_found());
    let failing = judge.violations().iter().filter(|(_, violation)| fails(scenario, violation.kind)).count();
    assert!(failing == 0, "{failing} kinds of violations\n{report}");
    println!("{report}");
    // Under a nearly stopped machine little is done, but never nothing.
    assert!(judge.operations.load(std::sync::atomic::Ordering::Relaxed) > 200, "{report}");
}

/// Shows that the stress bites: a build that lends servers unproven is caught.
pub fn must_leak(scenario: Scenario) {
    let (judge, report) = run(scenario, seed(), Duration::from_secs(30), u64::MAX, 3);
    let leaks = judge.violations().iter().filter(|(_, violation)| violation.kind == Kind::Leak).count();
    println!("expected of this build, which does not prove servers clean yet: {leaks} kinds of leaks");
    if std::env::var_os("ISOLATION_SHOW").is_some() {
        println!("{report}");
    }
    assert!(leaks > 0, "the stress found nothing where it must\n{report}");
}

/// Scenario after scenario, each with a seed of its own, until all have done enough.
pub fn soak(scenarios: &[Scenario]) {
    let enough = number("ISOLATION_OPERATIONS").unwrap_or(500_000);
    let slice = Duration::from_secs(number("ISOLATION_SECONDS").unwrap_or(60));
    let (mut seed, mut done, began) = (seed(), 0, Instant::now());
    let mut failed = vec![];
    while done < enough {
        for scenario in scenarios {
            let (judge, report) = run(*scenario, seed, slice, enough - done, most_found());
            println!("{report}");
            done += judge.operations.load(std::sync::atomic::Ordering::Relaxed);
            if judge.violations().iter().any(|(_, violation)| fails(*scenario, violation.kind)) {
                failed.push(format!("{} with seed {seed}", scenario.name));
            }
            seed += 1;
            if done >= enough {
                break;
            }
        }
        assert!(failed.is_empty(), "violations in {failed:?}, see above");
    }
    println!("isolation soak: {done} operations in {:.0?}, no violation", began.elapsed());
}

fn most_found() -> usize {
    usize::try_from(number("ISOLATION_VIOLATIONS").unwrap_or(12)).unwrap()
}

fn run(mut scenario: Scenario, seed: u64, time: Duration, operations: u64, found: usize) -> (Judge, String) {
    scenario.clients = number("ISOLATION_CLIENTS").map_or(scenario.clients, |n| usize::try_from(n).unwrap());
    let world = World::new(scenario, seed, Judge::new(scenario.clients, time, operations, found));
    world.judge.begin();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..scenario.clients {
            let world = &world;
            let work = move || client(world, number);
            std::thread::Builder::new().stack_size(512 * 1024).spawn_scoped(scope, work).unwrap();
        }
    });
    let pins = world.sidecar().map_or_else(String::new, |sidecar| {
        let (_, metrics) = sidecar.get("/metrics");
        let wanted = ["poolkeeper_pins", "server_connections_closed", "scrubs", "audits", "adaptations", "catalog"];
        let lines: Vec<_> = metrics
            .lines()
            .filter(|line| {
                !line.starts_with('#') && !line.ends_with(" 0") && wanted.iter().any(|name| line.contains(name))
            })
            .collect();
        format!("  metrics: {}\n", lines.join("; "))
    });
    let report = world.judge.report(&format!("{} (seed {seed})", scenario.name), began.elapsed()) + &pins;
    let World { judge, .. } = world;
    (judge, report)
}

fn client(world: &World, number: usize) {
    let mut dice = Dice::new(world.seed.wrapping_mul(1_000_003).wrapping_add(number as u64));
    for turn in 0.. {
        if world.judge.is_over() {
            return;
        }
        let session = AssertUnwindSafe(|| session(world, number, turn, Dice::new(dice.roll())));
        if let Err(panic) = catch_unwind(session) {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let what = format!("a client's panic: {:.100}", text.as_deref().unwrap_or("?"));
            let story = format!("    seed {}, client {number} ({})", world.seed, tag(number, turn));
            let violation = Violation { kind: Kind::Foreign, operation: "?", what, story };
            world.judge.found(number, &std::collections::BTreeSet::new(), violation);
        }
    }
}

fn session(world: &World, number: usize, turn: usize, mut dice: Dice) {
    let tag = tag(number, turn);
    // Most clients start alike, as those of one program do, and servers are not lent to others; application names
    // differ from session to session.
    let unlike = if world.scenario.calm { 0 } else { (number % 12).saturating_sub(9) };
    let startup = world.startups[unlike].clone();
    let mut connect = world.connect.clone();
    connect.parameters.extend(startup.parameters.clone());
    let mut model = Model::new(startup, world.default("TimeZone"), world.default("DateStyle"));
    if dice.chance(50) {
        connect = connect.param("application_name", &tag);
        model.startup.settings.insert("application_name".into(), tag.clone());
    }
    world.judge.note(number, format!("login as {tag}"));
    let client = match connect.open() {
        Ok(client) => client,
        Err(error) => return refused(world, number, &tag, &error),
    };
    let mut session = Session {
        world,
        number,
        tag,
        client,
        model,
        dice,
        operation: "login",
        counts: BTreeMap::new(),
        backend: "?".into(),
        notices: vec![],
        heard: vec![],
        serial: 0,
        told: vec![],
        fatal: None,
        doomed: false,
    };
    session.client.set_timeout(Duration::from_secs(30));
    let how = live(&mut session);
    world.judge.count(&session.counts);
    world.judge.ended(&how);
}

fn refused(world: &World, number: usize, tag: &str, error: &crate::support::message::ServerError) {
    world.judge.ended(&format!("login refused {}", error.code));
    if error.code != "53300" {
        let story = format!("    seed {}, client {number} ({tag}): {error:?}", world.seed);
        let what = format!("login refused with {}", error.code);
        let violation = Violation { kind: Kind::Foreign, operation: "login", what, story };
        world.judge.found(number, &std::collections::BTreeSet::new(), violation);
    }
    std::thread::sleep(Duration::from_millis(20));
}

/// Operations until the session ends; how it ended.
fn live(session: &mut Session<'_>) -> String {
    let profile = *session.dice.pick(&operations::PROFILES);
    let length = 2 + session.dice.below(profile.longest);
    for _ in 0..length {
        if session.world.judge.is_over() {
            return "run over".into();
        }
        let operation: &Operation = operations::choose(session, profile);
        session.operation = operation.name;
        let result = (operation.run)(session);
        if let Err(Halt::Skip) = result {
            *session.counts.entry("(no server)").or_default() += 1;
            std::thread::sleep(Duration::from_millis(session.dice.below(20) as u64));
            continue;
        }
        session.world.judge.step();
        *session.counts.entry(operation.name).or_default() += 1;
        match result {
            Ok(()) | Err(Halt::Skip) => {}
            Err(Halt::Leave(why)) => return why,
            Err(Halt::Violated) => return "violation".into(),
        }
    }
    session.operation = "vanish";
    operations::vanish::leave(session).into()
}
