# Steadfast. `make help` lists what there is.
#
# One build profile for everything: tests and demonstration share their artefacts.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
FAULT ?= kill
MODE ?= dr
RUNS ?= 1
SESSIONS ?= 300
REPLICATION ?= on
QUEUES ?= 1
FAMILY ?= 4
LEADS ?= any
SEED ?=
ROUNDS ?=
KEPT ?=
ONLY ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
TARGET ?=
HOURS ?=
INPUT ?=

# The lab makes network namespaces: root, or sudo where one is somebody else.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
BIN := $(abspath $(or $(CARGO_TARGET_DIR),target))/debug
LAB := $(AS_ROOT) $(BIN)/lab
SEED_ARG := $(if $(SEED),--seed $(SEED))

# Cargo builds as whoever calls it, whose toolchain and target folder they are; the test binaries
# alone run as root. What goes with them through sudo are these variables.
TEST_ENV = $(foreach name,SEED STEADFAST_SEED RUST_BACKTRACE,$(if $($(name)),$(name)=$($(name))))
HOST = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
TESTS_AS_ROOT = $(if $(AS_ROOT),env CARGO_TARGET_$(HOST)_RUNNER='$(AS_ROOT) env $(TEST_ENV)')

.PHONY: help
help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@echo 'demo takes FAULT=kill|power|cut|pause|move|stop|rolling|return|leader|quorum|hogs|flood|idle|crash-loop|none'
	@echo '    pause-200ms|pause-500ms|pause-10s, loss-1|loss-5|loss-20,'
	@echo '    cut-control|cut-replication|cut-segment, each with -in or -out for one way'
	@echo '  LEADS=any|holder|other MODE=dr|nat|fullnat|tun RUNS=n SESSIONS=n REPLICATION=on|off'
	@echo '  QUEUES=1|2 FAMILY=4|6 SEED=n DEMO_ARGS=more (lab demo --help)'

.PHONY: setup
setup: ## Installs the Debian packages that are missing, mounts /sys/fs/bpf
	@missing=(); \
	for package in $$(sed 's/#.*//' deploy/packages.txt); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null \
			| grep -q 'ok installed' || missing+=("$$package"); \
	done; \
	if [ "$${#missing[@]}" -gt 0 ]; then \
		echo "installing: $${missing[*]}"; \
		$(AS_ROOT) deploy/install-packages.sh "$${missing[@]}"; \
	fi
	@# systemd mounts it; a container or a bare init may not.
	@if ! grep -q ' /sys/fs/bpf bpf ' /proc/self/mounts; then \
		echo 'mounting the BPF file system on /sys/fs/bpf'; \
		$(AS_ROOT) mount -t bpf bpf /sys/fs/bpf; \
	fi

.PHONY: build
build: ## Builds all programs
	$(CARGO) build --locked --workspace --bins

.PHONY: demo
demo: setup build ## Three nodes, real sessions, a fault, a report
	@$(LAB) demo --fault $(FAULT) --mode $(MODE) --runs $(RUNS) --sessions $(SESSIONS) \
		--replication $(REPLICATION) --queues $(QUEUES) --family $(FAMILY) --leads $(LEADS) $(SEED_ARG) $(DEMO_ARGS)

OLD ?=
OLD_SOURCE = $(abspath $(or $(CARGO_TARGET_DIR),target))/old-source
OLD_BUILD = $(abspath $(or $(CARGO_TARGET_DIR),target))/old

.PHONY: demo-upgrade
demo-upgrade: setup build ## From another version to this one and back: OLD=commit or tag
	@[ -n '$(OLD)' ] || { echo 'which version? OLD=commit or tag' >&2; exit 1; }
	@rm -rf $(OLD_SOURCE) && git worktree prune && git worktree add -q --detach $(OLD_SOURCE) $(OLD)
	@cd $(OLD_SOURCE) && CARGO_TARGET_DIR=$(OLD_BUILD) $(CARGO) build --locked -p clusterd --bin clusterd
	@git worktree remove --force $(OLD_SOURCE)
	@$(LAB) demo --fault upgrade --old-dir $(OLD_BUILD)/debug --mode $(MODE) --runs $(RUNS) \
		--sessions $(SESSIONS) --family $(FAMILY) $(SEED_ARG)

.PHONY: lab
lab: setup build ## The same cluster, left running to play with
	@$(LAB) up --mode $(MODE) --replication $(REPLICATION) --queues $(QUEUES) --family $(FAMILY)

.PHONY: lab-down
lab-down: ## Removes the cluster of `make lab`
	@[ -x $(BIN)/lab ] || $(CARGO) build --locked -p steadfast-lab --bin lab
	@$(LAB) down

