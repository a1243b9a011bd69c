//! `/metrics`: a [`Status`] in OpenMetrics' text format
//! (<https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md>).
//!
//! Nothing is counted here: each scrape renders the integers that the workers and pools keep anyway.
//! `tests/golden/metrics.txt` holds names, types, units, labels and help texts still.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use super::probe::Verdict;
use super::stats::BUCKETS;
use super::status::{Operator, Pool, Status, Times};

/// The media type of what [`render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The status as OpenMetrics text.
///
/// # Errors
/// Never, unless the encoder refuses what it is given.
pub fn render(status: Status) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("poolkeeper");
    registry.register_collector(Box::new(Scrape(status)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Status);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families { encoder, pools: &self.0.pools };
        sidecar(&mut families, &self.0)?;
        operator(&mut families, self.0.operator.as_ref())?;
        policy(&mut families)?;
        connections(&mut families)?;
        totals(&mut families)?;
        traffic(&mut families)?;
        session(&mut families)?;
        health(&mut families, self.0.started_seconds + self.0.uptime_seconds)
    }
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Writes metric families, one sample or more a pool.
struct Families<'e, 'a> {
    encoder: DescriptorEncoder<'e>,
    pools: &'a [Pool],
}

impl<'a> Families<'_, 'a> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        kind: MetricType,
        samples: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        samples(&mut self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    /// A gauge of each pool; a pool for which it means nothing has no sample.
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: impl Fn(&Pool) -> Option<f64>,
    ) -> fmt::Result {
        let pools = self.pools;
        self.family(name, help, unit, MetricType::Gauge, |metric| {
            pools.iter().try_for_each(|pool| match value(pool) {
                Some(value) => metric.encode_family(&database(pool))?.encode_gauge(&value),
                None => Ok(()),
            })
        })
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, value: impl Fn(&Pool) -> u64) -> fmt::Result {
        let pools = self.pools;
        self.family(name, help, unit, MetricType::Counter, |metric| {
            pools.iter().try_for_each(|pool| count(metric, &database(pool), value(pool)))
        })
    }

    /// A counter of each pool that has one more label.
    fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Fn(&'a Pool) -> &'a BTreeMap<String, u64>,
    ) -> fmt::Result {
        let pools = self.pools;
        self.family(name, help, None, MetricType::Counter, |metric| {
            for pool in pools {
                for (key, value) in values(pool) {
                    count(metric, &vec![("database", pool.database.as_str()), (label, key.as_str())], *value)?;
                }
            }
            Ok(())
        })
    }

    fn histogram(&mut self, name: &str, help: &str, times: impl Fn(&'a Pool) -> &'a Times) -> fmt::Result {
        let pools = self.pools;
        self.family(name, help, Some(Unit::Seconds), MetricType::Histogram, |metric| {
            for pool in pools {
                let times = times(pool);
                let bounds = BUCKETS.iter().copied().chain([f64::INFINITY]);
                let buckets: Vec<_> = bounds.zip(times.buckets.iter().copied()).collect();
                let labels = database(pool);
                let mut metric = metric.encode_family(&labels)?;
                metric.encode_histogram::<Labels<'_>>(times.sum_seconds, times.count, &buckets, None)?;
            }
            Ok(())
        })
    }
}

fn database(pool: &Pool) -> Labels<'_> {
    vec![("database", pool.database.as_str())]
}

