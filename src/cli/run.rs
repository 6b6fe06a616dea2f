//! `codexd run`: a one-shot run of the daemon that is running, followed to its end.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use crossbeam_channel::bounded;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::events::{Events, Heard};
use super::interrupt::OnInterrupt;
use super::low::{LowArgs, RunArgs};
use super::question::fold;
use super::reach::{self, Problem};
use super::render::readable;
use super::{UsageError, print};
use crate::api_client::ApiClient;
use crate::config::Config;
use crate::model::preview;

const RUNS: &str = "/v1/codexd/runs";
/// How long a daemon that is gone gets to come back, and how often the run is asked for while the stream is silent.
const PATIENCE: Duration = Duration::from_secs(15);

/// Posts the run to the daemon and follows it. Says its id on standard error, and prints its last message, or with `--json` its JSON lines as they come;
/// the error goes to standard error. Ctrl-C cancels the run, and so does output that cannot be written.
pub fn run(config: &Config, low: &LowArgs, words: &[OsString]) -> ExitCode {
    let record = reach::prompt(words)
        .and_then(|prompt| body(low, &prompt))
        .and_then(|body| follow(config, &body, low.json));
    match record {
        Ok(Record { status, result, .. }) if status == "completed" => {
            let Output { last_message, last_message_truncated } = result.unwrap_or_default().result;
            match last_message {
                Some(message) if !low.json => {
                    if last_message_truncated {
                        print::progress("the message is longer than what codexd keeps: this is its end");
                    }
                    let message = message.trim_end_matches('\n');
                    // As it is to a program, and harmless to a terminal.
                    let shown =
                        if io::stdout().is_terminal() { readable(message, "") } else { message.to_owned() };
                    print::out(&format!("{shown}\n"))
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Ok(Record { error, .. }) => print::fail(error.as_deref().unwrap_or("the run failed")),
        Err(problem) => problem.complain(),
    }
}

/// The body of `POST /v1/codexd/runs`; paths are absolute, for the daemon works elsewhere, and UTF-8, for `resolve` takes no
/// other current directory.
fn body(low: &LowArgs, prompt: &str) -> Result<Value, Problem> {
    let RunArgs { model, profile, sandbox, config, add_dirs, images, output_schema, .. } = &low.run;
    // The API passes them on as they are; here it is the command line that is wrong.
    if let Some(wrong) =
        config.iter().find(|entry| entry.split_once('=').is_none_or(|(key, _)| key.trim().is_empty()))
    {
        return Err(
            UsageError::new(format!("--codex-config must be KEY=VALUE, not \"{}\"", preview(wrong))).into()
        );
    }
    let paths =
        |paths: &[String]| paths.iter().map(|path| reach::absolute(path)).collect::<Result<Vec<_>, _>>();
    Ok(json!({
        "prompt": prompt,
        "purpose": "simple-worker",
        "cwd": reach::cwd(low.people.cwd.as_deref())?,
        "model": model,
        "profile": profile,
        "sandbox": sandbox,
        "config": config,
        "additionalWritableDirectories": paths(add_dirs)?,
        "images": paths(images)?,
        "outputSchema": output_schema.as_deref().map(schema).transpose()?,
        "skipGitRepoCheck": low.run.skip_git_repo_check,
        "ephemeral": low.run.ephemeral,
        "json": low.json,
        "timeoutMs": low.run.timeout_ms,
    }))
}

fn schema(file: &str) -> Result<Value, Problem> {
    let file = reach::absolute(file)?;
    let problem = |error: &dyn std::fmt::Display| {
        UsageError::new(format!("--output-schema {} is no JSON file: {error}", file.display()))
    };
    let text = std::fs::read_to_string(&file).map_err(|error| problem(&error))?;
    serde_json::from_str(&text).map_err(|error| problem(&error).into())
}

/// The run's record at its end.
fn follow(config: &Config, body: &Value, json: bool) -> Result<Record, Problem> {
    // Before the run exists: nothing of it can be missed.
    let mut events = Events::open(config, &[], None)?;
    let api = reach::client(config)?;
    // Before it exists, too: a Ctrl-C that comes while it is being made is for it. The watch may wait for `made`, which
    // therefore goes first.
    let cancelling;
    let (made, run) = bounded::<String>(1);
    let there = api.clone();
    let cancel = move |id: &str| there.post(&format!("{RUNS}/{id}/cancel"), &json!({})).is_ok();
    let ask = cancel.clone();
    cancelling = OnInterrupt::watch(move || run.recv().is_ok_and(|id| ask(&id)));
    let accepted = api.post(RUNS, body)?;
    let id = accepted["run"]["runId"].as_str().unwrap_or_default().to_owned();
    // There is room for one, and there is one.
    let _ = made.try_send(id.clone());
    if !json {
        // At once: a long run can be looked at, or cancelled, from elsewhere.
        print::progress(&format!("run {}", fold(&id)));
    }
    events.narrow("runId", &id);
    let record = until_the_end(events, &api, &id, json);
    if let Err(Problem::Output(_)) = record {
        // It may just have ended.
        let _ = cancel(&id);
    }
    drop(cancelling);
    record
}

fn until_the_end(mut events: Events<'_>, api: &ApiClient, id: &str, json: bool) -> Result<Record, Problem> {
    let mut lost = String::new();
    loop {
        match events.next(PATIENCE)? {
            Heard::Event(event) => {
                if let Some(record) = seen(&event, id, json)? {
                    return Ok(record);
                }
            }
            Heard::Lost(error) => lost = error.to_string(),
            Heard::Silence if events.lost_for().is_some_and(|time| time >= PATIENCE) => {
                return Err(Problem::here(format!("lost sight of run {id}: {lost}")));
            }
            Heard::Silence | Heard::Gap(..) if events.lost_for().is_none() => {
                let record = api.get(&format!("{RUNS}/{id}"))?["run"].take();
                if let Some(record) = serde_json::from_value(record).ok().filter(Record::has_ended) {
                    return Ok(record);
                }
            }
            _ => {}
        }
    }
}

/// What is looked at of an event of the run.
#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    detail: Detail<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    run_id: String,
    /// A line of its output, as it came.
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    record: Option<Record>,
}

/// What is looked at of a run's record. Its other members may hold numbers that no value in memory does.
#[derive(Deserialize)]
struct Record {
    status: String,
    error: Option<String>,
    result: Option<Outcome>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Outcome {
    result: Output,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Output {
    last_message: Option<String>,
    last_message_truncated: bool,
}

impl Record {
    fn has_ended(&self) -> bool {
        self.status == "completed" || self.status == "failed"
    }
}

/// The record, when this event is the run's end.
fn seen(event: &RawValue, id: &str, json: bool) -> Result<Option<Record>, Problem> {
    let Ok(Seen { kind, detail }) = serde_json::from_str::<Seen<'_>>(event.get()) else { return Ok(None) };
    if detail.run_id != id {
        return Ok(None);
    }
    if let Some(line) = detail.event.filter(|_| json && kind == "run.output") {
        print::write(&format!("{}\n", print::json_to_show(line.get()))).map_err(Problem::Output)?;
    }
    Ok(detail.record.filter(Record::has_ended))
}
