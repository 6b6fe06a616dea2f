#!/bin/sh
# Installs what the tests of the page drive a browser with, into target/browser: playwright-core and axe-core from npm.
# The browser is the system's chromium. Does nothing when all is there already.
#   CODEXD_REQUIRE_BROWSER=1  fail when something is missing (otherwise those tests are skipped, loudly)
set -eu

playwright=1.65.1
axe=4.14.1
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
folder=$root/target/browser
modules=$folder/node_modules

give_up() {
    echo "NOT INSTALLED: $1. Tests of the page in a browser will be SKIPPED." >&2
    [ "${CODEXD_REQUIRE_BROWSER:-}" = 1 ] && exit 1
    exit 0
}

has_chromium() {
    [ -n "${CODEXD_TEST_CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || command -v chromium >/dev/null 2>&1
}

is() { grep -qsF "\"version\": \"$2\"" "$modules/$1/package.json"; }

has_chromium || give_up "there is no chromium (apt-get install chromium, or name one in CODEXD_TEST_CHROMIUM)"

if is playwright-core "$playwright" && is axe-core "$axe"; then
    echo "playwright-core $playwright and axe-core $axe are installed: $modules"
    exit 0
fi
command -v npm >/dev/null 2>&1 || give_up "there is no npm"
mkdir -p "$folder"
npm install --prefix "$folder" --no-save --no-audit --no-fund --ignore-scripts --fetch-retries=1 --loglevel=error \
    "playwright-core@$playwright" "axe-core@$axe" >&2 || give_up "npm install failed"
echo "installed playwright-core $playwright and axe-core $axe: $modules"
