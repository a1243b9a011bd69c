//! SQL that names a client's protocol-level statements: they have other names on servers.

use super::statements::ensure;
use super::{Ingress, Turn};
use crate::pg::exchange::Expect;
use crate::pg::message;
use crate::pg::session::prepared::Change;
use crate::pg::session::scan::first_word;

/// What a lone statement does with the statement that it names.
enum Verb {
    Deallocate,
    /// With what follows the name.
    Execute,
}

impl Ingress {
    /// A lone `DEALLOCATE name` or `EXECUTE name (…)` of a protocol-level statement, sent with the name that it has on the
    /// server. False if it is anything else: it goes on as it is.
    pub(super) fn sql_names(&mut self, text: &[u8], total: usize, turn: &mut Turn<'_>) -> bool {
        let text = memchr::memchr(0, text).map_or(text, |end| &text[..end]);
        let Some((verb, name, rest)) = named(text) else { return false };
        let Some(statement) = turn.names.get(&name).cloned().filter(|known| !known.name.is_empty()) else {
            return false;
        };
        if turn.server.exchange.has_batch() && !turn.server.exchange.has_preface() {
            return false;
        }
        if self.has_own_names() {
            return self.own_sql_name(verb, name, total, turn);
        }
        let on_server = String::from_utf8_lossy(&statement.name);
        ensure(&statement, turn);
        let sql = match verb {
            Verb::Deallocate => format!("DEALLOCATE \"{on_server}\"").into_bytes(),
            Verb::Execute => [format!("EXECUTE \"{on_server}\" ").as_bytes(), rest].concat(),
        };
        let deallocates = matches!(verb, Verb::Deallocate);
        if deallocates {
            turn.names.push(Change::Remove(name.into()));
            turn.server.cache.remove(statement.id);
        } else {
            self.mine.note(statement.scan);
        }
        turn.server.out.make(|out| message::query_bytes(out, &sql));
        turn.server.cache.forget_unnamed();
        turn.server.exchange.query(Expect::Query, deallocates);
        turn.input.skip(total);
        true
    }

    /// The same where the server has the client's statements by the client's names: only what the client has follows.
    fn own_sql_name(&mut self, verb: Verb, name: Vec<u8>, total: usize, turn: &mut Turn<'_>) -> bool {
        if !matches!(verb, Verb::Deallocate) || turn.input.rest().len() < total {
            return false;
        }
        turn.names.push(Change::Remove(name.into()));
        turn.server.cache.forget_unnamed();
        turn.server.exchange.query(Expect::Query, true);
        turn.input.forward(total, turn.server.out);
        true
    }
}

/// The verb of a lone statement, the name it has for a prepared statement, and what follows.
fn named(text: &[u8]) -> Option<(Verb, Vec<u8>, &[u8])> {
    let (word, mut rest) = first_word(text);
    let verb = if word.eq_ignore_ascii_case(b"deallocate") {
        let (next, after) = first_word(rest);
        if next.eq_ignore_ascii_case(b"prepare") && !is_end(after) {
            rest = after;
        }
        Verb::Deallocate
    } else if word.eq_ignore_ascii_case(b"execute") {
        Verb::Execute
    } else {
        return None;
    };
    let (name, rest) = identifier(rest)?;
    match verb {
        Verb::Deallocate if is_end(rest) => Some((verb, name, &[])),
        // A second statement behind it is looked at by nobody here.
        Verb::Execute if !rest.contains(&b';') || is_end(&rest[rest.iter().position(|byte| *byte == b';')?..]) => {
            Some((verb, name, rest))
        }
        _ => None,
    }
}

/// A name, folded as PostgreSQL does.
fn identifier(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (word, rest) = first_word(text);
    if !word.is_empty() {
        return Some((word.to_ascii_lowercase(), rest));
    }
    let quoted = rest.strip_prefix(b"\"")?;
    let end = memchr::memchr(b'"', quoted)?;
    // A doubled quote is part of the name: left to the server.
    (quoted.get(end + 1) != Some(&b'"')).then(|| (quoted[..end].to_vec(), &quoted[end + 1..]))
}

fn is_end(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        named(text.as_bytes()).map(|(_, name, rest)| format!("{}|{}", String::from_utf8_lossy(&name), rest.len()))
    }

    #[test]
    fn lone_statements_that_name_one_are_known() {
        assert_eq!(name("DEALLOCATE Abc").as_deref(), Some("abc|0"));
        assert_eq!(name("deallocate prepare \"Abc\" ; ").as_deref(), Some("Abc|0"));
        assert_eq!(name("execute x(1, 2)").as_deref(), Some("x|6"));
        assert_eq!(name("deallocate prepare").as_deref(), Some("prepare|0"));
        assert_eq!(name("deallocate x; select 1"), None);
        assert_eq!(name("execute x; select 1"), None);
        assert_eq!(name("select 1"), None);
        assert_eq!(name("deallocate \"a\"\"b\""), None);
    }
}
