//! Reading events back from the log, across segments, while it is being written and rotated.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::journal::LogView;
use super::segments::{self, Segment};

/// Bytes read at a time.
const CHUNK: u64 = 256 * 1024;

/// The lines of events from one seq to another, oldest first; damaged lines are passed over.
#[derive(Debug)]
pub struct EventReader {
    finished: Arc<Vec<Segment>>,
    current: Segment,
    current_len: u64,
    /// Index of the next segment; `finished.len()` is the current one.
    next_segment: usize,
    open: Option<OpenSegment>,
    from: u64,
    to: u64,
    buffer: Vec<u8>,
    /// Start of what is not handed out yet in `buffer`.
    at: usize,
}

#[derive(Debug)]
struct OpenSegment {
    file: File,
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
        let next_segment =
            view.finished.partition_point(|segment| segment.first_seq <= from).saturating_sub(1);
        Self {
            finished: view.finished,
            current: view.current,
            current_len: view.current_len,
            next_segment,
            open: None,
            from,
            to,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// The next event; `Ok(None)` after the last.
    ///
    /// # Errors
    /// What reading says; `NotFound` when the segment was removed by retention before it was opened.
    pub fn read(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let Some(found) = memchr::memchr(b'\n', &self.buffer[self.at..]) else {
                if !self.fill()? {
                    return Ok(None);
                }
                continue;
            };
            let range = self.at..self.at + found;
            self.at += found + 1;
            // Checked by range first: the borrow checker cannot follow a returned borrow in a loop.
            match segments::line_seq(&self.buffer[range.clone()]) {
                Some(seq) if seq > self.to => return Ok(None),
                Some(seq) if seq >= self.from => {
                    self.from = seq + 1;
                    return Ok(Some(Line { seq, json: &self.buffer[range] }));
                }
                _ => {}
            }
        }
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
            let end = (open.offset + CHUNK).min(open.len);
            let bytes = segments::read_range(&open.file, open.offset, end)?;
            if bytes.is_empty() {
                self.open = None;
                continue;
            }
            open.offset += bytes.len() as u64;
            self.buffer.drain(..self.at);
            self.at = 0;
            self.buffer.extend_from_slice(&bytes);
            return Ok(true);
        }
    }

    fn open_next(&mut self) -> io::Result<Option<OpenSegment>> {
        let place = self.next_segment;
        self.next_segment += 1;
        let (file, len) = if let Some(segment) = self.finished.get(place) {
            let file = File::open(&segment.path)?;
            let len = file.metadata()?.len();
            (file, len)
        } else if place == self.finished.len() && self.current_len > 0 {
            (self.open_current()?, self.current_len)
        } else {
            return Ok(None);
        };
        let offset = segments::locate(&file, len, self.from)?;
        Ok(Some(OpenSegment { file, offset, len }))
    }

    /// Opens what was the current segment when the view was taken: it may have been finished under us.
    fn open_current(&self) -> io::Result<File> {
        let finished = self.current.path.with_file_name(segments::finished_name(self.current.first_seq));
        match File::open(&finished) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let file = File::open(&self.current.path)?;
        // Renamed between the two opens: then the name now stands for a newer, possibly shorter file.
        File::open(&finished).or(Ok(file))
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
