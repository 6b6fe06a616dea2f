//! A batch: the events the hub took in one go, rendered once and shared by every subscriber.

use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::duplex::{self, MAX_HEAD};
use crate::model::event::{EventType, Level};
use crate::model::json::Text;

/// What stands before an event in a message of the WebSocket stream: `{"event":…,"type":"event"}`.
pub const MESSAGE_HEAD: &str = "{\"event\":";
/// What stands after it.
pub const MESSAGE_TAIL: &str = ",\"type\":\"event\"}";

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
    /// What it is about: which of the subjects.
    about: usize,
    /// Where its frame begins in the batch's text.
    frame: usize,
    /// Where the event itself stands there.
    event: Range<usize>,
}

/// Events with consecutive numbers, and the frames of the WebSocket stream that they make: one run of bytes, the same for
/// every client.
#[derive(Debug, Default)]
pub struct Batch {
    text: Vec<u8>,
    entries: Vec<Entry>,
    subjects: Vec<Subject>,
}

impl Batch {
    /// None yet; room for so many, whose events have so many bytes together.
    pub fn with_room_for(count: usize, bytes: usize) -> Self {
        Self {
            text: Vec::with_capacity(bytes + count * (MAX_HEAD + MESSAGE_HEAD.len() + MESSAGE_TAIL.len())),
            entries: Vec::with_capacity(count),
            subjects: Vec::new(),
        }
    }

    /// The place of what events to come are about.
    pub fn about(&mut self, subject: Subject) -> usize {
        self.subjects.push(subject);
        self.subjects.len() - 1
    }

    /// Adds the event after the last, about what is at that place; its JSON comes in pieces.
    pub fn push(&mut self, seq: u64, kind: EventType, level: Level, about: usize, json: &[&[u8]]) {
        let frame = self.text.len();
        let length: usize = json.iter().map(|piece| piece.len()).sum();
        duplex::put_head(MESSAGE_HEAD.len() + length + MESSAGE_TAIL.len(), &mut self.text);
        self.text.extend_from_slice(MESSAGE_HEAD.as_bytes());
        let start = self.text.len();
        for piece in json {
            self.text.extend_from_slice(piece);
        }
        let event = start..self.text.len();
        self.text.extend_from_slice(MESSAGE_TAIL.as_bytes());
        self.entries.push(Entry { seq, kind, level, about, frame, event });
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

    /// The frames of events that follow each other in this batch, whole, in pieces of at most `most` bytes; one that is
    /// larger by itself is a piece of its own.
    pub fn frames(&self, mut run: &[Entry], most: usize) -> impl Iterator<Item = &[u8]> {
        std::iter::from_fn(move || {
            let start = run.first()?.frame;
            let fit = run.partition_point(|entry| end(entry) - start <= most).max(1);
            let (piece, rest) = run.split_at(fit);
            run = rest;
            self.text.get(start..end(piece.last()?))
        })
    }

    /// What an event is about.
    pub fn subject(&self, entry: &Entry) -> &Subject {
        &self.subjects[entry.about]
    }

    /// The event itself, as it stands in the log (without the line end).
    pub fn event(&self, entry: &Entry) -> &[u8] {
        self.text.get(entry.event.clone()).unwrap_or_default()
    }
}

#[cfg(test)]
impl Batch {
    /// One of so many bytes, for what looks at nothing else.
    pub(super) fn of_size(bytes: usize) -> Self {
        Self { text: vec![b'x'; bytes], ..Self::default() }
    }
}

/// Where its frame ends.
fn end(entry: &Entry) -> usize {
    entry.event.end + MESSAGE_TAIL.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: usize = MESSAGE_HEAD.len() + MESSAGE_TAIL.len();

    /// A batch of events of these sizes, from seq 1 on.
    fn batch(sizes: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for (seq, &size) in (1..).zip(sizes) {
            let kind = EventType::Notification;
            let (some, rest) = (vec![b'a'; size / 2], vec![b'b'; size - size / 2]);
            let about = batch.about(Subject::default());
            batch.push(seq, kind, kind.level(), about, &[&some, &rest]);
        }
        batch
    }

    #[test]
    fn a_frame_is_a_head_for_its_length_and_the_message() {
        for (length, head) in [
            (EMPTY, vec![0x81, 25]),
            (125, vec![0x81, 125]),
            (126, vec![0x81, 126, 0, 126]),
            (0xffff, vec![0x81, 126, 0xff, 0xff]),
            (0x1_0000, vec![0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let batch = batch(&[length - EMPTY]);
            let [entry] = batch.entries() else { panic!("{batch:?}") };
            let event = std::str::from_utf8(batch.event(entry)).unwrap();
            assert_eq!((event.len(), event.starts_with('b')), (length - EMPTY, length == EMPTY + 1));
            let frames: Vec<&[u8]> = batch.frames(batch.entries(), usize::MAX).collect();
            let message = format!("{{\"event\":{event},\"type\":\"event\"}}");
            assert_eq!(frames, [[&*head, message.as_bytes()].concat()]);
            assert_eq!(batch.len(), frames[0].len());
        }
    }

    #[test]
    fn pieces_are_whole_frames_and_all_of_them() {
        let batch = batch(&[10, 10, 10, 100, 10, 10]);
        let small = 2 + EMPTY + 10;
        for (most, expected) in [
            (0, [1, 1, 1, 1, 1, 1].as_slice()),
            (2 * small - 1, &[1, 1, 1, 1, 1, 1]),
            (2 * small, &[2, 1, 1, 2]),
            (3 * small, &[3, 1, 2]),
            (usize::MAX, &[6]),
        ] {
            let all = batch.entries();
            let pieces: Vec<&[u8]> = batch.frames(all, most).collect();
            assert_eq!(pieces.concat(), batch.text, "at most {most}");
            let mut at = 0;
            let counts: Vec<usize> = pieces
                .iter()
                .map(|piece| {
                    at += piece.len();
                    all.iter().filter(|entry| end(entry) <= at && end(entry) > at - piece.len()).count()
                })
                .collect();
            assert_eq!(counts, expected, "at most {most}");
        }
        let middle = &batch.entries()[1..3];
        assert_eq!(batch.frames(middle, usize::MAX).collect::<Vec<_>>(), [&batch.text[small..3 * small]]);
        assert_eq!(batch.frames(&[], usize::MAX).count(), 0);
    }
}
