//! Frames: a tag, a length, a body (<https://www.postgresql.org/docs/current/protocol-message-formats.html>).
//!
//! Only the header is looked at here. A pooler copies most frames without reading their bodies.

use thiserror::Error;

/// Bytes of a header: the tag and four bytes of length.
pub const HEADER: usize = 5;

/// The longest body that is believed, in bytes: 1 GiB. PostgreSQL allocates no more for any message
/// (`MaxAllocSize` in its `memutils.h`), so a longer one is a lie or a lost place in the stream.
pub const MAX_BODY: usize = 1 << 30;

/// The longest body of a client's Query, Parse, Bind, FunctionCall or CopyData, in bytes: PostgreSQL ends a session on a
/// longer one (`PQ_LARGE_MESSAGE_LIMIT` in its libpq.h).
const MAX_REQUEST: usize = (1 << 30) - 2 - 4;
/// Bytes by which a Parse or a Bind may become longer: a statement's name of ours in place of the client's.
const NAME: usize = 64;
/// Likewise of all others (`PQ_SMALL_MESSAGE_LIMIT`, since PostgreSQL 14).
const MAX_SMALL_REQUEST: usize = 10_000 - 4;

/// What a frame's first five bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The message's type, e.g. `b'Q'`. Any byte: whether it makes sense is for the reader to say.
    pub tag: u8,
    /// Bytes that follow the header, at most [`MAX_BODY`].
    pub body: usize,
}

impl Header {
    /// Bytes of the whole frame, header and body.
    #[inline]
    pub fn total(self) -> usize {
        HEADER + self.body
    }

    /// A client's message: is it one that the server would read?
    ///
    /// # Errors
    /// [`FrameError::TooLong`], where PostgreSQL would end the session.
    #[inline]
    pub fn is_request(self) -> Result<(), FrameError> {
        let most = match self.tag {
            b'P' | b'B' => MAX_REQUEST - NAME,
            b'Q' | b'F' | b'd' => MAX_REQUEST,
            _ => MAX_SMALL_REQUEST,
        };
        if self.body <= most {
            return Ok(());
        }
        Err(FrameError::TooLong(i32::try_from(self.body + 4).unwrap_or(i32::MAX)))
    }
}

/// A length that no honest peer sends. The place of the next frame is unknown, so the connection must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length, which counts its own four bytes, is below four (or negative).
    #[error("invalid message length {0}: it counts its own four bytes")]
    TooShort(i32),
    /// The body would be longer than [`MAX_BODY`], or than PostgreSQL reads of that type.
    #[error("invalid message length {0}: PostgreSQL has no message of its type that is so long")]
    TooLong(i32),
}

/// Reads the header at the start of `buf`.
///
/// `None` means that fewer than five bytes are there yet.
///
/// # Errors
/// When the length cannot be true.
#[inline]
pub fn header(buf: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some(&[tag, a, b, c, d]) = buf.first_chunk::<HEADER>() else { return Ok(None) };
    let length = i32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length).ok().and_then(|length| length.checked_sub(4)) {
        None => Err(FrameError::TooShort(length)),
        Some(body) if body > MAX_BODY => Err(FrameError::TooLong(length)),
        Some(body) => Ok(Some(Header { tag, body })),
    }
}

/// A frame that is there whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's type.
    pub tag: u8,
    /// What follows the header.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the whole frame, header and body.
    #[inline]
    pub fn total(self) -> usize {
        HEADER + self.body.len()
    }
}

/// The first frame of `buf`; `None` while it is not complete.
///
/// # Errors
/// When the length cannot be true.
#[inline]
pub fn whole(buf: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    let Some(header) = header(buf)? else { return Ok(None) };
    Ok(buf.get(HEADER..header.total()).map(|body| Frame { tag: header.tag, body }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn with_length(length: i32) -> Vec<u8> {
        let mut buf = vec![b'Q'];
        buf.extend(length.to_be_bytes());
        buf
    }

    #[test]
    fn too_few_bytes_are_not_an_error() {
        let buf = with_length(8);
        for n in 0..HEADER {
            assert_eq!(header(&buf[..n]), Ok(None));
        }
        assert_eq!(header(&buf), Ok(Some(Header { tag: b'Q', body: 4 })));
    }

    #[test]
    fn lengths_at_their_bounds() {
        assert_eq!(header(&with_length(4)), Ok(Some(Header { tag: b'Q', body: 0 })));
        for short in [3, 0, -1, i32::MIN] {
            assert_eq!(header(&with_length(short)), Err(FrameError::TooShort(short)));
        }
        let most = i32::try_from(MAX_BODY + 4).unwrap();
        assert_eq!(header(&with_length(most)).unwrap().unwrap().body, MAX_BODY);
        for long in [most + 1, i32::MAX] {
            assert_eq!(header(&with_length(long)), Err(FrameError::TooLong(long)));
        }
    }

    #[test]
    fn a_clients_messages_are_as_long_as_postgresql_reads_them() {
        let is_request = |tag, body| Header { tag, body }.is_request().is_ok();
        for tag in *b"QFd" {
            assert!(is_request(tag, MAX_REQUEST) && !is_request(tag, MAX_REQUEST + 1));
        }
        for tag in *b"PB" {
            assert!(is_request(tag, MAX_REQUEST - NAME) && !is_request(tag, MAX_REQUEST - NAME + 1));
        }
        for tag in *b"DECSHcfX" {
            assert!(is_request(tag, MAX_SMALL_REQUEST) && !is_request(tag, MAX_SMALL_REQUEST + 1));
        }
        assert_eq!(Header { tag: b'S', body: 9_997 }.is_request(), Err(FrameError::TooLong(10_001)));
    }

    #[test]
    fn a_whole_frame_in_one_byte_pieces() {
        let mut buf = with_length(7);
        buf.extend(b"abcZ");
        for n in 0..8 {
            assert_eq!(whole(&buf[..n]), Ok(None));
        }
        assert_eq!(whole(&buf), Ok(Some(Frame { tag: b'Q', body: b"abc" })));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some(frame)) = whole(&bytes) {
                prop_assert!(frame.total() <= bytes.len());
                prop_assert_eq!(frame.body, &bytes[HEADER..frame.total()]);
            }
        }
    }
}
