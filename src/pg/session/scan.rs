//! Words in a statement's text that can leave state behind in the session.
//!
//! Only a hint about the client's *own* state: a statement that is known to bind is pinned to its server, so that its
//! effect is not lost at the next transaction. It errs towards pinning: words in comments and literals count.
//! What no text shows (a function that sets something) is beyond it.

mod filter;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use super::label::matters_to_parser;

/// Why a client keeps its server beyond the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pin {
    /// SET, set_config(), SET ROLE, SET SESSION AUTHORIZATION.
    Setting = 0,
    /// LISTEN.
    Listen = 1,
    /// A temporary table, view, function or type.
    Temporary = 2,
    /// A session-level advisory lock.
    AdvisoryLock = 3,
    /// PREPARE in SQL, or protocol-level statements where the policy keeps none.
    Prepared = 4,
    /// A cursor WITH HOLD.
    Cursor = 5,
    /// Code that may do any of these: DO, CALL, LOAD, a FunctionCall message, SQL run from text.
    Code = 6,
    /// A parameter changed without a word in the text.
    Unexplained = 7,
}

impl Pin {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Setting,
        Self::Listen,
        Self::Temporary,
        Self::AdvisoryLock,
        Self::Prepared,
        Self::Cursor,
        Self::Code,
        Self::Unexplained,
    ];

    /// The name in metrics and `/status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Setting => "setting",
            Self::Listen => "listen",
            Self::Temporary => "temporary",
            Self::AdvisoryLock => "advisory_lock",
            Self::Prepared => "prepared",
            Self::Cursor => "cursor",
            Self::Code => "code",
            Self::Unexplained => "unexplained",
        }
    }

    /// Whether ROLLBACK and DISCARD ALL undo everything of this kind; if not, the server is closed after its client.
    pub fn is_discardable(self) -> bool {
        self != Self::Code
    }
}

/// What is to be asked of the session after a transaction: a set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks(u8);

impl Asks {
    /// Settings whose names are known.
    pub const SETTINGS: Self = Self(1);
    /// Channels.
    pub const LISTEN: Self = Self(2);
    /// Advisory locks.
    pub const LOCKS: Self = Self(4);
    /// Cursors WITH HOLD.
    pub const CURSORS: Self = Self(8);
    /// Statements prepared by SQL.
    pub const PREPARED: Self = Self(16);
    /// Temporary objects.
    pub const TEMPORARY: Self = Self(32);
    /// Settings by whatever name.
    pub const ALL_SETTINGS: Self = Self(64);
    /// Everything.
    pub const ALL: Self = Self(127);

    /// All of both.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is in it.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Nothing to ask.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What a text may do to the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan {
    /// The client must keep its server from now on, and no audit frees it: what was done can't be asked about.
    pub pin: Option<Pin>,
    /// What it may have left behind.
    pub asks: Asks,
    /// What it may have ended, worth asking about for a client that is bound.
    pub frees: Asks,
    /// It has a word or a statement that is not on the list of harmless ones: the session is not proven afterwards.
    pub touches: bool,
    /// It is only BEGIN, COMMIT, ROLLBACK, SHOW, SELECT of constants: it proves itself in any database.
    pub constant: bool,
    /// It runs routines as a statement of their own (CALL): in a noisy database anything may have changed.
    pub calls: bool,
    /// It has a SET statement whose effect ends with the transaction (SET LOCAL, SET TRANSACTION, SET CONSTRAINTS).
    pub sets: bool,
    /// It calls set_config(): literals and parameters may be names of settings.
    pub set_config: bool,
    /// It asks for this session's last sequence value, which only the server that drew it knows.
    pub sequence: bool,
    /// It names statements prepared by SQL (PREPARE, EXECUTE, DEALLOCATE, the catalog view).
    pub names_prepared: bool,
    /// It may name statements that the protocol prepared, or list them.
    pub shows_names: bool,
    /// It lists what is prepared, whoever did it.
    pub lists_names: bool,
    /// It changes what sessions begin with (ALTER DATABASE or ROLE … SET).
    pub defaults: bool,
    /// It prepares one by SQL.
    pub prepares: bool,
    /// It sets a custom setting (`app.x`), whose name the session knows from then on.
    pub customs: bool,
    /// It reads settings by name, and can tell a custom one that was never set from one that was.
    pub reads_settings: bool,
}

impl Scan {
    fn pin(&mut self, pin: Pin) {
        self.pin.get_or_insert(pin);
        self.touches = true;
    }

    fn ask(&mut self, asks: Asks) {
        self.asks = self.asks.and(asks);
        self.frees = self.frees.and(asks);
        self.touches = true;
    }
}

