//! The architecture text in `src/lib.rs` against the code: its layers and its threads.

use std::collections::BTreeSet;

use super::{code_only, expect_none, is_word, read, sources};

/// What may import from its own layer, and why.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("ids", "clock", "an id begins with the time"),
    ("timer", "threads", "it has one"),
    ("clock", "fault", "a test makes the clock jump"),
    ("threads", "fault", "a test has none left to start"),
    ("os", "threads", "somebody must write down a process while it waits to run"),
    ("process", "store", "the ledger of processes is a state file"),
    ("store", "config", "the log's sync policy is a setting"),
    ("smoke", "daemon", "the smoke test runs a daemon in this process"),
];

/// What must stand on its own: the stand-in must not know the daemon it tests, nor the client the server.
const ISOLATED: &[&str] = &["stub", "api_client"];

/// The layers as the table of `src/lib.rs` has them, lowest first. A module imports from the layers below its own and
/// from itself. `main` is `src/main.rs`.
fn layers() -> Vec<Vec<String>> {
    let text = read("src/lib.rs");
    let mut layers = Vec::new();
    for row in table(&text, "layer").iter().rev() {
        assert_eq!(row[0], layers.len().to_string(), "src/lib.rs numbers its layers without a gap");
        let linked = row[1].split("[`").skip(1).filter_map(|rest| rest.split_once("`]"));
        let mut layer: Vec<String> = linked.map(|(module, _)| module.to_owned()).collect();
        if row[1] == "`main`" {
            layer.push("main".to_owned());
        }
        layers.push(layer);
    }
    layers
}

/// The cells of the rows of the table in the text whose first column has that name.
fn table(text: &str, first: &str) -> Vec<Vec<String>> {
    let lines = text.lines().map(|line| line.trim_start_matches("//!").trim());
    let from = lines.skip_while(|line| !line.starts_with(&format!("| {first} |"))).skip(2);
    from.take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The top-level module of a file.
fn module_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("src/")?.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (name != "lib").then_some(name)
}

/// The top-level modules a file's code names, by `crate::`, `codexd::` or as many `super::` as lead to the top.
fn imports(path: &str, code: &str) -> BTreeSet<String> {
    let depth = path.split('/').count() - 1 - usize::from(path.ends_with("/mod.rs"));
    let mut tops = vec!["crate::".to_owned(), "super::".repeat(depth)];
    if path == "src/main.rs" {
        tops.push("codexd::".to_owned());
    }
    let mut found = BTreeSet::new();
    for top in &tops {
        for (at, _) in code.match_indices(top.as_str()) {
            let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
            if before.is_some_and(is_word) {
                continue;
            }
            found.extend(first_words(&code[at + top.len()..]));
        }
    }
    found.remove("super");
    found
}

/// `a::b` gives a; `{a, b::{c, d}}` gives a and b.
fn first_words(text: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().bytes().take_while(|&b| is_word(b)).map(char::from).collect()
    };
    let Some(group) = text.trim_start().strip_prefix('{') else { return vec![word(text)] };
    let (mut words, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' | b',' if depth == 0 => {
                words.push(word(&group[begin..at]));
                begin = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn layer(layers: &[Vec<String>], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.iter().any(|other| other == module))
}

/// What is wrong with a file's imports. Names that are no module (`crate::Error` would be one) have no layer.
fn misplaced(layers: &[Vec<String>], path: &str, code: &str, modules: &BTreeSet<String>) -> Vec<String> {
    let Some(own) = module_of(path) else { return Vec::new() };
    let Some(own_layer) = layer(layers, own) else {
        return vec![format!("{path}: module {own} stands in no layer of src/lib.rs")];
    };
    let mut problems = Vec::new();
    for other in imports(path, code).iter().filter(|other| modules.contains(*other) && *other != own) {
        if ISOLATED.contains(&own) {
            problems.push(format!("{path}: {own} stands on its own, but uses {other}"));
            continue;
        }
        let listed = NEIGHBOURS.iter().any(|(from, to, _)| *from == own && to == other);
        match layer(layers, other) {
            Some(below) if below < own_layer || (below == own_layer && listed) => {}
            _ => problems.push(format!("{path}: {own} uses {other}, which is not below it")),
        }
    }
    problems
}

