//! The files of the event log: `events.jsonl` is written, `events.<first seq>.jsonl` are the older ones.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Seq of its first event.
    pub first_seq: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// The name of the segment that is written.
pub const CURRENT: &str = crate::config::EVENTS;

/// The name of a finished segment.
pub fn finished_name(first_seq: u64) -> String {
    format!("events.{first_seq}.jsonl")
}

/// The finished segments in a folder, oldest first.
///
/// # Errors
/// What reading the folder says.
pub fn finished(folder: &Path) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let first_seq = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("events."))
            .and_then(|rest| rest.strip_suffix(".jsonl"))
            .and_then(|seq| seq.parse().ok());
        if let Some(first_seq) = first_seq {
            segments.push(Segment { first_seq, path });
        }
    }
    segments.sort_by_key(|segment| segment.first_seq);
    Ok(segments)
}

/// No event has a larger seq: up to here every reader of JSON takes a number as it is (RFC 8259 section 6). One that a
/// damaged file claims to have is none.
pub const MAX_SEQ: u64 = (1 << 53) - 1;

/// The seq of an event's line; `None` for a damaged one. One of our own that was damaged between its first bytes and its
/// last is not told from a whole one, and its number may be any: see [`whole_line_seq`].
pub fn line_seq(line: &[u8]) -> Option<u64> {
    // Our own lines begin with the seq; anything else is looked at in full.
    if let Some(rest) = line.strip_prefix(b"{\"seq\":") {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // A line of our own that was damaged further on is still no event.
        if line.last() == Some(&b'}') && digits > 0 {
            let seq = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok();
            return seq.filter(|&seq| seq <= MAX_SEQ);
        }
    }
    numbered(line)
}

/// As [`line_seq`], for a number that nothing else bears out: the whole line is looked at.
pub fn whole_line_seq(line: &[u8]) -> Option<u64> {
    numbered(std::str::from_utf8(line).ok()?.as_bytes())
}

fn numbered(line: &[u8]) -> Option<u64> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    serde_json::from_slice::<Numbered>(line).ok().map(|event| event.seq).filter(|&seq| seq <= MAX_SEQ)
}

/// Bytes of the first look for a line's end; doubled until there is one.
const LOOK: u64 = 4 * 1024;
/// And of the longest.
const LONGEST_LOOK: u64 = 8 * 1024 * 1024;
/// What is searched line by line rather than by halves.
const NEAR: u64 = 32 * 1024;

/// Where the line that contains the byte before `at` begins; 0 at the latest. `at` is a line's end (exclusive of the
/// newline) or any place within it.
///
/// # Errors
/// What reading says.
pub fn line_start(file: &File, at: u64) -> io::Result<u64> {
    let mut end = at;
    let mut chunk = LOOK;
    while end > 0 {
        let start = end.saturating_sub(chunk);
        let bytes = read_range(file, start, end)?;
        if let Some(newline) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
        chunk = (chunk * 2).min(LONGEST_LOOK);
    }
    Ok(0)
}