const WORDS: [&str; 25] = [
    ";",
    "set_config",
    "pg_settings",
    "pg_temp",
    "temp",
    "advisory",
    "currval",
    "lastval",
    "setseed",
    "dblink",
    "query_to_xml",
    "cursor_to_xml",
    "ts_stat",
    "ts_rewrite",
    "u&\"",
    "hold",
    "crosstab",
    "connectby",
    "xpath_table",
    "backup",
    "replication",
    "pg_prepared_statement",
    "execute",
    "current_setting",
    "set_limit",
];

/// Looks at a text in one pass.
pub fn scan(text: &[u8]) -> Scan {
    static SEARCH: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
        AhoCorasick::builder().ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest).build(WORDS).ok()
    });
    // What follows the text in a Parse are the types of its parameters.
    let text = memchr::memchr(0, text).map_or(text, |end| &text[..end]);
    let mut scan = Scan { constant: true, ..Scan::default() };
    statement(text, &mut scan);
    if !filter::may_have_words(text) {
        return scan;
    }
    let Some(search) = &*SEARCH else {
        scan.pin(Pin::Code);
        return scan;
    };
    for found in search.find_iter(text) {
        let (before, after) = (&text[..found.start()], &text[found.end()..]);
        match WORDS[found.pattern().as_usize()] {
            ";" => statement(after, &mut scan),
            "set_config" => {
                scan.ask(Asks::SETTINGS);
                scan.set_config = true;
                scan.customs = true;
                if !names_a_setting(after) {
                    scan.pin(Pin::Setting);
                }
            }
            "pg_settings" if contains_word(text, b"update") => scan.ask(Asks::ALL_SETTINGS),
            "pg_temp" if creates(before) || names_path(before) => scan.ask(Asks::TEMPORARY),
            "temp" if is_temporary(text, found.start(), found.end()) => scan.ask(Asks::TEMPORARY),
            "advisory" if takes_session_lock(text, found.start(), found.end()) => scan.ask(Asks::LOCKS),
            "advisory" if contains(word_around(text, found.start(), found.end()), b"unlock") => {
                scan.frees = scan.frees.and(Asks::LOCKS);
                scan.touches = true;
            }
            "currval" | "lastval" => scan.sequence = true,
            "hold" if contains_word(text, b"declare") => scan.ask(Asks::CURSORS),
            "setseed" | "dblink" | "backup" | "replication" => scan.pin(Pin::Code),
            "query_to_xml" | "cursor_to_xml" | "ts_stat" | "ts_rewrite" | "u&\"" | "crosstab" | "connectby"
            | "xpath_table" => scan.ask(Asks::ALL),
            "pg_prepared_statement" => {
                scan.names_prepared = true;
                scan.shows_names = true;
                scan.lists_names = true;
            }
            "current_setting" => scan.reads_settings = true,
            "execute" if first_word(text).0.eq_ignore_ascii_case(b"do") => {
                scan.ask(Asks::ALL);
                // SQL put together: the name of a custom setting in it can't be known, nor asked for.
                scan.pin(Pin::Setting);
            }
            "execute" if runs_prepared(before, after) => {
                scan.names_prepared = true;
                scan.shows_names = true;
                scan.ask(Asks::ALL);
            }
            // pg_trgm keeps it as a setting of its own.
            "set_limit" => scan.ask(Asks::ALL_SETTINGS),
            "pg_temp" | "pg_settings" => scan.touches = true,
            _ => {}
        }
        scan.constant = false;
    }
    // The semicolons alone say nothing: what stands between them has been looked at.
    scan.constant = is_constant(text);
    scan
}

/// What a CommandComplete tag says about the session that the text may not have said.
pub fn tag(tag: &[u8], text_sets: bool) -> Tag {
    let ask = |asks| Tag { asks, touches: true };
    let word = tag.split(|byte| *byte == b' ').next().unwrap_or_default();
    match word {
        b"SELECT" | b"INSERT" | b"UPDATE" | b"DELETE" | b"MERGE" | b"FETCH" | b"COPY" | b"BEGIN" | b"COMMIT"
        | b"ROLLBACK" | b"SAVEPOINT" | b"RELEASE" | b"START" | b"MOVE" | b"EXPLAIN" | b"LOCK" | b"TRUNCATE"
        | b"SHOW" | b"ANALYZE" | b"VACUUM" | b"NOTIFY" | b"CLOSE" | b"DECLARE" | b"CHECKPOINT" | b"REINDEX"
        | b"REFRESH" => Tag::default(),
        // What the text sets has been looked at there.
        b"SET" if text_sets => Tag::default(),
        b"SET" => ask(Asks::ALL_SETTINGS),
        b"RESET" => ask(Asks::SETTINGS),
        b"LISTEN" => ask(Asks::LISTEN),
        // PREPARE TRANSACTION too: nothing of it stays in the session, and asking costs little.
        b"PREPARE" | b"DEALLOCATE" => ask(Asks::PREPARED),
        b"LOAD" => ask(Asks::ALL),
        b"CREATE" | b"ALTER" | b"DROP" | b"GRANT" | b"REVOKE" | b"COMMENT" => Tag::default(),
        _ => Tag { asks: Asks::default(), touches: true },
    }
}