#[test]
fn imports_go_downward() {
    let sources = sources();
    let modules: BTreeSet<String> =
        sources.iter().filter_map(|(path, _)| module_of(path).map(str::to_owned)).collect();
    assert!(modules.len() > 15, "{modules:?}");
    let daemon = sources.iter().find(|(path, _)| path == "src/daemon/mod.rs").unwrap();
    assert!(
        imports(&daemon.0, &daemon.1)
            .is_superset(&["app_server", "hub", "threads"].map(str::to_owned).into())
    );
    let layers = layers();
    let problems = sources.iter().flat_map(|(path, code)| misplaced(&layers, path, code, &modules)).collect();
    expect_none("imports go downward only (see the layers in src/lib.rs)", problems);
    for (from, to, _) in NEIGHBOURS {
        assert_eq!(layer(&layers, from), layer(&layers, to), "NEIGHBOURS: {from} and {to} are of one layer");
    }
}

#[test]
fn an_upward_import_is_found() {
    let layers = layers();
    let modules = layers.concat().into_iter().collect();
    let wrong = |path: &str, code: &str| misplaced(&layers, path, &code_only(code), &modules).len();
    assert_eq!(
        wrong("src/hub/mod.rs", "use crate::store::journal;\nuse crate::{clock, model::{self, json}};"),
        0
    );
    assert_eq!(wrong("src/hub/mod.rs", "use crate::http::reply;"), 1);
    assert_eq!(wrong("src/hub/core.rs", "use crate::{clock, ops::{self, http}, threads};"), 1);
    assert_eq!(wrong("src/hub/core.rs", "fn f() { super::super::ops::go() }"), 1);
    assert_eq!(wrong("src/clock.rs", "use super::{model, ids};"), 2);
    assert_eq!(
        wrong(
            "src/hub/core.rs",
            "// crate::ops\nlet x = \"crate::ops\"; /* crate::ops */ let c = '\"'; r#\"crate::ops\"#;"
        ),
        0
    );
    assert_eq!(wrong("src/hub/core.rs", "let c = '\"'; crate::ops::go(); let d = '\"';"), 1);
    assert_eq!(wrong("src/config.rs", "use crate::store;"), 1, "one layer, not listed that way round");
    assert_eq!(wrong("src/stub/mod.rs", "use crate::clock;"), 1);
    assert_eq!(wrong("src/novel.rs", ""), 1);
}

/// The names that code starts threads with, N for what is put in.
fn thread_names(source: &str) -> BTreeSet<String> {
    const STARTS: &[&str] = &["spawn(", "spawn_contained(", "beside(", ".read(", "each_line("];
    let mut names = BTreeSet::new();
    for start in STARTS {
        for (at, _) in source.match_indices(start) {
            let rest = source[at + start.len()..].trim_start();
            let rest = rest.strip_prefix("format!(").unwrap_or(rest);
            let Some((name, _)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
                continue;
            };
            let pieces: Vec<&str> =
                name.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, rest)| rest)).collect();
            names.insert(pieces.join("N"));
        }
    }
    names
}

#[test]
fn every_thread_stands_in_the_architecture_text() {
    let listed: BTreeSet<String> = table(&read("src/lib.rs"), "name")
        .iter()
        .flat_map(|row| {
            row[0].split(", ").map(|name| name.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let started: BTreeSet<String> = sources()
        .iter()
        .map(|(path, _)| read(path))
        .flat_map(|source| thread_names(source.split("#[cfg(test)]\nmod tests").next().unwrap()))
        .filter(|name| !name.starts_with("test-"))
        .collect();
    assert_eq!(
        thread_names("threads::spawn(format!(\"run-{}\", x)); spawn(\n    \"hub\", y)"),
        ["hub", "run-N"].map(str::to_owned).into()
    );
    expect_none("threads that src/lib.rs does not list", started.difference(&listed).cloned().collect());
    let gone = listed.difference(&started).filter(|name| *name != "main").cloned().collect();
    expect_none("threads that src/lib.rs lists and nobody starts", gone);
}
