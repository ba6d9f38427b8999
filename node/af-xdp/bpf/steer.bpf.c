/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steering program: ours or not.
 *
 * Guarantees: a packet to a VIP never reaches the kernel, whether a socket is there or not; ARP
 * and neighbour solicitations for VIPs and gateway addresses reach the socket only before
 * `announce`, and the kernel never; everything not named here passes untouched. Decides nothing
 * else: no connection, no service, no rewriting.
 *
 * A tagged frame (IEEE 802.1Q, one tag) is looked at as an untagged one is if its VLAN is in `vlans`
 * or its tag has a priority only; those of other VLANs pass, whatever is in them. A NIC that strips
 * tags in hardware (ethtool -K IF rxvlan on) hides them from every XDP program, so switch that off
 * where a VIP segment shares its wire with VLANs. A frame for a MAC that is not ours passes (the
 * kernel drops it).
 */
#include "steer.h"

/* IPv4 addresses are keys as IPv4-mapped IPv6 addresses, ::ffff:a.b.c.d. */
struct {
	MAP_INT(type, MAP_HASH);
	MAP_INT(max_entries, VIPS_MAX);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, u32);
} vips SECTION(".maps");

struct {
	MAP_INT(type, MAP_HASH);
	MAP_INT(max_entries, NAT_SOURCES_MAX);
	MAP_TYPE(key, struct nat_source);
	MAP_TYPE(value, u32);
} nat_sources SECTION(".maps");

/*
 * Answers of NAT pools whose first fragment was taken, and until when the others are. Only the first
 * one has ports: without this table the others could not be told from the server's other traffic,
 * which is the kernel's. The least recently used entry gives way.
 */
struct {
	MAP_INT(type, MAP_LRU_HASH);
	MAP_INT(max_entries, NAT_FRAGMENTS_MAX);
	MAP_TYPE(key, struct nat_fragment);
	MAP_TYPE(value, u64);
} nat_fragments SECTION(".maps");

/* The node's own addresses: what servers send to these is no return traffic. */
struct {
	MAP_INT(type, MAP_HASH);
	MAP_INT(max_entries, LOCAL_ADDRESSES_MAX);
	MAP_TYPE(key, struct address);
	MAP_TYPE(value, u32);
} local_addresses SECTION(".maps");

/* The VLANs of this interface that a segment is on. */
struct {
	MAP_INT(type, MAP_HASH);
	MAP_INT(max_entries, VLANS_MAX);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} vlans SECTION(".maps");

struct {
	MAP_INT(type, MAP_ARRAY);
	MAP_INT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct settings);
} settings SECTION(".maps");

/* Until when, in nanoseconds of CLOCK_BOOTTIME, ARP and NS go to the socket. The daemon extends it:
 * a stopped process falls silent by itself. */
struct {
	MAP_INT(type, MAP_ARRAY);
	MAP_INT(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} announce SECTION(".maps");

struct {
	MAP_INT(type, MAP_PERCPU_ARRAY);
	MAP_INT(max_entries, COUNTERS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} counters SECTION(".maps");

/* The sockets, by receive queue. The kernel removes a socket that is closed. */
struct {
	MAP_INT(type, MAP_XSKMAP);
	MAP_INT(max_entries, QUEUES_MAX);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} xsks SECTION(".maps");

INLINE void count(u32 which)
{
	u64 *counter = bpf_map_lookup_elem(&counters, &which);

	if (counter)
		*counter += 1;
}

INLINE int pass(u32 which)
{
	count(which);
	return XDP_PASS;
}

/* To the socket of this queue, or nowhere: never to the kernel. */
INLINE int take(struct xdp_md *ctx, u32 which)
{
	long action = bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);

