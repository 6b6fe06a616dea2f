//! Turns, threads and the handshake.

use super::{Session, assert_alike, recorded};
use serde_json::{Value, json};
use std::io::Write;

#[test]
fn plain_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({"cwd": "/"}));
    session.turn(&thread, "say 6 words");
    let completed = session.until("turn/completed");
    assert_eq!(completed["params"]["turn"]["items"][0]["text"], "word0 word1 word2 word3 word4 word5 ");
    assert_eq!(completed["params"]["turn"]["itemsView"], "summary");
    assert_alike(&session.since_turn_start(), &recorded("plain-turn.jsonl", "turn/start", None));
    assert_eq!(session.end(), 0);
}

#[test]
fn handshake() {
    let folder = tempfile::tempdir().unwrap();
    let mut session = Session::start(folder.path(), "overload=1");
    assert_eq!(session.call("thread/start", json!({}))["message"], "Not initialized");
    assert_eq!(session.call("initialize", json!({}))["code"], -32600);
    session.initialize();
    assert_eq!(session.call("thread/start", json!({}))["code"], -32001);
    assert_eq!(session.call("initialize", json!({"clientInfo": {}}))["message"], "Already initialized");
    assert_eq!(session.call("no/such", json!({}))["code"], -32600);
    writeln!(session.input.as_ref().unwrap(), "{{nonsense\n[]\n{{\"id\":99,\"result\":{{}}}}").unwrap();
    let long = json!([{"type": "text", "text": "x".repeat((1 << 20) + 1)}]);
    let thread = session.call("thread/start", json!({}))["thread"]["id"].clone();
    let refused = session.call("turn/start", json!({"threadId": thread, "input": long}));
    assert_eq!(refused["data"]["actual_chars"], (1 << 20) + 1);
    assert_eq!(session.end(), 0);
    assert_eq!(Session::start(folder.path(), "exit-at-once=7").end(), 7);
}

#[test]
fn steer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    let turn = session.turn(&thread, "slow: 100 50");
    session.until("item/agentMessage/delta");
    let input = json!([{"type": "text", "text": "say 2 words"}]);
    let steer = |turn: &str, input: &Value| {
        json!({"threadId": thread, "expectedTurnId": turn, "input": input,
        "clientUserMessageId": "cm-1"})
    };
    let refused = session.call("turn/steer", steer("bogus", &input));
    assert_eq!(refused["message"], format!("expected active turn id `bogus` but found `{turn}`"));
    let refused = session.call("turn/steer", steer(&turn, &json!([])));
    assert_eq!(refused["message"], "input must not be empty");
    let log = session.log.len();
    assert_eq!(session.call("turn/steer", steer(&turn, &input))["turnId"], turn.as_str());
    let completed = session.until("turn/completed");
    assert_eq!(completed["params"]["turn"]["items"][0]["text"], "word0 word1 ");
    // In the recording refused steers stand between the steer and what it leads to.
    let mut theirs = recorded("steer.jsonl", "turn/steer", None);
    let end = theirs.iter().position(|(_, name)| name == "turn/completed").unwrap();
    theirs.truncate(end + 1);
    let noise = |(direction, name): &(&str, String)| *direction == "out" || name == "error";
    theirs.retain(|entry| !noise(entry));
    let ours: Vec<_> = session.log[log..]
        .iter()
        .filter(|entry| !noise(entry))
        .skip_while(|(_, name)| name.ends_with("delta"))
        .cloned()
        .collect();
    assert_alike(&ours, &theirs);
    let refused = session.call("turn/steer", steer(&turn, &input));
    assert_eq!(refused["message"], "no active turn to steer");
    let mut elsewhere = steer(&turn, &input);
    elsewhere["threadId"] = json!(turn);
    let refused = session.call("turn/steer", elsewhere);
    assert_eq!(refused["message"], format!("thread not found: {turn}"));
}

#[test]
fn second_turn_start_is_a_steer() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    let turn = session.turn(&thread, "hang:");
    session.until("turn/started");
    assert_eq!(session.turn(&thread, "say 1 words"), turn);
    session.until("turn/completed");
    let completed = session.log.iter().filter(|(_, name)| name == "turn/completed").count();
    assert_eq!(completed, 1);
}

