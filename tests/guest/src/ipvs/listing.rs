//! What the kernel lists: its connections and its servers.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::{
    Entry, Flow,
    frames::{VIP, VIP_PORT},
};

/// Files of the network namespace that the calling thread is in.
const CONNECTIONS: &str = "/proc/thread-self/net/ip_vs_conn";
const SERVICES: &str = "/proc/thread-self/net/ip_vs";

/// All connections of a flow: more than one while the kernel ends one that was replaced.
pub(super) fn connections(flow: Flow) -> Result<Vec<Entry>> {
    let text = fs::read_to_string(CONNECTIONS).context("cannot read the kernel's connections")?;
    Ok(text.lines().skip(1).filter_map(|line| connection(line, flow)).collect())
}

//= Linux net/netfilter/ipvs/ip_vs_conn.c, ip_vs_conn_seq_show(): protocol, then address and port
//= of client, VIP and server in hexadecimal, state, seconds left
fn connection(line: &str, flow: Flow) -> Option<Entry> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [_, client, client_port, vip, vip_port, server, _, state, expires, ..] = words[..] else {
        return None;
    };
    let same = (addr(client)?, port(client_port)?) == (flow.addr, flow.port)
        && (addr(vip)?, port(vip_port)?) == (VIP, VIP_PORT);
    same.then_some(Entry {
        server: addr(server)?.octets()[3],
        state: state.to_owned(),
        expires_s: expires.parse().ok()?,
    })
}

/// Active and inactive connections of all servers, by their numbers.
pub(super) fn loads() -> Result<Vec<(u8, u32, u32)>> {
    let text = fs::read_to_string(SERVICES).context("cannot read the kernel's services")?;
    let mut loads: Vec<_> = text.lines().filter_map(load).collect();
    loads.sort_unstable();
    Ok(loads)
}

//= Linux net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_info_seq_show(): arrow, address:port, forwarding,
//= weight, active, inactive
fn load(line: &str) -> Option<(u8, u32, u32)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["->", place, _, _, active, inactive] = words[..] else { return None };
    let (server, _) = place.split_once(':')?;
    Some((addr(server)?.octets()[3], active.parse().ok()?, inactive.parse().ok()?))
}

fn addr(hex: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(hex, 16).ok().map(Ipv4Addr::from)
}

fn port(hex: &str) -> Option<u16> {
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let flow = Flow { addr: Ipv4Addr::new(10, 1, 2, 3), port: 4711 };
        let line = "TCP 0A010203 1267 C6120064 0050 C6120104 1F90 SYN_RECV         59";
        let entry = Entry { server: 4, state: "SYN_RECV".to_owned(), expires_s: 59 };
        assert_eq!(connection(line, flow), Some(entry));
        assert_eq!(connection(line, Flow { port: 4712, ..flow }), None);
        assert_eq!(connection("nonsense", flow), None);
        assert_eq!(load("  -> C6120104:1F90      Masq    1      7          12"), Some((4, 7, 12)));
        assert_eq!(load("  -> RemoteAddress:Port Forward Weight ActiveConn InActConn"), None);
    }
}
