//! `codexd run`: a one-shot run of the daemon that is running, followed to its end.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use log::warn;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use super::low::{LowArgs, RunArgs};
use super::{print, resolve};
use crate::api_client::{ApiClient, ClientError, EventStream};
use crate::config::Config;
use crate::threads::{self, Thread};

const RUNS: &str = "/v1/codexd/runs";
/// How often the run is asked for while the stream is silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a daemon that is gone gets to come back, and how often that is tried.
const RETURN: Duration = Duration::from_secs(15);
const RETURN_STEP: Duration = Duration::from_millis(250);

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// Something on this side.
    #[error("{0}")]
    Here(String),
    /// The daemon is not there, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The body of `POST /v1/codexd/runs`; paths are absolute, for the daemon works elsewhere.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    prompt: &'a str,
    purpose: &'a str,
    cwd: Option<PathBuf>,
    model: Option<&'a str>,
    profile: Option<&'a str>,
    sandbox: Option<&'a str>,
    config: &'a [String],
    additional_writable_directories: Vec<PathBuf>,
    images: Vec<PathBuf>,
    output_schema: Option<Box<RawValue>>,
    skip_git_repo_check: bool,
    ephemeral: bool,
    json: bool,
    timeout_ms: Option<u64>,
}

/// Posts the run to the daemon and follows it. Prints its last message, or with `--json` its JSON lines as they come;
/// the error goes to standard error. Ctrl-C cancels the run.
pub fn run(config: &Config, low: &LowArgs, words: &[OsString]) -> ExitCode {
    let record = prompt(words)
        .and_then(|prompt| body(&low.run, &prompt, low.json))
        .and_then(|body| follow(config, &body, low.json));
    match record {
        Ok(record) if record["status"] == "completed" => {
            match record["result"]["result"]["lastMessage"].as_str() {
                Some(message) if !low.json => print::out(&format!("{}\n", message.trim_end_matches('\n'))),
                _ => ExitCode::SUCCESS,
            }
        }
        Ok(record) => failed(record["error"].as_str().unwrap_or("the run failed")),
        Err(problem) => failed(&problem.to_string()),
    }
}

fn failed(message: &str) -> ExitCode {
    print::complain(message);
    ExitCode::FAILURE
}

/// The action's word, or standard input if that is `-`.
fn prompt(words: &[OsString]) -> Result<String, Problem> {
    let word = words.first().map(|word| word.to_str().unwrap_or_default()).unwrap_or_default();
    if word != "-" {
        return match word {
            "" => Err(Problem::Here("PROMPT must be UTF-8 text".to_owned())),
            word => Ok(word.to_owned()),
        };
    }
    let mut text = String::new();
    match io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Problem::Here(format!("cannot read the prompt from standard input: {error}"))),
    }
}

fn body(args: &RunArgs, prompt: &str, json: bool) -> Result<Value, Problem> {
    let here = std::env::current_dir()
        .map_err(|error| Problem::Here(format!("cannot tell the current directory: {error}")))?;
    let path = |path: &String| resolve::absolute(&here, path);
    let body = Body {
        prompt,
        purpose: "simple-worker",
        cwd: args.cwd.as_ref().map(path),
        model: args.model.as_deref(),
        profile: args.profile.as_deref(),
        sandbox: args.sandbox.as_deref(),
        config: &args.config,
        additional_writable_directories: args.add_dirs.iter().map(path).collect(),
        images: args.images.iter().map(path).collect(),
        output_schema: args.output_schema.as_ref().map(|file| schema(&path(file))).transpose()?,
        skip_git_repo_check: args.skip_git_repo_check,
        ephemeral: args.ephemeral,
        json,
        timeout_ms: args.timeout_ms,
    };
    serde_json::to_value(&body)
        .map_err(|error| Problem::Here(format!("the run cannot be written as JSON: {error}")))
}

