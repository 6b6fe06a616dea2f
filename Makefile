# What there is to do with codexd. `make` alone lists it.

CARGO ?= cargo
TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
BIN = $(TARGET_DIR)/release/codexd
PREFIX ?= /usr/local
# What `make start` passes on, for example ARGS='--local-api-base http://127.0.0.1:0'
ARGS ?=

.PHONY: help smoke test soak check build install fuzz bench bench-check start clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

smoke: ## Test the daemon from end to end with the built-in stand-in; needs no Codex
	$(CARGO) run --locked --quiet -- smoke

test: ## All tests; installs the real Codex and what drives a browser into target first, if npm can
	sh tests/install-codex.sh
	sh tests/install-browser.sh
	$(CARGO) test --locked

# How often `make soak` kills the daemon
KILLS ?= 200

soak: ## Kill the daemon KILLS (200) times under load, and at each step of a save: nothing may be lost
	CODEXD_SOAK_KILLS=$(KILLS) $(CARGO) test --locked --test it crash:: -- --nocapture --test-threads=1

check: ## Formatting, lints, documentation, and the rules of tests/it/tidy.rs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) test --locked --test it tidy

build: ## The release binary, target/release/codexd
	$(CARGO) build --locked --release

install: ## Install into PREFIX (/usr/local), below DESTDIR; builds only if there is no binary yet
	test -x $(BIN) || $(MAKE) build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/codexd

fuzz: ## A million seeded inputs for everything that reads what others wrote, with overflow checks
	CODEXD_FUZZ_INPUTS=1000000 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true \
	$(CARGO) test --locked --release --target-dir $(TARGET_DIR)/fuzz --lib --test it fuzz:: -- --nocapture

bench: ## Measure codexd under load, beside a bare relay; prints a table and writes target/bench.json
	$(CARGO) bench --locked --bench load

bench-check: ## As bench, and fail where a ratio to the relay is a quarter worse than in tests/bench/baseline.json
	$(CARGO) bench --locked --bench load -- --check

start: build ## Build and run the daemon for this folder; ARGS='…' are its flags
	exec $(BIN) start $(ARGS)

clean: ## Remove what was built (logs and state stay)
	$(CARGO) clean
