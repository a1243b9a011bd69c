//! Memory for bytes in flight: lent from a free list while there are any, so an idle client keeps none.

use std::cell::RefCell;
use std::io::IoSlice;
use std::ops::Range;

/// What a connection starts with: most messages fit several times.
pub const SMALL: usize = 16 * 1024;
/// What a connection gets while large results or parameters pass through.
pub const LARGE: usize = 128 * 1024;

/// How many of each size one thread keeps for the next user.
const KEPT_SMALL: usize = 256;
const KEPT_LARGE: usize = 16;

/// The free lists of one thread: what was used last is lent first, as the processor still has it at hand.
#[derive(Debug)]
struct Free {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

thread_local! {
    static FREE: RefCell<Free> = const { RefCell::new(Free { small: Vec::new(), large: Vec::new() }) };
}

fn get(size: usize) -> Box<[u8]> {
    let kept = FREE.try_with(|free| match size {
        SMALL => free.borrow_mut().small.pop(),
        LARGE => free.borrow_mut().large.pop(),
        _ => None,
    });
    // A thread that ends has no lists any more.
    kept.ok().flatten().unwrap_or_else(|| vec![0; size].into())
}

fn put(memory: Box<[u8]>) {
    let _ = FREE.try_with(|free| {
        let free = &mut *free.borrow_mut();
        let (list, kept) = match memory.len() {
            SMALL => (&mut free.small, KEPT_SMALL),
            LARGE => (&mut free.large, KEPT_LARGE),
            _ => return,
        };
        if list.len() < kept {
            list.push(memory);
        }
    });
}

/// Bytes read and not yet passed on. Without any it owns no memory once [`Buffer::rest`] was called.
#[derive(Debug, Default)]
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
    /// The last read filled all the space there was: more is likely to come than fits.
    full: bool,
}

impl Buffer {
    /// With bytes that were read elsewhere.
    pub fn holding(bytes: &[u8]) -> Self {
        let mut buffer = Self::default();
        if !bytes.is_empty() {
            let mut memory = get(if bytes.len() <= SMALL { SMALL } else { bytes.len() });
            memory[..bytes.len()].copy_from_slice(bytes);
            buffer.memory = memory;
            buffer.end = bytes.len();
        }
        buffer
    }

    /// What has been read and not consumed.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// How much that is.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The bytes in a range of the memory, as given by [`Buffer::offset`].
    pub fn range(&self, range: Range<usize>) -> &[u8] {
        &self.memory[range]
    }

    /// Where the unread bytes begin in the memory.
    pub fn offset(&self) -> usize {
        self.start
    }

    /// The first `n` bytes are done with.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// These bytes come before all that it holds: they are to be taken again.
    pub fn put_back(&mut self, bytes: &[u8]) {
        let all = [bytes, self.bytes()].concat();
        put(std::mem::take(&mut self.memory));
        *self = Self::holding(&all);
    }

    /// Room for another read: memory from the free list at first, the larger size when a read has filled the smaller one,
    /// and for one message that must be held whole up to `max` bytes. Empty when `max` is reached.
    pub fn space(&mut self, max: usize) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory = get(if self.full { LARGE } else { SMALL });
        } else if self.is_empty() && self.full && self.memory.len() < LARGE {
            put(std::mem::replace(&mut self.memory, get(LARGE)));
        }
        if self.start > 0 && self.memory.len() - self.end < self.memory.len() / 4 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.memory.len() && self.memory.len() < max {
            self.grow(max);
        }
        &mut self.memory[self.end..]
    }

    fn grow(&mut self, max: usize) {
        let size = if self.memory.len() < LARGE { LARGE } else { (self.memory.len() * 2).min(max.max(LARGE)) };
        let mut larger = get(size);
        larger[..self.end].copy_from_slice(&self.memory[..self.end]);
        put(std::mem::replace(&mut self.memory, larger));
    }

    /// A read has put `n` bytes into [`Buffer::space`].
    pub fn filled(&mut self, n: usize) {
        self.end += n;
        self.full = self.end == self.memory.len();
    }

    /// Gives the memory back if there is nothing in it.
    pub fn rest(&mut self) {
        if self.is_empty() && !self.memory.is_empty() {
            put(std::mem::take(&mut self.memory));
            self.full = false;
            self.start = 0;
            self.end = 0;
        }
    }
}

#[derive(Debug, Clone)]
enum Segment {
    /// A range of the buffer that was read.
    Read(Range<usize>),
    /// A range of the bytes that we made.
    Made(Range<usize>),
}

/// What is to be written next: pieces of a [`Buffer`] as they were read, and pieces of our own between them, in order,
/// leaving in as few writes as possible and copied only where copying is cheaper.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// The first `gone` of them are written.
    segments: Vec<Segment>,
    gone: usize,
    made: Vec<u8>,
}

/// Pieces shorter than this are copied next to a piece of our own rather than written from where they lie.
const COPIED: usize = 1024;
/// Written pieces that are kept in the list before those behind them move up.
const KEPT_GONE: usize = 32;
/// Capacity of our own bytes that is kept between uses.
const KEPT_MADE: usize = 8 * 1024;

