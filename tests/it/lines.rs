//! How long a line of the app-server may be does not depend on where the reads of it end, and nobody waits for what was in
//! a longer one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use codexd::app_server::connection::Connection;
use codexd::app_server::reader::{End, Reader};
use codexd::config::Strategy;
use codexd::store::raw_log::RawLog;
use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::conversation::{ended, look, on_script, on_stub, session, talk, turn};
use crate::inbox_reconnect::Parts;
use crate::misbehaviour::SHAKES_HANDS;

const MOST: usize = 100;

/// Hands out one piece a read.
struct Pieces {
    left: VecDeque<Vec<u8>>,
    /// Always ready to be read.
    null: File,
}

impl Read for Pieces {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = self.left.pop_front().unwrap_or_default();
        out[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

impl AsFd for Pieces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }
}

/// Reads that to the end, in pieces that end there.
fn read(parts: &Parts, bytes: &[u8], ends: &[usize]) -> End {
    let (connection, _written) = Connection::new(1, None);
    let reader = Reader::new(parts.hub.clone(), connection, Arc::clone(&parts.inbox), MOST);
    let places = [&[0], ends, &[bytes.len()]].concat();
    let pieces = places.windows(2).map(|place| bytes[place[0]..place[1]].to_vec());
    let left = pieces.filter(|piece| !piece.is_empty()).collect();
    let input = Pieces { left, null: File::open("/dev/null").unwrap() };
    let log = tempfile::NamedTempFile::new().unwrap();
    let (cancelled, _cancel) = codexd::os::pipe().unwrap();
    let end = reader.run(input, &cancelled, RawLog::open(log.path(), None, None).unwrap());
    let (done, taken) = bounded(1);
    parts.hub.transact_in_order(0, |_, _| (), move |_| done.send(()).unwrap()).unwrap();
    taken.recv_timeout(DEADLINE).expect("the hub");
    end
}

/// A notification that is a line of so many bytes.
fn line(length: usize) -> String {
    let line =
        |filler: usize| json!({ "method": "brand/new", "params": { "x": "x".repeat(filler) } }).to_string();
    line(length - line(0).len())
}

/// Of the events since `seen` were, the types, and the bytes of what could not be read.
fn told(parts: &Parts, seen: &mut usize) -> Vec<(String, Value)> {
    let text = std::fs::read_to_string(parts.config.paths.events()).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let new = events.iter().skip(std::mem::replace(seen, events.len()));
    new.map(|event| (event["type"].as_str().unwrap().to_owned(), event["detail"]["bytes"].clone())).collect()
}

#[test]
fn the_longest_line_is_as_long_wherever_the_reads_end() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let mut seen = 0;
    for length in [MOST, MOST + 1, 3 * MOST] {
        for ended in [true, false] {
            let text = format!("{}{}", line(length), if ended { "\n" } else { "" });
            for first in (0..=text.len()).step_by(9).chain([length - 1, length, text.len()]) {
                for second in [first, text.len().min(first + 7), length.max(first)] {
                    let end = read(&parts, text.as_bytes(), &[first, second]);
                    let why = format!("{length} bytes, {ended}, read up to {first} and {second}: {end:?}");
                    let expected = match length {
                        MOST => ("app-server.notification".to_owned(), Value::Null),
                        _ => ("app-server.message.unreadable".to_owned(), json!(length)),
                    };
                    assert_eq!(told(&parts, &mut seen), [expected], "{why}");
                    assert_eq!(end.trailing_message_length, if ended { 0 } else { length }, "{why}");
                    assert_eq!(end.flushed_trailing_message, !ended && length == MOST, "{why}");
                }
            }
        }
    }
}

#[test]
fn of_a_turn_whose_last_line_lacks_its_end_nothing_is_made_up() {
    let parts = Parts::start(Strategy::Spawn, Duration::ZERO);
    let items = r#"{"method":"turn/completed","params":{"threadId":"t","turn":{"id":"u","items":[{"status":"inProgress"}"#;
    let whole = format!(r#"{items}],"status":"completed"}}}}}}"#);
    let mut seen = 0;
    for (text, expected) in [(items, &[0][..]), (&whole, &[0]), (&format!("{whole}\n"), &[0, 1])] {
        assert!(text.len() > MOST);
        read(&parts, text.as_bytes(), &[]);
        let kinds = ["app-server.message.unreadable", "app-server.turn.completed"];
        let expected: Vec<_> = expected.iter().map(|&kind: &usize| kinds[kind]).collect();
        let told: Vec<_> = told(&parts, &mut seen).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(told, expected, "{text:?}");
    }
}

#[test]
fn nobody_waits_for_what_was_in_a_line_too_long() {
    let (builder, _threads) = on_stub(&["--max-line-bytes", "100000"]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    let running = turn(&client, &id, "big: 200000");
    assert_eq!(ended(&stream, &running), "completed");
    let shown = look(&client, &id);
    assert_eq!((&shown["currentTurnId"], &shown["lastTurnStatus"]), (&Value::Null, &json!("completed")));
    let too_long = |event: &Value| event["type"] == "app-server.message.unreadable";
    let unreadable = stream.events().into_iter().filter(too_long).count();
    assert_eq!(unreadable, 3, "the delta, the item and the end of the turn");
    talk(&client, &stream, &id, "say 1 words");
    daemon.stop();
}

#[test]
fn an_answer_and_a_question_too_long_are_refused_at_once() {
    let long = "head -c 3000 /dev/zero | tr '\\0' 'x'";
    let script = format!(
        r#"{SHAKES_HANDS} read line
        printf '{{"method":"item/tool/requestUserInput","id":"q","params":{{"x":"'; {long}; echo '"}}}}'
        read answer; echo "$answer" >&2
        printf '{{"id":2,"result":{{"x":"'; {long}; echo '"}}}}'
        exec sleep 600"#
    );
    let flags = ["--max-line-bytes", "2000", "--app-server-timeout-ms", "60000"];
    let mut daemon = on_script(&script, &flags).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (502, Some("app_server_error")),
        "{}",
        answer.text()
    );
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("thread/start") && message.contains("the 2000 bytes of --max-line-bytes"),
        "{message}"
    );
    let said = stream.wait_for_type("child.stderr")["message"].as_str().unwrap().to_owned();
    assert!(
        said.contains(
            r#"{"id":"q","error":{"code":-32600,"message":"codexd cannot read this: it is longer than "#
        ),
        "{said}"
    );
    daemon.stop();
}