	count(action == XDP_REDIRECT ? which : COUNT_NO_SOCKET);
	return action;
}

INLINE int take_if_announcing(struct xdp_md *ctx, u32 which, u32 which_mute)
{
	u32 zero = 0;
	u64 *until = bpf_map_lookup_elem(&announce, &zero);

	if (until && bpf_ktime_get_boot_ns() < *until)
		return take(ctx, which);
	count(which_mute);
	return XDP_DROP;
}

INLINE struct address mapped(be32 ip)
{
	struct address address = { .word = { 0, 0, HTONL(0xffff), ip } };

	return address;
}

INLINE u32 role_of(const struct address *address)
{
	u32 *role = bpf_map_lookup_elem(&vips, address);

	return role ? *role : 0;
}

INLINE int same_mac(const u8 *left, const u8 *right)
{
	const be16 *l = (const be16 *)left, *r = (const be16 *)right;

	return l[0] == r[0] && l[1] == r[1] && l[2] == r[2];
}

INLINE int is_ours(const u8 *mac)
{
	u32 zero = 0;
	struct settings *own = bpf_map_lookup_elem(&settings, &zero);

	if (!own)
		return 0;
	if (same_mac(mac, own->own_mac))
		return 1;
	return own->has_virtual_mac && same_mac(mac, own->virtual_mac);
}

INLINE int is_broadcast(const u8 *mac)
{
	const be16 *words = (const be16 *)mac;

	return words[0] == 0xffff && words[1] == 0xffff && words[2] == 0xffff;
}

/* 33:33:ff:xx:xx:xx, RFC 2464 section 7 with RFC 4291 section 2.7.1. */
INLINE int is_solicited_node(const u8 *mac)
{
	return mac[0] == 0x33 && mac[1] == 0x33 && mac[2] == 0xff;
}

INLINE int has_ports(u8 protocol)
{
	return protocol == PROTO_TCP || protocol == PROTO_UDP || protocol == PROTO_SCTP;
}

INLINE int is_nat_source(const struct address *address, u8 protocol, be16 port)
{
	struct nat_source key = { .address = *address, .port = port, .protocol = protocol };
	u32 *range;

	if (bpf_map_lookup_elem(&nat_sources, &key))
		return 1;
	key.port = 0;
	range = bpf_map_lookup_elem(&nat_sources, &key);
	return range && HTONS(port) >= *range >> 16 && HTONS(port) <= (*range & 0xffff);
}

INLINE void note_fragments(const struct nat_fragment *key)
{
	u64 until = bpf_ktime_get_boot_ns() + NAT_FRAGMENT_TIMEOUT_NS;

	bpf_map_update_elem(&nat_fragments, key, &until, 0);
}

/* A later fragment of an answer whose first one was taken. */
INLINE int is_nat_fragment(const struct nat_fragment *key)
{
	u64 *until = bpf_map_lookup_elem(&nat_fragments, key);

	return until && bpf_ktime_get_boot_ns() < *until;
}

INLINE int steer_arp(struct xdp_md *ctx, void *at, void *end)
{
	struct arp *arp = at;
	struct address target;

	if ((void *)(arp + 1) > end)
		return pass(COUNT_MALFORMED);
	if (arp->hardware != HTONS(1) || arp->protocol != ETHERTYPE_IPV4 ||
	    arp->hardware_len != 6 || arp->protocol_len != 4)
		return pass(COUNT_PASS);
	target = mapped(arp->target_ip);
	if (!role_of(&target))
		return pass(COUNT_PASS);
	return take_if_announcing(ctx, COUNT_ARP, COUNT_ARP_MUTE);
}

/* An ICMP error from behind a NAT service: about a packet that we sent to one of its servers. */
INLINE int is_nat_error_v4(void *at, void *end)
{
	struct icmp *icmp = at;
	struct ipv4 *inner = at + sizeof(*icmp);
	struct ports *ports;
	struct address server;
	u32 inner_len;

	if ((void *)(inner + 1) > end)
		return 0;
	if (icmp->type != ICMP_UNREACHABLE && icmp->type != ICMP_SOURCE_QUENCH &&
	    icmp->type != ICMP_TIME_EXCEEDED && icmp->type != ICMP_PARAMETER)
		return 0;
	inner_len = (inner->version_ihl & 15) * 4;
	if (inner->version_ihl >> 4 != 4 || inner_len < sizeof(*inner))
		return 0;
	if (!has_ports(inner->protocol) || (inner->fragment & FRAGMENT_OFFSET))
		return 0;
	ports = (void *)inner + inner_len;
	if ((void *)(ports + 1) > end)
		return 0;
	server = mapped(inner->target);
	return is_nat_source(&server, inner->protocol, ports->target);
}

INLINE int steer_ipv4(struct xdp_md *ctx, void *at, void *end)
{
	struct ipv4 *ip = at;
	struct ports *ports;
	struct address source, target;
	struct nat_fragment fragment;
	u32 role, header_len;

	if ((void *)(ip + 1) > end || ip->version_ihl >> 4 != 4)
		return pass(COUNT_MALFORMED);
	target = mapped(ip->target);
	role = role_of(&target);
	/* Fragments and odd headers included: whatever it is, the kernel must not see it. */
	if (role & ADDRESS_VIP)
		return take(ctx, COUNT_VIP);
	if (role & ADDRESS_GATEWAY) {
		if (ip->protocol == PROTO_ICMP)
			return take(ctx, COUNT_GATEWAY_ICMP);
		return pass(COUNT_PASS);
	}

	header_len = (ip->version_ihl & 15) * 4;
	if (header_len < sizeof(*ip))
		return pass(COUNT_MALFORMED);
	source = mapped(ip->source);
	fragment = (struct nat_fragment){ source, target, ip->id, ip->protocol, {} };
	if (ip->fragment & FRAGMENT_OFFSET) {
		if (is_nat_fragment(&fragment))
			return take(ctx, COUNT_NAT_RETURN);
		return pass(COUNT_PASS);
	}
	if (ip->protocol == PROTO_ICMP) {
		if (is_nat_error_v4(at + header_len, end) &&
		    !bpf_map_lookup_elem(&local_addresses, &target))
			return take(ctx, COUNT_NAT_ICMP);
		return pass(COUNT_PASS);
	}
	ports = at + header_len;
	if (!has_ports(ip->protocol) || (void *)(ports + 1) > end)
		return pass(COUNT_PASS);
	if (is_nat_source(&source, ip->protocol, ports->source) &&
	    !bpf_map_lookup_elem(&local_addresses, &target)) {
		if (ip->fragment & FRAGMENT_MORE)
			note_fragments(&fragment);
		return take(ctx, COUNT_NAT_RETURN);
	}
	return pass(COUNT_PASS);
}

/* As is_nat_error_v4; of extension headers in the inner packet only that of a first fragment. */
INLINE int is_nat_error_v6(void *at, void *end)
{
	struct icmp *icmp = at;
	struct ipv6 *inner = at + sizeof(*icmp);
	struct ipv6_fragment *part = (void *)(inner + 1);
	struct ports *ports = (void *)(inner + 1);
	struct address server;
	u8 protocol;

	if ((void *)(ports + 1) > end || icmp->type >= ICMPV6_INFORMATIONAL)
		return 0;
	protocol = inner->next_header;
	if (protocol == PROTO_IPV6_FRAGMENT) {
		ports = (void *)(part + 1);
		if ((void *)(ports + 1) > end || (part->offset_more & IPV6_FRAGMENT_OFFSET))
			return 0;
		protocol = part->next_header;
	}
	if (!has_ports(protocol))
		return 0;
	server = inner->target;
	return is_nat_source(&server, protocol, ports->target);
}

INLINE int steer_ipv6(struct xdp_md *ctx, void *at, void *end, int is_unicast)
{
	struct ipv6 *ip = at;
	struct solicitation *solicitation = (void *)(ip + 1);
	struct ipv6_fragment *part = (void *)(ip + 1);
	struct ports *ports = (void *)(ip + 1);
	struct address source, target;
	struct nat_fragment fragment = {};
	u32 role;
	u8 protocol;
	int has_more = 0;

	if ((void *)(ip + 1) > end)
		return pass(COUNT_MALFORMED);
	if (ip->next_header == PROTO_ICMPV6 && (void *)(solicitation + 1) <= end &&
	    solicitation->icmp.type == ICMPV6_SOLICITATION) {
		target = solicitation->target;
		if (role_of(&target))
			return take_if_announcing(ctx, COUNT_ND, COUNT_ND_MUTE);
	}
	if (!is_unicast)
		return pass(COUNT_PASS);
	target = ip->target;
	role = role_of(&target);
	if (role & ADDRESS_VIP)
		return take(ctx, COUNT_VIP);
	if (role & ADDRESS_GATEWAY) {
		if (ip->next_header == PROTO_ICMPV6)
			return take(ctx, COUNT_GATEWAY_ICMP);
		return pass(COUNT_PASS);
	}
	if (ip->next_header == PROTO_ICMPV6) {
		if (is_nat_error_v6(ip + 1, end) &&
		    !bpf_map_lookup_elem(&local_addresses, &target))
			return take(ctx, COUNT_NAT_ICMP);
		return pass(COUNT_PASS);
	}
	source = ip->source;
	protocol = ip->next_header;
	if (protocol == PROTO_IPV6_FRAGMENT) {
		if ((void *)(part + 1) > end)
			return pass(COUNT_PASS);
		/* The protocol is no part of the key: RFC 8200 section 4.5. */
		fragment.source = source;
		fragment.target = target;
		fragment.id = part->id;
		if (part->offset_more & IPV6_FRAGMENT_OFFSET) {
			if (is_nat_fragment(&fragment))
				return take(ctx, COUNT_NAT_RETURN);
			return pass(COUNT_PASS);
		}
		has_more = part->offset_more & IPV6_FRAGMENT_MORE;
		protocol = part->next_header;
		ports = (void *)(part + 1);
	}
	if (!has_ports(protocol) || (void *)(ports + 1) > end)
		return pass(COUNT_PASS);
	if (is_nat_source(&source, protocol, ports->source) &&
	    !bpf_map_lookup_elem(&local_addresses, &target)) {
		if (has_more)
			note_fragments(&fragment);
		return take(ctx, COUNT_NAT_RETURN);
	}
	return pass(COUNT_PASS);
}

SECTION("xdp")
int steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethernet *ethernet = data;
	void *next = data + sizeof(*ethernet);
	int is_unicast;
	be16 type;

	if (next > end)
		return pass(COUNT_MALFORMED);
	type = ethernet->type;
	if (type == ETHERTYPE_VLAN) {
		struct vlan *tag = next;
		u32 id;

		next = tag + 1;
		if (next > end)
			return pass(COUNT_MALFORMED);
		id = HTONS(tag->control) & VLAN_ID;
		/* 0 is no VLAN: such a frame is an untagged one with a priority. */
		if (id && !bpf_map_lookup_elem(&vlans, &id))
			return pass(COUNT_OTHER_VLAN);
		type = tag->type;
	}
	is_unicast = is_ours(ethernet->target);
	if (type == ETHERTYPE_ARP && (is_unicast || is_broadcast(ethernet->target)))
		return steer_arp(ctx, next, end);
	if (type == ETHERTYPE_IPV6 && (is_unicast || is_solicited_node(ethernet->target)))
		return steer_ipv6(ctx, next, end, is_unicast);
	if (!is_unicast)
		return pass(COUNT_OTHER_MAC);
	if (type == ETHERTYPE_IPV4)
		return steer_ipv4(ctx, next, end);
	return pass(COUNT_PASS);
}

char steer_license[] SECTION("license") = "Apache-2.0";
