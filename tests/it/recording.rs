//! What codexd says to an app-server, recorded line by line between the two.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::Builder;

/// A recording; its folder goes with it.
pub(crate) struct Recording {
    folder: TempDir,
}

impl Recording {
    pub(crate) fn new() -> Recording {
        let folder = tempfile::Builder::new().prefix("recording-").tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        Recording { folder: folder.unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("lines")
    }

    /// The builder with that command as its app-server, recorded.
    pub(crate) fn of(&self, builder: Builder, command: &Path, args: &[&str]) -> Builder {
        let (file, command) = (self.file().display().to_string(), command.display().to_string());
        let mut words = vec!["-c", r#"tee -a "$0" | "$@""#, &file, &command];
        words.extend(args);
        builder.server("/bin/sh", &words)
    }

    /// Every line so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}
