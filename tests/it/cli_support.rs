//! The real binary, in an environment without variables of ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a run of the binary came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("ended by itself"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }
}

/// `codexd WORDS…` in an empty environment, in the folder `/`.
pub fn command(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_codexd"));
    command.args(words).env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn codexd(words: &[&str]) -> Ran {
    command(words).output().expect("codexd runs").into()
}

pub fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn fixture(name: &str) -> String {
    std::fs::read_to_string(fixture_path(name)).expect(name)
}

/// A state root whose `codexd` folder holds the files of the older implementation.
pub fn recorded_state() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("temporary folder");
    let folder = root.path().join("codexd");
    std::fs::create_dir(&folder).expect("state folder");
    for name in ["identity", "daemon-state", "session-registry", "run-registry", "recent-events"] {
        let name = format!("{name}.json");
        std::fs::copy(fixture_path(&format!("file-{name}")), folder.join(&name)).expect("copy");
    }
    root
}
