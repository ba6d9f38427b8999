#!/usr/bin/env bash
# A node whose servers are kernels with what this machine's may lack: tunnels of every kind, and SCTP.
# Runs in the guest, as root, with the folder of the programs as its argument. Prints what was seen;
# the test reads it.
set -euo pipefail
bin=$1

modprobe -a veth bridge af_packet ipip sit ip6_tunnel ip_gre ip6_gre fou fou6 sctp

# Not `ip netns exec`, which mounts another /sys and so hides the BPF file system.
in_ns() { # NAME COMMAND...
	nsenter --net="/run/netns/$1" "${@:2}"
}

host() { # NAME: a namespace
	ip netns add "$1"
	ip -n "$1" link set lo up
	in_ns "$1" sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
		net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2 net.ipv6.conf.default.accept_dad=0
}

wire() { # HOST SWITCH ADDRESS...: an interface of it, with checksums that are computed
	local host=$1 switch=$2 address
	ip -n sw link add "$host-$switch" type veth peer name "$switch" netns "$host"
	ip -n sw link set "$host-$switch" master "$switch" up
	ip -n "$host" link set "$switch" up
	in_ns sw ethtool -K "$host-$switch" tx off >/dev/null
	in_ns "$host" ethtool -K "$switch" tx off >/dev/null
	for address in "${@:3}"; do
		case $address in
		*:*) ip -n "$host" address add "$address" dev "$switch" nodad ;;
		*) ip -n "$host" address add "$address" dev "$switch" ;;
		esac
	done
}

until_ok() { # TEXT COMMAND...
	local text=$1 try
	for try in $(seq 50); do
		if "${@:2}"; then return; fi
		sleep 0.2
	done
	echo "FAILED: $text (after $try tries)"
	ctl status -v || true
	tail -n 30 /tmp/clusterd.log
	ip -n t1 -s link
	exit 1
}

ip netns add sw
for switch in front back; do
	ip -n sw link add "$switch" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
	ip -n sw link set "$switch" up
done
for name in n1 c1 t1 d1 s1; do host "$name"; done
vip=198.18.0.100 vip6=2001:db8:18::100
wire n1 front 198.18.0.1/24 2001:db8:18::1/64
wire n1 back 198.18.1.1/24 2001:db8:18:1::1/64
wire c1 front 198.18.0.200/24 2001:db8:18::200/64
wire d1 front 198.18.0.11/24 2001:db8:18::11/64
wire s1 back 198.18.1.11/24 2001:db8:18:1::11/64
wire t1 front 198.18.0.2{1,2,3}/24 2001:db8:18::2{1,2,3}/64
ip -n n1 address add 198.18.2.1/32 dev lo
for name in d1 t1; do
	ip -n "$name" address add "$vip/32" dev lo
	ip -n "$name" address add "$vip6/128" dev lo nodad
done
ip -n s1 route add default via 198.18.1.254
ip -n s1 route add default via 2001:db8:18:1::254

# The other ends of the tunnels, as a server's owner would set them up. An end takes GRE with a
# checksum or without, so each has its address; GUE is taken off and what is in it is as IPIP.
end() { # NAME TYPE OPTION...
	ip -n t1 link add "$1" type "$2" "${@:3}"
	ip -n t1 link set "$1" up
}
end t44 ipip local 198.18.0.21
end t64 sit local 198.18.0.21
end tx6 ip6tnl mode any local 2001:db8:18::21
end g4 gre local 198.18.0.22
end g6 ip6gre local 2001:db8:18::22
end gc4 gre local 198.18.0.23 icsum
end gc6 ip6gre local 2001:db8:18::23 icsum
ip -n t1 fou add port 6080 gue
ip -n t1 -6 fou add port 6080 gue

# A service for every tunnel, family within and family without: its port of the VIPs is its number.
services=() documents=() listen=() port=8000
tunnel() { # NAME SERVER-NUMBER OPTIONS
	local inner outer server
	for inner in "$vip" "$vip6"; do
		for outer in 198.18.0. 2001:db8:18::; do
			server=$outer$2 port=$((port + 1))
			local families
			families=$([[ $inner == *:* ]] && echo 6 || echo 4)in$([[ $outer == *:* ]] && echo 6 || echo 4)
			services+=("$1 $families $inner $port")
			documents+=("  - {name: $1-$families, group: web, address: '$inner', port: $port, forwarding: tun, tunnel: {$3}, servers: [{address: '$server'}]}")
		done
	done
	listen+=("    listen $((port - 3)); listen $((port - 2)); listen [::]:$((port - 1)); listen [::]:$port;")
}
tunnel ipip 21 'type: ipip'
tunnel gre 22 'type: gre'
tunnel gre-checksum 23 'type: gre, checksum: true'
tunnel gue 21 'type: gue, port: 6080'
tunnel gue-checksum 21 'type: gue, port: 6080, checksum: true'
tunnel gue-no-checksum 21 'type: gue, port: 6080, checksum: false'

