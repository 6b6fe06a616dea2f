//! The deltas of texts, hundreds of thousands a second at worst: their members are passed on as the text they are, only
//! the preview is decoded, and a line that is written as Codex writes it is taken apart without a parser.

use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{RawString, plain, write_rest};
use crate::app_server::wire;
use crate::hub::drafts::{Drafts, put_on_one_line};
use crate::model::event::EventType;
use crate::model::{self, eight, json};

/// The params without their members' values, and without any white space.
const FRAME: &str = r#"{"threadId":,"turnId":,"itemId":,"delta":}"#;

/// What there are deltas of.
struct Kind {
    method: &'static str,
    event: EventType,
    /// How the event's message begins.
    message: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        method: "item/agentMessage/delta",
        event: EventType::MessageDelta,
        message: "App-server emitted delta for turn ",
    },
    Kind {
        method: "item/plan/delta",
        event: EventType::PlanDelta,
        message: "App-server emitted plan delta for turn ",
    },
];

/// A delta; the members are JSON strings as they came, with the quotes.
pub(super) struct Delta<'a> {
    kind: &'static Kind,
    delta: &'a str,
    item_id: &'a str,
    thread_id: &'a str,
    turn_id: &'a str,
    /// The params where they have more members than these.
    more: Option<&'a RawValue>,
}

