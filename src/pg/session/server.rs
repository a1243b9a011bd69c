//! What is known of one server's session, and what an audit of it found.

use super::label::{Carried, MOST_BYTES};
use super::mine::Customs;
use super::ours::Prepared;
use super::proof::Proof;
use super::scan::Pin;
use crate::pg::message::Reader;

/// One server's session.
#[derive(Debug)]
pub struct Session {
    /// Whether it may serve a client.
    pub proof: Proof,
    /// Statements of our own on it.
    pub ours: Prepared,
    /// The client whose sequence values alone it may still know; none if there may be others'.
    pub sequences_of: Option<i32>,
    /// No client has had it yet.
    pub untouched: bool,
    /// SQL of earlier clients may have prepared statements in it.
    pub sql_prepared: bool,
    /// Statements were prepared in it under a client's own names.
    pub named: bool,
    /// It is not known what statements it has: to be closed after its client.
    pub spoiled: bool,
    /// The client that may have left in it what no scrub undoes: it was not known whether the database has such a thing.
    pub doubtful: Option<i32>,
    /// Its `application_name`, if it is known.
    pub application: Option<Box<str>>,
    /// Custom settings that were set in it at any time.
    pub customs: Customs,
    /// What the audit under way has found.
    pub found: Found,
}

impl Default for Session {
    /// A session that has just begun.
    fn default() -> Self {
        Self {
            proof: Proof::new(Carried::default()),
            ours: Prepared::default(),
            sequences_of: None,
            untouched: true,
            sql_prepared: false,
            named: false,
            spoiled: false,
            doubtful: None,
            application: None,
            customs: Customs::default(),
            found: Found::default(),
        }
    }
}

impl Session {
    /// `DISCARD ALL` was confirmed on it while nobody held it.
    pub fn discarded(&mut self) {
        self.proof.discarded(Carried::default());
        self.ours.forget();
        self.sequences_of = None;
        self.sql_prepared = false;
        self.named = false;
        self.application = None;
    }
}

/// What a server's sessions begin with, as it tells by ParameterStatus.
#[derive(Debug, Default, Clone)]
pub struct Parameters {
    known: Vec<(String, String)>,
    /// One has changed since [`Parameters::take_changed`].
    changed: bool,
}

impl Parameters {
    /// As they were at login.
    pub fn new(known: Vec<(String, String)>) -> Self {
        Self { known, changed: false }
    }

    /// All names and values.
    pub fn all(&self) -> &[(String, String)] {
        &self.known
    }

    /// Takes what the server says now; names that it did not tell at login are nobody's business.
    pub fn set(&mut self, name: &str, value: &str) {
        if name != "application_name"
            && let Some((_, known)) = self.known.iter_mut().find(|(known, _)| known == name)
            && known != value
        {
            value.clone_into(known);
            self.changed = true;
        }
    }

    /// Whether one has changed since this was asked last.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// A setting's name and value; none if there is no such setting.
pub type Answer = (Box<[u8]>, Option<Box<[u8]>>);

/// The answers to an audit.
#[derive(Debug, Default)]
pub struct Found {
    /// Settings by name; without a value there is no such setting.
    pub settings: Vec<Answer>,
    /// What binds the client to the server.
    pub bound: Option<Pin>,
    pub(super) bytes: usize,
    /// There was more than may be kept, or something that can't be understood.
    pub overflow: bool,
}

impl Found {
    /// Takes a DataRow: a kind, a name and a value.
    pub fn row(&mut self, body: &[u8]) {
        if self.take(body).is_none() {
            self.overflow = true;
        }
    }

    fn take(&mut self, body: &[u8]) -> Option<()> {
        let mut row = Reader::new(body);
        if row.i16()? != 3 {
            return None;
        }
        let kind = column(&mut row)??;
        let name = column(&mut row)??;
        let value = column(&mut row)?;
        match kind {
            b"s" => {
                self.bytes += name.len() + value.map_or(0, <[u8]>::len);
                if self.bytes > 4 * MOST_BYTES {
                    return None;
                }
                self.settings.push((name.into(), value.map(Box::from)));
            }
            b"l" => self.bound = self.bound.or(Some(Pin::Listen)),
            b"a" => self.bound = self.bound.or(Some(Pin::AdvisoryLock)),
            b"c" => self.bound = self.bound.or(Some(Pin::Cursor)),
            b"p" => self.bound = self.bound.or(Some(Pin::Prepared)),
            b"t" => self.bound = self.bound.or(Some(Pin::Temporary)),
            _ => return None,
        }
        Some(())
    }
}

/// One column: outer none if it is not there, inner none for NULL.
fn column<'a>(row: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    match usize::try_from(row.i32()?) {
        Ok(length) => Some(Some(row.bytes(length)?)),
        Err(_) => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut body = vec![0, u8::try_from(columns.len()).unwrap_or(0)];
        for column in columns {
            let length = column.map_or(-1, |text| i32::try_from(text.len()).unwrap_or(0));
            body.extend(length.to_be_bytes());
            body.extend_from_slice(column.unwrap_or_default().as_bytes());
        }
        body
    }

    #[test]
    fn a_parameter_changes_once() {
        let mut parameters =
            Parameters::new(vec![("DateStyle".into(), "ISO".into()), ("application_name".into(), "a".into())]);
        parameters.set("DateStyle", "ISO");
        parameters.set("unknown", "x");
        parameters.set("application_name", "b");
        assert!(!parameters.take_changed());
        parameters.set("DateStyle", "German");
        assert!(parameters.take_changed() && !parameters.take_changed());
        assert_eq!(parameters.all()[0].1, "German");
    }

    #[test]
    fn rows_tell_settings_and_what_binds() {
        let mut found = Found::default();
        found.row(&row(&[Some("s"), Some("work_mem"), Some("1MB")]));
        found.row(&row(&[Some("s"), Some("app.x"), None]));
        found.row(&row(&[Some("t"), Some(""), Some("")]));
        found.row(&row(&[Some("l"), Some(""), Some("")]));
        assert_eq!(found.settings[0].1.as_deref(), Some(&b"1MB"[..]));
        assert_eq!(found.settings[1].1, None);
        assert_eq!(found.bound, Some(Pin::Temporary));
        assert!(!found.overflow);
    }

    #[test]
    fn what_is_not_understood_or_too_much_is_noted() {
        for body in [row(&[Some("?"), Some(""), Some("")]), row(&[Some("s")]), b"\0\x03\0\0\0\x09s".to_vec()] {
            let mut found = Found::default();
            found.row(&body);
            assert!(found.overflow);
        }
        let mut found = Found::default();
        found.row(&row(&[Some("s"), Some("a"), Some(&"x".repeat(4 * MOST_BYTES))]));
        assert!(found.overflow && found.settings.is_empty());
    }
}
