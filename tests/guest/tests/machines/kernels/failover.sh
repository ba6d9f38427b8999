#!/usr/bin/env bash
# Three nodes whose servers are kernels with what this machine's may lack, and a kill of the one that
# holds the group: tunnels that tunnel devices end, and associations of SCTP. Runs in the guest, as
# root, with the folder of the programs as its argument. Prints what was seen; the test reads it.
set -euo pipefail
bin=$1 control=198.18.4
modprobe -a veth bridge af_packet ipip sit ip6_tunnel ip_gre ip6_gre fou fou6 sctp
# shellcheck source=../three.sh
source "$(dirname "$0")/../three.sh"

vip=198.18.0.100 vip6=2001:db8:18::100
for switch in front back mgmt; do switch $switch; done
for n in 1 2 3; do
	host "n$n"
	for switch in front back mgmt; do wire "n$n" $switch $switch; done
	addresses "n$n" front "198.18.0.$n/24" "2001:db8:18::$n/64"
	addresses "n$n" back "198.18.1.$n/24" "2001:db8:18:1::$n/64"
	addresses "n$n" mgmt "$control.$n/24"
done
host c1
wire c1 front front
addresses c1 front 198.18.0.200/24 2001:db8:18::200/64

for n in 1 2; do
	# Ends of tunnels, as a server's owner would set them up, and servers of SCTP by DR.
	host "t$n"
	wire "t$n" front front
	addresses "t$n" front "198.18.0.1$n/24" "2001:db8:18::1$n/64"
	addresses "t$n" lo $vip/32 $vip6/128
	ip -n "t$n" -batch - <<-LINES
		link add t44 type ipip local 198.18.0.1$n
		link add t64 type sit local 198.18.0.1$n
		link add tx6 type ip6tnl mode any local 2001:db8:18::1$n
		link add g4 type gre local 198.18.0.1$n
		link add g6 type ip6gre local 2001:db8:18::1$n
		link set t44 up
		link set t64 up
		link set tx6 up
		link set g4 up
		link set g6 up
		fou add port 6080 gue
	LINES
	ip -n "t$n" -6 fou add port 6080 gue
	in_ns "t$n" "$bin/sctp-lines" serve "t$n" "$vip:90" &
	in_ns "t$n" "$bin/sctp-lines" serve "t$n" "[$vip6]:90" &
	# Servers of SCTP by NAT.
	host "s$n"
	wire "s$n" back back
	addresses "s$n" back "198.18.1.1$n/24" "2001:db8:18:1::1$n/64"
	ip -n "s$n" route add default via 198.18.1.254
	ip -n "s$n" route add default via 2001:db8:18:1::254
	in_ns "s$n" "$bin/sctp-lines" serve "s$n" "198.18.1.1$n:9100" &
	in_ns "s$n" "$bin/sctp-lines" serve "s$n" "[2001:db8:18:1::1$n]:9100" &
done

services=() targets=() port=8000
# One server after the other, so that no node can guess.
tunnel() { # NAME OPTIONS: either family in either
	local inner outer target
	for inner in $vip $vip6; do
		for outer in 198.18.0.1 2001:db8:18::1; do
			port=$((port + 1))
			services+=("  - {name: $1-$port, group: web, address: '$inner', port: $port, scheduler: rr, forwarding: tun, tunnel: {$2}, servers: [{address: '${outer}1'}, {address: '${outer}2'}]}")
			target=$inner:$port
			if [[ $inner == *:* ]]; then target=[$inner]:$port; fi
			targets+=("$target")
		done
	done
}
tunnel ipip 'type: ipip'
tunnel gre 'type: gre'
tunnel gue 'type: gue, port: 6080'
listen=()
for target in "${targets[@]}"; do listen+=(--listen "$target"); done
for n in 1 2; do in_ns "t$n" "$bin/lab-server" --name "t$n" "${listen[@]}" & done

sctp='group: web, protocol: sctp, scheduler: rr'
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
$(printf '%s\n' "${services[@]}")
  - {name: sctp-dr, $sctp, address: $vip, port: 90, servers: [{address: 198.18.0.11}, {address: 198.18.0.12}]}
  - {name: sctp-dr-6, $sctp, address: '$vip6', port: 90, servers: [{address: '2001:db8:18::11'}, {address: '2001:db8:18::12'}]}
  - {name: sctp-nat, $sctp, address: $vip, port: 91, forwarding: nat, servers: [{address: 198.18.1.11, port: 9100}, {address: 198.18.1.12, port: 9100}]}
  - {name: sctp-nat-6, $sctp, address: '$vip6', port: 91, forwarding: nat, servers: [{address: '2001:db8:18:1::11', port: 9100}, {address: '2001:db8:18:1::12', port: 9100}]}
YAML
stamp "the network is there"
three_nodes /tmp/cluster.yaml

start_client c1
for target in "${targets[@]}"; do open "$target" 2 0; done

# Associations that last until the other end of this pipe is closed.
mkfifo /tmp/last
exec 9<>/tmp/last
keepers=()
keep() { # NAME ADDRESS
	nsenter --net=/run/netns/c1 "$bin/sctp-lines" keep "$2" </tmp/last >"/tmp/$1" 2>&1 9>&- &
	keepers+=("$!")
	until_ok "an association through $1" grep -qs "^associated with " "/tmp/$1"
}
names=(sctp-{dr,nat}{,-6}-{1,2})
for n in 1 2; do
	keep "sctp-dr-$n" "$vip:90"
	keep "sctp-dr-6-$n" "[$vip6]:90"
	keep "sctp-nat-$n" "$vip:91"
	keep "sctp-nat-6-$n" "[$vip6]:91"
done
stamp "the associations are there"
kill_and_judge
exec 9>&-
for keeper in "${keepers[@]}"; do wait "$keeper" || true; done
for name in "${names[@]}"; do echo "$name: $(tail -n 3 "/tmp/$name" | tr '\n' ';')"; done
for name in sctp-{dr,nat}{,-6}; do
	if grep -hqx "kept by [st]1" "/tmp/$name-"[12] && grep -hqx "kept by [st]2" "/tmp/$name-"[12]; then
		echo "seen: $name kept at two servers"
	fi
done
# Sessions came through every end, and nothing else leads to the servers.
for n in 1 2; do
	for end in t44 t64 tx6 g4 g6; do
		[ "$(ip -n "t$n" -s link show $end | awk '/RX:/ {getline; print $2}')" -gt 0 ]
	done
done
