//! From a client's bytes to its server's: which messages pass as they are, which are rewritten, which are answered
//! here. Works on buffers, knows no socket.

use std::sync::Arc;

use super::buffer::{Buffer, Outgoing};
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::exchange::{Exchange, Expect};
use crate::pg::frame::{self, HEADER};
use crate::pg::message;
use crate::pg::session::prepared::{Cache, Change, Names, Registry, Statement};
use crate::pg::session::scan::{self, Pin, Scan};
use crate::sidecar::stats::Worker;

/// What stands between one client's bytes and its server.
#[derive(Debug, Default)]
pub struct Ingress {
    /// Bytes of the current message that are still to come and pass as they are.
    pass: usize,
    /// Bytes of the current message that are still to come and are dropped.
    drop: usize,
    /// Why the client must keep its server, once it must.
    pub pin: Option<Pin>,
    /// A statement of this transaction sets something for the transaction only.
    pub sets: bool,
    /// It asks for last values of sequences: a server that others used forgets theirs first.
    asks_sequences: bool,
    /// Session mode: the client keeps its server anyway, and nothing needs to bind it.
    keeps_server: bool,
}

/// What the client's messages are held against.
#[derive(Debug)]
pub struct Server<'a> {
    /// What it owes.
    pub exchange: &'a mut Exchange,
    /// The statements that it has.
    pub cache: &'a mut Cache,
    /// The client whose sequence values alone it may still know.
    pub sequences_of: &'a mut Option<i32>,
    /// The `application_name` of its session, if it is known.
    pub application: &'a mut Option<Box<str>>,
    /// Where bytes for it go.
    pub out: &'a mut Outgoing,
}

/// What is known of the client's database and policy.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How long a client keeps a server.
    pub mode: Mode,
    /// Whether protocol-level statements are shared by name; otherwise naming one pins.
    pub shares_statements: bool,
    /// Longest message that is held whole, in bytes.
    pub max_buffered: usize,
    /// The `application_name` that its server's session is to have; none for whoever does not care.
    pub application: Option<&'a str>,
    /// The client's number.
    pub client: i32,
    /// All statements of the database.
    pub statements: &'a Registry,
    /// Where it is counted.
    pub stats: &'a Worker,
}

/// Why processing stopped before the end of what was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The next message is not complete: read on.
    More,
    /// The client said goodbye.
    Terminate,
    /// The client's connection ends with this error.
    Fatal(SqlState, String),
}

/// A client's names and texts may take this many times `max_buffered`.
const STATEMENT_BYTES: usize = 16;
const PROTOCOL: SqlState = SqlState::PROTOCOL_VIOLATION;
const SEQUENCE: &str = "currval() and lastval() are asked for the first time in the middle of a transaction, on a server that may \
     know other clients' values: use INSERT ... RETURNING, or pool.mode: Session";

impl Ingress {
    /// For a client of that mode.
    pub fn new(mode: Mode) -> Self {
        Self { keeps_server: mode == Mode::Session, ..Self::default() }
    }

    /// Whether the middle of a message is passing through.
    pub fn is_between_messages(&self) -> bool {
        self.pass == 0 && self.drop == 0
    }

    /// Turns what the client sent into what its server gets, as far as messages are complete.
    pub fn process(
        &mut self,
        input: &mut Taken<'_>,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Stop {
        loop {
            let rest = input.rest();
            if rest.is_empty() {
                return Stop::More;
            }
            if self.pass > 0 {
                let n = self.pass.min(rest.len());
                self.pass -= n;
                input.forward(n, server.out);
                continue;
            }
            if self.drop > 0 {
                let n = self.drop.min(rest.len());
                self.drop -= n;
                input.skip(n);
                continue;
            }
            if let Err(stop) = self.message(input, names, server, rules) {
                return stop;
            }
        }
    }

