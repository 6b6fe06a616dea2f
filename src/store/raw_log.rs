//! The child's raw output: appended as it comes, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `stdout.log` or `stderr.log`. Older files are `<name>.1` (the newest) to `<name>.<keep>`.
#[derive(Debug)]
pub struct RawLog {
    path: PathBuf,
    file: File,
    len: u64,
    max_bytes: Option<u64>,
    keep: usize,
}

/// Old files kept when segments are kept without limit: raw output is for looking at, not the record.
const KEEP: usize = 16;

impl RawLog {
    /// Opens or makes the file, 0600.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &Path, max_bytes: Option<u64>, keep: Option<usize>) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, max_bytes, keep: keep.unwrap_or(KEEP) })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// What write(2) says.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.max_bytes.is_some_and(|max| self.len > 0 && self.len + bytes.len() as u64 > max) {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: usize| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..self.keep).rev() {
            match fs::rename(numbered(number), numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.keep > 0 {
            fs::rename(&self.path, numbered(1))?;
        } else {
            fs::remove_file(&self.path)?;
        }
        self.file = open(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_by_size_and_keeps_some() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout.log");
        let mut log = RawLog::open(&path, Some(10), Some(2)).unwrap();
        for text in ["aaaaaaaa\n", "bbbbbbbb\n", "cccccccc\n", "dddddddd\n"] {
            log.append(text.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "dddddddd\n");
        assert_eq!(fs::read_to_string(folder.path().join("stdout.log.1")).unwrap(), "cccccccc\n");
        assert_eq!(fs::read_to_string(folder.path().join("stdout.log.2")).unwrap(), "bbbbbbbb\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
