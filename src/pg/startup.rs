//! The first packet of a connection: it has no tag, and every byte of it may be a lie.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html> (SSLRequest, GSSENCRequest,
//! CancelRequest, StartupMessage).

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::error::SqlState;
use super::message::{Reader, cstr, sized};

/// SSLRequest's code.
pub const SSL_REQUEST: i32 = 80_877_103;
/// GSSENCRequest's code.
pub const GSS_REQUEST: i32 = 80_877_104;
/// CancelRequest's code.
pub const CANCEL_REQUEST: i32 = 80_877_102;
/// The longest cancel key of protocol 3.2, in bytes.
pub const MAX_CANCEL_KEY: usize = 256;
/// The newest minor version of protocol 3 that is spoken here.
pub const NEWEST_MINOR: u16 = 2;
/// The longest packet that PostgreSQL itself reads here, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_PACKET: usize = 10_000;

/// What opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initial {
    /// SSLRequest: wants TLS.
    Ssl,
    /// GSSENCRequest: wants GSSAPI encryption.
    Gss,
    /// CancelRequest.
    Cancel {
        /// The process id of BackendKeyData.
        pid: i32,
        /// Its key, up to [`MAX_CANCEL_KEY`] bytes; empty, which is nobody's, if the packet was malformed.
        key: Vec<u8>,
    },
    /// StartupMessage.
    Startup(Startup),
}

/// A StartupMessage of protocol 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The minor version that is asked for; may be any number (see [`Startup::negotiated`]).
    pub minor: u16,
    /// Names of protocol options (`_pq_.…`): none is known here.
    pub unknown_options: Vec<String>,
    /// The user; never empty.
    pub user: String,
    /// The database; the user's name if none was given.
    pub database: String,
    /// Everything else, in order, as it came.
    pub parameters: Vec<(String, String)>,
    /// Whether it asks for a replication connection.
    pub replication: bool,
}

/// Why a first packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartupError {
    /// A length that no packet has, or one above the limit.
    #[error("invalid length of startup packet: {length} bytes, at most {max} are allowed")]
    Length {
        /// What the packet claims, in bytes.
        length: u32,
        /// The limit, in bytes.
        max: usize,
    },
    /// Another protocol than 3.
    #[error("unsupported frontend protocol {0}.{1}: this server supports 3.0 to 3.2")]
    Version(u16, u16),
    /// Names and values that don't add up.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// No user name.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// A name or a value is not UTF-8.
    #[error("startup packet is not UTF-8")]
    Encoding,
    /// A value of `replication` that is neither a boolean nor `database`.
    #[error("invalid value for parameter \"replication\"")]
    Replication,
}

impl StartupError {
    /// The code under which the client is told.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            StartupError::Length { .. } | StartupError::Layout => SqlState::PROTOCOL_VIOLATION,
            StartupError::Version(..) => SqlState::FEATURE_NOT_SUPPORTED,
            StartupError::NoUser => SqlState::INVALID_AUTHORIZATION,
            StartupError::Encoding => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            StartupError::Replication => SqlState::INVALID_PARAMETER_VALUE,
        }
    }
}

impl Startup {
    /// The minor version that will be spoken where `newest` (0 or [`NEWEST_MINOR`]) is: 2 if at least that was asked for,
    /// else 0 (3.1 was never in use; PostgreSQL 18 treats it as 3.0).
    pub fn negotiated(&self, newest: u16) -> u16 {
        if self.minor >= NEWEST_MINOR { newest } else { 0 }
    }

    /// Whether NegotiateProtocolVersion is owed: a newer version or an unknown option was asked for.
    pub fn needs_negotiation(&self, newest: u16) -> bool {
        self.minor > newest || !self.unknown_options.is_empty()
    }
}

/// Reads a first packet from the start of `buf`, at most `max` bytes long: what it is and how many bytes it took.
///
/// `None` while it is not complete.
///
/// # Errors
/// When it cannot become a packet; the length is judged as soon as its four bytes are there.
pub fn initial(buf: &[u8], max: usize) -> Result<Option<(Initial, usize)>, StartupError> {
    let Some(&length) = buf.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(length);
    let wrong = StartupError::Length { length, max };
    let total = usize::try_from(length).ok().filter(|n| (8..=max).contains(n)).ok_or(wrong.clone())?;
    let Some(packet) = buf.get(4..total) else { return Ok(None) };
    let mut body = Reader::new(packet);
    let code = body.i32().ok_or(wrong.clone())?;
    let rest = body.rest();
    let initial = match code {
        SSL_REQUEST if rest.is_empty() => Initial::Ssl,
        GSS_REQUEST if rest.is_empty() => Initial::Gss,
        CANCEL_REQUEST => cancel(rest),
        SSL_REQUEST | GSS_REQUEST => return Err(wrong),
        version => Initial::Startup(startup(version, rest)?),
    };
    Ok(Some((initial, total)))
}

