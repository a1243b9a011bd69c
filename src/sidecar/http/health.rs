//! `/api/health`: the shape that applications with an own pool have used, in sums over all pools or for one.

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::Data;
use crate::sidecar::probe::Verdict;
use crate::sidecar::status::{Pool, Status};

/// The answer.
#[derive(Debug, PartialEq, Serialize)]
pub struct Answer {
    status: Verdict,
    service: String,
    version: String,
    checks: Checks,
}

#[derive(Debug, PartialEq, Serialize)]
struct Checks {
    database_pool: DatabasePool,
}

#[derive(Debug, PartialEq, Serialize)]
struct DatabasePool {
    status: &'static str,
    size: u64,
    checked_in: u64,
    checked_out: u64,
    overflow: i64,
    total_connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

/// Which pool.
#[derive(Debug, Deserialize)]
pub struct Query {
    database: Option<String>,
}

/// 200 for healthy and degraded, 503 for unhealthy, 404 for a database that is not served.
pub async fn health(state: Data, query: web::Query<Query>) -> HttpResponse {
    let mut status = state.sight.pools();
    if let Some(name) = &query.database {
        status.pools.retain(|pool| pool.database == *name);
        if status.pools.is_empty() {
            let name = crate::telemetry::escape(name);
            return HttpResponse::NotFound()
                .insert_header(ContentType::plaintext())
                .body(format!("no database {name:?} is served here\n"));
        }
    }
    let answer = answer(&status);
    match answer.status {
        Verdict::Unhealthy => HttpResponse::ServiceUnavailable().json(answer),
        Verdict::Healthy | Verdict::Degraded => HttpResponse::Ok().json(answer),
    }
}

fn answer(status: &Status) -> Answer {
    let pools = &status.pools;
    // Without any pool nothing can be used.
    let verdict = pools.iter().map(|pool| pool.health.status).max().unwrap_or(Verdict::Unhealthy);
    let names: Vec<_> = pools.iter().map(|pool| pool.policy.as_str()).collect();
    let sum = |value: fn(&Pool) -> u64| pools.iter().map(value).sum();
    Answer {
        status: verdict,
        service: if names.is_empty() { "poolkeeper".into() } else { names.join(",") },
        version: status.version.clone(),
        checks: Checks {
            database_pool: DatabasePool {
                status: if verdict == Verdict::Healthy { "healthy" } else { "error" },
                size: sum(|pool| pool.connections.size.into()),
                checked_in: sum(|pool| pool.connections.checked_in.into()),
                checked_out: sum(|pool| pool.connections.checked_out.into()),
                overflow: pools.iter().map(|pool| pool.connections.overflow).sum(),
                total_connections: sum(|pool| pool.connections.total_connections),
                message: (verdict != Verdict::Healthy).then(|| message(pools)),
            },
        },
    }
}

/// What is wrong with the pools that are not healthy.
fn message(pools: &[Pool]) -> String {
    let reasons: Vec<_> = pools
        .iter()
        .filter(|pool| pool.health.status != Verdict::Healthy)
        .map(|pool| {
            let reason = pool.health.reason.as_deref().unwrap_or(pool.health.status.name());
            if pools.len() == 1 { reason.to_owned() } else { format!("{}: {reason}", pool.database) }
        })
        .collect();
    if reasons.is_empty() { "no policy is applied yet".into() } else { reasons.join("; ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{json, to_value};

    use super::*;
    use crate::sidecar::status::{Connections, Health};

    fn pool(name: &str, status: Verdict, reason: Option<&str>) -> Pool {
        Pool {
            database: name.into(),
            policy: name.into(),
            connections: Connections {
                size: 20,
                checked_in: 8,
                checked_out: 12,
                overflow: 0,
                total_connections: 20,
                ..Connections::default()
            },
            health: Health { status, reason: reason.map(str::to_owned), ..Health::default() },
            ..Pool::default()
        }
    }

    fn of(pools: Vec<Pool>) -> Answer {
        answer(&Status { version: "1.0.0".into(), pools, ..Status::default() })
    }

    #[test]
    fn the_shape_is_the_documented_one_to_the_letter() {
        let answer = of(vec![pool("orders", Verdict::Healthy, None)]);
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"status":"healthy","service":"orders","version":"1.0.0","checks":{"database_pool":{"status":"healthy","size":20,"checked_in":8,"checked_out":12,"overflow":0,"total_connections":20}}}"#
        );
    }

    #[test]
    fn several_pools_are_summed_and_the_worst_counts() {
        let mut small = pool("audit", Verdict::Unhealthy, Some("connection refused"));
        small.connections.overflow = -5;
        let answer = of(vec![small, pool("orders", Verdict::Healthy, None)]);
        assert_eq!(
            to_value(&answer).unwrap(),
            json!({"status": "unhealthy", "service": "audit,orders", "version": "1.0.0", "checks": {"database_pool": {
                "status": "error", "size": 40, "checked_in": 16, "checked_out": 24, "overflow": -5,
                "total_connections": 40, "message": "audit: connection refused"}}})
        );
    }

    #[test]
    fn degraded_and_empty_say_why() {
        let answer = of(vec![pool("orders", Verdict::Degraded, Some("not checked yet"))]);
        assert_eq!(answer.status, Verdict::Degraded);
        assert_eq!(answer.checks.database_pool.message.as_deref(), Some("not checked yet"));
        let answer = of(Vec::new());
        assert_eq!((answer.status, answer.service.as_str()), (Verdict::Unhealthy, "poolkeeper"));
    }
}