mkdir -p /tmp/www /tmp/n1
head -c 20000 /dev/zero | tr '\0' x >/tmp/www/page
cat >/tmp/nginx.conf <<-CONF
	daemon off; master_process off; user root; pid /tmp/nginx.pid; error_log /tmp/nginx.log;
	events {}
	http {
	  access_log off;
	  server {
	    root /tmp/www;
	${listen[@]}
	  }
	}
CONF
in_ns t1 nginx -c /tmp/nginx.conf &
in_ns d1 "$bin/sctp-lines" serve d1 "$vip:90" &
in_ns d1 "$bin/sctp-lines" serve d1 "[$vip6]:90" &
in_ns s1 "$bin/sctp-lines" serve s1 198.18.1.11:9100 &
in_ns s1 "$bin/sctp-lines" serve s1 '[2001:db8:18:1::11]:9100' &

cat >/tmp/n1.yaml <<-'YAML'
	instance: kernels
	data_dir: /tmp/n1
	listen: {api: '198.18.2.1:7440', control: '198.18.2.1:7441', replication: '198.18.2.1:7442'}
	socket: /run/n1.sock
YAML
in_ns n1 "$bin/clusterd" --config /tmp/n1.yaml >/tmp/clusterd.log 2>&1 &
ctl() { in_ns n1 "$bin/clusterctl" --socket /run/n1.sock "$@"; }
until_ok "the daemon answers" test -S /run/n1.sock
until_ok "a cluster of one" ctl init --cluster-name kernels --credentials /tmp/admin >/tmp/init.log 2>&1

cat >/tmp/cluster.yaml <<YAML
apiVersion: steadfast/v1
segments:
  - {name: front, prefix: 198.18.0.0/24, prefixes: ['2001:db8:18::/64']}
  - {name: back, prefix: 198.18.1.0/24, prefixes: ['2001:db8:18:1::/64']}
groups:
  - name: web
    addresses: [$vip, '$vip6']
    gateways: [198.18.1.254, '2001:db8:18:1::254']
services:
$(printf '%s\n' "${documents[@]}")
  - {name: sctp-dr, group: web, protocol: sctp, address: $vip, port: 90, servers: [{address: 198.18.0.11}]}
  - {name: sctp-dr-6, group: web, protocol: sctp, address: '$vip6', port: 90, servers: [{address: '2001:db8:18::11'}]}
  - {name: sctp-nat, group: web, protocol: sctp, address: $vip, port: 91, forwarding: nat, servers: [{address: 198.18.1.11, port: 9100}]}
  - {name: sctp-nat-6, group: web, protocol: sctp, address: '$vip6', port: 91, forwarding: nat, servers: [{address: '2001:db8:18:1::11', port: 9100}]}
YAML
until_ok "the document is taken" ctl apply -f /tmp/cluster.yaml >/tmp/apply.log 2>&1

gets() { # ADDRESS PORT: a page, whole
	local host=$1
	[[ $host == *:* ]] && host="[$host]"
	in_ns c1 curl -sS -m 5 -o /dev/null -w '%{http_code} %{size_download}\n' "http://$host:$2/page" 2>/tmp/curl.log |
		grep -qx '200 20000'
}
for service in "${services[@]}"; do
	read -r name families address port <<<"$service"
	until_ok "a page through $name, $families" gets "$address" "$port"
	echo "seen: $name $families"
done
# Pages came through every end, and nothing else leads to the server.
for end in t44 t64 tx6 g4 g6 gc4 gc6; do
	[ "$(ip -n t1 -s link show "$end" | awk '/RX:/ {getline; print $2}')" -gt 0 ]
done

asks() { # ADDRESS NAME: lines there and back
	[ "$(in_ns c1 "$bin/sctp-lines" ask "$1" 2>/tmp/ask.log | grep -c "^$2 line ")" = 3 ]
}
until_ok "SCTP by DR" asks "$vip:90" d1
echo "seen: sctp dr"
until_ok "SCTP by DR over IPv6" asks "[$vip6]:90" d1
echo "seen: sctp dr-6"
until_ok "SCTP by NAT" asks "$vip:91" s1
echo "seen: sctp nat"
until_ok "SCTP by NAT over IPv6" asks "[$vip6]:91" s1
echo "seen: sctp nat-6"
