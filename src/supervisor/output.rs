//! Output that is no protocol: standard error always, standard output in exec mode. Each line becomes an event.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use log::warn;

use crate::hub::Hub;
use crate::hub::batch::Subject;
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;
use crate::os;
use crate::store::raw_log::RawLog;

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

/// Reads to the end, or until the other end of `cancel` is dropped.
pub(super) fn run(mut input: impl Read + AsFd, cancel: &OwnedFd, mut tee: RawLog, stream: Stream, hub: &Hub) {
    let mut chunk = vec![0; LONGEST];
    let mut line: Vec<u8> = Vec::new();
    let mut tee_failed = false;
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
        if let Err(error) = tee.append(&chunk[..read]) {
            if !tee_failed {
                warn!("{}.log cannot be written: {error}", stream.name());
            }
            tee_failed = true;
        }
        let mut drafts = Drafts::new();
        for part in chunk[..read].split_inclusive(|&byte| byte == b'\n') {
            line.extend_from_slice(part);
            if part.ends_with(b"\n") || line.len() >= LONGEST {
                draft(&mut drafts, stream, &line);
                line.clear();
            }
        }
        if hub.send(drafts).is_err() {
            return;
        }
    }
    if !line.is_empty() {
        let mut drafts = Drafts::new();
        draft(&mut drafts, stream, &line);
        // A hub that has stopped takes no more.
        let _ = hub.send(drafts);
    }
}

fn draft(drafts: &mut Drafts, stream: Stream, line: &[u8]) {
    let name = stream.name();
    let shown = model::preview(&String::from_utf8_lossy(line));
    drafts.push(
        stream.kind(),
        format_args!("{name}: {shown}"),
        Some(&serde_json::json!({ "bytes": line.len(), "stream": name })),
        Subject::default(),
        None,
    );
}