/// Where the first newline at or after `from` is, below `limit`.
///
/// # Errors
/// What reading says.
pub fn next_newline(file: &File, from: u64, limit: u64) -> io::Result<Option<u64>> {
    let mut at = from;
    let mut chunk = LOOK;
    while at < limit {
        let end = (at + chunk).min(limit);
        let bytes = read_range(file, at, end)?;
        if let Some(newline) = memchr::memchr(b'\n', &bytes) {
            return Ok(Some(at + newline as u64));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        at += bytes.len() as u64;
        chunk = (chunk * 2).min(LONGEST_LOOK);
    }
    Ok(None)
}

/// The bytes from `start` to `end`, fewer where the file ends.
///
/// # Errors
/// What reading says.
pub fn read_range(file: &File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    append_range(file, start, end, &mut bytes)?;
    Ok(bytes)
}

/// As [`read_range`], to the end of `bytes`.
///
/// # Errors
/// What reading says; what was read before stays.
pub fn append_range(file: &File, start: u64, end: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
    let full = bytes.len().saturating_add(wanted);
    let mut offset = start;
    bytes.try_reserve_exact(wanted)?;
    while bytes.len() < full {
        match rustix::io::pread(file, spare_capacity(bytes), offset) {
            Ok(0) => break,
            Ok(read) => offset += read as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may have been more room than was asked for.
    bytes.truncate(full);
    Ok(())
}

/// Where the first event with a seq of `seq` or more begins, within the first `len` bytes of a segment; `len` if there
/// is none. A binary search over the bytes: some twenty small reads whatever the segment's size, and no index to keep,
/// to rebuild or to get wrong.
///
/// # Errors
/// What reading says.
pub fn locate(file: &File, len: u64, seq: u64) -> io::Result<u64> {
    // Invariant: every line that begins before `low` is below `seq`; some line beginning at `high` is not, or it is the end.
    let (mut low, mut high) = (0, len);
    while high - low > NEAR {
        let middle = low + (high - low) / 2;
        let start = line_start(file, middle)?.max(low);
        match first_event_from(file, start, high)? {
            Some((event_seq, end)) if event_seq < seq => low = end,
            _ => high = start,
        }
    }
    let rest = read_range(file, low, high)?;
    let mut at = low;
    for line in rest.split_inclusive(|&byte| byte == b'\n') {
        at += line.len() as u64;
        // What has no end is the torn tail.
        match line.strip_suffix(b"\n").map(line_seq) {
            Some(Some(event_seq)) if event_seq < seq => low = at,
            Some(None) => {}
            _ => break,
        }
    }
    Ok(low)
}

/// The seq of the first undamaged line that begins in `start..limit`, and where the line after it begins.
fn first_event_from(file: &File, start: u64, limit: u64) -> io::Result<Option<(u64, u64)>> {
    let mut start = start;
    while start < limit {
        // A line that begins below the limit may end beyond it only at the file's end, which has no newline.
        let Some(newline) = next_newline(file, start, u64::MAX)? else { return Ok(None) };
        if let Some(seq) = whole_line_seq(&read_range(file, start, newline)?) {
            return Ok(Some((seq, newline + 1)));
        }
        start = newline + 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn segment(lines: &[String]) -> (File, u64) {
        let mut file = tempfile::tempfile().unwrap();
        for line in lines {
            writeln!(file, "{line}").unwrap();
        }
        let len = file.metadata().unwrap().len();
        (file, len)
    }

    #[test]
    fn locate_finds_every_event_whatever_the_lines_lengths() {
        let lines: Vec<String> = (10..200)
            .map(|seq: u64| {
                let filler = "x".repeat(usize::try_from(seq * seq * 7919 % 3000).unwrap());
                format!("{{\"seq\":{seq},\"message\":\"{filler}\"}}")
            })
            .collect();
        let (file, len) = segment(&lines);
        let mut start = 0;
        assert_eq!(locate(&file, len, 1).unwrap(), 0);
        for (line, seq) in lines.iter().zip(10..) {
            assert_eq!(locate(&file, len, seq).unwrap(), start, "seq {seq}");
            start += line.len() as u64 + 1;
        }
        assert_eq!(locate(&file, len, 200).unwrap(), len);
        assert_eq!(locate(&file, 0, 5).unwrap(), 0);
    }

    #[test]
    fn locate_passes_over_damaged_lines() {
        let lines: Vec<String> =
            ["{\"seq\":1,\"a\":0}", "garbage", "", "{\"seq\":3,\"a\":0}", "more", "{\"seq\":5}"]
                .map(String::from)
                .into();
        let (file, len) = segment(&lines);
        for (seq, expected) in [(1, "{\"seq\":1"), (3, "{\"seq\":3"), (5, "{\"seq\":5")] {
            let at = locate(&file, len, seq).unwrap();
            let bytes = read_range(&file, at, len).unwrap();
            let found = String::from_utf8(bytes).unwrap();
            let first = found.lines().find(|line| line_seq(line.as_bytes()).is_some()).unwrap();
            assert!(first.starts_with(expected), "{seq}: {first}");
        }
    }

    #[test]
    fn seqs_of_lines() {
        assert_eq!(line_seq(b"{\"seq\":17,\"x\":1}"), Some(17));
        assert_eq!(line_seq(b"{\"x\":1,\"seq\":18}"), Some(18));
        assert_eq!(line_seq(b"{\"seq\":17,\"x\":"), None);
        assert_eq!(line_seq(b""), None);
    }
}
