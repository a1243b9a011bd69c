//! Takes the picture that [`super::status`] describes.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::clients::Client;
use super::database::{Database, Registered};
use super::link::View;
use super::probe::Token;
use super::source::{Rejection, State};
use super::stats::{Counter, Histogram, Worker};
use super::status::{self, Problem, Status};
use crate::pg::session::scan::Pin;
use crate::pool::{CloseReason, Stats};
use crate::shutdown::Shutdown;

/// What there is to look at.
#[derive(Debug)]
pub struct Sight {
    /// Databases and clients.
    pub registry: Arc<Registered>,
    /// The configuration in force and the last one refused.
    pub config: watch::Receiver<State>,
    /// Whether the sidecar ends.
    pub shutdown: Shutdown,
    /// To tell the probe's client from others.
    pub token: Arc<Token>,
    /// Where clients may connect; set once the listeners are bound.
    pub listeners: OnceLock<Vec<String>>,
    /// How the link to the operator stands, if there is one.
    pub operator: Option<Arc<View>>,
}

impl Sight {
    /// Everything, clients included.
    pub fn status(&self) -> Status {
        let mut status = self.pools();
        let now = Instant::now();
        status.clients = self.registry.clients.all().iter().map(|client| self.client(client, now)).collect();
        status.clients.sort_by_key(|client| client.pid);
        status
    }

    /// Everything but the clients.
    pub fn pools(&self) -> Status {
        let now = Instant::now();
        let uptime = self.registry.uptime();
        let config = self.config.borrow().clone();
        let orphaned = |alias: &str| {
            let mut policies = config.snapshot.policies.iter();
            policies.any(|policy| policy.orphaned && policy.resolved.database.alias == alias)
        };
        let pools = self.registry.all();
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("POOLKEEPER_COMMIT").into(),
            started_at: rfc3339(ago(uptime)),
            started_seconds: unix(ago(uptime)),
            uptime_seconds: uptime.as_secs_f64(),
            ready: false,
            reason: None,
            draining: self.shutdown.draining().is_cancelled(),
            listeners: self.listeners.get().cloned().unwrap_or_default(),
            reloads: status::Reloads { applied: config.accepted, rejected: config.rejected },
            rejection: config.rejection.as_deref().map(rejection),
            operator: self.operator.as_ref().map(|view| view.status()),
            refused_logins: self.registry.refused.counts(),
            pools: pools.iter().map(|database| pool(database, orphaned(&database.alias), now)).collect(),
            clients: Vec::new(),
        };
        let expected = config.snapshot.policies.iter().map(|policy| policy.resolved.database.alias.as_str());
        status.reason = unready(&status, expected);
        status.ready = status.reason.is_none();
        status
    }

    fn client(&self, client: &Client, now: Instant) -> status::Client {
        let probe = self.token.matches(&client.application);
        let pinned = usize::from(client.pinned.load(Relaxed)).checked_sub(1).and_then(|index| Pin::ALL.get(index));
        status::Client {
            pid: client.pid,
            database: client.database.clone(),
            application: if probe { super::probe::NAME.into() } else { client.application.clone() },
            peer: client.peer.clone(),
            activity: client.activity().name().into(),
            connected_seconds: now.saturating_duration_since(client.since).as_secs_f64(),
            transactions: client.transactions.load(Relaxed),
            pinned: pinned.map(|pin| pin.name().into()),
        }
    }
}

/// What keeps the sidecar from being ready; `expected` are the databases of the policies in force.
fn unready<'a>(status: &Status, expected: impl Iterator<Item = &'a str>) -> Option<String> {
    if status.draining {
        return Some("draining: the sidecar was asked to end".into());
    }
    if status.listeners.is_empty() {
        return Some("the listeners are not bound yet".into());
    }
    let mut missing = expected.filter(|alias| !status.pools.iter().any(|pool| pool.database == *alias));
    if let Some(alias) = missing.next() {
        return Some(format!("database {alias}: its policy is not applied yet"));
    }
    if status.pools.is_empty() {
        let rejected = status.rejection.as_ref().and_then(|rejection| rejection.problems.first());
        return Some(match rejected {
            Some(Problem { path, message, .. }) => format!("waiting for a policy: {path}: {message}"),
            None if status.operator.is_some() => "waiting for a policy: none is for this pod yet".into(),
            None => "no policy is applied yet".into(),
        });
    }
    let down = status.pools.iter().find(|pool| pool.health.required && !pool.health.usable)?;
    let reason = down.health.reason.as_deref().unwrap_or("it does not answer");
    Some(format!("database {}: {reason}", down.database))
}

