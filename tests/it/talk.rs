//! What the tests of the backbone say to a daemon, and how they read what it says.

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Answer, Client, Stream};
use crate::daemon::Daemon;

pub(crate) const SESSIONS: &str = "/v1/codexd/sessions";
pub(crate) const TURN: &str = "/v1/codexd/turn";

/// A new session, which must be one.
pub(crate) fn session(client: &Client, body: &Value) -> Value {
    let answer = client.post(SESSIONS, body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    answer.json()["data"]["session"].take()
}

/// The id of a record.
pub(crate) fn id(session: &Value) -> &str {
    session["sessionId"].as_str().expect("a sessionId")
}

/// The session as it is now.
pub(crate) fn session_now(client: &Client, id: &str) -> Value {
    let answer = client.get(&format!("{SESSIONS}/{id}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"]["session"].take()
}

/// Asks for a turn.
pub(crate) fn try_turn(client: &Client, session: &str, prompt: &str) -> Answer {
    client.post(TURN, &json!({"sessionId": session, "input": prompt}))
}

/// The id of a new turn, which must be accepted.
pub(crate) fn turn(client: &Client, session: &str, prompt: &str) -> String {
    let answer = try_turn(client, session, prompt);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let data = answer.json()["data"].take();
    assert_eq!((&data["accepted"], &data["session"]["sessionId"]), (&json!(true), &json!(session)));
    data["turnId"].as_str().expect("a turnId").to_owned()
}

/// Input for the turn that is believed to be running.
pub(crate) fn steer(client: &Client, session: &str, turn: &str, prompt: &str) -> Answer {
    client.post(TURN, &json!({"sessionId": session, "input": prompt, "expectedTurnId": turn}))
}

/// Waits for an event of that type that names the turn.
pub(crate) fn of_turn(stream: &Stream, kind: &str, turn: &str) -> Value {
    stream.wait_for(|event| event["type"] == kind && event["detail"]["turnId"] == turn, DEADLINE)
}

/// Waits for the end of the turn; its status.
pub(crate) fn completed(stream: &Stream, turn: &str) -> String {
    let event = of_turn(stream, "app-server.turn.completed", turn);
    event["detail"]["status"].as_str().expect("a status").to_owned()
}

/// The turn's deltas, in the order of the events.
pub(crate) fn deltas(events: &[Value], turn: &str) -> Vec<String> {
    let of_turn = |event: &&Value| {
        event["type"] == "app-server.turn.message.delta" && event["detail"]["turnId"] == turn
    };
    let delta = |event: &Value| event["detail"]["delta"].as_str().expect("a delta").to_owned();
    events.iter().filter(of_turn).map(delta).collect()
}

/// `word0 ` to `word<n-1> `.
pub(crate) fn words(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("word{i} ")).collect()
}

/// Started once, then its deltas, then completed once; nothing of it after that.
pub(crate) fn assert_in_order(events: &[Value], turn: &str) {
    let mut kinds: Vec<&str> = events
        .iter()
        .filter(|event| event["detail"]["turnId"] == turn)
        .filter_map(|event| event["type"].as_str()?.strip_prefix("app-server.turn."))
        .filter(|kind| ["started", "message.delta", "completed"].contains(kind))
        .collect();
    kinds.dedup_by(|next, last| next == last && *next == "message.delta");
    assert_eq!(kinds, ["started", "message.delta", "completed"], "turn {turn}");
}

/// The log's events, which must be numbered from 1 without a gap.
pub(crate) fn whole_log(daemon: &Daemon) -> Vec<Value> {
    let text = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    assert!(text.ends_with('\n'), "the last line is cut off");
    let events = daemon.log_events();
    assert_eq!(events.len(), text.lines().count());
    for (seq, event) in (1..).zip(&events) {
        assert_eq!(event["seq"], json!(seq), "{event}");
    }
    events
}

/// The first event of that type, or a failure that shows which there are.
pub(crate) fn find<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let kinds: Vec<_> = events.iter().map(|event| event["type"].to_string()).collect();
    events.iter().find(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind} in {kinds:?}"))
}

/// How many events of that type there are.
pub(crate) fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["type"] == kind).count()
}