    fn message(
        &mut self,
        input: &mut Taken<'_>,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Result<(), Stop> {
        let rest = input.rest();
        let header = match frame::header(rest) {
            Ok(Some(header)) => header,
            Ok(None) => return Err(Stop::More),
            Err(error) => return Err(Stop::Fatal(PROTOCOL, error.to_string())),
        };
        let total = header.total();
        if server.exchange.is_skipping() && !matches!(header.tag, b'S' | b'X') {
            known(header.tag)?;
            self.drop = total;
            return Ok(());
        }
        if let Some(name) = rules.application {
            name_application(name, server);
        }
        if self.asks_sequences && matches!(header.tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'F') {
            forget_sequences(server, rules);
        }
        match header.tag {
            b'Q' => self.query(input, total, names, server, rules),
            b'P' if rules.mode != Mode::Session => self.parse(input, total, names, server, rules),
            b'B' if rules.mode != Mode::Session => self.bind(input, total, names, server, rules),
            b'D' | b'C' if rules.mode != Mode::Session => self.name(header.tag, input, total, names, server, rules),
            b'P' => self.extended(Expect::Parse, input, total, server),
            b'B' => self.extended(Expect::Bind, input, total, server),
            b'C' => self.extended(Expect::Close, input, total, server),
            b'D' => {
                let Some(kind) = rest.get(HEADER) else { return Err(Stop::More) };
                let expect = if *kind == b'S' { Expect::DescribeStatement } else { Expect::DescribePortal };
                self.extended(expect, input, total, server)
            }
            b'E' => self.extended(Expect::Execute, input, total, server),
            b'S' => {
                server.exchange.sync();
                self.forward(input, total, server)
            }
            b'H' => self.forward(input, total, server),
            b'F' => {
                self.bind_to_server(Pin::Code, rules.stats);
                server.exchange.query(Expect::Function, false);
                self.forward(input, total, server)
            }
            b'd' | b'c' | b'f' => {
                if !server.exchange.takes_copy_data() {
                    // Late data of a COPY that failed (wire-cases 41).
                    self.drop = total;
                    return Ok(());
                }
                if header.tag != b'd' {
                    server.exchange.copy_ended();
                }
                self.forward(input, total, server)
            }
            b'X' => Err(Stop::Terminate),
            tag => known(tag),
        }
    }

    fn forward(&mut self, input: &mut Taken<'_>, total: usize, server: &mut Server<'_>) -> Result<(), Stop> {
        let n = total.min(input.rest().len());
        self.pass = total - n;
        input.forward(n, server.out);
        Ok(())
    }

    fn extended(
        &mut self,
        expect: Expect,
        input: &mut Taken<'_>,
        total: usize,
        server: &mut Server<'_>,
    ) -> Result<(), Stop> {
        server.exchange.extended(expect);
        self.forward(input, total, server)
    }

    /// From now on the client keeps its server; counted once.
    pub fn bind_to_server(&mut self, pin: Pin, stats: &Worker) {
        if self.pin.is_none() && !self.keeps_server {
            self.pin = Some(pin);
            stats.pins[pin as usize].inc();
        }
    }

    /// The client is going to ask for last values of sequences: between transactions the server can still be made to
    /// forget those of others.
    fn asks(&mut self, scan: Scan, server: &mut Server<'_>, rules: Rules<'_>) {
        if scan.sequence && self.pin.is_none() {
            self.asks_sequences = true;
            forget_sequences(server, rules);
        }
    }

    /// The client asks for the last value of a sequence now.
    fn sequence(&mut self, scan: Scan, server: &mut Server<'_>, rules: Rules<'_>) -> Result<(), Stop> {
        self.asks(scan, server, rules);
        if scan.sequence && self.pin.is_none() && *server.sequences_of != Some(rules.client) {
            return Err(Stop::Fatal(SqlState::FEATURE_NOT_SUPPORTED, SEQUENCE.into()));
        }
        Ok(())
    }

    fn note(&mut self, scan: Scan, rules: Rules<'_>) {
        self.sets |= scan.sets;
        if let Some(pin) = scan.pin {
            self.bind_to_server(pin, rules.stats);
        }
    }

