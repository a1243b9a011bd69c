//! From a server's bytes to its client's: forwarded as they are but for what Poolkeeper itself asked for. Works on
//! buffers, knows no socket.

use super::buffer::{Buffer, Outgoing, SMALL};
use super::ingress::{Ingress, REFUSED};
use crate::pg::error::SqlState;
use crate::pg::exchange::{Exchange, OutOfStep, Verdict};
use crate::pg::frame::{self, HEADER};
use crate::pg::message::{self, ErrorFields, Severity};
use crate::pg::session::prepared::{Cache, Names, Registry};
use crate::pg::session::scan::{self, Tag};
use crate::pg::session::server::{Parameters, Session};
use crate::sidecar::catalog::Witness;
use crate::sidecar::stats::Worker;

/// What stands between one server's bytes and its client.
#[derive(Debug, Default)]
pub struct Egress {
    /// How much of the buffer has been looked at.
    looked: usize,
    /// Bytes of the current message that are still to come, and whether the client gets them.
    pass: usize,
    forward: bool,
    /// The server has said that it ends this connection (severity FATAL or PANIC).
    pub fatal: bool,
    /// It ended for a reason of this session only, such as a timeout: nothing follows for other servers.
    pub own_fault: bool,
    /// The server said 25006: it may have become a standby (wire-cases 77).
    pub read_only: bool,
    /// Why the session could not be made the client's: nothing of the client has run, and the server is of no use.
    pub unready: Option<String>,
    /// Sees what defines something.
    witness: Option<Witness>,
}

/// Where a server's messages lead.
#[derive(Debug)]
pub struct Sides<'a> {
    /// What the server owes.
    pub exchange: &'a mut Exchange,
    /// The statements that it has.
    pub cache: &'a mut Cache,
    /// The client's names for statements.
    pub names: &'a mut Names,
    /// All statements of the database.
    pub statements: &'a Registry,
    /// The client's side: what binds it to the server.
    pub ingress: &'a mut Ingress,
    /// Bytes for the client.
    pub out: &'a mut Outgoing,
    /// Whose state it carries.
    pub session: &'a mut Session,
    /// What its sessions begin with, as it said.
    pub parameters: &'a mut Parameters,
    /// Statement mode: a transaction that goes on after a statement is refused.
    pub single: bool,
    /// Where it is counted.
    pub stats: &'a Worker,
}

/// What happened in a stretch of messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// ReadyForQuery messages for the client.
    pub ready: u32,
    /// Of these, how many ended a transaction.
    pub ended: u32,
    /// A transaction goes on that must not: the client has not been told that its statement is over.
    pub refused: bool,
    /// What sessions begin with was changed.
    pub defaults: bool,
}

impl Egress {
    /// Of a server whose definitions are told to `witness`.
    pub fn seen_by(witness: Witness) -> Self {
        Self { witness: Some(witness), ..Self::default() }
    }

    /// Whether every byte that was read has been dealt with, and no message is cut in two.
    pub fn is_between_messages(&self, input: &Buffer) -> bool {
        self.pass == 0 && input.is_empty()
    }

    /// Whether all that was read is on its way to the client, and no message is cut in two.
    pub fn has_looked_at_all(&self, input: &Buffer) -> bool {
        self.pass == 0 && self.looked == input.len()
    }

    /// The bytes that were looked at have been written or dropped.
    pub fn wrote(&mut self, input: &mut Buffer) {
        input.consume(self.looked);
        self.looked = 0;
    }

