//! `/`: the pools for people, as they move. Everything here stands in `/status` as well.

use actix_web::HttpResponse;
use maud::{Markup, html};

use super::Data;
use crate::contract::{BAND, Band};
use crate::page::{self, Tone, count, fact, pill, plain, span};
use crate::sidecar::probe::Verdict;
use crate::sidecar::status::{Client, Operator, Pool, Status};

mod figures;

use figures::{bar, errors, sum, times, trail};

/// Clients shown at most; `/status` has them all.
const CLIENTS: usize = 20;

/// The page.
pub async fn show(state: Data) -> HttpResponse {
    let status = state.sight.status();
    page::respond(&title(&status), &top(&status), &main(&status))
}

fn title(status: &Status) -> String {
    let names: Vec<_> = status.pools.iter().map(|pool| pool.database.as_str()).collect();
    let used: Vec<_> = status.pools.iter().filter_map(|pool| pool.connections.utilization_percent).collect();
    match (&*names, &*used) {
        ([one], [percent]) => format!("{one} {percent:.0} % · Poolkeeper"),
        ([], _) => "Poolkeeper sidecar".into(),
        _ => format!("{} · Poolkeeper", names.join(", ")),
    }
}

fn top(status: &Status) -> Markup {
    let (tone, word) = match (status.draining, status.ready) {
        (true, _) => (Tone::Warn, "draining"),
        (_, true) => (Tone::Good, "ready"),
        _ => (Tone::Bad, "not ready"),
    };
    let listeners = if status.listeners.is_empty() { "nothing yet".to_owned() } else { status.listeners.join(" and ") };
    html! {
        div class="row" {
            h1 { "Poolkeeper sidecar" }
            (pill(tone, word))
            span class="grow" {}
            nav aria-label="For machines" {
                a href="/status" { "status" }
                a href="/metrics" { "metrics" }
                a href="/api/health" { "health" }
            }
        }
        p class="soft" {
            (plain(&status.version)) " (" (plain(&status.commit)) "), up " (span(status.uptime_seconds)) ", listening on " (plain(&listeners))
        }
    }
}

fn main(status: &Status) -> Markup {
    html! {
        (notes(status))
        @for (number, pool) in status.pools.iter().enumerate() { (section(number, pool, status)) }
        @if status.pools.is_empty() {
            section { h2 { "No pool yet" } p { "A pool appears here with its policy." } }
        }
        (foot(status))
    }
}

/// What somebody should know at once, the worst first.
fn notes(status: &Status) -> Markup {
    let down = |pool: &&Pool| pool.health.status != Verdict::Healthy;
    html! {
        ul class="notes" {
            @if let Some(reason) = &status.reason { li class=(Tone::Bad.class()) { b { "Not ready. " } (plain(reason)) } }
            @for pool in status.pools.iter().filter(down) {
                li class=(verdict_tone(pool.health.status).class()) {
                    b { (plain(&pool.database)) " is " (pool.health.status.name()) ". " }
                    @if let Some(reason) = &pool.health.reason { (plain(reason)) }
                    @if let Some(ago) = pool.health.last_success_seconds_ago { " Last answer " (span(ago)) " ago." }
                }
            }
            @if let Some(rejection) = &status.rejection {
                li class=(Tone::Warn.class()) {
                    b { "The newest configuration was refused" } " at " (plain(&rejection.at)) "; nothing was changed:"
                    ul {
                        @for problem in &rejection.problems {
                            li { (plain(&problem.file)) ": " code { (plain(&problem.path)) } " " (plain(&problem.message)) }
                        }
                    }
                }
            }
            @if let Some(operator) = &status.operator { (away(operator)) }
            @for pool in &status.pools {
                @if pool.orphaned {
                    li class=(Tone::Warn.class()) {
                        b { "The policy of " (plain(&pool.database)) " is gone. " } "Its pool serves on until the sidecar ends."
                    }
                }
                @for note in &pool.server.degraded {
                    li class=(Tone::Warn.class()) { b { (plain(&pool.database)) ": " } (plain(note)) }
                }
            }
        }
    }
}

