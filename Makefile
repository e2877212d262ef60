# One front door. `make prove` shows what Hitless does; `make test` is what CI runs.
.DEFAULT_GOAL := help
CARGO ?= cargo
BIN := $(or $(CARGO_TARGET_DIR),target)/release/hitless

.PHONY: help deps build release test tidy lint prove bench install

help: ## this text
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

deps: ## install what is missing (Debian packages; as root)
	@tools/deps.sh

build: deps ## build the binary
	$(CARGO) build --workspace --bins

tidy: ## floors and files
	$(CARGO) xtask tidy

lint: deps ## formatting, lints, floors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) xtask tidy

test: ## everything that CI runs: lints, unit and property tests, real containerd and nftables, stock kubectl (as root)
	@tools/deps.sh --for-tests
	$(MAKE) --no-print-directory lint
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace

release: deps ## what proofs and benchmarks run
	$(CARGO) build --release --bin hitless

prove: release ## a two-node cluster under traffic: the scenarios, with both comparisons (as root)
	$(BIN) prove --compare $(PROVE_ARGS)

bench: release ## every figure of BENCHMARKS.md
	tools/bench.sh $(BIN)

install: release ## a release build in /usr/local/bin
	install -m 0755 $(BIN) /usr/local/bin/hitless
