//! What messages say: parsers borrow from a whole body.

use std::borrow::Cow;

use crate::pg::error::SqlState;

/// Reads the fields of a body in their order; `None` as soon as one is not there whole.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `body` from its beginning.
    pub fn new(body: &'a [u8]) -> Self {
        Reader(body)
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Two bytes, big-endian.
    pub fn i16(&mut self) -> Option<i16> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i16::from_be_bytes(*value))
    }

    /// Four bytes, big-endian.
    pub fn i32(&mut self) -> Option<i32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*value))
    }

    /// `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (value, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(value)
    }

    /// A text up to its NUL, without it.
    pub fn cstr(&mut self) -> Option<&'a [u8]> {
        let text = self.bytes(memchr::memchr(0, self.0)?)?;
        self.u8()?;
        Some(text)
    }

    /// What has not been read.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// An ErrorResponse or NoticeResponse. What the server left out is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorFields<'a> {
    /// `ERROR`, `FATAL`, …: never translated if the server says so (since 9.6), else as it came.
    pub severity: &'a str,
    /// The SQLSTATE as it came.
    pub code: &'a str,
    /// What happened, for people. Bytes that are not UTF-8 are replaced.
    pub message: Cow<'a, str>,
    /// More about it.
    pub detail: Cow<'a, str>,
    /// What to do about it.
    pub hint: Cow<'a, str>,
    /// The function of the server's source that said it.
    pub routine: &'a str,
}

impl<'a> ErrorFields<'a> {
    /// Reads a body; `None` if there is not one field in it.
    pub fn parse(body: &'a [u8]) -> Option<ErrorFields<'a>> {
        let (mut fields, mut translated, mut any) = (ErrorFields::default(), "", false);
        let mut body = Reader::new(body);
        while let Some(field @ 1..) = body.u8() {
            let Some(text) = body.cstr() else { break };
            any = true;
            let plain = || str::from_utf8(text).unwrap_or_default();
            match field {
                b'S' => translated = plain(),
                b'V' => fields.severity = plain(),
                b'C' => fields.code = plain(),
                b'M' => fields.message = String::from_utf8_lossy(text),
                b'D' => fields.detail = String::from_utf8_lossy(text),
                b'H' => fields.hint = String::from_utf8_lossy(text),
                b'R' => fields.routine = plain(),
                _ => {}
            }
        }
        if fields.severity.is_empty() {
            fields.severity = translated;
        }
        any.then_some(fields)
    }

    /// The code, if it has the form of one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        SqlState::parse(self.code)
    }
}

/// What a server asks for or says while it authenticates us (tag `R`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Done.
    Ok,
    /// The password in clear.
    Cleartext,
    /// The password hashed by md5 with this salt.
    Md5([u8; 4]),
    /// SASL by one of these mechanisms.
    Sasl(Vec<&'a str>),
    /// The server's next SASL message.
    SaslContinue(&'a [u8]),
    /// The server's last SASL message.
    SaslFinal(&'a [u8]),
    /// A method that is not spoken here (Kerberos, GSSAPI, SSPI, …), by its number.
    Other(i32),
}

/// How many SASL mechanisms are looked at: PostgreSQL offers at most three.
pub(super) const MAX_MECHANISMS: usize = 16;

impl<'a> Authentication<'a> {
    /// Reads a body; `None` if it is cut short.
    pub fn parse(body: &'a [u8]) -> Option<Authentication<'a>> {
        let mut body = Reader::new(body);
        Some(match body.i32()? {
            0 => Authentication::Ok,
            3 => Authentication::Cleartext,
            5 => Authentication::Md5(*body.rest().first_chunk()?),
            10 => {
                let mut mechanisms = Vec::new();
                while mechanisms.len() < MAX_MECHANISMS {
                    match body.cstr()? {
                        [] => break,
                        name => mechanisms.push(str::from_utf8(name).unwrap_or_default()),
                    }
                }
                Authentication::Sasl(mechanisms)
            }
            11 => Authentication::SaslContinue(body.rest()),
            12 => Authentication::SaslFinal(body.rest()),
            other => Authentication::Other(other),
        })
    }
}

/// Reads ParameterStatus: name and value. `None` if it is malformed or not UTF-8 (the parameters that a server
/// reports are ASCII but for `application_name`, which PostgreSQL cleans).
pub fn read_parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let mut body = Reader::new(body);
    let (name, value) = (body.cstr()?, body.cstr()?);
    Some((str::from_utf8(name).ok()?, str::from_utf8(value).ok()?))
}

/// Reads BackendKeyData: process id and key. `None` if it is malformed or the key is longer than the 256 bytes
/// that protocol 3.2 allows.
pub fn read_backend_key_data(body: &[u8]) -> Option<(i32, &[u8])> {
    let mut body = Reader::new(body);
    let pid = body.i32()?;
    (body.rest().len() <= crate::pg::startup::MAX_CANCEL_KEY).then_some((pid, body.rest()))
}
