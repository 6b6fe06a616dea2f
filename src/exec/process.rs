//! One run's process, from its start to its outcome.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, select};
use log::{info, warn};

use super::capture::{self, Capture, Captured};
use super::json_lines::{Collected, JsonLines, OnJson};
use super::{CommandLine, Failure, FailureCode, Outcome, ProcessResult, Task, millis, verdict};
use crate::clock;
use crate::fault::{self, Point};
use crate::os;
use crate::process::ledger::{Ledger, Purpose};
use crate::process::{self, Exit, Flags, Input, Process, Spec};
use crate::store::private;
use crate::threads::answer::{Answer, answer};
use crate::threads::{self, Thread, lock};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(1);
/// Between two starts on one CODEX_HOME: a fresh one makes its database then.
const SPACING: Duration = Duration::from_millis(150);
/// How often a start that found the database locked is tried again.
const RETRIES: u32 = 2;
/// How long such a retry waits at least; up to as much again is added at random.
const RETRY_DELAY: Duration = Duration::from_millis(250);
/// How often a last message that cannot be read is tried again, and after what time: nothing tells when it can be.
const READ_AGAIN: u32 = 10;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Chosen by these, which are not flags of whoever reads the run's error.
const FLAGS: Flags =
    Flags { command: "--codex-command of codexd start", folder: "--repo-root of codexd start" };

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

/// Runs a task to its end. `cancels` is listened to all the while; `on_start` is called once, before a process is
/// started.
pub fn run(
    shared: &Shared,
    task: &Task,
    cancels: &Receiver<Cancel>,
    on_start: impl FnOnce(),
    on_json: &OnJson,
) -> Outcome {
    let mut on_start = Some(on_start);
    let mut retries = 0;
    let mut earliest = Instant::now();
    loop {
        // Something in the channel is the end of the wait, and of the run.
        if let Ok(cancel) = cancels.recv_deadline(reserve_start(&shared.starts, task, earliest)) {
            return before_start(cancel);
        }
        if let Some(on_start) = on_start.take() {
            on_start();
        }
        let outcome = attempt(shared, task, cancels, on_json, retries);
        if retries == RETRIES || !database_locked(&outcome) {
            return outcome;
        }
        retries += 1;
        // Not in step with whatever else is starting on the same home.
        earliest = Instant::now() + RETRY_DELAY + clock::jitter(RETRY_DELAY);
        warn!(
            "run {}: Codex found its database locked; starting it again ({retries} of {RETRIES})",
            task.run_id
        );
    }
}

/// The outcome of a run that is ended before its process was started.
pub fn before_start(cancel: Cancel) -> Outcome {
    Outcome::failed(match cancel {
        Cancel::Client => Failure::new(FailureCode::Cancelled, "The run was cancelled before it started."),
        Cancel::Stop => Failure::new(FailureCode::Interrupted, "codexd stopped before the run started."),
    })
}

/// When this task may start on its CODEX_HOME; the place is taken.
fn reserve_start(starts: &Mutex<HashMap<String, Instant>>, task: &Task, earliest: Instant) -> Instant {
    // Codex falls back from one to the other.
    let variable = |name: &str| match task.env.get(name) {
        Some(value) => value.clone(),
        None => std::env::var(name).ok(),
    };
    let home = variable("CODEX_HOME").or_else(|| variable("HOME")).unwrap_or_default();
    let mut starts = lock(starts);
    let start = starts.get(&home).map_or(earliest, |last| earliest.max(*last + SPACING));
    let now = Instant::now();
    starts.retain(|_, last| *last + SPACING > now);
    starts.insert(home, start);
    start
}

/// Whether Codex ended by itself and did not even begin because its database was locked. A run that has begun may have
/// changed something and is never started again: text output names its session on standard error then, JSON output has a
/// first line.
fn database_locked(outcome: &Outcome) -> bool {
    let by_itself = |failure: &Failure| failure.code == FailureCode::ExitNonZero.name();
    outcome.error.as_ref().is_some_and(by_itself)
        && outcome.result.as_ref().is_some_and(|result| {
            result.exit_code.is_some()
                && result.stderr.contains("database is locked")
                && !result.stderr_truncated
                && !result.stderr.contains("session id:")
                && result.stdout.is_empty()
        })
}

