//! The event log: appended whole lines at a time, rotated by size. **Invariant**: what [`Journal::append`] has
//! returned `Ok` for is in the file, whole; what it has failed for has left no trace, or its trace is cut off before
//! anything else is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{set_aside, sync_folder};
use super::segments::{self, Segment};
use super::{Repair, StoreError, tail};
use crate::config::Sync;
use crate::fault::{self, Point};

/// The log, open for appending. There is one in a process, owned by the hub.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Seq of the current segment's first event, once it has one.
    first_seq: Option<u64>,
    finished: Arc<Vec<Segment>>,
    limits: Limits,
    /// Bytes of a failed write may stand behind the last whole line.
    unclean: bool,
    /// Events up to this one are in the state files too: only their segments may be removed.
    disposable: u64,
    /// What was finished last, until somebody takes it to force it to disk.
    unforced: Option<Finished>,
}

/// A segment that was finished under [`Sync::Interval`]: the disk may not have all of it yet, nor its name.
#[derive(Debug)]
pub struct Finished {
    file: Arc<File>,
    folder: PathBuf,
}

impl Finished {
    /// Forces it to disk, and that it is followed by another.
    ///
    /// # Errors
    /// What fdatasync(2) and fsync(2) say; see [`AppendError::Sync`].
    pub fn force(&self) -> io::Result<()> {
        fault::point(Point::LogSync)?;
        self.file.sync_data()?;
        sync_folder(&self.folder)
    }
}

/// Why events are not in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// They could not be written, and left no trace: it may be tried again.
    #[error(transparent)]
    Write(#[from] io::Error),
    /// They were written but could not be forced to disk. Nobody knows what the disk has now, and asking again would
    /// be answered with success (the kernel tells such a failure once): the process must end.
    #[error("fdatasync: {0}")]
    Sync(io::Error),
}

/// When a segment is full, how many are kept, when they are forced to disk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after which a new segment begins; `None` for never.
    pub max_bytes: Option<u64>,
    /// Finished segments kept; `None` for all.
    pub keep: Option<usize>,
    /// When to force to disk.
    pub sync: Sync,
}

/// A log that has been opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log.
    pub journal: Journal,
    /// The last seq it holds or a damaged line of it held, 0 if none.
    pub last_seq: u64,
    /// What had to be repaired.
    pub repairs: Vec<Repair>,
}

/// What a reader needs to find events: it opens the files itself.
#[derive(Debug, Clone)]
pub struct LogView {
    /// Finished segments, oldest first.
    pub finished: Arc<Vec<Segment>>,
    /// The current segment; its `first_seq` is meaningless while it is empty.
    pub current: Segment,
    /// Bytes of the current segment that are whole lines.
    pub current_len: u64,
}

impl Journal {
    /// Opens the log in `folder`, which exists, cutting off a torn last line.
    ///
    /// # Errors
    /// When the files cannot be read or written.
    pub fn open(folder: &Path, limits: Limits) -> Result<Opened, StoreError> {
        let path = folder.join(segments::CURRENT);
        let file = open_append(&path)?;
        if limits.sync != Sync::Never {
            sync_folder(folder).map_err(StoreError::at("cannot sync", folder))?;
        }
        let finished = segments::finished(folder).map_err(StoreError::at("cannot read", folder))?;
        let read = || StoreError::at("cannot read", &path);
        let found = file.metadata().map_err(read())?.len();
        let len = tail::whole_lines(&file, found).map_err(read())?;
        let last_seq = tail::last_seq(&path, &file, len, &finished)?;
        let mut repairs = Vec::new();
        if len < found {
            repairs.push(tail::cut_torn_tail(&file, &path, len..found, last_seq + 1)?);
        }
        let first_seq = tail::first_seq(&file, len).map_err(read())?;
        let journal = Self {
            folder: folder.to_owned(),
            path,
            file: Arc::new(file),
            len,
            first_seq,
            finished: Arc::new(finished),
            limits,
            unclean: false,
            disposable: 0,
            unforced: None,
        };
        Ok(Opened { journal, last_seq, repairs })
    }

