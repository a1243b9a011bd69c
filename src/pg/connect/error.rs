//! Why a server could not be logged in to.

use std::fmt;

use super::Target;
use crate::pg::error::SqlState;
use crate::pg::message::ErrorFields;

/// How far a login got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Turning the host's name into addresses.
    Dns,
    /// Connecting the socket.
    Tcp,
    /// Agreeing on TLS.
    Tls,
    /// Proving who we are.
    Auth,
    /// After authentication, until the server is ready.
    Startup,
    /// The time was over.
    Timeout,
}

impl Phase {
    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Dns => "dns",
            Phase::Tcp => "tcp",
            Phase::Tls => "tls",
            Phase::Auth => "auth",
            Phase::Startup => "startup",
            Phase::Timeout => "timeout",
        }
    }
}

/// A server's own words. Each text holds at most [`ServerError::LONGEST`] bytes of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `FATAL` or what it said instead.
    pub severity: String,
    /// Its message.
    pub message: String,
    /// More about it, or nothing.
    pub detail: String,
    /// What to do about it, or nothing.
    pub hint: String,
}

impl ServerError {
    /// The longest text kept, in bytes: a server's error is shown to people, and kept while they look.
    pub const LONGEST: usize = 1024;
}

/// Why a login failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectError {
    /// How far it got.
    pub phase: Phase,
    /// The server's code, if it gave one that is one.
    pub sqlstate: Option<SqlState>,
    /// What happened: safe to show, no secret in it.
    pub message: String,
    /// The server's own words, if it was the server that refused.
    pub server: Option<Box<ServerError>>,
}

impl ConnectError {
    /// An error that we found, not the server.
    pub(super) fn local(phase: Phase, message: String) -> ConnectError {
        ConnectError { phase, sqlstate: None, message, server: None }
    }

    /// The time is over while in `phase`.
    pub(super) fn timeout(target: &Target, phase: Phase) -> ConnectError {
        let Target { host, port, timeout, .. } = target;
        let during = match phase {
            Phase::Dns => "resolving its name",
            Phase::Tcp => "connecting",
            Phase::Tls => "agreeing on TLS",
            Phase::Auth => "authenticating",
            Phase::Startup | Phase::Timeout => "waiting until it is ready",
        };
        let message = format!("no login at server {host}:{port} within {timeout:?}: the time ended while {during}");
        ConnectError::local(Phase::Timeout, message)
    }

    /// The server refused with an ErrorResponse.
    pub(super) fn refused(phase: Phase, body: &[u8]) -> ConnectError {
        let fields = ErrorFields::parse(body).unwrap_or_default();
        let server = ServerError {
            severity: shortened(if fields.severity.is_empty() { "FATAL" } else { fields.severity }),
            message: shortened(&fields.message),
            detail: shortened(&fields.detail),
            hint: shortened(&fields.hint),
        };
        let message = match &*server.message {
            "" => "the server refused the login without a reason".to_owned(),
            message => format!("the server refused the login: {message}"),
        };
        ConnectError { phase, sqlstate: fields.sqlstate(), message, server: Some(Box::new(server)) }
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(ServerError::LONGEST);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.sqlstate.map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

impl std::error::Error for ConnectError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_named_as_metrics_have_them() {
        let phases = [Phase::Dns, Phase::Tcp, Phase::Tls, Phase::Auth, Phase::Startup, Phase::Timeout];
        assert_eq!(phases.map(Phase::name), ["dns", "tcp", "tls", "auth", "startup", "timeout"]);
    }

    #[test]
    fn long_words_are_cut_between_characters() {
        let long = "ä".repeat(ServerError::LONGEST);
        assert_eq!(shortened(&long).len(), ServerError::LONGEST);
        assert_eq!(shortened(&format!("x{long}")).len(), ServerError::LONGEST - 1);
        assert_eq!(shortened("x"), "x");
    }
}
