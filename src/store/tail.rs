//! What stands at the end of a log that is opened: a torn last line, damaged ones, and the last event.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::files::{TEMPORARY, force};
use super::segments::{self, Segment};
use super::{Repair, StoreError};
use crate::fault::{self, Point};

/// Cuts a last line without newline off and keeps its bytes beside the log. It was never announced: log first. `next` is the
/// seq that it had, or would have had.
pub(super) fn cut_torn_tail(
    file: &File,
    path: &Path,
    torn: Range<u64>,
    next: u64,
) -> Result<Repair, StoreError> {
    let whole = torn.start;
    let torn = segments::read_range(file, whole, torn.end).map_err(StoreError::at("cannot read", path))?;
    let folder = path.parent().unwrap_or(path);
    // Under its name only once it is whole: a start that finds the disk full leaves nothing, however often it is tried.
    let keep = || -> io::Result<PathBuf> {
        let mut broken = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder)?;
        fault::writing(Point::TailWrite, &torn, |torn| broken.write_all(torn))?;
        force(broken.as_file(), File::sync_data)?;
        let kept = broken_name(folder, next);
        broken.persist_noclobber(&kept).map_err(|error| error.error)?;
        Ok(kept)
    };
    let kept = keep().map_err(StoreError::at("cannot set aside the torn end of", path))?;
    file.set_len(whole)
        // It is still where it was.
        .inspect_err(|_| drop(fs::remove_file(&kept)))
        .map_err(StoreError::at("cannot cut", path))?;
    Ok(Repair {
        file: path.to_owned(),
        problem: format!("the last line was torn; its {} bytes were cut off", torn.len()),
        kept_as: Some(kept),
    })
}

/// `events.<seq>.broken`, numbered where an earlier crash left one at the same seq.
fn broken_name(folder: &Path, seq: u64) -> PathBuf {
    let mut path = folder.join(format!("events.{seq}.broken"));
    let mut number = 1;
    while path.exists() {
        number += 1;
        path = folder.join(format!("events.{seq}.{number}.broken"));
    }
    path
}

/// The length up to and with the last newline.
pub(super) fn whole_lines(file: &File, len: u64) -> io::Result<u64> {
    if len == 0 {
        return Ok(0);
    }
    let last = segments::read_range(file, len - 1, len)?;
    if last == b"\n" { Ok(len) } else { segments::line_start(file, len) }
}

/// The seq of the first event.
pub(super) fn first_seq(file: &File, len: u64) -> io::Result<Option<u64>> {
    let mut start = 0;
    while let Some(newline) = segments::next_newline(file, start, len)? {
        if let Some(seq) = segments::whole_line_seq(&segments::read_range(file, start, newline)?) {
            return Ok(Some(seq));
        }
        start = newline + 1;
    }
    Ok(None)
}

/// The last seq that the log may have given; 0 where it has none. Damaged lines after the last event count as one each,
/// and for no more, whatever number is still to be read in them: no seq may be used twice, and a damaged number may be any.
/// `current` is the segment that is written, of so many bytes.
pub(super) fn last_seq(
    path: &Path,
    current: &File,
    len: u64,
    finished: &[Segment],
) -> Result<u64, StoreError> {
    let (mut event, mut damaged) = last_event(current, len).map_err(StoreError::at("cannot read", path))?;
    for segment in finished.iter().rev() {
        if event.is_some() {
            break;
        }
        let read = || StoreError::at("cannot read", &segment.path);
        let file = File::open(&segment.path).map_err(read())?;
        let len = file.metadata().map_err(read())?.len();
        let (found, more) = last_event(&file, len).map_err(read())?;
        damaged += more;
        // Its name tells what it began with, though none of it can be read.
        event = found.or((len > 0).then(|| segment.first_seq.saturating_sub(1)));
    }
    Ok(event.unwrap_or(0) + damaged)
}