    fn query(
        &mut self,
        input: &mut Taken<'_>,
        total: usize,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Result<(), Stop> {
        if rules.mode != Mode::Session {
            if let Some(whole) = input.rest().get(..total) {
                let scan = scan::scan(&whole[HEADER..]);
                self.sequence(scan, server, rules)?;
                self.note(scan, rules);
            } else if total <= rules.max_buffered {
                return Err(Stop::More);
            } else {
                // Too long to be looked at as a whole: it may set anything.
                self.bind_to_server(Pin::Setting, rules.stats);
            }
        }
        let changes = names.has_unnamed();
        if changes {
            names.push(Change::Unnamed(None));
        }
        server.cache.forget_unnamed();
        server.exchange.query(Expect::Query, changes);
        self.forward(input, total, server)
    }

    fn parse(
        &mut self,
        input: &mut Taken<'_>,
        total: usize,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Result<(), Stop> {
        let whole = whole(input, total, rules)?;
        let Some((name, tail)) = cut(&whole[HEADER..]) else { return malformed("Parse") };
        if name.is_empty() {
            let known = names.get(b"").filter(|known| *known.tail == *tail).cloned();
            let statement = known.unwrap_or_else(|| Statement::unnamed(tail, scan::scan(tail)));
            self.asks(statement.scan, server, rules);
            server.cache.parse_sent(&statement);
            names.push(Change::Unnamed(Some(statement)));
            server.exchange.parse(true);
            return self.forward(input, total, server);
        }
        if !rules.shares_statements {
            self.note(scan::scan(tail), rules);
            self.bind_to_server(Pin::Prepared, rules.stats);
            return self.extended(Expect::Parse, input, total, server);
        }
        has_room(names, whole.len(), rules)?;
        let statement = match rules.statements.intern(tail, || scan::scan(tail)) {
            Ok(statement) => statement,
            Err(error) => return Err(Stop::Fatal(SqlState::INTERNAL_ERROR, format!("no random bytes: {error}"))),
        };
        self.asks(statement.scan, server, rules);
        names.push(Change::Add(name.into(), Arc::clone(&statement)));
        input.skip(total);
        if server.cache.has(&statement) {
            rules.stats.prepare_hits.inc();
            server.exchange.own(b'1');
        } else {
            send_parse(&statement, server, rules);
            server.exchange.parse(true);
            evict(server);
        }
        Ok(())
    }

    fn bind(
        &mut self,
        input: &mut Taken<'_>,
        total: usize,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Result<(), Stop> {
        let part = &input.rest()[HEADER..total.min(input.rest().len())];
        let Some((portal, name)) = cut(part).and_then(|(portal, rest)| Some((portal, cut(rest)?.0))) else {
            return more_or_malformed(input, total, rules, "Bind");
        };
        let head = portal.len() + name.len() + 2;
        match names.get(name).cloned() {
            Some(statement) => {
                self.sequence(statement.scan, server, rules)?;
                self.note(statement.scan, rules);
                ensure(&statement, server, rules);
                if !statement.name.is_empty() {
                    let length = total - HEADER - head + portal.len() + statement.name.len() + 2;
                    server.out.make(|out| {
                        out.push(b'B');
                        out.extend_from_slice(&length_word(length));
                        out.extend_from_slice(portal);
                        out.push(0);
                        out.extend_from_slice(&statement.name);
                        out.push(0);
                    });
                    input.skip(HEADER + head);
                    server.exchange.uses(Expect::Bind, statement.id);
                    return self.forward(input, total - HEADER - head, server);
                }
            }
            None => nothing_unnamed(name, server),
        }
        self.extended(Expect::Bind, input, total, server)
    }

    /// Describe and Close, which name a statement or a portal.
    fn name(
        &mut self,
        tag: u8,
        input: &mut Taken<'_>,
        total: usize,
        names: &mut Names,
        server: &mut Server<'_>,
        rules: Rules<'_>,
    ) -> Result<(), Stop> {
        let whole = whole(input, total, rules)?;
        let Some((name, [])) = whole.get(HEADER + 1..).and_then(cut) else { return malformed("Describe or Close") };
        let is_statement = whole[HEADER] == b'S';
        let known = is_statement.then(|| names.get(name).cloned()).flatten();
        match (tag, known) {
            (b'D', Some(statement)) => {
                ensure(&statement, server, rules);
                server.exchange.uses(Expect::DescribeStatement, statement.id);
                if statement.name.is_empty() {
                    return self.forward(input, total, server);
                }
                server.out.make(|out| named(out, b'D', &statement.name));
                input.skip(total);
                Ok(())
            }
            (b'D', None) => {
                if is_statement {
                    nothing_unnamed(name, server);
                }
                let expect = if is_statement { Expect::DescribeStatement } else { Expect::DescribePortal };
                self.extended(expect, input, total, server)
            }
            (_, Some(statement)) if !statement.name.is_empty() => {
                has_room(names, total, rules)?;
                names.push(Change::Remove(name.into()));
                server.exchange.own(b'3');
                input.skip(total);
                Ok(())
            }
            (_, Some(_)) => {
                // Only when the server answers does the name go; until then nobody else has it either.
                server.cache.forget_unnamed();
                names.push(Change::Unnamed(None));
                server.exchange.close(true);
                self.forward(input, total, server)
            }
            (_, None) => self.extended(Expect::Close, input, total, server),
        }
    }
}

/// The messages that a client may send after login.
fn known(tag: u8) -> Result<(), Stop> {
    if matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'S' | b'H' | b'F' | b'd' | b'c' | b'f' | b'X') {
        return Ok(());
    }
    Err(Stop::Fatal(PROTOCOL, format!("invalid frontend message type {tag}")))
}

/// Whether the client may have more statements, or ask for more without waiting for answers. What never reaches the
/// server is not held back by it: a client that reads nothing could go on for ever.
fn has_room(names: &Names, more: usize, rules: Rules<'_>) -> Result<(), Stop> {
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
fn whole<'a>(input: &Taken<'a>, total: usize, rules: Rules<'_>) -> Result<&'a [u8], Stop> {
    match input.rest().get(..total) {
        Some(whole) => Ok(whole),
        None if total <= rules.max_buffered => Err(Stop::More),
        None => Err(Stop::Fatal(
            SqlState::PROGRAM_LIMIT,
            format!("a message of {total} bytes must be held whole and listen.maxBuffered is {}", rules.max_buffered),
        )),
    }
}

fn more_or_malformed(input: &Taken<'_>, total: usize, rules: Rules<'_>, what: &str) -> Result<(), Stop> {
    if input.rest().len() >= total {
        return malformed(what);
    }
    if input.rest().len() < rules.max_buffered {
        return Err(Stop::More);
    }
    Err(Stop::Fatal(SqlState::PROGRAM_LIMIT, format!("the names in a {what} message exceed listen.maxBuffered")))
}

/// A text up to its zero byte, and what follows.
fn cut(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// A message's length word for a body of that many bytes.
fn length_word(body: usize) -> [u8; 4] {
    // Bodies are bounded by `frame::MAX_BODY`, and names by `max_buffered`.
    u32::try_from(body + 4).unwrap_or(u32::MAX).to_be_bytes()
}

/// Describe or Close of a statement.
fn named(out: &mut Vec<u8>, tag: u8, name: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&length_word(name.len() + 2));
    out.push(b'S');
    out.extend_from_slice(name);
    out.push(0);
}

/// Sends a Parse for a statement under its name on servers; the caller notes what it owes.
fn send_parse(statement: &Arc<Statement>, server: &mut Server<'_>, rules: Rules<'_>) {
    rules.stats.prepares.inc();
    server.cache.parse_sent(statement);
    server.out.make(|out| {
        out.push(b'P');
        out.extend_from_slice(&length_word(statement.name.len() + 1 + statement.tail.len()));
        out.extend_from_slice(&statement.name);
        out.push(0);
        out.extend_from_slice(&statement.tail);
    });
}

/// Makes sure that the server has a statement by the time it comes to the next message.
fn ensure(statement: &Arc<Statement>, server: &mut Server<'_>, rules: Rules<'_>) {
    if !server.cache.has(statement) {
        send_parse(statement, server, rules);
        server.exchange.reparse();
        evict(server);
    }
}

/// Closes what is above the cache's limit.
fn evict(server: &mut Server<'_>) {
    while let Some(old) = server.cache.evict() {
        server.out.make(|out| message::close_statement(out, &old.name));
        server.exchange.evict();
    }
}

/// A server that is free takes the client's `application_name`: servers are shared by clients that differ in it.
fn name_application(name: &str, server: &mut Server<'_>) {
    if server.application.as_deref() == Some(name) || !server.exchange.is_free() {
        return;
    }
    // Only printable ASCII is in it, so that whatever the encoding this is one literal.
    let sql = format!("SET application_name TO E'{}'", name.replace('\\', "\\\\").replace('\'', "''"));
    server.out.make(|out| message::query(out, &sql));
    server.exchange.own_query();
    *server.application = Some(name.into());
}

/// A server that is free forgets the sequence values of clients before this one.
fn forget_sequences(server: &mut Server<'_>, rules: Rules<'_>) {
    if *server.sequences_of != Some(rules.client) && server.exchange.is_free() {
        server.out.make(|out| message::query(out, "DISCARD SEQUENCES"));
        server.exchange.own_query();
        *server.sequences_of = Some(rules.client);
    }
}

/// The client has no unnamed statement: neither must the server, so that its answer is the right error (wire-cases 26).
fn nothing_unnamed(name: &[u8], server: &mut Server<'_>) {
    if name.is_empty() && server.cache.has_unnamed() {
        server.cache.forget_unnamed();
        server.out.make(|out| message::close_statement(out, b""));
        server.exchange.close_quietly();
    }
}

/// A client's buffer while its messages are taken out of it one by one. What is taken stays in the buffer until it
/// has been written.
#[derive(Debug)]
pub struct Taken<'a> {
    buffer: &'a Buffer,
    taken: usize,
}

impl<'a> Taken<'a> {
    /// Begins after the first `taken` bytes.
    pub fn new(buffer: &'a Buffer, taken: usize) -> Self {
        Self { buffer, taken }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        &self.buffer.bytes()[self.taken..]
    }

    /// How much has been taken in all.
    pub fn taken(&self) -> usize {
        self.taken
    }

    fn skip(&mut self, n: usize) {
        self.taken += n;
    }

    fn forward(&mut self, n: usize, out: &mut Outgoing) {
        let start = self.buffer.offset() + self.taken;
        out.read(self.buffer, start..start + n);
        self.taken += n;
    }
}