    /// Appends whole lines holding the events from `first_seq` on, with one write.
    ///
    /// # Errors
    /// [`AppendError::Write`] after which the same may be tried again, or [`AppendError::Sync`].
    pub fn append(&mut self, lines: &[u8], first_seq: u64) -> Result<(), AppendError> {
        if self.unclean {
            self.cut_to_whole_lines()?;
        }
        if self.limits.max_bytes.is_some_and(|max| self.len >= max) {
            self.rotate()?;
        }
        let mut file = &*self.file;
        let written = fault::writing(Point::LogWrite, lines, |lines| file.write_all(lines))
            .and_then(|()| fault::point(Point::LogWritten));
        if let Err(error) = written {
            self.unclean = true;
            // Tried now, and if that fails too, before the next write.
            let _ = self.cut_to_whole_lines();
            return Err(error.into());
        }
        if self.limits.sync == Sync::Always {
            self.force()?;
        }
        self.len += lines.len() as u64;
        self.first_seq.get_or_insert(first_seq);
        Ok(())
    }

    /// Whole lines or nothing: with O_APPEND the next write goes to the end that this restores.
    fn cut_to_whole_lines(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.unclean = false;
        Ok(())
    }

    fn force(&self) -> Result<(), AppendError> {
        fault::point(Point::LogSync).and_then(|()| self.file.sync_data()).map_err(AppendError::Sync)
    }

    /// Events up to `seq` are in the state files: their segments may go when there are too many.
    pub fn dispose_up_to(&mut self, seq: u64) {
        self.disposable = self.disposable.max(seq);
        self.remove_surplus();
    }

    /// The current segment, for whoever forces it to disk from another thread.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// The segment that was finished by the last append, for whoever forces it to disk from another thread. Tens of
    /// megabytes take tens of milliseconds, in which nothing would be logged.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.unforced.take()
    }

    /// When this log is to be forced to disk.
    pub fn sync(&self) -> Sync {
        self.limits.sync
    }

    /// Where the events are now.
    pub fn view(&self) -> LogView {
        LogView {
            finished: Arc::clone(&self.finished),
            current: Segment { first_seq: self.first_seq.unwrap_or(0), path: self.path.clone() },
            current_len: self.len,
        }
    }

    /// Seq of the oldest event still held; `None` for an empty log.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.finished.first().map(|segment| segment.first_seq).or(self.first_seq)
    }

    /// Makes the full segment a finished one and begins the next. Each step may have been done by an earlier try.
    fn rotate(&mut self) -> Result<(), AppendError> {
        let Some(first_seq) = self.first_seq else { return Ok(()) };
        if self.limits.sync == Sync::Always {
            self.force()?;
        }
        let old = self.folder.join(segments::finished_name(first_seq));
        fault::point(Point::LogRename)?;
        if is_at(&old, &self.file)? {
            // An earlier try has come so far.
        } else {
            self.set_aside(&old)?;
            fs::rename(&self.path, &old)?;
        }
        fault::point(Point::LogOpen)?;
        let fresh = open_append(&self.path).map_err(|error| error.source)?;
        if self.limits.sync == Sync::Always {
            sync_folder(&self.folder).map_err(AppendError::Sync)?;
        }
        let file = std::mem::replace(&mut self.file, Arc::new(fresh));
        if self.limits.sync == Sync::Interval {
            self.unforced = Some(Finished { file, folder: self.folder.clone() });
        }
        self.len = 0;
        self.first_seq = None;
        Arc::make_mut(&mut self.finished).push(Segment { first_seq, path: old });
        self.remove_surplus();
        Ok(())
    }

    /// No segment is ever replaced: what stands where one is to be was put there by somebody else.
    fn set_aside(&mut self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(());
        }
        let kept = set_aside(path)?;
        log::warn!(
            "{} was in the way of a segment of the event log; it is {} now",
            path.display(),
            kept.display()
        );
        Arc::make_mut(&mut self.finished).retain(|segment| segment.path != path);
        Ok(())
    }

    /// Retention. A segment whose events are not yet in the state files stays: with them it would take what was
    /// acknowledged.
    fn remove_surplus(&mut self) {
        let Some(keep) = self.limits.keep else { return };
        let surplus = self.finished.len().saturating_sub(keep);
        let after = self.finished.iter().skip(1).map(|segment| segment.first_seq).chain(self.first_seq);
        let removable = after.take(surplus).take_while(|&next| next <= self.disposable + 1).count();
        if removable == 0 {
            return;
        }
        for segment in Arc::make_mut(&mut self.finished).drain(..removable) {
            // A segment that cannot be removed is not worth stopping for; it is tried again after the next start.
            if let Err(error) = fs::remove_file(&segment.path) {
                log::warn!("cannot remove {}: {error}", segment.path.display());
            }
        }
    }
}

