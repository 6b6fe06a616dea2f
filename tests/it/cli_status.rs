//! `codexd status` reads, and believes no process that is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use codexd::store::lock;
use serde_json::Value;

use crate::cli_support::{Ran, codexd, fixture, recorded_state};
use crate::daemon::Daemon;

fn status(root: &Path, more: &[&str]) -> Ran {
    let root = root.to_str().expect("UTF-8");
    codexd(&[&["status", "--logs-dir", "/srv/codexd/logs", "--state-dir", root], more].concat())
}

/// Every file below a folder with its content and time of change.
fn files(root: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            let changed = entry.metadata().unwrap().modified().unwrap();
            let content = std::fs::read(entry.path()).unwrap();
            found.insert(entry.path().display().to_string(), (content, changed));
        }
    }
    found
}

/// The state folder as a daemon that runs leaves it.
#[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
fn say_started(root: &Path) {
    let text = fixture("file-daemon-state.json")
        .replace("\"started\": false", "\"started\": true")
        .replace("\"status\": \"stopped\"", "\"status\": \"running\"")
        .replace("\"pid\": null", "\"pid\": 1");
    std::fs::write(root.join("codexd/daemon-state.json"), text).unwrap();
}

#[test]
fn recorded_files_are_shown_and_left_alone() {
    let root = recorded_state();
    let before = files(root.path());
    let ran = status(root.path(), &["--repo-root", "/srv/codexd"]);
    let shown = ran.stdout.replace(root.path().to_str().unwrap(), "/srv/codexd/state");
    assert_eq!((ran.code, shown, ran.stderr), (0, fixture("cli-status.txt"), String::new()));
    assert_eq!(files(root.path()), before);
}

#[test]
fn where_nothing_was_started_there_is_no_identity_and_nothing_is_made() {
    let root = tempfile::tempdir().unwrap();
    let ran = status(root.path(), &[]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let begins = "identity=none node=mini-main daemon=stopped child=idle strategy=spawn mode=app-server ";
    assert!(ran.stdout.starts_with(begins), "{}", ran.stdout);
    assert!(ran.stdout.contains(" sessions=0 runs=0 recent_events=0 "), "{}", ran.stdout);

    let ran = status(root.path(), &["--json", "--event-cache-size", "7"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["identity"]["daemonId"], Value::Null);
    assert_eq!(json["identity"]["nodeId"], "mini-main");
    assert_eq!(json["recentEvents"]["maxEntries"], 7);
    assert_eq!(json["daemon"]["child"]["command"], "codex");
    let keys: Vec<usize> = ["config", "identity", "daemon", "sessionRegistry", "runRegistry", "recentEvents"]
        .iter()
        .map(|key| ran.stdout.find(&format!("\n  \"{key}\": {{\n")).expect(key))
        .collect();
    assert!(keys.is_sorted(), "{}", ran.stdout);
    assert!(files(root.path()).is_empty());
}

#[test]
fn a_recorded_process_that_is_gone_does_not_run() {
    let root = recorded_state();
    say_started(root.path());
    let before = files(root.path());
    let ran = status(root.path(), &[]);
    assert!(ran.stdout.contains(" daemon=stopped child=stopped "), "{}", ran.stdout);
    let json: Value = serde_json::from_str(&status(root.path(), &["--json"]).stdout).unwrap();
    assert_eq!(json["daemon"]["started"], false);
    assert_eq!((&json["daemon"]["pid"], &json["daemon"]["child"]["pid"]), (&Value::Null, &Value::Null));
    assert_eq!(files(root.path()), before, "only what is shown is corrected");
}

#[test]
fn the_holder_of_the_lock_runs() {
    let root = recorded_state();
    say_started(root.path());
    let lock = lock::acquire(&root.path().join("codexd/lock"), "--state-dir").unwrap();
    let ran = status(root.path(), &[]);
    assert!(ran.stdout.contains(" daemon=running child=running "), "{}", ran.stdout);
    drop(lock);
    let ran = status(root.path(), &[]);
    assert!(ran.stdout.contains(" daemon=stopped child=stopped "), "{}", ran.stdout);
}

#[test]
fn a_daemon_whose_state_file_is_a_moment_behind_runs_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("codexd")).unwrap();
    let _lock = lock::acquire(&root.path().join("codexd/lock"), "--state-dir").unwrap();
    let ran = status(root.path(), &["--json"]);
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["daemon"]["started"], true, "{json}");
    assert_eq!(json["daemon"]["pid"], std::process::id());
}

