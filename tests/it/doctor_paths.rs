//! `codexd doctor`: folders and files that have another name for it than for the daemon.

use std::fs;

use serde_json::Value;

use crate::cli_support::{Ran, command};
use crate::daemon::Daemon;

#[test]
fn paths_that_are_typed_are_relative_to_where_they_are_typed_also_beside_a_service() {
    let place = tempfile::tempdir().unwrap();
    let repo = place.path().join("repo");
    fs::create_dir(&repo).unwrap();
    let run = |words: &[&str]| -> Ran {
        let mut codexd = command(words);
        codexd.args(["--local-api-base", "http://127.0.0.1:0"]).env("HOME", place.path());
        codexd.current_dir(&repo).output().unwrap().into()
    };
    assert_eq!(run(&["service", "install"]).code, 0);
    let ran = run(&["doctor", "--repo-root", ".", "--token-file", "token"]);
    let repo = repo.display();
    for line in [
        "what follows is seen with its environment".to_owned(),
        format!("ok access: {repo}/token will be made with a new token"),
        format!("ok folders: logs in {repo}/logs/codexd, state in {repo}/state/codexd"),
    ] {
        assert!(ran.stdout.contains(&line), "{line}: {ran:?}");
    }
}

#[test]
fn a_daemon_that_was_started_by_another_name_of_its_folder_is_known() {
    let daemon = Daemon::builder().start();
    let state = daemon.state("x");
    let root = state.parent().and_then(|folder| folder.parent()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let link = place.path().join("link");
    std::os::unix::fs::symlink(root, &link).unwrap();
    let mut doctor = command(["doctor", "--json", "--local-api-base", daemon.base(), "--state-dir"]);
    let ran: Ran =
        doctor.arg(link).current_dir(place.path()).env("HOME", place.path()).output().unwrap().into();
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    for name in ["daemon", "port"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["status"], "ok", "{check}");
    }
}
