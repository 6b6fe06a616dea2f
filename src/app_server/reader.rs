//! The thread that reads what the app-server writes: bytes to lines to messages, in order.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use log::warn;
use serde_json::value::RawValue;

use super::connection::Connection;
use super::notification::Translator;
use super::wire::{self, Incoming, METHOD_NOT_FOUND, RpcError};
use crate::hub::Hub;
use crate::hub::batch::Subject;
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;
use crate::os;
use crate::store::raw_log::RawLog;

/// Bytes asked for in one read: a pipe's usual capacity.
const CHUNK: usize = 64 * 1024;

/// How the app-server's output ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Which end ended: `stdout.end` or `stdout.error`, or `closed` when codexd itself let go.
    pub source: &'static str,
    /// For a person.
    pub message: String,
    /// Whether a last line without newline was still a message.
    pub flushed_trailing_message: bool,
    /// Length of that line, in bytes; 0 if there was none.
    pub trailing_message_length: usize,
}

/// Splits, decodes and passes on.
pub struct Reader {
    hub: Hub,
    connection: Arc<Connection>,
    max_line_bytes: usize,
    translator: Translator,
    drafts: Drafts,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Bytes of a line too long that were thrown away so far; 0 when not in one.
    skipped: usize,
}

impl Reader {
    /// A reader for one life of the app-server.
    pub fn new(hub: Hub, connection: Arc<Connection>, max_line_bytes: usize) -> Self {
        Self {
            hub,
            connection,
            max_line_bytes,
            translator: Translator::default(),
            drafts: Drafts::new(),
            partial: Vec::new(),
            skipped: 0,
        }
    }

    /// A reader for an app-server that is not ours alone: it tells everybody of some things of every thread, so events
    /// of threads without a session here are left out.
    pub(super) fn external(hub: Hub, connection: Arc<Connection>) -> Self {
        let drafts = Drafts::of_known_threads();
        Self { drafts, ..Self::new(hub, connection, usize::MAX) }
    }

    /// Reads to the end, or until the other end of `cancel` is dropped. Waits when the hub is busy: then the
    /// app-server's pipe fills and it waits too.
    pub fn run(mut self, mut input: impl Read + AsFd, cancel: &OwnedFd, mut tee: RawLog) -> End {
        let mut chunk = vec![0; CHUNK];
        let mut tee_failed = false;
        let (source, message) = loop {
            match os::ready(&input, cancel) {
                Ok(true) => {}
                Ok(false) => break ("closed", "codexd closed the connection".to_owned()),
                Err(error) => break ("stdout.error", format!("waiting for output failed: {error}")),
            }
            let read = match input.read(&mut chunk) {
                Ok(0) => break ("stdout.end", "the app-server closed its standard output".to_owned()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break ("stdout.error", format!("reading output failed: {error}")),
            };
            self.connection.heard();
            let bytes = &chunk[..read];
            match tee.append(bytes) {
                Ok(()) => tee_failed = false,
                // The raw log is for looking at; the events are the record.
                Err(error) if !tee_failed => {
                    warn!("stdout.log cannot be written: {error}");
                    tee_failed = true;
                }
                Err(_) => {}
            }
            self.bytes(bytes);
            if !self.flush() {
                break ("closed", "codexd is stopping".to_owned());
            }
        };
        let trailing = std::mem::take(&mut self.partial);
        let flushed = !trailing.iter().all(u8::is_ascii_whitespace) && self.line(&trailing);
        self.flush();
        End { source, message, flushed_trailing_message: flushed, trailing_message_length: trailing.len() }
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..newline], &bytes[newline + 1..]);
            bytes = rest;
            if self.skipped > 0 {
                self.too_long(self.skipped + line.len());
            } else if self.partial.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole);
                // Its memory serves the next long line, unless it was exceptional.
                if whole.capacity() <= 1024 * 1024 {
                    whole.clear();
                    self.partial = whole;
                }
            }
        }
        if self.skipped > 0 {
            self.skipped += bytes.len();
        } else if self.partial.len() + bytes.len() > self.max_line_bytes {
            self.skipped = self.partial.len() + bytes.len();
            self.partial = Vec::new();
        } else {
            self.partial.extend_from_slice(bytes);
        }
    }

    fn too_long(&mut self, length: usize) {
        self.skipped = 0;
        let limit = self.max_line_bytes;
        self.unreadable(length, &format!("it is longer than the {limit} bytes of --max-line-bytes"), "");
    }

    /// One line; `true` if it was a message of the protocol.
    fn line(&mut self, bytes: &[u8]) -> bool {
        self.message(&String::from_utf8_lossy(bytes))
    }

    /// One message; `true` if it was one of the protocol.
    pub(super) fn message(&mut self, line: &str) -> bool {
        if line.trim().is_empty() {
            return false;
        }
        match wire::decode(line) {
            Ok(Incoming::Notification { method, params }) => {
                if method == "turn/completed" {
                    self.connection.note_progress();
                }
                self.translator.translate(&mut self.drafts, &method, params);
            }
            Ok(Incoming::Response { id, outcome }) => {
                // What was said before the answer is to be in the log before the answer.
                self.flush();
                self.connection.answered(id, outcome);
            }
            Ok(Incoming::Request { id, method, params }) => {
                self.flush();
                self.request(id, &method, params);
            }
            Err(reason) => {
                self.unreadable(line.len(), &reason, line);
                return false;
            }
        }
        true
    }

    fn request(&mut self, id: &RawValue, method: &str, _params: &RawValue) {
        let error = RpcError {
            code: METHOD_NOT_FOUND,
            message: format!("codexd cannot answer {method}"),
            data: None,
        };
        self.connection.respond(id, Err(&error));
        self.drafts.push(
            EventType::RequestUnsupported,
            format_args!("Codex asked {}, which codexd cannot answer.", model::preview(method)),
            Some(&serde_json::json!({ "method": method, "threadId": null })),
            Subject::default(),
            None,
        );
    }

    pub(super) fn unreadable(&mut self, bytes: usize, reason: &str, line: &str) {
        self.drafts.push(
            EventType::MessageUnreadable,
            format_args!("The app-server wrote what is no message ({reason}): {}", model::preview(line)),
            Some(&serde_json::json!({ "bytes": bytes, "reason": reason })),
            Subject::default(),
            None,
        );
    }

    /// What waits to be handed on, in bytes.
    pub(super) fn gathered(&self) -> usize {
        self.drafts.len()
    }

    /// Hands the drafts to the hub; `false` when it has stopped.
    pub(super) fn flush(&mut self) -> bool {
        let next = self.drafts.successor();
        self.hub.send(std::mem::replace(&mut self.drafts, next)).is_ok()
    }
}
