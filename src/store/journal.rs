//! The event log: appended whole lines at a time, rotated by size. **Invariant**: what [`Journal::append`] has
//! returned `Ok` for is in the file, whole; what it has failed for has left no trace.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::segments::{self, Segment};
use super::{Repair, StoreError};
use crate::config::Sync;

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
    /// The last seq it holds, 0 if none.
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
        let finished = segments::finished(folder).map_err(StoreError::at("cannot read", folder))?;
        let mut repairs = Vec::new();
        let len = cut_torn_tail(&file, &path, folder, &mut repairs)?;
        let read = StoreError::at("cannot read", &path);
        let first_seq = first_seq(&file, len).map_err(read)?;
        let mut last_seq = last_seq(&file, len).map_err(StoreError::at("cannot read", &path))?;
        if last_seq == 0
            && let Some(newest) = finished.last()
        {
            let file = File::open(&newest.path).map_err(StoreError::at("cannot read", &newest.path))?;
            let len = file.metadata().map_err(StoreError::at("cannot read", &newest.path))?.len();
            last_seq = self::last_seq(&file, len).map_err(StoreError::at("cannot read", &newest.path))?;
        }
        let journal = Self {
            folder: folder.to_owned(),
            path,
            file: Arc::new(file),
            len,
            first_seq,
            finished: Arc::new(finished),
            limits,
        };
        Ok(Opened { journal, last_seq, repairs })
    }

    /// Appends whole lines holding the events from `first_seq` on, with one write.
    ///
    /// # Errors
    /// What write(2) or, with `--sync always`, fdatasync(2) says. A partial write is undone.
    pub fn append(&mut self, lines: &[u8], first_seq: u64) -> io::Result<()> {
        if self.limits.max_bytes.is_some_and(|max| self.len >= max) {
            self.rotate()?;
        }
        if let Err(error) = (&*self.file).write_all(lines) {
            // Whole lines or nothing: with O_APPEND the next write goes to the end that this restores.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        if self.limits.sync == Sync::Always {
            self.file.sync_data()?;
        }
        self.len += lines.len() as u64;
        self.first_seq.get_or_insert(first_seq);
        Ok(())
    }

    /// The current segment, for whoever forces it to disk from another thread.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
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

    fn rotate(&mut self) -> io::Result<()> {
        let Some(first_seq) = self.first_seq else { return Ok(()) };
        let old = self.folder.join(segments::finished_name(first_seq));
        fs::rename(&self.path, &old)?;
        // From here on the old file is finished whatever happens: if the new one cannot be made, its name comes back.
        let fresh = match open_append(&self.path) {
            Ok(fresh) => fresh,
            Err(error) => {
                fs::rename(&old, &self.path)?;
                return Err(error.source);
            }
        };
        let finished_file = std::mem::replace(&mut self.file, Arc::new(fresh));
        if self.limits.sync != Sync::Never {
            finished_file.sync_data()?;
        }
        self.len = 0;
        self.first_seq = None;
        let mut finished = self.finished.to_vec();
        finished.push(Segment { first_seq, path: old });
        if let Some(keep) = self.limits.keep {
            let surplus = finished.len().saturating_sub(keep);
            for segment in finished.drain(..surplus) {
                // A segment that cannot be removed is not worth stopping for; it is tried again at the next start.
                if let Err(error) = fs::remove_file(&segment.path) {
                    log::warn!("cannot remove {}: {error}", segment.path.display());
                }
            }
        }
        self.finished = Arc::new(finished);
        Ok(())
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

/// Cuts a last line without newline off and keeps its bytes beside the log. It was never announced: log first.
fn cut_torn_tail(
    file: &File,
    path: &Path,
    folder: &Path,
    repairs: &mut Vec<Repair>,
) -> Result<u64, StoreError> {
    let read = || StoreError::at("cannot read", path);
    let len = file.metadata().map_err(read())?.len();
    let whole = if len == 0 { 0 } else { whole_lines(file, len).map_err(read())? };
    if whole == len {
        return Ok(len);
    }
    let torn = segments::read_range(file, whole, len).map_err(read())?;
    let next = last_seq(file, whole).map_err(read())? + 1;
    let kept = folder.join(format!("events.{next}.broken"));
    let write = |kept: &Path| -> io::Result<()> {
        let mut broken = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(kept)?;
        broken.write_all(&torn)?;
        broken.sync_data()
    };
    write(&kept).map_err(StoreError::at("cannot write", &kept))?;
    file.set_len(whole).map_err(StoreError::at("cannot cut", path))?;
    repairs.push(Repair {
        file: path.to_owned(),
        problem: format!("the last line was torn; its {} bytes were cut off", torn.len()),
        kept_as: Some(kept),
    });
    Ok(whole)
}

/// The length up to and with the last newline.
fn whole_lines(file: &File, len: u64) -> io::Result<u64> {
    let last = segments::read_range(file, len - 1, len)?;
    if last == b"\n" { Ok(len) } else { segments::line_start(file, len) }
}

fn first_seq(file: &File, len: u64) -> io::Result<Option<u64>> {
    let mut start = 0;
    while let Some(newline) = segments::next_newline(file, start, len)? {
        if let Some(seq) = segments::line_seq(&segments::read_range(file, start, newline)?) {
            return Ok(Some(seq));
        }
        start = newline + 1;
    }
    Ok(None)
}

/// The last seq in whole lines, counting damaged lines after it as one each: none may be used twice.
fn last_seq(file: &File, len: u64) -> io::Result<u64> {
    let mut end = len;
    let mut damaged = 0;
    while end > 0 {
        let start = segments::line_start(file, end - 1)?;
        let line = segments::read_range(file, start, end - 1)?;
        if let Some(seq) = segments::line_seq(&line) {
            return Ok(seq + damaged);
        }
        damaged += 1;
        end = start;
    }
    Ok(0)
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
    fn a_last_line_cut_anywhere_is_set_aside() {
        let text: String = (1..4).map(line).collect();
        let two = (1..3).map(line).collect::<String>().len();
        for cut in two + 1..text.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(segments::CURRENT);
            File::create(&path).unwrap().write_all(&text.as_bytes()[..cut]).unwrap();
            let opened = Journal::open(folder.path(), limits(None, None)).unwrap();
            assert_eq!(opened.last_seq, 2, "cut at {cut}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text[..two]);
            let kept = opened.repairs[0].kept_as.clone().unwrap();
            assert_eq!(kept.file_name().unwrap(), "events.3.broken");
            assert_eq!(fs::read_to_string(kept).unwrap(), text[two..cut]);
        }
    }

    #[test]
    fn damaged_whole_lines_stay_and_use_up_a_seq() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(segments::CURRENT);
        File::create(&path).unwrap().write_all(b"{\"seq\":1}\n{\"seq\":2}\n\0\0\0\nnonsense\n").unwrap();
        let opened = Journal::open(folder.path(), limits(None, None)).unwrap();
        assert_eq!(opened.last_seq, 4);
        assert!(opened.repairs.is_empty());
    }

    #[test]
    fn segments_rotate_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap().journal;
        for seq in 1..=50 {
            journal.append(line(seq).as_bytes(), seq).unwrap();
        }
        let finished = segments::finished(folder.path()).unwrap();
        assert_eq!(finished.len(), 2);
        assert_eq!(*journal.view().finished, finished);
        assert_eq!(journal.oldest_seq(), Some(finished[0].first_seq));
        let reopened = Journal::open(folder.path(), limits(Some(100), Some(2))).unwrap();
        assert_eq!(reopened.last_seq, 50);
        assert_eq!(reopened.journal.oldest_seq(), journal.oldest_seq());
    }
}
