//! `/`: the operator for people: whether it leads, and what became of each policy.

use std::time::{SystemTime, UNIX_EPOCH};

use maud::{Markup, html};

use super::overview::{Overview, PolicyLine, Shown};
use crate::api::conditions::{ACCEPTED, CREDENTIALS_ROTATED, Holds, PROGRAMMED, READY, RESOLVED_REFS};
use crate::contract::{BAND, Band};
use crate::page::{Tone, fact, pill, plain, span};

/// Policies shown at most, those that are not Ready first.
const POLICIES: usize = 200;
/// An authority that is renewed in time never has less left than this many days.
const RENEWED: f64 = 120.0;

/// What the page is about, beside the policies.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The replica's name.
    pub identity: String,
    /// What readiness still waits for.
    pub missing: Vec<&'static str>,
}

/// The page's title.
pub fn title(overview: &Overview) -> String {
    let ready = overview.policies.iter().filter(|line| is_ready(line)).count();
    format!("{ready}/{} policies ready · Poolkeeper operator", overview.policies.len())
}

/// Its head.
pub fn top(about: &About, overview: &Overview) -> Markup {
    html! {
        div class="row" {
            h1 { "Poolkeeper operator" }
            @if overview.leading { (pill(Tone::Good, "leads")) } @else { (pill(Tone::Plain, "stands by")) }
            @if !about.missing.is_empty() { (pill(Tone::Bad, "not ready")) }
            span class="grow" {}
            nav aria-label="For machines" { a href="/metrics" { "metrics" } a href="/readyz" { "readiness" } }
        }
        p class="soft" { (env!("CARGO_PKG_VERSION")) " (" (env!("POOLKEEPER_COMMIT")) "), replica " (plain(&about.identity)) }
    }
}

/// Everything below its head.
pub fn main(about: &About, overview: &Overview, now: SystemTime) -> Markup {
    let mut lines: Vec<_> = overview.policies.iter().collect();
    lines.sort_by_key(|line| is_ready(line));
    html! {
        (notes(about, overview, now))
        section aria-label="The operator" { (facts(overview, now)) }
        section aria-labelledby="policies" {
            h2 id="policies" { "Policies" }
            @if lines.is_empty() {
                p { "There is no DbPoolPolicy in the cluster yet." }
            } @else {
                div class="wide" { table {
                    thead { tr {
                        th { "Policy" } th { "Ready" } th { "Accepted" } th { "References" } th { "Programmed" }
                        th class="number" { "Applied" } th class="number" { "Healthy" } th { "In use" } th class="number" { "Waiting" }
                    } }
                    tbody { @for line in lines.iter().take(POLICIES) { (row(line)) } }
                } }
                @if lines.len() > POLICIES { p class="soft" { "and " (lines.len() - POLICIES) " more: " code { "kubectl get dbpool -A" } } }
            }
        }
        p class="soft" { "Conditions and numbers are those of the policies' status in the cluster; numbers there are rounded, and up to 30 s old." }
    }
}

fn is_ready(line: &PolicyLine) -> bool {
    line.condition(READY).is_some_and(|ready| ready.status == Holds::True.name())
}

/// Days until the authority ends; `None` if there is none yet.
fn days_left(overview: &Overview, now: SystemTime) -> Option<f64> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (overview.authority_ends > 0.0).then_some((overview.authority_ends - now) / 86_400.0)
}

fn notes(about: &About, overview: &Overview, now: SystemTime) -> Markup {
    html! {
        ul class="notes" {
            @if !about.missing.is_empty() {
                li class="bad" { b { "Not ready. " } "Waiting for " (about.missing.join(", ")) "." }
            }
            @if let Some(days) = days_left(overview, now).filter(|days| *days < RENEWED) {
                li class="bad" {
                    b { "The certificate authority ends in " (span(days.max(0.0) * 86_400.0)) " and was not renewed. " }
                    "The log says why."
                }
            }
        }
    }
}

fn facts(overview: &Overview, now: SystemTime) -> Markup {
    let ready = overview.policies.iter().filter(|line| is_ready(line)).count();
    let all = overview.policies.len();
    html! {
        dl class="facts" {
            (fact("This replica", &html! {
                (if overview.leading { "leads" } else { "stands by" })
                small { (if overview.leading { "it alone has streams and writes" } else { "streams go to the one that leads" }) }
            }))
            (fact("Streams of sidecars", &html! { (overview.streams) small { "pods with a sidecar: " (overview.pods) } }))
            (fact("Policies ready", &html! { span class=(if ready < all { "warn" } else { "" }) { (ready) " of " (all) } }))
            (fact("Certificate authority", &html! {
                @if let Some(days) = days_left(overview, now) { (span(days.max(0.0) * 86_400.0)) " left" small { "renewed by itself at 180 d" } }
                @else { "none yet" }
            }))
        }
    }
}

