//! Statements of our own on a server that nobody holds.

use std::future::poll_fn;
use std::io;

use tokio::io::AsyncWriteExt;

use super::PgConn;
use crate::pg::frame;
use crate::pg::message::{self, ErrorFields};
use crate::pool::CloseReason;
use crate::sidecar::proxy::buffer::SMALL;

/// What a statement of our own came back with.
#[derive(Debug, Default)]
pub struct Answer {
    /// Transaction status afterwards.
    pub status: u8,
    /// An ErrorResponse was among the answers.
    pub failed: bool,
    /// The first column of the first row.
    pub value: Option<Vec<u8>>,
}

impl PgConn {
    /// Runs a simple Query and reads to ReadyForQuery. Only for a server that is quiet.
    ///
    /// # Errors
    /// If the connection broke or the server is out of step.
    pub async fn simple(&mut self, sql: &str) -> io::Result<Answer> {
        // Any Query ends the unnamed statement, an empty one too.
        self.cache.forget_unnamed();
        let mut query = Vec::with_capacity(sql.len() + 8);
        message::query(&mut query, sql);
        self.stream.write_all(&query).await?;
        self.stream.flush().await?;
        let mut answer = Answer::default();
        while answer.status == 0 {
            let space = self.input.space(SMALL);
            if space.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer longer than any that was asked for"));
            }
            let n = poll_fn(|cx| self.stream.poll_read(cx, space)).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.filled(n);
            while self.hear(&mut answer)? {}
        }
        if !self.input.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes after ReadyForQuery"));
        }
        self.input.rest();
        self.exchange.assume(answer.status);
        Ok(answer)
    }

    /// Takes one message of an answer; false if there is no whole one.
    fn hear(&mut self, answer: &mut Answer) -> io::Result<bool> {
        let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
        let Some(message) = frame::whole(self.input.bytes()).map_err(|_| invalid("a malformed message"))? else {
            return Ok(false);
        };
        match message.tag {
            b'Z' => answer.status = *message.body.first().ok_or_else(|| invalid("a ReadyForQuery without status"))?,
            b'E' => answer.failed = true,
            b'D' if answer.value.is_none() => answer.value = first_column(message.body),
            b'S' => {
                // Only what sessions begin with can change here: nothing that we ask sets anything.
                if let Some((name, value)) = message::read_parameter_status(message.body) {
                    self.parameters.set(name, value);
                }
            }
            b'T' | b'D' | b'C' | b'I' | b'N' => {}
            _ => return Err(invalid("a message that was not asked for")),
        }
        let total = message.total();
        self.input.consume(total);
        Ok(true)
    }

    /// Takes what a server says while nobody holds it.
    ///
    /// # Errors
    /// If it is not usable any more: it says goodbye, or something that nobody asked for (an answer, a notification of
    /// somebody's LISTEN, a message cut in two).
    pub fn hear_unasked(&mut self) -> Result<(), CloseReason> {
        loop {
            match frame::whole(self.input.bytes()) {
                Ok(Some(message)) => {
                    match message.tag {
                        b'S' => {
                            if let Some((name, value)) = message::read_parameter_status(message.body) {
                                self.parameters.set(name, value);
                            }
                        }
                        b'N' => {}
                        b'E' => {
                            let severity = ErrorFields::parse(message.body).map(|fields| fields.severity);
                            let goodbye = matches!(severity, Some("FATAL" | "PANIC"));
                            return Err(if goodbye { CloseReason::Disconnected } else { CloseReason::Protocol });
                        }
                        _ => return Err(CloseReason::Protocol),
                    }
                    let total = message.total();
                    self.input.consume(total);
                }
                Ok(None) if self.input.is_empty() => return Ok(()),
                Ok(None) | Err(_) => return Err(CloseReason::Protocol),
            }
        }
    }

    /// Says goodbye and waits until the server has ended the connection: only then has it given up its place.
    pub async fn end(&mut self) {
        let mut goodbye = Vec::new();
        message::terminate(&mut goodbye);
        let mut sink = vec![0; SMALL];
        // A server that broke off gives an error here, and its end below.
        if self.stream.write_all(&goodbye).await.is_ok() {
            let _ = poll_fn(|cx| self.stream.poll_shutdown(cx)).await;
        }
        while matches!(poll_fn(|cx| self.stream.poll_read(cx, &mut sink)).await, Ok(n) if n > 0) {}
    }
}

fn first_column(row: &[u8]) -> Option<Vec<u8>> {
    let mut row = message::Reader::new(row);
    let columns = row.i16()?;
    let length = usize::try_from(row.i32()?).ok()?;
    (columns > 0).then(|| row.bytes(length).map(<[u8]>::to_vec)).flatten()
}
