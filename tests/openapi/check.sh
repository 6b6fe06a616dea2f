#!/bin/sh
# Has schemathesis (https://schemathesis.readthedocs.io, from PyPI) attack a daemon with what its own OpenAPI document allows
# and does not allow: no answer may be a 5xx, none may have a status, a type, a header or a body that the document does
# not have. Called by `make openapi-check` with the codexd to test; further words are passed on to schemathesis.
set -eu

codexd=$1
shift
skip() {
    echo "SKIPPED openapi-check: $1" >&2
    exit 0
}

python=$(command -v python3) || skip "no python3"
folder=$(mktemp -d)
pid=
end() {
    [ -z "$pid" ] || { kill "$pid" && wait "$pid" || true; } 2>/dev/null
    rm -rf "$folder"
}
trap end EXIT INT TERM

"$python" -m venv "$folder/venv" >"$folder/venv.log" 2>&1 || skip "python3 makes no virtual environment: $(tail -1 "$folder/venv.log")"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'schemathesis>=4,<5' >"$folder/pip.log" 2>&1 ||
    skip "pip cannot install schemathesis: $(tail -1 "$folder/pip.log")"

# The built-in stand-ins are Codex. A run ends at once, whatever it is asked.
printf '#!/bin/sh\nexec "%s" stub-exec --ephemeral --output-last-message /dev/null say\n' "$codexd" >"$folder/codex"
chmod +x "$folder/codex"
mkdir "$folder/repo"
"$codexd" start --repo-root "$folder/repo" --local-api-base http://127.0.0.1:0 --log-level warn \
    --server-command "$codexd" --server-arg stub-app-server --codex-command "$folder/codex" \
    >"$folder/out" 2>"$folder/err" &
pid=$!
base=
for _ in $(seq 100); do
    base=$(sed -n 's/.*resolved_base=\([^ ]*\).*/\1/p' "$folder/out")
    [ -z "$base" ] || break
    sleep 0.1
done
[ -n "$base" ] || { cat "$folder/err" >&2; exit 1; }

# Left out are the checks that take the schema for the whole truth about what is accepted: codexd takes null and blank
# for absent, ignores what it does not know, and refuses an `after` that names nothing and a key used for another body.
checks=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance
checks=$checks,response_schema_conformance,unsupported_method,allow_header_conformance
cd "$folder"
# 502 is the app-server's word on a threadId that it does not like, which only it can know.
cat >schemathesis.toml <<'END'
[[operations]]
include-name = "POST /v1/codexd/sessions"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "502"]
END
"$folder/venv/bin/schemathesis" run "$base/v1/codexd/openapi.json" --checks "$checks" --continue-on-failure \
    --request-timeout 30 --no-color "$@"

if grep -q panicked "$folder/err"; then
    cat "$folder/err" >&2
    exit 1
fi
