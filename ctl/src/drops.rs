//! What the names of drop reasons mean, for `get service --help`.

/// A line or two for each, in the words of the data plane.
pub(crate) const SERVICE_HELP: &str = "\
Reasons for which packets are dropped, counted by node (also under DROPS of status --verbose):
  malformed             Shorter than its headers say, or a header that contradicts itself.
  tcp_options           TCP options that cannot be told apart, of a connection whose numbers are
                        shifted.
  header_checksum       The IPv4 header checksum is wrong.
  ethertype             Neither IPv4, IPv6 nor ARP, or with two tags.
  vlan                  Of a VLAN that no segment is on.
  ip_options            IPv4 options with a source route, or that cannot be told apart.
  extension             IPv6 extension headers that are not followed: too many, out of place, or
                        a source route.
  fragment              A fragment of neither TCP, UDP nor SCTP, of SCTP that would need another
                        checksum, or one that no honest sender makes.
  fragment_unknown      A later fragment of a packet whose first one is not known, and no room
                        to wait for it.
  fragment_early        A later fragment that came before its first one. A copy waits for that,
                        a fifth of a second; what is sent after it is counted as released.
  fragment_overlap      A fragment of what has passed already, or with too many gaps before it.
  protocol              To a VIP, but neither TCP, UDP, SCTP, echo nor an ICMP error.
  not_ours              Neither to an address of a group nor from a NAT pool.
  other_mac             For another MAC address.
  arp_ignored           ARP or a neighbour solicitation that asks for nothing of ours, or not
                        now.
  arp_stale             ARP, or a neighbour solicitation, that waited while this node was
                        paused.
  ttl_exceeded          The TTL ran out.
  next_hop_unresolved   No neighbour entry for the next hop yet.
  too_big               Larger than the way to the next hop takes, and its sender cannot be
                        told: a way below the least MTU of the family, a later fragment, or one
                        that would take too many pieces.
  no_source             A tunnel, and no address of this node on the way to the server to send
                        from.
  no_route              No route to the next hop over a data interface.
  held_back             Mid-connection packet that is unknown while the copy may still bring it.
  no_holder             Nobody holds the group, or its MAC address is not known here.
  relay_loop            To be relayed, but it came from a node of the cluster.
  server_removed        The connection's server is not in the configuration any more.
  unbound               The connection's server is not in the configuration yet.
  unserved              No service on this port, and settings.unserved is to say nothing.
  unknown_reset         A reset, or an SCTP packet that is to be discarded in silence, of no
                        connection.
  rate_limited          An answer was due but for the rate limit.
  no_space              An answer was due but does not fit the buffer.
  connection_gone       Its connection left the table while the packet was looked at.
  unknown_return        From a NAT pool, but of no connection.
  icmp_quote            An ICMP error whose quoted packet cannot be read, or that is not for who
                        sent that packet.
  icmp_unknown          An ICMP error about a packet of no connection.
  over_limit            Above `half_open_max`, `new_per_s` or `per_source`, and the hash is not
                        enough to forward it.
  handshake             Of a connection whose client came with a cookie and whose server has not
                        answered yet.
  handshakes_full       An acknowledged cookie, but too many servers are being asked already.
  table_full            The table is full of established connections.
  reply_taken           The server has a connection from this client port through another VIP.
  local_ports_exhausted A new full-NAT connection, but no local port of this node is free
                        towards its server. Counted also where its client was told.

Example:
  clusterctl get service http
  clusterctl get service http --stats
  clusterctl get service http --rate";

#[cfg(test)]
mod tests {
    use steadfast_dataplane::Reason;

    use super::SERVICE_HELP;

    #[test]
    fn every_reason_is_explained_in_the_words_of_the_data_plane() {
        let told = SERVICE_HELP.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut after = 0;
        for reason in Reason::ALL {
            let text = reason.text().split_whitespace().collect::<Vec<_>>().join(" ");
            let line = format!("{} {text}", reason.name());
            let at = told.find(&line);
            assert!(at.is_some_and(|at| at > after), "{line}");
            after = at.unwrap_or_default();
        }
    }
}
