/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the steering program uses of the kernel's BPF interface, and the packet headers it reads.
 * Sources: include/uapi/linux/bpf.h, if_ether.h, if_arp.h, RFC 791, RFC 826, RFC 8200, RFC 4861.
 */
#ifndef STEADFAST_KERNEL_H
#define STEADFAST_KERNEL_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 be16;
typedef u32 be32;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* Map definitions as BTF: the loader reads type and sizes from these member types. */
#define MAP_INT(name, value) int (*name)[value]
#define MAP_TYPE(name, value) typeof(value) *name

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_LRU_HASH = 9, MAP_XSKMAP = 17 };

/* enum xdp_action */
enum { XDP_ABORTED = 0, XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3, XDP_REDIRECT = 4 };

/* struct xdp_md */
struct xdp_md {
	u32 data;
	u32 data_end;
	u32 data_meta;
	u32 ingress_ifindex;
	u32 rx_queue_index;
	u32 egress_ifindex;
};

/* Helpers by number: __BPF_FUNC_MAPPER. */
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					 u64 flags) = (void *)2;
static long (*const bpf_redirect_map)(void *map, u64 key, u64 flags) = (void *)51;
static u64 (*const bpf_ktime_get_boot_ns)(void) = (void *)125;

#define HTONS(value) __builtin_bswap16(value)
#define HTONL(value) __builtin_bswap32(value)

#define ETHERTYPE_IPV4 HTONS(0x0800)
#define ETHERTYPE_ARP HTONS(0x0806)
#define ETHERTYPE_IPV6 HTONS(0x86dd)
#define ETHERTYPE_VLAN HTONS(0x8100)

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_IPV6_FRAGMENT 44
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132

struct ethernet {
	u8 target[6];
	u8 source[6];
	be16 type;
} __attribute__((packed));

/* IEEE 802.1Q: what follows the addresses of a tagged frame, from its second half on. */
struct vlan {
	be16 control;
	be16 type;
} __attribute__((packed));

/* The part of vlan.control that is the VLAN's number. */
#define VLAN_ID 0x0fff

struct arp {
	be16 hardware;
	be16 protocol;
	u8 hardware_len;
	u8 protocol_len;
	be16 operation;
	u8 sender_mac[6];
	be32 sender_ip;
	u8 target_mac[6];
	be32 target_ip;
} __attribute__((packed));

struct ipv4 {
	u8 version_ihl;
	u8 tos;
	be16 total_len;
	be16 id;
	be16 fragment;
	u8 ttl;
	u8 protocol;
	be16 checksum;
	be32 source;
	be32 target;
} __attribute__((packed));

/* The parts of ipv4.fragment: offset, more fragments. */
#define FRAGMENT_OFFSET HTONS(0x1fff)
#define FRAGMENT_MORE HTONS(0x2000)

struct address {
	be32 word[4];
};

struct ipv6 {
	be32 version_class_flow;
	be16 payload_len;
	u8 next_header;
	u8 hop_limit;
	struct address source;
	struct address target;
} __attribute__((packed));

/* RFC 8200 section 4.5. */
struct ipv6_fragment {
	u8 next_header;
	u8 reserved;
	be16 offset_more;
	be32 id;
} __attribute__((packed));

/* The parts of ipv6_fragment.offset_more. */
#define IPV6_FRAGMENT_OFFSET HTONS(0xfff8)
#define IPV6_FRAGMENT_MORE HTONS(0x0001)

struct ports {
	be16 source;
	be16 target;
} __attribute__((packed));

struct icmp {
	u8 type;
	u8 code;
	be16 checksum;
	be32 rest;
} __attribute__((packed));

/* RFC 792: destination unreachable, source quench, time exceeded, parameter problem. */
#define ICMP_UNREACHABLE 3
#define ICMP_SOURCE_QUENCH 4
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER 12
/* RFC 4443, RFC 4861. Types below 128 are errors. */
#define ICMPV6_INFORMATIONAL 128
#define ICMPV6_SOLICITATION 135

struct solicitation {
	struct icmp icmp;
	struct address target;
} __attribute__((packed));

#endif
