# Three nodes in the guest, a client whose sessions are judged, and the kill of the holder. For scripts
# of the guest, which say where the programs are (`bin`) and which network the nodes talk in
# (`control`), and read this.
#
# Beacons and elections are as they are by default: the guest counts instructions, so whatever the
# machine below it does, nobody is late. By the machine's clock no three nodes come to terms here.
# A program that starts costs much of the time a test takes, so few do.
# shellcheck shell=bash disable=SC2154

# Not `ip netns exec`, which mounts another /sys and so hides the BPF file system.
in_ns() { # NAME COMMAND...
	nsenter --net="/run/netns/$1" "${@:2}"
}

# ---- Network: the guest's own namespace is the switch ----

# What namespaces are born with.
sysctl -qw net.core.devconf_inherit_init_net=1 net.ipv4.conf.{all,default}.rp_filter=0 \
	net.ipv4.conf.{all,default}.arp_ignore=1 net.ipv4.conf.{all,default}.arp_announce=2 \
	net.ipv6.conf.{all,default}.accept_dad=0

host() { # NAME: a namespace
	ip netns add "$1"
	ip -n "$1" link set lo up
}

switch() { # NAME: a bridge that passes tags as they are
	ip link add name "$1" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
	ip link set "$1" up
}

wire() { # HOST INTERFACE SWITCH: checksums are computed, tags stay in the frames
	ip -batch - <<-LINES
		link add $1-$2 type veth peer name $2 netns $1
		link set $1-$2 master $3 up
	LINES
	ip -n "$1" link set "$2" up
	ethtool -K "$1-$2" tx off txvlan off >/dev/null
	in_ns "$1" ethtool -K "$2" tx off txvlan off rxvlan off >/dev/null
}

addresses() { # HOST INTERFACE ADDRESS...
	local address
	for address in "${@:3}"; do
		echo "address add $address dev $2$([[ $address != *:* ]] || echo ' nodad')"
	done | ip -n "$1" -batch -
}

vlan() { # HOST INTERFACE ID ADDRESS...
	ip -n "$1" -batch - <<-LINES
		link add link $2 name $2.$3 type vlan id $3
		link set $2.$3 up
	LINES
	addresses "$1" "$2.$3" "${@:4}"
}

# ---- What goes on ----

stamp() { # TEXT: when it was, by the guest's clock
	local up
	read -r up _ </proc/uptime
	echo "$up s: $1"
}

failed() { # TEXT
	stamp "FAILED: $1"
	local n
	for n in "${!daemon[@]}"; do
		ctl "$n" status -v || true
		tail -n 30 "/tmp/n$n.log" || true
	done
	exit 1
}

until_ok() { # TEXT COMMAND...
	local try
	for try in $(seq 100); do
		if "${@:2}"; then return; fi
		sleep 0.2
	done
	failed "$1 (after $try tries)"
}

# ---- Nodes ----

declare -A daemon=()

start_node() { # N
	local socket=/run/n$1.sock
	mkdir -p "/tmp/n$1"
	cat >"/tmp/n$1.yaml" <<-YAML
		instance: n$1
		data_dir: /tmp/n$1
		listen: {api: '$control.$1:7440', control: '$control.$1:7441', replication: '$control.$1:7442'}
		socket: $socket
	YAML
	nsenter --net="/run/netns/n$1" "$bin/clusterd" --config "/tmp/n$1.yaml" >>"/tmp/n$1.log" 2>&1 &
	daemon[$1]=$!
	until_ok "the daemon of n$1 answers" test -S "$socket"
}

ctl() { # N ARGUMENTS...
	in_ns "n$1" "$bin/clusterctl" --socket "/run/n$1.sock" "${@:2}"
}

three_nodes() { # DOCUMENT: of a cluster whose group is `web`
	local n
	for n in 1 2 3; do start_node $n; done
	ctl 1 init --cluster-name guest --credentials /tmp/admin >/tmp/init.log 2>&1 ||
		failed "n1 makes a cluster: $(</tmp/init.log)"
	for n in 2 3; do
		until_ok "n1 makes a token" token >/tmp/token
		ctl $n join "$(</tmp/token)" >/tmp/join.log 2>&1 || failed "n$n joins: $(</tmp/join.log)"
	done
	stamp "three nodes have joined"
	ctl 1 apply -f "$1" >/tmp/apply.log 2>&1 || failed "the document is taken: $(</tmp/apply.log)"
	until_ok "the cluster is ready" ready
	stamp "the cluster is ready, n$holder holds the group"
}

token() {
	[[ $(ctl 1 -o json token create) =~ \"token\":\ *\"([^\"]+)\" ]] && echo "${BASH_REMATCH[1]}"
}

holder='' said=''
# Finds the node that announces the addresses of the group.
held() {
	local n
	for n in "${!daemon[@]}"; do
		if said=$(ctl "$n" status 2>&1) && [[ $said == *" n$n (here) "* ]]; then
			holder=$n
			return
		fi
	done
	return 1
}

# Three voters hear each other, and two have a copy of all that the holder knows.
ready() {
	held && [[ $said == *'(3 of 3 voters heard)'* && $said == *complete*complete* && $said != *!!* ]]
}

# Kills the daemon of the holder, whose program stays on the interfaces.
kill_holder() {
	local killed=$holder
	stamp "n$killed is killed"
	kill -KILL "${daemon[$killed]}"
	wait "${daemon[$killed]}" 2>/dev/null || true
	unset "daemon[$killed]"
	until_ok "another node takes over" held
	stamp "n$holder holds the group"
}

# ---- Sessions ----

start_client() { # HOST
	coproc CLIENT { exec nsenter --net="/run/netns/$1" "$bin/lab-client" 2>/tmp/client.log; }
}

answer=''
tell() { # COMMAND, as in steadfast_lab::load::wire
	echo "$1" >&"${CLIENT[1]}"
	IFS= read -r -t 60 -u "${CLIENT[0]}" answer || failed "no answer to $1: $(</tmp/client.log)"
	[[ $answer != *'"event":"failed"'* ]] || failed "$1: $answer"
}

open() { # TARGET TALKERS SILENT: sessions, all of which must be there
	tell "{\"command\":\"open\",\"target\":\"$1\",\"talkers\":$2,\"silent\":$3}"
	[[ $answer == *"\"established\":$(($2 + $3)),"* ]] || failed "sessions to $1: $answer"
}

# Nanoseconds as the client counts them.
now() {
	local up
	read -r up _ </proc/uptime
	echo "${up/./}0000000"
}

# Kills the holder under the sessions, and ends them; the test reads what they are judged to be.
kill_and_judge() {
	sleep 1
	until_ok "the copies are complete" ready
	local begin
	begin=$(now)
	kill_holder
	local fault="{\"begin_ns\":$begin,\"ended_ns\":$(now)}"
	tell '{"command":"speak"}'
	sleep 1
	tell "{\"command\":\"finish\",\"fault\":$fault}"
	echo "judged: $answer"
}