impl<'a> Delta<'a> {
    /// From a line as Codex writes it. From another one, which may be a delta too, nothing.
    pub(super) fn of_line(line: &'a str) -> Option<Self> {
        let mut rest = line;
        let method = string(&mut rest, r#"{"method":"#)?;
        let kind = KINDS.iter().find(|kind| method[1..method.len() - 1] == *kind.method)?;
        let thread_id = string(&mut rest, r#","params":{"threadId":"#)?;
        let turn_id = string(&mut rest, r#","turnId":"#)?;
        let item_id = string(&mut rest, r#","itemId":"#)?;
        let delta = string(&mut rest, r#","delta":"#)?;
        is_end(rest).then_some(Self { kind, delta, item_id, thread_id, turn_id, more: None })
    }

    /// From the params, if that is what they are.
    pub(super) fn of_params(method: &str, params: &'a RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            #[serde(borrow)]
            delta: &'a RawValue,
            #[serde(borrow)]
            item_id: &'a RawValue,
            #[serde(borrow)]
            thread_id: &'a RawValue,
            #[serde(borrow)]
            turn_id: &'a RawValue,
        }
        let kind = KINDS.iter().find(|kind| method == kind.method)?;
        let Params { delta, item_id, thread_id, turn_id } = serde_json::from_str(params.get()).ok()?;
        let members @ [delta, item_id, thread_id, turn_id] =
            [delta, item_id, thread_id, turn_id].map(RawValue::get);
        let known = FRAME.len() + members.iter().map(|raw| raw.len()).sum::<usize>();
        let more = (params.get().len() > known).then_some(params);
        let strings = members.iter().all(|raw| raw.starts_with('"'));
        strings.then_some(Self { kind, delta, item_id, thread_id, turn_id, more })
    }

    /// Drafts its event.
    pub(super) fn draft(&self, drafts: &mut Drafts) {
        let Self { kind, delta, item_id, thread_id, turn_id, more } = *self;
        let about = match plain(thread_id) {
            Some(id) => drafts.about_thread(id),
            None => drafts.about_thread(&json::string_chars(thread_id).collect::<String>()),
        };
        drafts.push_written(
            kind.event,
            kind.event.level(),
            about,
            None,
            |out| {
                out.write_plain(kind.message)?;
                match json::inside(turn_id) {
                    turn if eight::is_plain(turn) => out.write_plain(turn)?,
                    _ => write!(out, "{}", RawString(turn_id))?,
                }
                out.write_plain(": ")?;
                match model::plain_preview(delta) {
                    Some((text, end)) => out.write_plain(text).and_then(|()| out.write_plain(end)),
                    None => out.write_str(&model::preview_of_raw(delta)),
                }
            },
            |out| {
                let pieces = [
                    "{\"delta\":",
                    delta,
                    ",\"itemId\":",
                    item_id,
                    ",\"threadId\":",
                    thread_id,
                    ",\"turnId\":",
                ];
                for piece in pieces.iter().chain([&turn_id, &"}"]) {
                    out.extend_from_slice(piece.as_bytes());
                }
                if let Some(params) = more {
                    let start = out.len();
                    write_rest(out, kind.event, params);
                    put_on_one_line(&mut out[start..]);
                }
            },
        );
    }
}

/// Of the deltas of one text, hundreds of which follow each other, what is the same in all: their lines up to the text,
/// and what stands before and after it in their events.
#[derive(Debug)]
pub(super) struct Run {
    line: String,
    event: EventType,
    thread: Arc<str>,
    before: String,
    after: String,
}

/// What stands in an event's JSON between the delta that is shown and the delta.
const BETWEEN: &str = r#"","detail":{"delta":"#;
/// Bytes before the text at most: a longer message may have to be cut.
const MAX_BEFORE: usize = 512;

impl Run {
    /// The run that begins with this delta, which is of that line.
    pub(super) fn of(line: &str, delta: &Delta<'_>) -> Option<Self> {
        let line = line.strip_suffix(line.split_once(r#","delta":"#)?.1)?.to_owned();
        let mut drafts = Drafts::new();
        Delta { delta: r#""""#, ..*delta }.draft(&mut drafts);
        let (text, mut subjects, items) = drafts.into_parts();
        let text = str::from_utf8(items.first()?.text(&text)).ok()?;
        let (before, after) = text.split_once(BETWEEN)?;
        let (before, after) = (before.to_owned(), after.strip_prefix(r#""""#)?.to_owned());
        let thread = subjects.pop()?.thread?;
        (before.len() <= MAX_BEFORE).then_some(Self { line, event: delta.kind.event, thread, before, after })
    }

    /// Drafts the event of a line that goes on with the run. `false` if it does not, or if it shows otherwise than it is
    /// written; then nothing was drafted.
    pub(super) fn draft(&self, drafts: &mut Drafts, line: &str) -> bool {
        let Some(mut rest) = line.strip_prefix(&*self.line) else { return false };
        let delta = first_string(&mut rest).filter(|_| is_end(rest));
        let Some((delta, (shown, cut))) = delta.and_then(|delta| Some((delta, model::plain_preview(delta)?)))
        else {
            return false;
        };
        let about = drafts.about_thread(&self.thread);
        let pieces = [&*self.before, shown, cut, BETWEEN, delta, &self.after];
        drafts.push_pieces(self.event, self.event.level(), about, &pieces);
        true
    }
}

/// Whether this is what stands after the delta in a line.
fn is_end(rest: &str) -> bool {
    rest.strip_prefix('}').is_some_and(wire::is_end_of_notification)
}

/// Takes `before` and the JSON string after it from the beginning of `rest`; the string, with its quotes. One with an
/// escape by number is left to the parser.
fn string<'a>(rest: &mut &'a str, before: &str) -> Option<&'a str> {
    *rest = rest.strip_prefix(before)?;
    first_string(rest)
}

/// As [`string`], with nothing before it.
fn first_string<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let from = *rest;
    let bytes = from.as_bytes();
    let mut at = 1;
    loop {
        at = eight::skip(bytes, at, eight::not_of_string);
        match bytes.get(at)? {
            b'"' => break,
            b'\\' if matches!(bytes.get(at + 1)?, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                at += 2;
            }
            b'\\' | ..0x20 => return None,
            _ => at += 1,
        }
    }
    let (string, after) = from.split_at(at + 1);
    *rest = after;
    string.starts_with('"').then_some(string)
}

#[cfg(test)]
mod tests {
    use super::super::Translator;
    use super::*;
    use crate::app_server::wire::Incoming;
    use crate::hub::drafts::Draft;

    const ORDINARY: &str = r#"{"method":"item/agentMessage/delta","params":{"threadId":"t","turnId":"u","itemId":"i","delta":"a ä\n}"},"emittedAtMs":1795221284857}"#;

    /// What the parser makes of it.
    fn decoded(line: &str) -> Option<Delta<'_>> {
        match wire::decode(line) {
            Ok(Incoming::Notification { method, params }) => Delta::of_params(&method, params),
            _ => None,
        }
    }

    fn is_same(one: &Delta<'_>, other: &Delta<'_>) -> bool {
        [one.delta, one.item_id, one.thread_id, one.turn_id]
            == [other.delta, other.item_id, other.thread_id, other.turn_id]
            && one.kind.event == other.kind.event
            && one.more.is_none()
            && other.more.is_none()
    }

    #[test]
    fn a_line_as_codex_writes_it_is_what_the_parser_makes_of_it() {
        let lines = [
            ORDINARY.to_owned(),
            ORDINARY.replace("agentMessage", "plan"),
            // As older versions write it.
            ORDINARY.replace(r#","emittedAtMs":1795221284857"#, ""),
            ORDINARY.replace(r#""a ä\n}""#, r#""""#),
            ORDINARY.replace("a ä", r#"\"\\\/\b\f\r\t 12345678\n12345678ä"#),
            ORDINARY.replace("a ä", "\u{7f}"),
        ];
        for line in lines {
            let delta = Delta::of_line(&line).unwrap_or_else(|| panic!("{line}"));
            assert!(is_same(&delta, &decoded(&line).unwrap()), "{line}");
        }
    }

    #[test]
    fn every_other_line_is_left_to_the_parser() {
        let changes = [
            ("item/agentMessage/delta", "turn/started"),
            ("item/", r"item\/"),
            ("a ä", r"a \u00e4"),
            ("a ä", r"a \x"),
            ("a ä", "a \u{1}"),
            (r#""a ä\n}""#, "1"),
            (r#"\n}"}"#, r#"\n}","more":1}"#),
            (r#","itemId":"i""#, ""),
            (":1795", ":01795"),
            (":1795", ":-1795"),
            (":1795221284857", ":"),
            ("857}", "857,}"),
            ("857}", "857} "),
            ("857}", "857"),
            ("},\"emitted", "}},\"emitted"),
            ("},\"emitted", ",\"emitted"),
            (",\"emitted", ",\"id\":1,\"emitted"),
            ("{\"method", "{ \"method"),
        ];
        for (from, to) in changes {
            let line = ORDINARY.replace(from, to);
            assert!(line != ORDINARY && Delta::of_line(&line).is_none(), "{line}");
        }
        for length in 0..ORDINARY.len() {
            assert!(ORDINARY.get(..length).is_none_or(|line| Delta::of_line(line).is_none()));
        }
    }

    #[test]
    fn no_byte_changed_makes_it_something_else_than_the_parser_says() {
        let mut taken = 0;
        for at in 0..ORDINARY.len() {
            for byte in 0..=255 {
                let mut line = ORDINARY.as_bytes().to_vec();
                line[at] = byte;
                let Ok(line) = str::from_utf8(&line) else { continue };
                if let Some(delta) = Delta::of_line(line) {
                    taken += 1;
                    assert!(decoded(line).is_some_and(|decoded| is_same(&delta, &decoded)), "{line}");
                }
            }
        }
        assert!(taken > 1000, "{taken}");
    }

    /// What stands in the drafts and what they are about, by lines of which each goes through this translator or, where
    /// it does not take them, is left out.
    fn drafted<'a>(
        translator: &mut Translator,
        lines: impl Iterator<Item = &'a str>,
    ) -> Vec<(String, Option<Arc<str>>)> {
        let mut drafts = Drafts::new();
        for line in lines {
            translator.translate_plain_delta(&mut drafts, line);
        }
        let (text, subjects, items) = drafts.into_parts();
        let text_of = |item: &Draft| String::from_utf8(item.text(&text).to_vec()).unwrap();
        items.iter().map(|item| (text_of(item), subjects[item.about].thread.clone())).collect()
    }

    #[test]
    fn a_line_within_a_run_becomes_what_it_becomes_alone() {
        let texts = [
            "a",
            "",
            " ",
            " a  b ",
            "a b",
            r"\n",
            r#"\""#,
            "ä",
            "\u{7f}",
            "\u{1}",
            r"\u00e4",
            "a\"b",
            r#"a"},"x":{"y":"#,
        ];
        let long = ["x".repeat(160), "x".repeat(161), "a b ".repeat(100), "ä".repeat(200)];
        let mut lines = Vec::new();
        for (from, to) in [
            ("", ""),
            (r#""t""#, r#""other""#),
            (r#""t""#, r#""\n""#),
            (r#""u""#, r#""\"""#),
            (r#""i""#, r#""","delta":"""#),
            ("agentMessage", "plan"),
            (r#"{"method"#, r#"{ "method"#),
            (r#"\n}"}"#, r#"\n}","more":1}"#),
            (r#","emittedAtMs":1795221284857"#, ""),
            ("857}", "857} "),
        ] {
            let line = ORDINARY.replace(from, to);
            let texts = texts.iter().copied().chain(long.iter().map(String::as_str));
            lines.extend(texts.map(|text| line.replace(r"a ä\n}", text)));
        }
        for length in [400, 600, 2000] {
            let turn = format!(r#""{}""#, "u".repeat(length));
            lines.extend([""; 3].map(|_| ORDINARY.replace(r#""u""#, &turn)));
        }
        let mut alone = Vec::new();
        for line in &lines {
            alone.extend(drafted(&mut Translator::default(), [&**line].into_iter()));
        }
        assert!(alone.len() > lines.len() / 3, "{} of {}", alone.len(), lines.len());
        let mut translator = Translator::default();
        assert_eq!(drafted(&mut translator, lines.iter().map(String::as_str)), alone);
        // One after another of two runs, and in an order in which most lines follow one of another run.
        let shuffled: Vec<usize> = (0..lines.len()).map(|at| at * 37 % lines.len()).collect();
        let expected: Vec<_> = shuffled
            .iter()
            .flat_map(|&at| drafted(&mut Translator::default(), [&*lines[at]].into_iter()))
            .collect();
        assert_eq!(drafted(&mut translator, shuffled.iter().map(|&at| &*lines[at])), expected);
    }

    #[test]
    fn the_second_line_of_a_run_is_known_by_its_beginning() {
        let mut translator = Translator::default();
        let mut drafts = Drafts::new();
        assert!(translator.translate_plain_delta(&mut drafts, ORDINARY));
        let run = translator.run.as_ref().unwrap();
        assert!(run.draft(&mut drafts, &ORDINARY.replace(r"a ä\n}", "more")));
        assert!(!run.draft(&mut drafts, &ORDINARY.replace(r#""u""#, r#""v""#)));
        assert_eq!(drafts.count(), 2);
    }
}
