//! The end of a tunnel, for kernels that have no drivers for IPIP, GRE and GUE.
//!
//! Guarantees: what comes out is the inner packet, byte for byte, and only if the outer headers
//! are what their RFCs say and it is for one of the addresses served here. The kernel itself
//! checks outer IP headers and UDP checksums; packets reach it again through a raw socket, whose
//! loopback way takes them for its own, whatever interface the tunnel came by. Either family in
//! either; IPv6 outside only where an IPv6 address is served.

mod header;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    thread,
};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto,
        socket, sockopt,
    },
};

use self::header::{Kind, Outer, take_out};

/// The UDP port of GUE.
pub const GUE_PORT: u16 = 6080;

/// The largest packet there is.
const PACKET_BYTES_MAX: usize = 65_535;

/// Packets that were refused are told about up to this many.
const REFUSALS_TOLD: u32 = 20;

/// Takes packets out of tunnels to this host and hands those for `addresses` to its kernel, until
/// the process ends.
///
/// # Errors
/// Without the right to raw sockets, or when a port is taken.
pub fn start(addresses: &[IpAddr]) -> io::Result<()> {
    let both = addresses.iter().any(IpAddr::is_ipv6);
    let outer = if both { &[Outer::V4, Outer::V6][..] } else { &[Outer::V4] };
    for &outer in outer {
        for kind in [Kind::Ip4, Kind::Ip6, Kind::Gre, Kind::Gue] {
            let from = open(kind, outer)?;
            let to = Kernel::open(both)?;
            let addresses = addresses.to_vec();
            let name = format!("{kind:?}-in-{outer:?}").to_lowercase();
            let run = move || run(kind, outer, &from, &to, &addresses);
            thread::Builder::new().name(name).spawn(run)?;
        }
    }
    Ok(())
}

fn open(kind: Kind, outer: Outer) -> io::Result<OwnedFd> {
    let family = match outer {
        Outer::V4 => AddressFamily::INET,
        Outer::V6 => AddressFamily::INET6,
    };
    match kind {
        Kind::Ip4 => raw(family, ipproto::IPIP),
        Kind::Ip6 => raw(family, ipproto::IPV6),
        Kind::Gre => raw(family, ipproto::GRE),
        Kind::Gue => {
            let udp = socket(family, SocketType::DGRAM, None)?;
            let any: IpAddr = match outer {
                Outer::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Outer::V6 => {
                    sockopt::set_ipv6_v6only(&udp, true)?;
                    Ipv6Addr::UNSPECIFIED.into()
                }
            };
            bind(&udp, &SocketAddr::from((any, GUE_PORT)))?;
            Ok(udp)
        }
    }
}

fn raw(family: AddressFamily, protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket(family, SocketType::RAW, Some(protocol))?)
}

/// Where packets that came out go.
struct Kernel {
    v4: OwnedFd,
    v6: Option<OwnedFd>,
}

impl Kernel {
    fn open(both: bool) -> io::Result<Self> {
        let v4 = raw(AddressFamily::INET, ipproto::RAW)?;
        let v6 = if both { Some(raw(AddressFamily::INET6, ipproto::RAW)?) } else { None };
        Ok(Self { v4, v6 })
    }

    fn give(&self, dst: IpAddr, packet: &[u8]) -> Result<(), &'static str> {
        let flags = SendFlags::empty();
        let sent = match (dst, &self.v6) {
            (IpAddr::V4(dst), _) => sendto(&self.v4, packet, flags, &SocketAddrV4::new(dst, 0)),
            (IpAddr::V6(dst), Some(v6)) => {
                sendto(v6, packet, flags, &SocketAddrV6::new(dst, 0, 0, 0))
            }
            (IpAddr::V6(_), None) => return Err("no IPv6 here"),
        };
        sent.map(drop).map_err(|_| "the kernel does not take it")
    }
}

fn run(kind: Kind, outer: Outer, from: &OwnedFd, to: &Kernel, addresses: &[IpAddr]) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut refused = 0;
    loop {
        let len = match recv(from, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, len)) => len.min(PACKET_BYTES_MAX),
            Err(error) => {
                eprintln!("no more packets through {kind:?} in {outer:?}: {error}");
                return;
            }
        };
        let done = take_out(kind, outer, &buffer[..len]).and_then(|(dst, packet)| {
            if !addresses.contains(&dst) {
                return Err("it is for an address that is not served here");
            }
            to.give(dst, packet)
        });
        if let Err(why) = done {
            refused += 1;
            if refused <= REFUSALS_TOLD {
                eprintln!("a packet through {kind:?} in {outer:?} is refused: {why}");
            }
        }
    }
}
