//! Prepared statements: named per client, shared per server by text, parameter types and the settings that parsing
//! depends on.

use std::sync::Arc;

use super::{Ingress, PROTOCOL, Stop, Taken, Turn};
use crate::pg::error::SqlState;
use crate::pg::exchange::Expect;
use crate::pg::frame::HEADER;
use crate::pg::message::{self, Reader};
use crate::pg::session::prepared::{Change, Names, Statement};
use crate::pg::session::rule::{self, Rule};
use crate::pg::session::scan::{self, Pin, Scan};
use crate::sidecar::proxy::ingress::{NOT_SENT, Rules, is_refused};

/// A client's names and texts may take this many times `max_buffered`.
const STATEMENT_BYTES: usize = 16;

impl Ingress {
    pub(super) fn parse(&mut self, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let whole = whole(&turn.input, total, turn.rules)?;
        let Some((name, tail)) = cut(&whole[HEADER..]) else { return malformed("Parse") };
        if name.is_empty() {
            let known = turn.names.get(b"").filter(|known| *known.tail == *tail).cloned();
            let statement = known.unwrap_or_else(|| Statement::unnamed(tail, scan::scan_parse(tail)));
            if is_refused(statement.scan, turn.rules) {
                turn.names.push(Change::Unnamed(None));
                return not_sent(true, total, turn);
            }
            self.meets_traces(statement.scan, turn)?;
            self.make_ready(statement.scan, turn)?;
            turn.server.cache.parse_sent(&statement);
            turn.names.push(Change::Unnamed(Some(statement)));
            turn.server.exchange.parse(true);
            return self.forward(total, turn);
        }
        if !turn.rules.shares_statements {
            if is_refused(scan::scan_parse(tail), turn.rules) {
                return not_sent(false, total, turn);
            }
            self.note(scan::scan_parse(tail), tail, turn)?;
            self.mine.keep(Pin::Prepared);
            return self.extended(Expect::Parse, total, turn);
        }
        if let Some(statement) = turn.names.get(name).cloned() {
            if self.has_own_names() {
                turn.server.exchange.parse_as_named(false);
                return self.forward(total, turn);
            }
            return self.reuse(name, &statement, total, turn);
        }
        has_room(turn.names, whole.len(), turn.rules)?;
        let statement = self.intern(tail, turn)?;
        if is_refused(statement.scan, turn.rules) {
            return not_sent(false, total, turn);
        }
        self.meets_traces(statement.scan, turn)?;
        self.make_ready(statement.scan, turn)?;
        turn.names.push(Change::Add(name.into(), Arc::clone(&statement)));
        if self.has_own_names() {
            self.leave_names(turn);
            turn.server.exchange.parse_as_named(true);
            return self.forward(total, turn);
        }
        turn.input.skip(total);
        if turn.server.cache.has(&statement) {
            turn.rules.stats.prepare_hits.inc();
            turn.server.exchange.own(b'1');
        } else {
            send_parse(&statement, turn);
            turn.server.exchange.parse(true);
            evict(turn);
        }
        Ok(())
    }

    /// The statement of this text as this client's session understands it.
    fn intern(&self, tail: &[u8], turn: &Turn<'_>) -> Result<Arc<Statement>, Stop> {
        let statements = turn.rules.statements;
        // A setting of this transaction may be folded into what is parsed in it.
        let found = if self.mine.is_unsettled() && !rule::off(Rule::StatementLabel) {
            statements.alone(tail, scan::scan_parse(tail))
        } else {
            let label = if rule::off(Rule::StatementLabel) { &[] } else { self.mine.label.parse_key() };
            statements.intern(tail, label, || scan::scan_parse(tail))
        };
        found.map_err(no_random)
    }

