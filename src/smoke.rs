//! `codexd smoke`: the whole loop in one process against the built-in stand-in for Codex, through the same port and
//! the same pipes that clients and the real Codex use.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::api_client::{ApiClient, ClientError, EventStream};
use crate::config::{Config, Mode, Strategy};
use crate::daemon::{self, Daemon, Stopped};
use crate::model::record::SessionPurpose;
use crate::model::view::Snapshot;
use crate::ops::OpError;
use crate::os;
use crate::process::orphans;
use crate::store::private;
use crate::store::segments;
use crate::threads;
use crate::threads::answer::answer;

/// How long one step may take.
const STEP: Duration = Duration::from_secs(10);
/// Words of the turn's answer, one delta each.
const WORDS: usize = 5;

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its fixed name, such as `stdout_log`.
    pub name: &'static str,
    /// Whether it passed: `ok` or `failed` in the JSON.
    #[serde(rename = "status", serialize_with = "ok_or_failed")]
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn ok_or_failed<S: Serializer>(ok: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(outcome(*ok))
}

/// How a check came out, in a word.
pub const fn outcome(ok: bool) -> &'static str {
    if ok { "ok" } else { "failed" }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The daemon did not start.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// A verb failed.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something else than was expected.
    #[error("{0}")]
    Unexpected(String),
}

/// The configuration that smoke really uses: the stand-in as child, any free port.
///
/// # Errors
/// When the path of this program cannot be told.
pub fn configure(mut config: Config) -> std::io::Result<Config> {
    let program = std::env::current_exe()?.display().to_string();
    let threads = config.paths.state_dir.join("stub-threads");
    config.service.local_api_base.address.set_port(0);
    config.service.token_file = None;
    config.server.mode = Mode::AppServer;
    config.server.strategy = Strategy::Spawn;
    config.server.endpoint = "stdio://embedded-smoke-child".to_owned();
    config.server.command.clone_from(&program);
    config.server.args = vec!["stub-app-server".to_owned(), threads.display().to_string()];
    config.runs.command = program;
    config.runs.leading_args = vec!["stub-exec".to_owned()];
    Ok(config)
}

/// Runs every check; a step that fails ends the loop, and the files are looked at all the same.
///
/// # Errors
/// When the daemon cannot even be started.
pub fn run(config: &Config) -> Result<(Vec<Check>, Arc<Snapshot>), Problem> {
    let mut checks = Vec::new();
    let first = Life::begin(config)?;
    let looped = first.live(&mut checks);
    let (snapshot, seq) = first.end("daemon_stop", &mut checks)?;
    let snapshot = match looped {
        Ok(()) => second_life(config, seq, &mut checks).unwrap_or_else(|problem| {
            checks.push(Check { name: "restart", ok: false, detail: problem.to_string() });
            snapshot
        }),
        Err((name, problem)) => {
            checks.push(Check { name, ok: false, detail: problem.to_string() });
            snapshot
        }
    };
    checks.push(no_process_left());
    let mut all = file_checks(config, &snapshot);
    all.append(&mut checks);
    Ok((all, snapshot))
}

/// A daemon and a client on its stream.
struct Life {
    daemon: Daemon,
    api: ApiClient,
    stream: EventStream,
    began: Instant,
}

impl Life {
    fn begin(config: &Config) -> Result<Self, Problem> {
        let began = Instant::now();
        let daemon = Daemon::start(config.clone())?;
        let address: SocketAddr = daemon
            .ops()
            .service
            .address()
            .ok_or_else(|| Problem::Unexpected("the daemon does not listen".to_owned()))?;
        let api = ApiClient::new(address);
        let stream = api.stream(&config.service.event_stream_path)?;
        Ok(Self { daemon, api, stream, began })
    }

    /// Session, turn over the stream, run.
    fn live(&self, checks: &mut Vec<Check>) -> Result<(), (&'static str, Problem)> {
        let mut step = |name, found: Result<String, Problem>| {
            let detail = found.map_err(|problem| (name, problem))?;
            checks.push(Check { name, ok: true, detail: detail.clone() });
            Ok(detail)
        };
        step("daemon_start", Ok(format!("serving after {} ms", self.began.elapsed().as_millis())))?;
        let mut stream = self.stream_again().map_err(|problem| ("event_stream", problem))?;
        step("session_registered", self.registered())?;
        let session = step("session_created", self.session())?;
        step("turn_streamed", self.turn(&mut stream, &session))?;
        step("one_shot_run", self.one_shot_run(&mut stream))?;
        Ok(())
    }

