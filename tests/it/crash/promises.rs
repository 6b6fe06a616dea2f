//! What clients were promised, by whom, and whether it was kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client::authority;
use crate::daemon::Daemon;

/// What clients were promised.
#[derive(Default)]
pub(super) struct Promised {
    pub(super) sessions: BTreeSet<String>,
    pub(super) runs: BTreeSet<String>,
    pub(super) turns: BTreeSet<String>,
    /// The decision that was taken for each request.
    pub(super) answers: BTreeMap<String, &'static str>,
}

impl Promised {
    /// How many.
    pub(super) fn count(&self) -> usize {
        self.sessions.len() + self.runs.len() + self.turns.len() + self.answers.len()
    }
}

/// A request to a daemon that may be dead at any moment: an answer that came whole.
fn attempt(base: &str, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let host = authority(base);
    let mut socket = TcpStream::connect(host).ok()?;
    socket.set_read_timeout(Some(crate::DEADLINE)).ok()?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // A reset after the whole answer is still one.
    let _ = socket.read_to_end(&mut answer);
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

/// A POST to a daemon that may be dead at any moment.
pub(super) fn try_post(base: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    attempt(base, "POST", path, &body.to_string())
}

/// Sessions, turns and runs until the daemon is gone.
pub(super) fn write(base: &str, promised: &Mutex<Promised>, number: usize, over: &AtomicBool) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut round = number;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        if round.is_multiple_of(5) {
            let body = json!({ "prompt": "say 5 words", "skipGitRepoCheck": true });
            match try_post(base, "/v1/codexd/runs", &body) {
                Some((202, answer)) => {
                    promised.lock().unwrap().runs.insert(text(&answer["data"]["run"]["runId"]));
                }
                Some((429 | 503, _)) | None => {}
                Some(other) => panic!("{other:?}"),
            }
            continue;
        }
        let session =
            match try_post(base, "/v1/codexd/sessions", &json!({ "metadata": { "n": round.to_string() } })) {
                Some((201, answer)) => text(&answer["data"]["session"]["sessionId"]),
                Some((503, _)) | None => continue,
                Some(other) => panic!("{other:?}"),
            };
        promised.lock().unwrap().sessions.insert(session.clone());
        let body = json!({ "sessionId": session, "input": if round.is_multiple_of(3) { "run: echo hi" } else { "say 30 words" } });
        if let Some((202, answer)) = try_post(base, "/v1/codexd/turn", &body) {
            promised.lock().unwrap().turns.insert(text(&answer["data"]["turnId"]));
        }
    }
}

/// Answers whatever is asked until the daemon is gone.
pub(super) fn answer(base: &str, promised: &Mutex<Promised>, over: &AtomicBool) {
    let mut decisions = ["accept", "decline", "cancel"].into_iter().cycle();
    while !over.load(Ordering::Relaxed) {
        let Some((200, list)) = attempt(base, "GET", "/v1/codexd/requests?status=pending", "") else {
            continue;
        };
        for (request, decision) in list["data"]["requests"].as_array().unwrap().iter().zip(&mut decisions) {
            let id = request["requestId"].as_str().unwrap();
            let path = format!("/v1/codexd/requests/{id}/answer");
            match try_post(base, &path, &json!({ "decision": decision })) {
                Some((200, answer)) => {
                    assert_eq!(answer["data"]["request"]["status"], "answered");
                    promised.lock().unwrap().answers.insert(id.to_owned(), decision);
                }
                Some((409 | 503, _)) | None => {}
                Some(other) => panic!("{other:?}"),
            }
        }
    }
}

/// Everything that was acknowledged is there, and nothing is left as if it were still going on.
pub(super) fn check(daemon: &Daemon, promised: &Promised, log: &[String]) {
    let client = daemon.client();
    let list = |path: &str, name: &str| client.get(path).json()["data"][name].take();
    let ids = |list: &Value, name: &str| {
        list.as_array()
            .unwrap()
            .iter()
            .map(|record| record[name].as_str().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    let sessions = ids(&list("/v1/codexd/sessions", "sessions"), "sessionId");
    let missing: Vec<_> = promised.sessions.difference(&sessions).collect();
    assert!(missing.is_empty(), "sessions acknowledged and lost: {missing:?}");
    let runs = list("/v1/codexd/runs", "runs");
    let missing: Vec<_> = promised.runs.difference(&ids(&runs, "runId")).cloned().collect();
    assert!(missing.is_empty(), "runs acknowledged and lost: {missing:?}");
    let unfinished: Vec<_> = runs
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| !["completed", "failed"].contains(&run["status"].as_str().unwrap()))
        .collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    let accepted: BTreeSet<String> = log
        .iter()
        .filter(|line| line.contains("\"type\":\"turn.accepted\""))
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["detail"]["turnId"].as_str().unwrap().to_owned()
        })
        .collect();
    let missing: Vec<_> = promised.turns.difference(&accepted).collect();
    assert!(missing.is_empty(), "turns acknowledged and lost: {missing:?}");
    let requests = list("/v1/codexd/requests", "requests");
    let decided = |id: &str| {
        let found = requests.as_array().unwrap().iter().find(|request| request["requestId"] == id)?;
        Some((found["status"].clone(), found["answer"]["decision"].clone()))
    };
    for (id, decision) in &promised.answers {
        assert_eq!(
            decided(id),
            Some((json!("answered"), json!(decision))),
            "answer acknowledged and lost: {id}"
        );
    }
}