/// That the operator is not there, if it is not.
fn away(operator: &Operator) -> Markup {
    html! {
        @if !operator.connected {
            li class=(Tone::Warn.class()) {
                b { "No connection to the operator" } " since " (plain(&operator.since)) ". What runs goes on; changes do not arrive. "
                @if let Some(error) = &operator.error { (plain(error)) }
            }
        }
    }
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Healthy => Tone::Good,
        Verdict::Degraded => Tone::Warn,
        Verdict::Unhealthy => Tone::Bad,
    }
}

fn section(number: usize, pool: &Pool, status: &Status) -> Markup {
    let id = format!("pool-{number}");
    let age = status.started_seconds + status.uptime_seconds - pool.applied_seconds;
    let mode = plain(&pool.settings["pool"]["mode"].as_str().unwrap_or("unknown").to_lowercase());
    html! {
        section aria-labelledby=(id) {
            div class="row" {
                h2 id=(id) { (plain(&pool.database)) }
                (pill(verdict_tone(pool.health.status), pool.health.status.name()))
            }
            p class="soft" {
                "policy " (plain(&pool.namespace)) "/" (plain(&pool.policy))
                @if let Some(generation) = pool.generation { ", generation " (generation) }
                ", revision " code { (plain(&pool.revision)) } ", applied " (span(age.max(0.0))) " ago, " (mode) " mode"
            }
            (use_line(pool))
            (bar(&pool.connections))
            (trail(pool))
            (facts(pool))
            (settings(number, pool))
            (clients(pool, &status.clients))
        }
    }
}

/// The sentence that says it all: how many of how many, and whether that is as it should be.
fn use_line(pool: &Pool) -> Markup {
    let c = &pool.connections;
    let share = c.utilization_percent.map(|percent| {
        let (tone, word) = match Band::of(percent.round() as u32) {
            Band::Below => (Tone::Plain, "below"),
            Band::Within => (Tone::Good, "within"),
            Band::Above => (Tone::Warn, "above"),
        };
        (tone, format!("{percent:.0} %, {word} {}–{} %", BAND.start(), BAND.end()))
    });
    html! {
        p class="big" {
            b { (c.checked_out) }
            @if let Some(limit) = c.limit { " of " (limit) " in use " } @else { " in use, no limit " }
            @if let Some((tone, text)) = share { (pill(tone, &text)) }
            @if c.waiting > 0 { " " (pill(Tone::Bad, &format!("{} waiting", c.waiting))) }
        }
    }
}

fn facts(pool: &Pool) -> Markup {
    let (c, t) = (&pool.connections, &pool.traffic);
    let most = match pool.settings["pool"]["maxOverflow"].as_i64() {
        Some(most) if most >= 0 => format!(" of {most}"),
        _ => String::new(),
    };
    let key = |what: &str| format!("{}.{what}", plain(&pool.database));
    html! {
        dl class="facts" {
            (fact("Waiting for a connection", &html! {
                @if c.waiting > 0 { span class="bad" { (c.waiting) } } @else { "0" }
                small { "of " (count(t.clients)) " clients connected" }
            }))
            (fact("Overflow", &html! { (c.overflow.max(0)) (most) small { "above the size of " (c.size) } }))
            (fact("Wait for a connection, p50, p99", &times(&t.acquire, &key("acquire"))))
            (fact("Timed out or refused (53300)", &errors(c.timeouts + c.refused, &key("exhausted"))))
            (fact("Query, p50, p99", &times(&t.query, &key("query"))))
            (fact("Transaction, p50, p99", &times(&t.transaction, &key("transaction"))))
            (fact("Transactions", &html! {
                (count(t.transactions))
                small data-key=(key("transactions")) data-counts=(t.transactions) data-rate { "since the start" }
            }))
            (fact("Errors sent to clients", &html! {
                span class=(if t.own_errors > 0 { "bad" } else { "" }) { (count(t.own_errors + t.server_errors)) }
                small { "the server's " (count(t.server_errors)) ", Poolkeeper's " (count(t.own_errors)) }
                small data-key=(key("errors")) data-counts={ (t.own_errors) "," (t.server_errors) } { "since the start" }
            }))
            (fact("Server connections opened", &html! {
                (count(c.opened)) small { "closed: " (sum(&c.closed)) }
                @if c.close_deadlines > 0 { small class="warn" { (c.close_deadlines) " ended without the server's word" } }
            }))
            (fact("Logins to the server that failed", &html! {
                @let failed = pool.server.errors.iter().map(|error| error.count).sum::<u64>();
                @if failed > 0 { span class="bad" { (count(failed)) } } @else { "0" }
                small {
                    @for error in &pool.server.errors { (plain(&error.phase)) " " (plain(&error.class)) ": " (count(error.count)) " " }
                }
            }))
            (session_state(pool))
        }
    }
}

