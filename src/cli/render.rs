//! Events for a person: one line each, what Codex says as running text.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::model::event::{Event, EventType, Level};
use crate::model::printable;

/// Text of other turns that waits while one turn has the line, at most: bytes, and for how long.
const MAX_HELD: usize = 4096;
const MAX_WAIT: Duration = Duration::from_secs(1);

/// Whether to colour what goes to standard output: it is a terminal that can, and nobody asked not to
/// (<https://no-color.org>: any value but an empty one).
pub fn wants_colour() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    io::stdout().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Text of several lines, fit for a terminal: its lines and tabs stay, everything else that a terminal would obey is
/// written as an escape. Lines after the first begin with `indent`.
pub fn readable(text: &str, indent: &str) -> String {
    let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
    text.split('\n').map(line).collect::<Vec<_>>().join(&format!("\n{indent}"))
}

/// The detail of an event that is a piece of text.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delta {
    delta: String,
    item_id: String,
    turn_id: String,
}

/// Text of one item of one turn that belongs together.
#[derive(Debug)]
struct Running {
    turn: String,
    item: String,
    head: String,
    text: String,
}

impl Running {
    fn is_of(&self, delta: &Delta) -> bool {
        self.turn == delta.turn_id && self.item == delta.item_id
    }
}

/// Writes events. Between two calls the last line may be open: text that goes on.
///
/// Only one turn at a time has the open line. What others say meanwhile is held back, never for long, so that two
/// answers at once can be read; within a turn nothing changes its place.
pub struct Renderer<W> {
    out: W,
    colour: bool,
    /// Whose text the open line has; its `text` is empty, for it was written.
    open: Option<Running>,
    held: Vec<Running>,
    held_since: Option<Instant>,
    /// The date of the last line.
    date: String,
}

impl<W: Write> Renderer<W> {
    /// Onto that output.
    pub fn new(out: W, colour: bool) -> Self {
        Self { out, colour, open: None, held: Vec::new(), held_since: None, date: String::new() }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// What the output says.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Some(delta) = text_of(event) {
            return self.text(event, delta);
        }
        self.settle()?;
        self.new_date(event)?;
        let head = self.head(event);
        writeln!(self.out, "{head}{}", printable(&event.message))
    }

    /// Writes a line about the stream itself.
    ///
    /// # Errors
    /// What the output says.
    pub fn note(&mut self, note: &str) -> io::Result<()> {
        self.settle()?;
        let (dim, plain) = self.paint("2");
        writeln!(self.out, "{dim}-- {}{plain}", printable(note))
    }

    /// Nothing has come for a while: what was held back is shown, the open line stays open if nothing was.
    ///
    /// # Errors
    /// What the output says.
    pub fn idle(&mut self) -> io::Result<()> {
        if self.held.is_empty() { Ok(()) } else { self.settle() }
    }

    /// Gives everything written so far to the reader.
    ///
    /// # Errors
    /// What the output says.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    fn text(&mut self, event: &Event, delta: Delta) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.is_of(&delta)) {
            self.out.write_all(readable(&delta.delta, "    ").as_bytes())?;
            return self.impatient();
        }
        if let Some(held) = self.held.iter_mut().find(|held| held.is_of(&delta)) {
            held.text.push_str(&delta.delta);
            return self.impatient();
        }
        // The next item of the turn that has the line ends it.
        if self.open.as_ref().is_some_and(|open| open.turn == delta.turn_id) {
            self.settle()?;
        }
        self.new_date(event)?;
        let (dim, plain) = self.paint("2");
        let turn = printable(tail(&delta.turn_id)).into_owned();
        let head = format!("{}{dim}(turn …{turn}){plain} ", self.head(event));
        let Delta { delta: text, item_id: item, turn_id: turn } = delta;
        if self.open.is_none() {
            write!(self.out, "{head}{}", readable(&text, "    "))?;
            self.open = Some(Running { turn, item, head, text: String::new() });
            return Ok(());
        }
        self.held.push(Running { turn, item, head, text });
        self.impatient()
    }

    /// Gives up the line when others have waited long enough.
    fn impatient(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let since = *self.held_since.get_or_insert_with(Instant::now);
        let bytes: usize = self.held.iter().map(|held| held.text.len()).sum();
        if bytes >= MAX_HELD || since.elapsed() >= MAX_WAIT { self.settle() } else { Ok(()) }
    }

    /// Ends the open line and writes what was held back, each on lines of its own.
    fn settle(&mut self) -> io::Result<()> {
        if self.open.take().is_some() {
            writeln!(self.out)?;
        }
        self.held_since = None;
        for held in std::mem::take(&mut self.held) {
            writeln!(self.out, "{}{}", held.head, readable(&held.text, "    "))?;
        }
        Ok(())
    }

    /// A line for a date that begins.
    fn new_date(&mut self, event: &Event) -> io::Result<()> {
        match event.created_at.get(..10) {
            Some(date) if date != self.date => {
                self.date = date.to_owned();
                self.note(&format!("{date} UTC"))
            }
            _ => Ok(()),
        }
    }

    /// Time, number and type.
    fn head(&self, event: &Event) -> String {
        let time = event.created_at.get(11..23).unwrap_or(&event.created_at);
        let (dim, plain) = self.paint("2");
        let (tint, off) = self.paint(match event.level {
            Level::Info => "36",
            Level::Warn => "33",
            Level::Error => "31",
        });
        let mark = match event.level {
            Level::Info => ' ',
            Level::Warn => '!',
            Level::Error => '*',
        };
        let (time, kind) = (printable(time), printable(&event.kind));
        format!("{dim}{time} {:>6}{plain} {tint}{mark}{kind}{off}  ", event.seq)
    }

    fn paint(&self, code: &str) -> (String, &'static str) {
        if self.colour { (format!("\x1b[{code}m"), "\x1b[0m") } else { (String::new(), "") }
    }
}

