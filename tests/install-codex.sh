#!/bin/sh
# Installs the real Codex CLI for the tests that drive it, into target/codex. Does nothing when it is there already.
#   CODEXD_CODEX_VERSION=X   another version than the pinned one
#   CODEXD_REQUIRE_CODEX=1   fail when it cannot be installed (otherwise those tests are skipped, loudly)
set -eu

version=${CODEXD_CODEX_VERSION:-0.169.0}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
folder=$root/target/codex
codex=$folder/node_modules/.bin/codex

give_up() {
    echo "NOT INSTALLED: Codex $version: $1. Tests with the real Codex will be SKIPPED." >&2
    [ "${CODEXD_REQUIRE_CODEX:-}" = 1 ] && exit 1
    exit 0
}

installed() { [ -x "$codex" ] && "$codex" --version 2>/dev/null | grep -qF "$version"; }

if installed; then
    echo "Codex $version is installed: $codex"
    exit 0
fi
command -v npm >/dev/null 2>&1 || give_up "there is no npm"
mkdir -p "$folder"
npm install --prefix "$folder" --no-save --no-audit --no-fund --fetch-retries=1 --loglevel=error \
    "@openai/codex@$version" >&2 || give_up "npm install failed"
installed || give_up "$codex does not run"
echo "installed Codex $version: $codex"
