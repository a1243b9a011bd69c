//! Messages: builders append whole frames to a buffer, parsers borrow from a whole body.
//!
//! Formats: <https://www.postgresql.org/docs/current/protocol-message-formats.html>. Bytes of a peer are
//! never trusted: a parser that does not find what it needs says `None`.

mod read;

pub use self::read::{Authentication, ErrorFields, Reader, read_backend_key_data, read_parameter_status};
use super::error::SqlState;

/// How bad an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the connection goes on.
    Error,
    /// The connection ends after this message.
    Fatal,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// Appends a frame whose body `fill` writes.
pub fn frame(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    sized(out, fill);
}

/// Appends a length (which counts itself) and what `fill` writes: a frame without a tag.
pub(super) fn sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    fill(out);
    // Nothing built here comes near 2 GiB; a peer would refuse the absurd length.
    let length = i32::try_from(out.len() - at).unwrap_or(i32::MAX);
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a text and its terminator. What follows a NUL inside it would be read as the next field: it is left out.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.extend_from_slice(text.get(..end).unwrap_or_default());
    out.push(0);
}

/// ErrorResponse.
pub fn error_response(
    out: &mut Vec<u8>,
    severity: Severity,
    code: &SqlState,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
) {
    frame(out, b'E', |out| {
        let fields = [
            (b'S', Some(severity.as_str())),
            (b'V', Some(severity.as_str())),
            (b'C', Some(code.as_str())),
            (b'M', Some(message)),
            (b'D', detail),
            (b'H', hint),
        ];
        for (field, text) in fields {
            if let Some(text) = text {
                out.push(field);
                cstr(out, text.as_bytes());
            }
        }
        out.push(0);
    });
}

/// ErrorResponse of severity ERROR that names the routine of PostgreSQL's which says it: some drivers go by that.
pub fn error_response_of(out: &mut Vec<u8>, code: &SqlState, text: &str, routine: &str) {
    frame(out, b'E', |out| {
        for (field, text) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code.as_str()), (b'M', text), (b'R', routine)] {
            out.push(field);
            cstr(out, text.as_bytes());
        }
        out.push(0);
    });
}

/// Parse with everything that follows the name as another Parse had it: the text, a zero byte, the parameter types.
pub fn parse_tail(out: &mut Vec<u8>, name: &[u8], tail: &[u8]) {
    frame(out, b'P', |out| {
        cstr(out, name);
        out.extend_from_slice(tail);
    });
}

/// NoticeResponse of severity NOTICE.
pub fn notice_response(out: &mut Vec<u8>, code: &str, text: &str) {
    frame(out, b'N', |out| {
        for (field, text) in [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', code), (b'M', text)] {
            out.push(field);
            cstr(out, text.as_bytes());
        }
        out.push(0);
    });
}

/// ReadyForQuery with the transaction status `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    frame(out, b'Z', |out| out.push(status));
}

/// ParameterStatus: a setting that the server reports.
pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
    frame(out, b'S', |out| {
        cstr(out, name.as_bytes());
        cstr(out, value.as_bytes());
    });
}

/// BackendKeyData: what a later CancelRequest must name. 4 bytes of key in protocol 3.0, up to 256 in 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    frame(out, b'K', |out| {
        out.extend(pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    frame(out, b'R', |out| out.extend(0i32.to_be_bytes()));
}

/// AuthenticationSASL: the mechanisms that are offered, best first.
pub fn authentication_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    frame(out, b'R', |out| {
        out.extend(10i32.to_be_bytes());
        for mechanism in mechanisms {
            cstr(out, mechanism.as_bytes());
        }
        out.push(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, b'R', |out| {
        out.extend(11i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, b'R', |out| {
        out.extend(12i32.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// NegotiateProtocolVersion: the newest minor version of protocol 3 that is spoken here and the `_pq_.` options
/// that are not known. The version is sent whole, as PostgreSQL does and libpq reads it.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, minor: u16, unknown_options: &[String]) {
    frame(out, b'v', |out| {
        out.extend(3u16.to_be_bytes());
        out.extend(minor.to_be_bytes());
        out.extend(i32::try_from(unknown_options.len()).unwrap_or(i32::MAX).to_be_bytes());
        for option in unknown_options {
            cstr(out, option.as_bytes());
        }
    });
}

/// Terminate: the client says goodbye.
pub fn terminate(out: &mut Vec<u8>) {
    frame(out, b'X', |_| {});
}

/// Query: one text, any number of statements.
pub fn query(out: &mut Vec<u8>, sql: &str) {
    query_bytes(out, sql.as_bytes());
}

/// Query of a text in whatever encoding.
pub fn query_bytes(out: &mut Vec<u8>, sql: &[u8]) {
    frame(out, b'Q', |out| cstr(out, sql));
}

/// Execute of a portal, all rows of it.
pub fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    frame(out, b'E', |out| {
        cstr(out, portal);
        out.extend_from_slice(&[0, 0, 0, 0]);
    });
}

/// Parse: prepares `sql` under `name` (empty: the unnamed statement). `types` is the tail of a Parse body as it
/// came: a count and that many type OIDs.
pub fn parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    frame(out, b'P', |out| {
        cstr(out, name);
        cstr(out, sql);
        out.extend_from_slice(types);
    });
}

/// Bind of parameters in text form to a statement; its results come in text form.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], parameters: &[&[u8]]) {
    frame(out, b'B', |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.extend_from_slice(&[0, 0]);
        out.extend(i16::try_from(parameters.len()).unwrap_or(i16::MAX).to_be_bytes());
        for parameter in parameters {
            out.extend(i32::try_from(parameter.len()).unwrap_or(i32::MAX).to_be_bytes());
            out.extend_from_slice(parameter);
        }
        out.extend_from_slice(&[0, 0]);
    });
}

/// Describe of a prepared statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, b'D', |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// Close of a prepared statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, b'C', |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// Close of a portal.
pub fn close_portal(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, b'C', |out| {
        out.push(b'P');
        cstr(out, name);
    });
}

/// Sync: the end of an extended batch.
pub fn sync(out: &mut Vec<u8>) {
    frame(out, b'S', |_| {});
}

/// PasswordMessage with a password in clear or hashed by md5.
pub fn password(out: &mut Vec<u8>, password: &[u8]) {
    frame(out, b'p', |out| cstr(out, password));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    frame(out, b'p', |out| {
        cstr(out, mechanism.as_bytes());
        out.extend(i32::try_from(data.len()).unwrap_or(i32::MAX).to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// SASLResponse.
pub fn sasl_response(out: &mut Vec<u8>, data: &[u8]) {
    frame(out, b'p', |out| out.extend_from_slice(data));
}

/// CancelRequest: no tag, as everything that opens a connection.
pub fn cancel_request(out: &mut Vec<u8>, pid: i32, key: &[u8]) {
    sized(out, |out| {
        out.extend(super::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend(pid.to_be_bytes());
        out.extend_from_slice(key);
    });
}

#[cfg(test)]
mod tests;