    /// Holds what the server sent against what it owes, and picks what the client gets.
    ///
    /// # Errors
    /// If the server is out of step: nothing more of it can be trusted.
    pub fn process(&mut self, input: &Buffer, sides: &mut Sides<'_>) -> Result<Seen, OutOfStep> {
        let bytes = input.bytes();
        let mut seen = Seen::default();
        if sides.exchange.has_own() {
            self.own(sides);
        }
        while self.looked < bytes.len() {
            let rest = &bytes[self.looked..];
            if self.pass > 0 {
                let n = self.pass.min(rest.len());
                self.pass -= n;
                self.take(n, self.forward, input, sides.out);
                continue;
            }
            if self.rows(rest, input, sides) {
                continue;
            }
            let Some(header) = frame::header(rest).map_err(|_| OutOfStep { tag: rest[0], expected: None })? else {
                break;
            };
            let total = header.total();
            let body = match header.tag {
                // Answers to an audit are read.
                b'D' if sides.exchange.has_audit() => match rest.get(HEADER..total) {
                    Some(body) => body,
                    None if total <= SMALL => break,
                    None => &[],
                },
                // Only looked at by their tags, whatever their length.
                b'D' | b'd' | b'T' | b't' | b'V' | b'N' | b'A' | b'G' | b'H' => &[],
                // The others are short; a long error is forwarded without being understood.
                _ if total > SMALL && header.tag == b'E' => &[],
                _ if total > SMALL => return Err(OutOfStep { tag: header.tag, expected: None }),
                _ => match rest.get(HEADER..total) {
                    Some(body) => body,
                    None => break,
                },
            };
            let n = total.min(rest.len());
            let (noted, forward) = if header.tag == b'E' {
                let Some(said) = self.error(body, n == total, sides)? else { return Ok(seen) };
                said
            } else {
                let forward = match sides.exchange.on_server(header.tag, body, sides.names, sides.cache)? {
                    // What its server began with is nobody's name: the client's own is set again before its next message.
                    Verdict::Forward if header.tag == b'S' && is_nameless(body) => sides.ingress.mine.may_be_nameless(),
                    Verdict::Forward => true,
                    Verdict::Swallow | Verdict::PrefaceFailed => false,
                    Verdict::Row => {
                        sides.session.found.row(body);
                        false
                    }
                    Verdict::Parameter => {
                        note_parameter(body, sides);
                        false
                    }
                };
                (forward, forward)
            };
            if sides.single && header.tag == b'Z' && body != b"I" {
                self.take(n, false, input, sides.out);
                seen.refused = true;
                return Ok(seen);
            }
            self.pass = total - n;
            self.forward = forward;
            self.take(n, forward, input, sides.out);
            if noted {
                self.note(header.tag, body, sides, &mut seen);
            }
            if sides.exchange.has_own() {
                self.own(sides);
            }
        }
        Ok(seen)
    }

    /// Takes the whole rows, and what describes them, that come next: most of what servers say. False if none does.
    #[inline]
    fn rows(&mut self, rest: &[u8], input: &Buffer, sides: &mut Sides<'_>) -> bool {
        let mut n = 0;
        while let Ok(Some(header)) = frame::header(&rest[n..])
            && sides.exchange.passes(header.tag)
            && header.total() <= rest.len() - n
        {
            n += header.total();
        }
        if n > 0 {
            self.take(n, true, input, sides.out);
        }
        n > 0
    }

    /// Holds an error against what is owed. Says whether it is one for the client, and whether it goes there as it is;
    /// nothing if the session could not be made the client's. `whole`: all of it is there.
    #[cold]
    fn error(&mut self, body: &[u8], whole: bool, sides: &mut Sides<'_>) -> Result<Option<(bool, bool)>, OutOfStep> {
        let failed = failed(sides);
        let refused = sides.exchange.is_refused();
        let verdict = sides.exchange.on_server(b'E', body, sides.names, sides.cache)?;
        if verdict == Verdict::PrefaceFailed {
            let why = ErrorFields::parse(body).map(|fields| format!("{} ({})", fields.message, fields.code));
            self.unready = Some(why.unwrap_or_default());
            return Ok(None);
        }
        let noted = verdict == Verdict::Forward;
        let mut forward = noted;
        if let Some(Failed { statement, from, to }) = failed {
            note_failed(statement, body, sides);
            if whole && is_of_other_columns(body) {
                say_changed(sides.out);
                forward = false;
            } else if whole && memchr::memmem::find(body, &from).is_some() {
                renamed(body, &from, &to, sides.out);
                forward = false;
            }
        }
        if forward && refused && is_syntax_error(body) {
            say_refused(sides.out);
            forward = false;
        }
        Ok(Some((noted, forward)))
    }

