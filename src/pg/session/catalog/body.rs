//! What a routine's body can do to the session: SQL and PL/pgSQL, read as PostgreSQL's scanner reads them.
//!
//! Comments are skipped; names count wherever they stand, in strings too. Words that begin a statement count only there,
//! so that `UPDATE … SET` is no SET. Dynamic SQL has no text to read: EXECUTE is enough.

mod lexer;

use lexer::{Lexer, Token};

/// Functions and views that touch the session, by their whole name.
const NAMES: [&str; 18] = [
    "set_config",
    "setseed",
    "set_limit",
    "pg_settings",
    "pg_prepared_statements",
    "pg_prepared_statement",
    "currval",
    "lastval",
    "lo_open",
    "ts_stat",
    "ts_rewrite",
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "pg_start_backup",
    "pg_stop_backup",
];

/// Parts of such names.
const PARTS: [&str; 7] =
    ["pg_temp", "advisory_lock", "advisory_unlock", "dblink", "replication_slot", "replication_origin", "pg_backup_"];

/// Words with which a statement begins that touches the session, or that runs or defines what has no text to read.
const STATEMENTS: [&str; 8] = ["reset", "discard", "load", "listen", "unlisten", "prepare", "deallocate", "import"];

/// Words after which PL/pgSQL expects a statement, beside `;` and a label.
const OPENERS: [&str; 4] = ["begin", "then", "else", "loop"];

/// What may be created or altered in a body, because its text shows all of it. A function's body, or an extension's
/// script, may hide anything in a string.
const VISIBLE: [&str; 21] = [
    "table",
    "index",
    "view",
    "materialized",
    "sequence",
    "schema",
    "type",
    "domain",
    "trigger",
    "rule",
    "policy",
    "role",
    "user",
    "group",
    "statistics",
    "collation",
    "publication",
    "subscription",
    "tablespace",
    "default",
    "database",
];

/// Words between CREATE and what is created.
const MODIFIERS: [&str; 8] = ["or", "replace", "unlogged", "unique", "recursive", "global", "local", "constraint"];

/// Why a body may touch the session; `None` if it can't.
pub fn reason(body: &[u8]) -> Option<&'static str> {
    // With standard_conforming_strings off a backslash hides the quote after it: where strings end is not certain.
    if super::contains(body, b"\\'") {
        return coarse(body);
    }
    let mut reader = Reader { start: true, ..Reader::default() };
    Lexer::new(body).find_map(|token| reader.hear(token)).or_else(|| reader.end())
}

/// A place in a body.
#[derive(Debug, Default)]
struct Reader<'a> {
    /// A statement may begin here.
    start: bool,
    /// The last token, if it was an unquoted word.
    before: &'a [u8],
    /// The last token was `>`.
    angle: bool,
    /// What has begun a statement, as long as the next word may make it harmless.
    begun: Begun,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Begun {
    #[default]
    Nothing,
    /// SET: not if it is of constraints or the transaction.
    Set,
    /// DO: not if it is MERGE's DO NOTHING.
    Do,
    /// CREATE or ALTER: not if all of it is in the text.
    Definition,
}

impl Begun {
    /// With which words after it nothing is left of it; `None` if they say nothing yet.
    fn is_harmless(self, word: &[u8]) -> Option<bool> {
        match self {
            Self::Nothing => Some(true),
            Self::Set => Some(is_any(word, &["constraints", "transaction"]).is_some()),
            Self::Do => Some(is(word, "nothing")),
            Self::Definition if is_any(word, &MODIFIERS).is_some() => None,
            Self::Definition => Some(is_any(word, &VISIBLE).is_some() || is_temporary(word)),
        }
    }

    fn name(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Set => Some("SET"),
            Self::Do => Some("DO"),
            Self::Definition => Some("CREATE or ALTER of code"),
        }
    }
}

impl<'a> Reader<'a> {
    fn hear(&mut self, token: Token<'a>) -> Option<&'static str> {
        let found = match token {
            Token::Word(word) => return self.word(word),
            Token::Unicode => Some("U&\""),
            Token::Quoted(text) => name_in(text),
            Token::Text(text) => words(text).find_map(name_in),
            Token::Other(byte) => {
                self.start = byte == b';' || (byte == b'>' && self.angle);
                self.angle = byte == b'>';
                self.before = b"";
                return self.end();
            }
        };
        (self.start, self.angle, self.before) = (false, false, b"");
        found.or_else(|| self.end())
    }

    fn word(&mut self, word: &'a [u8]) -> Option<&'static str> {
        let before = std::mem::replace(&mut self.before, word);
        let start = std::mem::replace(&mut self.start, is_any(word, &OPENERS).is_some());
        self.angle = false;
        match self.begun.is_harmless(word) {
            Some(true) => self.begun = Begun::Nothing,
            Some(false) => return self.end(),
            None => {}
        }
        if start {
            if let Some(found) = is_any(word, &STATEMENTS) {
                return Some(found);
            }
            self.begun = match word.to_ascii_lowercase().as_slice() {
                b"set" => Begun::Set,
                b"do" => Begun::Do,
                b"create" | b"alter" => Begun::Definition,
                _ => Begun::Nothing,
            };
        }
        if is(word, "execute") {
            return Some("EXECUTE");
        }
        if is_temporary(word) && is_any(before, &["create", "replace", "local", "global", "into"]).is_some() {
            return Some("TEMP");
        }
        if is(word, "hold") && is(before, "with") {
            return Some("WITH HOLD");
        }
        name_in(word)
    }

    /// No word has come that makes harmless what was begun.
    fn end(&mut self) -> Option<&'static str> {
        std::mem::take(&mut self.begun).name()
    }
}

/// Without regard to where words stand.
fn coarse(body: &[u8]) -> Option<&'static str> {
    const WORDS: [&str; 12] = [
        "set",
        "do",
        "execute",
        "temp",
        "temporary",
        "hold",
        "function",
        "procedure",
        "extension",
        "foreign",
        "event",
        "u",
    ];
    words(body).find_map(|word| name_in(word).or_else(|| is_any(word, &STATEMENTS)).or_else(|| is_any(word, &WORDS)))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| !lexer::is_word(*byte)).filter(|word| !word.is_empty())
}

fn name_in(word: &[u8]) -> Option<&'static str> {
    if let Some(name) = is_any(word, &NAMES) {
        return Some(name);
    }
    let has = |part: &str| word.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()));
    PARTS.into_iter().find(|part| has(part))
}

fn is_temporary(word: &[u8]) -> bool {
    is(word, "temp") || is(word, "temporary")
}

fn is(word: &[u8], other: &str) -> bool {
    word.eq_ignore_ascii_case(other.as_bytes())
}

fn is_any(word: &[u8], others: &[&'static str]) -> Option<&'static str> {
    others.iter().copied().find(|other| is(word, other))
}

#[cfg(test)]
mod tests;