/// The seq of the last event, and how many damaged lines come after it.
fn last_event(file: &File, len: u64) -> io::Result<(Option<u64>, u64)> {
    let mut end = len;
    let mut damaged = 0;
    while end > 0 {
        let start = segments::line_start(file, end - 1)?;
        let line = segments::read_range(file, start, end - 1)?;
        if let Some(seq) = segments::whole_line_seq(&line) {
            return Ok((Some(seq), damaged));
        }
        damaged += 1;
        end = start;
    }
    Ok((None, damaged))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::journal::{Journal, Limits, Opened};
    use super::super::reader::EventReader;
    use super::*;
    use crate::config::Sync;

    const LIMITS: Limits = Limits { max_bytes: None, keep: None, sync: Sync::Never };

    fn line(seq: u64) -> String {
        format!("{{\"seq\":{seq},\"message\":\"event {seq}\"}}\n")
    }

    /// A folder with these files.
    fn log(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            File::create(folder.path().join(name)).unwrap().write_all(text.as_bytes()).unwrap();
        }
        folder
    }

    #[test]
    fn a_last_line_cut_anywhere_is_set_aside() {
        let text: String = (1..4).map(line).collect();
        let two = (1..3).map(line).collect::<String>().len();
        for cut in two + 1..text.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(segments::CURRENT);
            File::create(&path).unwrap().write_all(&text.as_bytes()[..cut]).unwrap();
            let opened = Journal::open(folder.path(), LIMITS).unwrap();
            assert_eq!(opened.last_seq, 2, "cut at {cut}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text[..two]);
            let kept = opened.repairs[0].kept_as.clone().unwrap();
            assert_eq!(kept.file_name().unwrap(), "events.3.broken");
            assert_eq!(fs::read_to_string(kept).unwrap(), text[two..cut]);
        }
    }

    #[test]
    fn what_was_torn_at_one_seq_is_kept_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(segments::CURRENT);
        for (torn, name) in
            [("one", "events.1.broken"), ("two", "events.1.2.broken"), ("three", "events.1.3.broken")]
        {
            File::create(&path).unwrap().write_all(torn.as_bytes()).unwrap();
            let opened = Journal::open(folder.path(), LIMITS).unwrap();
            assert_eq!(opened.repairs[0].kept_as.as_deref(), Some(folder.path().join(name).as_path()));
            assert_eq!(fs::read_to_string(folder.path().join(name)).unwrap(), torn);
        }
        assert_eq!(fs::read_to_string(folder.path().join("events.1.broken")).unwrap(), "one");
    }

    #[test]
    fn damaged_whole_lines_stay_and_use_up_a_seq() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(segments::CURRENT);
        File::create(&path).unwrap().write_all(b"{\"seq\":1}\n{\"seq\":2}\n\0\0\0\nnonsense\n").unwrap();
        let opened = Journal::open(folder.path(), LIMITS).unwrap();
        assert_eq!(opened.last_seq, 4);
        assert!(opened.repairs.is_empty());
    }

    #[test]
    fn damaged_lines_use_up_a_seq_wherever_the_last_event_stands() {
        let good: String = (1..4).map(line).collect();
        for (files, expected) in [
            (vec![("events.jsonl", "\0\0\nnonsense\n")], 2),
            (vec![("events.1.jsonl", good.as_str()), ("events.jsonl", "\0\0\nnonsense\n")], 5),
            (
                vec![("events.1.jsonl", good.as_str()), ("events.4.jsonl", "\0\n"), ("events.jsonl", "\0\n")],
                5,
            ),
            (vec![("events.40.jsonl", "\0\n\n"), ("events.jsonl", "nonsense\n")], 42),
            (vec![("events.1.jsonl", good.as_str()), ("events.4.jsonl", ""), ("events.jsonl", "")], 3),
        ] {
            let folder = log(&files);
            assert_eq!(Journal::open(folder.path(), LIMITS).unwrap().last_seq, expected, "{files:?}");
        }
    }

    #[test]
    fn the_number_in_a_damaged_line_is_not_believed() {
        let good: String = (1..4).map(line).collect();
        for number in [0, 1, 3, 5, segments::MAX_SEQ] {
            let damaged = format!("{good}{{\"seq\":{number},\"mess\0\0\0\0}}\n");
            let folder = log(&[("events.jsonl", &damaged)]);
            let Opened { mut journal, last_seq, .. } = Journal::open(folder.path(), LIMITS).unwrap();
            assert_eq!(last_seq, 4, "{number}");
            // What comes after it is found, from wherever it is asked for.
            for seq in 5..8 {
                journal.append(line(seq).as_bytes(), seq).unwrap();
            }
            assert_eq!(Journal::open(folder.path(), LIMITS).unwrap().last_seq, 7, "{number}");
            for from in 1..8 {
                let mut reader = EventReader::new(journal.view(), from, 7);
                let seqs: Vec<u64> = std::iter::from_fn(|| reader.advance().unwrap()).collect();
                let expected: Vec<u64> = (from..8).filter(|&seq| seq != 4).collect();
                assert_eq!(seqs, expected, "{number}, from {from}");
            }
        }
    }

    #[test]
    fn a_log_that_begins_with_a_damaged_line_is_read_by_its_first_event() {
        let damaged = format!("{{\"seq\":{},\"mess\0}}\n{}{}", segments::MAX_SEQ, line(2), line(3));
        let folder = log(&[("events.jsonl", &damaged)]);
        let opened = Journal::open(folder.path(), LIMITS).unwrap();
        assert_eq!((opened.last_seq, opened.journal.oldest_seq()), (3, Some(2)));
    }
}