fn attempt(
    shared: &Shared,
    task: &Task,
    cancels: &Receiver<Cancel>,
    on_json: &OnJson,
    retries: u32,
) -> Outcome {
    let spawn_failed = |problem: String| Outcome::failed(Failure::new(FailureCode::SpawnFailed, problem));
    // For the last message and the schema; gone when dropped.
    let folder = match private::temporary_folder(&shared.temporary, "run-") {
        Ok(folder) => folder,
        Err(error) => return spawn_failed(format!("Cannot make a private folder for the run: {error}.")),
    };
    let last_message = folder.path().join("last-message.txt");
    let keep = |name: &str, text: &str| {
        let path = folder.path().join(name);
        private::create_new(&path)?.write_all(text.as_bytes())?;
        Ok::<_, io::Error>(path)
    };
    let schema = task.output_schema.as_deref().map(|schema| keep("output-schema.json", schema.get()));
    let schema = match schema.transpose() {
        Ok(schema) => schema,
        Err(error) => return spawn_failed(format!("Cannot write the output schema: {error}.")),
    };
    let line = task.command_line(&last_message, schema.as_deref());
    let stdin = match line.stdin.as_deref().map(|prompt| keep("prompt.txt", prompt)).transpose() {
        Ok(prompt) => prompt.map_or(Input::Null, Input::File),
        Err(error) => return spawn_failed(format!("Cannot write the prompt: {error}.")),
    };
    let invocation = task.invocation(&shared.command, &line);
    let started_at = clock::now_iso();
    let began = Instant::now();
    let mut outcome = match Started::spawn(shared, task, &line, stdin, on_json) {
        Ok(started) => {
            let ended = started.wait(task.timeout, cancels);
            let last_message = read_last_message(&task.run_id, &last_message);
            let result = ended.result(task, started_at, began, last_message, retries);
            let error = verdict::failure(&ended, task.timeout);
            Outcome { ok: error.is_none(), error, invocation: None, result: Some(result) }
        }
        Err(problem) => spawn_failed(problem),
    };
    outcome.invocation = Some(invocation);
    outcome
}

/// Codex writes an empty file when the run failed. The file goes with its folder, and what the run was for with it: a
/// moment without descriptors is waited out.
fn read_last_message(run: &str, path: &Path) -> Option<Captured> {
    let read = || fault::point(Point::LastMessage).and_then(|()| capture::last_message(path));
    let mut found = read();
    for _ in 0..READ_AGAIN {
        if found.is_ok() {
            break;
        }
        threads::pause(READ_AGAIN_AFTER);
        found = read();
    }
    match found {
        Ok(message) => message.filter(|message| !message.text.is_empty()),
        Err(error) => {
            warn!("run {run}: its last message cannot be read: {error}");
            None
        }
    }
}

/// A process that runs, and the threads at its pipes. Dropped as it is, it ends: the pipes are let go, then the process
/// is killed, then the threads are waited for.
struct Started {
    cancel: Vec<OwnedFd>,
    process: Process,
    stdout: Answer<(Captured, Collected)>,
    stderr: Answer<Captured>,
    threads: Vec<Thread>,
}

/// A process that has ended.
pub(super) struct Ended {
    pub(super) exit: Exit,
    pub(super) cut_short: Option<CutShort>,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
    pub(super) json: Collected,
}

/// Why a process was ended before it had ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutShort {
    Timeout,
    Cancelled(Cancel),
}

