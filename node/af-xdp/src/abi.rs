//! The kernel's AF_XDP and AF_PACKET structures and constants, as the system calls take them.
//!
//! Guarantees: every structure has the size the kernel expects (checked when compiling). Not
//! here: any system call. Constants that the `libc` crate has under the same name are used from
//! there.

/// `struct xdp_umem_reg`, include/uapi/linux/if_xdp.h. The last word is `tx_metadata_len` since
/// Linux 6.8 and padding before; zero means the same to both.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct UmemReg {
    pub(crate) addr: u64,
    pub(crate) len: u64,
    pub(crate) chunk_size: u32,
    pub(crate) headroom: u32,
    pub(crate) flags: u32,
    pub(crate) tx_metadata_len: u32,
}
const _: () = assert!(size_of::<UmemReg>() == 32);

/// `struct sockaddr_xdp`, include/uapi/linux/if_xdp.h.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct SockaddrXdp {
    pub(crate) family: u16,
    pub(crate) flags: u16,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
    pub(crate) shared_umem_fd: u32,
}
const _: () = assert!(size_of::<SockaddrXdp>() == 16);

/// `struct xdp_ring_offset`, include/uapi/linux/if_xdp.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingOffset {
    pub(crate) producer: u64,
    pub(crate) consumer: u64,
    pub(crate) desc: u64,
    pub(crate) flags: u64,
}
const _: () = assert!(size_of::<RingOffset>() == 32);

/// `struct xdp_mmap_offsets`, include/uapi/linux/if_xdp.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MmapOffsets {
    pub(crate) rx: RingOffset,
    pub(crate) tx: RingOffset,
    pub(crate) fill: RingOffset,
    pub(crate) completion: RingOffset,
}
const _: () = assert!(size_of::<MmapOffsets>() == 128);

/// `struct xdp_desc`, include/uapi/linux/if_xdp.h: one entry of an RX or TX ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) options: u32,
}
const _: () = assert!(size_of::<Desc>() == 16);

/// `struct xdp_statistics`, include/uapi/linux/if_xdp.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawStatistics {
    pub(crate) rx_dropped: u64,
    pub(crate) rx_invalid_descs: u64,
    pub(crate) tx_invalid_descs: u64,
    pub(crate) rx_ring_full: u64,
    pub(crate) rx_fill_ring_empty_descs: u64,
    pub(crate) tx_ring_empty_descs: u64,
}
const _: () = assert!(size_of::<RawStatistics>() == 48);

/// `struct ethtool_channels`, include/uapi/linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EthtoolChannels {
    pub(crate) cmd: u32,
    pub(crate) max_rx: u32,
    pub(crate) max_tx: u32,
    pub(crate) max_other: u32,
    pub(crate) max_combined: u32,
    pub(crate) rx_count: u32,
    pub(crate) tx_count: u32,
    pub(crate) other_count: u32,
    pub(crate) combined_count: u32,
}
const _: () = assert!(size_of::<EthtoolChannels>() == 36);

/// `struct ethtool_value`, include/uapi/linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EthtoolValue {
    pub(crate) cmd: u32,
    pub(crate) data: u32,
}
const _: () = assert!(size_of::<EthtoolValue>() == 8);

/// `struct packet_mreq`, include/uapi/linux/if_packet.h.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct PacketMreq {
    pub(crate) ifindex: i32,
    pub(crate) kind: u16,
    pub(crate) address_len: u16,
    pub(crate) address: [u8; 8],
}
const _: () = assert!(size_of::<PacketMreq>() == 16);

/// `ETHTOOL_GCHANNELS`, include/uapi/linux/ethtool.h.
pub(crate) const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `ETHTOOL_GFLAGS`, include/uapi/linux/ethtool.h.
pub(crate) const ETHTOOL_GFLAGS: u32 = 0x25;
/// `ETH_FLAG_RXVLAN`, include/uapi/linux/ethtool.h: tags of received frames are taken off.
pub(crate) const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// `SIOCETHTOOL`, include/uapi/linux/sockios.h.
pub(crate) const SIOCETHTOOL: u64 = 0x8946;
/// `PACKET_IGNORE_OUTGOING`, include/uapi/linux/if_packet.h.
pub(crate) const PACKET_IGNORE_OUTGOING: i32 = 23;
/// `PACKET_OUTGOING`, include/uapi/linux/if_packet.h: the packet type of our own frames.
pub(crate) const PACKET_OUTGOING: u8 = 4;

/// Offsets given to `mmap` for each ring, include/uapi/linux/if_xdp.h.
pub(crate) const PGOFF_RX: i64 = 0;
/// See [`PGOFF_RX`].
pub(crate) const PGOFF_TX: i64 = 0x8000_0000;
/// See [`PGOFF_RX`].
pub(crate) const PGOFF_FILL: i64 = 0x1_0000_0000;
/// See [`PGOFF_RX`].
pub(crate) const PGOFF_COMPLETION: i64 = 0x1_8000_0000;

/// `XDP_RING_NEED_WAKEUP`, include/uapi/linux/if_xdp.h.
pub(crate) const RING_NEED_WAKEUP: u32 = 1;
/// `XDP_OPTIONS_ZEROCOPY`, include/uapi/linux/if_xdp.h.
pub(crate) const OPTIONS_ZEROCOPY: u32 = 1;

/// `XDP_PACKET_HEADROOM`, include/uapi/linux/bpf.h: what the kernel keeps free in front of a
/// received frame.
pub const PACKET_HEADROOM: u32 = 256;

/// The largest MTU a native XDP program accepts without `xdp.frags`: one page less
/// [`PACKET_HEADROOM`], `skb_shared_info` (320 bytes) and the Ethernet header.
pub const MTU_MAX: u32 = 3506;
