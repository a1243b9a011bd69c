//! Messages of a server, as a test looks at them.

use std::fmt;

/// One message of a server.
#[derive(Clone)]
pub struct Message {
    /// Its tag.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse, or an empty text.
    pub fn field(&self, field: u8) -> String {
        let found = self.body.split(|byte| *byte == 0).find(|part| part.first() == Some(&field));
        found.map(|part| String::from_utf8_lossy(&part[1..]).into_owned()).unwrap_or_default()
    }

    /// The columns of a DataRow, as text.
    pub fn row(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D', "not a DataRow: {self:?}");
        let count = u16::from_be_bytes([self.body[0], self.body[1]]);
        let mut rest = &self.body[2..];
        let columns = (0..count).map(|_| {
            let length = i32::from_be_bytes(rest[..4].try_into().unwrap());
            rest = &rest[4..];
            let length = usize::try_from(length).ok()?;
            let (value, tail) = rest.split_at(length);
            rest = tail;
            Some(String::from_utf8_lossy(value).into_owned())
        });
        columns.collect()
    }

    /// The zero-terminated texts of the body.
    pub fn texts(&self) -> Vec<String> {
        let body = self.body.strip_suffix(b"\0").unwrap_or(&self.body);
        body.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    }

    /// The part of a message that a test cares about (`Client::expect` compares it).
    pub fn gist(&self) -> String {
        match self.tag {
            b'E' | b'N' => self.field(b'C'),
            b'Z' => String::from_utf8_lossy(&self.body).into_owned(),
            b'C' => self.texts()[0].replace(' ', "_"),
            b'D' => self.row().iter().map(|v| v.as_deref().unwrap_or("~")).collect::<Vec<_>>().join("|"),
            b'd' => String::from_utf8_lossy(&self.body).trim_end().replace('\t', "|"),
            _ => String::new(),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.tag))?;
        match self.tag {
            b'E' | b'N' => write!(f, ":{}({})", self.field(b'C'), self.field(b'M')),
            b'S' => write!(f, "({})", self.texts().join("=")),
            _ if self.gist().is_empty() => Ok(()),
            _ => write!(f, ":{:.60}", self.gist()),
        }
    }
}

/// What an ErrorResponse says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// FATAL, ERROR, …
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// For people.
    pub message: String,
}

impl ServerError {
    /// Takes an ErrorResponse apart; one without its required fields fails the test.
    pub fn of(message: &Message) -> Self {
        let error = Self { severity: message.field(b'V'), code: message.field(b'C'), message: message.field(b'M') };
        assert_eq!(error.code.len(), 5, "an error without an SQLSTATE: {message:?}");
        assert!(!error.severity.is_empty() && !error.message.is_empty(), "an incomplete error: {error:?}");
        error
    }
}
