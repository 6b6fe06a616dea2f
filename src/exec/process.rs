//! One run's process, from its start to its outcome.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use log::{info, warn};
use serde_json::value::RawValue;

use super::capture::{self, Capture, Captured};
use super::{CommandLine, Details, Failure, FailureCode, JsonParseError, Outcome, ProcessResult, Task};
use crate::clock;
use crate::process::ledger::{Ledger, Purpose};
use crate::process::{self, Exit, Process, Spec};
use crate::store::private;
use crate::threads::{self, Thread, lock};

/// From SIGTERM to SIGKILL (contract, section 8).
const GRACE: Duration = Duration::from_secs(1);
/// Between two starts on one CODEX_HOME: a fresh one makes its database then.
const SPACING: Duration = Duration::from_millis(150);
/// How often a start that found the database locked is tried again.
const RETRIES: u32 = 2;
/// How soon such a failure shows.
const EARLY: Duration = Duration::from_secs(10);
/// Bytes of JSON lines that the record holds.
const KEPT_JSON: usize = 1024 * 1024;

/// What runs of one daemon share.
pub struct Shared {
    /// The `codex` command as configured.
    pub command: String,
    /// Words before `exec`.
    pub leading_args: Vec<String>,
    /// Where a process starts whose own folder does not exist: Codex then says what is wrong with `--cd`.
    pub fallback_cwd: PathBuf,
    /// Private folders of the runs; emptied at the daemon's start.
    pub temporary: PathBuf,
    /// Where long output goes.
    pub logs: PathBuf,
    /// Where each process is recorded.
    pub ledger: Arc<Ledger>,
    /// When a process last started on each CODEX_HOME.
    pub starts: Mutex<HashMap<String, Instant>>,
}

/// Why a run is to end before its process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// A client asked.
    Client,
    /// The daemon stops.
    Stop,
}

/// Called with each JSON line as it comes.
pub type OnJson = Arc<dyn Fn(&RawValue) + Send + Sync>;

/// Runs a task to its end. `cancels` is listened to all the while.
pub fn run(shared: &Shared, task: &Task, cancels: &Receiver<Cancel>, on_json: &OnJson) -> Outcome {
    let mut retries = 0;
    loop {
        if !space_out(shared, task, cancels) {
            return Outcome::failed(Failure::new(
                FailureCode::Cancelled,
                "The run was cancelled before it started.",
            ));
        }
        let outcome = attempt(shared, task, cancels, on_json, retries);
        if retries == RETRIES || !database_locked(&outcome) {
            return outcome;
        }
        retries += 1;
        warn!(
            "run {}: Codex found its database locked; starting it again ({retries} of {RETRIES})",
            task.run_id
        );
    }
}

/// Waits for this task's turn to start on its CODEX_HOME; `false` when it was cancelled meanwhile.
fn space_out(shared: &Shared, task: &Task, cancels: &Receiver<Cancel>) -> bool {
    let home = task.env.get("CODEX_HOME").cloned().flatten().or_else(|| std::env::var("CODEX_HOME").ok());
    let start = {
        let mut starts = lock(&shared.starts);
        let now = Instant::now();
        let earliest = starts.get(home.as_deref().unwrap_or_default()).map_or(now, |last| *last + SPACING);
        // A little jitter: another program may be starting Codex in the same rhythm.
        let start = earliest.max(now);
        starts.retain(|_, last| *last + SPACING > now);
        starts.insert(home.unwrap_or_default(), start);
        start
    };
    cancels.recv_deadline(start).is_err()
}

fn database_locked(outcome: &Outcome) -> bool {
    outcome.result.as_ref().is_some_and(|result| {
        result.exit_code.is_some_and(|code| code != 0)
            && result.duration_ms < u64::try_from(EARLY.as_millis()).unwrap_or(u64::MAX)
            && result.stderr.contains("database is locked")
    })
}

/// A folder for the last message and the schema, gone when dropped.
fn private_folder(shared: &Shared) -> std::io::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("run-").tempdir_in(&shared.temporary)
}

