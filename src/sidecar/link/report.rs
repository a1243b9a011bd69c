//! What is reported, and when: at once if what people act upon has changed, else on a beat and only if anything has.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::resolve::{Listen, Readiness};
use crate::contract::{
    self, Applied, Band, Credentials, Health, HealthState, Numbers, PING, PolicyReport, ReferenceState, References,
    Rejected, Report,
};
use crate::sidecar::database::{Database, Registered};
use crate::sidecar::probe::{Verdict, is_refused_login};
use crate::sidecar::source::{Fault, Finding, Policy, State, told};
use crate::sidecar::status;

/// Load that goes up and down is told of at most this often.
const CALM: Duration = Duration::from_secs(1);

/// What a report is made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The databases that are served.
    pub registered: Arc<Registered>,
    /// What was told, and what became of it.
    pub states: watch::Receiver<State>,
    /// Changes when a pool got other settings.
    pub applied: watch::Receiver<u64>,
    /// Cancelled once the sidecar was asked to end.
    pub draining: CancellationToken,
    /// Where clients may connect; `None` = nobody listens.
    pub bound: Option<Bound>,
}

/// Where clients may connect, which only another start can change.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What was asked for at the start.
    pub listen: Listen,
    /// Whether TCP was left out.
    pub socket_only: bool,
}

/// When a report is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// Not before this moment, if it still differs then.
    At(Instant),
    /// Nothing has changed.
    No,
}

/// Whether `present` must be told, when `last` was told at that moment.
pub fn due(last: Option<(&Report, Instant)>, present: &Report, now: Instant) -> Due {
    let Some((last, at)) = last else { return Due::Now };
    let wait = if classes(last) != classes(present) {
        Duration::ZERO
    } else if loads(last) != loads(present) {
        CALM
    } else if last != present {
        PING
    } else {
        return Due::No;
    };
    let due = at + wait;
    if due <= now { Due::Now } else { Due::At(due) }
}

/// Everything but numbers, and texts that go with a class.
fn classes(report: &Report) -> Report {
    let mut classes = report.clone();
    for policy in &mut classes.policies {
        policy.numbers = None;
        policy.health.message.clear();
    }
    classes
}

/// Classes of the load: where the utilisation lies, and whether anybody waits.
fn loads(report: &Report) -> Vec<Option<(Option<Band>, bool)>> {
    let load = |numbers: &Numbers| (numbers.band(), numbers.waiting > 0);
    report.policies.iter().map(|policy| policy.numbers.as_ref().map(load)).collect()
}

/// Requests for a connection by how long they waited, since the start, by database.
#[derive(Clone, Debug, Default)]
pub struct Waits(Vec<(String, Vec<u64>)>);

impl Facts {
    /// What runs now. `waits` is what was known at the last report: how long requests waited is told of those since.
    pub fn report(&self, waits: &Waits, now: Instant) -> Report {
        let state = self.states.borrow().clone();
        let draining = self.draining.is_cancelled();
        let running = state.snapshot.policies.iter().filter_map(|policy| self.running(policy, waits, now));
        let mut policies: Vec<_> = running.collect();
        for policy in told_new(&state) {
            policies.push(PolicyReport {
                namespace: policy.namespace.clone(),
                name: policy.name.clone(),
                uid: policy.uid.clone(),
                ..PolicyReport::default()
            });
        }
        policies.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        for policy in &mut policies {
            judge(policy, &state);
            if draining {
                policy.health = Health { state: HealthState::Draining, message: "asked to end".into() };
            }
        }
        Report { draining, policies }
    }

    /// What is known now of how long requests waited.
    pub fn waits(&self) -> Waits {
        Waits(self.registered.all().iter().map(|database| (database.alias.clone(), waits(database))).collect())
    }