/// A malformed one names nobody, as a wrong one does: whoever sends it is not answered (wire-cases 5, 8).
fn cancel(body: &[u8]) -> Initial {
    let mut body = Reader::new(body);
    let Some(pid) = body.i32() else { return Initial::Cancel { pid: 0, key: Vec::new() } };
    let key = body.rest();
    let key = if key.len() > MAX_CANCEL_KEY { &[] } else { key };
    Initial::Cancel { pid, key: key.to_vec() }
}

fn startup(version: i32, body: &[u8]) -> Result<Startup, StartupError> {
    let [a, b, c, d] = version.to_be_bytes();
    let (major, minor) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    if major != 3 {
        return Err(StartupError::Version(major, minor));
    }
    let mut startup = Startup {
        minor,
        unknown_options: Vec::new(),
        user: String::new(),
        database: String::new(),
        parameters: Vec::new(),
        replication: false,
    };
    let mut body = Reader::new(body);
    loop {
        let name = text(body.cstr())?;
        if name.is_empty() {
            break;
        }
        let value = text(body.cstr())?;
        match name {
            "user" => value.clone_into(&mut startup.user),
            "database" => value.clone_into(&mut startup.database),
            "replication" => startup.replication = asks_for_replication(value)?,
            option if option.starts_with(OPTION_PREFIX) => startup.unknown_options.push(option.to_owned()),
            _ => startup.parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    if !body.rest().is_empty() {
        return Err(StartupError::Layout);
    }
    if startup.user.is_empty() {
        return Err(StartupError::NoUser);
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    Ok(startup)
}

fn text(bytes: Option<&[u8]>) -> Result<&str, StartupError> {
    str::from_utf8(bytes.ok_or(StartupError::Layout)?).map_err(|_| StartupError::Encoding)
}

/// PostgreSQL's rule: `database`, or a boolean as its `parse_bool` reads one (unambiguous beginnings count).
fn asks_for_replication(value: &str) -> Result<bool, StartupError> {
    let value = value.to_ascii_lowercase();
    let begins = |word: &str, least: usize| value.len() >= least && word.starts_with(&value);
    if value == "database" || begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Ok(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Ok(false)
    } else {
        Err(StartupError::Replication)
    }
}

/// Names that mean something else than a setting in a StartupMessage.
const RESERVED: [&str; 3] = ["user", "database", "replication"];
/// What protocol options begin with.
const OPTION_PREFIX: &str = "_pq_.";

/// The settings that a client starts with: what servers are opened with and lent by.
///
/// Sorted, each name once (the last wins, as in PostgreSQL), names in lower case, as PostgreSQL compares them; without
/// user, database, replication and protocol options. Cheap to clone and to compare with its own clones.
#[derive(Clone)]
pub struct StartupSet(Arc<[(Box<str>, Box<str>)]>);

impl StartupSet {
    /// Normalises what a StartupMessage carries.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(parameters: impl IntoIterator<Item = (N, V)>) -> StartupSet {
        let mut set = std::collections::BTreeMap::<Box<str>, Box<str>>::new();
        for (name, value) in parameters {
            let (name, value) = (name.as_ref(), value.as_ref());
            if let Some(name) = normal(name) {
                set.insert(name, value.into());
            }
        }
        StartupSet(set.into_iter().collect())
    }

    /// The same without one setting.
    pub fn without(&self, name: &str) -> StartupSet {
        StartupSet::new(self.iter().filter(|(have, _)| *have != name))
    }

    /// The settings by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of `name` (in lower case).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.binary_search_by(|(have, _)| (**have).cmp(name)).ok().and_then(|at| self.0.get(at)).map(|(_, v)| &**v)
    }
}

/// A setting's name as it is compared; `None` for what is no setting.
///
/// A name that would *become* one of those by lower case (`User`) stays as it is: a server must refuse it, and
/// never take it for the real one, which would log in as somebody else.
fn normal(name: &str) -> Option<Box<str>> {
    let special = |name: &str| RESERVED.contains(&name) || name.starts_with(OPTION_PREFIX);
    if special(name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    Some(if special(&lower) || lower == "options" { name.into() } else { lower.into() })
}

impl Default for StartupSet {
    fn default() -> Self {
        StartupSet::new::<&str, &str>([])
    }
}

impl PartialEq for StartupSet {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl Eq for StartupSet {}

impl std::hash::Hash for StartupSet {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for StartupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Appends a StartupMessage of protocol 3.`minor`.
pub fn startup_message<'a>(
    out: &mut Vec<u8>,
    minor: u16,
    user: &'a str,
    database: &'a str,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    sized(out, |out| {
        out.extend(3u16.to_be_bytes());
        out.extend(minor.to_be_bytes());
        for (name, value) in [("user", user), ("database", database)].into_iter().chain(parameters) {
            cstr(out, name.as_bytes());
            cstr(out, value.as_bytes());
        }
        out.push(0);
    });
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    sized(out, |out| out.extend(SSL_REQUEST.to_be_bytes()));
}

#[cfg(test)]
mod tests;
