//! Multicast groups on which neighbour solicitations for the groups' IPv6 addresses come.
//!
//! Every node that may hold a group listens, not only its holder: a NIC filters multicast frames,
//! and a switch that snoops MLD sends none to a port where nobody has joined. Joining is left to
//! the kernel, which then also reports to queriers; the solicitations themselves are taken by the
//! steering program.
//!
//! Guarantees: what is joined is what is wanted, or a message says what is not; sockets are bounded
//! by [`SOCKETS_MAX`]. Blocks: the kernel takes its configuration lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
};

use socket2::{Domain, Socket, Type};

/// Groups joined with one socket. The kernel counts them against `net.core.optmem_max`, 20 KiB on
/// older kernels, at some 60 bytes each (net/ipv6/mcast.c, `ipv6_sock_mc_join`).
const GROUPS_PER_SOCKET: usize = 128;

/// Sockets: enough for every address that a steering program can have.
const SOCKETS_MAX: usize = 128;

/// A membership: kernel index of the interface, and the group.
type Membership = (u32, Ipv6Addr);

/// The groups that are joined.
#[derive(Debug, Default)]
pub(super) struct Solicited {
    sockets: Vec<Joined>,
}

#[derive(Debug)]
struct Joined {
    socket: Socket,
    groups: BTreeSet<Membership>,
}

impl Solicited {
    /// Joins what is new and leaves what is not wanted any more. Answers what could not be joined,
    /// by interface: how many groups, and why the first.
    pub(super) fn set(
        &mut self,
        wanted: &BTreeSet<Membership>,
    ) -> BTreeMap<u32, (usize, io::Error)> {
        for joined in &mut self.sockets {
            let Joined { socket, groups } = joined;
            groups.retain(|membership| {
                let stays = wanted.contains(membership);
                if !stays {
                    // An interface that is gone has taken its memberships along.
                    let _ = socket.leave_multicast_v6(&membership.1, membership.0);
                }
                stays
            });
        }
        self.sockets.retain(|joined| !joined.groups.is_empty());
        let mut refused: BTreeMap<u32, (usize, io::Error)> = BTreeMap::new();
        for (interface, group) in wanted {
            if self.sockets.iter().any(|joined| joined.groups.contains(&(*interface, *group))) {
                continue;
            }
            if let Err(error) = self.join(*interface, *group) {
                refused.entry(*interface).or_insert((0, error)).0 += 1;
            }
        }
        refused
    }

    fn join(&mut self, interface: u32, group: Ipv6Addr) -> io::Result<()> {
        let room = |joined: &Joined| joined.groups.len() < GROUPS_PER_SOCKET;
        let at = match self.sockets.iter().position(room) {
            Some(at) => at,
            None if self.sockets.len() >= SOCKETS_MAX => {
                let most = SOCKETS_MAX * GROUPS_PER_SOCKET;
                return Err(io::Error::other(format!("{most} groups at most can be joined")));
            }
            None => {
                // Without an address or a port nothing ever arrives there.
                let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
                self.sockets.push(Joined { socket, groups: BTreeSet::new() });
                self.sockets.len() - 1
            }
        };
        let Some(joined) = self.sockets.get_mut(at) else { return Ok(()) };
        joined.socket.join_multicast_v6(&group, interface)?;
        joined.groups.insert((interface, group));
        Ok(())
    }
}

/// The group in which solicitations for `address` come; none for IPv4.
//= RFC 4291 section 2.7.1: ff02::1:ff00:0/104 and the low-order 24 bits of the address
pub(super) fn solicited_node(address: IpAddr) -> Option<Ipv6Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [.., a, b, c] = address.octets();
    let last = u16::from_be_bytes([b, c]);
    Some(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), last))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback interface.
    const LO: u32 = 1;

    fn group(last: u16) -> Ipv6Addr {
        solicited_node(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0xab, last])).unwrap()
    }

    fn joined(solicited: &Solicited) -> BTreeSet<Membership> {
        solicited.sockets.iter().flat_map(|joined| joined.groups.iter().copied()).collect()
    }

    #[test]
    fn the_group_of_an_address_has_its_last_three_octets() {
        assert_eq!(group(0xcdef), "ff02::1:ffab:cdef".parse::<Ipv6Addr>().unwrap());
        assert_eq!(solicited_node(IpAddr::from([198, 18, 0, 100])), None);
    }

    /// The kernel takes them: more than one socket can hold, and it gives them back.
    #[test]
    fn what_is_wanted_is_joined_and_nothing_else() {
        if std::net::UdpSocket::bind("[::1]:0").is_err() {
            println!("no IPv6 on the loopback interface here: nothing to join on");
            return;
        }
        let mut solicited = Solicited::default();
        let many: BTreeSet<Membership> =
            (0..GROUPS_PER_SOCKET as u16 + 1).map(|n| (LO, group(n))).collect();
        assert!(solicited.set(&many).is_empty());
        assert_eq!((joined(&solicited), solicited.sockets.len()), (many, 2));
        let listed = || std::fs::read_to_string("/proc/self/net/igmp6").unwrap();
        let text = |last| group(last).octets().map(|octet| format!("{octet:02x}")).concat();
        assert!(listed().contains(&text(7)));
        let few = BTreeSet::from([(LO, group(1)), (LO, group(1_000))]);
        assert!(solicited.set(&few).is_empty());
        assert_eq!(joined(&solicited), few);
        assert!(!listed().contains(&text(7)), "left");
        assert!(listed().contains(&text(1)) && listed().contains(&text(1_000)));
        assert!(solicited.set(&BTreeSet::new()).is_empty());
        assert!(solicited.sockets.is_empty());
    }

    #[test]
    fn what_the_kernel_refuses_is_told_by_interface() {
        let mut solicited = Solicited::default();
        let nowhere = BTreeSet::from([(u32::MAX >> 1, group(1)), (u32::MAX >> 1, group(2))]);
        let refused = solicited.set(&nowhere);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused.values().map(|(count, _)| *count).sum::<usize>(), 2);
        assert_eq!(joined(&solicited), BTreeSet::new(), "and tried again the next time");
    }
}
