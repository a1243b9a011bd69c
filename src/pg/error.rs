//! SQLSTATE codes (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).

use std::fmt;

/// A five character code that says what went wrong; drivers act by it, people read the message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState([u8; 5]);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState { $($(#[$doc])* pub const $name: SqlState = SqlState(*$code);)* }
    };
}

states! {
    /// The connection to the server is gone or was never there (connection_failure).
    CONNECTION_FAILURE = b"08006";
    /// The server could not be reached (sqlclient_unable_to_establish_sqlconnection).
    UNABLE_TO_CONNECT = b"08001";
    /// The peer did what the protocol does not allow (protocol_violation).
    PROTOCOL_VIOLATION = b"08P01";
    /// Something that is not supported (feature_not_supported).
    FEATURE_NOT_SUPPORTED = b"0A000";
    /// Text that is not in the encoding it claims (character_not_in_repertoire).
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    /// A parameter's value makes no sense (invalid_parameter_value).
    INVALID_PARAMETER_VALUE = b"22023";
    /// Who the client is was not said or not proven (invalid_authorization_specification).
    INVALID_AUTHORIZATION = b"28000";
    /// Wrong user name or password (invalid_password).
    INVALID_PASSWORD = b"28P01";
    /// No such database (invalid_catalog_name).
    INVALID_CATALOG_NAME = b"3D000";
    /// No such setting (undefined_object).
    UNDEFINED_OBJECT = b"42704";
    /// More connections than are allowed (too_many_connections).
    TOO_MANY_CONNECTIONS = b"53300";
    /// More than a limit of the program allows (program_limit_exceeded).
    PROGRAM_LIMIT = b"54000";
    /// More than the configuration allows (configuration_limit_exceeded).
    CONFIGURATION_LIMIT = b"53400";
    /// The statement was cancelled (query_canceled).
    QUERY_CANCELED = b"57014";
    /// The connection was ended on purpose (admin_shutdown).
    ADMIN_SHUTDOWN = b"57P01";
    /// Nothing is served yet (cannot_connect_now).
    CANNOT_CONNECT_NOW = b"57P03";
    /// The client was silent for longer than allowed (idle_session_timeout).
    IDLE_SESSION_TIMEOUT = b"57P05";
    /// A fault of the program (internal_error).
    INTERNAL_ERROR = b"XX000";
}

impl SqlState {
    /// The code in `text`, if it is five digits or capital letters; what a hostile server sends may be anything.
    pub fn parse(text: &str) -> Option<SqlState> {
        let code: [u8; 5] = text.as_bytes().try_into().ok()?;
        code.iter().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()).then_some(SqlState(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Only ASCII gets in, by the constants and by `parse`.
        str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_codes_are_codes() {
        assert_eq!(SqlState::parse("28P01"), Some(SqlState::INVALID_PASSWORD));
        for wrong in ["", "2800", "280000", "28p01", "28 01", "28\u{e9}1", "\0\0\0\0\0"] {
            assert_eq!(SqlState::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn shown_as_five_characters() {
        assert_eq!(SqlState::TOO_MANY_CONNECTIONS.as_str(), "53300");
        assert_eq!(format!("{0} {0:?}", SqlState::TOO_MANY_CONNECTIONS), "53300 53300");
    }
}
