//! The frame at hand, somewhere in a larger buffer.

use steadfast_packet::Mac;

/// A frame that is being worked on.
pub(crate) struct Frame<'a> {
    pub(crate) now_ns: u64,
    pub(crate) port: u16,
    pub(crate) src_mac: Mac,
    buffer: &'a mut [u8],
    start: usize,
    len: usize,
}

impl<'a> Frame<'a> {
    /// The frame of `len` bytes at `start` of `buffer`; one that leaves the buffer is empty.
    pub(crate) fn new(
        now_ns: u64,
        port: u16,
        buffer: &'a mut [u8],
        start: usize,
        len: usize,
    ) -> Self {
        let fits = start.checked_add(len).is_some_and(|end| end <= buffer.len());
        let (start, len) = if fits { (start, len) } else { (0, 0) };
        Self { now_ns, port, src_mac: [0; 6], buffer, start, len }
    }

    /// What was received.
    pub(crate) fn received(&self) -> &[u8] {
        self.buffer.get(self.start..self.start + self.len).unwrap_or_default()
    }

    /// From the start of the frame to the end of the buffer: an answer may be longer than what it
    /// answers.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.start..).unwrap_or_default()
    }

    /// Where the frame starts in the buffer.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Its length.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
