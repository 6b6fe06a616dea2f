//! The child's raw output: appended as it comes, rotated by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::private;

/// `stdout.log` or `stderr.log`. Older files are `<name>.1` (the newest) to `<name>.<keep>`.
#[derive(Debug)]
pub struct RawLog {
    path: PathBuf,
    file: File,
    len: u64,
    max_bytes: Option<u64>,
    keep: Option<usize>,
    failing: bool,
}

impl RawLog {
    /// Opens or makes the file, 0600, and removes the older ones that are too many. `max_bytes`: after so many a new file
    /// begins, `None` for never. `keep`: older ones kept, 1 or more; `None` for all.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn open(path: &Path, max_bytes: Option<u64>, keep: Option<usize>) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        let log = Self { path: path.to_owned(), file, len, max_bytes, keep, failing: false };
        log.remove_surplus();
        Ok(log)
    }

    /// What an earlier life kept and this one does not.
    fn remove_surplus(&self) {
        let Some(keep) = self.keep else { return };
        for number in self.numbers().into_iter().filter(|&number| number > keep) {
            // One that cannot be removed is not worth stopping for; it is tried again with the next child.
            let path = self.numbered(number);
            if let Err(error) = fs::remove_file(&path) {
                log::warn!("cannot remove {}: {error}", path.display());
            }
        }
    }

    /// The numbers of the older files that are there.
    fn numbers(&self) -> Vec<usize> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Vec::new();
        };
        let prefix = format!("{}.", name.to_string_lossy());
        let number = |entry: fs::DirEntry| {
            let number = entry.file_name().to_str()?.strip_prefix(&prefix)?.parse().ok()?;
            // Not what is only read as a number, such as 007.
            (entry.path() == self.numbered(number)).then_some(number)
        };
        fs::read_dir(folder).into_iter().flatten().flatten().filter_map(number).collect()
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Appends bytes. That they cannot be written is logged once, until some are again, and is no more than that: this log
    /// is for looking at, the events are the record.
    pub fn put(&mut self, bytes: &[u8]) {
        match self.append(bytes) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn!("{} cannot be written: {error}", self.path.display());
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.max_bytes.is_some_and(|max| self.len > 0 && self.len + bytes.len() as u64 > max) {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // It is not there where an earlier try has renamed it, and then had no descriptor or no room for the new one.
        if fs::exists(&self.path)? {
            let last =
                self.keep.unwrap_or_else(|| self.numbers().into_iter().max().map_or(1, |last| last + 1));
            for number in (1..last).rev() {
                match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.numbered(1))?;
        }
        self.file = open(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let found = fs::symlink_metadata(path);
    // The child may write here: what it has put in this place is not followed, and keeps no next life from beginning.
    if found.is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        log::warn!("{} is no plain file; it is removed", path.display());
        fs::remove_file(path)?;
    }
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()));
    private::open(path, OpenOptions::new().append(true).create(true)).map_err(named)
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

    #[test]
    fn what_is_no_file_in_its_place_goes_and_what_a_link_leads_to_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("stdout.log"), folder.path().join("other"));
        File::create(&other).unwrap().write_all(b"precious").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        RawLog::open(&path, None, None).unwrap().append(b"said").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_to_string(&path).unwrap(), "said");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let refusal = RawLog::open(&path, None, None).unwrap_err().to_string();
        assert!(refusal.starts_with(&format!("cannot open {}: ", path.display())), "{refusal}");
    }

    #[test]
    fn without_a_bound_all_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout.log");
        let mut log = RawLog::open(&path, Some(10), None).unwrap();
        for number in 0..40 {
            log.append(format!("number {number:02}\n").as_bytes()).unwrap();
        }
        for number in 1..40 {
            assert_eq!(
                fs::read_to_string(log.numbered(number)).unwrap(),
                format!("number {:02}\n", 39 - number)
            );
        }
    }

    #[test]
    fn a_new_file_that_could_not_be_made_is_made_by_the_next_try() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stdout.log");
        let mut log = RawLog::open(&path, Some(10), Some(2)).unwrap();
        for text in ["aaaaaaaa\n", "bbbbbbbb\n"] {
            log.append(text.as_bytes()).unwrap();
        }
        // So far a try comes whose open(2) fails.
        fs::rename(log.numbered(1), log.numbered(2)).unwrap();
        fs::rename(&path, log.numbered(1)).unwrap();
        for text in ["cc", "dd\n"] {
            log.append(text.as_bytes()).unwrap();
        }
        for (path, text) in [(log.numbered(2), "aaaaaaaa\n"), (log.numbered(1), "bbbbbbbb\n")] {
            assert_eq!(fs::read_to_string(path).unwrap(), text);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "ccdd\n");
    }

    #[test]
    fn what_is_kept_no_more_goes_at_the_next_opening() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for number in 1..=20 {
            for name in ["stdout.log", "stderr.log"] {
                File::create(file(&format!("{name}.{number}"))).unwrap();
            }
        }
        let others = ["stdout.log.old", "stdout.log.007", "stdout.log.99999999999999999999"];
        others.iter().for_each(|name| drop(File::create(file(name)).unwrap()));
        for (keep, left) in [(None, 20), (Some(16), 16), (Some(3), 3), (Some(5), 3)] {
            drop(RawLog::open(&file("stdout.log"), None, keep).unwrap());
            for number in 1..=20 {
                assert_eq!(file(&format!("stdout.log.{number}")).exists(), number <= left, "{number}");
                assert!(file(&format!("stderr.log.{number}")).exists());
            }
        }
        assert!(others.iter().all(|name| file(name).exists()));
    }
}