/// What sessions carry: the verdict on the database, and who is bound to a server.
fn session_state(pool: &Pool) -> Markup {
    let (catalog, pinned) = (&pool.catalog, &pool.pinned);
    let full = pinned.limit.is_some_and(|limit| pinned.clients >= limit && pinned.clients > 0);
    html! {
        (fact("Session state", &html! {
            (match catalog.verdict.as_str() { "quiet" => "quiet database", "noisy" => "noisy database", _ => "not read yet" })
            small {
                (count(pool.traffic.scrubs)) " scrubs, " (count(pool.traffic.adaptations)) " adaptations"
                @for name in catalog.names.iter().take(3) { "; " (plain(name)) }
                @if catalog.names.len() > 3 || catalog.more > 0 { "; more in status" }
                @if let Some(failure) = &catalog.failure { span class="warn" { "; not read: " (plain(failure)) } }
            }
        }))
        (fact("Pinned clients", &html! {
            span class=(if full { "warn" } else { "" }) {
                (pinned.clients) @if let Some(limit) = pinned.limit { " of " (limit) }
            }
            small { "so far: " (sum(&pool.traffic.pins)) }
        }))
    }
}

fn settings(number: usize, pool: &Pool) -> Markup {
    let text = serde_yaml::to_string(&pool.settings).unwrap_or_default();
    html! {
        details id=(format!("settings-{number}")) {
            summary { "Settings in effect" }
            pre tabindex="0" { (text.lines().map(plain).collect::<Vec<_>>().join("\n")) }
        }
    }
}

/// Those who have a server, want one or keep one.
fn clients(pool: &Pool, all: &[Client]) -> Markup {
    let of_pool = || all.iter().filter(|client| client.database == pool.database);
    let rank = |client: &Client| match client.activity.as_str() {
        _ if client.pinned.is_some() => 0,
        "waiting" => 1,
        "holding" => 2,
        "active" => 3,
        _ => 4,
    };
    let mut busy: Vec<_> = of_pool().filter(|client| rank(client) < 4).collect();
    busy.sort_by_key(|client| rank(client));
    let total = busy.len();
    html! {
        h3 { "Clients that have a server, wait for one or are pinned: " (total) " of " (of_pool().count()) }
        @if total > 0 {
            div class="wide" { table {
                thead { tr {
                    th { "Application" } th { "From" } th { "Doing" } th { "Pinned by" } th class="number" { "Connected" } th class="number" { "Transactions" }
                } }
                tbody {
                    @for client in busy.iter().take(CLIENTS) { tr {
                        td { (plain(&client.application)) } td { (plain(&client.peer)) } td { (client.activity) }
                        td { (client.pinned.as_deref().unwrap_or("")) }
                        td class="number" { (span(client.connected_seconds)) } td class="number" { (count(client.transactions)) }
                    } }
                }
            } }
            @if total > CLIENTS { p class="soft" { "and " (total - CLIENTS) " more in " a href="/status" { "status" } } }
        }
    }
}

fn foot(status: &Status) -> Markup {
    let reloads = status.reloads;
    html! {
        p class="soft" {
            "Configurations: " (reloads.applied) " applied, " (reloads.rejected) " refused. Logins refused: " (sum(&status.refused_logins)) ". "
            @if let Some(operator) = &status.operator {
                "Operator " (plain(operator.version.as_deref().unwrap_or("unknown"))) " at " (plain(&operator.url)) ", term " (operator.term) ". "
            }
            "Times since the start are upper bounds of buckets."
        }
    }
}

#[cfg(test)]
mod tests;
