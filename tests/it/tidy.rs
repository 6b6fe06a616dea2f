//! The repository checks itself: layers, sizes, names, dependencies, the README's tables, the launchd template.
//!
//! Every checker is a function over text, so that a test beside it can show that it fails on what it is there to find.

mod architecture;
mod property_list;
mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use codexd::model::event::EventType;

/// No file of `src` is longer (400 is where to start thinking).
const MAX_LINES: usize = 450;
/// Files that are, up to that many lines. A row that is no longer needed has to go.
const LONGER: &[(&str, usize)] = &[];

/// What the top level consists of, beside what begins with a dot. Fixed by whom the project is for.
const TOP_LEVEL: &[&str] =
    &["Cargo.lock", "Cargo.toml", "LICENSE", "Makefile", "README.md", "ops", "src", "tests"];

/// Names that say nothing.
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc"];

/// Runtimes and what brings one along: codexd is synchronous. The lock file is looked at, which holds more than
/// `cargo tree -e normal` shows: tests and other platforms too.
const FORBIDDEN: &[&str] = &[
    "tokio",
    "async-std",
    "smol",
    "async-executor",
    "async-io",
    "futures-executor",
    "hyper",
    "mio",
    "polling",
    "actix-rt",
    "axum",
    "warp",
    "reqwest",
];

/// Files that may hold a text that looks like a path of somebody's machine, and why.
const OWN_PATHS: &[(&str, &str)] = &[("src/cli/resolve.rs", "an invented working directory in a test")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a folder, relative to the repository, in order; what is generated is left out.
fn files(folder: &str) -> Vec<String> {
    const GENERATED: &[&str] = &[".git", "target", "logs", "state", "node_modules"];
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let relative = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            if GENERATED.contains(&relative.as_str()) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let paths = files("src").into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| (path.clone(), code_only(&read(&path)))).collect()
}

#[track_caller]
fn expect_none(what: &str, problems: Vec<String>) {
    assert!(problems.is_empty(), "{what}:\n  {}", problems.join("\n  "));
}

/// Rust source with comments and the insides of literals blanked out; line ends stay.
fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &source[at..];
        let word_before = at > 0 && is_word(bytes[at - 1]);
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(rest).filter(|_| !word_before) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = rest.find('"').unwrap() + 1;
            rest[open..].find(&close).map_or(rest.len(), |end| open + end + close.len())
        } else if rest.starts_with('"') {
            quoted(rest, b'"')
        } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && rest.starts_with('\'') {
            quoted(rest, b'\'')
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        for byte in &mut out[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length;
    }
    String::from_utf8(out).unwrap()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") if depth == 1 => return at + 2,
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    rest.len()
}

/// The number of signs around a raw string that begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|&byte| byte == b'#').count();
    after[hashes..].starts_with('"').then_some(hashes)
}

fn quoted(rest: &str, quote: u8) -> usize {
    let mut bytes = rest.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        if byte == b'\\' {
            bytes.next();
        } else if byte == quote {
            return at + 1;
        }
    }
    rest.len()
}

/// Whether a word (or a path of words) stands in the code.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
        let after = code.as_bytes().get(at + word.len());
        let runs_on = is_word(word.as_bytes()[0]) && before.is_some_and(is_word);
        !runs_on && !after.is_some_and(|&byte| is_word(byte))
    })
}

fn too_long(path: &str, lines: usize) -> Option<String> {
    let listed = LONGER.iter().find(|(long, _)| *long == path).map(|(_, lines)| *lines);
    match listed {
        Some(_) if lines <= MAX_LINES => {
            Some(format!("{path} is short enough again: drop its row of LONGER"))
        }
        _ if lines <= listed.unwrap_or(MAX_LINES) => None,
        _ => Some(format!("{path} has {lines} lines, more than {}", listed.unwrap_or(MAX_LINES))),
    }
}

#[test]
fn files_are_short_and_named_for_what_they_hold() {
    let mut problems = Vec::new();
    for path in files("src") {
        problems.extend(too_long(&path, read(&path).lines().count()));
        let empty = path.split(['/', '.']).any(|part| EMPTY_NAMES.contains(&part));
        if empty {
            problems.push(format!("{path}: a name that says nothing"));
        }
    }
    expect_none("sizes and names", problems);
    assert!(too_long("src/new.rs", MAX_LINES + 1).is_some() && too_long("src/new.rs", MAX_LINES).is_none());
}

