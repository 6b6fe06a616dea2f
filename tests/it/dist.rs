//! `make dist` and `make static`: what is packed, the same bytes each time, and what is said where something is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::processes;

const BINARY: &str = "#!/bin/sh\ncase $1 in -V) echo 'codexd 1.2.3';; man) echo '.TH CODEXD 1';; completions) echo \"for $2\";; esac\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn executable(path: PathBuf, script: &str) -> PathBuf {
    processes::write_program(&path, script);
    path
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Packs this binary; the tarball.
fn pack(binary: &Path, into: &Path, epoch: &str) -> PathBuf {
    let output = Command::new("sh")
        .arg(root().join("ops/dist.sh"))
        .args([binary, Path::new("some-target"), into])
        .env("SOURCE_DATE_EPOCH", epoch)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

#[test]
fn the_tarball_holds_what_a_host_needs_and_is_the_same_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let binary = executable(folder.path().join("codexd"), BINARY);
    let first = pack(&binary, &folder.path().join("a"), "1700000000");
    let name = "codexd-1.2.3-some-target";
    assert_eq!(
        first.canonicalize().unwrap(),
        folder.path().canonicalize().unwrap().join(format!("a/{name}.tar.gz"))
    );
    // Touched, from elsewhere, and at another time: the same.
    fs::File::open(&binary).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let second = pack(&binary, &folder.path().join("b"), "1700000000");
    assert_eq!(fs::read(&first).unwrap(), fs::read(second).unwrap());
    let later = pack(&binary, &folder.path().join("c"), "1700000001");
    assert_ne!(fs::read(&first).unwrap(), fs::read(later).unwrap());

    let output = Command::new("tar").arg("-tvzf").arg(&first).env("TZ", "UTC").output().unwrap();
    let lines = said(&output);
    let files: Vec<&str> = lines.lines().filter_map(|line| line.split(' ').next_back()).collect();
    let expected = [
        "",
        "LICENSE",
        "README.md",
        "bin/",
        "bin/codexd",
        "ops/",
        "ops/launchd/",
        "ops/launchd/so.makefile.baa-codexd.plist",
        "ops/prometheus/",
        "ops/prometheus/codexd.rules.yml",
        "ops/systemd/",
        "ops/systemd/codexd.service",
        "share/",
        "share/bash-completion/",
        "share/bash-completion/completions/",
        "share/bash-completion/completions/codexd",
        "share/fish/",
        "share/fish/vendor_completions.d/",
        "share/fish/vendor_completions.d/codexd.fish",
        "share/man/",
        "share/man/man1/",
        "share/man/man1/codexd.1",
        "share/zsh/",
        "share/zsh/site-functions/",
        "share/zsh/site-functions/_codexd",
    ];
    assert_eq!(files, expected.map(|file| format!("{name}/{file}")), "{lines}");
    assert!(
        lines.lines().all(|line| line.contains("2023-11-14") || line.contains("Nov 14  2023")),
        "{lines}"
    );
    assert_eq!(lines.lines().filter(|line| line.starts_with("-rwxr-xr-x")).count(), 1, "{lines}");
}

#[test]
fn a_binary_without_a_man_page_is_packed_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let binary = executable(folder.path().join("codexd"), "#!/bin/sh\n[ \"$1\" = -V ] && echo codexd 0\n");
    let tarball = pack(&binary, folder.path(), "0");
    let lines = said(&Command::new("tar").arg("-tzf").arg(tarball).output().unwrap());
    assert!(lines.contains("/bin/codexd\n") && !lines.contains("share"), "{lines}");
}

#[test]
fn make_static_says_how_to_get_what_is_missing() {
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.args(["--no-print-directory", "static", "CARGO=true"]).current_dir(root());
        make.arg(format!("STATIC_TARGET={target}")).env_remove("MAKEFLAGS").output().unwrap()
    };
    let missing = make("sparc64-unknown-linux-gnu");
    assert!(!missing.status.success());
    assert!(said(&missing).contains("rustup target add sparc64-unknown-linux-gnu"), "{}", said(&missing));
    // One that is there is built for; cargo is not really asked here.
    let host = Command::new("rustc").arg("-vV").output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let there = make(host);
    assert!(there.status.success(), "{}", said(&there));
    assert!(
        said(&there).contains(&format!("true build --locked --release --target {host}")),
        "{}",
        said(&there)
    );
}

/// `make WORDS` with a release binary in `target`, and no cargo.
fn make_in(target: &Path, words: &[&str]) -> Output {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "CARGO=true"]).args(words).current_dir(root());
    make.env("CARGO_TARGET_DIR", target).env_remove("MAKEFLAGS").output().unwrap()
}

#[test]
fn a_binary_that_is_older_than_its_sources_is_not_installed() {
    let folder = tempfile::tempdir().unwrap();
    let (target, prefix) = (folder.path().join("target"), folder.path().join("prefix"));
    fs::create_dir_all(target.join("release")).unwrap();
    let binary = executable(target.join("release/codexd"), BINARY);
    let install = ["install", &format!("PREFIX={}", prefix.display())];
    fs::File::open(&binary).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let refused = make_in(&target, &install);
    assert!(!refused.status.success());
    assert!(said(&refused).contains("/release/codexd is older than "), "{}", said(&refused));
    assert!(said(&refused).contains(": `make build` first"), "{}", said(&refused));
    assert!(!prefix.exists());
    // One that cargo finds nothing to do for is new enough.
    assert!(make_in(&target, &["build"]).status.success());
    let installed = make_in(&target, &install);
    assert!(installed.status.success(), "{}", said(&installed));
    assert_eq!(fs::read(prefix.join("bin/codexd")).unwrap(), BINARY.as_bytes());
}

#[test]
fn a_tarball_is_of_what_is_built_now_or_of_the_binary_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let built = |words: &[&str]| said(&make_in(folder.path(), &[&["-n", "dist"], words].concat()));
    assert!(built(&[]).contains("true build --locked --release"), "{}", built(&[]));
    let named = built(&["DIST_BIN=/bin/true", "DIST_TARGET=x"]);
    assert!(named.contains("ops/dist.sh /bin/true x ") && !named.contains("build"), "{named}");
}