fn attempt(
    shared: &Shared,
    task: &Task,
    cancels: &Receiver<Cancel>,
    on_json: &OnJson,
    retries: u32,
) -> Outcome {
    let spawn_failed = |problem: String| Outcome::failed(Failure::new(FailureCode::SpawnFailed, problem));
    let folder = match private_folder(shared) {
        Ok(folder) => folder,
        Err(error) => return spawn_failed(format!("Cannot make a private folder for the run: {error}.")),
    };
    let last_message = folder.path().join("last-message.txt");
    let schema =
        match task.output_schema.as_deref().map(|schema| write_schema(folder.path(), schema)).transpose() {
            Ok(schema) => schema,
            Err(error) => return spawn_failed(format!("Cannot write the output schema: {error}.")),
        };
    let line = task.command_line(&last_message, schema.as_deref());
    let invocation = task.invocation(&shared.command, &line);
    let started_at = clock::now_iso();
    let began = Instant::now();
    let mut outcome =
        match Started::spawn(shared, task, &line, on_json, &format!("{}.{retries}", task.run_id)) {
            Ok(started) => {
                let ended = started.wait(task.timeout, cancels);
                let result = ended.result(task, started_at, began, read_last_message(&last_message), retries);
                judge(&ended, task, result)
            }
            Err(problem) => spawn_failed(problem),
        };
    outcome.invocation = Some(invocation);
    outcome
}

fn write_schema(folder: &Path, schema: &RawValue) -> std::io::Result<PathBuf> {
    let path = folder.join("output-schema.json");
    private::create_new(&path)?.write_all(schema.get().as_bytes())?;
    Ok(path)
}

/// Codex writes an empty file when the run failed.
fn read_last_message(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (!text.is_empty()).then_some(text)
}

/// JSON lines as they came.
#[derive(Default)]
struct JsonLines {
    events: Vec<Box<RawValue>>,
    errors: Vec<JsonParseError>,
    bytes: usize,
    line: u64,
}

impl JsonLines {
    fn add(&mut self, line: &[u8], on_json: &OnJson) {
        self.line += 1;
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            return;
        }
        match serde_json::from_str::<Box<RawValue>>(text.trim()) {
            Ok(event) => {
                on_json(&event);
                // Beyond the bound the events are in the log (run.output) and in the run's own file.
                self.bytes += event.get().len();
                if self.bytes <= KEPT_JSON {
                    self.events.push(event);
                }
            }
            Err(error) if self.errors.len() < 100 => {
                self.errors.push(JsonParseError { line: self.line, message: error.to_string() });
            }
            Err(_) => {}
        }
    }
}

/// A process that runs, and the threads at its pipes.
struct Started {
    process: Process,
    stdout: (Thread, Receiver<(Captured, JsonLines)>),
    stderr: (Thread, Receiver<Captured>),
    stdin: Option<Thread>,
    cancel: Vec<OwnedFd>,
}

/// A process that has ended.
struct Ended {
    exit: Exit,
    cut_short: Option<CutShort>,
    stdout: Captured,
    stderr: Captured,
    json: JsonLines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CutShort {
    Timeout,
    Cancelled(Cancel),
}

impl Started {
    fn spawn(
        shared: &Shared,
        task: &Task,
        line: &CommandLine,
        on_json: &OnJson,
        owner: &str,
    ) -> Result<Self, String> {
        let cwd = if task.cwd.is_dir() { &task.cwd } else { &shared.fallback_cwd };
        let spec = Spec {
            command: process::find(&shared.command, &shared.fallback_cwd)?,
            args: shared.leading_args.iter().chain(&line.args).map(Into::into).collect(),
            cwd: cwd.clone(),
            env: task.env.iter().map(|(name, value)| (name.into(), value.as_ref().map(Into::into))).collect(),
            stdin: line.stdin.is_some(),
        };
        let mut process = shared
            .ledger
            .spawn(&spec, Purpose::Run, owner)
            .map_err(|error| format!("Cannot start {}: {error}.", spec.command.display()))?;
        info!("run {} is process {}", task.run_id, process.id());
        let problem = |error: std::io::Error| format!("Cannot start a thread for the run: {error}.");
        let missing = || "The run's process has no output pipe.".to_owned();
        let stdout = process.take_stdout().ok_or_else(missing)?;
        let stderr = process.take_stderr().ok_or_else(missing)?;
        let mut cancel = Vec::new();
        let log = |stream: &str| Capture::new(shared.logs.join(format!("{}.{stream}.log", task.run_id)));

        let (cancelled, to_cancel) = cancellation().map_err(problem)?;
        cancel.push(to_cancel);
        let (sender, captured) = bounded(1);
        let (capture, json, on_json) = (log("stdout"), task.json, Arc::clone(on_json));
        let thread = threads::spawn(format!("{}-out", task.run_id), move || {
            let mut lines = JsonLines::default();
            let captured = capture::drain(stdout, &cancelled, capture, |line| {
                if json {
                    lines.add(line, &on_json);
                }
            });
            let _ = sender.send((captured, lines));
        });
        let stdout = (thread.map_err(problem)?, captured);

        let (cancelled, to_cancel) = cancellation().map_err(problem)?;
        cancel.push(to_cancel);
        let (sender, captured) = bounded(1);
        let capture = log("stderr");
        let thread = threads::spawn(format!("{}-err", task.run_id), move || {
            let _ = sender.send(capture::drain(stderr, &cancelled, capture, |_| {}));
        });
        let stderr = (thread.map_err(problem)?, captured);

        let stdin = match (process.take_stdin(), line.stdin.clone()) {
            (Some(mut stdin), Some(prompt)) => {
                let thread = threads::spawn(format!("{}-in", task.run_id), move || {
                    // A process that ends without reading its prompt is judged by its exit code.
                    let _ = stdin.write_all(prompt.as_bytes());
                });
                Some(thread.map_err(problem)?)
            }
            _ => None,
        };
        Ok(Self { process, stdout, stderr, stdin, cancel })
    }

