//! Words in a statement's text that can leave state behind in the session.
//!
//! Only a hint about the client's *own* state: a statement that is known to bind is pinned to its server, so that its
//! effect is not lost at the next transaction. It errs towards pinning: words in comments and literals count.
//! What no text shows (a function that sets something) is beyond it.

mod filter;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

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

/// What a text may do to the session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan {
    /// The client must keep its server from now on.
    pub pin: Option<Pin>,
    /// It has a SET statement whose effect ends with the transaction (SET LOCAL, SET TRANSACTION, SET CONSTRAINTS).
    pub sets: bool,
    /// It asks for this session's last sequence value, which only the server that drew it knows.
    pub sequence: bool,
}

impl Scan {
    fn pin(&mut self, pin: Pin) {
        self.pin.get_or_insert(pin);
    }
}

const WORDS: [&str; 16] = [
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
    "u&\"",
    "hold",
    "crosstab",
];

/// Looks at a text in one pass.
pub fn scan(text: &[u8]) -> Scan {
    static SEARCH: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
        AhoCorasick::builder().ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest).build(WORDS).ok()
    });
    // What follows the text in a Parse are the types of its parameters.
    let text = memchr::memchr(0, text).map_or(text, |end| &text[..end]);
    let mut scan = Scan::default();
    statement(text, &mut scan);
    if !filter::may_have_words(text) {
        return scan;
    }
    let Some(search) = &*SEARCH else {
        scan.pin(Pin::Code);
        return scan;
    };
    for found in search.find_iter(text) {
        match WORDS[found.pattern().as_usize()] {
            ";" => statement(&text[found.end()..], &mut scan),
            "set_config" | "pg_settings" => scan.pin(Pin::Setting),
            "pg_temp" if creates(&text[..found.start()]) || names_path(&text[..found.start()]) => {
                scan.pin(Pin::Temporary);
            }
            "temp" if is_temporary(text, found.start(), found.end()) => scan.pin(Pin::Temporary),
            "advisory" if takes_session_lock(text, found.start(), found.end()) => scan.pin(Pin::AdvisoryLock),
            "currval" | "lastval" => scan.sequence = true,
            "hold" if first_word(text).0.eq_ignore_ascii_case(b"declare") => scan.pin(Pin::Cursor),
            "setseed" | "dblink" | "query_to_xml" | "cursor_to_xml" | "ts_stat" | "u&\"" | "crosstab" => {
                scan.pin(Pin::Code);
            }
            _ => {}
        }
    }
    scan
}

/// What a CommandComplete tag says about the session that the text has not said already.
pub fn tag(tag: &[u8], text_sets: bool) -> Option<Pin> {
    match tag {
        b"SET" if !text_sets => Some(Pin::Unexplained),
        b"LISTEN" => Some(Pin::Listen),
        b"PREPARE" => Some(Pin::Prepared),
        b"DO" | b"CALL" | b"LOAD" => Some(Pin::Code),
        _ => None,
    }
}

/// Looks at the first words of one statement.
fn statement(text: &[u8], scan: &mut Scan) {
    let (word, rest) = first_word(text);
    let next = || first_word(rest).0;
    let is = |word: &[u8], other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    match word.len() {
        2 if is(word, "do") => scan.pin(Pin::Code),
        3 if is(word, "set") => {
            if ["local", "transaction", "constraints"].iter().any(|harmless| is(next(), harmless)) {
                scan.sets = true;
            } else {
                scan.pin(Pin::Setting);
                scan.sets = true;
            }
        }
        4 if is(word, "call") || is(word, "load") => scan.pin(Pin::Code),
        6 if is(word, "listen") => scan.pin(Pin::Listen),
        7 if is(word, "prepare") && !is(next(), "transaction") => scan.pin(Pin::Prepared),
        7 if is(word, "declare") && contains_word(text, b"hold") => scan.pin(Pin::Cursor),
        _ => {}
    }
}