.PHONY: check
check: lint unit ## Format, lints, unit tests

.PHONY: lint
lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: unit
unit:
	$(CARGO) test --locked --workspace --lib --bins

# All that is tested, in one go: no processor waits for the last crate of each part.
.PHONY: compile
compile:
	$(CARGO) test --locked --workspace --no-run

# libFuzzer comes with clang, so that no C++ is compiled here.
export CUSTOM_LIBFUZZER_PATH ?= $(wildcard /usr/lib/llvm-14/lib/clang/*/lib/linux/libclang_rt.fuzzer-$(shell uname -m).a)
FUZZ_BUILD = RUSTC_WORKSPACE_WRAPPER=$(abspath tests/fuzz/rustc) $(CARGO) build --locked \
	-p steadfast-fuzz --features libfuzzer --bin fuzz

# The time is make's own: $(origin) tells a SECONDS that was given from the one that bash counts.
.PHONY: fuzz
fuzz: setup ## Fuzzes every parser for a minute: TARGET=name SECONDS=n SEED=n
	@$(FUZZ_BUILD)
	@BIN=$(BIN)/fuzz SEED=$(SEED) FUZZ_SECONDS=$(if $(filter command%,$(origin SECONDS)),$(SECONDS),60) \
		tests/fuzz/run $(TARGET)

.PHONY: fuzz-replay
fuzz-replay: setup ## Runs one input through a fuzz target: TARGET=name INPUT=file
	@$(FUZZ_BUILD)
	@TARGET=$(TARGET) $(BIN)/fuzz -runs=1 $(INPUT)

.PHONY: model
model: ## The states of ownership, searched within larger bounds than `make test` has: hours
	MODEL_FULL=1 $(CARGO) test --locked -p steadfast-ownership --test model -- --nocapture --include-ignored

.PHONY: test
test: setup lint compile unit build ## Everything CI runs
	$(CARGO) test --locked --workspace --doc
	$(TESTS_AS_ROOT) $(CARGO) test --locked --workspace --test '*'
	@$(MAKE) --no-print-directory fuzz
	@$(LAB) suite --sessions $(SESSIONS) $(SEED_ARG)

.PHONY: programs
programs: setup build ## The part of `make test` with real programs: ONLY=text
	@$(LAB) programs --only '$(ONLY)'

# No rights are needed: the emulator is a program like any other.
.PHONY: guest-test
guest-test: setup ## The kernel's IPVS, in an emulated machine, against ours: SEED=n ROUNDS=n ONLY=text,text
	SEED=$(SEED) ROUNDS=$(ROUNDS) KEPT=$(KEPT) ONLY='$(ONLY)' \
		$(CARGO) test --locked -p steadfast-guest --test machines ipvs -- --nocapture

.PHONY: test-full
test-full: setup build ## The runs that the README's figures come from; goes on where it stopped
	$(CARGO) test --locked --workspace --test machines -- --ignored
	$(CARGO) test --locked --workspace --lib -- --ignored \
		many_power_cuts every_flipped_bit --skip cost_of_a_commit
	$(CARGO) test --locked --workspace --test machine -- --ignored
	@$(LAB) suite --full --sessions $(SESSIONS) $(SEED_ARG)

# The results are of a commit: what was shown at it is not run again.
.PHONY: report
report: setup build ## Runs what shows the promises, writes docs/report.md: ONLY=P1,P5 SEED=n
	@$(LAB) report $(if $(ONLY),--only $(ONLY)) --sessions $(SESSIONS) $(SEED_ARG) \
		--results $(abspath $(or $(CARGO_TARGET_DIR),target))/report

SIMULATION = $(CARGO) run --locked -q -p steadfast-simulation --

.PHONY: simulate
simulate: ## Ten simulated hours of a whole cluster under faults: SEED=n HOURS=n for others
	$(SIMULATION) $(if $(SEED),--seed $(SEED),--ci) $(if $(HOURS),--hours $(HOURS))

.PHONY: soak
soak: ## The same with ever new seeds, until it is stopped: SEED=n to begin with
	$(SIMULATION) --seeds 0 --seed $(or $(SEED),1000)

.PHONY: mutants
mutants: ## Known bugs, one at a time: whether the simulation finds them, with which seed
	$(CARGO) test --locked -p steadfast-simulation --features known-bugs --test mutants -- \
		--ignored --nocapture

.PHONY: bench
bench: setup ## Measures the packet path; BENCH_ARGS=--quick shows that it runs
	@$(CARGO) build --locked --profile bench -p steadfast-bench
	@$(abspath $(or $(CARGO_TARGET_DIR),target))/release/steadfast-bench $(BENCH_ARGS)

.PHONY: fix
fix: ## Formats
	$(CARGO) fmt --all
