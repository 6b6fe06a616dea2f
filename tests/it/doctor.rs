//! `codexd doctor`: what it finds on a host that is made for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::cli_support::{Ran, command};

/// A folder for the repository, and one with commands that is all of the PATH.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "repo"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Place { folder }
    }

    fn bin(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// A command on the PATH.
    fn with(self, name: &str, script: &str) -> Place {
        let path = self.bin().join(name);
        #[expect(clippy::disallowed_methods, reason = "a command for the test")]
        fs::write(&path, script).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn doctor(&self, words: &[&str]) -> Ran {
        let mut command = command(["doctor"]);
        command.args(words).env("PATH", self.bin()).current_dir(self.folder.path().join("repo"));
        command.output().unwrap().into()
    }

    /// The check of that name in the JSON.
    fn check(&self, name: &str) -> Value {
        let ran = self.doctor(&["--json"]);
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        let failed = report["checks"].as_array().unwrap().iter().any(|check| check["status"] == "fail");
        assert_eq!((ran.code, report["ok"].as_bool()), (i32::from(failed), Some(!failed)), "{report}");
        let mut checks = report["checks"].as_array().unwrap().iter();
        checks.find(|check| check["name"] == name).cloned().unwrap_or_default()
    }
}

fn says(check: &Value, status: &str, what: &str) {
    assert_eq!(check["status"], status, "{check}");
    assert!(check["what"].as_str().unwrap().contains(what), "{check}");
    assert_eq!(check["todo"].is_null(), status == "ok", "whatever is wrong has a remedy: {check}");
}

const CODEX: &str = "#!/bin/sh\necho codex-cli 0.1.2\n";

#[test]
fn codex_is_looked_for_on_the_path() {
    let place = Place::new();
    says(&place.check("codex"), "fail", &format!("codex is not on PATH={}", place.bin().display()));
    let ran = place.doctor(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("\nfail codex: ") || ran.stdout.starts_with("fail codex: "), "{ran:?}");

    let place = place.with("codex", CODEX);
    let path = place.bin().join("codex");
    says(&place.check("codex"), "ok", &format!("codex-cli 0.1.2 at {}", path.display()));
    says(&place.with("codex", "#!/bin/sh\necho broken >&2; exit 1\n").check("codex"), "fail", "broken");
}

#[test]
fn the_npm_package_needs_its_node() {
    // The system's own folders would have one.
    let place = Place::new().with("codex", "#!/usr/bin/env node\n");
    says(&place.check("node"), "fail", "needs node");
    let place = place.with("node", "#!/bin/sh\necho v22.1.0\n");
    says(&place.check("node"), "ok", "v22.1.0 at ");
    assert!(Place::new().with("codex", CODEX).check("node").is_null(), "a native codex needs none");
}

#[test]
fn a_codex_that_hangs_is_told_in_time() {
    if !Path::new("/bin/sleep").is_file() {
        return;
    }
    let place = Place::new().with("codex", "#!/bin/sh\nexec /bin/sleep 300\n");
    says(&place.check("codex"), "fail", "did not answer within 10 s");
}
