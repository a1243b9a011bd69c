//! Reading on in a buffer without giving up what is still to be written.

use crate::sidecar::proxy::buffer::{Buffer, Outgoing};

/// A client's buffer while its messages are taken out of it one by one. What is taken stays in the buffer until it
/// has been written.
#[derive(Debug)]
pub struct Taken<'a> {
    buffer: &'a Buffer,
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Taken<'a> {
    /// Begins after the first `taken` bytes.
    pub fn new(buffer: &'a Buffer, taken: usize) -> Self {
        Self { buffer, rest: &buffer.bytes()[taken..], taken }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How much has been taken in all.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The next `n` bytes go nowhere.
    pub fn skip(&mut self, n: usize) {
        self.taken += n;
        self.rest = self.rest.get(n..).unwrap_or_default();
    }

    /// The next `n` bytes go on as they are.
    pub fn forward(&mut self, n: usize, out: &mut Outgoing) {
        let start = self.buffer.offset() + self.taken;
        out.read(self.buffer, start..start + n);
        self.skip(n);
    }
}