fn schema(file: &Path) -> Result<Box<RawValue>, Problem> {
    let problem = |error: &dyn std::fmt::Display| {
        Problem::Here(format!("--output-schema {} is no JSON file: {error}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| problem(&error))?;
    serde_json::from_str(text.trim()).map_err(|error| problem(&error))
}

/// The way to the daemon of this configuration.
fn client(config: &Config) -> Result<ApiClient, Problem> {
    let base = &config.service.local_api_base;
    if base.address.port() == 0 {
        return Err(Problem::Here(format!(
            "{} leaves the port open: name the daemon's with --local-api-base http://127.0.0.1:PORT",
            base.text
        )));
    }
    let client = ApiClient::new(base.address);
    let Some(file) = &config.service.token_file else { return Ok(client) };
    match std::fs::read_to_string(file) {
        Ok(token) => Ok(client.with_token(Some(token.trim().to_owned()))),
        Err(error) => Err(Problem::Here(format!("cannot read the token in {}: {error}", file.display()))),
    }
}

/// The run's record at its end.
fn follow(config: &Config, body: &Value, json: bool) -> Result<Value, Problem> {
    let api = client(config)?;
    let path = &config.service.event_stream_path;
    // Before the run exists: nothing of it can be missed.
    let stream = api.stream(path).map_err(|error| match error {
        ClientError::Io { source, .. } => Problem::Here(format!(
            "no codexd answers at {}: {source}; start one with `codexd start`, or name its port with --local-api-base",
            config.service.local_api_base.text
        )),
        other => other.into(),
    })?;
    let accepted = api.post(RUNS, body)?;
    let id = accepted["run"]["runId"].as_str().unwrap_or_default().to_owned();
    let cancelling = Cancelling::start(api.clone(), id.clone());
    let record = Follower { api: &api, path, id: &id, json, seq: 0 }.until_the_end(stream);
    drop(cancelling);
    record
}

/// Ends the run when this process is to end. A second signal ends this process only.
struct Cancelling {
    handle: Option<Handle>,
    thread: Option<Thread>,
}

impl Cancelling {
    fn start(api: ApiClient, id: String) -> Self {
        let watched = Signals::new([SIGINT, SIGTERM]).and_then(|mut signals| {
            let handle = signals.handle();
            let thread = threads::spawn_contained("signals", move || {
                for (count, signal) in signals.forever().enumerate() {
                    let cancelled = count == 0
                        && api.post(&format!("{RUNS}/{id}/cancel"), &serde_json::json!({})).is_ok();
                    if !cancelled {
                        // What the signal does to a process that does not watch for it.
                        let _ = signal_hook::low_level::emulate_default_handler(signal);
                    }
                }
            })?;
            Ok((handle, thread))
        });
        match watched {
            Ok((handle, thread)) => Self { handle: Some(handle), thread: Some(thread) },
            Err(error) => {
                warn!("Ctrl-C will not cancel the run: {error}");
                Self { handle: None, thread: None }
            }
        }
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.close();
        }
        drop(self.thread.take());
    }
}

struct Follower<'a> {
    api: &'a ApiClient,
    path: &'a str,
    id: &'a str,
    json: bool,
    /// The last event seen.
    seq: u64,
}

impl Follower<'_> {
    fn until_the_end(mut self, mut stream: EventStream) -> Result<Value, Problem> {
        loop {
            match stream.next(Instant::now() + SILENCE) {
                Ok(mut message) if message["type"] == "event" => {
                    if let Some(record) = self.event(message["event"].take()) {
                        return Ok(record);
                    }
                }
                Ok(_) => {}
                Err(error) if error.is_timeout() => {
                    let record = self.api.get(&format!("{RUNS}/{}", self.id))?["run"].take();
                    if has_ended(&record) {
                        return Ok(record);
                    }
                }
                Err(error) => stream = self.again(error)?,
            }
        }
    }

    /// The record, when this event is the run's end.
    fn event(&mut self, mut event: Value) -> Option<Value> {
        self.seq = event["seq"].as_u64().unwrap_or(self.seq);
        if event["detail"]["runId"] != self.id {
            return None;
        }
        if self.json && event["type"] == "run.output" {
            print::out(&format!("{}\n", event["detail"]["event"]));
        }
        let record = event["detail"]["record"].take();
        has_ended(&record).then_some(record)
    }

    /// A new stream from where the old one broke, of a daemon that may have been started again.
    fn again(&self, mut lost: ClientError) -> Result<EventStream, Problem> {
        let path = format!("{}?after={}&runId={}", self.path, self.seq, self.id);
        let until = Instant::now() + RETURN;
        while Instant::now() < until {
            match self.api.stream(&path) {
                Ok(stream) => return Ok(stream),
                Err(error) => lost = error,
            }
            let (_keep, never) = bounded::<()>(0);
            let _ = never.recv_timeout(RETURN_STEP);
        }
        Err(Problem::Here(format!("lost sight of run {}: {lost}", self.id)))
    }
}

fn has_ended(record: &Value) -> bool {
    record["status"] == "completed" || record["status"] == "failed"
}
