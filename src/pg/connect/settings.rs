//! The settings a server is opened with: ours, the policy's defaults, the client's.

use std::borrow::Cow;

use super::open::{PROBE_EVERY, PROBES};
use super::{ConnectError, Target};
use crate::pg::error::SqlState;
use crate::pg::startup::StartupSet;

/// What makes a server notice that its client is gone while a query runs (PostgreSQL 14+): a killed sidecar must not
/// leave backends behind that count against `max_connections`.
const CHECK: (&str, &str) = ("client_connection_check_interval", "1s");

type Setting<'a> = (Cow<'a, str>, Cow<'a, str>);

/// The settings that are ours, not the user's: with which a server notices that we are gone.
pub(super) fn ours(target: &Target) -> Vec<Setting<'static>> {
    if target.bare {
        return Vec::new();
    }
    let mut ours: Vec<Setting<'static>> = vec![(CHECK.0.into(), CHECK.1.into())];
    let over_tcp = !target.host.starts_with('/');
    if let Some(time) = target.keepalive.filter(|_| over_tcp) {
        ours.extend([
            // 0 would be the server's default.
            ("tcp_keepalives_idle".into(), time.as_secs().max(1).to_string().into()),
            ("tcp_keepalives_interval".into(), PROBE_EVERY.as_secs().to_string().into()),
            ("tcp_keepalives_count".into(), PROBES.to_string().into()),
        ]);
    }
    ours
}

/// All settings of the StartupMessage in order: ours, the policy's defaults, the client's. What a client sets wins.
///
/// PostgreSQL applies `options` before all other settings. A default therefore goes into the front of the client's
/// `options`, if there are any: sent by itself it would win over what the client says in them.
pub(super) fn merge<'a>(
    set: &'a StartupSet,
    defaults: &'a [(String, String)],
    ours: &[Setting<'a>],
) -> Vec<Setting<'a>> {
    let mut merged: Vec<Setting<'a>> = ours.iter().filter(|(name, _)| set.get(name).is_none()).cloned().collect();
    let mut options = String::new();
    for (name, value) in defaults {
        if set.get("options").is_some() {
            options.push_str(&format!("-c {name}={} ", escaped(value)));
        } else if set.get(name).is_none() {
            merged.push((name.into(), value.into()));
        }
    }
    for (name, value) in set.iter() {
        let value = if name == "options" { format!("{options}{value}").into() } else { value.into() };
        merged.push((name.into(), value));
    }
    merged
}

/// A value inside `options`, where blanks separate and a backslash takes the next character as it is.
fn escaped(value: &str) -> String {
    let mut escaped = String::new();
    for c in value.chars() {
        if c == '\\' || c.is_ascii_whitespace() || c == '\u{b}' {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Whether an error may be about our own settings: PostgreSQL before 14 does not know [`CHECK`] (42704), a platform
/// may lack it (22023), and poolers and proxies between us and the server refuse what they don't know (08P01, 0A000).
pub(super) fn refused(error: &ConnectError) -> bool {
    let codes = [
        SqlState::UNDEFINED_OBJECT,
        SqlState::INVALID_PARAMETER_VALUE,
        SqlState::PROTOCOL_VIOLATION,
        SqlState::FEATURE_NOT_SUPPORTED,
    ];
    error.sqlstate.is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pg::connect::Tls;

    fn target(host: &str, keepalive: Option<u64>, bare: bool) -> Target {
        let keepalive = keepalive.map(Duration::from_millis);
        Target { host: host.into(), port: 1, tls: Tls::Disable, timeout: Duration::ZERO, keepalive, bare }
    }

    fn shown(settings: &[Setting<'_>]) -> Vec<String> {
        settings.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn merged(set: &[(&str, &str)], defaults: &[(&str, &str)]) -> Vec<String> {
        let defaults: Vec<_> = defaults.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let set = StartupSet::new(set.iter().copied());
        shown(&merge(&set, &defaults, &ours(&target("/run", None, false))))
    }

    const CHECK_1S: &str = "client_connection_check_interval=1s";

    #[test]
    fn ours_depend_on_the_target() {
        let ours = |host, keepalive, bare| shown(&ours(&target(host, keepalive, bare)));
        let all = [CHECK_1S, "tcp_keepalives_idle=60", "tcp_keepalives_interval=10", "tcp_keepalives_count=3"];
        assert_eq!(ours("db", Some(60_000), false), all);
        assert_eq!(ours("db", Some(500), false)[1], "tcp_keepalives_idle=1");
        assert_eq!(ours("db", None, false), [CHECK_1S]);
        assert_eq!(ours("/run", Some(60_000), false), [CHECK_1S]);
        assert!(ours("db", Some(60_000), true).is_empty());
    }

    #[test]
    fn ours_then_the_defaults_then_the_clients() {
        let all = merged(&[("application_name", "x")], &[("statement_timeout", "30000")]);
        assert_eq!(all, [CHECK_1S, "statement_timeout=30000", "application_name=x"]);
    }

    #[test]
    fn the_clients_own_value_wins() {
        let set = [("statement_timeout", "5"), ("client_connection_check_interval", "9")];
        let all = merged(&set, &[("statement_timeout", "30000")]);
        assert_eq!(all, ["client_connection_check_interval=9", "statement_timeout=5"]);
    }

    #[test]
    fn case_56_also_inside_options() {
        let all = merged(&[("options", "-c statement_timeout=5s")], &[("statement_timeout", "30 \\s")]);
        assert_eq!(all, [CHECK_1S, "options=-c statement_timeout=30\\ \\\\s -c statement_timeout=5s"]);
    }

    #[test]
    fn which_refusals_may_be_about_our_settings() {
        let refused = |code: &str| {
            super::refused(&ConnectError::refused(super::super::Phase::Startup, format!("C{code}\0\0").as_bytes()))
        };
        for code in ["42704", "22023", "08P01", "0A000"] {
            assert!(refused(code), "{code}");
        }
        for code in ["53300", "28P01", "3D000", "", "57P03"] {
            assert!(!refused(code), "{code}");
        }
    }
}
