//! What the tests of log and streams have in common: the log as it stands on disk, a little load, a client of
//! Server-Sent Events.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::Client;
use crate::daemon::Daemon;

/// Path of the event stream.
pub(crate) const EVENTS: &str = "/v1/codexd/events";

/// The files of the log, oldest first.
pub(crate) fn segments(daemon: &Daemon) -> Vec<PathBuf> {
    let current = daemon.log("events.jsonl");
    let mut finished: Vec<(u64, PathBuf)> = std::fs::read_dir(current.parent().unwrap())
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            let seq = name.strip_prefix("events.")?.strip_suffix(".jsonl")?.parse().ok()?;
            Some((seq, path))
        })
        .collect();
    finished.sort();
    finished.into_iter().map(|(_, path)| path).chain([current]).collect()
}

/// Every event on disk, across segments; each line must be whole and an event.
pub(crate) fn on_disk(daemon: &Daemon) -> Vec<Value> {
    let mut events = Vec::new();
    for path in segments(daemon) {
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{} ends in the middle of a line", path.display());
        for line in text.lines() {
            let event: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in {}: {line}", path.display()));
            events.push(event);
        }
    }
    events
}

/// The seq of an event.
pub(crate) fn seq(event: &Value) -> u64 {
    event["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {event}"))
}

/// Every seq once, in order, without a hole.
pub(crate) fn check_contiguous(events: &[Value]) {
    for pair in events.windows(2) {
        assert_eq!(seq(&pair[1]), seq(&pair[0]) + 1, "after {}", pair[0]);
    }
}

/// A new session.
pub(crate) fn new_session(client: &Client) -> Value {
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["data"]["session"].clone()
}

/// A turn in it; its id.
pub(crate) fn turn(client: &Client, session: &Value, prompt: &str) -> String {
    let body = json!({ "sessionId": session["sessionId"], "input": prompt });
    let answer = client.post("/v1/codexd/turn", &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["data"]["turnId"].as_str().unwrap().to_owned()
}

/// A page: the `data` of a 200.
pub(crate) fn page(client: &Client, query: &str) -> Value {
    let answer = client.get(&format!("{EVENTS}?{query}"));
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer.json()["data"].take()
}

/// Pages with that query from a cursor to the end.
pub(crate) fn pages(client: &Client, after: u64, query: &str) -> Vec<Value> {
    let (mut events, mut after) = (Vec::new(), after);
    loop {
        let mut page = page(client, &format!("after={after}&{query}"));
        let more = page["more"].as_bool().unwrap();
        let Value::Array(part) = page["events"].take() else { panic!("{page}") };
        after = part.last().map_or(after, seq);
        assert!(!part.is_empty() || !more, "more after nothing: {page}");
        events.extend(part);
        if !more {
            return events;
        }
    }
}

/// Waits for the end of that turn, in the log. Turns that take their time may be long on a busy machine.
pub(crate) fn wait_for_turn(client: &Client, turn: &str) {
    let mut after = 0;
    wait_up_to(4 * DEADLINE, "the turn's end", || {
        let page = page(client, &format!("after={after}&type=app-server.turn.completed"));
        let events = page["events"].as_array().unwrap();
        after = match events.last() {
            Some(last) if page["more"] == true => seq(last),
            _ => page["latestSeq"].as_u64().unwrap(),
        };
        events.iter().any(|event| event["detail"]["turnId"] == turn)
    });
}

/// Asks again and again until it is so.
pub(crate) fn wait_until(what: &str, so: impl FnMut() -> bool) {
    wait_up_to(DEADLINE, what, so);
}

fn wait_up_to(deadline: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !so() {
        assert!(Instant::now() < until, "{what}: not within {deadline:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A client of Server-Sent Events.
pub(crate) struct Sse {
    stream: BufReader<TcpStream>,
    pub(crate) head: String,
}

/// One thing it got.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Event { id: Option<u64>, kind: String, data: Value },
    Comment(String),
    End,
}

impl Sse {
    /// Asks for the stream; `query` without the question mark.
    pub(crate) fn open(client: &Client, query: &str, fields: &[(&str, &str)]) -> Sse {
        let mut stream = client.connect();
        let host = stream.peer_addr().unwrap();
        let mut request = format!("GET {EVENTS}?{query} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in [("accept", "text/event-stream")].iter().chain(fields) {
            request += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).unwrap();
        let mut stream = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0, "the connection ends in the head: {head}");
        }
        Sse { stream, head }
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Message {
        let (mut id, mut kind, mut data, mut comment) = (None, String::new(), None, None);
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).expect("within the deadline") == 0 {
                return Message::End;
            }
            let line = line.strip_suffix('\n').expect("a whole line");
            match line.split_once(':') {
                None if line.is_empty() && data.is_some() => {
                    return Message::Event { id, kind, data: data.unwrap() };
                }
                None if line.is_empty() && comment.is_some() => return Message::Comment(comment.unwrap()),
                None => {}
                Some((name, value)) => {
                    let value = value.strip_prefix(' ').unwrap_or(value);
                    match name {
                        "" => comment = Some(value.to_owned()),
                        "id" => id = Some(value.parse().unwrap()),
                        "event" => kind = value.to_owned(),
                        "data" => data = Some(serde_json::from_str(value).unwrap()),
                        other => panic!("field {other}"),
                    }
                }
            }
        }
    }

    /// The next event or gap.
    pub(crate) fn next_event(&mut self) -> (u64, String, Value) {
        loop {
            match self.next() {
                Message::Event { id, kind, data } => return (id.unwrap(), kind, data),
                Message::Comment(_) => {}
                Message::End => panic!("the stream has ended"),
            }
        }
    }
}

impl Drop for Sse {
    fn drop(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}