    /// A name that is in use: the server refuses it as PostgreSQL does (42P05), and its transaction fails with it.
    fn reuse(
        &mut self,
        name: &[u8],
        statement: &Arc<Statement>,
        total: usize,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stop> {
        has_room(turn.names, total, turn.rules)?;
        ensure(statement, turn);
        turn.server.out.make(|out| message::parse(out, &statement.name, b"", &[0, 0]));
        turn.server.exchange.reused(statement.id, name);
        turn.input.skip(total);
        Ok(())
    }

    pub(super) fn bind(&mut self, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let rest = turn.input.rest();
        let part = &rest[HEADER..total.min(rest.len())];
        let Some((portal, name)) = cut(part).and_then(|(portal, rest)| Some((portal, cut(rest)?.0))) else {
            return more_or_malformed(&turn.input, total, turn.rules, "Bind");
        };
        let head = portal.len() + name.len() + 2;
        match turn.names.get(name).cloned() {
            Some(statement) => {
                let parameters = rest.get(HEADER + head..total);
                if statement.scan.set_config && parameters.is_none() && total <= turn.rules.max_buffered {
                    return Err(Stop::More);
                }
                if is_refused(statement.scan, turn.rules) {
                    return not_sent(false, total, turn);
                }
                self.note(statement.scan, &statement.tail, turn)?;
                if statement.scan.set_config {
                    self.note_parameters(parameters, turn);
                }
                if self.names_as_they_are(&statement) {
                    return self.extended(Expect::Bind, total, turn);
                }
                ensure(&statement, turn);
                if !statement.name.is_empty() {
                    let length = total - HEADER - head + portal.len() + statement.name.len() + 2;
                    turn.server.out.make(|out| {
                        out.push(b'B');
                        out.extend_from_slice(&length_word(length));
                        out.extend_from_slice(portal);
                        out.push(0);
                        out.extend_from_slice(&statement.name);
                        out.push(0);
                    });
                    turn.input.skip(HEADER + head);
                    turn.server.exchange.uses(Expect::Bind, statement.id);
                    return self.forward(total - HEADER - head, turn);
                }
            }
            None => {
                self.mine.note(Scan::default());
                nothing_unnamed(name, turn);
            }
        }
        self.extended(Expect::Bind, total, turn)
    }

    /// Parameters of a statement that calls set_config() may be names of settings.
    fn note_parameters(&mut self, parameters: Option<&[u8]>, turn: &mut Turn<'_>) {
        let noted = parameters.and_then(|parameters| {
            let mut bind = Reader::new(parameters);
            let formats = usize::try_from(bind.i16()?).ok()?;
            bind.bytes(formats * 2)?;
            for _ in 0..bind.i16()? {
                if let Ok(length) = usize::try_from(bind.i32()?) {
                    let value = bind.bytes(length)?;
                    self.note_name(value, turn);
                }
            }
            Some(())
        });
        if noted.is_none() {
            self.mine.keep(Pin::Code);
        }
    }

    /// Describe and Close, which name a statement or a portal.
    pub(super) fn name(&mut self, tag: u8, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let whole = whole(&turn.input, total, turn.rules)?;
        let Some((name, [])) = whole.get(HEADER + 1..).and_then(cut) else { return malformed("Describe or Close") };
        let is_statement = whole[HEADER] == b'S';
        let known = is_statement.then(|| turn.names.get(name).cloned()).flatten();
        match (tag, known) {
            (b'D', Some(statement)) if self.names_as_they_are(&statement) => {
                self.extended(Expect::DescribeStatement, total, turn)
            }
            (b'D', Some(statement)) => {
                ensure(&statement, turn);
                turn.server.exchange.uses(Expect::DescribeStatement, statement.id);
                if statement.name.is_empty() {
                    return self.forward(total, turn);
                }
                turn.server.out.make(|out| message::describe_statement(out, &statement.name));
                turn.input.skip(total);
                Ok(())
            }
            (b'D', None) => {
                if is_statement {
                    nothing_unnamed(name, turn);
                }
                let expect = if is_statement { Expect::DescribeStatement } else { Expect::DescribePortal };
                self.extended(expect, total, turn)
            }
            (_, Some(statement)) if !statement.name.is_empty() => {
                has_room(turn.names, total, turn.rules)?;
                turn.names.push(Change::Remove(name.into()));
                if self.has_own_names() {
                    turn.server.exchange.close(true);
                    return self.forward(total, turn);
                }
                turn.server.exchange.own(b'3');
                turn.input.skip(total);
                Ok(())
            }
            (_, Some(_)) => {
                // Only when the server answers does the name go; until then nobody else has it either.
                turn.server.cache.forget_unnamed();
                turn.names.push(Change::Unnamed(None));
                turn.server.exchange.close(true);
                self.forward(total, turn)
            }
            (_, None) => self.extended(Expect::Close, total, turn),
        }
    }
}

impl Ingress {
    /// Whether the server has this statement under the name that the client has for it.
    fn names_as_they_are(&self, statement: &Statement) -> bool {
        self.has_own_names() && !statement.name.is_empty()
    }
}

/// The server gets a statement that fails in place of a refused one. `names`: the client's names change with its fate.
fn not_sent(names: bool, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
    turn.server.out.make(|out| message::parse(out, b"pk_refused", NOT_SENT.as_bytes(), &[0, 0]));
    turn.server.exchange.refused(Expect::Parse, names);
    turn.input.skip(total);
    Ok(())
}

pub(super) fn no_random(error: getrandom::Error) -> Stop {
    Stop::Fatal(SqlState::INTERNAL_ERROR, format!("no random bytes: {error}"))
}

/// Whether the client may have more statements, or ask for more without waiting for answers. What never reaches the
/// server is not held back by it: a client that reads nothing could go on for ever.
fn has_room(names: &Names, more: usize, rules: &Rules<'_>) -> Result<(), Stop> {
    if names.bytes() + more <= rules.max_buffered.saturating_mul(STATEMENT_BYTES) {
        return Ok(());
    }
    let message = format!("the client's prepared statements take more than {STATEMENT_BYTES} times listen.maxBuffered");
    Err(Stop::Fatal(SqlState::PROGRAM_LIMIT, message))
}

fn malformed<T>(what: &str) -> Result<T, Stop> {
    Err(Stop::Fatal(PROTOCOL, format!("malformed {what} message")))
}

/// A whole message, if it is there or may still come.
fn whole<'a>(input: &Taken<'a>, total: usize, rules: &Rules<'_>) -> Result<&'a [u8], Stop> {
    match input.rest().get(..total) {
        Some(whole) => Ok(whole),
        None if total <= rules.max_buffered => Err(Stop::More),
        None => Err(Stop::Fatal(
            SqlState::PROGRAM_LIMIT,
            format!("a message of {total} bytes must be held whole and listen.maxBuffered is {}", rules.max_buffered),
        )),
    }
}

fn more_or_malformed(input: &Taken<'_>, total: usize, rules: &Rules<'_>, what: &str) -> Result<(), Stop> {
    if input.rest().len() >= total {
        return malformed(what);
    }
    if input.rest().len() < rules.max_buffered {
        return Err(Stop::More);
    }
    Err(Stop::Fatal(SqlState::PROGRAM_LIMIT, format!("the names in a {what} message exceed listen.maxBuffered")))
}

/// A name up to its zero byte, and what follows. Names are empty or short: looking at each byte is the quickest.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A message's length word for a body of that many bytes.
fn length_word(body: usize) -> [u8; 4] {
    // Bodies are bounded by `Header::is_request`, and names by `max_buffered`.
    u32::try_from(body + 4).unwrap_or(u32::MAX).to_be_bytes()
}

/// Sends a Parse for a statement under its name on servers; the caller notes what it owes.
fn send_parse(statement: &Arc<Statement>, turn: &mut Turn<'_>) {
    turn.rules.stats.prepares.inc();
    turn.server.cache.parse_sent(statement);
    turn.server.out.make(|out| {
        out.push(b'P');
        out.extend_from_slice(&length_word(statement.name.len() + 1 + statement.tail.len()));
        out.extend_from_slice(&statement.name);
        out.push(0);
        out.extend_from_slice(&statement.tail);
    });
}

/// Makes sure that the server has a statement by the time it comes to the next message.
pub(super) fn ensure(statement: &Arc<Statement>, turn: &mut Turn<'_>) {
    if !turn.server.cache.has(statement) {
        send_parse(statement, turn);
        turn.server.exchange.reparse();
        evict(turn);
    }
}

/// Closes what is above the cache's limit.
fn evict(turn: &mut Turn<'_>) {
    while let Some(old) = turn.server.cache.evict() {
        turn.server.out.make(|out| message::close_statement(out, &old.name));
        turn.server.exchange.evict();
    }
}

/// The client has no unnamed statement: neither must the server, so that its answer is the right error (wire-cases 26).
fn nothing_unnamed(name: &[u8], turn: &mut Turn<'_>) {
    if name.is_empty() && turn.server.cache.has_unnamed() {
        turn.server.cache.forget_unnamed();
        turn.server.out.make(|out| message::close_statement(out, b""));
        turn.server.exchange.close_quietly();
    }
}
