#!/usr/bin/env bash
# A node whose only wire is a trunk: clients are in VLAN 100 of it, servers of NAT in VLAN 200. Runs in
# the guest, as root, with the folder of the programs as its argument. Prints what was seen; the test
# reads it.
set -euo pipefail
bin=$1

modprobe -a 8021q veth bridge af_packet

# Not `ip netns exec`, which mounts another /sys and so hides the BPF file system.
in_ns() { # NAME COMMAND...
	nsenter --net="/run/netns/$1" "${@:2}"
}

host() { # NAME: a namespace with a wire to the switch, whose tags stay in the frames
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip -n sw link add "$1" type veth peer name eth0 netns "$1"
	ip -n sw link set "$1" master trunk up
	ip -n "$1" link set eth0 up
	in_ns sw ethtool -K "$1" tx off txvlan off >/dev/null
	in_ns "$1" ethtool -K eth0 tx off txvlan off >/dev/null
	in_ns "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 \
		net.ipv4.conf.default.rp_filter=0 net.ipv6.conf.default.accept_dad=0
}

vlan() { # HOST ID ADDRESS...
	local host=$1 id=$2 address
	ip -n "$host" link add link eth0 name "eth0.$id" type vlan id "$id"
	ip -n "$host" link set "eth0.$id" up
	for address in "${@:3}"; do
		case $address in
		*:*) ip -n "$host" address add "$address" dev "eth0.$id" nodad ;;
		*) ip -n "$host" address add "$address" dev "eth0.$id" ;;
		esac
	done
}

until_ok() { # TEXT COMMAND...
	local text=$1 try
	for try in $(seq 100); do
		if "${@:2}"; then return; fi
		sleep 0.2
	done
	echo "FAILED: $text (after $try tries)"
	ctl status -v || true
	tail -n 30 /tmp/clusterd.log
	exit 1
}

ip netns add sw
ip -n sw link add trunk type bridge stp_state 0 forward_delay 0 mcast_snooping 0
ip -n sw link set trunk up
for name in n1 c1 s1 d1; do host "$name"; done

vlan n1 100 198.18.0.1/24 2001:db8:18::1/64
vlan n1 200 198.18.1.1/24 2001:db8:18:1::1/64
vlan c1 100 198.18.0.200/24 2001:db8:18::200/64
vlan s1 200 198.18.1.11/24 2001:db8:18:1::11/64
vlan d1 100 198.18.0.11/24
ip -n s1 route add default via 198.18.1.254
ip -n s1 route add default via 2001:db8:18:1::254
in_ns d1 sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
ip -n d1 address add 198.18.0.100/32 dev lo
ip -n n1 address add 198.18.2.1/32 dev lo
# Another VLAN of the same wire, on which there is no segment.
vlan c1 300 198.18.9.200/24

in_ns s1 "$bin/lab-server" --name s1 --listen 198.18.1.11:80 \
	--listen '[2001:db8:18:1::11]:80' &
in_ns d1 "$bin/lab-server" --name d1 --listen 198.18.0.11:81 --listen 198.18.0.100:81 &

mkdir -p /tmp/n1
cat >/tmp/n1.yaml <<-'YAML'
	instance: vlan
	data_dir: /tmp/n1
	listen: {api: '198.18.2.1:7440', control: '198.18.2.1:7441', replication: '198.18.2.1:7442'}
	socket: /run/n1.sock
YAML
in_ns n1 "$bin/clusterd" --config /tmp/n1.yaml >/tmp/clusterd.log 2>&1 &
ctl() { in_ns n1 "$bin/clusterctl" --socket /run/n1.sock "$@"; }
until_ok "the daemon answers" test -S /run/n1.sock
until_ok "a cluster of one" ctl init --cluster-name vlan --credentials /tmp/admin >/tmp/init.log 2>&1

cat >/tmp/cluster.yaml <<-'YAML'
	apiVersion: steadfast/v1
	segments:
	  - {name: front, prefix: 198.18.0.0/24, prefixes: ['2001:db8:18::/64']}
	  - {name: back, prefix: 198.18.1.0/24, prefixes: ['2001:db8:18:1::/64']}
	groups:
	  - name: web
	    addresses: [198.18.0.100, '2001:db8:18::100']
	    gateways: [198.18.1.254, '2001:db8:18:1::254']
	services:
	  - {name: nat, group: web, address: 198.18.0.100, port: 80, forwarding: nat, servers: [{address: 198.18.1.11, port: 80}]}
	  - {name: nat-6, group: web, address: '2001:db8:18::100', port: 80, forwarding: nat, servers: [{address: '2001:db8:18:1::11', port: 80}]}
	  - {name: dr, group: web, address: 198.18.0.100, port: 81, servers: [{address: 198.18.0.11, port: 81}]}
YAML
until_ok "the document is taken" ctl apply -f /tmp/cluster.yaml >/tmp/apply.log 2>&1

# A driver that takes tags off: refused, with the command that helps.
says() { ctl status -v 2>&1 | grep -qF -- "$1"; }
until_ok "it is told that tags are taken off" says "ethtool -K eth0 rxvlan off"
echo "seen: tags are taken off"
in_ns n1 ethtool -K eth0 rxvlan off
until_ok "the VLANs are attached" says "eth0.200 (VLAN 200 of eth0)"
ctl status -v

ask() { # ADDRESS PORT: one line there and back
	in_ns c1 timeout 5 bash -c \
		'exec 3<>/dev/tcp/$0/$1; for n in 1 2 3; do echo "line $n" >&3; read -r -t 4 a <&3; echo "$a"; done' \
		"$1" "$2" 2>/dev/null
}
answers() { [ "$(ask "$1" "$2" | grep -c "^$3 ")" = 3 ]; }
until_ok "NAT from VLAN to VLAN" answers 198.18.0.100 80 s1
echo "seen: nat"
until_ok "NAT over IPv6" answers 2001:db8:18::100 80 s1
echo "seen: nat-6"
until_ok "DR within a VLAN" answers 198.18.0.100 81 d1
echo "seen: dr"
in_ns c1 busybox ping -c 2 -W 5 198.18.0.100 >/dev/null && echo "seen: ping"

# Who asks for the VIP in another VLAN of the same wire is not heard.
in_ns c1 busybox ping -I eth0.300 -c 2 -W 1 198.18.0.100 >/dev/null 2>&1 || true
if ip -n c1 neighbour show to 198.18.0.100 dev eth0.300 | grep -q lladdr; then
	echo "FAILED: the VIP was answered in VLAN 300"
	exit 1
fi
ip -n c1 neighbour show to 198.18.0.100 dev eth0.100 | grep -q lladdr
echo "seen: silence in another VLAN"

# A VLAN that goes and comes back is attached again by itself.
ip -n n1 link delete eth0.200
until_ok "its loss is noticed" says "no interface has an address in 198.18.1.0/24"
vlan n1 200 198.18.1.1/24 2001:db8:18:1::1/64
until_ok "NAT again" answers 198.18.0.100 80 s1
echo "seen: nat after the VLAN was made anew"
