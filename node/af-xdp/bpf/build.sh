#!/bin/sh
# Compiles the steering program; the result, steer.bpf.o, is checked in.
# Usage: build.sh [OUTPUT as an absolute path]
# Runs in its own folder with relative names only, so that no path of a machine gets into it.
set -eu
cd "$(dirname "$0")"
exec clang-14 -target bpf -mcpu=v3 -O2 -g -fno-ident -fdebug-compilation-dir=. \
	-Wall -Wextra -Werror -c steer.bpf.c -o "${1:-steer.bpf.o}"