fn count(metric: &mut MetricEncoder<'_>, labels: &Labels<'_>, value: u64) -> fmt::Result {
    metric.encode_family(labels)?.encode_counter(&value, None::<&Exemplar<Labels<'_>, f64>>)
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn sidecar(f: &mut Families<'_, '_>, status: &Status) -> fmt::Result {
    f.family("build", "Poolkeeper's version and commit.", None, MetricType::Info, |metric| {
        metric.encode_info(&vec![("version", status.version.as_str()), ("commit", status.commit.as_str())])
    })?;
    f.family("start_time", "When the sidecar started, in Unix time.", Some(Unit::Seconds), MetricType::Gauge, |m| {
        m.encode_gauge(&status.started_seconds)
    })?;
    f.family("ready", "1 if /readyz says 200, else 0.", None, MetricType::Gauge, |metric| {
        metric.encode_gauge(&flag(status.ready))
    })?;
    f.family("draining", "1 once the sidecar was asked to end.", None, MetricType::Gauge, |metric| {
        metric.encode_gauge(&flag(status.draining))
    })?;
    let reloads = status.reloads;
    f.family("reloads", "Configurations read, by result: ok (applied) or rejected.", None, MetricType::Counter, |m| {
        count(m, &vec![("result", "ok")], reloads.applied)?;
        count(m, &vec![("result", "rejected")], reloads.rejected)
    })?;
    f.family("config_rejected", "1 while the newest configuration is refused.", None, MetricType::Gauge, |metric| {
        metric.encode_gauge(&flag(status.rejection.is_some()))
    })?;
    f.family(
        "client_logins_refused",
        "Logins refused, by reason: too_many_clients, credentials or other.",
        None,
        MetricType::Counter,
        |m| status.refused_logins.iter().try_for_each(|(reason, n)| count(m, &vec![("reason", reason.as_str())], *n)),
    )
}

/// The link to the operator; no samples without one.
fn operator(f: &mut Families<'_, '_>, operator: Option<&Operator>) -> fmt::Result {
    let Some(operator) = operator else { return Ok(()) };
    f.family("operator_connected", "1 while the operator is connected.", None, MetricType::Gauge, |metric| {
        metric.encode_gauge(&flag(operator.connected))
    })?;
    f.family(
        "operator_connection_changed_timestamp",
        "When the connection to the operator came or went last, in Unix time.",
        Some(Unit::Seconds),
        MetricType::Gauge,
        |metric| metric.encode_gauge(&operator.since_seconds),
    )?;
    f.family("operator_term", "The highest term of a leader that was seen.", None, MetricType::Gauge, |metric| {
        metric.encode_gauge(&(operator.term as f64))
    })?;
    f.family("operator_connections", "Connections to the operator.", None, MetricType::Counter, |metric| {
        metric.encode_counter(&operator.connections, None::<&Exemplar<Labels<'_>, f64>>)
    })?;
    f.family(
        "operator_connection_failures",
        "Connections to the operator that ended or could not be made.",
        None,
        MetricType::Counter,
        |metric| metric.encode_counter(&operator.failures, None::<&Exemplar<Labels<'_>, f64>>),
    )
}

fn policy(f: &mut Families<'_, '_>) -> fmt::Result {
    let pools = f.pools;
    f.family("policy", "The policy and revision that a database runs.", None, MetricType::Info, |metric| {
        pools.iter().try_for_each(|pool| {
            metric.encode_family(&database(pool))?.encode_info(&vec![
                ("policy", pool.policy.as_str()),
                ("namespace", pool.namespace.as_str()),
                ("revision", pool.revision.as_str()),
            ])
        })
    })?;
    f.gauge("policy_generation", "The generation of the policy, where it has one.", None, |p| {
        p.generation.map(|generation| generation as f64)
    })?;
    f.gauge(
        "policy_applied_timestamp",
        "When the settings in force were applied, in Unix time.",
        Some(Unit::Seconds),
        |p| Some(p.applied_seconds),
    )?;
    f.gauge("policy_orphaned", "1 if the policy is gone; the pool goes on serving.", None, |p| Some(flag(p.orphaned)))
}

fn connections(f: &mut Families<'_, '_>) -> fmt::Result {
    f.gauge("pool_size", "Connections kept when given back (pool.size); 0 is unlimited.", None, |p| {
        Some(p.connections.size.into())
    })?;
    f.gauge("pool_limit", "The most server connections that may exist at once; +Inf is unlimited.", None, |p| {
        Some(p.connections.limit.map_or(f64::INFINITY, f64::from))
    })?;
    f.gauge("pool_checked_in", "Connections free, as SQLAlchemy counts.", None, |p| {
        Some(p.connections.checked_in.into())
    })?;
    f.gauge("pool_checked_out", "Connections lent or being opened, as SQLAlchemy counts.", None, |p| {
        Some(p.connections.checked_out.into())
    })?;
    f.gauge("pool_overflow", "Connections above the size.", None, |p| Some(p.connections.overflow.max(0) as f64))?;
    f.gauge("pool_waiting", "Requests that wait for a connection.", None, |p| Some(p.connections.waiting.into()))?;
    f.gauge(
        "pool_utilization",
        "Connections lent or being opened, as a share of the limit; absent if unlimited.",
        Some(Unit::Other("ratio".into())),
        |p| p.connections.utilization_percent.map(|percent| percent / 100.0),
    )?;
    let pools = f.pools;
    f.family("server_connections", "Connections to the server, by state.", None, MetricType::Gauge, |metric| {
        for pool in pools {
            let c = &pool.connections;
            let states = [("idle", c.idle), ("in_use", c.in_use), ("connecting", c.connecting), ("closing", c.closing)];
            for (state, value) in states {
                let labels: Labels<'_> = vec![("database", pool.database.as_str()), ("state", state)];
                metric.encode_family(&labels)?.encode_gauge(&f64::from(value))?;
            }
        }
        Ok(())
    })
}

fn totals(f: &mut Families<'_, '_>) -> fmt::Result {
    f.counter("server_connections_opened", "Connections to the server opened.", None, |p| p.connections.opened)?;
    f.counters("server_connections_closed", "Connections to the server closed, by reason.", "reason", |p| {
        &p.connections.closed
    })?;
    f.counter(
        "server_connections_unconfirmed",
        "Connections whose end the server did not confirm in time.",
        None,
        |p| p.connections.close_deadlines,
    )?;
    let pools = f.pools;
    f.family(
        "connection_errors",
        "Errors of connections to the server, by phase and class of SQLSTATE.",
        None,
        MetricType::Counter,
        |metric| {
            for pool in pools {
                for error in &pool.server.errors {
                    let labels = vec![
                        ("database", pool.database.as_str()),
                        ("phase", error.phase.as_str()),
                        ("sqlstate_class", error.class.as_str()),
                    ];
                    count(metric, &labels, error.count)?;
                }
            }
            Ok(())
        },
    )?;
    f.counter("pool_acquired", "Requests that got a connection.", None, |p| p.connections.granted)?;
    f.counter("pool_acquire_timeouts", "Requests that waited for a connection for too long.", None, |p| {
        p.connections.timeouts
    })?;
    f.counter("pool_acquire_refused", "Requests refused because too many waited already.", None, |p| {
        p.connections.refused
    })?;
    f.histogram("pool_acquire_wait", "From a client's request to its connection.", |p| &p.traffic.acquire)
}

fn traffic(f: &mut Families<'_, '_>) -> fmt::Result {
    f.gauge("clients", "Clients connected.", None, |p| Some(p.traffic.clients as f64))?;
    f.counter("client_logins", "Clients that logged in.", None, |p| p.traffic.logins)?;
    f.counter("queries", "Queries answered.", None, |p| p.traffic.queries)?;
    f.counter("transactions", "Transactions ended.", None, |p| p.traffic.transactions)?;
    f.histogram("query_duration", "From a query to its answer.", |p| &p.traffic.query)?;
    f.histogram("transaction_duration", "From a connection's lending to its return.", |p| &p.traffic.transaction)?;
    f.counter("client_received", "Read from clients.", Some(Unit::Bytes), |p| p.traffic.client_bytes)?;
    f.counter("server_received", "Read from servers.", Some(Unit::Bytes), |p| p.traffic.server_bytes)?;
    let pools = f.pools;
    f.family(
        "errors",
        "Errors sent to clients, by origin: server or poolkeeper.",
        None,
        MetricType::Counter,
        |metric| {
            for pool in pools {
                let origins = [("server", pool.traffic.server_errors), ("poolkeeper", pool.traffic.own_errors)];
                for (origin, value) in origins {
                    count(metric, &vec![("database", pool.database.as_str()), ("origin", origin)], value)?;
                }
            }
            Ok(())
        },
    )?;
    f.counter("cancel_requests", "Cancel requests passed on to the server.", None, |p| p.traffic.cancels)?;
    f.counter("statements_prepared", "Statements prepared on a server that lacked them.", None, |p| {
        p.traffic.prepares
    })?;
    f.counter("statements_reused", "Parse messages answered without the server.", None, |p| p.traffic.prepare_hits)
}

fn session(f: &mut Families<'_, '_>) -> fmt::Result {
    f.gauge(
        "catalog_quiet",
        "1 if nothing in the database can touch a session, 0 if something can; absent until it was read.",
        None,
        |p| match p.catalog.verdict.as_str() {
            "quiet" => Some(1.0),
            "noisy" => Some(0.0),
            _ => None,
        },
    )?;
    f.counters("pins", "Clients bound to a server by session state, by reason.", "reason", |p| &p.traffic.pins)?;
    f.gauge("pinned_clients", "Clients that session state binds to a server now.", None, |p| {
        Some(p.pinned.clients.into())
    })?;
    f.gauge(
        "pinned_clients_limit",
        "The most clients that session state may bind at once (pool.maxPinned); +Inf is unlimited.",
        None,
        |p| Some(p.pinned.limit.map_or(f64::INFINITY, f64::from)),
    )?;
    f.counter("session_scrubs", "Servers scrubbed before another client got them.", None, |p| p.traffic.scrubs)?;
    f.counter("session_adaptations", "Servers on which a client's own settings were set.", None, |p| {
        p.traffic.adaptations
    })?;
    f.counters(
        "session_audits",
        "Questions after a transaction about what it changed in its client's session, by kind: targeted or full.",
        "kind",
        |p| &p.traffic.audits,
    )
}

fn health(f: &mut Families<'_, '_>, now: f64) -> fmt::Result {
    let pools = f.pools;
    f.family("health", "1 for the database's verdict, 0 for the others.", None, MetricType::Gauge, |metric| {
        for pool in pools {
            for verdict in [Verdict::Healthy, Verdict::Degraded, Verdict::Unhealthy] {
                let labels: Labels<'_> = vec![("database", pool.database.as_str()), ("status", verdict.name())];
                metric.encode_family(&labels)?.encode_gauge(&flag(pool.health.status == verdict))?;
            }
        }
        Ok(())
    })?;
    f.gauge("health_failures", "Health queries that failed in a row.", None, |p| {
        Some(p.health.consecutive_failures.into())
    })?;
    f.gauge(
        "health_last_success_timestamp",
        "When the database last answered, in Unix time.",
        Some(Unit::Seconds),
        |p| p.health.last_success_seconds_ago.map(|ago| now - ago),
    )?;
    f.counters(
        "health_looks",
        "Health checks, by outcome: heard (a client's reply proved it), answered, failed, saturated.",
        "outcome",
        |p| &p.health.looks,
    )
}

#[cfg(test)]
mod tests;
