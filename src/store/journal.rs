//! The event log: appended whole lines at a time, rotated by size. **Invariant**: what [`Journal::append`] has
//! returned `Ok` for is in the file, whole; what it has failed for has left no trace, or its trace is cut off before
//! anything else is written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{self, force, force_at, sync_folder};
use super::lock::{self, Lock};
use super::segments::{self, Segment};
use super::{Repair, StoreError, private, tail};
use crate::config::{self, Sync};
use crate::fault::{self, Point};

/// Bytes copied at a time.
const PIECE: u64 = 1024 * 1024;

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
    /// What others did to the files since somebody last took it.
    repairs: Vec<Repair>,
    /// The lock of the log, where it had to be taken anew.
    lock: Option<Lock>,
}

/// A segment that was finished under [`Sync::Interval`]: the disk may not have all of it yet, nor its name.
#[derive(Debug)]
pub struct Finished {
    file: Arc<File>,
    /// Open already: when there is no descriptor for it that is a reason to wait, and none to end.
    folder: File,
}

impl Finished {
    /// Forces it to disk, and that it is followed by another.
    ///
    /// # Errors
    /// What fdatasync(2) and fsync(2) say; see [`AppendError::Sync`].
    pub fn force(&self) -> io::Result<()> {
        force_at(Point::LogSync, &self.file, File::sync_data)?;
        force(&self.folder, File::sync_all)
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

/// What a reader needs to find events: it opens the finished segments itself.
#[derive(Debug, Clone)]
pub struct LogView {
    /// Finished segments, oldest first.
    pub finished: Arc<Vec<Segment>>,
    /// The current segment; its `first_seq` is meaningless while it is empty.
    pub current: Segment,
    /// Its file, whatever becomes of its name.
    pub current_file: Arc<File>,
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
            repairs: Vec::new(),
            lock: None,
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
        force_at(Point::LogSync, &self.file, File::sync_data).map_err(AppendError::Sync)
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
            current_file: Arc::clone(&self.file),
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
        let folder = (self.limits.sync == Sync::Interval).then(|| self.open_folder()).transpose()?;
        let old = self.folder.join(segments::finished_name(first_seq));
        fault::point(Point::LogRename)?;
        if is_at(&self.path, &self.file)? {
            self.set_aside(&old)?;
            fs::rename(&self.path, &old)?;
        } else if !is_at(&old, &self.file)? {
            return self.begin_anew();
        }
        let fresh = self.open_next()?;
        let file = std::mem::replace(&mut self.file, fresh);
        self.unforced = folder.map(|folder| Finished { file, folder });
        self.len = 0;
        self.first_seq = None;
        Arc::make_mut(&mut self.finished).push(Segment { first_seq, path: old });
        self.remove_surplus();
        Ok(())
    }

    /// No segment is ever replaced: what stands where one is to be was put there by somebody else.
    fn set_aside(&mut self, path: &Path) -> io::Result<()> {
        if is_gone(path) {
            return Ok(());
        }
        let kept = files::set_aside(path)?;
        Arc::make_mut(&mut self.finished).retain(|segment| segment.path != path);
        self.note(path, "it was in the way of a segment of the event log".to_owned(), Some(kept));
        Ok(())
    }

    fn note(&mut self, file: &Path, problem: String, kept_as: Option<PathBuf>) {
        log::error!("{}: {problem}", file.display());
        self.repairs.push(Repair { file: file.to_owned(), problem, kept_as });
    }

    /// Sees whether the file that is written is still the one of its name. Where somebody has removed, renamed or replaced
    /// it, a new one is begun: what is appended to a file without a name is gone with the process. It costs two calls of
    /// stat(2), and the same may be tried again after an error.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn look_after(&mut self) -> Result<(), AppendError> {
        // First of all: what is not ours any more is not written to.
        if let Some(lock) =
            lock::keep(&self.folder.join(config::LOG_LOCK), "--logs-dir").map_err(io::Error::other)?
        {
            self.lock = Some(lock);
        }
        if self.finished.first().is_some_and(|oldest| is_gone(&oldest.path)) {
            self.forget_removed();
        }
        if is_at(&self.path, &self.file)? {
            return Ok(());
        }
        let renamed_by_us = match self.first_seq {
            Some(first_seq) => is_at(&self.folder.join(segments::finished_name(first_seq)), &self.file)?,
            None => false,
        };
        if renamed_by_us { Ok(()) } else { self.begin_anew() }
    }