    /// One policy in force; none before any pool runs it, which is a matter of moments.
    fn running(&self, policy: &Policy, waits: &Waits, now: Instant) -> Option<PolicyReport> {
        let database = self.database(policy)?;
        let settings = database.settings();
        Some(PolicyReport {
            namespace: policy.resolved.namespace.clone(),
            name: policy.resolved.name.clone(),
            uid: policy.told.as_ref().map(|told| told.uid.clone()).unwrap_or_default(),
            orphaned: policy.orphaned,
            applied: Some(Applied {
                generation: settings.policy.generation.unwrap_or_default(),
                revision: settings.policy.revision.clone(),
            }),
            rejected: None,
            restart: match &self.bound {
                Some(bound) if !policy.orphaned => moved(bound, &policy.resolved.listen),
                _ => Vec::new(),
            },
            references: References { state: ReferenceState::Resolved, message: String::new() },
            credentials: Some(credentials(&database)),
            health: health(&database.health.status(Readiness::Config, now)),
            numbers: Some(numbers(&database, waits)),
        })
    }

    /// The database that runs a policy: under its alias, or for a moment still under the one before.
    fn database(&self, policy: &Policy) -> Option<Arc<Database>> {
        let runs = |database: &Arc<Database>| {
            let settings = database.settings();
            (settings.policy.namespace.as_str(), settings.policy.name.as_str()) == policy.key()
        };
        let alias = self.registered.get(&policy.resolved.database.alias).filter(runs);
        alias.or_else(|| self.registered.all().into_iter().find(runs))
    }
}

/// Policies that the operator told but that do not run, nor did before.
fn told_new(state: &State) -> impl Iterator<Item = &contract::Policy> {
    let told = state.told.iter().flat_map(|told| &told.policies).filter(|policy| policy.spec.is_some());
    told.filter(|policy| state.snapshot.get(&policy.namespace, &policy.name).is_none())
}

/// Adds what was refused of a policy, and what it lacks.
fn judge(report: &mut PolicyReport, state: &State) {
    let Some(rejection) = &state.rejection else { return };
    let told = state.told.iter().flat_map(|told| &told.policies);
    let told = told.filter(|policy| policy.spec.is_some());
    let Some(told) = told.into_iter().find(|told| (&told.namespace, &told.name) == (&report.namespace, &report.name))
    else {
        return;
    };
    let origin = told::origin(&told.namespace, &told.name);
    let (own, others): (Vec<_>, Vec<_>) = rejection.findings.iter().partition(|finding| finding.file == origin);
    let problems: Vec<_> = own
        .iter()
        .filter(|finding| finding.fault == Fault::Policy)
        .map(|finding| finding.problem.to_string())
        .collect();
    let in_force = state.snapshot.get(&told.namespace, &told.name).and_then(|policy| policy.told.as_deref());
    let is_in_force = in_force == Some(told);
    if in_force.is_some_and(|running| running.uid != told.uid) {
        // What runs is another policy's of that name.
        (report.uid, report.applied, report.orphaned) = (told.uid.clone(), None, false);
    }
    lacks(report, &own);
    let refused = |problems| Rejected { generation: told.generation, revision: told.revision.clone(), problems };
    if !problems.is_empty() {
        report.rejected = Some(refused(problems));
    } else if own.is_empty() && !is_in_force {
        let other = others.first().map(|finding| finding.to_string()).unwrap_or_default();
        report.rejected = Some(refused(vec![format!("all of the pod's policies are taken, or none; {other}")]));
    }
}

/// Adds the Secrets that are missing.
fn lacks(report: &mut PolicyReport, findings: &[&Finding]) {
    let lacks = findings.iter().filter_map(|finding| match finding.fault {
        Fault::Policy => None,
        Fault::Reference { state, mounted } => Some((state, mounted, &finding.problem)),
    });
    let mut messages = Vec::new();
    let mut worst = None;
    for (state, mounted, problem) in lacks {
        // The first class of the list is the most basic.
        worst = Some(worst.map_or(state, |worst: ReferenceState| worst.min(state)));
        messages.push(problem.to_string());
        if !mounted && !report.restart.contains(&problem.path) {
            report.restart.push(problem.path.clone());
        }
    }
    if let Some(state) = worst {
        report.references = References { state, message: messages.join("; ") };
    }
}

