#!/bin/sh
# Packs a codexd for a host without Rust: codexd-VERSION-TARGET.tar.gz with the binary, the man page, README, LICENSE and
# what belongs to running it. The same input makes the same bytes: names in order, owner 0, times of the last commit (or
# SOURCE_DATE_EPOCH). Called by `make dist`: ops/dist.sh BINARY TARGET FOLDER. Prints the tarball's path.
set -eu

binary=$1 target=$2 folder=$3
root=$(cd "$(dirname "$0")/.." && pwd)
version=$("$binary" -V)
name=codexd-${version#codexd }-$target

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
trap 'exit 1' INT TERM

mkdir -p "$staging/$name/bin"
install -m 755 "$binary" "$staging/$name/bin/codexd"
for file in README.md LICENSE; do
    install -m 644 "$root/$file" "$staging/$name/$file"
done
for file in launchd/so.makefile.baa-codexd.plist systemd/codexd.service prometheus/codexd.rules.yml; do
    mkdir -p "$staging/$name/ops/$(dirname "$file")"
    install -m 644 "$root/ops/$file" "$staging/$name/ops/$file"
done
# What the binary makes itself: its man page, what shells need to complete its words. One for another system cannot be asked.
made() {
    file=$staging/$name/share/$1
    shift
    if "$binary" "$@" >"$staging/made" 2>/dev/null && [ -s "$staging/made" ]; then
        mkdir -p "$(dirname "$file")"
        install -m 644 "$staging/made" "$file"
    fi
}
made man/man1/codexd.1 man
made bash-completion/completions/codexd completions bash
made zsh/site-functions/_codexd completions zsh
made fish/vendor_completions.d/codexd.fish completions fish

epoch=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}
# GNU's date, or BSD's.
stamp=$(TZ=UTC date -d "@$epoch" +%Y%m%d%H%M.%S 2>/dev/null || TZ=UTC date -r "$epoch" +%Y%m%d%H%M.%S)
cd "$staging"
find "$name" -exec env TZ=UTC touch -t "$stamp" {} +
find "$name" -type d -exec chmod 755 {} +
# GNU's tar, or BSD's.
if tar --version 2>/dev/null | grep -q GNU; then
    owner="--owner=0 --group=0 --numeric-owner --format=ustar"
else
    owner="--uid 0 --gid 0 --numeric-owner --format ustar"
fi
find "$name" | LC_ALL=C sort >list
# shellcheck disable=SC2086 # several words
tar $owner --no-recursion -cf dist.tar -T list
gzip -9 -n dist.tar
mv dist.tar.gz "$folder/$name.tar.gz"
echo "$folder/$name.tar.gz"
