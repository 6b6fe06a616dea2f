//! Events on their way to the hub: rendered by whoever has the facts, but for the number and the time, which only
//! the hub can give. Many drafts share one buffer, so that a burst of deltas costs no allocation each.

use std::fmt::{self, Write};
use std::ops::Range;

use serde::Serialize;

use super::batch::Subject;
use super::change::Change;
use crate::model::event::{EventType, Level};
use crate::store::Repair;

/// One draft; its text is the part of an event's JSON from `"level"` to the end of `"detail"`.
#[derive(Debug)]
pub struct Draft {
    /// The event's type.
    pub kind: EventType,
    /// How much it matters.
    pub level: Level,
    /// What it does to the state.
    pub change: Option<Box<Change>>,
    /// What it is about: which of the subjects.
    pub about: usize,
    text: Range<usize>,
}

/// Drafts in order.
#[derive(Debug, Default)]
pub struct Drafts {
    text: Vec<u8>,
    items: Vec<Draft>,
    /// Drafts about the same follow each other: they share one, and nobody counts references for each.
    subjects: Vec<Subject>,
    known_threads: bool,
}

impl Drafts {
    /// No drafts yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// No drafts yet, and of those to come the hub drops what is foreign: about a thread without a session here.
    pub fn of_known_threads() -> Self {
        Self { known_threads: true, ..Self::default() }
    }

    /// No drafts yet, treated as these are, with room for as many and some more: two reads of a pipe seldom have the same
    /// number of lines, and growing would copy all that is there.
    pub fn successor(&self) -> Self {
        let with_margin = |used: usize| used + used / 4;
        Self {
            text: Vec::with_capacity(with_margin(self.text.len()).min(MAX_ROOM)),
            items: Vec::with_capacity(with_margin(self.items.len()).min(MAX_ROOM / size_of::<Draft>())),
            subjects: Vec::new(),
            known_threads: self.known_threads,
        }
    }

    /// Drops what is about something foreign, if that is not to be logged; what is drafted afterwards stays.
    pub fn drop_foreign(&mut self, is_foreign: impl Fn(&Subject) -> bool) {
        if std::mem::take(&mut self.known_threads) {
            let foreign: Vec<bool> = self.subjects.iter().map(is_foreign).collect();
            self.items.retain(|draft| !foreign[draft.about]);
        }
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

    /// The text of all, what they are about, and the drafts.
    pub fn into_parts(self) -> (Vec<u8>, Vec<Subject>, Vec<Draft>) {
        (self.text, self.subjects, self.items)
    }

    /// The place of what the next draft is about.
    pub fn about(&mut self, subject: Subject) -> usize {
        if self.subjects.last() != Some(&subject) {
            self.subjects.push(subject);
        }
        self.subjects.len() - 1
    }

    /// As [`Drafts::about`], of a thread; what one of the last drafts was about is not made again.
    pub fn about_thread(&mut self, id: &str) -> usize {
        let is_it = |subject: &&Subject| match subject {
            Subject { thread: Some(thread), session: None, run: None } => **thread == *id,
            _ => false,
        };
        match self.subjects.iter().rev().take(NEAR).position(|subject| is_it(&subject)) {
            Some(back) => self.subjects.len() - 1 - back,
            None => self.about(Subject::thread(id)),
        }
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

    /// Adds an event that is about no session, thread or run and leaves the state as it is; without a detail that is `&()`.
    pub fn note<D: Serialize + ?Sized>(&mut self, kind: EventType, message: fmt::Arguments<'_>, detail: &D) {
        self.push(kind, message, Some(detail), Subject::default(), None);
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
        let about = self.about(subject);
        self.push_raw(kind, level, about, change, message, |text| {
            let start = text.len();
            if serde_json::to_writer(&mut *text, &detail).is_err() {
                text.truncate(start);
                text.extend_from_slice(b"null");
            }
        });
    }

    /// Adds that something of the store was found damaged, and what was done about it.
    pub fn push_repaired(&mut self, repair: &Repair) {
        let file = repair.file.display().to_string();
        let kept_as = repair.kept_as.as_ref().map(|path| path.display().to_string());
        self.note(
            EventType::StoreRepaired,
            format_args!("Repaired {file}: {}.", repair.problem),
            &serde_json::json!({ "file": file, "keptAs": kept_as, "problem": repair.problem }),
        );
    }

    /// Adds an event about what is at that place, whose detail's JSON `write_detail` appends itself: for text that is passed
    /// through untouched.
    pub fn push_raw(
        &mut self,
        kind: EventType,
        level: Level,
        about: usize,
        change: Option<Change>,
        message: fmt::Arguments<'_>,
        write_detail: impl FnOnce(&mut Vec<u8>),
    ) {
        let write_detail = |out: &mut Vec<u8>| {
            let start = out.len();
            write_detail(out);
            put_on_one_line(&mut out[start..]);
        };
        self.push_written(kind, level, about, change, |out| out.write_fmt(message), write_detail);
    }

    /// As [`Drafts::push_raw`], and `write_message` writes the message piece by piece; where one fails, nothing follows. The
    /// detail must be one line already.
    pub fn push_written(
        &mut self,
        kind: EventType,
        level: Level,
        about: usize,
        change: Option<Change>,
        write_message: impl FnOnce(&mut Message<'_>) -> fmt::Result,
        write_detail: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.text.len();
        self.text.extend_from_slice(b"\"level\":\"");
        self.text.extend_from_slice(level.as_str().as_bytes());
        self.text.extend_from_slice(b"\",\"type\":\"");
        self.text.extend_from_slice(kind.name().as_bytes());
        self.text.extend_from_slice(b"\",\"message\":\"");
        // It fails only where the message is cut.
        let _ = write_message(&mut Message { out: &mut self.text, left: MAX_MESSAGE });
        self.text.extend_from_slice(b"\",\"detail\":");
        write_detail(&mut self.text);
        let change = change.map(Box::new);
        self.items.push(Draft { kind, level, change, about, text: start..self.text.len() });
    }

    /// As [`Drafts::push_written`], with the draft's whole text, in pieces.
    pub fn push_pieces(&mut self, kind: EventType, level: Level, about: usize, pieces: &[&str]) {
        let start = self.text.len();
        for piece in pieces {
            self.text.extend_from_slice(piece.as_bytes());
        }
        self.items.push(Draft { kind, level, change: None, about, text: start..self.text.len() });
    }
}

/// An event is one line. JSON has raw line ends only between its tokens, where a blank does as well.
pub fn put_on_one_line(mut json: &mut [u8]) {
    while let Some(at) = memchr::memchr2(b'\n', b'\r', json) {
        json = &mut json[at..];
        json[0] = b' ';
    }
}

impl Draft {
    /// The draft's text within the text of all.
    pub fn text<'a>(&self, all: &'a [u8]) -> &'a [u8] {
        all.get(self.text.clone()).unwrap_or_default()
    }
}

/// Subjects that are looked through for one: events of so many threads may take turns.
const NEAR: usize = 8;

/// Bytes that are kept ready for the next drafts at most: those of a read from the child, rendered.
const MAX_ROOM: usize = 256 * 1024;

/// Bytes of a message as text: whatever is quoted in it, it stays a line for a person.
const MAX_MESSAGE: usize = 1024;

/// Writes a message as the inside of a JSON string (RFC 8259 section 7), on one line: control characters become
/// blanks, and what is too long is cut.
#[derive(Debug)]
pub struct Message<'a> {
    out: &'a mut Vec<u8>,
    left: usize,
}

