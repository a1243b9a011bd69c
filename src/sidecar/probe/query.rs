//! One health query, as an ordinary client of the pooler.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::checks::Outcome;
use super::token::Token;
use crate::sidecar::database::Settings;

/// With this message (and SQLSTATE 53300) the front door tells the probe that no connection is idle and none may be
/// opened: that is no failure.
pub const SATURATED: &str = "no connection is free for the health query";

/// Characters of a reason that are kept.
const REASON: usize = 300;

/// Where the pooler itself listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrontDoor {
    /// A unix socket: its directory, and the port in its name.
    Unix(PathBuf, u16),
    /// A TCP address; an unspecified one is reached by loopback.
    Tcp(SocketAddr),
}

/// Logs in, runs the health query, leaves; all within `health.timeout`.
pub async fn run(door: &FrontDoor, token: &Token, settings: &Settings) -> Outcome {
    let limit = settings.policy.health.timeout;
    match tokio::time::timeout(limit, ask(door, token, settings)).await {
        Ok(Ok(())) => Outcome::Answered,
        Ok(Err(error)) => judge(&error),
        Err(_) => Outcome::Failed(format!("no answer within {} s", limit.as_secs_f64())),
    }
}

async fn ask(door: &FrontDoor, token: &Token, settings: &Settings) -> Result<(), sqlx::Error> {
    let mut client: PgConnection = options(door, token, settings).connect().await?;
    // The policy's own words, and its own responsibility; the simple protocol leaves no statement behind.
    client.execute(sqlx::raw_sql(AssertSqlSafe(settings.policy.health.query.as_str()))).await?;
    // It was answered: how the good-bye goes is of no interest.
    let _ = client.close().await;
    Ok(())
}

fn options(door: &FrontDoor, token: &Token, settings: &Settings) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .username(&settings.credentials.user)
        .password(settings.credentials.password.expose())
        .database(&settings.policy.database.alias)
        .application_name(token.application_name())
        .ssl_mode(PgSslMode::Disable)
        .disable_statement_logging();
    match door {
        FrontDoor::Unix(directory, port) => options.socket(directory).port(*port),
        FrontDoor::Tcp(address) => options.host(&reachable(address.ip()).to_string()).port(address.port()),
    }
}

/// Where to reach a listener bound to this address.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn judge(error: &sqlx::Error) -> Outcome {
    let reason = match error {
        sqlx::Error::Database(refusal) => {
            let code = refusal.code().unwrap_or_default();
            if code == "53300" && refusal.message() == SATURATED {
                return Outcome::Full;
            }
            format!("{} (SQLSTATE {code})", refusal.message())
        }
        other => other.to_string(),
    };
    Outcome::Failed(one_line(&reason))
}

/// Whether a reason of [`Outcome::Failed`] is that the server takes neither user nor password (class 28).
pub fn is_refused_login(reason: &str) -> bool {
    reason.contains("(SQLSTATE 28")
}

/// Safe to show in one line.
fn one_line(text: &str) -> String {
    let short: String = text.chars().take(REASON).collect();
    crate::telemetry::escape(&short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_reached_by_loopback() {
        assert_eq!(reachable("0.0.0.0".parse().unwrap()), Ipv4Addr::LOCALHOST);
        assert_eq!(reachable("::".parse().unwrap()), Ipv6Addr::LOCALHOST);
        assert_eq!(reachable("10.1.2.3".parse().unwrap()).to_string(), "10.1.2.3");
    }

    #[test]
    fn a_reason_is_one_short_line() {
        let reason = one_line(&format!("a\nb\x1b{}", "x".repeat(1_000)));
        assert!(reason.starts_with("a\\nb\\u{1b}xxx"), "{reason}");
        assert!(reason.chars().count() < REASON + 20);
    }

    #[test]
    fn errors_of_the_network_are_failures() {
        let error = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert!(matches!(judge(&error), Outcome::Failed(reason) if reason.contains("refused")));
    }
}