fn rejection(rejection: &Rejection) -> status::Rejection {
    let problem = |finding: &super::source::Finding| status::Problem {
        file: finding.file.clone(),
        path: finding.problem.path.clone(),
        message: finding.problem.message.clone(),
    };
    status::Rejection { at: rfc3339(rejection.at), problems: rejection.findings.iter().map(problem).collect() }
}

fn pool(database: &Database, orphaned: bool, now: Instant) -> status::Pool {
    let settings = database.settings();
    let policy = &settings.policy;
    let applied = ago(now.saturating_duration_since(settings.applied));
    let degraded = database.backend.is_bare_login().then(|| {
        "the server does not know client_connection_check_interval: after a crash of Poolkeeper, \
         statements that run there run on to their end"
            .to_owned()
    });
    status::Pool {
        database: database.alias.clone(),
        policy: policy.name.clone(),
        namespace: policy.namespace.clone(),
        revision: policy.revision.clone(),
        generation: policy.generation,
        applied_at: rfc3339(applied),
        applied_seconds: unix(applied),
        orphaned,
        settings: serde_json::to_value(&policy.effective).unwrap_or_default(),
        health: database.health.status(policy.health.readiness, now),
        connections: connections(&database.pool.stats()),
        traffic: traffic(&database.workers),
        server: status::Server { errors: database.backend.errors().all(), degraded: degraded.into_iter().collect() },
        catalog: database.catalog().status(now),
        pinned: status::Pinned { clients: database.bound.load(Relaxed), limit: policy.most_bound() },
    }
}

fn connections(stats: &Stats) -> status::Connections {
    let percent = |limit: u32| match limit {
        0 => 100.0,
        limit => (f64::from(stats.checked_out) / f64::from(limit) * 1000.0).round() / 10.0,
    };
    status::Connections {
        size: stats.size,
        checked_in: stats.checked_in,
        checked_out: stats.checked_out,
        overflow: stats.overflow,
        total_connections: u64::from(stats.checked_in) + u64::from(stats.checked_out),
        limit: stats.limit,
        idle: stats.idle,
        in_use: stats.in_use,
        connecting: stats.connecting,
        closing: stats.closing,
        waiting: stats.waiting,
        utilization_percent: stats.limit.map(percent),
        opened: stats.opened,
        closed: CloseReason::ALL.into_iter().map(|why| (why.name().into(), stats.closed_for(why))).collect(),
        connect_failures: stats.connect_failures,
        close_deadlines: stats.close_deadlines,
        granted: stats.granted,
        timeouts: stats.timeouts,
        refused: stats.refused,
    }
}

fn traffic(workers: &[Worker]) -> status::Traffic {
    let sum = |counter: fn(&Worker) -> &Counter| workers.iter().map(|w| counter(w).get()).fold(0, u64::wrapping_add);
    let times = |histogram: fn(&Worker) -> &Histogram| {
        let mut buckets = vec![0; super::stats::BUCKETS.len() + 1];
        let mut sum_us = 0;
        for histogram in workers.iter().map(histogram) {
            for (total, bucket) in buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.get();
            }
            sum_us += histogram.sum_us.get();
        }
        status::Times::new(buckets, sum_us)
    };
    let pins = |(index, pin): (usize, &Pin)| {
        let count = workers.iter().filter_map(|worker| worker.pins.get(index)).map(Counter::get).sum();
        (pin.name().to_owned(), count)
    };
    status::Traffic {
        clients: sum(|w| &w.clients),
        logins: sum(|w| &w.logins),
        queries: sum(|w| &w.queries),
        transactions: sum(|w| &w.transactions),
        client_bytes: sum(|w| &w.client_bytes),
        server_bytes: sum(|w| &w.server_bytes),
        server_errors: sum(|w| &w.server_errors),
        own_errors: sum(|w| &w.own_errors),
        cancels: sum(|w| &w.cancels),
        prepares: sum(|w| &w.prepares),
        prepare_hits: sum(|w| &w.prepare_hits),
        pins: Pin::ALL.iter().enumerate().map(pins).collect(),
        scrubs: sum(|w| &w.scrubs),
        adaptations: sum(|w| &w.adaptations),
        audits: [("targeted", sum(|w| &w.targeted_audits)), ("full", sum(|w| &w.full_audits))]
            .map(|(kind, count)| (kind.to_owned(), count))
            .into(),
        acquire: times(|w| &w.acquire),
        query: times(|w| &w.query_time),
        transaction: times(|w| &w.transaction_time),
    }
}

/// The wall clock's time that long ago.
fn ago(time: Duration) -> SystemTime {
    SystemTime::now().checked_sub(time).unwrap_or(UNIX_EPOCH)
}

pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// To the millisecond, in UTC.
pub(super) fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| format!("{time:.3}")).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
