//! A line longer than is taken: enough of it is kept to know whom it is for, so that nobody waits for what was in it.

use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::wire::{self, Incoming};
use crate::model::members::Members;

/// Bytes kept of its beginning: in what Codex writes, ids stand before whatever may be long.
const HEAD: usize = 4096;
/// Bytes kept of its end, where a turn has its status: behind it are an error and four numbers.
const TAIL: usize = 512;

/// A line too long, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Oversize {
    head: Vec<u8>,
    tail: Vec<u8>,
    length: usize,
}

/// Whom a line too long was for.
#[derive(Debug)]
pub(super) enum Addressee {
    /// Who called the app-server: the id of the request of ours that it answers.
    Caller(i64),
    /// The app-server, which asks that under an id of its own and waits for an answer.
    AppServer(Box<RawValue>),
    /// Everybody: a turn is over. The method, and as much of the params as tells of that.
    Turn(&'static str, Box<RawValue>),
}

impl Oversize {
    /// More of the line.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let room = HEAD.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let last = &bytes[bytes.len().saturating_sub(TAIL)..];
        self.tail.drain(..(self.tail.len() + last.len()).saturating_sub(TAIL));
        self.tail.extend_from_slice(last);
        self.length += bytes.len();
    }

    /// Its bytes so far.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Whom the whole line was for; `None` when nobody misses it.
    pub(super) fn addressee(&self) -> Option<Addressee> {
        let head = closed(&self.head)?;
        match wire::decode(&head).ok()? {
            Incoming::Response { id, .. } => Some(Addressee::Caller(id)),
            Incoming::Request { id, .. } => Some(Addressee::AppServer(id.to_owned())),
            Incoming::Notification { method, params } if method == "turn/completed" => {
                let params = Members::of(params)?;
                let (thread, turn) = (params.text("threadId")?, params.object("turn")?);
                let turn = json!({ "id": turn.text("id")?, "status": self.status() });
                let told = to_raw_value(&json!({ "threadId": thread, "turn": turn })).ok()?;
                Some(Addressee::Turn("turn/completed", told))
            }
            Incoming::Notification { .. } => None,
        }
    }

    /// How the turn has ended. Only a failed one has something long behind its status: the error.
    fn status(&self) -> String {
        let tail = String::from_utf8_lossy(&self.tail);
        // Within a string the quotes would have backslashes.
        let behind = tail.rsplit_once(r#""status":""#).and_then(|(_, behind)| behind.split_once('"'));
        behind.map_or("failed", |(status, _)| status).to_owned()
    }
}

/// The object that begins like that, without what is not whole: it ends before the last comma between two members or
/// elements. `None` when there is no comma.
fn closed(head: &[u8]) -> Option<String> {
    let mut open = Vec::new();
    let mut whole = None;
    let (mut in_string, mut escaped) = (false, false);
    for (at, &byte) in head.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' => open.push(b'}'),
            b'[' => open.push(b']'),
            b'}' | b']' => drop(open.pop()),
            b',' => whole = Some((at, open.clone())),
            _ => {}
        }
    }
    let (end, open) = whole?;
    let closing = open.into_iter().rev();
    let text: Vec<u8> = head[..end].iter().copied().chain(closing).collect();
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line, in pieces of so many bytes.
    fn of(line: &str, pieces: usize) -> Oversize {
        let mut oversize = Oversize::default();
        line.as_bytes().chunks(pieces).for_each(|piece| oversize.extend(piece));
        assert_eq!(oversize.length(), line.len());
        oversize
    }

    #[test]
    fn an_object_is_closed_behind_what_is_whole() {
        for (head, expected) in [
            (
                r#"{"id":7,"result":{"a":[{"b":"x,y\",","c":[1,2],"d":"#,
                r#"{"id":7,"result":{"a":[{"b":"x,y\",","c":[1,2]}]}}"#,
            ),
            (r#"{"id":7,"result":"long,"#, r#"{"id":7}"#),
            (r#"{"a":[1,[2,3],4],"b":{"c":5,"#, r#"{"a":[1,[2,3],4],"b":{"c":5}}"#),
        ] {
            assert_eq!(closed(head.as_bytes()).as_deref(), Some(expected), "{head}");
        }
        assert_eq!(closed(br#"{"id":"#), None);
    }

    #[test]
    fn whom_it_was_for_is_known_wherever_the_reads_end() {
        let long = "x\\\"status\\\":\\\"no\\\",".repeat(1000);
        let turn = |rest: &str| {
            format!(
                r#"{{"method":"turn/completed","params":{{"threadId":"t","turn":{{"id":"u","items":[{{"status":"inProgress","text":"{long}"}}],{rest}}}}},"emittedAtMs":1}}"#
            )
        };
        for pieces in [1, 7, 500, 4096, 100_000] {
            let addressee = |line: &str| of(line, pieces).addressee();
            let answer = format!(r#"{{"id":7,"result":{{"text":"{long}"}}}}"#);
            assert!(matches!(addressee(&answer), Some(Addressee::Caller(7))));
            let asked = format!(r#"{{"method":"item/x","id":"a","params":{{"text":"{long}"}}}}"#);
            assert!(matches!(addressee(&asked), Some(Addressee::AppServer(id)) if id.get() == "\"a\""));
            let told = format!(r#"{{"method":"item/completed","params":{{"text":"{long}"}}}}"#);
            assert!(addressee(&told).is_none());
            for (rest, status) in [
                (r#""status":"completed","error":null,"durationMs":5"#.to_owned(), "completed"),
                (format!(r#""status":"failed","error":{{"message":"{long}"}}"#), "failed"),
            ] {
                let Some(Addressee::Turn(_, params)) = addressee(&turn(&rest)) else { panic!("{rest}") };
                let expected = json!({ "threadId": "t", "turn": { "id": "u", "status": status } });
                assert_eq!(serde_json::from_str::<serde_json::Value>(params.get()).unwrap(), expected);
            }
        }
    }
}
