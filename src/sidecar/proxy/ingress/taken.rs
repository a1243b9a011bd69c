//! Reading on in a buffer without giving up what is still to be written.

use crate::sidecar::proxy::buffer::{Buffer, Outgoing};

/// A client's buffer while its messages are taken out of it one by one. What is taken stays in the buffer until it
/// has been written.
#[derive(Debug)]
pub struct Taken<'a> {
    buffer: &'a Buffer,
    taken: usize,
}

impl<'a> Taken<'a> {
    /// Begins after the first `taken` bytes.
    pub fn new(buffer: &'a Buffer, taken: usize) -> Self {
        Self { buffer, taken }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        &self.buffer.bytes()[self.taken..]
    }

    /// How much has been taken in all.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The next `n` bytes go nowhere.
    pub fn skip(&mut self, n: usize) {
        self.taken += n;
    }

    /// The next `n` bytes go on as they are.
    pub fn forward(&mut self, n: usize, out: &mut Outgoing) {
        let start = self.buffer.offset() + self.taken;
        out.read(self.buffer, start..start + n);
        self.taken += n;
    }
}
