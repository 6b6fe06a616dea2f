//! What is on disk: the event log (the truth), the state files (a cache of it), the lock.

pub mod files;
pub mod journal;
mod list;
pub mod lock;
pub mod private;
pub mod raw_log;
pub mod reader;
pub mod segments;
mod tail;
pub mod token;
pub mod usage;

use std::io;
use std::path::{Path, PathBuf};

/// A failure of the store, with the file it concerns.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct StoreError {
    /// What was tried, as a verb: `cannot write`.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl StoreError {
    /// For `map_err`.
    pub fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { action, path: path.to_owned(), source }
    }
}

/// Something found damaged at start-up and dealt with; becomes a `store.repaired` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The file that was damaged.
    pub file: PathBuf,
    /// What was wrong and what was done.
    pub problem: String,
    /// Where the damaged bytes are now, if they were set aside.
    pub kept_as: Option<PathBuf>,
}
