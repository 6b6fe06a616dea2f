//! `make matrix`: the scenarios of a day with every version of Codex in a list, one version at a time, each in a folder of
//! its own that goes when it is done. What comes of it is a table, which the README carries, and the list of the versions
//! that this codexd was tried with (`src/app_server/tried.json`).

mod scenarios;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use codexd::app_server::needs::{self, Tried, TriedVersion};
use codexd::clock;

use crate::real_codex::RealCodex;
use crate::schema::Protocol;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/app_server/tried.json");

/// A scenario: what it has found wanting though it went well, or the panic by which it failed.
type Scenario = fn(&scenarios::Trial<'_>) -> Vec<String>;

/// The columns of the table, in order.
pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("turns", scenarios::turns),
    ("steer, interrupt", scenarios::steer_and_interrupt),
    ("restart, crash", scenarios::restart_and_crash),
    ("approvals", scenarios::approvals),
    ("file changes", scenarios::file_changes),
    ("questions, permissions", scenarios::questions_and_permissions),
    ("runs", scenarios::runs),
    ("schema", scenarios::schema),
];

/// The versions from the environment; one called `latest` is the newest of the registry.
fn versions() -> Vec<String> {
    let list = std::env::var("CODEXD_MATRIX_VERSIONS").expect("`make matrix` says which versions to try");
    list.split_whitespace().map(str::to_owned).collect()
}

/// Installs a version into a folder.
fn install(version: &str, folder: &Path) -> Result<RealCodex, String> {
    let output = Command::new("npm")
        .args(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
        .args([folder.as_os_str(), format!("@openai/codex@{version}").as_ref()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("npm does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!("npm install failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let codex = folder.join("node_modules/.bin/codex");
    Ok(RealCodex::at(codex.clone()).unwrap_or_else(|_| RealCodex::only(codex)))
}

/// `works`, `degraded: …` or `refused: …`.
fn outcome(run: impl FnOnce() -> Vec<String>) -> String {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(run));
    std::panic::set_hook(hook);
    match outcome {
        Ok(wanting) if wanting.is_empty() => "works".to_owned(),
        Ok(wanting) => format!("degraded: {}", wanting.join("; ")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("refused: {}", because(&text.unwrap_or_default()))
        }
    }
}

/// Of an assertion's text what a person wants to know: the message of the answer, if it is one.
fn because(text: &str) -> String {
    if text.starts_with("no such frame") {
        return format!("an event that the others send did not come within {} s", crate::DEADLINE.as_secs());
    }
    let message = text.split("\"message\": \"").nth(1).and_then(|rest| rest.split("\"\n").next());
    let here = message.unwrap_or(text).replace(env!("CARGO_TARGET_TMPDIR"), "…");
    let line = codexd::model::preview(&here);
    line.replace('|', "/").replace('`', "'")
}

fn try_version(version: &str) -> TriedVersion {
    let folder = tempfile::Builder::new().prefix("matrix-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut tried = TriedVersion { version: version.to_owned(), results: BTreeMap::new() };
    let codex = match install(version, folder.path()) {
        Ok(codex) => codex,
        Err(problem) => panic!("{version}: {problem}"),
    };
    let protocol = Protocol::of(codex.native());
    if let Ok(protocol) = &protocol {
        tried.version.clone_from(&protocol.version);
    }
    for (name, scenario) in SCENARIOS {
        let outcome = outcome(|| scenario(&scenarios::Trial::new(&codex, &protocol)));
        println!("{:<10} {name:<24} {outcome}", tried.version);
        tried.results.insert((*name).to_owned(), outcome);
    }
    tried
}

/// As it stands in the file: a version a line.
fn to_text(tried: &Tried) -> String {
    let lines: Vec<String> =
        tried.versions.iter().map(|version| serde_json::to_string(version).unwrap()).collect();
    format!("{{\"date\":\"{}\",\"versions\":[\n{}\n]}}\n", tried.date, lines.join(",\n"))
}

/// The table for the README: `works`, or a number under which it says why not.
pub(crate) fn table(tried: &Tried) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
    let mut table = format!("| Codex | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    for version in &tried.versions {
        let cells = names.iter().map(|name| match version.results.get(*name).map_or("", String::as_str) {
            outcome if !outcome.contains(':') => outcome.to_owned(),
            outcome => {
                let number = notes.iter().position(|note| *note == outcome).unwrap_or_else(|| {
                    notes.push(outcome);
                    notes.len() - 1
                });
                format!("{} ({})", outcome.split(':').next().unwrap_or_default(), number + 1)
            }
        });
        table.push_str(&format!("| {} | {} |\n", version.version, cells.collect::<Vec<_>>().join(" | ")));
    }
    table.push_str(&format!("\nTried on {}.\n\n", tried.date));
    for (number, note) in notes.iter().enumerate() {
        let (kind, why) = note.split_once(": ").unwrap_or((note, ""));
        table.push_str(&format!("{}. {kind}: {}\n", number + 1, why.replace('<', "\\<")));
    }
    table
}

#[test]
#[ignore = "installs many versions of Codex; `make matrix`"]
fn every_version_in_turn() {
    let versions = versions().iter().map(|version| try_version(version)).collect();
    let tried = Tried { date: clock::now_iso().chars().take(10).collect(), versions };
    println!("\n{}", table(&tried));
    if std::env::var_os("CODEXD_BLESS").is_some_and(|value| value == "1") {
        let file = PathBuf::from(FILE);
        #[expect(clippy::disallowed_methods, reason = "a file of the repository, on request")]
        std::fs::write(file, to_text(&tried)).unwrap();
    }
}

#[test]
fn the_list_of_tried_versions_can_be_read() {
    let tried = needs::tried();
    assert!(tried.versions.len() >= 6 && tried.date.len() == 10, "{tried:?}");
    assert_eq!(to_text(&tried), std::fs::read_to_string(FILE).unwrap());
    for version in &tried.versions {
        let names: Vec<&str> = version.results.keys().map(String::as_str).collect();
        let mut expected: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        expected.sort_unstable();
        assert_eq!(names, expected, "{}", version.version);
        assert!(
            version.results.values().all(|outcome| ["works", "degraded", "refused"].contains(&outcome.split(':').next().unwrap())),
            "{version:?}"
        );
    }
}

#[test]
fn an_outcome_says_what_happened() {
    assert_eq!(outcome(Vec::new), "works");
    assert_eq!(outcome(|| vec!["a".to_owned(), "b".to_owned()]), "degraded: a; b");
    let refused =
        outcome(|| panic!("left == right: {{\n  \"error\": \"x\",\n  \"message\": \"no `such` thing\"\n}}"));
    assert_eq!(refused, "refused: no 'such' thing");
}
