//! A status as tables.

use std::collections::HashMap;
use std::fmt::Write;

use crate::sidecar::status::{Catalog, Client, Pool, Status};
use crate::telemetry::escape;

/// The whole picture. `watched` has the transactions a second by database and how many clients to show.
pub fn render(status: &Status, watched: Option<(HashMap<String, f64>, usize)>) -> String {
    let (rates, most) = watched.map_or((None, usize::MAX), |(rates, most)| (Some(rates), most));
    let mut out = head(status);
    out.push('\n');
    out.push_str(&pools(status, rates.as_ref()));
    for pool in &status.pools {
        for note in pool.health.reason.iter().chain(&pool.server.degraded) {
            line(&mut out, &format!("{}: {note}", pool.database));
        }
        if pool.catalog.verdict == "noisy" {
            line(
                &mut out,
                &format!("{}: noisy, its objects can touch a session: {}", pool.database, noise(&pool.catalog)),
            );
        }
        if pool.orphaned {
            line(&mut out, &format!("{}: its policy is gone; it serves on until the sidecar ends", pool.database));
        }
    }
    if let Some(rejection) = &status.rejection {
        line(&mut out, &format!("\nThe newest configuration was refused at {}; nothing was changed:", rejection.at));
        for problem in &rejection.problems {
            let path = if problem.path.is_empty() { String::new() } else { format!("{}: ", problem.path) };
            line(&mut out, &format!("  {}: {path}{}", problem.file, problem.message));
        }
    }
    if !status.clients.is_empty() {
        out.push('\n');
        out.push_str(&clients(&status.clients, most));
    }
    out
}