impl Started {
    fn spawn(
        shared: &Shared,
        task: &Task,
        line: &CommandLine,
        stdin: Input,
        on_json: &OnJson,
    ) -> Result<Self, String> {
        let cwd = if task.cwd.is_dir() { &task.cwd } else { &shared.fallback_cwd };
        let spec = Spec {
            command: process::find(&shared.command, &shared.fallback_cwd, FLAGS)?,
            args: shared.leading_args.iter().chain(&line.args).map(Into::into).collect(),
            cwd: cwd.clone(),
            env: task.env.iter().map(|(name, value)| (name.into(), value.as_ref().map(Into::into))).collect(),
            stdin,
        };
        let mut process = shared
            .ledger
            .spawn(&spec, Purpose::Run, &task.run_id)
            .map_err(|error| format!("Cannot start {}: {error}.", spec.command.display()))?;
        info!("run {} is process {}", task.run_id, process.id());
        let missing = || "The run's process has no output pipe.".to_owned();
        let output = process.take_stdout().ok_or_else(missing)?;
        let errors = process.take_stderr().ok_or_else(missing)?;
        let (give_stdout, stdout) = answer();
        let (give_stderr, stderr) = answer();
        let mut started = Self { cancel: Vec::new(), process, stdout, stderr, threads: Vec::new() };

        let log = |stream: &str| Capture::new(shared.logs.join(format!("{}.{stream}.log", task.run_id)));
        let capture = log("stdout");
        let mut lines = task.json.then(|| JsonLines::new(Arc::clone(on_json)));
        started.read(format!("{}-out", task.run_id), move |cancelled| {
            let captured = capture::drain(output, cancelled, capture, |piece| {
                if let Some(lines) = &mut lines {
                    lines.add(piece);
                }
            });
            give_stdout.give((captured, lines.map(JsonLines::finish).unwrap_or_default()));
        })?;
        let capture = log("stderr");
        started.read(format!("{}-err", task.run_id), move |cancelled| {
            give_stderr.give(capture::drain(errors, cancelled, capture, |_| {}));
        })?;
        Ok(started)
    }

    /// A thread at one of the pipes; it ends with the pipe, or with `cancel`.
    fn read(&mut self, name: String, read: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<(), String> {
        let problem = |error: io::Error| format!("Cannot start a thread for the run: {error}.");
        let (cancelled, to_cancel) = os::pipe().map_err(problem)?;
        self.cancel.push(to_cancel);
        self.threads.push(threads::spawn(name, move || read(&cancelled)).map_err(problem)?);
        Ok(())
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
        for thread in &self.threads {
            thread.wait(GRACE);
        }
        self.cancel.clear();
        let (stdout, json) = self.stdout.get().unwrap_or_default();
        let stderr = self.stderr.get().unwrap_or_default();
        Ended { exit, cut_short, stdout, stderr, json }
    }
}

impl Ended {
    fn result(
        &self,
        task: &Task,
        started_at: String,
        began: Instant,
        last_message: Option<Captured>,
        retries: u32,
    ) -> ProcessResult {
        ProcessResult {
            duration_ms: millis(began.elapsed()),
            exit_code: self.exit.code,
            finished_at: clock::now_iso(),
            json_events: task.json.then(|| self.json.events.clone()),
            json_events_truncated: self.json.truncated,
            json_parse_errors: self.json.errors.clone(),
            last_message_truncated: last_message.as_ref().is_some_and(|message| message.truncated),
            last_message: last_message.map(|message| message.text),
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

#[cfg(test)]
mod tests {
    use super::super::tests::task;
    use super::*;

    #[test]
    fn starts_on_one_codex_home_are_spaced_and_those_on_others_do_not_wait() {
        let starts = Mutex::default();
        let on =
            |home: &str| Task { env: [("CODEX_HOME".to_owned(), Some(home.to_owned()))].into(), ..task("x") };
        let now = Instant::now();
        let due = |home| reserve_start(&starts, &on(home), now) - now;
        assert_eq!(
            [due("a"), due("a"), due("b"), due("a")],
            [Duration::ZERO, SPACING, Duration::ZERO, SPACING * 2]
        );
        assert!(SPACING > Duration::ZERO);
    }
}
