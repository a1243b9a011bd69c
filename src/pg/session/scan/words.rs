//! Words of a text: where they begin and end, what stands around them.

/// Whether the first argument of set_config() is a literal or a parameter: then its name can be had.
pub(super) fn names_a_setting(after: &[u8]) -> bool {
    let Some(arguments) = after_space(after).strip_prefix(b"(") else { return false };
    let argument = after_space(arguments);
    let Some(end) = (match argument.first() {
        // Where standard_conforming_strings is off a backslash may hide a letter.
        Some(b'\'') => memchr::memchr2(b'\'', b'\\', &argument[1..]).map(|end| end + 2),
        Some(b'$') => argument[1..].iter().position(|byte| !byte.is_ascii_digit()).map(|end| end + 1),
        _ => None,
    }) else {
        return false;
    };
    let mut rest = after_space(&argument[end..]);
    if let Some(cast) = rest.strip_prefix(b"::") {
        rest = after_space(first_word(cast).1);
    }
    matches!(rest.first(), Some(b',' | b')'))
}

/// Whether the name of the setting that a SET begins with is "seed", in quotes or without.
pub(super) fn names_seed(name: &[u8]) -> bool {
    let name = after_space(name);
    let name = name.strip_prefix(b"\"").unwrap_or(name);
    let (word, rest) = first_word(name);
    word.eq_ignore_ascii_case(b"seed") && rest.first() != Some(&b'.')
}

/// Whether the first argument of a function is a literal: what it has is in the text.
pub(super) fn is_literal(after: &[u8]) -> bool {
    let argument = after_space(after).strip_prefix(b"(").map(after_space);
    argument.is_some_and(|argument| argument.starts_with(b"'")) && names_a_setting(after)
}

pub(super) fn contains(word: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(&word.to_ascii_lowercase(), part).is_some()
}

/// The first word of a text, after white space and comments, and what follows it.
pub fn first_word(text: &[u8]) -> (&[u8], &[u8]) {
    let text = after_space(text);
    let end = text.iter().position(|byte| !is_word(*byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// What follows white space and comments.
pub(in crate::pg::session) fn after_space(mut text: &[u8]) -> &[u8] {
    loop {
        text = trim_start(text);
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

/// The vertical tab, which Rust does not count, is white space since PostgreSQL 16.
fn trim_start(text: &[u8]) -> &[u8] {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    text.iter().position(|byte| !space(byte)).map_or(&[], |start| &text[start..])
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
pub(in crate::pg::session) fn is_word(byte: u8) -> bool {
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
pub(super) fn word_around(text: &[u8], start: usize, end: usize) -> &[u8] {
    let from = text[..start].iter().rposition(|byte| !is_word(*byte)).map_or(0, |at| at + 1);
    let to = text[end..].iter().position(|byte| !is_word(*byte)).map_or(text.len(), |at| end + at);
    &text[from..to]
}

pub(super) fn contains_word(text: &[u8], word: &[u8]) -> bool {
    text.split(|byte| !is_word(*byte)).any(|candidate| candidate.eq_ignore_ascii_case(word))
}

/// Whether what follows DO shows all that it does, beside what it calls, and defines nothing: PL/pgSQL in dollar quotes,
/// in which nothing can be hidden, without any of these words.
pub(super) fn is_plain_code(rest: &[u8]) -> bool {
    const MORE: [&[u8]; 7] = [b"create", b"alter", b"drop", b"import", b"execute", b"language", b"seed"];
    let is_more = |word: &[u8]| MORE.iter().any(|more| word.eq_ignore_ascii_case(more));
    after_space(rest).starts_with(b"$") && !rest.split(|byte| !is_word(*byte)).any(is_more)
}

/// CREATE TEMP …, SELECT … INTO TEMP …
pub(super) fn is_temporary(text: &[u8], start: usize, end: usize) -> bool {
    let word = word_around(text, start, end);
    (word.eq_ignore_ascii_case(b"temp") || word.eq_ignore_ascii_case(b"temporary")) && creates(&text[..start])
}

/// Whether what stands before a name makes something of that name.
pub(super) fn creates(before: &[u8]) -> bool {
    contains_word(before, b"create") || contains_word(before, b"into")
}

/// Whether what stands before a schema's name makes it the one in which tables are created: even with SET LOCAL, these
/// outlive the transaction.
pub(super) fn names_path(before: &[u8]) -> bool {
    contains_word(before, b"search_path") || contains_word(before, b"schema")
}

/// EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE, but not the EXECUTE FUNCTION of a trigger.
pub(super) fn runs_prepared(before: &[u8], after: &[u8]) -> bool {
    let start = memchr::memrchr(b';', before).map_or(0, |at| at + 1);
    let (verb, _) = first_word(&before[start..]);
    let (next, _) = first_word(after);
    let of_trigger = next.eq_ignore_ascii_case(b"function") || next.eq_ignore_ascii_case(b"procedure");
    (verb.eq_ignore_ascii_case(b"explain") || verb.eq_ignore_ascii_case(b"create")) && !of_trigger
}

/// A lock that outlives the transaction: not the `_xact` functions, not an unlock, not the word alone.
pub(super) fn takes_session_lock(text: &[u8], start: usize, end: usize) -> bool {
    contains(word_around(text, start, end), b"advisory_lock")
}
