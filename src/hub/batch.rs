//! A batch: the events the hub took in one go, rendered once and shared by every subscriber.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::model::event::{EventType, Level};
use crate::model::json::Text;

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

impl Subject {
    /// Something about a thread.
    pub fn thread(thread: &str) -> Self {
        Self { thread: Some(Arc::from(thread)), ..Self::default() }
    }

    /// Something about a session and, if it has one, its thread.
    pub fn session(session: &str, thread: Option<&str>) -> Self {
        Self { session: Some(Arc::from(session)), thread: thread.map(Arc::from), run: None }
    }

    /// Something about a run and, if it was asked for one, its session.
    pub fn run(run: &str, session: Option<&str>) -> Self {
        Self { run: Some(Arc::from(run)), session: session.map(Arc::from), thread: None }
    }

    /// What an event with this detail is about, for events read back from the log.
    pub fn of_detail(detail: Option<&RawValue>) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        struct Names<'a> {
            #[serde(borrow)]
            thread_id: Option<Text<'a>>,
            #[serde(borrow)]
            session_id: Option<Text<'a>>,
            #[serde(borrow)]
            run_id: Option<Text<'a>>,
            #[serde(borrow)]
            params: Option<&'a RawValue>,
        }
        let names = |raw: &RawValue| -> Subject {
            let names: Names<'_> = serde_json::from_str(raw.get()).unwrap_or_default();
            let inner: Names<'_> =
                names.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
            Subject {
                thread: names.thread_id.or(inner.thread_id).map(|id| Arc::from(id.0.as_ref())),
                session: names.session_id.map(|id| Arc::from(id.0.as_ref())),
                run: names.run_id.map(|id| Arc::from(id.0.as_ref())),
            }
        };
        detail.map(names).unwrap_or_default()
    }
}

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// Its type.
    pub kind: EventType,
    /// How much it matters.
    pub level: Level,
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

    /// The event itself, as it stands in the log (without the line end).
    pub fn event(&self, entry: &Entry) -> &[u8] {
        let inside = entry.frame.start + FRAME_HEAD.len()..entry.frame.end - FRAME_TAIL.len();
        self.text.get(inside).unwrap_or_default()
    }
}
