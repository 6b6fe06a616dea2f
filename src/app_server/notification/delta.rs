//! The deltas of texts, hundreds of thousands a second at worst: their members are passed on as the text they are, only
//! the preview is decoded, and a line that is written as Codex writes it is taken apart without a parser.

use std::fmt::Write;

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

    /// The same without its text.
    pub(super) fn empty(&self) -> Self {
        Self { delta: r#""""#, ..*self }
    }

    /// The type of its event.
    pub(super) fn event(&self) -> EventType {
        self.kind.event
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

/// Whether this is what stands after the delta in a line.
pub(super) fn is_end(rest: &str) -> bool {
    rest.strip_prefix('}').is_some_and(wire::is_end_of_notification)
}

/// Takes `before` and the JSON string after it from the beginning of `rest`; the string, with its quotes. One with an
/// escape by number is left to the parser.
fn string<'a>(rest: &mut &'a str, before: &str) -> Option<&'a str> {
    *rest = rest.strip_prefix(before)?;
    first_string(rest)
}

/// As [`string`], with nothing before it.
pub(super) fn first_string<'a>(rest: &mut &'a str) -> Option<&'a str> {
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
pub(super) mod tests {
    use super::*;
    use crate::app_server::wire::Incoming;

    pub(in super::super) const ORDINARY: &str = r#"{"method":"item/agentMessage/delta","params":{"threadId":"t","turnId":"u","itemId":"i","delta":"a ä\n}"},"emittedAtMs":1795221284857}"#;

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
}
