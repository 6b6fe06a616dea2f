//! Reading events back from the log, across segments, while it is being written and rotated.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::LogView;
use super::segments::{self, Segment};

/// Bytes read at first: a page that follows the last one is often short.
const FIRST_CHUNK: u64 = 64 * 1024;
/// And at a time from then on.
const CHUNK: u64 = 256 * 1024;

/// The lines of events from one seq to another, oldest first; damaged lines are passed over and counted.
#[derive(Debug)]
pub struct EventReader {
    finished: Arc<Vec<Segment>>,
    current: Segment,
    current_file: Arc<File>,
    current_len: u64,
    /// Index of the next segment; `finished.len()` is the current one.
    next_segment: usize,
    open: Option<OpenSegment>,
    /// Bytes that are read next.
    chunk: u64,
    from: u64,
    to: u64,
    buffer: Vec<u8>,
    /// Start of what is not handed out yet in `buffer`.
    at: usize,
    /// Where the line that [`EventReader::advance`] came to stands in `buffer`.
    line: Range<usize>,
    /// Lines passed over because they hold no event.
    damaged: u64,
    /// The file of the last of them.
    damaged_in: Option<PathBuf>,
    /// The file that is read.
    path: PathBuf,
}

#[derive(Debug)]
struct OpenSegment {
    file: Arc<File>,
    /// Where reading goes on.
    offset: u64,
    len: u64,
}

/// One event as it stands in the log.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its seq.
    pub seq: u64,
    /// Its JSON, without the line end.
    pub json: &'a [u8],
}

impl EventReader {
    /// A reader of the events with `from <= seq <= to`.
    pub fn new(view: LogView, from: u64, to: u64) -> Self {
        // The last segment that begins at or before `from` is the first that can hold it.
        let next_segment = if view.current_len > 0 && (1..=from).contains(&view.current.first_seq) {
            view.finished.len()
        } else {
            view.finished.partition_point(|segment| segment.first_seq <= from).saturating_sub(1)
        };
        Self {
            finished: view.finished,
            current: view.current,
            current_file: view.current_file,
            current_len: view.current_len,
            next_segment,
            open: None,
            chunk: FIRST_CHUNK,
            from,
            to,
            buffer: Vec::new(),
            at: 0,
            line: 0..0,
            damaged: 0,
            damaged_in: None,
            path: PathBuf::new(),
        }
    }

    /// The next event; `Ok(None)` after the last.
    ///
    /// # Errors
    /// As [`EventReader::advance`].
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        Ok(self.advance()?.map(|seq| Line { seq, json: self.line() }))
    }

    /// Goes to the next event and returns its seq; `Ok(None)` after the last.
    ///
    /// # Errors
    /// What reading says; `NotFound` when the segment was removed by retention before it was opened.
    pub fn advance(&mut self) -> io::Result<Option<u64>> {
        loop {
            let Some(found) = memchr::memchr(b'\n', &self.buffer[self.at..]) else {
                if !self.fill()? {
                    return Ok(None);
                }
                continue;
            };
            self.line = self.at..self.at + found;
            self.at += found + 1;
            match segments::line_seq(self.line()) {
                Some(seq) if seq < self.from => {}
                // Any but the next number must be borne out by the rest of its line: a damaged one would hide what follows.
                Some(seq) if seq == self.from || segments::whole_line_seq(self.line()).is_some() => {
                    if seq > self.to {
                        return Ok(None);
                    }
                    self.from = seq + 1;
                    return Ok(Some(seq));
                }
                _ => self.note_damaged(),
            }
        }
    }

    /// The line that [`EventReader::advance`] came to, without its end.
    pub fn line(&self) -> &[u8] {
        &self.buffer[self.line.clone()]
    }

    /// The reader's user found that the present line is no event, though it looked like one.
    pub fn note_damaged(&mut self) {
        self.damaged += 1;
        self.damaged_in = Some(self.path.clone());
    }

    /// How many lines held no event so far, and the file of the last of them.
    pub fn damaged(&self) -> Option<(u64, &Path)> {
        self.damaged_in.as_deref().map(|path| (self.damaged, path))
    }

    /// Reads more; `false` at the end of the log.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            if self.open.is_none() {
                if self.from > self.to {
                    return Ok(false);
                }
                self.open = self.open_next()?;
                self.buffer.clear();
                self.at = 0;
            }
            let Some(open) = &mut self.open else { return Ok(false) };
            let end = (open.offset + self.chunk).min(open.len);
            self.chunk = CHUNK;
            self.buffer.drain(..self.at);
            self.at = 0;
            let before = self.buffer.len();
            segments::append_range(&open.file, open.offset, end, &mut self.buffer)?;
            if self.buffer.len() == before {
                self.open = None;
                continue;
            }
            open.offset += (self.buffer.len() - before) as u64;
            return Ok(true);
        }
    }

    fn open_next(&mut self) -> io::Result<Option<OpenSegment>> {
        let place = self.next_segment;
        self.next_segment += 1;
        let (file, len) = if let Some(segment) = self.finished.get(place) {
            let file = File::open(&segment.path)?;
            let len = file.metadata()?.len();
            self.path.clone_from(&segment.path);
            (Arc::new(file), len)
        } else if place == self.finished.len() && self.current_len > 0 {
            self.path.clone_from(&self.current.path);
            (Arc::clone(&self.current_file), self.current_len)
        } else {
            return Ok(None);
        };
        let offset = segments::locate(&file, len, self.from)?;
        Ok(Some(OpenSegment { file, offset, len }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::journal::{Journal, Limits};
    use super::*;
    use crate::config::Sync;

    #[test]
    fn reads_any_range_across_segments() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: Some(300), keep: None, sync: Sync::Never };
        let mut journal = Journal::open(folder.path(), limits).unwrap().journal;
        for seq in 1..=100 {
            let line = format!("{{\"seq\":{seq},\"message\":\"{}\"}}\n", "x".repeat(seq as usize % 40));
            journal.append(line.as_bytes(), seq).unwrap();
        }
        assert!(journal.view().finished.len() > 5);
        for from in 1..=101 {
            for to in [from, from + 7, 100, 1000] {
                let mut reader = EventReader::new(journal.view(), from, to);
                let mut expected = from;
                while let Some(line) = reader.read().unwrap() {
                    assert_eq!(line.seq, expected);
                    expected += 1;
                }
                assert_eq!(expected, to.min(100).max(from - 1) + 1, "from {from} to {to}");
            }
        }
    }

    #[test]
    fn a_view_stays_readable_when_the_log_rotates() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { max_bytes: Some(100), keep: None, sync: Sync::Never };
        let mut journal = Journal::open(folder.path(), limits).unwrap().journal;
        journal.append(b"{\"seq\":1}\n{\"seq\":2}\n", 1).unwrap();
        let view = journal.view();
        for seq in 3..60 {
            journal.append(format!("{{\"seq\":{seq}}}\n").as_bytes(), seq).unwrap();
        }
        let mut reader = EventReader::new(view, 1, 2);
        assert_eq!(reader.read().unwrap().unwrap().seq, 1);
        assert_eq!(reader.read().unwrap().unwrap().seq, 2);
        assert!(reader.read().unwrap().is_none());
    }
}
