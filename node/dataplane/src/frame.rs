//! The frame at hand, somewhere in a larger buffer.

use std::{net::SocketAddr, ops::Range};

use steadfast_packet::{
    Encapsulated, FRAME_LEN_MIN, Mac, NoSpace, Outer, Packet, Pieces, add_proxy, add_toa, cut,
    cut_payload, encapsulate, splice,
};

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

    /// Puts `packet`, which this frame carries, into a tunnel: the frame grows at its front, and
    /// offsets in `packet` no longer count from its start.
    pub(crate) fn encapsulate(&mut self, packet: &Packet, outer: &Outer) -> Result<(), NoSpace> {
        let Encapsulated { start, len } = encapsulate(self.buffer, self.start, packet, outer)?;
        (self.start, self.len) = (start, len);
        Ok(())
    }

    /// Adds the client's address to `packet`, which this frame carries, as a TCP option: the frame
    /// grows at its front.
    pub(crate) fn add_toa(&mut self, packet: &Packet, client: SocketAddr) -> Result<(), NoSpace> {
        let start = add_toa(self.buffer, self.start, packet, client)?;
        self.len += self.start - start;
        self.start = start;
        Ok(())
    }

    /// Puts a PROXY header before the payload of `packet`: the frame grows at its front.
    pub(crate) fn add_proxy(
        &mut self,
        packet: &Packet,
        client: SocketAddr,
        vip: SocketAddr,
    ) -> Result<(), NoSpace> {
        let start = add_proxy(self.buffer, self.start, packet, client, vip)?;
        self.len += self.start - start;
        self.start = start;
        Ok(())
    }

    /// Puts more octets in the place of some of the payload of `packet`, which this frame carries: the
    /// frame grows at its front. Gives what the packet is then.
    pub(crate) fn splice(
        &mut self,
        packet: &Packet,
        octets: Range<usize>,
        new: &[u8],
    ) -> Result<Packet, NoSpace> {
        let (start, packet) = splice(self.buffer, self.start, packet, octets, new)?;
        self.len += self.start - start;
        self.start = start;
        Ok(packet)
    }

    /// Takes off what `packet`, which this frame carries, has from the offset `end` on; gives what is
    /// left of it.
    pub(crate) fn cut(&mut self, packet: &Packet, end: usize) -> Packet {
        let cut = cut(self.bytes(), packet, end);
        self.len = self.len.min(cut.end);
        self.pad();
        cut
    }

    /// Takes the payload off `packet`, which this frame carries; gives what is left of it.
    pub(crate) fn cut_payload(&mut self, packet: &Packet) -> Packet {
        let cut = cut_payload(self.bytes(), packet);
        self.len = self.len.min(cut.end);
        cut
    }

    /// Leaves of `packet`, which this frame carries, the first piece; gives it.
    pub(crate) fn keep_first(&mut self, pieces: &Pieces) -> Result<Packet, NoSpace> {
        let first = pieces.keep_first(self.bytes())?;
        self.len = self.len.min(first.end);
        Ok(first)
    }

    /// Makes the frame as long as Ethernet wants it.
    pub(crate) fn pad(&mut self) {
        let end = self.start + FRAME_LEN_MIN;
        if let Some(padding) = self.buffer.get_mut(self.start + self.len..end) {
            padding.fill(0);
            self.len = FRAME_LEN_MIN;
        }
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
