//! The thread that reads what the app-server writes: bytes to lines to messages, in order.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;

use super::answer;
use super::changes::Changes;
use super::connection::Connection;
use super::inbox::{Asked, Inbox, Withdrawn};
use super::needs;
use super::notification::{Runs, translate};
use super::oversize::{Addressee, Oversize};
use super::wire::{self, INVALID_REQUEST, Incoming, METHOD_NOT_FOUND, RpcError};
use crate::hub::Hub;
use crate::hub::batch::Subject;
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;
use crate::model::members::Members;
use crate::model::record::RequestKind;
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

impl End {
    /// Of a reader of which nothing was heard.
    pub fn unexplained() -> Self {
        Self {
            source: "closed",
            message: "the reader ended without a word".to_owned(),
            flushed_trailing_message: false,
            trailing_message_length: 0,
        }
    }
}

/// Splits, decodes and passes on.
pub struct Reader {
    hub: Hub,
    connection: Arc<Connection>,
    max_line_bytes: usize,
    runs: Runs,
    inbox: Arc<Inbox>,
    changes: Changes,
    drafts: Drafts,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
    /// Instead of that, when the line is too long already.
    oversize: Option<Oversize>,
}

/// The detail of a request that is refused.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Unsupported<'a> {
    method: &'a str,
    params: &'a RawValue,
    thread_id: Option<&'a str>,
}

impl Reader {
    /// A reader for one life of the app-server.
    pub fn new(hub: Hub, connection: Arc<Connection>, inbox: Arc<Inbox>, max_line_bytes: usize) -> Self {
        Self {
            hub,
            connection,
            max_line_bytes,
            runs: Runs::default(),
            inbox,
            changes: Changes::default(),
            drafts: Drafts::new(),
            partial: Vec::new(),
            oversize: None,
        }
    }

    /// A reader for an app-server that is not ours alone: it tells everybody of some things of every thread, so events
    /// of threads without a session here are left out.
    pub fn external(hub: Hub, connection: Arc<Connection>, inbox: Arc<Inbox>) -> Self {
        let drafts = Drafts::of_known_threads();
        Self { drafts, ..Self::new(hub, connection, inbox, usize::MAX) }
    }