fn row(line: &PolicyLine) -> Markup {
    let pods = &line.pods;
    let behind = pods.applied < pods.matched;
    html! {
        tr {
            td { b { (plain(&line.key.name)) } small { (plain(&line.key.namespace)) ", generation " (line.generation) } }
            @for shown in [READY, ACCEPTED, RESOLVED_REFS, PROGRAMMED].iter().filter_map(|name| line.condition(name)) {
                td { (condition(shown)) }
            }
            td class="number" { span class=(if behind { "warn" } else { "" }) { (pods.applied) "/" (pods.matched) } }
            td class="number" { span class=(if pods.healthy < pods.matched { "warn" } else { "" }) { (pods.healthy) "/" (pods.matched) } }
            td { (in_use(line)) }
            td class="number" {
                @let waiting = line.pool.as_ref().map_or(0, |pool| pool.waiting);
                span class=(if waiting > 0 { "bad" } else { "" }) { (waiting) }
            }
        }
        @if let Some(why) = line.condition(READY).filter(|ready| ready.status != Holds::True.name()) {
            tr { td colspan="9" { small { (plain(&why.message)) } } }
        }
        @if let Some(rotation) = line.condition(CREDENTIALS_ROTATED) {
            tr { td colspan="9" { small { "Credentials are being rotated (" (plain(&rotation.reason)) "): " (plain(&rotation.message)) } } }
        }
    }
}

fn condition(shown: &Shown) -> Markup {
    let tone = match shown.status.as_str() {
        "True" => Tone::Good,
        "False" => Tone::Bad,
        _ => Tone::Plain,
    };
    // A good one is read by its name; one that is not needs its reason.
    let text = if tone == Tone::Good { shown.status.clone() } else { format!("{}: {}", shown.status, shown.reason) };
    html! { span title=(plain(&shown.message)) { (pill(tone, &text)) } }
}

fn in_use(line: &PolicyLine) -> Markup {
    let Some(pool) = &line.pool else { return html! { "–" } };
    let share = pool.utilization_percent.and_then(|percent| u32::try_from(percent).ok());
    html! {
        (pool.in_use)
        @if let Some(percent) = share {
            " " (match Band::of(percent) {
                Band::Below => pill(Tone::Plain, &format!("{percent} %")),
                Band::Within => pill(Tone::Good, &format!("{percent} %")),
                Band::Above => pill(Tone::Warn, &format!("{percent} %, above {} %", BAND.end())),
            })
        }
        small { "size " (pool.size) " + " (pool.max_overflow) " a pod" }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::api::v1alpha1::{PodsStatus, PoolStatus};
    use crate::operator::index::Key;

    const NASTY: &str = "<b onclick='x()'>\u{202e}&";

    fn line(name: &str, ready: &str) -> PolicyLine {
        let shown = |condition, status: &str, reason: &str, message: &str| Shown {
            condition,
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
        };
        PolicyLine {
            key: Key::new("shop", name),
            generation: 3,
            conditions: vec![
                shown("Accepted", "True", "Accepted", ""),
                shown("ResolvedRefs", "Unknown", "Pending", "nobody has looked"),
                shown("Programmed", ready, "PodsRejected", "pod a says no"),
                shown("Ready", ready, "PodsRejected", "Programmed: refused by a"),
                shown("CredentialsRotated", "False", "SecretNotReadByAll", "not read by b yet"),
            ],
            pods: PodsStatus { matched: 3, applied: 2, healthy: 3, restart_required: 0, summary: "2/3".into() },
            pool: Some(PoolStatus {
                size: 20,
                max_overflow: 10,
                in_use: 64,
                utilization_percent: Some(85),
                waiting: 4,
                acquire_p99: None,
            }),
        }
    }

    fn text(about: &About, overview: &Overview) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(86_400);
        format!("{}{}{}", title(overview), top(about, overview).into_string(), main(about, overview, now).into_string())
    }

    #[test]
    fn what_is_not_ready_comes_first_and_says_why() {
        let overview = Overview {
            leading: true,
            streams: 5,
            pods: 6,
            authority_ends: 86_400.0 * 366.0,
            policies: vec![line("audit", "True"), line("orders", "False")],
        };
        let text = text(&About { identity: "operator-a".into(), ..About::default() }, &overview);
        for part in [
            "1/2 policies ready",
            ">leads<",
            "replica operator-a",
            "<dd>5<small>pods with a sidecar: 6</small>",
            "False: PodsRejected",
            "Unknown: Pending",
            "Programmed: refused by a",
            "(SecretNotReadByAll): not read by b yet",
            "2/3",
            "85 %, above 80 %",
            "365 d left",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(text.find("<b>orders").unwrap() < text.find("<b>audit").unwrap());
        assert!(!text.contains("was not renewed") && !text.contains("not ready"));
    }

    #[test]
    fn a_replica_in_trouble_says_so_and_nothing_from_outside_is_markup() {
        let mut nasty = line(NASTY, "False");
        nasty.key.namespace = NASTY.into();
        nasty.conditions[3].reason = NASTY.into();
        nasty.conditions[3].message = NASTY.into();
        let overview = Overview { authority_ends: 86_400.0 * 11.0, policies: vec![nasty], ..Overview::default() };
        let about = About { identity: NASTY.into(), missing: vec!["pods", "a certificate"] };
        let body = main(&about, &overview, UNIX_EPOCH + Duration::from_secs(86_400)).into_string();
        assert!(body.contains("Waiting for pods, a certificate.") && body.contains("ends in 10 d and was not renewed"));
        let body = format!("{}{body}", top(&about, &overview).into_string());
        assert!(body.contains(">stands by<") && body.contains(">not ready<"), "{body}");
        assert!(!body.contains("<b onclick") && !body.contains('\u{202e}'), "{body}");
        assert!(text(&About::default(), &Overview::default()).contains("no DbPoolPolicy in the cluster yet"));
    }
}
