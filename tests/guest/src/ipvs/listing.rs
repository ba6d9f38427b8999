//! What the kernel lists: its connections, its templates and its servers.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result};

use super::{
    Counts, Entry, Flow, Persistence,
    frames::{MARK, VIP_PORTS, vip},
};

/// Files of the network namespace that the calling thread is in.
const CONNECTIONS: &str = "/proc/thread-self/net/ip_vs_conn";
const SERVICES: &str = "/proc/thread-self/net/ip_vs";
const COUNTS: &str = "/proc/thread-self/net/ip_vs_stats_percpu";

/// A line of the kernel's connections, of the service.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Line {
    client: (IpAddr, u16),
    entry: Entry,
}

/// The templates of the service.
#[derive(Debug, Default)]
pub(super) struct Templates {
    /// How many lead to each server, by number.
    pub(super) counts: Vec<(u8, usize)>,
    /// That of a flow.
    pub(super) own: Option<Entry>,
}

/// All connections of a flow: more than one while the kernel ends one that was replaced.
pub(super) fn connections(flow: Flow) -> Result<Vec<Entry>> {
    let of_flow = |line: Line| (line.client == (flow.addr, flow.port)).then_some(line.entry);
    Ok(lines()?.into_iter().filter_map(of_flow).collect())
}

/// All templates, and that of a flow.
pub(super) fn templates(persistence: Persistence, flow: Option<Flow>) -> Result<Templates> {
    let (mut counts, mut own) = (BTreeMap::new(), None);
    // A template has no client port; one that was given up has no port of the service, either.
    for Line { client, entry } in lines()?.into_iter().filter(|line| line.client.1 == 0) {
        *counts.entry(entry.server).or_default() += 1;
        if flow.is_some_and(|flow| network(flow.addr, persistence.prefix_len) == client.0) {
            own = Some(entry);
        }
    }
    Ok(Templates { counts: counts.into_iter().collect(), own })
}

/// The lowest address of a client's network.
fn network(addr: IpAddr, prefix_len: u8) -> IpAddr {
    let cut = |bits: u128, width: u8| {
        let zeros = u32::from(width.saturating_sub(prefix_len));
        bits.checked_shr(zeros).and_then(|bits| bits.checked_shl(zeros)).unwrap_or(0)
    };
    match addr {
        IpAddr::V4(addr) => Ipv4Addr::from_bits(cut(addr.to_bits().into(), 32) as u32).into(),
        IpAddr::V6(addr) => Ipv6Addr::from_bits(cut(addr.to_bits(), 128)).into(),
    }
}

fn lines() -> Result<Vec<Line>> {
    let text = fs::read_to_string(CONNECTIONS).context("cannot read the kernel's connections")?;
    Ok(text.lines().skip(1).filter_map(line_of).collect())
}

//= Linux net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show(): protocol, then address and port
//= of client, VIP and server in hexadecimal, state, seconds left
fn line_of(line: &str) -> Option<Line> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, client, client_port, vip_addr, vip_port, server, _, state, expires, ..] = words[..]
    else {
        return None;
    };
    let client = (addr(client)?, port(client_port)?);
    let (vip_addr, vip_port) = (addr(vip_addr)?, port(vip_port)?);
    let served = vip_addr == vip(client.0.is_ipv6()) && VIP_PORTS.contains(&vip_port)
        || vip_addr == mark(client.0.is_ipv6()) && vip_port == 0;
    let entry = Entry {
        server: number(addr(server)?),
        state: state.to_owned(),
        expires_s: expires.parse().ok()?,
    };
    served.then_some(Line { client, entry })
}

/// What templates of a service by mark have in the place of the VIP.
//= Linux net/netfilter/ipvs/ip_vs_core.c, ip_vs_sched_persist(): the mark as the first four octets
fn mark(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::from_bits(u128::from(MARK) << 96).into()
    } else {
        Ipv4Addr::from_bits(MARK).into()
    }
}

/// What the only service counted so far. The other lists are brought up to date every two seconds.
pub(super) fn counts() -> Result<Counts> {
    let text = fs::read_to_string(COUNTS).context("cannot read the kernel's counters")?;
    text.lines().find_map(counts_of).with_context(|| format!("no counters of a processor:\n{text}"))
}

//= Linux net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_stats_percpu_show(): processor, connections, packets
//= in and out, bytes in and out, in hexadecimal
fn counts_of(line: &str) -> Option<Counts> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["0", numbers @ ..] = &words[..] else { return None };
    let number = |word: &&str| u64::from_str_radix(word, 16).ok();
    let numbers: Option<Vec<_>> = numbers.iter().map(number).collect();
    let [conns, in_pkts, out_pkts, in_bytes, out_bytes] = numbers?[..] else { return None };
    Some(Counts { conns, in_pkts, in_bytes, out_pkts, out_bytes })
}

