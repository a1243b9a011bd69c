//! The settings a server is opened with: ours, the policy's defaults, the client's.

use std::borrow::Cow;

use super::ConnectError;
use crate::pg::error::SqlState;
use crate::pg::startup::StartupSet;

/// What makes a server notice that its client is gone, though the query still runs (PostgreSQL 14+) or the machine
/// is dead: a killed sidecar must not leave backends behind that count against `max_connections`.
const CHECK: (&str, &str) = ("client_connection_check_interval", "1s");
const KEEPALIVES: [(&str, &str); 3] =
    [("tcp_keepalives_idle", "60"), ("tcp_keepalives_interval", "10"), ("tcp_keepalives_count", "3")];

type Setting<'a> = (Cow<'a, str>, Cow<'a, str>);

/// All settings of the StartupMessage in order; of those that a client can set its own value wins.
///
/// PostgreSQL applies `options` before all other settings. A default therefore goes into the front of the client's
/// `options`, if there are any: sent by itself it would win over what the client says in them.
pub(super) fn merge<'a>(
    set: &'a StartupSet,
    defaults: &'a [(String, String)],
    bare: bool,
    unix: bool,
) -> Vec<Setting<'a>> {
    let mut merged: Vec<Setting<'a>> = Vec::new();
    let ours = [CHECK].into_iter().chain(KEEPALIVES.into_iter().filter(|_| !unix)).filter(|_| !bare);
    merged.extend(ours.filter(|(name, _)| set.get(name).is_none()).map(|(name, value)| (name.into(), value.into())));
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
    use super::*;

    fn merged(set: &[(&str, &str)], defaults: &[(&str, &str)], bare: bool, unix: bool) -> Vec<String> {
        let defaults: Vec<_> = defaults.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let set = StartupSet::new(set.iter().copied());
        merge(&set, &defaults, bare, unix).iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn ours_then_the_defaults_then_the_clients() {
        let all = merged(&[("application_name", "x")], &[("statement_timeout", "30000")], false, false);
        assert_eq!(
            all,
            [
                "client_connection_check_interval=1s",
                "tcp_keepalives_idle=60",
                "tcp_keepalives_interval=10",
                "tcp_keepalives_count=3",
                "statement_timeout=30000",
                "application_name=x"
            ]
        );
        assert_eq!(merged(&[], &[], false, true), ["client_connection_check_interval=1s"]);
        assert_eq!(merged(&[("a", "b")], &[("c", "d")], true, false), ["c=d", "a=b"]);
    }

    #[test]
    fn the_clients_own_value_wins() {
        let set = [("statement_timeout", "5"), ("tcp_keepalives_idle", "1"), ("client_connection_check_interval", "9")];
        let all = merged(&set, &[("statement_timeout", "30000")], false, true);
        assert_eq!(all, ["client_connection_check_interval=9", "statement_timeout=5", "tcp_keepalives_idle=1"]);
    }

    #[test]
    fn case_56_also_inside_options() {
        let all = merged(&[("options", "-c statement_timeout=5s")], &[("statement_timeout", "30 \\s")], true, true);
        assert_eq!(all, ["options=-c statement_timeout=30\\ \\\\s -c statement_timeout=5s"]);
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
