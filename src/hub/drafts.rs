//! Events on their way to the hub: rendered by whoever has the facts, but for the number and the time, which only
//! the hub can give. Many drafts share one buffer, so that a burst of deltas costs no allocation each.

use std::fmt::{self, Write};
use std::ops::Range;

use serde::Serialize;

use super::batch::Subject;
use super::change::Change;
use crate::model::event::{EventType, Level};

/// One draft; its text is the part of an event's JSON from `"level"` to the end of `"detail"`.
#[derive(Debug)]
pub struct Draft {
    /// The event's type.
    pub kind: EventType,
    /// What it is about.
    pub subject: Subject,
    /// What it does to the state.
    pub change: Option<Change>,
    text: Range<usize>,
}

/// Drafts in order.
#[derive(Debug, Default)]
pub struct Drafts {
    text: Vec<u8>,
    items: Vec<Draft>,
    known_threads: bool,
}

impl Drafts {
    /// No drafts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No drafts yet, and of those to come the hub drops what is about a thread without a session here.
    pub fn of_known_threads() -> Self {
        Self { known_threads: true, ..Self::default() }
    }

    /// No drafts yet, treated as these are.
    pub fn successor(&self) -> Self {
        Self { known_threads: self.known_threads, ..Self::default() }
    }

    /// Whether what is about a thread without a session is to be dropped.
    pub fn only_known_threads(&self) -> bool {
        self.known_threads
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// Size of the rendered text, in bytes.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// The drafts, each with its text.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Draft>) {
        (self.text, self.items)
    }

    /// Adds an event of the type's usual level. See [`Drafts::push_at`].
    pub fn push<D: Serialize + ?Sized>(
        &mut self,
        kind: EventType,
        message: fmt::Arguments<'_>,
        detail: Option<&D>,
        subject: Subject,
        change: Option<Change>,
    ) {
        self.push_at(kind, kind.level(), message, detail, subject, change);
    }

    /// Adds an event. A detail that cannot be serialised becomes null: its types are our own and all can be.
    pub fn push_at<D: Serialize + ?Sized>(
        &mut self,
        kind: EventType,
        level: Level,
        message: fmt::Arguments<'_>,
        detail: Option<&D>,
        subject: Subject,
        change: Option<Change>,
    ) {
        self.push_raw(kind, level, subject, change, message, |text| {
            let start = text.len();
            if serde_json::to_writer(&mut *text, &detail).is_err() {
                text.truncate(start);
                text.extend_from_slice(b"null");
            }
        });
    }

    /// Adds an event whose detail's JSON `write_detail` appends itself: for text that is passed through untouched.
    pub fn push_raw(
        &mut self,
        kind: EventType,
        level: Level,
        subject: Subject,
        change: Option<Change>,
        message: fmt::Arguments<'_>,
        write_detail: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.text.len();
        self.text.extend_from_slice(b"\"level\":\"");
        self.text.extend_from_slice(level.as_str().as_bytes());
        self.text.extend_from_slice(b"\",\"type\":\"");
        self.text.extend_from_slice(kind.name().as_bytes());
        self.text.extend_from_slice(b"\",\"message\":\"");
        // Writing to a Vec cannot fail.
        let _ = Escaped(&mut self.text).write_fmt(message);
        self.text.extend_from_slice(b"\",\"detail\":");
        let mut detail = self.text.len();
        write_detail(&mut self.text);
        // An event is one line. JSON has raw line ends only between its tokens, where a blank does as well.
        while let Some(at) = memchr::memchr2(b'\n', b'\r', &self.text[detail..]) {
            detail += at;
            self.text[detail] = b' ';
        }
        self.items.push(Draft { kind, subject, change, text: start..self.text.len() });
    }
}

impl Draft {
    /// The draft's text within the text of all.
    pub fn text<'a>(&self, all: &'a [u8]) -> &'a [u8] {
        all.get(self.text.clone()).unwrap_or_default()
    }
}

/// Writes text as the inside of a JSON string (RFC 8259 section 7).
struct Escaped<'a>(&'a mut Vec<u8>);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.extend_from_slice(&text.as_bytes()[plain..at]);
            plain = at + 1;
            match byte {
                b'"' => self.0.extend_from_slice(b"\\\""),
                b'\\' => self.0.extend_from_slice(b"\\\\"),
                b'\n' => self.0.extend_from_slice(b"\\n"),
                b'\r' => self.0.extend_from_slice(b"\\r"),
                b'\t' => self.0.extend_from_slice(b"\\t"),
                _ => {
                    const HEX: &[u8; 16] = b"0123456789abcdef";
                    self.0.extend_from_slice(b"\\u00");
                    self.0.push(HEX[usize::from(byte >> 4)]);
                    self.0.push(HEX[usize::from(byte & 15)]);
                }
            }
        }
        self.0.extend_from_slice(&text.as_bytes()[plain..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_the_inside_of_an_event() {
        let mut drafts = Drafts::new();
        let nasty = "a\"b\\c\n\u{1}ä😀";
        drafts.push(EventType::DaemonStopped, format_args!("{nasty}"), None::<&()>, Subject::default(), None);
        drafts.push(
            EventType::SessionClosed,
            format_args!("x"),
            Some(&serde_json::json!({"sessionId": "s"})),
            Subject::default(),
            None,
        );
        let (text, items) = drafts.into_parts();
        let events: Vec<serde_json::Value> = items
            .iter()
            .map(|item| {
                let inside = std::str::from_utf8(item.text(&text)).unwrap();
                serde_json::from_str(&format!("{{{inside}}}")).unwrap()
            })
            .collect();
        assert_eq!(events[0]["message"], nasty);
        assert_eq!(events[0]["detail"], serde_json::Value::Null);
        assert_eq!(events[1]["type"], "session.closed");
        assert_eq!(events[1]["detail"]["sessionId"], "s");
    }
}