    fn wait(mut self, timeout: Duration, cancels: &Receiver<Cancel>) -> Ended {
        let cut_short = select! {
            recv(self.process.ended()) -> _ => None,
            // A pool that is gone cancels nothing any more.
            recv(cancels) -> cancel => Some(CutShort::Cancelled(cancel.unwrap_or(Cancel::Stop))),
            default(timeout) => Some(CutShort::Timeout),
        };
        let exit = match cut_short {
            None => self.process.finish(),
            Some(_) => self.process.terminate(GRACE),
        };
        // Its whole tree is gone; a stranger that still holds a pipe is not waited for.
        for thread in [&self.stdout.0, &self.stderr.0] {
            thread.wait(GRACE);
        }
        self.cancel.clear();
        let (stdout, json) = self.stdout.1.recv().unwrap_or_default();
        let stderr = self.stderr.1.recv().unwrap_or_default();
        drop(self.stdin.take());
        Ended { exit, cut_short, stdout, stderr, json }
    }
}

fn cancellation() -> std::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Into::into)
}

impl Ended {
    fn result(
        &self,
        task: &Task,
        started_at: String,
        began: Instant,
        last_message: Option<String>,
        retries: u32,
    ) -> ProcessResult {
        ProcessResult {
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            exit_code: self.exit.code,
            finished_at: clock::now_iso(),
            json_events: task.json.then(|| self.json.events.clone()),
            json_parse_errors: self.json.errors.clone(),
            last_message,
            signal: self.exit.signal.clone(),
            started_at,
            stderr: self.stderr.text.clone(),
            stderr_truncated: self.stderr.truncated,
            stdout: self.stdout.text.clone(),
            stdout_truncated: self.stdout.truncated,
            timed_out: self.cut_short == Some(CutShort::Timeout),
            retries,
        }
    }
}

fn judge(ended: &Ended, task: &Task, result: ProcessResult) -> Outcome {
    let millis = u64::try_from(task.timeout.as_millis()).unwrap_or(u64::MAX);
    let failure = match ended.cut_short {
        Some(CutShort::Timeout) => Some(Failure {
            details: Some(Details { timeout_ms: Some(millis), ..Details::default() }),
            ..Failure::new(FailureCode::Timeout, format!("codex exec did not end within {millis} ms."))
        }),
        Some(CutShort::Cancelled(Cancel::Client)) => {
            Some(Failure::new(FailureCode::Cancelled, "The run was cancelled."))
        }
        Some(CutShort::Cancelled(Cancel::Stop)) => {
            Some(Failure::new(FailureCode::Interrupted, "codexd stopped before the run ended."))
        }
        None if ended.exit.code == Some(0) => None,
        None => Some(Failure {
            details: Some(Details { exit_code: Some(ended.exit.code), ..Details::default() }),
            ..Failure::new(FailureCode::ExitNonZero, exit_message(ended))
        }),
    };
    Outcome { ok: failure.is_none(), error: failure, invocation: None, result: Some(result) }
}

/// What ended it, and the last thing it said.
fn exit_message(ended: &Ended) -> String {
    let how = match (&ended.exit.code, &ended.exit.signal) {
        (Some(code), _) => format!("codex exec exited with code {code}"),
        (None, Some(signal)) => format!("codex exec was ended by {signal}"),
        (None, None) => "codex exec ended".to_owned(),
    };
    let last = ended.stderr.text.lines().rev().find(|line| !line.trim().is_empty());
    match last {
        Some(line) => format!("{how}: {}", crate::model::preview(line)),
        None => format!("{how}."),
    }
}
