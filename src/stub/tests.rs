//! The stand-in against the recorded transcripts of the real Codex.

mod tools;
mod turns;

use super::behaviour::Behaviour;
use super::server::app_server;
use crossbeam_channel::{Receiver, bounded, never};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the real one says besides and the stand-in does not: it depends on the host and on unknown models.
const LEFT_OUT: [&str; 3] = ["warning", "configWarning", "thread/readState/changed"];

/// A running stand-in, and everything said so far.
struct Session {
    input: Option<PipeWriter>,
    lines: Receiver<String>,
    log: Vec<(&'static str, String)>,
    server: JoinHandle<u8>,
    next: u64,
}

impl Session {
    fn start(rollouts: &Path, behaviour: &str) -> Self {
        let (theirs, input) = std::io::pipe().unwrap();
        let (output, ours) = std::io::pipe().unwrap();
        let rollouts = rollouts.to_owned();
        let behaviour = Behaviour::parse(behaviour);
        let server = std::thread::Builder::new()
            .name("stub".into())
            .spawn(move || app_server(theirs, ours, &rollouts, &behaviour, &never()))
            .unwrap();
        let (line, lines) = bounded(200_000);
        std::thread::Builder::new()
            .name("lines".into())
            .spawn(move || {
                BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| line.send(l))
            })
            .unwrap();
        Self { input: Some(input), lines, log: Vec::new(), server, next: 1 }
    }

    /// A session that is past the handshake, with the id of a new thread.
    fn ready(rollouts: &Path, params: Value) -> (Self, String) {
        let mut session = Self::start(rollouts, "");
        session.initialize();
        let result = session.call("thread/start", params);
        session.until("thread/started");
        let id = result["thread"]["id"].as_str().unwrap().to_owned();
        (session, id)
    }

    fn initialize(&mut self) {
        self.call("initialize", json!({"clientInfo": {"name": "t", "version": "1"}}));
        self.until("remoteControl/status/changed");
        self.send(&json!({"method": "initialized"}));
    }

    fn send(&mut self, message: &Value) {
        self.log.push(("out", name(message)));
        writeln!(self.input.as_ref().unwrap(), "{message}").unwrap();
    }

    fn request(&mut self, method: &str, params: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"id": id, "method": method, "params": params}));
        id
    }

    /// Sends a request and returns its result, or the error object.
    fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        loop {
            let message = self.read();
            if message["id"] == id && message["method"].is_null() {
                assert!(message.get("jsonrpc").is_none());
                return if message["error"].is_null() {
                    message["result"].clone()
                } else {
                    message["error"].clone()
                };
            }
        }
    }

    fn read(&mut self) -> Value {
        let line = self.lines.recv_timeout(Duration::from_secs(20)).expect("a message");
        let message: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(message["emittedAtMs"].is_u64(), message["id"].is_null());
        self.log.push(("in", name(&message)));
        message
    }

    fn until(&mut self, method: &str) -> Value {
        loop {
            let message = self.read();
            if message["method"] == method {
                return message;
            }
        }
    }

    fn turn(&mut self, thread: &str, prompt: &str) -> String {
        let input = json!([{"type": "text", "text": prompt}]);
        let result = self.call("turn/start", json!({"threadId": thread, "input": input}));
        result["turn"]["id"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
    }

    fn end(mut self) -> u8 {
        drop(self.input.take());
        self.server.join().unwrap()
    }
}

/// A message's place in a sequence: its method, or `response` or `error`.
fn name(message: &Value) -> String {
    match message["method"].as_str() {
        Some(method) => match message["params"]["status"]["activeFlags"][0].as_str() {
            Some(flag) => format!("{method} {flag}"),
            None => match message["params"]["item"]["type"].as_str() {
                Some(item) => format!("{method} {item}"),
                None => method.to_owned(),
            },
        },
        None if message.get("error").is_some() => "error".into(),
        None => "response".into(),
    }
}

/// The recorded sequence, from the first `turn/start` (or from `from`) to the last line or the line before `to`.
fn recorded(file: &str, from: &str, to: Option<&str>) -> Vec<(&'static str, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let direction = if entry["dir"] == "out" { "out" } else { "in" };
        (direction, name(&entry["msg"]))
    });
    let mut rest: Vec<_> = lines.skip_while(|(_, name)| name != from).collect();
    if let Some(to) = to {
        let end = rest.iter().skip(1).position(|(_, name)| name == to).unwrap();
        rest.truncate(end + 1);
    }
    rest
}

/// Compares without repeated deltas (their number is the model's choice) and without what only the real one says.
fn assert_alike(ours: &[(&'static str, String)], theirs: &[(&'static str, String)]) {
    let tidy = |log: &[(&'static str, String)]| {
        let mut log: Vec<_> = log
            .iter()
            .filter(|(_, name)| !LEFT_OUT.contains(&name.as_str()) && name != "thread/started")
            .cloned()
            .collect();
        log.dedup_by(|a, b| a == b && (a.1.ends_with("elta")));
        log
    };
    let (ours, theirs) = (tidy(ours), tidy(theirs));
    assert_eq!(ours, theirs, "\nours: {ours:#?}\ntheirs: {theirs:#?}");
}

impl Session {
    fn since_turn_start(&self) -> Vec<(&'static str, String)> {
        self.log.iter().skip_while(|(_, name)| name != "turn/start").cloned().collect()
    }
}