impl Outgoing {
    /// Whether all is written.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds a range of what was read.
    #[inline]
    pub fn read(&mut self, buffer: &Buffer, range: Range<usize>) {
        match self.segments.last_mut() {
            Some(Segment::Read(last)) if last.end == range.start => last.end = range.end,
            _ => self.begin_read(buffer, range),
        }
    }

    fn begin_read(&mut self, buffer: &Buffer, range: Range<usize>) {
        match self.segments.last_mut() {
            Some(Segment::Made(last)) if range.len() < COPIED => {
                self.made.extend_from_slice(buffer.range(range));
                last.end = self.made.len();
            }
            _ if range.start == range.end => {}
            _ => self.segments.push(Segment::Read(range)),
        }
    }

    /// Adds bytes of our own.
    pub fn make(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.made.len();
        fill(&mut self.made);
        let end = self.made.len();
        match self.segments.last_mut() {
            Some(Segment::Made(last)) => last.end = end,
            _ if start == end => {}
            _ => self.segments.push(Segment::Made(start..end)),
        }
    }

    /// Bytes of our own that are held until all is written.
    pub fn made(&self) -> usize {
        self.made.len()
    }

    /// The one piece there is to write, if there is just one: nearly always.
    pub fn only<'a>(&'a self, buffer: &'a Buffer) -> Option<&'a [u8]> {
        match &self.segments[self.gone..] {
            [Segment::Read(range)] => Some(buffer.range(range.clone())),
            [Segment::Made(range)] => Some(&self.made[range.clone()]),
            _ => None,
        }
    }

    /// The first pieces, as a gathering write wants them.
    pub fn slices<'a>(&'a self, buffer: &'a Buffer) -> ([IoSlice<'a>; 8], usize) {
        let mut slices = [IoSlice::new(&[]); 8];
        let mut count = 0;
        for (slice, segment) in slices.iter_mut().zip(&self.segments[self.gone..]) {
            *slice = IoSlice::new(match segment {
                Segment::Read(range) => buffer.range(range.clone()),
                Segment::Made(range) => &self.made[range.clone()],
            });
            count += 1;
        }
        (slices, count)
    }

    /// `n` bytes were written.
    pub fn written(&mut self, mut n: usize) {
        if n == 0 {
            return;
        }
        while n > 0 {
            let segment = self.segments.get_mut(self.gone);
            let Some(Segment::Read(range) | Segment::Made(range)) = segment else { break };
            let part = n.min(range.len());
            range.start += part;
            n -= part;
            if range.start == range.end {
                self.gone += 1;
            }
        }
        if self.gone == self.segments.len() {
            self.segments.clear();
            self.gone = 0;
            self.made.clear();
            if self.made.capacity() > KEPT_MADE {
                self.made.shrink_to(KEPT_MADE);
            }
        } else if self.gone > KEPT_GONE {
            self.segments.drain(..std::mem::take(&mut self.gone));
        }
    }

    /// Everything that is not written yet, copied; nothing is left.
    pub fn take(&mut self, buffer: &Buffer) -> Vec<u8> {
        let mut all = Vec::new();
        if self.is_empty() {
            return all;
        }
        for segment in self.segments.drain(std::mem::take(&mut self.gone)..) {
            all.extend_from_slice(match &segment {
                Segment::Read(range) => buffer.range(range.clone()),
                Segment::Made(range) => &self.made[range.clone()],
            });
        }
        self.clear();
        all
    }

    /// Forgets what is not written.
    pub fn clear(&mut self) {
        self.segments.clear();
        self.gone = 0;
        self.made.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(buffer: &mut Buffer, bytes: &[u8]) {
        let space = buffer.space(SMALL);
        space[..bytes.len()].copy_from_slice(bytes);
        buffer.filled(bytes.len());
    }

    #[test]
    fn an_empty_buffer_owns_nothing() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, b"abc");
        buffer.rest();
        assert_eq!(buffer.bytes(), b"abc", "rest keeps what is there");
        buffer.consume(3);
        buffer.rest();
        assert!(buffer.memory.is_empty());
        assert_eq!(FREE.with_borrow(|free| free.small.len()), 1);
    }

    #[test]
    fn a_full_read_makes_the_next_one_larger() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, &[1; SMALL]);
        buffer.consume(SMALL);
        assert_eq!(buffer.space(SMALL).len(), LARGE);
    }

    #[test]
    fn a_message_to_be_held_whole_grows_to_the_maximum_and_no_further() {
        let mut buffer = Buffer::default();
        let max = 3 * LARGE;
        let mut total = 0;
        loop {
            let n = buffer.space(max).len();
            if n == 0 {
                break;
            }
            buffer.filled(n);
            total += n;
        }
        assert_eq!(total, max);
        assert_eq!(buffer.len(), max);
    }

    #[test]
    fn pieces_keep_their_order_and_small_ones_are_joined() {
        let mut buffer = Buffer::default();
        fill(&mut buffer, b"0123456789");
        let mut out = Outgoing::default();
        out.read(&buffer, 0..2);
        out.read(&buffer, 2..4);
        out.make(|made| made.extend_from_slice(b"ab"));
        out.read(&buffer, 6..8);
        out.make(|made| made.extend_from_slice(b"c"));
        assert_eq!(out.slices(&buffer).1, 2);
        out.written(3);
        assert_eq!(out.take(&buffer), b"3ab67c");
        assert!(out.is_empty());
    }
}