/// Whether that is the name of this very file.
fn is_at(path: &Path, file: &File) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => {
            let own = file.metadata()?;
            Ok((found.dev(), found.ino()) == (own.dev(), own.ino()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens for appending, made with 0600 if missing.
fn open_append(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(StoreError::at("cannot open", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_bytes: Option<u64>, keep: Option<usize>) -> Limits {
        Limits { max_bytes, keep, sync: Sync::Never }
    }

    fn line(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"message\":\"event {seq}\"}}\n")
    }

    #[test]
    fn with_an_interval_a_full_segment_is_left_to_others_to_force() {
        for sync in [Sync::Interval, Sync::Always, Sync::Never] {
            let folder = tempfile::tempdir().unwrap();
            let limits = Limits { max_bytes: Some(1), keep: None, sync };
            let mut journal = Journal::open(folder.path(), limits).unwrap().journal;
            journal.append(b"{\"seq\":1}\n", 1).unwrap();
            assert!(journal.take_finished().is_none());
            journal.append(b"{\"seq\":2}\n", 2).unwrap();
            let finished = journal.take_finished();
            assert_eq!(finished.is_some(), sync == Sync::Interval, "{sync:?}");
            if let Some(finished) = finished {
                finished.force().unwrap();
                assert_eq!(finished.file.metadata().unwrap().len(), 10);
            }
            assert!(journal.take_finished().is_none());
        }
    }

    /// What the files of a folder hold, by name; of times in names only that there is one.
    fn files(folder: &Path) -> Vec<(String, String)> {
        let file = |entry: io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let words = name.split('.').map(|word| if word.len() == 13 { "TIME" } else { word });
            (words.collect::<Vec<_>>().join("."), fs::read_to_string(&path).unwrap())
        };
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(file).collect();
        files.sort();
        files
    }

    fn named(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|&(name, text)| (name.to_owned(), text.to_owned())).collect()
    }

    #[test]
    fn a_segment_replaces_no_file() {
        for known in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let put_there = || {
                let path = folder.path().join("events.1.jsonl");
                File::create(path).unwrap().write_all(b"precious").unwrap();
            };
            if known {
                put_there();
            }
            let mut journal = Journal::open(folder.path(), limits(Some(1), None)).unwrap().journal;
            if !known {
                put_there();
            }
            for seq in 1..=2 {
                journal.append(line(seq).as_bytes(), seq).unwrap();
            }
            let expected = named(&[
                ("events.1.jsonl", &line(1)),
                ("events.1.jsonl.TIME.damaged", "precious"),
                ("events.jsonl", &line(2)),
            ]);
            assert_eq!(files(folder.path()), expected);
            assert_eq!(*journal.view().finished, segments::finished(folder.path()).unwrap());
        }
    }

    #[test]
    fn a_new_segment_that_could_not_be_made_is_made_by_the_next_try() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), limits(Some(1), None)).unwrap().journal;
        journal.append(line(1).as_bytes(), 1).unwrap();
        // So far a try comes whose open(2) fails.
        fs::rename(folder.path().join("events.jsonl"), folder.path().join("events.1.jsonl")).unwrap();
        journal.append(line(2).as_bytes(), 2).unwrap();
        let expected = named(&[("events.1.jsonl", &line(1)), ("events.jsonl", &line(2))]);
        assert_eq!(files(folder.path()), expected);
    }

    #[test]
    fn segments_rotate_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap().journal;
        for seq in 1..=50 {
            journal.append(line(seq).as_bytes(), seq).unwrap();
        }
        assert_eq!(journal.oldest_seq(), Some(1), "what is in no state file stays");
        journal.dispose_up_to(10);
        let oldest = journal.oldest_seq().unwrap();
        assert!((2..=11).contains(&oldest), "{oldest}");
        journal.dispose_up_to(50);
        let finished = segments::finished(folder.path()).unwrap();
        assert_eq!(finished.len(), 2);
        assert_eq!(*journal.view().finished, finished);
        assert_eq!(journal.oldest_seq(), Some(finished[0].first_seq));
        let reopened = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap();
        assert_eq!(reopened.last_seq, 50);
        assert_eq!(reopened.journal.oldest_seq(), journal.oldest_seq());
    }
}
