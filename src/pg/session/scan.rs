//! Words in a statement's text that can leave state behind in the session.
//!
//! Only a hint about the client's *own* state: a statement that is known to bind is pinned to its server, so that its
//! effect is not lost at the next transaction. It errs towards pinning: words in comments and literals count.
//! What no text shows (a function that sets something) is beyond it.

mod filter;
mod found;
pub(super) mod words;

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

pub use self::found::{Asks, Pin, Scan, Tag};
pub use self::words::first_word;
use self::words::{
    after_space, contains, contains_word, creates, is_literal, is_temporary, names_a_setting, names_path, names_seed,
    runs_prepared, takes_session_lock, word_around,
};
use super::label::matters_to_parser;

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

/// Looks at what a Parse has after the name: a text up to a zero byte, then the types of its parameters.
pub fn scan_parse(tail: &[u8]) -> Scan {
    scan(memchr::memchr(0, tail).map_or(tail, |end| &tail[..end]))
}

/// Looks at a text in one pass.
pub fn scan(text: &[u8]) -> Scan {
    static SEARCH: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
        AhoCorasick::builder().ascii_case_insensitive(true).match_kind(MatchKind::LeftmostLongest).build(WORDS).ok()
    });
    let mut scan = Scan::default();
    let first = first_word(text);
    statement(first, &mut scan);
    scan.constant = !selects_more(first) && is_constant(text);
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
            ";" => statement(first_word(after), &mut scan),
            "set_config" => {
                scan.ask(Asks::SETTINGS);
                scan.set_config = true;
                scan.customs = true;
                // Nothing undoes it if the name is "seed".
                if !names_a_setting(after) || contains(text, b"'seed'") {
                    scan.pin(Pin::Code);
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
            "u&\"" => {
                scan.ask(Asks::ALL);
                if contains_word(text, b"set") {
                    scan.pin(Pin::Code);
                }
            }
            "query_to_xml" | "cursor_to_xml" | "ts_stat" | "ts_rewrite" | "crosstab" | "connectby" | "xpath_table" => {
                scan.ask(Asks::ALL);
                scan.hides |= !is_literal(after);
            }
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
    }
    if scan.set_config && scan.prepares {
        // Names come with EXECUTE, and may be computed.
        scan.pin(Pin::Code);
    }
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

/// Looks at the first word of one statement, and at what follows it.
fn statement((word, rest): (&[u8], &[u8]), scan: &mut Scan) {
    let next = || first_word(rest).0;
    let is = |word: &[u8], other: &str| word.eq_ignore_ascii_case(other.as_bytes());
    match word.len() {
        2 if is(word, "do") => {
            scan.touches = true;
            scan.calls = true;
            scan.does = true;
            scan.does_more |= !words::is_plain_code(rest);
            if contains_word(rest, b"set") || contains_word(rest, b"reset") {
                scan.ask(Asks::SETTINGS);
            }
            if contains_word(rest, b"listen") || contains_word(rest, b"unlisten") {
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
        7 if is(word, "declare") && contains_word(rest, b"hold") => scan.ask(Asks::CURSORS),
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
    // Also for the transaction alone: no end of it undoes that.
    if names_seed(if is("local") || is("session") { after } else { rest }) {
        scan.pin(Pin::Code);
    }
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
        scan.customs = true;
        scan.ask(Asks::SETTINGS);
    }
}

/// Whether a statement selects something that is no constant, as nearly every text does: known by one letter of it.
fn selects_more((word, rest): (&[u8], &[u8])) -> bool {
    let selects = <[u8; 6]>::try_from(word).is_ok_and(|word| word.map(|letter| letter | 0x20) == *b"select");
    let next = rest.trim_ascii_start().first();
    selects && next.is_some_and(|byte| *byte != b';' && !is_of_constants(*byte))
}

/// What a SELECT of constants is made of.
fn is_of_constants(byte: u8) -> bool {
    byte.is_ascii_digit() || b" \t\r\n,.".contains(&byte)
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
        // Not a comment: what ends it lies behind the semicolon, and what this does behind that.
        0 => text.trim_ascii_start().is_empty(),
        3 => is("end"),
        4 => is("show"),
        5 => is("begin") || is("start") || is("abort"),
        6 if is("select") => rest.iter().copied().all(is_of_constants),
        6 => is("commit") && !first_word(rest).0.eq_ignore_ascii_case(b"prepared"),
        7 => is("release"),
        8 => is("rollback") && !first_word(rest).0.eq_ignore_ascii_case(b"prepared"),
        9 => is("savepoint"),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