/// What a tag says: see [`tag`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tag {
    /// What may have been left behind.
    pub asks: Asks,
    /// The session is not proven afterwards.
    pub touches: bool,
}

/// Looks at the first words of one statement.
fn statement(text: &[u8], scan: &mut Scan) {
    let (word, rest) = first_word(text);
    scan.constant = scan.constant && is_constant(text);
    let next = || first_word(rest).0;
    let is = |word: &[u8], other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    match word.len() {
        2 if is(word, "do") => {
            scan.touches = true;
            scan.calls = true;
            if contains_word(text, b"set") || contains_word(text, b"reset") {
                scan.ask(Asks::SETTINGS);
            }
            if contains_word(text, b"listen") || contains_word(text, b"unlisten") {
                scan.ask(Asks::LISTEN);
            }
        }
        3 if is(word, "set") => set(rest, scan),
        4 if is(word, "call") => {
            scan.touches = true;
            scan.calls = true;
        }
        4 if is(word, "load") => scan.pin(Pin::Code),
        4 if is(word, "drop") => scan.frees = scan.frees.and(Asks::TEMPORARY),
        5 if is(word, "alter") => {
            let lasts = ["database", "role", "user"].into_iter().any(|kind| is(next(), kind));
            scan.defaults |= lasts && (contains_word(rest, b"set") || contains_word(rest, b"reset"));
        }
        5 if is(word, "reset") => scan.ask(Asks::SETTINGS),
        5 if is(word, "close") => scan.frees = scan.frees.and(Asks::CURSORS),
        6 if is(word, "listen") => scan.ask(Asks::LISTEN),
        4 if is(word, "show") => scan.reads_settings = memchr::memchr(b'.', rest).is_some(),
        7 if is(word, "prepare") && !is(next(), "transaction") => {
            scan.names_prepared = true;
            scan.shows_names = true;
            scan.prepares = true;
            scan.ask(Asks::PREPARED);
        }
        7 if is(word, "declare") && contains_word(text, b"hold") => scan.ask(Asks::CURSORS),
        7 if is(word, "discard") => {
            scan.touches = true;
            scan.frees = Asks::ALL;
            if is(next(), "all") {
                scan.ask(Asks::SETTINGS);
            }
        }
        7 if is(word, "execute") => {
            scan.names_prepared = true;
            scan.shows_names = true;
            scan.ask(Asks::ALL);
        }
        8 if is(word, "unlisten") => {
            scan.frees = scan.frees.and(Asks::LISTEN);
            scan.touches = true;
        }
        10 if is(word, "deallocate") => {
            scan.names_prepared = true;
            scan.shows_names = !is(next(), "all");
            scan.ask(Asks::PREPARED);
        }
        _ => {}
    }
}

/// SET: for the transaction, or for the session.
fn set(rest: &[u8], scan: &mut Scan) {
    let (word, after) = first_word(rest);
    let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    scan.sets = true;
    if is("transaction") || is("constraints") {
        return;
    }
    if is("local") {
        let (name, after) = first_word(after);
        let custom = after_space(after).first() == Some(&b'.');
        scan.customs |= custom;
        let name = name.to_ascii_lowercase();
        // Plans made under it may stay behind; a custom setting makes none.
        scan.touches |= !custom && matters_to_parser(&name);
    } else {
        if is("seed") || (is("session") && first_word(after).0.eq_ignore_ascii_case(b"seed")) {
            scan.pin(Pin::Code);
        }
        scan.customs = true;
        scan.ask(Asks::SETTINGS);
    }
}

/// Only BEGIN, COMMIT, ROLLBACK, SHOW and SELECT of constants, and what goes with a transaction.
fn is_constant(text: &[u8]) -> bool {
    let mut start = 0;
    // One after the other: nearly every text is done with its first.
    for end in memchr::memchr_iter(b';', text).chain([text.len()]) {
        if !is_one_constant(&text[start..end]) {
            return false;
        }
        start = end + 1;
    }
    true
}