/// What makes a database noisy: a few names.
fn noise(catalog: &Catalog) -> String {
    let shown = catalog.names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("; ");
    match catalog.names.len().saturating_sub(3) + catalog.more {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// One line; line breaks at its start are ours, everything else may come from elsewhere.
fn line(out: &mut String, text: &str) {
    let rest = text.trim_start_matches('\n');
    out.push_str(&text[..text.len() - rest.len()]);
    out.push_str(&escape(rest));
    out.push('\n');
}

fn head(status: &Status) -> String {
    let state = match &status.reason {
        None => "ready".to_owned(),
        Some(reason) => format!("not ready: {reason}"),
    };
    let mut out = String::new();
    line(
        &mut out,
        &format!(
            "Poolkeeper {} ({}), up {}, {state}, on {}",
            status.version,
            status.commit,
            duration(status.uptime_seconds),
            if status.listeners.is_empty() { "no listener yet".to_owned() } else { status.listeners.join(" and ") },
        ),
    );
    line(&mut out, &format!("Configurations: {} applied, {} refused", status.reloads.applied, status.reloads.rejected));
    if let Some(operator) = &status.operator {
        let state = match (&operator.error, operator.connected) {
            (_, true) => "connected".into(),
            (Some(error), false) => format!("not connected: {error}"),
            (None, false) => "not connected yet".into(),
        };
        line(&mut out, &format!("Operator: {state} (term {}, since {})", operator.term, operator.since));
    }
    out
}

fn pools(status: &Status, rates: Option<&HashMap<String, f64>>) -> String {
    let last = if rates.is_some() { "TX/S" } else { "TRANSACTIONS" };
    let mut table = Table::new(&[
        "DATABASE", "HEALTH", "IN USE", "OF", "USED", "SIZE", "OVERFLOW", "IDLE", "CLOSING", "WAITING", "CLIENTS",
        "WAIT P99", "TIMEOUTS", "REVISION", last,
    ]);
    for pool in &status.pools {
        let transactions = match rates {
            None => pool.traffic.transactions.to_string(),
            Some(rates) => rates.get(&pool.database).map_or("-".into(), |rate| format!("{rate:.0}")),
        };
        table.row(&[&pool_cells(pool)[..], &[transactions]].concat());
    }
    table.render()
}

fn pool_cells(pool: &Pool) -> Vec<String> {
    let c = &pool.connections;
    vec![
        pool.database.clone(),
        pool.health.status.name().into(),
        c.checked_out.to_string(),
        c.limit.map_or("unlimited".into(), |limit| limit.to_string()),
        c.utilization_percent.map_or("-".into(), |percent| format!("{percent:.0}%")),
        c.size.to_string(),
        c.overflow.max(0).to_string(),
        c.idle.to_string(),
        c.closing.to_string(),
        c.waiting.to_string(),
        pool.traffic.clients.to_string(),
        pool.traffic.acquire.p99_seconds.map_or("-".into(), duration),
        c.timeouts.to_string(),
        pool.revision.clone(),
    ]
}

fn clients(clients: &[Client], most: usize) -> String {
    let mut shown: Vec<&Client> = clients.iter().collect();
    let busy = |client: &Client| match client.activity.as_str() {
        "waiting" => 0,
        "active" => 1,
        "holding" => 2,
        _ => 3,
    };
    shown.sort_by_key(|client| (busy(client), client.pid));
    let mut table = Table::new(&[
        "CLIENT",
        "DATABASE",
        "APPLICATION",
        "FROM",
        "ACTIVITY",
        "CONNECTED",
        "PINNED BY",
        "TRANSACTIONS",
    ]);
    for client in shown.iter().take(most) {
        table.row(&[
            client.pid.to_string(),
            client.database.clone(),
            client.application.clone(),
            client.peer.clone(),
            client.activity.clone(),
            duration(client.connected_seconds),
            client.pinned.clone().unwrap_or_default(),
            client.transactions.to_string(),
        ]);
    }
    let mut out = table.render();
    if shown.len() > most {
        let _ = writeln!(out, "… and {} more", shown.len() - most);
    }
    out
}

/// Short, to about two digits: `250us`, `5ms`, `12.0s`, `3m20s`, `5h07m`, `9d04h`.
fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match seconds {
        s if s < 0.001 => format!("{:.0}us", s * 1e6),
        s if s < 1.0 => format!("{:.0}ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1}s"),
        s if s < 3_600.0 => format!("{}m{:02}s", whole / 60, whole % 60),
        s if s < 86_400.0 => format!("{}h{:02}m", whole / 3_600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3_600 % 24),
    }
}

/// Columns as wide as their widest cell; numbers to the right. A cell that is empty is shown as `-`.
struct Table {
    rows: Vec<Vec<String>>,
}

/// Wider cells are cut off.
const WIDEST: usize = 40;

impl Table {
    fn new(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    fn row(&mut self, cells: &[String]) {
        let cell = |text: &String| {
            let text = escape(text);
            match text.chars().count() {
                0 => "-".to_owned(),
                n if n > WIDEST => text.chars().take(WIDEST - 1).chain(['…']).collect(),
                _ => text,
            }
        };
        self.rows.push(cells.iter().map(cell).collect());
    }

    fn render(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<_> =
            (0..columns).map(|column| cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
        let right: Vec<_> = (0..columns)
            .map(|column| cells(column).skip(1).all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-')))
            .collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut text = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&right) {
                let _ = if *right { write!(text, "{cell:>width$}  ") } else { write!(text, "{cell:<width$}  ") };
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::status::{Connections, Operator, Problem, Rejection};

    fn status() -> Status {
        let client = |pid: i32, activity: &str| Client {
            pid,
            database: "orders".into(),
            application: "shop\x1b[2J".into(),
            peer: "unix".into(),
            activity: activity.into(),
            connected_seconds: 61.0,
            ..Client::default()
        };
        Status {
            version: "1.0.0".into(),
            commit: "c0ffee".into(),
            uptime_seconds: 3_725.0,
            listeners: vec!["127.0.0.1:6432".into()],
            pools: vec![Pool {
                database: "orders".into(),
                revision: "ab12".into(),
                connections: Connections {
                    size: 20,
                    checked_out: 12,
                    overflow: -8,
                    limit: Some(30),
                    utilization_percent: Some(40.0),
                    ..Connections::default()
                },
                ..Pool::default()
            }],
            clients: vec![client(1, "idle"), client(2, "active"), client(3, "waiting")],
            ..Status::default()
        }
    }

    #[test]
    fn the_tables_read_well() {
        let mut status = status();
        status.clients.clear();
        assert_eq!(
            render(&status, None),
            "\
Poolkeeper 1.0.0 (c0ffee), up 1h02m, ready, on 127.0.0.1:6432
Configurations: 0 applied, 0 refused

DATABASE  HEALTH   IN USE  OF  USED  SIZE  OVERFLOW  IDLE  CLOSING  WAITING  CLIENTS  WAIT P99  TIMEOUTS  REVISION  TRANSACTIONS
orders    healthy      12  30   40%    20         0     0        0        0        0         -         0  ab12                 0
"
        );
    }

    #[test]
    fn what_makes_a_database_noisy_is_named() {
        let mut status = status();
        status.pools[0].catalog = Catalog {
            verdict: "noisy".into(),
            names: ["function a: SET", "extension b", "view c", "view d"].map(String::from).to_vec(),
            more: 5,
            ..Catalog::default()
        };
        let text = render(&status, None);
        let line = "orders: noisy, its objects can touch a session: function a: SET; extension b; view c; and 6 more\n";
        assert!(text.contains(line), "{text}");
        status.pools[0].catalog.verdict = "quiet".into();
        assert!(!render(&status, None).contains("noisy"));
    }

    #[test]
    fn busy_clients_come_first_and_escape_sequences_do_not_come_at_all() {
        let text = render(&status(), Some((HashMap::from([("orders".into(), 1234.5)]), 2)));
        assert!(!text.contains('\x1b'));
        let order: Vec<_> = ["shop\\u{1b}[2J", "waiting", "active", "… and 1 more"].map(|s| text.find(s)).to_vec();
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{text}");
        assert!(text.contains("1234") && text.contains("TX/S"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut status = status();
        status.reason = Some("draining".into());
        status.pools[0].health.reason = Some("the health query failed once: x\ny".into());
        status.pools[0].orphaned = true;
        let problem =
            Problem { file: "p.yaml".into(), path: "spec.pool.size".into(), message: "-1 is too small".into() };
        status.rejection = Some(Rejection { at: "2026-11-03T10:00:00Z".into(), problems: vec![problem] });
        status.operator =
            Some(Operator { error: Some("a\nb".into()), term: 3, since: "then".into(), ..Operator::default() });
        let text = render(&status, None);
        for part in [
            "not ready: draining",
            "orders: the health query failed once: x\\ny\n",
            "orders: its policy is gone",
            "Operator: not connected: a\\nb (term 3, since then)\n",
            "refused at 2026-11-03T10:00:00Z; nothing was changed:\n  p.yaml: spec.pool.size: -1 is too small\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn durations_are_short() {
        let cases = [
            (0.000_25, "250us"),
            (0.005, "5ms"),
            (12.04, "12.0s"),
            (200.0, "3m20s"),
            (18_420.0, "5h07m"),
            (792_000.0, "9d04h"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }
}