#[test]
fn the_top_level_is_as_agreed() {
    // What is tracked: somebody's own files lie there too. A source tree without git has nothing to say.
    let git = Command::new("git").arg("ls-files").current_dir(root()).output();
    let Some(tracked) = git.ok().filter(|output| output.status.success() && !output.stdout.is_empty()) else {
        return;
    };
    let tracked = String::from_utf8(tracked.stdout).unwrap();
    let found: BTreeSet<&str> = tracked.lines().filter_map(|path| path.split('/').next()).collect();
    let ours: Vec<&str> = found.into_iter().filter(|name| !name.starts_with('.')).collect();
    assert_eq!(ours, TOP_LEVEL);
}

#[test]
fn every_event_type_is_written_by_somebody() {
    let code: String = sources().into_iter().map(|(_, code)| code).collect();
    let idle = |kind: &EventType| !has_word(&code, &format!("EventType::{kind:?}"));
    let idle = EventType::ALL.iter().filter(|kind| idle(kind)).map(|kind| kind.name().to_owned()).collect();
    expect_none("event types that no code names", idle);
}

fn packages(lock: &str) -> BTreeSet<&str> {
    lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).collect()
}

fn forbidden(lock: &str) -> Vec<String> {
    packages(lock).into_iter().filter(|package| FORBIDDEN.contains(package)).map(str::to_owned).collect()
}

#[test]
fn no_async_runtime() {
    let lock = read("Cargo.lock");
    assert!(packages(&lock).contains("tiny_http"), "Cargo.lock is read");
    expect_none("codexd has no async runtime", forbidden(&lock));
    assert_eq!(forbidden("[[package]]\nname = \"mio\"\nversion = \"1.0.0\"\n"), ["mio"]);
}

/// Dependencies without a word on what they are for.
fn unexplained(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        let table = line.strip_prefix('[').map(|table| table.trim_end_matches(']'));
        if let Some(table) = table {
            inside = table.ends_with("dependencies");
        }
        let names_one =
            inside && line.contains('=') && line.starts_with(|first: char| first.is_ascii_alphabetic());
        let own_table = table.is_some_and(|table| table.contains("dependencies."));
        if (names_one || own_table) && !line.contains(" # ") {
            found.push(line.to_owned());
        }
    }
    found
}

#[test]
fn every_dependency_says_why() {
    expect_none(
        "a dependency line ends in a comment that says what it is for",
        unexplained(&read("Cargo.toml")),
    );
    let wrong = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\nb = \"1\" # for b\n[dependencies.c]\nversion = \"1\"\n";
    assert_eq!(unexplained(wrong), ["a = \"1\"", "[dependencies.c]"]);
}

/// Texts that tie the repository to where it was written. Not spelled out here, or this file would have them.
fn outside_references(text: &str) -> usize {
    let sibling = concat!("../", "shared");
    let folder = concat!("/", "work/");
    let mid_path =
        |at: usize| at > 0 && (is_word(text.as_bytes()[at - 1]) || b".-~".contains(&text.as_bytes()[at - 1]));
    text.matches(sibling).count() + text.match_indices(folder).filter(|(at, _)| !mid_path(*at)).count()
}

#[test]
fn the_repository_stands_alone() {
    let mut problems = Vec::new();
    for path in files("") {
        let text = String::from_utf8_lossy(&std::fs::read(root().join(&path)).unwrap()).into_owned();
        let allowed = OWN_PATHS.iter().any(|(file, _)| *file == path);
        match outside_references(&text) {
            0 if allowed => problems.push(format!("{path} is clean: drop its row of OWN_PATHS")),
            1.. if !allowed => problems.push(path),
            _ => {}
        }
    }
    expect_none("files that refer to folders outside the repository", problems);
    assert_eq!(outside_references(concat!("see ../", "shared/x and \"/", "work/main\"")), 2);
    assert_eq!(outside_references("/srv/probe/work/w4 and network/x"), 0);
}

#[test]
fn unsafe_code_has_one_place() {
    let with = sources().into_iter().filter(|(_, code)| has_word(code, "unsafe")).map(|(path, _)| path);
    assert_eq!(with.collect::<Vec<_>>(), ["src/os.rs"], "unsafe code is in src/os.rs only");
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
    assert!(has_word(&code_only("unsafe { f() }"), "unsafe"));
    assert!(!has_word(&code_only("#![deny(unsafe_code)] // unsafe\n\"unsafe\""), "unsafe"));
}