    /// Finished segments that somebody removed: readers are to find a gap in their place, not an error. It costs a call of
    /// stat(2) for each segment; [`Journal::look_after`] alone sees only whether the oldest is there.
    pub fn forget_removed(&mut self) {
        let (gone, left): (Vec<_>, Vec<_>) =
            self.finished.iter().cloned().partition(|segment| is_gone(&segment.path));
        let (Some(first), count) = (gone.first(), gone.len()) else { return };
        let problem =
            format!("{count} finished files of the event log, this one first, were removed by somebody");
        let path = first.path.clone();
        self.finished = Arc::new(left);
        self.note(&path, problem, None);
    }

    /// What others did to the files, and what was done about it, since this was last asked for.
    pub fn take_repairs(&mut self) -> Vec<Repair> {
        std::mem::take(&mut self.repairs)
    }

    /// The file that is written has lost its name. What it held may have been removed on purpose, so only that is put back
    /// which no state file has: it was acknowledged, and nothing else would tell of it.
    fn begin_anew(&mut self) -> Result<(), AppendError> {
        let folder = (self.limits.sync != Sync::Never).then(|| self.open_folder()).transpose()?;
        self.forget_removed();
        let from = segments::locate(&self.file, self.len, self.disposable + 1)?;
        let mut fresh = tempfile::Builder::new().prefix(files::TEMPORARY).tempfile_in(&self.folder)?;
        let mut at = from;
        while at < self.len {
            let bytes = segments::read_range(&self.file, at, self.len.min(at + PIECE))?;
            fresh.write_all(&bytes)?;
            at += PIECE;
        }
        let in_the_way =
            fs::symlink_metadata(&self.path).is_ok_and(|found| !found.is_file() || found.len() > 0);
        let kept_as = in_the_way.then(|| files::set_aside(&self.path)).transpose()?;
        fresh.persist(&self.path).map_err(|error| error.error)?;
        let file = self.open_next()?;
        let len = file.metadata()?.len();
        let first_seq = tail::first_seq(&file, len)?;
        if let Some(folder) = folder {
            force(&file, File::sync_data)
                .and_then(|()| force(&folder, File::sync_all))
                .map_err(AppendError::Sync)?;
        }
        let lost = match self.first_seq.filter(|&first| first <= self.disposable && from > 0) {
            Some(first) => {
                format!("the events from seq {first} to {} are not in the log any more", self.disposable)
            }
            None => "it holds again what it held".to_owned(),
        };
        (self.file, self.len, self.first_seq, self.unclean) = (file, len, first_seq, false);
        let path = self.path.clone();
        let problem = format!("somebody removed, renamed or replaced it while it was written; {lost}");
        self.note(&path, problem, kept_as);
        Ok(())
    }

    /// The next file to write, under the name of the current segment.
    fn open_next(&self) -> Result<Arc<File>, AppendError> {
        fault::point(Point::LogOpen)?;
        let folder = (self.limits.sync == Sync::Always).then(|| self.open_folder()).transpose()?;
        let fresh = open_append(&self.path).map_err(|error| error.source)?;
        if let Some(folder) = folder {
            force(&folder, File::sync_all).map_err(AppendError::Sync)?;
        }
        Ok(Arc::new(fresh))
    }

    /// The folder, to be forced to disk: nothing has gone wrong with what is in it when it cannot be opened.
    fn open_folder(&self) -> io::Result<File> {
        fault::point(Point::LogFolder)?;
        File::open(&self.folder)
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

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
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
    private::open(path, OpenOptions::new().read(true).append(true).create(true))
        .map_err(StoreError::at("cannot open", path))
}

#[cfg(test)]
mod tests;
