//! What a client sent behind a preface, kept until that is confirmed: if it fails, the server has skipped these bytes, and
//! another server gets them.

/// The most that is kept; a longer batch is not sent again.
const MOST: usize = 64 * 1024;

/// One client's bytes that no server has confirmed to take.
#[derive(Debug, Default)]
pub struct Retry {
    bytes: Vec<u8>,
    /// There was more than is kept.
    incomplete: bool,
    /// They were sent again already.
    spent: bool,
}

impl Retry {
    /// The client's next bytes were taken.
    pub fn keep(&mut self, bytes: &[u8]) {
        self.incomplete |= self.bytes.len() + bytes.len() > MOST;
        if self.incomplete {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// The bytes, to be sent again: all of them, and once.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let again = !std::mem::replace(&mut self.spent, true) && !self.incomplete;
        self.incomplete = false;
        let bytes = std::mem::take(&mut self.bytes);
        again.then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_sent_again_once_and_whole_or_not_at_all() {
        let mut retry = Retry::default();
        retry.keep(b"a");
        retry.keep(b"b");
        assert_eq!(retry.take().as_deref(), Some(&b"ab"[..]));
        retry.keep(b"ab");
        assert_eq!(retry.take(), None, "the second server refused it, too");
        let mut retry = Retry::default();
        retry.keep(b"c");
        retry.keep(&vec![0; MOST]);
        assert_eq!(retry.take(), None, "too long");
    }
}