#[test]
fn interrupt_and_its_race() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    let turn = session.turn(&thread, "gap: 100 slow: 5 300");
    let interrupt = json!({"threadId": thread, "turnId": turn});
    let refused = session.call("turn/interrupt", interrupt.clone());
    assert_eq!(refused["message"], "no active turn to interrupt");
    session.until("turn/started");
    // The recording has none of the items, nor what comes of an answer that is broken off: the real one was quicker
    // to interrupt than to begin.
    session.until("item/started");
    session.until("item/completed");
    session.until("item/started");
    assert_eq!(session.call("turn/interrupt", interrupt), json!({}));
    let completed = session.until("turn/completed");
    assert_eq!(completed["params"]["turn"]["status"], "interrupted");
    assert_eq!(completed["params"]["turn"]["items"], json!([]));
    let mut ours = session.since_turn_start();
    ours.retain(|(_, name)| !name.starts_with("item/") && name != "account/rateLimits/updated");
    assert_alike(&ours, &recorded("interrupt-race.jsonl", "turn/start", None));
}

#[test]
fn failures_and_retries() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    session.turn(&thread, "fail: 500");
    let turn = session.until("turn/completed")["params"]["turn"].clone();
    assert_eq!(turn["error"]["codexErrorInfo"], "internalServerError");
    assert_alike(&session.since_turn_start(), &recorded("model-error.jsonl", "turn/start", None));
    session.turn(&thread, "retry: 2");
    assert_eq!(session.until("error")["params"]["willRetry"], true);
    assert_eq!(session.until("error")["params"]["error"]["message"], "Reconnecting... 2/2");
    assert_eq!(session.until("turn/completed")["params"]["turn"]["status"], "completed");
}

#[test]
fn resume() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, whole) = Session::ready(folder.path(), json!({"approvalPolicy": "untrusted"}));
    session.turn(&whole, "say 2 words");
    session.until("turn/completed");
    let cut = session.call("thread/start", json!({}))["thread"]["id"].as_str().unwrap().to_owned();
    let unused = session.call("thread/start", json!({}))["thread"]["id"].clone();
    session.turn(&cut, "exit: 3");
    session.until("item/agentMessage/delta");
    assert_eq!(session.server.join().unwrap(), 3);

    let mut session = Session::start(folder.path(), "");
    session.initialize();
    let log = session.log.len();
    let result = session.call("thread/resume", json!({"threadId": whole}));
    assert_eq!(result["thread"]["turns"][0]["items"][1]["text"], "word0 word1 ");
    assert_eq!(result["approvalPolicy"], "untrusted");
    session.until("thread/goal/cleared");
    let theirs = recorded("resume-after-kill.jsonl", "thread/resume", Some("thread/resume"));
    assert_alike(&session.log[log..], &theirs);
    let result = session.call("thread/resume", json!({"threadId": cut}));
    assert_eq!(result["thread"]["turns"][0]["status"], "interrupted");
    assert_eq!(result["thread"]["status"]["type"], "idle");
    let result = session.call("thread/resume", json!({"threadId": cut, "excludeTurns": true}));
    assert_eq!(result["thread"]["turns"], json!([]));
    let refused = session.call("thread/resume", json!({"threadId": unused}));
    assert_eq!(refused["message"], format!("no rollout found for thread id {}", unused.as_str().unwrap()));
    session.turn(&cut, "hello");
    let turn = session.until("turn/completed")["params"]["turn"].clone();
    assert_eq!(turn["items"][0]["text"], "done: hello");
}

#[test]
fn raw_lines_and_many_words() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    session.turn(&thread, "notify: some/event {\"threadId\": \"$THREAD\",  \"n\":1.0}");
    while session.log.last().unwrap().1 != "item/completed userMessage" {
        session.read();
    }
    let line = session.lines.recv().unwrap();
    let params = format!("\"params\":{{\"threadId\": \"{thread}\",  \"n\":1.0}}");
    assert!(line.contains(&params), "{line}");
    session.until("turn/completed");
    session.turn(&thread, "say 20000 words");
    session.until("turn/completed");
    let deltas = session.log.iter().filter(|(_, name)| name == "item/agentMessage/delta").count();
    assert_eq!(deltas, 20_002);
    session.turn(&thread, "half: {\"id\"");
    assert_eq!(session.lines.iter().last().unwrap(), "{\"id\"");
    assert_eq!(session.server.join().unwrap(), 0);
}

#[test]
fn turns_of_two_threads_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, first) = Session::ready(folder.path(), json!({}));
    let second = session.call("thread/start", json!({}))["thread"]["id"].as_str().unwrap().to_owned();
    session.turn(&first, "hang:");
    session.turn(&second, "say 3 words");
    assert_eq!(session.until("turn/completed")["params"]["threadId"], second.as_str());
    assert_eq!(session.end(), 0);
}