    /// A stream of its own for the loop: the first one is kept to see the daemon's end.
    fn stream_again(&self) -> Result<EventStream, Problem> {
        let path = self.daemon.ops().service.view().event_stream_path;
        let mut stream = self.api.stream(&path)?;
        let hello = stream.next(Instant::now() + STEP)?;
        if hello["type"] == "hello" { Ok(stream) } else { Err(unexpected("hello", &hello)) }
    }

    fn registered(&self) -> Result<String, Problem> {
        let ops = self.daemon.ops();
        let session = ops.register_session(SessionPurpose::Smoke)?;
        ops.close_session(&session.session_id)?;
        Ok(session.session_id.clone())
    }

    fn session(&self) -> Result<String, Problem> {
        let body = json!({ "purpose": "smoke", "metadata": { "source": "embedded-smoke" } });
        let data = self.api.post("/v1/codexd/sessions", &body)?;
        let id = data["session"]["sessionId"].as_str();
        id.map(str::to_owned).ok_or_else(|| unexpected("a session", &data))
    }

    fn turn(&self, stream: &mut EventStream, session: &str) -> Result<String, Problem> {
        let input = format!("say {WORDS} words");
        let body = json!({ "sessionId": session, "input": input });
        let accepted = self.api.post("/v1/codexd/turn", &body)?;
        let turn = &accepted["turnId"];
        let mut deltas = 0;
        let deadline = Instant::now() + STEP;
        loop {
            let event = next_event(stream, deadline)?;
            if event["detail"]["turnId"] != *turn {
                continue;
            }
            match event["type"].as_str() {
                Some("app-server.turn.message.delta") => deltas += 1,
                Some("app-server.turn.completed") => break,
                _ => {}
            }
        }
        let shown = self.api.get(&format!("/v1/codexd/sessions/{session}"))?;
        let status = &shown["session"]["lastTurnStatus"];
        if deltas != WORDS || status != "completed" {
            return Err(Problem::Unexpected(format!("{deltas} deltas of {WORDS}, last turn {status}")));
        }
        // Something for stderr.log, as the child of an older smoke wrote.
        let body = json!({ "sessionId": session, "input": "stderr: 1 codexd smoke stderr" });
        let accepted = self.api.post("/v1/codexd/turn", &body)?;
        while !ends(&next_event(stream, deadline)?, &accepted["turnId"]) {}
        Ok(format!("{deltas} deltas over the WebSocket, in order, then {status}"))
    }

    fn one_shot_run(&self, stream: &mut EventStream) -> Result<String, Problem> {
        let body = json!({ "prompt": "say 3 words", "purpose": "smoke", "skipGitRepoCheck": true });
        let data = self.api.post("/v1/codexd/runs", &body)?;
        let id = &data["run"]["runId"];
        let deadline = Instant::now() + STEP;
        loop {
            let event = next_event(stream, deadline)?;
            if event["detail"]["runId"] == *id
                && matches!(event["type"].as_str(), Some("run.completed" | "run.failed"))
            {
                break;
            }
        }
        let shown = self.api.get(&format!("/v1/codexd/runs/{}", id.as_str().unwrap_or_default()))?;
        let run = &shown["run"];
        if run["status"] != "completed" {
            return Err(unexpected("a completed run", run));
        }
        Ok(format!("completed: {}", run["summary"].as_str().unwrap_or_default()))
    }

    /// Stops, and sees on the stream that daemon.stopped was the last event. Returns its seq.
    fn end(self, name: &'static str, checks: &mut Vec<Check>) -> Result<(Arc<Snapshot>, u64), Problem> {
        let Self { daemon, stream, .. } = self;
        // The client reads while the daemon stops, or the daemon would wait for its answer to the Close.
        let (reply, seen) = answer();
        let reader = threads::spawn_contained("smoke-stream", move || reply.give(read_to_end(stream)))
            .map_err(|error| Problem::Unexpected(format!("no thread: {error}")))?;
        let began = Instant::now();
        let Stopped { snapshot, logged, .. } = daemon.stop()?;
        logged?;
        let took = began.elapsed();
        reader.join();
        let (last, closed) = seen.get().unwrap_or_default();
        let in_order = last["type"] == "daemon.stopped" && closed.contains("1001");
        let detail = match in_order {
            true => format!("stopped in {} ms; the stream ended with daemon.stopped", took.as_millis()),
            false => format!("the stream ended with {} ({closed})", last["type"]),
        };
        checks.push(Check { name, ok: in_order, detail });
        Ok((snapshot, last["seq"].as_u64().unwrap_or(0)))
    }
}

