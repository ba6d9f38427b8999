//! Whole Ethernet frames of one EtherType through the kernel: beacons and announcements.
//!
//! Guarantees: non-blocking; never returns the node's own frames; tells when a frame did not fit
//! the buffer. Not for the packet path: every frame costs a system call. See packet(7).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use crate::{
    abi::{self, PacketMreq},
    sys,
};

/// Every EtherType (ETH_P_ALL, include/uapi/linux/if_ether.h), for captures.
pub const ETHERTYPE_ALL: u16 = 0x0003;

/// What [`PacketSocket::receive`] got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub len: usize,
    /// Bytes the frame had: more than `len` when the buffer was too small.
    pub frame_len: usize,
}

/// A raw AF_PACKET socket, bound to one interface and EtherType.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ifindex: u32,
}

impl PacketSocket {
    /// Opens a socket for frames of `ethertype` (host byte order) on the interface.
    ///
    /// # Errors
    ///
    /// Missing CAP_NET_RAW, or no such interface.
    pub fn bind(ifindex: u32, ethertype: u16) -> io::Result<Self> {
        // Protocol 0 first: a socket with a protocol hears all interfaces until it is bound.
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK;
        let fd = sys::socket(libc::AF_PACKET, kind, 0)?;
        sys::set_option(fd.as_fd(), libc::SOL_PACKET, abi::PACKET_IGNORE_OUTGOING, &1i32)?;
        // SAFETY: `sockaddr_ll` is integers; all-zero is a valid value of it.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = ifindex as i32;
        sys::bind(fd.as_fd(), &address)?;
        Ok(Self { fd, ifindex })
    }

    /// Lets the interface hand up frames to a multicast (or a second unicast) address.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn join(&self, mac: [u8; 6]) -> io::Result<()> {
        let is_multicast = mac[0] & 1 == 1;
        let kind = if is_multicast { libc::PACKET_MR_MULTICAST } else { libc::PACKET_MR_UNICAST };
        let mut request = PacketMreq {
            ifindex: self.ifindex as i32,
            kind: kind as u16,
            address_len: mac.len() as u16,
            ..PacketMreq::default()
        };
        request.address[..mac.len()].copy_from_slice(&mac);
        sys::set_option(self.fd.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
    }

    /// Sends a whole Ethernet frame.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when the kernel has no room, else what it says (interface down, too long).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe `frame`, which the kernel only reads.
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes one frame that somebody else sent.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none, else what the kernel says (interface down).
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            // SAFETY: `sockaddr_ll` is integers; all-zero is a valid value of it.
            let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            let mut from_len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are described by their true lengths and writable.
            let got = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_TRUNC,
                    std::ptr::from_mut(&mut from).cast(),
                    &mut from_len,
                )
            };
            if got < 0 {
                return Err(io::Error::last_os_error());
            }
            // PACKET_IGNORE_OUTGOING keeps these away already, where the kernel has it.
            if from.sll_pkttype == abi::PACKET_OUTGOING {
                continue;
            }
            let frame_len = got as usize;
            return Ok(Received { len: frame_len.min(buffer.len()), frame_len });
        }
    }

    /// The bytes the kernel queues for us at most before it drops.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn receive_buffer_bytes(&self) -> io::Result<usize> {
        let bytes: i32 = sys::option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF)?;
        Ok(bytes as usize)
    }

    /// Asks for a larger queue; needs CAP_NET_ADMIN beyond net.core.rmem_max.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn set_receive_buffer_bytes(&self, bytes: usize) -> io::Result<()> {
        let bytes = bytes.min(i32::MAX as usize / 2) as i32;
        sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &bytes).or_else(
            |_| sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, &bytes),
        )
    }

    /// The interface it is bound to.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for PacketSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