    #[cold]
    fn own(&mut self, sides: &mut Sides<'_>) {
        let (exchange, names) = (&mut *sides.exchange, &mut *sides.names);
        sides.out.make(|out| exchange.take_own(out, names));
    }

    fn take(&mut self, n: usize, forward: bool, input: &Buffer, out: &mut Outgoing) {
        if forward {
            let start = input.offset() + self.looked;
            out.read(input, start..start + n);
        }
        self.looked += n;
    }

    fn note(&mut self, tag: u8, body: &[u8], sides: &mut Sides<'_>, seen: &mut Seen) {
        match tag {
            b'Z' => {
                seen.ready += 1;
                if body == b"I" {
                    seen.ended += 1;
                    seen.defaults |= sides.ingress.mine.take_defaults_changed();
                    if self.witness.as_mut().is_some_and(Witness::ended) {
                        sides.statements.retire_all();
                    }
                }
            }
            b'C' if is_ordinary(body) => {}
            b'C' => {
                if body != b"DO\0" || !sides.ingress.mine.does_plainly() {
                    self.witness.iter_mut().for_each(|witness| witness.completed(body));
                }
                completed(body, sides);
            }
            b'E' => {
                sides.stats.server_errors.inc();
                if let Some(fields) = ErrorFields::parse(body) {
                    if matches!(fields.severity, "FATAL" | "PANIC") {
                        self.fatal = true;
                        // 57P01 to 57P03: the server stops, has crashed, is starting.
                        self.own_fault = !fields.code.starts_with("57P0") || fields.code == "57P05";
                    }
                    self.read_only |= fields.code == "25006";
                }
            }
            // What comes while nothing is owed is no statement's doing: the server has read its configuration again.
            // Nor can any client set in_hot_standby: the server was promoted, or it is a standby now.
            b'S' if !sides.exchange.is_quiet() && !body.starts_with(b"in_hot_standby\0") => {
                if let (false, Some((name, _))) = (sides.ingress.mine.sets, message::read_parameter_status(body)) {
                    sides.ingress.mine.note_parameter(name.as_bytes());
                }
            }
            _ => {}
        }
    }
}

/// Whether a CommandComplete is of those that are nearly all, and tell nothing that the text has not told.
fn is_ordinary(body: &[u8]) -> bool {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    matches!(tag.get(..7), Some(b"SELECT " | b"INSERT " | b"UPDATE " | b"DELETE "))
        || matches!(tag, b"BEGIN" | b"COMMIT")
}

/// Whether a ParameterStatus says that the session has no name.
fn is_nameless(body: &[u8]) -> bool {
    body == b"application_name\0\0"
}

/// A parameter changed while the session was made the client's. What the client set itself is no news, nor what depends
/// on its role; anything else is what sessions begin with from now on: the server's configuration has changed.
fn note_parameter(body: &[u8], sides: &mut Sides<'_>) {
    let Some((name, value)) = message::read_parameter_status(body) else { return };
    let label = &sides.ingress.mine.label;
    let has = |name: &[u8]| label.get(name).is_some();
    let of_role =
        matches!(name, "is_superuser" | "session_authorization") && (has(b"role") || has(b"session_authorization"));
    if !of_role && !has(name.to_ascii_lowercase().as_bytes()) {
        sides.parameters.set(name, value);
    }
}

/// A message about a named statement has failed.
struct Failed {
    statement: u64,
    /// The statement's name on servers, and the client's name for it.
    from: Box<[u8]>,
    to: Box<[u8]>,
}