/// What stands between two semicolons.
fn is_one_constant(text: &[u8]) -> bool {
    let (word, rest) = first_word(text);
    let is = |other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    match word.len() {
        0 => after_space(rest).is_empty(),
        3 => is("end"),
        4 => is("show"),
        5 => is("begin") || is("start") || is("abort"),
        6 if is("select") => rest.iter().all(|byte| byte.is_ascii_digit() || b" \t\r\n,.".contains(byte)),
        6 => is("commit") && !first_word(rest).0.eq_ignore_ascii_case(b"prepared"),
        7 => is("release"),
        8 => is("rollback") && !first_word(rest).0.eq_ignore_ascii_case(b"prepared"),
        9 => is("savepoint"),
        _ => false,
    }
}

/// Whether the first argument of set_config() is a literal or a parameter: then its name can be had.
fn names_a_setting(after: &[u8]) -> bool {
    let Some(arguments) = after_space(after).strip_prefix(b"(") else { return false };
    let argument = after_space(arguments);
    let Some(end) = (match argument.first() {
        Some(b'\'') => memchr::memchr(b'\'', &argument[1..]).map(|end| end + 2),
        Some(b'$') => argument[1..].iter().position(|byte| !byte.is_ascii_digit()).map(|end| end + 1),
        _ => None,
    }) else {
        return false;
    };
    let mut rest = after_space(&argument[end..]);
    if let Some(cast) = rest.strip_prefix(b"::") {
        rest = after_space(first_word(cast).1);
    }
    rest.first() == Some(&b',')
}

fn contains(word: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(&word.to_ascii_lowercase(), part).is_some()
}

/// The first word of a text, after white space and comments, and what follows it.
pub fn first_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = after_space(text);
    let end = text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// What follows white space and comments.
pub(super) fn after_space(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        if text.starts_with(b"--") {
            // As in PostgreSQL's scanner, either ends it.
            text = memchr::memchr2(b'\n', b'\r', text).map_or(&[], |end| &text[end..]);
        } else if text.starts_with(b"/*") {
            text = comment(text);
        } else {
            return text;
        }
    }
}

/// What follows a comment, which may hold others.
fn comment(text: &[u8]) -> &[u8] {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        match &text[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return &text[at..];
                }
            }
            _ => at += 1,
        }
    }
    &[]
}

/// Whether a byte is part of a word.
#[inline]
pub(super) fn is_word(byte: u8) -> bool {
    WORD[usize::from(byte)]
}

/// Letters, digits, the underscore and everything beyond ASCII.
const WORD: [bool; 256] = {
    let mut word = [false; 256];
    let mut byte = 0_u8;
    loop {
        word[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        if byte == u8::MAX {
            break word;
        }
        byte += 1;
    }
};

/// The whole word around a match.
fn word_around(text: &[u8], start: usize, end: usize) -> &[u8] {
    let from = text[..start].iter().rposition(|byte| !is_word(*byte)).map_or(0, |at| at + 1);
    let to = text[end..].iter().position(|byte| !is_word(*byte)).map_or(text.len(), |at| end + at);
    &text[from..to]
}

fn contains_word(text: &[u8], word: &[u8]) -> bool {
    text.split(|byte| !is_word(*byte)).any(|candidate| candidate.eq_ignore_ascii_case(word))
}

/// CREATE TEMP …, SELECT … INTO TEMP …
fn is_temporary(text: &[u8], start: usize, end: usize) -> bool {
    let word = word_around(text, start, end);
    (word.eq_ignore_ascii_case(b"temp") || word.eq_ignore_ascii_case(b"temporary")) && creates(&text[..start])
}

/// Whether what stands before a name makes something of that name.
fn creates(before: &[u8]) -> bool {
    contains_word(before, b"create") || contains_word(before, b"into")
}

/// Whether what stands before a schema's name makes it the one in which tables are created: even with SET LOCAL, these
/// outlive the transaction.
fn names_path(before: &[u8]) -> bool {
    contains_word(before, b"search_path") || contains_word(before, b"schema")
}

/// EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE, but not the EXECUTE FUNCTION of a trigger.
fn runs_prepared(before: &[u8], after: &[u8]) -> bool {
    let start = memchr::memrchr(b';', before).map_or(0, |at| at + 1);
    let (verb, _) = first_word(&before[start..]);
    let (next, _) = first_word(after);
    let of_trigger = next.eq_ignore_ascii_case(b"function") || next.eq_ignore_ascii_case(b"procedure");
    (verb.eq_ignore_ascii_case(b"explain") || verb.eq_ignore_ascii_case(b"create")) && !of_trigger
}

/// A lock that outlives the transaction: not the `_xact` functions, not an unlock, not the word alone.
fn takes_session_lock(text: &[u8], start: usize, end: usize) -> bool {
    contains(word_around(text, start, end), b"advisory_lock")
}

#[cfg(test)]
mod tests;