#[test]
fn the_child_is_shown_by_the_present_configuration() {
    let root = recorded_state();
    let ran = status(
        root.path(),
        &["--json", "--server-strategy", "external", "--server-endpoint", "ws://127.0.0.1:1"],
    );
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    let child = &json["daemon"]["child"];
    assert_eq!((&child["strategy"], &child["endpoint"]), (&"external".into(), &"ws://127.0.0.1:1".into()));
    assert_eq!((&child["command"], &child["cwd"]), (&Value::Null, &Value::Null));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
fn a_damaged_file_is_named_and_counts_as_missing() {
    let root = recorded_state();
    let path = root.path().join("codexd/run-registry.json");
    std::fs::write(&path, "{\"updatedAt\": nu").unwrap();
    let ran = status(root.path(), &[]);
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains(" sessions=2 runs=0 recent_events=23 "), "{}", ran.stdout);
    let begins = format!("codexd: cannot use {}: ", path.display());
    assert!(ran.stderr.starts_with(&begins) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    assert_eq!(std::fs::read(&path).unwrap(), b"{\"updatedAt\": nu");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
fn names_that_somebody_planted_are_shown_as_text() {
    let root = recorded_state();
    let path = root.path().join("codexd/identity.json");
    let mut identity: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    identity["daemonId"] = "d\u{1b}]0;owned\u{7}\nforged".into();
    identity["nodeId"] = "n\u{9b}31m\u{202e}\u{61c}".into();
    std::fs::write(&path, identity.to_string()).unwrap();
    let ran = status(root.path(), &[]);
    let begins = "identity=d\\u{1b}]0;owned\\u{7}\\nforged node=n\\u{9b}31m\\u{202e}\\u{61c} daemon=stopped ";
    assert!(ran.stdout.starts_with(begins) && ran.stdout.lines().count() == 1, "{ran:?}");
    // What a program reads is the same as ever.
    let ran = status(root.path(), &["--json"]);
    assert!(ran.stdout.contains("n\u{9b}31m\u{202e}\u{61c}"), "{ran:?}");
    let daemon = Daemon::builder();
    let folder = daemon.state().join("codexd");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(&path, folder.join("identity.json")).unwrap();
    let line = daemon.start().first_line().to_owned();
    // The id stays, planted or not; the name is that of this start.
    let begins = "identity=d\\u{1b}]0;owned\\u{7}\\nforged node=mini-main daemon=running ";
    assert!(line.starts_with(begins), "{line}");
}

#[test]
fn where_nobody_can_tell_whether_a_daemon_runs_the_exit_code_says_so() {
    let root = recorded_state();
    let path = root.path().join("codexd/lock");
    // What cannot be opened, not even by root.
    std::os::unix::fs::symlink("lock", &path).unwrap();
    let ran = status(root.path(), &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains(" daemon=stopped "), "{}", ran.stdout);
    let begins = format!("codexd: cannot tell whether a daemon runs: {}: ", path.display());
    assert!(ran.stderr.starts_with(&begins) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let daemon = Daemon::builder();
    let folder = daemon.state().join("codexd");
    std::fs::create_dir_all(&folder).unwrap();
    let mut pipes = Vec::new();
    for (name, code) in [
        ("identity.json", 0),
        ("daemon-state.json", 0),
        ("session-registry.json", 0),
        ("run-registry.json", 0),
        ("recent-events.json", 0),
        ("lock", 1),
    ] {
        pipes.push(folder.join(name));
        assert!(Command::new("mkfifo").arg(folder.join(name)).status().unwrap().success());
        let ended = daemon.run(&["status"]);
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.stdout.contains(" daemon=stopped "), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), pipes.len(), "{ended:?}");
        let named = |pipe: &PathBuf| ended.stderr.contains(&format!("{}: it ", pipe.display()));
        assert!(pipes.iter().all(named), "{ended:?}");
    }
}