/// What the server's error is about, if it is about a named statement.
fn failed(sides: &Sides<'_>) -> Option<Failed> {
    let statement = sides.exchange.statement()?;
    let from = sides.cache.peek(statement)?.name.clone();
    let to = sides.exchange.reused_name().or_else(|| sides.names.name_of(statement)).unwrap_or_default().into();
    Some(Failed { statement, from, to })
}

/// A statement failed: if because its result has changed, it is not handed to anybody else; if because the server does
/// not have it after all (somebody's SQL deallocated it), it is sent again when it is next asked for.
fn note_failed(statement: u64, error: &[u8], sides: &mut Sides<'_>) {
    let Some(fields) = ErrorFields::parse(error) else { return };
    if fields.code == "26000" {
        sides.cache.lost(statement);
    } else if (fields.code == "0A000" && fields.routine == "RevalidateCachedQuery" || is_of_other_columns(error))
        && let Some(statement) = sides.cache.peek(statement)
    {
        sides.statements.retire(statement);
    }
}

/// A command has completed: its tag tells what the text may not have told.
fn completed(body: &[u8], sides: &mut Sides<'_>) {
    let tag = body.strip_suffix(b"\0").unwrap_or(body);
    if matches!(tag.get(..6), Some(b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"COMMIT")) || tag == b"BEGIN" {
        return;
    }
    if matches!(tag, b"ALTER DATABASE" | b"ALTER ROLE") {
        sides.ingress.mine.changed_defaults();
    }
    if tag == b"SET" && sides.ingress.mine.has_reset_name() {
        // TO DEFAULT. What the client has set itself comes back with the audit.
        forget_name(sides);
    }
    let said = scan::tag(tag, sides.ingress.mine.sets);
    if said == Tag::default() {
        return;
    }
    sides.ingress.mine.note_tag(said);
    if matches!(tag, b"DEALLOCATE ALL" | b"DISCARD ALL") {
        sides.cache.clear();
        sides.names.clear();
        sides.session.ours.forget();
        (sides.session.sql_prepared, sides.session.named) = (false, false);
    }
    if matches!(tag, b"SET" | b"RESET" | b"DISCARD ALL") {
        forget_name(sides);
    }
}

/// The session's name may be what that began with.
fn forget_name(sides: &mut Sides<'_>) {
    sides.session.application = None;
    sides.ingress.mine.name_was_reset = true;
}

/// Whether a Bind asked for the columns that a statement had when its client prepared it, and it has others now: parsed
/// again on another server, as its table has changed. A server that had parsed it before would have said 0A000.
fn is_of_other_columns(error: &[u8]) -> bool {
    ErrorFields::parse(error).is_some_and(|fields| {
        fields.code == "08P01" && fields.routine == "PortalSetResultFormat" && fields.message.contains("result formats")
    })
}

/// What PostgreSQL says of a statement whose result has changed: drivers prepare it again.
fn say_changed(out: &mut Outgoing) {
    let (code, text) = (SqlState::FEATURE_NOT_SUPPORTED, "cached plan must not change result type");
    out.make(|out| message::error_response_of(out, &code, text, "RevalidateCachedQuery"));
}

fn is_syntax_error(error: &[u8]) -> bool {
    ErrorFields::parse(error).is_some_and(|fields| fields.code == "42601")
}

fn say_refused(out: &mut Outgoing) {
    out.make(|out| {
        message::error_response(out, Severity::Error, &SqlState::FEATURE_NOT_SUPPORTED, REFUSED, None, None);
    });
}

/// An error with the names that its client knows: those of statements on servers are nobody's business.
fn renamed(body: &[u8], from: &[u8], to: &[u8], out: &mut Outgoing) {
    out.make(|out| {
        message::frame(out, b'E', |out| {
            let mut rest = body;
            while let Some(at) = memchr::memmem::find(rest, from) {
                out.extend_from_slice(&rest[..at]);
                out.extend_from_slice(to);
                rest = &rest[at + from.len()..];
            }
            out.extend_from_slice(rest);
        });
    });
}
