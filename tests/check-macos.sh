#!/bin/sh
# Compiles the program, its tests and the benchmark for macOS on any host, without linking them; warnings are errors.
# With rustup that takes `rustup target add aarch64-apple-darwin`. Without it, on Debian, the packages of a newer rustc
# and of the standard library's source do (145 MB, fetched once into target/macos): the library is compiled as well.
set -eu

target=aarch64-apple-darwin
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
folder=$root/target/macos
prefix=$folder/usr
cd "$root"

give_up() {
    echo "SKIPPED: whether codexd compiles for macOS is not known: $1." >&2
    exit 0
}

fetch() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "neither rustup's $target nor apt-get"
    needed=$(apt-cache depends --recurse --important rustc-web 2>/dev/null |
        grep -xE 'rustc-web|libstd-rust-web-.*|libllvm[0-9]+|libz3-4' || true)
    case $needed in *rustc-web*) ;; *) give_up "Debian has no rustc-web here" ;; esac
    packages=$(mktemp -d)
    trap 'rm -rf "$packages" "$folder.new"' EXIT
    # shellcheck disable=SC2086 # A list of names.
    (cd "$packages" && timeout 300 apt-get download -qq $needed rust-web-src) >/dev/null 2>&1 ||
        give_up "Debian's rustc-web and rust-web-src cannot be fetched"
    rm -rf "$folder.new"
    mkdir -p "$folder.new"
    for package in "$packages"/*.deb; do
        # Of the compiler's source only the library is wanted.
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder.new" --no-wildcards-match-slash \
            --exclude './usr/src/*/[!l]*' --exclude ./usr/share || give_up "$package cannot be unpacked"
    done
    mkdir -p "${folder%/*}"
    rm -rf "$folder"
    mv "$folder.new" "$folder"
}

if ls "$(rustc --print target-libdir --target "$target")"/libstd-*.rlib >/dev/null 2>&1; then
    std=
else
    [ -x "$prefix/bin/rustc" ] || fetch
    # Whoever starts it sets no library path of its own for the programs that cargo builds and runs.
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
        "$(dirname "$(find "$prefix/lib" -name 'libLLVM*' | head -n 1)")" "$prefix/bin/rustc" >"$folder/rustc"
    chmod +x "$folder/rustc"
    # Without its security updates Debian has an older one.
    oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$("$folder/rustc" --version | cut -d ' ' -f 2)
    if [ "$(printf '%s\n' "$oldest" "$found" | sort -V | head -n 1)" != "$oldest" ]; then
        rm -rf "$folder"
        give_up "Debian's rustc-web is $found, and it takes $oldest"
    fi
    export RUSTC="$folder/rustc" RUSTC_BOOTSTRAP=1
    std=-Zbuild-std=std,panic_unwind,test,proc_macro
fi
rustc=${RUSTC:-rustc}
echo "$("$rustc" --version), for $target"
# Nothing is linked, so nothing has to come out of the C compiler that ring asks for.
export CC_aarch64_apple_darwin=true AR_aarch64_apple_darwin=true SDKROOT=/
export CARGO_TARGET_AARCH64_APPLE_DARWIN_RUSTFLAGS="-D warnings"
for features in "" --no-default-features; do
    # shellcheck disable=SC2086 # Nothing or one word.
    cargo check --locked --quiet --all-targets --target "$target" --target-dir "$root/target/macos-check" $std $features
done
echo "codexd compiles for macOS"