/// What each server counted, out of `ipvsadm -L -n --stats --exact`, by number.
pub(super) fn server_counts(listed: &str) -> Vec<(u8, Counts)> {
    let mut counts: Vec<_> = listed.lines().filter_map(server_counts_of).collect();
    counts.sort_by_key(|(number, _)| *number);
    counts
}

fn server_counts_of(line: &str) -> Option<(u8, Counts)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["->", place, numbers @ ..] = &words[..] else { return None };
    let (server, _) = place.rsplit_once(':')?;
    let server = server.trim_matches(['[', ']']).parse().ok()?;
    let numbers: Vec<u64> = numbers.iter().filter_map(|word| word.parse().ok()).collect();
    let [conns, in_pkts, out_pkts, in_bytes, out_bytes] = numbers[..] else { return None };
    Some((number(server), Counts { conns, in_pkts, in_bytes, out_pkts, out_bytes }))
}

/// Active and inactive connections of all servers, by their numbers.
pub(super) fn loads() -> Result<Vec<(u8, u32, u32)>> {
    let text = fs::read_to_string(SERVICES).context("cannot read the kernel's services")?;
    let mut loads: Vec<_> = text.lines().filter_map(load).collect();
    loads.sort_unstable();
    Ok(loads)
}

//= Linux net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show(): arrow, address:port or
//= [address]:port, forwarding, weight, active, inactive
fn load(line: &str) -> Option<(u8, u32, u32)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["->", place, _, _, active, inactive] = words[..] else { return None };
    let (server, _) = place.rsplit_once(':')?;
    let server = addr(server.trim_matches(['[', ']']))?;
    Some((number(server), active.parse().ok()?, inactive.parse().ok()?))
}

/// The last octet of a server's address.
fn number(server: IpAddr) -> u8 {
    match server {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    }
}

fn addr(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok().map(IpAddr::V6);
    }
    u32::from_str_radix(text, 16).ok().map(|bits| Ipv4Addr::from(bits).into())
}

fn port(hex: &str) -> Option<u16> {
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let client = (IpAddr::from([10, 1, 2, 3]), 4711);
        let line = "TCP 0A010203 1267 C6120064 0050 C6120104 1F90 SYN_RECV         59";
        let entry = Entry { server: 4, state: "SYN_RECV".to_owned(), expires_s: 59 };
        assert_eq!(line_of(line), Some(Line { client, entry }));
        assert_eq!(line_of(&line.replace("0050", "FFFF")), None);
        let template = "IP  0A010203 0000 00000007 0000 C6120104 0000 NONE 299";
        assert_eq!(line_of(template).unwrap().client.1, 0);
        assert_eq!(line_of("nonsense"), None);
        let line = "  0        A       1F        0              A28                0";
        let counts = Counts { conns: 10, in_pkts: 31, in_bytes: 2600, out_pkts: 0, out_bytes: 0 };
        assert_eq!(counts_of(line), Some(counts));
        let lines = "Prot LocalAddress:Port Conns\n  -> RemoteAddress:Port\nTCP  198.18.0.100:80 1 2 3 4 5\n  \
                     -> 198.18.1.4:8080 10 31 0 2600 0\n  -> [2001:db8:13::2]:80 10 31 0 2600 0\n";
        assert_eq!(server_counts(lines), [(2, counts), (4, counts)]);
        let line = "UDP 2001:0db8:000c:0000:0000:0000:0000:0007 1267 \
                    2001:0db8:0012:0000:0000:0000:0000:0100 0050 \
                    2001:0db8:0013:0000:0000:0000:0000:0004 1F90 UDP 299";
        let client = ("2001:db8:c::7".parse().unwrap(), 4711);
        let entry = Entry { server: 4, state: "UDP".to_owned(), expires_s: 299 };
        assert_eq!(line_of(line), Some(Line { client, entry }));
        assert_eq!(load("  -> C6120104:1F90      Masq    1      7          12"), Some((4, 7, 12)));
        let line = "  -> [2001:0db8:0013:0000:0000:0000:0000:0004]:1F90 Masq 1 7 12";
        assert_eq!(load(line), Some((4, 7, 12)));
        assert_eq!(load("  -> RemoteAddress:Port Forward Weight ActiveConn InActConn"), None);
    }

    #[test]
    fn networks_of_clients_are_cut() {
        let v4 = IpAddr::from([10, 1, 2, 3]);
        assert_eq!(network(v4, 24), IpAddr::from([10, 1, 2, 0]));
        assert_eq!((network(v4, 32), network(v4, 0)), (v4, IpAddr::from([0; 4])));
        let v6: IpAddr = "2001:db8:c:1:2::7".parse().unwrap();
        assert_eq!(network(v6, 64), "2001:db8:c:1::".parse::<IpAddr>().unwrap());
        assert_eq!(network(v6, 128), v6);
    }
}
