//! A batch: the events the hub took in one go, rendered once and shared by every subscriber.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::event::EventType;

/// What stands before an event's own text in a frame of the stream.
pub const FRAME_HEAD: &str = "{\"event\":";
/// What stands after it.
pub const FRAME_TAIL: &str = ",\"type\":\"event\"}";

/// What an event is about, for filters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// The app-server's thread.
    pub thread: Option<Arc<str>>,
    /// The session.
    pub session: Option<Arc<str>>,
    /// The run.
    pub run: Option<Arc<str>>,
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Its type.
    pub kind: EventType,
    /// What it is about.
    pub subject: Subject,
    /// Where its frame stands in the batch's text.
    pub frame: Range<usize>,
}

/// Events with consecutive numbers, already in the log.
#[derive(Debug)]
pub struct Batch {
    text: Bytes,
    entries: Vec<Entry>,
}

impl Batch {
    /// A batch of the frames in `text` (valid UTF-8, whole frames) at the places the entries name.
    pub fn new(text: Bytes, entries: Vec<Entry>) -> Self {
        Self { text, entries }
    }

    /// The events, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Size of the shared text, in bytes.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether there is no event in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// An event's frame for the WebSocket stream: `{"event":…,"type":"event"}`. Nothing is copied.
    pub fn frame(&self, entry: &Entry) -> Bytes {
        self.text.slice(entry.frame.clone())
    }

    /// The event itself, as it stands in the log (without the line end). Nothing is copied.
    pub fn event(&self, entry: &Entry) -> Bytes {
        self.text.slice(entry.frame.start + FRAME_HEAD.len()..entry.frame.end - FRAME_TAIL.len())
    }
}