    /// Reads to the end, or until the other end of `cancel` is dropped. Waits when the hub is busy: then the
    /// app-server's pipe fills and it waits too.
    pub fn run(mut self, mut input: impl Read + AsFd, cancel: &OwnedFd, mut tee: RawLog) -> End {
        let mut chunk = vec![0; CHUNK];
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
            self.heard();
            let bytes = &chunk[..read];
            self.bytes(bytes);
            let open = self.flush();
            // Only now: somebody may be waiting for what the hub has of it.
            tee.put(bytes);
            if !open {
                break ("closed", "codexd is stopping".to_owned());
            }
        };
        let trailing = std::mem::take(&mut self.partial);
        let (length, flushed) = match self.oversize.take() {
            Some(oversize) => {
                // It may lack its end, and with it how a turn has ended; what was in flight is told with the transport's end.
                self.tell_too_long(&oversize);
                (oversize.length(), false)
            }
            None => {
                let blank = trailing.iter().all(u8::is_ascii_whitespace);
                (trailing.len(), !blank && self.line(&trailing))
            }
        };
        self.flush();
        End { source, message, flushed_trailing_message: flushed, trailing_message_length: length }
    }

    fn bytes(&mut self, mut bytes: &[u8]) {
        while let Some(newline) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..newline], &bytes[newline + 1..]);
            bytes = rest;
            if let Some(oversize) = self.exceeded(line) {
                self.too_long(&oversize);
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
        self.oversize = self.exceeded(bytes);
        if self.oversize.is_none() {
            self.partial.extend_from_slice(bytes);
        }
    }

    /// The line as far as it has come, with these bytes, if that is too long.
    fn exceeded(&mut self, more: &[u8]) -> Option<Oversize> {
        if self.oversize.is_none() && self.partial.len() + more.len() <= self.max_line_bytes {
            return None;
        }
        let mut oversize = self.oversize.take().unwrap_or_default();
        oversize.extend(&std::mem::take(&mut self.partial));
        oversize.extend(more);
        Some(oversize)
    }

    /// The end of a line that was too long. Whoever waits for what was in it waits no longer.
    fn too_long(&mut self, line: &Oversize) {
        let reason = self.tell_too_long(line);
        match line.addressee() {
            Some(Addressee::Caller(id)) => {
                self.flush();
                self.connection.unreadable(id, &reason);
            }
            Some(Addressee::AppServer(id)) => {
                let error = RpcError::new(INVALID_REQUEST, format!("codexd cannot read this: {reason}"));
                self.connection.respond(&id, Err(&error));
            }
            Some(Addressee::Turn(method, params)) => self.notification(method, &params),
            None => {}
        }
    }

    /// Says so, and why.
    fn tell_too_long(&mut self, line: &Oversize) -> String {
        let reason = format!("it is longer than the {} bytes of --max-line-bytes", self.max_line_bytes);
        self.unreadable(line.length(), &reason, "");
        reason
    }

    /// One line; `true` if it was a message of the protocol.
    fn line(&mut self, bytes: &[u8]) -> bool {
        // What is lossy about the other way is looked for byte by byte.
        match std::str::from_utf8(bytes) {
            Ok(line) => self.message(line),
            Err(_) => self.message(&String::from_utf8_lossy(bytes)),
        }
    }

    /// One message; `true` if it was one of the protocol.
    pub(super) fn message(&mut self, line: &str) -> bool {
        if line.trim().is_empty() {
            return false;
        }
        if self.runs.draft(&mut self.drafts, line) {
            return true;
        }
        match wire::decode(line) {
            Ok(Incoming::Notification { method, params }) => self.notification(&method, params),
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
                self.connection.impression().wrote(line);
                self.unreadable(line.len(), &reason, line);
                return false;
            }
        }
        true
    }

    fn notification(&mut self, method: &str, params: &RawValue) {
        if method == "turn/completed" {
            self.connection.note_progress();
        }
        self.changes.note(method, params);
        let Some(withdrawn) = Withdrawn::of(method, params) else {
            return translate(&mut self.drafts, method, params);
        };
        self.flush();
        translate(&mut self.drafts, method, params);
        // A hub that has stopped takes no more; the next flush says so.
        let told = self.take_drafts();
        let _ = self.inbox.withdraw(told, withdrawn);
    }

    fn request(&mut self, id: &RawValue, method: &str, params: &RawValue) {
        if let (Some(_), Ok(own)) = (needs::request(method), id.get().parse()) {
            self.unreadable(params.get().len(), "it is what codexd sent", method);
            return self.connection.echoed(own);
        }
        let Some(kind) = answer::kind(method) else { return self.unsupported(id, method, params) };
        let params = match kind {
            RequestKind::FileChange => self.changes.complete(params),
            _ => params.to_owned(),
        };
        self.inbox
            .ask(&self.connection, Asked { id: id.to_owned(), method: method.to_owned(), kind, params });
    }

    /// What nobody can answer is refused at once: Codex would wait for ever.
    fn unsupported(&mut self, id: &RawValue, method: &str, params: &RawValue) {
        let members = Members::of(params).unwrap_or_default();
        let thread = members.text("threadId");
        let error = RpcError::new(METHOD_NOT_FOUND, format!("codexd cannot answer {method}"));
        self.drafts.push(
            EventType::RequestUnsupported,
            format_args!("Codex asked {}, which codexd cannot answer.", model::preview(method)),
            Some(&Unsupported { method, params, thread_id: thread.as_deref() }),
            thread.as_deref().map(Subject::thread).unwrap_or_default(),
            None,
        );
        let told = self.take_drafts();
        let (connection, id) = (Arc::clone(&self.connection), id.to_owned());
        // A hub that has stopped takes no more; the next flush says so.
        let _ = self.hub.transact_in_order(
            told.len(),
            move |_, drafts| *drafts = told,
            move |_| {
                connection.respond(&id, Err(&error));
            },
        );
    }

    pub(super) fn unreadable(&mut self, bytes: usize, reason: &str, line: &str) {
        self.drafts.note(
            EventType::MessageUnreadable,
            format_args!("The app-server wrote what is no message ({reason}): {}", model::preview(line)),
            &serde_json::json!({ "bytes": bytes, "reason": reason }),
        );
    }

    /// The app-server has said something, whatever it was.
    pub(super) fn heard(&self) {
        self.connection.heard();
    }

    /// What waits to be handed on, in bytes.
    pub(super) fn gathered(&self) -> usize {
        self.drafts.len()
    }

    /// Hands the drafts to the hub; `false` when it has stopped.
    pub(super) fn flush(&mut self) -> bool {
        let drafts = self.take_drafts();
        self.hub.send(drafts).is_ok()
    }

    fn take_drafts(&mut self) -> Drafts {
        let next = self.drafts.successor();
        std::mem::replace(&mut self.drafts, next)
    }
}
