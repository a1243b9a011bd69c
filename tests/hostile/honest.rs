//! A server that answers `SELECT 'x'` with x in every protocol, and one trigger with a lie.

use crate::support::fe;
use crate::support::hostile::{self, Session};
use std::collections::HashMap;
use std::io;

/// A statement with this word in it is answered by the lie.
pub const TRIGGER: &str = "lie";

/// What a server sends in place of an answer: it gets the honest one, message by message.
pub type Lie = dyn Fn(&mut Session, Vec<Vec<u8>>) -> io::Result<()> + Send + Sync;

/// The literal of `SELECT 'x'`.
fn literal(sql: &str) -> Option<&str> {
    let (_, rest) = sql.split_once("SELECT '")?;
    rest.split_once('\'').map(|(literal, _)| literal)
}

fn text(body: &[u8], at: usize) -> String {
    body.split(|byte| *byte == 0).nth(at).map(|part| String::from_utf8_lossy(part).into_owned()).unwrap_or_default()
}

/// A row with one value, as the messages of a simple query.
fn answer(value: &str) -> Vec<Vec<u8>> {
    vec![hostile::columns(&["v"]), hostile::row(&[value]), hostile::complete("SELECT 1"), hostile::ready(b'I')]
}

/// Serves one session that has logged in.
pub fn serve(session: &mut Session, lie: &Lie) -> io::Result<()> {
    let mut statements: HashMap<String, String> = HashMap::new();
    let mut bound = String::new();
    loop {
        let (tag, body) = session.message()?;
        match tag {
            b'X' => return Ok(()),
            b'Q' => {
                let sql = text(&body, 0);
                match literal(&sql) {
                    Some(value) if value.contains(TRIGGER) => lie(session, answer(value))?,
                    Some(value) => session.send(&answer(value))?,
                    None => session.send(&[hostile::answer(tag, &body)])?,
                }
            }
            b'P' => {
                statements.insert(text(&body, 0), text(&body, 1));
                session.send(&[fe::message(b'1', &[])])?;
            }
            b'B' => {
                bound = statements.get(&text(&body, 1)).cloned().unwrap_or_default();
                session.send(&[fe::message(b'2', &[])])?;
            }
            b'E' => match literal(&bound) {
                Some(value) if value.contains(TRIGGER) => lie(session, answer(value).drain(1..3).collect())?,
                Some(value) => session.send(&answer(value)[1..3])?,
                None => session.send(&[hostile::answer(tag, &body)])?,
            },
            _ => session.send(&[hostile::answer(tag, &body)])?,
        }
    }
}
