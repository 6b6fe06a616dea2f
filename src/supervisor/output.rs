//! Output that is no protocol: standard error always, standard output in exec mode. Each line becomes an event.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use log::warn;

use crate::hub::Hub;
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;
use crate::os;
use crate::store::raw_log::RawLog;
use crate::threads::lock;

/// A longer line becomes several events.
const LONGEST: usize = 64 * 1024;

/// Which pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn kind(self) -> EventType {
        match self {
            Self::Stdout => EventType::ChildStdout,
            Self::Stderr => EventType::ChildStderr,
        }
    }
}

/// The line by which a program's end can best be explained: the first that speaks of an error, else the last.
#[derive(Debug, Default)]
pub(super) struct LastWords(Mutex<String>);

impl LastWords {
    /// The line, if there was one.
    pub(super) fn get(&self) -> Option<String> {
        Some(lock(&self.0).clone()).filter(|line| !line.is_empty())
    }

    /// A line it wrote.
    pub(super) fn note(&self, line: &str) {
        let is_error = |line: &str| line.to_ascii_lowercase().contains("error");
        let mut kept = lock(&self.0);
        let shown = model::preview(&without_colours(line));
        if !shown.is_empty() && !is_error(&kept) {
            *kept = shown;
        }
    }
}

/// A line without the escape sequences that colour it (ECMA-48, CSI … final byte).
fn without_colours(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|char| matches!(char, '@'..='~')).map_or(part.len(), |at| at + 1);
        plain.push_str(&part[end..]);
    }
    plain
}

/// Reads to the end, or until the other end of `cancel` is dropped.
pub(super) fn run(
    mut input: impl Read + AsFd,
    cancel: &OwnedFd,
    mut tee: RawLog,
    stream: Stream,
    last_words: &LastWords,
    hub: &Hub,
) {
    let mut chunk = vec![0; LONGEST];
    let mut line: Vec<u8> = Vec::new();
    while os::ready(&input, cancel).unwrap_or(false) {
        let read = match input.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                warn!("reading the child's {} failed: {error}", stream.name());
                break;
            }
        };
        tee.put(&chunk[..read]);
        let mut drafts = Drafts::new();
        for part in chunk[..read].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") || line.len() >= LONGEST {
                draft(&mut drafts, stream, &line, last_words);
                line.clear();
            }
        }
        if hub.send(drafts).is_err() {
            return;
        }
    }
    if !line.is_empty() {
        let mut drafts = Drafts::new();
        draft(&mut drafts, stream, &line, last_words);
        // A hub that has stopped takes no more.
        let _ = hub.send(drafts);
    }
}

fn draft(drafts: &mut Drafts, stream: Stream, line: &[u8], last_words: &LastWords) {
    let name = stream.name();
    let text = String::from_utf8_lossy(line);
    last_words.note(&text);
    let shown = model::preview(&text);
    drafts.note(
        stream.kind(),
        format_args!("{name}: {shown}"),
        &serde_json::json!({ "bytes": line.len(), "stream": name }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_explains_an_end() {
        let last = |lines: &[&str]| {
            let words = LastWords::default();
            lines.iter().for_each(|line| words.note(line));
            words.get()
        };
        assert_eq!(last(&["", " \n"]), None);
        assert_eq!(last(&["a", "b\n", ""]).unwrap(), "b");
        let clap =
            ["\u{1b}[1m\u{1b}[31merror:\u{1b}[0m no such thing\n", "", "Usage: codex", "see an error page"];
        assert_eq!(last(&clap).unwrap(), "error: no such thing");
        assert_eq!(without_colours("\u{1b}["), "");
    }
}