/// The end of an id, which is what differs.
fn tail(id: &str) -> &str {
    id.char_indices().rev().nth(5).and_then(|(at, _)| id.get(at..)).unwrap_or(id)
}

fn text_of(event: &Event) -> Option<Delta> {
    match EventType::from_name(&event.kind)? {
        EventType::MessageDelta | EventType::PlanDelta => {
            serde_json::from_str(event.detail.as_ref()?.get()).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: u64, kind: &str, message: &str, detail: serde_json::Value) -> Event {
        serde_json::from_value(json!({
            "seq": seq, "createdAt": "2026-03-22T15:39:28.123Z", "level": "info",
            "type": kind, "message": message, "detail": detail,
        }))
        .unwrap()
    }

    fn delta(seq: u64, turn: &str, item: &str, text: &str) -> Event {
        let detail = json!({ "delta": text, "itemId": item, "threadId": "t", "turnId": turn });
        event(seq, "app-server.turn.message.delta", "…", detail)
    }

    fn rendered(colour: bool, events: &[Event]) -> String {
        let mut out = Vec::new();
        let mut renderer = Renderer::new(&mut out, colour);
        events.iter().for_each(|event| renderer.event(event).unwrap());
        renderer.settle().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_runs_on_within_an_item_and_stops_for_anything_else() {
        let text = rendered(
            false,
            &[
                delta(1, "a", "m", "one "),
                delta(2, "a", "m", "two\nthree"),
                delta(3, "a", "n", "next"),
                event(4, "session.closed", "Closed.", json!(null)),
            ],
        );
        assert_eq!(
            text,
            "-- 2026-03-22 UTC\n\
             15:39:28.123      1  app-server.turn.message.delta  (turn …a) one two\n    three\n\
             15:39:28.123      3  app-server.turn.message.delta  (turn …a) next\n\
             15:39:28.123      4  session.closed  Closed.\n"
        );
    }

    #[test]
    fn two_turns_at_once_do_not_cut_each_other_up() {
        let events: Vec<Event> = (0..20)
            .map(|seq| delta(seq, if seq % 2 == 0 { "turn-000001" } else { "turn-000002" }, "m", "word "))
            .collect();
        let text = rendered(false, &events);
        let head = "15:39:28.123      0  app-server.turn.message.delta  (turn …000001) ";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1], format!("{head}{}", "word ".repeat(10)));
        assert!(lines[2].ends_with(&format!("(turn …000002) {}", "word ".repeat(10))), "{text}");
        // What is held back is bounded.
        let long =
            [delta(1, "a", "m", "x"), delta(2, "b", "m", &"y".repeat(MAX_HELD)), delta(3, "a", "m", "x")];
        assert_eq!(rendered(false, &long).lines().count(), 4);
    }

    #[test]
    fn nothing_from_outside_drives_the_terminal() {
        let hostile = [
            event(1, "x", "a\x1b[2Jb\nc", json!(null)),
            delta(2, "a\x1b", "m", "\x07\tone\r"),
            delta(3, "b", "m", "\x1b]0;title\x07"),
        ];
        let text = rendered(false, &hostile);
        assert!(text.contains("a\\u{1b}[2Jb\\nc\n") && text.contains("\\u{7}\tone\\r"), "{text:?}");
        assert!(!text.chars().any(|sign| sign.is_control() && sign != '\n' && sign != '\t'), "{text:?}");
        assert!(rendered(true, &hostile).contains("\x1b[36m x\x1b[0m"));
    }
}
