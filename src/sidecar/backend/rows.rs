//! Questions of our own with answers of many rows, which are looked at as they come and not kept.

use std::future::poll_fn;
use std::io;

use tokio::io::AsyncWriteExt;

use super::PgConn;
use crate::pg::frame;
use crate::pg::message::{self, ErrorFields};

/// Read at once.
const CHUNK: usize = 64 * 1024;

/// How a question of our own ended.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Transaction status afterwards.
    pub status: u8,
    /// What the server said was wrong: its words and the SQLSTATE.
    pub error: Option<String>,
}

impl PgConn {
    /// Runs a simple Query of ours, of whatever many statements, and hands over each row of `N` columns; NULL is empty.
    /// Holds one message at a time, of at most `most` bytes. Only for a server that is quiet.
    ///
    /// # Errors
    /// If the connection broke, the server is out of step, or a message is longer. It must be closed then.
    pub async fn rows<const N: usize>(
        &mut self,
        sql: &str,
        most: usize,
        mut row: impl FnMut([&[u8]; N]),
    ) -> io::Result<Ended> {
        if !self.input.is_empty() {
            return Err(invalid("bytes that nobody asked for"));
        }
        let mut query = Vec::with_capacity(sql.len() + 8);
        message::query(&mut query, sql);
        self.stream.write_all(&query).await?;
        self.stream.flush().await?;
        let (mut input, mut start, mut ended) = (Vec::new(), 0, Ended::default());
        while ended.status == 0 {
            input.drain(..start);
            let used = input.len();
            if used >= most {
                return Err(invalid("an answer longer than any that was asked for"));
            }
            input.resize(used + CHUNK, 0);
            let n = poll_fn(|cx| self.stream.poll_read(cx, &mut input[used..])).await?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            input.truncate(used + n);
            start = 0;
            while let Some(message) = frame::whole(&input[start..]).map_err(|_| invalid("a malformed message"))? {
                if ended.status != 0 {
                    return Err(invalid("bytes after ReadyForQuery"));
                }
                match message.tag {
                    b'D' => row(columns(message.body).ok_or_else(|| invalid("a row of another shape"))?),
                    b'Z' => ended.status = *message.body.first().ok_or_else(|| invalid("no status"))?,
                    b'E' => ended.error = Some(describe(message.body)),
                    // What a client has set shines through here: it is no news.
                    b'S' => {}
                    b'T' | b'C' | b'I' | b'N' => {}
                    _ => return Err(invalid("a message that was not asked for")),
                }
                start += message.total();
            }
            // Clients of this thread come first.
            tokio::task::yield_now().await;
        }
        if start < input.len() {
            return Err(invalid("bytes after ReadyForQuery"));
        }
        self.exchange.assume(ended.status);
        Ok(ended)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn describe(body: &[u8]) -> String {
    ErrorFields::parse(body)
        .map_or_else(|| "an error".to_owned(), |fields| format!("{} (SQLSTATE {})", fields.message, fields.code))
}

fn columns<const N: usize>(row: &[u8]) -> Option<[&[u8]; N]> {
    let mut row = message::Reader::new(row);
    if usize::try_from(row.i16()?).ok()? != N {
        return None;
    }
    let mut columns = [&[][..]; N];
    for column in &mut columns {
        if let Ok(length) = usize::try_from(row.i32()?) {
            *column = row.bytes(length)?;
        }
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_shape_that_was_asked_for() {
        let row = [&b"\0\x02"[..], b"\0\0\0\x01a", b"\xff\xff\xff\xff"].concat();
        assert_eq!(columns::<2>(&row), Some([&b"a"[..], b""]));
        assert_eq!(columns::<3>(&row), None);
        assert_eq!(columns::<2>(&row[..row.len() - 1]), None);
        assert_eq!(columns::<2>(b"\0\x02\0\0\0\x09a"), None);
        assert_eq!(columns::<1>(b""), None);
    }
}