impl Message<'_> {
    /// As [`Write::write_str`], of a text that is known to be its own JSON and to have no control characters: it is not
    /// looked at.
    ///
    /// # Errors
    /// Where the message is cut.
    pub fn write_plain(&mut self, text: &str) -> fmt::Result {
        if text.len() > self.left {
            return self.write_str(text);
        }
        self.left -= text.len();
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Write for Message<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let whole = text.len() <= self.left;
        let mut end = text.len().min(self.left);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        self.left -= text.len();
        let bytes = text.as_bytes();
        let mut plain = 0;
        let mut at = 0;
        while at < bytes.len() {
            let (length, replacement): (usize, &[u8]) = match bytes[at] {
                b'"' => (1, b"\\\""),
                b'\\' => (1, b"\\\\"),
                ..0x20 | 0x7f => (1, b" "),
                // U+0080 to U+009F.
                0xc2 if bytes.get(at + 1).is_some_and(|&next| next < 0xa0) => (2, b" "),
                _ => {
                    at += 1;
                    continue;
                }
            };
            self.out.extend_from_slice(&bytes[plain..at]);
            self.out.extend_from_slice(replacement);
            at += length;
            plain = at;
        }
        self.out.extend_from_slice(&bytes[plain..]);
        if whole {
            return Ok(());
        }
        self.out.extend_from_slice(b"...");
        // Ends the formatting: nothing follows the dots.
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_take_turns_are_subjects_once() {
        let mut drafts = Drafts::new();
        for _ in 0..3 {
            for thread in 0..NEAR {
                assert_eq!(drafts.about_thread(&thread.to_string()), thread);
            }
        }
        assert_eq!(drafts.subjects.len(), NEAR);
        assert_eq!(drafts.about(Subject::session("s", Some("0"))), NEAR);
        assert_eq!(drafts.about_thread("1"), 1);
        assert_eq!(drafts.about_thread("0"), NEAR + 1, "what is far back is not looked for");
    }

    #[test]
    fn a_draft_is_the_inside_of_an_event() {
        let mut drafts = Drafts::new();
        let nasty = "a\"b\\c\n\u{1}ä\u{7f}\u{9b}\u{a0}😀";
        drafts.push(EventType::DaemonStopped, format_args!("{nasty}"), None::<&()>, Subject::default(), None);
        let long = "ä".repeat(MAX_MESSAGE);
        drafts.push(
            EventType::DaemonStopped,
            format_args!("x{long}, {nasty}"),
            None::<&()>,
            Subject::default(),
            None,
        );
        drafts.push(
            EventType::SessionClosed,
            format_args!("x"),
            Some(&serde_json::json!({"sessionId": "s"})),
            Subject::default(),
            None,
        );
        let (text, _, items) = drafts.into_parts();
        let events: Vec<serde_json::Value> = items
            .iter()
            .map(|item| {
                let inside = std::str::from_utf8(item.text(&text)).unwrap();
                serde_json::from_str(&format!("{{{inside}}}")).unwrap()
            })
            .collect();
        assert_eq!(events[0]["message"], "a\"b\\c  ä  \u{a0}😀");
        assert_eq!(events[0]["detail"], serde_json::Value::Null);
        assert_eq!(events[1]["message"], format!("x{}...", "ä".repeat(MAX_MESSAGE / 2 - 1)));
        assert_eq!(events[2]["type"], "session.closed");
        assert_eq!(events[2]["detail"]["sessionId"], "s");
    }
}
