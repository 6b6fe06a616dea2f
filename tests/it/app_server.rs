//! Drives the real `codex app-server` over its stdin and stdout, without codexd in between.
//!
//! Everything it says is kept in the order it came ([`AppServer::seen`]); waiting looks through what came already and
//! then at what comes, so no message can be missed between two waits.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::processes::Process;
use crate::real_codex::CodexHome;

/// One `codex app-server` and all it has said.
pub(crate) struct AppServer {
    process: Process,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    seen: Vec<Value>,
    next_id: i64,
}

impl AppServer {
    /// Starts `program app-server` and shakes hands.
    pub(crate) fn start(program: &Path, home: &CodexHome) -> AppServer {
        let stderr = std::fs::File::options()
            .append(true)
            .create(true)
            .open(home.outside("app-server-stderr.log"))
            .unwrap();
        let mut command = Command::new(program);
        command.arg("app-server").envs(home.env()).env_remove("OPENAI_API_KEY").current_dir(home.work());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut process = Process::spawn(&mut command);
        let stdin = process.child().stdin.take();
        let stdout = process.child().stdout.take().unwrap();
        let (sender, lines) = bounded(1024);
        let read = move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { break };
                if sender.send(line).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new().name("app-server-out".into()).spawn(read).expect("a thread");
        let mut server = AppServer { process, stdin, lines, seen: Vec::new(), next_id: 1 };
        let client = json!({"name": "codexd", "title": "codexd", "version": "0.1.0"});
        server.request("initialize", json!({"clientInfo": client})).unwrap();
        server.send(&json!({"method": "initialized"}));
        server
    }

    /// All messages so far.
    pub(crate) fn seen(&self) -> &[Value] {
        &self.seen
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Writes one line.
    pub(crate) fn send(&mut self, message: &Value) {
        let stdin = self.stdin.as_mut().expect("its input is open");
        stdin.write_all(format!("{message}\n").as_bytes()).expect("the app-server reads");
        stdin.flush().unwrap();
    }

    /// A request and its answer: the result, or the error object.
    pub(crate) fn request(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"id": id, "method": method, "params": params}));
        let answer = self.wait_for(method, |m| m["id"] == id && m.get("method").is_none());
        match answer.get("error") {
            Some(error) => Err(error.clone()),
            None => Ok(answer["result"].clone()),
        }
    }

    /// The first message, past or to come, that fits.
    pub(crate) fn wait_for(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + DEADLINE;
        let mut next = 0;
        loop {
            if let Some(found) = self.seen[next..].iter().find(|message| fits(message)) {
                return found.clone();
            }
            next = self.seen.len();
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(serde_json::from_str(&line).expect("stdout holds JSON lines only"))
                }
                Err(error) => {
                    let last = self.seen.iter().rev().take(8).map(|m| m["method"].to_string());
                    panic!(
                        "waiting for {what}: {error}; the last messages, backwards: {:?}",
                        last.collect::<Vec<_>>()
                    );
                }
            }
        }
    }

    /// The notification of that method whose params belong to that turn.
    pub(crate) fn notified(&mut self, method: &str, turn: &str) -> Value {
        let of_turn = |p: &Value| p["turnId"] == turn || p["turn"]["id"] == turn;
        self.wait_for(method, |m| m["method"] == method && of_turn(&m["params"]))["params"].clone()
    }

    /// The request to us that Codex makes in that turn: its id, its params.
    pub(crate) fn asked(&mut self, method: &str, turn: &str) -> (Value, Value) {
        let fits =
            |m: &Value| m["method"] == method && m.get("id").is_some() && m["params"]["turnId"] == turn;
        let message = self.wait_for(method, fits);
        (message["id"].clone(), message["params"].clone())
    }

    /// Answers such a request.
    pub(crate) fn answer(&mut self, id: &Value, result: Value) {
        self.send(&json!({"id": id, "result": result}));
    }

    /// A new thread in the home's work folder with these params besides; its id.
    pub(crate) fn thread(&mut self, home: &CodexHome, params: Value) -> String {
        let mut all =
            json!({"cwd": home.work(), "approvalPolicy": "on-request", "sandbox": "workspace-write"});
        for (key, value) in params.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        let answer = self.request("thread/start", all).unwrap();
        answer["thread"]["id"].as_str().unwrap().to_owned()
    }

    /// A new turn; its id, once it has started.
    pub(crate) fn turn(&mut self, thread: &str, text: &str) -> String {
        let input = json!([{"type": "text", "text": text}]);
        let answer = self.request("turn/start", json!({"threadId": thread, "input": input})).unwrap();
        let turn = answer["turn"]["id"].as_str().unwrap().to_owned();
        self.notified("turn/started", &turn);
        turn
    }

    /// Waits for the end of a turn; the turn.
    pub(crate) fn completed(&mut self, turn: &str) -> Value {
        self.notified("turn/completed", turn)["turn"].clone()
    }

    /// The deltas of the agent's messages in a turn so far.
    pub(crate) fn deltas(&self, turn: &str) -> Vec<String> {
        let fits = |m: &&Value| m["method"] == "item/agentMessage/delta" && m["params"]["turnId"] == turn;
        let text = |m: &Value| m["params"]["delta"].as_str().unwrap().to_owned();
        self.seen.iter().filter(fits).map(text).collect()
    }

    /// Closes its input and waits for its end.
    pub(crate) fn close(mut self) -> ExitStatus {
        drop(self.stdin.take());
        let status = self.process.wait(DEADLINE).expect("it ends when its input does");
        let left = self.process.left(Duration::from_secs(5));
        assert!(left.is_empty(), "left behind: {left:?}");
        status
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill_group();
    }
}
