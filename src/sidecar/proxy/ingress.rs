//! From a client's bytes to its server's: which messages pass as they are, which are rewritten, which are answered
//! here. Works on buffers, knows no socket.

mod enter;
mod shown;
mod sql;
mod statements;
mod taken;

pub use taken::Taken;

use super::buffer::Outgoing;
use crate::api::resolve::Mode;
use crate::pg::error::SqlState;
use crate::pg::exchange::{Exchange, Expect};
use crate::pg::frame::{self, HEADER};
use crate::pg::message::{self, Reader};
use crate::pg::session::mine::{Care, Mine};
use crate::pg::session::prepared::{Cache, Change, Names, Registry};
use crate::pg::session::rule::{self, Rule};
use crate::pg::session::scan::{self, Asks, Pin, Scan};
use crate::pg::session::server::Session;
use crate::pg::session::touched::Touched;
use crate::sidecar::catalog::Catalog;
use crate::sidecar::stats::Worker;

/// What stands between one client's bytes and its server.
#[derive(Debug, Default)]
pub struct Ingress {
    /// Bytes of the current message that are still to come and pass as they are.
    pass: usize,
    /// Bytes of the current message that are still to come and are dropped.
    drop: usize,
    /// What the client's session carries.
    pub mine: Mine,
    /// Session mode: the client keeps its server anyway, and nothing needs to bind it.
    keeps_server: bool,
    /// Its server has its named statements under its own names: SQL of this use of the server names or lists them.
    own_names: bool,
}

/// What the client's messages are held against.
#[derive(Debug)]
pub struct Server<'a> {
    /// What it owes.
    pub exchange: &'a mut Exchange,
    /// The statements that it has.
    pub cache: &'a mut Cache,
    /// Whose state it carries.
    pub session: &'a mut Session,
    /// Where bytes for it go.
    pub out: &'a mut Outgoing,
}

/// What is known of the client's database and policy.
#[derive(Debug)]
pub struct Rules<'a> {
    /// How long a client keeps a server.
    pub mode: Mode,
    /// How session state is looked after in transaction mode.
    pub care: Care,
    /// Whether protocol-level statements are shared by name; otherwise naming one pins.
    pub shares_statements: bool,
    /// Longest message that is held whole, in bytes.
    pub max_buffered: usize,
    /// The `application_name` that its server's session is to have; none for the health query, which takes any server
    /// as it is.
    pub application: Option<&'a str>,
    /// Routines of the database can prepare statements by SQL.
    pub prepares: bool,
    /// Knows what else a scrub has to end.
    pub catalog: &'a Catalog,
    /// The client's number.
    pub client: i32,
    /// All statements of the database.
    pub statements: &'a Registry,
    /// Where it is counted.
    pub stats: &'a Worker,
}

/// One turn of processing: what has come, and where it goes.
#[derive(Debug)]
pub struct Turn<'a> {
    /// What the client sent.
    pub input: Taken<'a>,
    /// Its names for statements.
    pub names: &'a mut Names,
    /// Its server.
    pub server: Server<'a>,
    /// What holds for both.
    pub rules: &'a Rules<'a>,
    /// Nothing of the client has gone to this server yet.
    pub first: bool,
    /// Nor is it a server of its own: another one may be better.
    pub changeable: bool,
}

/// Why processing stopped before the end of what was read.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// The next message is not complete: read on.
    More,
    /// The rest waits until a preface is confirmed, or until all that is under way is answered.
    Held,
    /// The client is better served by another server, and nothing of it has gone to this one.
    Another,
    /// The client said goodbye.
    Terminate,
    /// The client's connection ends with this error.
    Fatal(SqlState, String),
}

const PROTOCOL: SqlState = SqlState::PROTOCOL_VIOLATION;

impl Ingress {
    /// For a client of that mode.
    pub fn new(mode: Mode) -> Self {
        Self { keeps_server: mode == Mode::Session, ..Self::default() }
    }

    /// Whether no message is cut in two.
    pub fn is_between_messages(&self) -> bool {
        self.pass == 0 && self.drop == 0
    }

    /// Nothing of what was taken of the client has run: it is taken again, for another server.
    pub fn begin_again(&mut self) {
        (self.pass, self.drop, self.own_names) = (0, 0, false);
        self.mine.begin_again();
    }

    /// Turns what the client sent into what its server gets, as far as messages are complete.
    pub fn process(&mut self, turn: &mut Turn<'_>) -> Stop {
        loop {
            let rest = turn.input.rest();
            if rest.is_empty() {
                return Stop::More;
            }
            if self.pass > 0 {
                let n = self.pass.min(rest.len());
                self.pass -= n;
                turn.input.forward(n, turn.server.out);
                continue;
            }
            if self.drop > 0 {
                let n = self.drop.min(rest.len());
                self.drop -= n;
                turn.input.skip(n);
                continue;
            }
            if turn.server.exchange.has_preface() && !turn.server.exchange.has_batch() && enter::gates() {
                // One batch is on its way behind the gate: what follows its Sync would pass a closed one.
                return Stop::Held;
            }
            if let Err(stop) = self.message(turn) {
                return stop;
            }
        }
    }

