//! Numbers as pictures and short texts.

use std::collections::BTreeMap;

use maud::{Markup, html};

use crate::contract::BAND;
use crate::page::{count, plain, span};
use crate::sidecar::stats::BUCKETS;
use crate::sidecar::status::{Connections, Pool, Times};

/// The bar's width in its own units.
const WIDTH: f64 = 1000.0;

/// The connections against the most that may exist, with the band in which a pool should be.
pub fn bar(c: &Connections) -> Markup {
    let exist = c.in_use + c.connecting + c.idle + c.closing;
    // Without a limit the bar is as long as what there is; nothing is a share of it.
    let whole = c.limit.unwrap_or_else(|| exist.max(c.size)).max(1);
    let unit = WIDTH / f64::from(whole.max(exist));
    let parts = [
        ("use", c.in_use, "in use"),
        ("open", c.connecting, "opening"),
        ("idle", c.idle, "idle"),
        ("close", c.closing, "closing"),
    ];
    let label = parts.iter().map(|(_, n, name)| format!("{n} {name}")).collect::<Vec<_>>().join(", ");
    let label = match c.limit {
        Some(limit) => format!("{label}, of {limit}; the band is {} to {} %", BAND.start(), BAND.end()),
        None => label,
    };
    let (from, to) = (f64::from(*BAND.start()) * 10.0, f64::from(*BAND.end()) * 10.0);
    let mut at = 0.0;
    let placed = parts.map(|(class, number, _)| {
        let (from, width) = (at, f64::from(number) * unit);
        at += width;
        (class, from, width)
    });
    html! {
        svg class="bar" viewBox="0 0 1000 44" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect class="track" x="0" y="8" width="1000" height="28" {}
            @if c.limit.is_some() { rect class="band" x=(from) y="0" width=(to - from) height="44" {} }
            @for (class, at, width) in &placed {
                rect class=(class) x=(format!("{at:.1}")) y="8" width=(format!("{width:.1}")) height="28" {}
            }
            @if c.limit.is_some() {
                line class="edge" x1=(from) x2=(from) y1="0" y2="44" {}
                line class="edge" x1=(to) x2=(to) y1="0" y2="44" {}
            }
            @if c.size > 0 && c.size < whole {
                @let x = format!("{:.1}", f64::from(c.size) * unit);
                line class="tick" x1=(x) x2=(x) y1="4" y2="40" {}
            }
        }
        @if c.limit.is_some() {
            div class="scale" aria-hidden="true" {
                span { "0" }
                span { span { (BAND.start()) " %" } span { (BAND.end()) " %" } }
                span { (whole) }
            }
        }
        ul class="legend" {
            @for (class, number, name) in parts {
                li { svg viewBox="0 0 8 8" aria-hidden="true" { rect class=(class) width="8" height="8" rx="2" {} } (number) " " (name) }
            }
            @if c.size > 0 { li class="soft" { "| size " (c.size) } }
        }
    }
}

/// The utilisation of the last minute, which the script draws.
pub fn trail(pool: &Pool) -> Markup {
    let Some(percent) = pool.connections.utilization_percent else { return html! {} };
    html! {
        svg class="trail" viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="Utilisation of the last minute" {
            rect class="track" x="0" y="0" width="1000" height="100" {}
            rect class="band" x="0" y=(100 - BAND.end()) width="1000" height=(BAND.end() - BAND.start()) {}
            polyline data-key={ (plain(&pool.database)) ".share" } data-value=(format!("{percent:.1}")) points="" {}
        }
        p class="soft" { "Utilisation, last minute" }
    }
}

/// Half of a distribution and 99 of 100: since the start, and of late by the script.
pub fn times(times: &Times, key: &str) -> Markup {
    let bound = |percentile: Option<f64>| match percentile {
        Some(seconds) => format!("≤ {}", span(seconds)),
        None if times.count == 0 => "none yet".to_owned(),
        None => format!("> {}", span(BUCKETS[BUCKETS.len() - 1])),
    };
    let list = |all: Vec<String>| all.join(",");
    html! {
        (bound(times.p50_seconds)) @if times.count > 0 { ", " (bound(times.p99_seconds)) }
        small data-key=(key) data-counts=(list(times.buckets.iter().map(u64::to_string).collect()))
            data-bounds=(list(BUCKETS.iter().map(f64::to_string).collect())) { "since the start" }
    }
}

/// A count of what should not happen: since the start, and of late by the script.
pub fn errors(number: u64, key: &str) -> Markup {
    html! {
        @if number > 0 { span class="bad" { (count(number)) } } @else { "0" }
        small data-key=(key) data-counts=(number) { "since the start" }
    }
}

/// `3 recycled, 1 shrunk` of the counts that are not 0.
pub fn sum(counts: &BTreeMap<String, u64>) -> String {
    let shown =
        counts.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{} {}", count(*n), name.replace('_', " ")));
    let shown = shown.collect::<Vec<_>>().join(", ");
    if shown.is_empty() { "none".into() } else { plain(&shown) }
}
