# What there is to do with codexd. `make` alone lists it.

CARGO ?= cargo
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BIN = $(TARGET_DIR)/release/codexd
PREFIX ?= /usr/local
# What `make start` passes on, for example ARGS='--local-api-base http://127.0.0.1:0'
ARGS ?=

.PHONY: help smoke test matrix soak check check-macos build static dist install fuzz openapi-check bench bench-check start clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

smoke: ## Test the daemon from end to end with the built-in stand-in; needs no Codex
	$(CARGO) run --locked --quiet -- smoke

test: ## All tests; installs the real Codex and what drives a browser into target first, if npm can
	sh tests/install-codex.sh
	sh tests/install-browser.sh
	$(CARGO) test --locked

# The versions of @openai/codex that `make matrix` tries, the newest first
VERSIONS ?= latest 0.165.0 0.160.1 0.155.1 0.150.1 0.145.0 0.140.0 0.135.0 0.130.0 0.125.0 0.120.0 0.110.0 0.100.0 0.80.0

matrix: ## Try VERSIONS of Codex from npm, one after the other; writes the README's table and the list of tried versions
	CODEXD_BLESS=1 CODEXD_MATRIX_VERSIONS="$(VERSIONS)" \
	$(CARGO) test --locked --test it matrix::every_version -- --ignored --nocapture
	CODEXD_BLESS=1 $(CARGO) test --locked --test it tidy

# How often `make soak` kills the daemon
KILLS ?= 200

soak: ## Kill the daemon KILLS (200) times under load, and at each step of a save: nothing may be lost
	CODEXD_SOAK_KILLS=$(KILLS) $(CARGO) test --locked --test it crash:: -- --nocapture --test-threads=1

check: ## Formatting, lints, documentation, and the rules of tests/it/tidy.rs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --test it tidy

check-macos: ## Compile everything for macOS without linking it, on Linux as well; says what it needs for that
	sh tests/check-macos.sh

build: ## The release binary, target/release/codexd
	$(CARGO) build --locked --release
	@# What cargo left as it is, because no change concerned it, is as new as its sources all the same.
	@touch -ch $(BIN)

# What `make static` builds for, and with; without TLS no C compiler for musl is needed
STATIC_TARGET ?= $(shell uname -m)-unknown-linux-musl
STATIC_FEATURES ?=

static: ## A static binary for Linux hosts without anything (musl); says how to get the target if it is missing
	@ls "$$(rustc --print target-libdir --target $(STATIC_TARGET))"/libstd-*.rlib >/dev/null 2>&1 || \
	  { echo "the target $(STATIC_TARGET) is not installed: rustup target add $(STATIC_TARGET)" >&2; exit 1; }
	$(CARGO) build --locked --release --target $(STATIC_TARGET) $(STATIC_FEATURES)
	@echo $(TARGET_DIR)/$(STATIC_TARGET)/release/codexd

# What `make dist` packs, and what its name says it is for
DIST_BIN ?= $(BIN)
DIST_TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')

dist: $(if $(filter file,$(origin DIST_BIN)),build) ## A tarball with the release binary, man page, completions and ops files; DIST_BIN and DIST_TARGET for another binary
	test -x $(DIST_BIN)
	@sh ops/dist.sh $(DIST_BIN) $(DIST_TARGET) $(TARGET_DIR)/dist

# What the release binary is made of
SOURCES = src ops/systemd ops/launchd Cargo.toml Cargo.lock

install: ## Install into PREFIX (/usr/local), below DESTDIR; builds only if there is no binary yet, and takes none older than its sources
	test -x $(BIN) || $(MAKE) build
	@newer=$$(find $(SOURCES) -type f -newer $(BIN) | head -n 1); test -z "$$newer" || \
	  { echo "$(BIN) is older than $$newer: \`make build\` first, then install" >&2; exit 1; }
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/codexd

fuzz: ## A million seeded inputs for everything that reads what others wrote, with overflow checks
	CODEXD_FUZZ_INPUTS=1000000 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true \
	$(CARGO) test --locked --release --target-dir $(TARGET_DIR)/fuzz --lib --test it fuzz:: -- --nocapture

# What `make openapi-check` passes on to schemathesis
EXAMPLES ?= --max-examples 100

openapi-check: ## Attack a daemon with what its own OpenAPI document describes (schemathesis, from PyPI)
	$(CARGO) build --locked
	sh tests/openapi/check.sh $(abspath $(TARGET_DIR)/debug/codexd) $(EXAMPLES)

bench: ## Measure codexd under load, beside a bare relay; prints a table and writes target/bench.json
	$(CARGO) bench --locked --bench load

bench-check: ## As bench, and fail where a ratio to the relay is a quarter worse than in tests/bench/baseline.json
	$(CARGO) bench --locked --bench load -- --check

start: build ## Build and run the daemon for this folder; ARGS='…' are its flags
	exec $(BIN) start $(ARGS)

clean: ## Remove what was built (logs and state stay)
	$(CARGO) clean