    fn message(&mut self, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let rest = turn.input.rest();
        let wrong = |error: frame::FrameError| Stop::Fatal(PROTOCOL, error.to_string());
        let Some(header) = frame::header(rest).map_err(wrong)? else { return Err(Stop::More) };
        header.is_request().map_err(wrong)?;
        let total = header.total();
        if turn.server.exchange.is_skipping() && !matches!(header.tag, b'S' | b'X') {
            known(header.tag)?;
            self.drop = total;
            return Ok(());
        }
        if self.keeps_server {
            return self.keeper(header.tag, total, turn);
        }
        match header.tag {
            b'Q' => self.query(total, turn),
            b'P' => self.parse(total, turn),
            b'B' => self.bind(total, turn),
            b'D' | b'C' => self.name(header.tag, total, turn),
            b'F' => {
                if !self.mine.has_prepared && !self.own_names {
                    enter::deallocate(turn)?;
                }
                self.mine.note_unseen();
                self.note_arguments(turn.input.rest().get(HEADER..total), turn);
                turn.server.exchange.query(Expect::Function, false);
                self.forward(total, turn)
            }
            tag => self.other(tag, total, turn),
        }
    }

    /// A message of a client that keeps its server: nothing of it is looked into.
    fn keeper(&mut self, tag: u8, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        match tag {
            b'Q' => self.whole_query(total, turn),
            b'P' => self.extended(Expect::Parse, total, turn),
            b'B' => self.extended(Expect::Bind, total, turn),
            b'C' => self.extended(Expect::Close, total, turn),
            b'D' => {
                let kind = match turn.input.rest().get(HEADER) {
                    Some(kind) if total > HEADER => Some(*kind),
                    // There is none in an empty body: the server refuses it.
                    None if total > HEADER => return Err(Stop::More),
                    _ => None,
                };
                let expect = if kind == Some(b'S') { Expect::DescribeStatement } else { Expect::DescribePortal };
                self.extended(expect, total, turn)
            }
            b'F' => {
                turn.server.exchange.query(Expect::Function, false);
                self.forward(total, turn)
            }
            tag => self.other(tag, total, turn),
        }
    }

    /// A message that names nothing and has no text.
    fn other(&mut self, tag: u8, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        match tag {
            b'E' => self.extended(Expect::Execute, total, turn),
            b'S' => {
                turn.server.exchange.sync();
                self.forward(total, turn)
            }
            b'H' => self.forward(total, turn),
            b'd' | b'c' | b'f' => {
                if !turn.server.exchange.takes_copy_data() {
                    // Late data of a COPY that failed (wire-cases 41).
                    self.drop = total;
                    return Ok(());
                }
                if tag != b'd' {
                    turn.server.exchange.copy_ended();
                }
                self.forward(total, turn)
            }
            b'X' => Err(Stop::Terminate),
            tag => known(tag),
        }
    }

    fn forward(&mut self, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let n = total.min(turn.input.rest().len());
        self.pass = total - n;
        turn.input.forward(n, turn.server.out);
        Ok(())
    }

    fn extended(&mut self, expect: Expect, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        turn.server.exchange.extended(expect);
        self.forward(total, turn)
    }

    /// What a text that runs now says, before it is sent.
    fn note(&mut self, scan: Scan, text: &[u8], turn: &mut Turn<'_>) -> Result<(), Stop> {
        self.meets_traces(scan, turn)?;
        self.make_ready(scan, turn)?;
        if scan.shows_names && turn.rules.shares_statements {
            self.show_names(scan.lists_names, turn)?;
        }
        self.mine.note(scan);
        if scan.asks.has(Asks::SETTINGS) || scan.asks.has(Asks::ALL_SETTINGS) {
            let literals = scan.set_config || scan.asks.has(Asks::ALL_SETTINGS);
            self.mine.touched().add_text(text, literals);
        }
        if scan.customs {
            let mut names = Touched::default();
            names.add_text(text, scan.set_config);
            names.set.iter().for_each(|name| self.add_custom(name, turn));
        }
        Ok(())
    }

    /// What others have left on the server is ended before this runs: before its Parse, if that begins a batch.
    fn make_ready(&mut self, scan: Scan, turn: &mut Turn<'_>) -> Result<(), Stop> {
        if scan.sequence {
            self.mine.asks_sequences = true;
            enter::forget_sequences(turn)?;
        }
        // Also before an audit that asks whether there are any: those of others must not bind this client.
        let meets = scan.names_prepared || scan.calls || scan.asks.has(Asks::PREPARED);
        let shown = scan.shows_names && turn.rules.shares_statements;
        if meets && !shown && !self.mine.has_prepared && !self.own_names { enter::deallocate(turn) } else { Ok(()) }
    }

