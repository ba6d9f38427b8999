/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables the steering program shares with user space. src/steering/tables.rs is the other
 * side: a change here is a change there, and the loader checks sizes when it reuses a table.
 */
#ifndef STEADFAST_STEER_H
#define STEADFAST_STEER_H

#include "kernel.h"

#define VIPS_MAX 16384
#define NAT_SOURCES_MAX 65536
#define LOCAL_ADDRESSES_MAX 1024
#define QUEUES_MAX 64
#define VLANS_MAX 64
#define NAT_FRAGMENTS_MAX 8192

/* How long after its first fragment the rest of an answer is taken. The data plane waits as long. */
#define NAT_FRAGMENT_TIMEOUT_NS 5000000000ULL

/* Values of `vips`. */
#define ADDRESS_VIP 1
#define ADDRESS_GATEWAY 2

/* Indexes of `counters`; the names are in user space. */
enum counter {
	COUNT_PASS,
	COUNT_OTHER_MAC,
	COUNT_MALFORMED,
	COUNT_VIP,
	COUNT_GATEWAY_ICMP,
	COUNT_NAT_RETURN,
	COUNT_NAT_ICMP,
	COUNT_ARP,
	COUNT_ARP_MUTE,
	COUNT_ND,
	COUNT_ND_MUTE,
	COUNT_NO_SOCKET,
	COUNT_OTHER_VLAN,
	COUNTERS,
};

/* The one entry of `settings`. */
struct settings {
	u8 own_mac[6];
	u8 virtual_mac[6];
	u32 has_virtual_mac;
};

/* A server of a NAT pool: who may send packets that belong to us. With port 0 it is those ports of
 * the server that the value names: the first in the upper half, the last in the lower one. */
struct nat_source {
	struct address address;
	be16 port;
	u8 protocol;
	u8 zero;
};

/* An answer of such a server that comes in fragments. */
struct nat_fragment {
	struct address source;
	struct address target;
	be32 id;
	u8 protocol;
	u8 zero[3];
};

_Static_assert(sizeof(struct nat_fragment) == 40, "as in tables.rs");
_Static_assert(sizeof(struct settings) == 16, "as in tables.rs");
_Static_assert(sizeof(struct nat_source) == 20, "as in tables.rs");

#endif