/// The fields of `listen` that only another start can bring about.
fn moved(bound: &Bound, wanted: &Listen) -> Vec<String> {
    let Bound { listen: bound, socket_only } = bound;
    let fields = [
        ("spec.listen.address", !socket_only && bound.port != 0 && bound.address != wanted.address),
        ("spec.listen.port", !socket_only && bound.port != wanted.port),
        ("spec.listen.socket", bound.socket != wanted.socket),
    ];
    fields.into_iter().filter(|(_, moved)| *moved).map(|(field, _)| field.to_owned()).collect()
}

fn credentials(database: &Database) -> Credentials {
    let settings = database.settings();
    let (current, previous) = (&settings.credentials, settings.credentials.previous.as_ref());
    let seconds = |since: SystemTime| since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Credentials {
        mark: settings.mark,
        changed: previous.and_then(|previous| i64::try_from(seconds(previous.since)).ok()),
        role_changed: previous.is_some_and(|previous| previous.user != current.user),
        old_role_in_use: previous.is_some() && database.backend.targets().has_other_than(&current.user),
    }
}

fn health(known: &status::Health) -> Health {
    let message = steady(known.reason.as_deref().unwrap_or_default());
    let state = match known.status {
        Verdict::Unhealthy if is_refused_login(&message) => HealthState::AuthFailed,
        Verdict::Unhealthy => HealthState::NoBackend,
        _ if known.last_success_seconds_ago.is_none() => HealthState::Unknown,
        Verdict::Healthy | Verdict::Degraded => HealthState::Connected,
    };
    Health { state, message }
}

/// A reason without how often and for how long: while nothing else changes there is nothing to report.
fn steady(reason: &str) -> String {
    const FAILED: &str = "the health query failed";
    match reason.strip_prefix(FAILED).and_then(|rest| rest.split_once(": ")) {
        Some((_, why)) => format!("{FAILED}: {why}"),
        None => reason.split_once(" has answered for ").map_or(reason, |(head, _)| head).to_owned(),
    }
}

fn numbers(database: &Database, before: &Waits) -> Numbers {
    let stats = database.pool.stats();
    let max_overflow = match stats.size {
        0 => -1,
        _ => database.pool.config().settings().max_overflow.map_or(-1, |most| i32::try_from(most).unwrap_or(i32::MAX)),
    };
    let physical = u32::try_from(stats.physical()).unwrap_or(u32::MAX);
    Numbers {
        size: stats.size,
        max_overflow,
        limit: stats.limit,
        in_use: stats.in_use,
        idle: stats.idle,
        overflow: if stats.size == 0 { 0 } else { physical.saturating_sub(stats.size) },
        waiting: stats.waiting,
        acquire_p99_us: p99(&waits(database), before.0.iter().find(|(alias, _)| *alias == database.alias)),
    }
}

/// 99 of 100 requests since `before` waited at most about so long, in microseconds.
fn p99(waits: &[u64], before: Option<&(String, Vec<u64>)>) -> Option<u64> {
    let before = before.map_or(&[][..], |(_, before)| before);
    let since: Vec<_> = waits.iter().enumerate().map(|(i, n)| n.wrapping_sub(*before.get(i).unwrap_or(&0))).collect();
    let times = status::Times::new(since, 0);
    let seconds = times.p99_seconds.or_else(|| crate::sidecar::stats::BUCKETS.last().copied())?;
    (times.count > 0).then(|| (seconds * 1e6).round() as u64)
}

fn waits(database: &Database) -> Vec<u64> {
    let mut sums = vec![0; crate::sidecar::stats::BUCKETS.len() + 1];
    for worker in &database.workers {
        for (sum, bucket) in sums.iter_mut().zip(&worker.acquire.buckets) {
            *sum += bucket.get();
        }
    }
    sums
}

#[cfg(test)]
mod tests;