    /// A value that may be the name of a setting that is set.
    fn note_name(&mut self, value: &[u8], turn: &mut Turn<'_>) {
        if value.eq_ignore_ascii_case(b"seed") {
            self.mine.keep(Pin::Code);
        }
        self.mine.touched().add_candidate(value);
        self.add_custom(&value.to_ascii_lowercase(), turn);
    }

    /// The client sets a custom setting: its server knows the name from now on.
    fn add_custom(&mut self, name: &[u8], turn: &mut Turn<'_>) {
        self.mine.customs.add(name);
        turn.server.session.customs.add(name);
    }

    /// A client that reads settings by name could tell that others have set one of theirs.
    fn meets_traces(&self, scan: Scan, turn: &Turn<'_>) -> Result<(), Stop> {
        let customs = &turn.server.session.customs;
        let meets = turn.changeable
            && turn.input.taken() == 0
            && scan.reads_settings
            && !customs.is_empty()
            && !customs.are_within(&self.mine.customs)
            && !rule::off(Rule::Traces);
        if meets { Err(Stop::Another) } else { Ok(()) }
    }

    /// Arguments of a function call may be names of settings.
    fn note_arguments(&mut self, body: Option<&[u8]>, turn: &mut Turn<'_>) {
        let mut call = Reader::new(body.unwrap_or_default());
        let mut note = || {
            call.i32()?;
            let formats = usize::try_from(call.i16()?).ok()?;
            call.bytes(formats * 2)?;
            for _ in 0..call.i16()? {
                if let Ok(length) = usize::try_from(call.i32()?) {
                    let value = call.bytes(length)?;
                    self.note_name(value, turn);
                }
            }
            Some(())
        };
        // Malformed ones are refused by the server, long ones are none.
        let _ = note();
    }

    fn query(&mut self, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        if let Some(whole) = turn.input.rest().get(..total) {
            // Without the zero byte at its end: a text with another one in it is refused by the server.
            let text = whole[HEADER..].split_last().map_or(&[][..], |(_, text)| text);
            let scan = scan::scan(text);
            if is_refused(scan, turn.rules) {
                turn.server.out.make(|out| message::query(out, NOT_SENT));
                turn.server.cache.forget_unnamed();
                turn.server.exchange.refused(Expect::Query, false);
                turn.input.skip(total);
                return Ok(());
            }
            if scan.names_prepared && self.sql_names(text, total, turn) {
                return Ok(());
            }
            self.note(scan, text, turn)?;
        } else if total <= turn.rules.max_buffered {
            return Err(Stop::More);
        } else {
            // Too long to be looked at as a whole: it may do anything.
            self.mine.note_unseen();
            self.mine.keep(Pin::Code);
        }
        self.whole_query(total, turn)
    }

    fn whole_query(&mut self, total: usize, turn: &mut Turn<'_>) -> Result<(), Stop> {
        let changes = turn.names.has_unnamed();
        if changes {
            turn.names.push(Change::Unnamed(None));
        }
        turn.server.cache.forget_unnamed();
        turn.server.exchange.query(Expect::Query, changes);
        self.forward(total, turn)
    }
}

/// With `sessionState: Reject` nothing binds a client to a server: whether a text is one that would.
fn is_refused(scan: Scan, rules: &Rules<'_>) -> bool {
    let bound = [Asks::LISTEN, Asks::LOCKS, Asks::CURSORS, Asks::PREPARED, Asks::TEMPORARY];
    let binds = scan.pin.is_some() || bound.into_iter().any(|kind| scan.asks.has(kind));
    // RESET, UNLISTEN and DEALLOCATE free; DISCARD frees everything.
    rules.care == Care::Reject && binds && (!scan.names_prepared || scan.prepares)
}

/// What the server gets in place of a refused statement: it fails wherever it stands, and what follows fails or is
/// skipped as PostgreSQL does it.
const NOT_SENT: &str = "poolkeeper: a statement was refused, as pool.sessionState is Reject";

/// What the client is told then.
pub const REFUSED: &str = "this statement would bind its client to one server, and pool.sessionState is Reject: use \
                           Preserve, or pool.mode: Session";

/// The messages that a client may send after login.
fn known(tag: u8) -> Result<(), Stop> {
    if matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'C' | b'E' | b'S' | b'H' | b'F' | b'd' | b'c' | b'f' | b'X') {
        return Ok(());
    }
    Err(Stop::Fatal(PROTOCOL, format!("invalid frontend message type {tag}")))
}
