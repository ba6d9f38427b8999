#!/usr/bin/env bash
# Three nodes with two trunks each, and a kill of the one that holds the group. Runs in the guest, as
# root, with the folder of the programs as its argument. Prints what was seen; the test reads it.
#
#   trunk a: VLAN 100 front (clients, VIPs, DR servers), 200 back (NAT servers), 400 (no segment: what
#            the nodes say to each other)
#   trunk b: VLAN 300 far (NAT servers, a VIP and its DR servers)
set -euo pipefail
bin=$1 control=198.18.4
# shellcheck source=../three.sh
source "$(dirname "$0")/../three.sh"

modprobe -a 8021q veth bridge af_packet

switch trunk-a
switch trunk-b
for n in 1 2 3; do
	host "n$n"
	wire "n$n" eth0 trunk-a
	wire "n$n" eth1 trunk-b
	vlan "n$n" eth0 100 "198.18.0.$n/24" "2001:db8:18::$n/64"
	vlan "n$n" eth0 200 "198.18.1.$n/24" "2001:db8:18:1::$n/64"
	vlan "n$n" eth1 300 "198.18.2.$n/24" "2001:db8:18:2::$n/64"
	vlan "n$n" eth0 400 "198.18.4.$n/24"
done
host c1
wire c1 eth0 trunk-a
vlan c1 eth0 100 198.18.0.200/24 2001:db8:18::200/64
# Two-arm DR: the VIP is in VLAN 300, and the way there is the gateway address in VLAN 100.
ip -n c1 route add 198.18.2.100 via 198.18.0.254
ip -n c1 route add 2001:db8:18:2::100 via 2001:db8:18::254

servers() { # NAME LISTEN...: two ports of each family
	local name=$1 listen=() at
	for at in "${@:2}"; do listen+=(--listen "$at"); done
	in_ns "$name" "$bin/lab-server" --name "$name" "${listen[@]}" &
}
for n in 1 2; do
	# NAT, one-arm: both sides are VLANs of one wire.
	host "s$n"
	wire "s$n" eth0 trunk-a
	vlan "s$n" eth0 200 "198.18.1.1$n/24" "2001:db8:18:1::1$n/64"
	ip -n "s$n" route add default via 198.18.1.254
	ip -n "s$n" route add default via 2001:db8:18:1::254
	servers "s$n" "198.18.1.1$n:80" "[2001:db8:18:1::1$n]:80"
	# NAT, two-arm.
	host "t$n"
	wire "t$n" eth0 trunk-b
	vlan "t$n" eth0 300 "198.18.2.1$n/24" "2001:db8:18:2::1$n/64"
	ip -n "t$n" route add default via 198.18.2.254
	ip -n "t$n" route add default via 2001:db8:18:2::254
	servers "t$n" "198.18.2.1$n:81" "[2001:db8:18:2::1$n]:81"
	# DR: answers go to the client's VLAN by themselves.
	host "d$n"
	wire "d$n" eth0 trunk-a
	wire "d$n" eth1 trunk-b
	vlan "d$n" eth0 100 "198.18.0.1$n/24" "2001:db8:18::1$n/64"
	vlan "d$n" eth1 300 "198.18.2.2$n/24" "2001:db8:18:2::2$n/64"
	addresses "d$n" lo 198.18.0.100/32 198.18.2.100/32 2001:db8:18::100/128 2001:db8:18:2::100/128
	servers "d$n" 198.18.0.100:82 '[2001:db8:18::100]:82' 198.18.2.100:83 '[2001:db8:18:2::100]:83'
done

services=() targets=()
service() { # NAME VIP PORT FORWARDING SERVER...: one after the other, so that no node can guess
	local list='' server
	for server in "${@:5}"; do list+="{address: '$server', port: $3}, "; done
	services+=("  - {name: $1, group: web, address: '$2', port: $3, scheduler: rr, forwarding: $4, servers: [${list%, }]}")
	if [[ $2 == *:* ]]; then targets+=("[$2]:$3"); else targets+=("$2:$3"); fi
}
v4=198.18 v6=2001:db8:18
service nat-one-arm $v4.0.100 80 nat $v4.1.11 $v4.1.12
service nat-one-arm-6 $v6::100 80 nat $v6:1::11 $v6:1::12
service nat-two-arm $v4.0.100 81 nat $v4.2.11 $v4.2.12
service nat-two-arm-6 $v6::100 81 nat $v6:2::11 $v6:2::12
service dr-one-arm $v4.0.100 82 dr $v4.0.11 $v4.0.12
service dr-one-arm-6 $v6::100 82 dr $v6::11 $v6::12
service dr-two-arm $v4.2.100 83 dr $v4.2.21 $v4.2.22
service dr-two-arm-6 $v6:2::100 83 dr $v6:2::21 $v6:2::22
stamp 'the network is there'

cat >/tmp/cluster.yaml <<YAML
apiVersion: steadfast/v1
segments:
  - {name: front, prefix: $v4.0.0/24, prefixes: ['$v6::/64']}
  - {name: back, prefix: $v4.1.0/24, prefixes: ['$v6:1::/64']}
  - {name: far, prefix: $v4.2.0/24, prefixes: ['$v6:2::/64']}
groups:
  - name: web
    addresses: [$v4.0.100, '$v6::100', $v4.2.100, '$v6:2::100']
    gateways: [$v4.0.254, '$v6::254', $v4.1.254, '$v6:1::254', $v4.2.254, '$v6:2::254']
services:
$(printf '%s\n' "${services[@]}")
YAML
three_nodes /tmp/cluster.yaml

start_client c1
for target in "${targets[@]}"; do open "$target" 2 2; done
kill_and_judge
