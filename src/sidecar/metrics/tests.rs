#![allow(clippy::unwrap_used)]
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::sidecar::connect_errors::ErrorCount;
use crate::sidecar::status::{Catalog, Connections, Health, Pinned, Server, Traffic};

fn map(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
}

/// A pool in which every family has a sample.
fn pool() -> Pool {
    let mut buckets = vec![0; BUCKETS.len() + 1];
    (buckets[0], buckets[3], buckets[BUCKETS.len()]) = (5, 2, 1);
    let times = Times::new(buckets, 1_500_000);
    Pool {
        database: "orders".into(),
        policy: "shop".into(),
        namespace: "default".into(),
        revision: "abc123".into(),
        generation: Some(7),
        applied_seconds: 1_800_000_000.25,
        connections: Connections {
            size: 20,
            checked_in: 8,
            checked_out: 12,
            overflow: -3,
            limit: Some(30),
            in_use: 12,
            utilization_percent: Some(40.0),
            closed: map(&[("recycled", 3)]),
            ..Connections::default()
        },
        traffic: Traffic {
            client_bytes: 1_000,
            pins: map(&[("listen", 2)]),
            scrubs: 6,
            adaptations: 5,
            audits: map(&[("targeted", 4), ("full", 1)]),
            acquire: times.clone(),
            query: times.clone(),
            transaction: times,
            ..Traffic::default()
        },
        health: Health { last_success_seconds_ago: Some(0.5), looks: map(&[("heard", 9)]), ..Health::default() },
        server: Server {
            errors: vec![ErrorCount { phase: "auth".into(), class: "28".into(), count: 4 }],
            degraded: Vec::new(),
        },
        catalog: Catalog { verdict: "quiet".into(), ..Catalog::default() },
        pinned: Pinned { clients: 3, limit: Some(15) },
        ..Pool::default()
    }
}

fn text(pools: Vec<Pool>) -> String {
    render(Status {
        version: "1.0.0".into(),
        commit: "c0ffee".into(),
        refused_logins: map(&[("too_many_clients", 2)]),
        operator: Some(Operator {
            connected: true,
            since_seconds: 1.5,
            term: 3,
            connections: 2,
            ..Operator::default()
        }),
        pools,
        ..Status::default()
    })
    .unwrap()
}

/// Each family's comments, and below them the names of its samples' labels.
fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('#') {
            out.push_str(line);
        } else {
            let (name, rest) = line.split_once(['{', ' ']).unwrap();
            let labels: Vec<_> =
                rest.split("\",").filter_map(|label| label.split_once("=\"")).map(|(k, _)| k).collect();
            let sample = format!("  {name}{{{}}}", labels.join(","));
            if !seen.insert(sample.clone()) {
                continue;
            }
            out.push_str(&sample);
        }
        out.push('\n');
    }
    out
}

/// Names, types, units, labels and help texts are an interface: dashboards and alerts stand on them. A change here must
/// be meant; `POOLKEEPER_BLESS=1 cargo test golden` writes the list anew.
#[test]
fn names_types_and_help_texts_are_the_golden_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
    let shape = shape(&text(vec![pool()]));
    if std::env::var_os("POOLKEEPER_BLESS").is_some() {
        std::fs::write(path, &shape).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert_eq!(shape, golden, "metrics differ from tests/golden/metrics.txt");
}

#[test]
fn names_follow_the_conventions() {
    for line in text(vec![pool()]).lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        assert!(name.starts_with("poolkeeper_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
    }
    let text = text(vec![pool()]);
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = line.split_once(' ').unwrap();
        assert!(names.insert(name.to_owned()), "{name} twice");
        assert!(help.ends_with('.') && !help.ends_with(".."), "{name}: {help:?}");
        for unit in ["millis", "_ms", "micro", "minutes", "percent", "kilobytes"] {
            assert!(!name.contains(unit), "{name}: not a base unit");
        }
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn values_are_right() {
    let text = text(vec![pool()]);
    for line in [
        "poolkeeper_build_info{version=\"1.0.0\",commit=\"c0ffee\"} 1",
        "poolkeeper_policy_info{policy=\"shop\",namespace=\"default\",revision=\"abc123\",database=\"orders\"} 1",
        "poolkeeper_pool_utilization_ratio{database=\"orders\"} 0.4",
        "poolkeeper_pool_overflow{database=\"orders\"} 0.0",
        "poolkeeper_pool_limit{database=\"orders\"} 30.0",
        "poolkeeper_catalog_quiet{database=\"orders\"} 1.0",
        "poolkeeper_pinned_clients{database=\"orders\"} 3.0",
        "poolkeeper_pinned_clients_limit{database=\"orders\"} 15.0",
        "poolkeeper_session_scrubs_total{database=\"orders\"} 6",
        "poolkeeper_session_adaptations_total{database=\"orders\"} 5",
        "poolkeeper_session_audits_total{database=\"orders\",kind=\"targeted\"} 4",
        "poolkeeper_session_audits_total{database=\"orders\",kind=\"full\"} 1",
        "poolkeeper_connection_errors_total{database=\"orders\",phase=\"auth\",sqlstate_class=\"28\"} 4",
        "poolkeeper_client_received_bytes_total{database=\"orders\"} 1000",
        "poolkeeper_query_duration_seconds_bucket{le=\"0.0001\",database=\"orders\"} 5",
        "poolkeeper_query_duration_seconds_bucket{le=\"0.001\",database=\"orders\"} 7",
        "poolkeeper_query_duration_seconds_bucket{le=\"+Inf\",database=\"orders\"} 8",
        "poolkeeper_query_duration_seconds_count{database=\"orders\"} 8",
        "poolkeeper_query_duration_seconds_sum{database=\"orders\"} 1.5",
        "poolkeeper_health{database=\"orders\",status=\"healthy\"} 1.0",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
}

#[test]
fn unlimited_is_infinite_and_names_are_escaped() {
    let mut unlimited = pool();
    unlimited.database = "a\"b\n\\".into();
    unlimited.connections.limit = None;
    unlimited.connections.utilization_percent = None;
    unlimited.pinned.limit = None;
    let text = text(vec![pool(), unlimited]);
    assert!(text.contains(r#"poolkeeper_pool_limit{database="a\"b\n\\"} inf"#) || text.contains("+Inf"), "{text}");
    assert_eq!(text.matches("poolkeeper_pool_utilization_ratio{").count(), 1);
    assert_eq!(text.matches("# HELP poolkeeper_pool_limit ").count(), 1, "one family for all pools");
}