/// The first word of a text, after white space and comments, and what follows it.
fn first_word(mut text: &[u8]) -> (&[u8], &[u8]) {
    loop {
        text = text.trim_ascii_start();
        if text.starts_with(b"--") {
            // As in PostgreSQL's scanner, either ends it.
            text = memchr::memchr2(b'\n', b'\r', text).map_or(&[], |end| &text[end..]);
        } else if text.starts_with(b"/*") {
            text = comment(text);
        } else {
            break;
        }
    }
    let end = text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len());
    text.split_at(end)
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

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

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

/// A lock that outlives the transaction: not the `_xact` functions, not an unlock, not the word alone.
fn takes_session_lock(text: &[u8], start: usize, end: usize) -> bool {
    let word = word_around(text, start, end).to_ascii_lowercase();
    memchr::memmem::find(&word, b"advisory_lock").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(text: &str) -> Option<Pin> {
        scan(text.as_bytes()).pin
    }

    #[test]
    fn ordinary_statements_bind_nothing() {
        for text in [
            "",
            "select 1",
            "SELECT abalance FROM pgbench_accounts WHERE aid = 1;",
            "update t set a = 1 where temp > 3",
            "insert into weather(temperature) values (1)",
            "begin; set local search_path to x; commit",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "set constraints all deferred",
            "prepare transaction 'x'",
            "select pg_advisory_xact_lock(1)",
            "select pg_advisory_unlock_all()",
            "select count(*) from pg_locks where locktype = 'advisory'",
            "declare c cursor for select 1",
            "create table contemporary(a int)",
            "reset all",
            "select reset, listen from do_it",
            "select to_regclass('pg_temp.t')",
        ] {
            assert_eq!(pin(text), None, "{text}");
        }
    }

    #[test]
    fn what_outlives_the_transaction_is_named() {
        for (text, expected) in [
            ("set a = 1", Pin::Setting),
            ("  -- hello\n /* a /* nested */ b */ SET ROLE x", Pin::Setting),
            ("select 1; set session authorization y", Pin::Setting),
            ("select set_config('a.b', $1, false)", Pin::Setting),
            ("update pg_settings set setting = 1", Pin::Setting),
            ("LISTEN jobs", Pin::Listen),
            ("create temp table t(a int)", Pin::Temporary),
            ("create or replace temporary view v as select 1", Pin::Temporary),
            ("select 1 into temp t", Pin::Temporary),
            ("create table pg_temp.x(a int)", Pin::Temporary),
            ("begin; set local search_path to pg_temp; create table x(a int); commit", Pin::Temporary),
            ("set local schema 'pg_temp'", Pin::Temporary),
            ("-- a carriage return ends it\rset a = 1", Pin::Setting),
            ("-- so\rdeclare c cursor with hold for select 1", Pin::Cursor),
            ("select pg_advisory_lock(1)", Pin::AdvisoryLock),
            ("select pg_try_advisory_lock_shared(1)", Pin::AdvisoryLock),
            ("prepare p as select 1", Pin::Prepared),
            ("declare c cursor with hold for select 1", Pin::Cursor),
            ("begin; declare c cursor with hold for select 1; commit", Pin::Cursor),
            ("do $$ begin end $$", Pin::Code),
            ("call p()", Pin::Code),
            ("load 'x'", Pin::Code),
        ] {
            assert_eq!(pin(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn sequences_are_seen() {
        assert!(scan(b"select currval('s')").sequence);
        assert!(scan(b"SELECT LASTVAL()").sequence);
        assert!(!scan(b"select nextval('s')").sequence);
    }

    #[test]
    fn tags_say_what_the_text_did_not() {
        assert_eq!(tag(b"SET", true), None);
        assert_eq!(tag(b"SET", false), Some(Pin::Unexplained));
        assert_eq!(tag(b"SELECT 1", false), None);
        assert_eq!(tag(b"DO", false), Some(Pin::Code));
    }

    #[test]
    fn an_unfinished_comment_is_no_statement() {
        assert_eq!(pin("/* /* set a = 1"), None);
        assert_eq!(pin("-- set a = 1"), None);
    }
}
