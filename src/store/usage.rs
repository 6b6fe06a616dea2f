//! How much room the logs take.

use std::fs;
use std::io;
use std::path::Path;

use super::segments;

/// Bytes of the files in the logs folder, by what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The event log, all of its segments.
    pub events: u64,
    /// How many segments that is, the current one included.
    pub segments: u64,
    /// The child's standard output, older files included.
    pub stdout: u64,
    /// Its standard error, older files included.
    pub stderr: u64,
    /// Anything else that stands beside them; folders are not entered.
    pub other: u64,
}

impl Usage {
    /// Of a logs folder. Files that vanish meanwhile (retention) count as nothing.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let mut usage = Self::default();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let Some(found) = entry.metadata().ok().filter(fs::Metadata::is_file) else { continue };
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let bytes = found.len();
            if name == segments::CURRENT || name.starts_with("events.") && name.ends_with(".jsonl") {
                usage.events += bytes;
                usage.segments += 1;
            } else if name.starts_with("stdout.log") {
                usage.stdout += bytes;
            } else if name.starts_with("stderr.log") {
                usage.stderr += bytes;
            } else {
                usage.other += bytes;
            }
        }
        Ok(usage)
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.events + self.stdout + self.stderr + self.other
    }
}

/// Bytes that this user may still write on the file system of `folder`.
///
/// # Errors
/// What statvfs(3) says.
pub fn free(folder: &Path) -> io::Result<u64> {
    let room = rustix::fs::statvfs(folder)?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [
            ("events.jsonl", 1),
            ("events.17.jsonl", 2),
            ("stdout.log", 4),
            ("stdout.log.1", 8),
            ("stderr.log", 16),
            ("events.9.broken", 32),
        ] {
            fs::File::create(folder.path().join(name)).unwrap().set_len(bytes).unwrap();
        }
        fs::create_dir(folder.path().join("runs")).unwrap();
        let usage = Usage::of(folder.path()).unwrap();
        assert_eq!(usage, Usage { events: 3, segments: 2, stdout: 12, stderr: 16, other: 32 });
        assert_eq!(usage.total(), 63);
    }
}