/// The last event, and how the stream was closed.
fn read_to_end(mut stream: EventStream) -> (Value, String) {
    let deadline = Instant::now() + STEP;
    let mut last = Value::Null;
    loop {
        match stream.next(deadline) {
            Ok(mut message) if message["type"] == "event" => last = message["event"].take(),
            Ok(_) => {}
            Err(error) => return (last, error.to_string()),
        }
    }
}

/// A new life on the same files goes on where the first ended.
fn second_life(config: &Config, last_seq: u64, checks: &mut Vec<Check>) -> Result<Arc<Snapshot>, Problem> {
    let second = Life::begin(config)?;
    let (snapshot, _) = second.end("second_stop", checks)?;
    let (total, gap) = count_events(&config.paths.events());
    let ok = gap.is_none() && total > last_seq;
    let detail = match gap {
        None => format!("seq went on after {last_seq} to {total}, without a gap"),
        Some(seq) => format!("the log has a gap at seq {seq}"),
    };
    checks.push(Check { name: "restart", ok, detail });
    Ok(snapshot)
}

/// The last seq of a log, and where its events do not count up by one.
fn count_events(log: &Path) -> (u64, Option<u64>) {
    let text = std::fs::read(log).unwrap_or_default();
    let mut last = None;
    for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let seq = segments::line_seq(line).unwrap_or(0);
        if last.is_some_and(|last: u64| seq != last + 1) {
            return (last.unwrap_or(0), Some(seq));
        }
        last = Some(seq);
    }
    (last.unwrap_or(0), None)
}

fn next_event(stream: &mut EventStream, deadline: Instant) -> Result<Value, Problem> {
    loop {
        let mut message = stream.next(deadline)?;
        if message["type"] == "event" {
            return Ok(message["event"].take());
        }
    }
}

fn ends(event: &Value, turn: &Value) -> bool {
    event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == *turn
}

fn unexpected(wanted: &str, got: &Value) -> Problem {
    Problem::Unexpected(format!("expected {wanted}, got {got}"))
}

fn no_process_left() -> Check {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let left: Vec<String> = os::descendants(own, &os::list())
        .iter()
        .filter(|process| !process.zombie)
        .map(|process| process.pid.to_string())
        .collect();
    let detail = match left.is_empty() {
        true => "no process of the daemon runs on".to_owned(),
        false => format!("still running: {}", left.join(", ")),
    };
    Check { name: "no_process_left", ok: left.is_empty(), detail }
}

/// The six checks whose names clients know.
fn file_checks(config: &Config, snapshot: &Snapshot) -> Vec<Check> {
    let paths = &config.paths;
    let exists = |name, path: PathBuf| {
        let ok = path.metadata().is_ok_and(|found| found.len() > 0);
        let state = if ok { "" } else { " is missing or empty" };
        Check { name, ok, detail: format!("{}{state}", path.display()) }
    };
    let events = snapshot.recent_events.events.len();
    let sessions = snapshot.session_registry.sessions.len();
    vec![
        exists("structured_event_log", paths.events()),
        exists("stdout_log", paths.stdout_log()),
        exists("stderr_log", paths.stderr_log()),
        exists("daemon_state", paths.daemon_state()),
        Check {
            name: "recent_event_cache",
            ok: events > 0 || config.event_cache_size == 0,
            detail: format!("{events} cached events"),
        },
        Check { name: "session_registry", ok: sessions > 0, detail: format!("{sessions} recorded sessions") },
    ]
}

/// A private folder for a smoke test that is to leave nothing behind.
///
/// # Errors
/// What making it says.
pub fn temporary(config: &mut Config) -> std::io::Result<tempfile::TempDir> {
    let folder = private::temporary_folder(&std::env::temp_dir(), "codexd-smoke-")?;
    let root = folder.path().to_owned();
    config.paths.logs_root = root.join("logs");
    config.paths.state_root = root.join("state");
    config.paths.logs_dir = config.paths.logs_root.join("codexd");
    config.paths.state_dir = config.paths.state_root.join("codexd");
    config.server.cwd.clone_from(&root);
    config.paths.repo_root = root;
    Ok(folder)
}

/// Ends whatever a failed smoke test may have left.
pub fn clean_up() {
    orphans::kill_everything();
}
