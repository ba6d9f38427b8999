#!/usr/bin/env bash
# Installs Debian packages for `make setup`, as root. Some of them are servers that the tests start
# themselves, inside namespaces: on this machine none is started, now or at its next start.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

# What maintainer scripts ask before they start anything; 101 is `no` (policy-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi

apt-get update -qq
apt-get install -y -qq --no-install-recommends --no-remove "$@"

units_of() {
	case $1 in
	nginx) echo nginx.service ;;
	chasquid) echo chasquid.service chasquid-{smtp,submission,submission_tls}.socket ;;
	iperf3) echo iperf3.service ;;
	esac
}
# Only without systemd there is nothing to disable.
if [ -d /run/systemd/system ]; then
	for package in "$@"; do
		for unit in $(units_of "$package"); do
			systemctl disable --quiet "$unit" || echo "$unit stays enabled" >&2
		done
	done
fi
