//! One-shot `codex exec` runs: the command line, the process, what came of it.

pub mod capture;
pub mod json_lines;
pub mod pool;
pub mod process;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// Longest prompt given as an argument, in bytes; Linux takes 128 KiB for one (`MAX_ARG_STRLEN` of execve(2)). A longer
/// one goes by standard input, with `-` in its place.
const LONGEST_ARGUMENT: usize = 120 * 1024;
/// The only colour codexd asks for: output is for programs.
const COLOR: &str = "never";
/// The time limit of a run that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// A run as it was asked for, checked; as JSON what the record shows of that.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// The run's id.
    #[serde(skip)]
    pub run_id: String,
    /// What Codex is to do.
    pub prompt: String,
    /// What it is for, in the contract's words.
    pub purpose: String,
    /// Where Codex works; absolute.
    #[serde(serialize_with = "as_text")]
    pub cwd: PathBuf,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The profile of Codex's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The sandbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// `key=value` overrides of Codex's configuration.
    pub config: Vec<String>,
    /// Further folders that may be written.
    pub additional_writable_directories: Vec<String>,
    /// Pictures for the prompt.
    pub images: Vec<String>,
    /// Variables added to or, with `None`, removed from the daemon's environment.
    #[serde(skip)]
    pub env: BTreeMap<String, Option<String>>,
    /// Work outside a git repository too.
    pub skip_git_repo_check: bool,
    /// Print events as JSON lines.
    pub json: bool,
    /// Keep nothing of the thread.
    pub ephemeral: bool,
    /// Shape of the last message.
    #[serde(skip)]
    pub output_schema: Option<Box<RawValue>>,
    /// The time limit.
    #[serde(rename = "timeoutMs", serialize_with = "as_millis")]
    pub timeout: Duration,
}

/// How Codex was called, for the record.
#[derive(Debug, Clone, Serialize)]
pub struct Invocation {
    /// The command as configured.
    pub command: String,
    /// Its arguments, without the pair that names the file for the last message.
    pub args: Vec<String>,
    /// Always `never`.
    pub color: &'static str,
    /// What for.
    #[serde(flatten)]
    pub task: Task,
}

fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn as_millis<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    millis(*time).serialize(serializer)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The command line in full: the arguments, and the prompt where it goes by standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// Everything after the command.
    pub args: Vec<String>,
    /// Without `--output-last-message FILE`, as the record shows it.
    pub shown: Vec<String>,
    /// What is written to standard input; otherwise that is `/dev/null`.
    pub stdin: Option<String>,
}

impl Task {
    /// The arguments in the contract's order. `--` stands before the prompt, always: no prompt is ever an
    /// option or a subcommand.
    pub fn command_line(&self, last_message: &Path, schema: Option<&Path>) -> CommandLine {
        let mut args: Vec<String> = ["exec", "--cd"].map(str::to_owned).into();
        args.push(self.cwd.display().to_string());
        let mut pair = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        pair("--color", COLOR);
        for (name, value) in
            [("--model", &self.model), ("--profile", &self.profile), ("--sandbox", &self.sandbox)]
        {
            if let Some(value) = value {
                pair(name, value);
            }
        }
        let switches = [
            ("--skip-git-repo-check", self.skip_git_repo_check),
            ("--json", self.json),
            ("--ephemeral", self.ephemeral),
        ];
        args.extend(switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.to_owned()));
        let mut pair = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
        for (name, values) in [
            ("--config", &self.config),
            ("--add-dir", &self.additional_writable_directories),
            ("--image", &self.images),
        ] {
            values.iter().for_each(|value| pair(name, value));
        }
        if let Some(schema) = schema {
            pair("--output-schema", &schema.display().to_string());
        }
        let mut shown = args.clone();
        args.extend(["--output-last-message".to_owned(), last_message.display().to_string()]);
        let by_stdin = self.prompt.len() > LONGEST_ARGUMENT;
        let prompt = if by_stdin { "-" } else { &self.prompt };
        for line in [&mut args, &mut shown] {
            line.extend(["--".to_owned(), prompt.to_owned()]);
        }
        CommandLine { args, shown, stdin: by_stdin.then(|| self.prompt.clone()) }
    }

    /// How Codex is called, for the record.
    pub fn invocation(&self, command: &str, line: &CommandLine) -> Invocation {
        Invocation { command: command.to_owned(), args: line.shown.clone(), color: COLOR, task: self.clone() }
    }
}

macro_rules! failures {
    ($($variant:ident $name:literal retryable $retryable:literal $doc:literal,)*) => {
        /// Why a run failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum FailureCode { $(#[doc = $doc] $variant,)* }

        impl FailureCode {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it means.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            /// Its name in the record.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the same run may succeed when tried again.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }
        }
    };
}

failures! {
    SpawnFailed "CODEX_EXEC_SPAWN_FAILED" retryable false "The command could not be started.",
    Timeout "CODEX_EXEC_TIMEOUT" retryable true "The time limit passed; `details.timeoutMs` is which.",
    ExitNonZero "CODEX_EXEC_EXIT_NON_ZERO" retryable false "It ended with another code than 0 (`details.exitCode`), or by a signal (null).",
    Cancelled "CODEX_EXEC_CANCELLED" retryable false "A client cancelled it.",
    Interrupted "CODEX_EXEC_INTERRUPTED" retryable true "The daemon stopped, or was cut off, before it ended.",
}

/// Why a run failed, for the record.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// The code's name.
    pub code: &'static str,
    /// For a person.
    pub message: String,
    /// Whether the same run may succeed when tried again.
    pub retryable: bool,
    /// Particulars of the code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
}

/// Particulars of a failure.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The time limit that passed, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The exit code; null when a signal ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<Option<i32>>,
}

impl Failure {
    /// A failure without particulars.
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code: code.name(), message: message.into(), retryable: code.retryable(), details: None }
    }
}

/// What the process did, for the record.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessResult {
    /// From start to end, in milliseconds, by the monotonic clock.
    pub duration_ms: u64,
    /// The exit code; null when a signal ended it.
    pub exit_code: Option<i32>,
    /// When it ended.
    pub finished_at: String,
    /// Its JSON lines, the first megabyte of them; null without `json`.
    pub json_events: Option<Vec<Box<RawValue>>>,
    /// Whether there were more; all of them are `run.output` events.
    pub json_events_truncated: bool,
    /// Lines that were to be JSON and are not.
    pub json_parse_errors: Vec<JsonParseError>,
    /// The last message, or the end of it; null when there is none.
    pub last_message: Option<String>,
    /// Whether that is not all.
    pub last_message_truncated: bool,
    /// The signal that ended it, by name.
    pub signal: Option<String>,
    /// When it started.
    pub started_at: String,
    /// The end of its standard error.
    pub stderr: String,
    /// Whether that is not all; all of it is in the run's log file then.
    pub stderr_truncated: bool,
    /// The end of its standard output.
    pub stdout: String,
    /// Whether that is not all.
    pub stdout_truncated: bool,
    /// Whether the time limit passed.
    pub timed_out: bool,
    /// How often it was started again because Codex's database was locked.
    pub retries: u32,
}

/// A line of JSON output that is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonParseError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong.
    pub message: String,
}

/// The whole outcome: `result` of the run's record.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// How Codex was called; absent when it did not come to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invocation: Option<Invocation>,
    /// What the process did; absent when none was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<ProcessResult>,
}

impl Outcome {
    /// A run that failed before a process was started.
    pub fn failed(failure: Failure) -> Self {
        Self { ok: false, error: Some(failure), invocation: None, result: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn task(prompt: &str) -> Task {
        Task {
            run_id: "run-1".to_owned(),
            prompt: prompt.to_owned(),
            purpose: "simple-worker".to_owned(),
            cwd: "/srv".into(),
            model: Some("m".to_owned()),
            profile: Some("p".to_owned()),
            sandbox: Some("read-only".to_owned()),
            config: vec!["a=1".to_owned(), "b=2".to_owned()],
            additional_writable_directories: vec!["/d".to_owned()],
            images: vec!["/i.png".to_owned()],
            env: BTreeMap::new(),
            skip_git_repo_check: true,
            json: true,
            ephemeral: true,
            output_schema: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    #[test]
    fn the_arguments_stand_in_the_contracts_order() {
        let line = task("-p").command_line(Path::new("/t/last"), Some(Path::new("/t/schema")));
        let words = "exec --cd /srv --color never --model m --profile p --sandbox read-only --skip-git-repo-check --json \
                     --ephemeral --config a=1 --config b=2 --add-dir /d --image /i.png --output-schema /t/schema \
                     --output-last-message /t/last -- -p";
        assert_eq!(line.args.join(" "), words);
        assert_eq!(line.shown.join(" "), words.replace("--output-last-message /t/last ", ""));
        assert_eq!(line.stdin, None);
    }

    #[test]
    fn a_long_prompt_goes_by_standard_input() {
        let long = "x".repeat(LONGEST_ARGUMENT + 1);
        let line = task(&long).command_line(Path::new("/l"), None);
        assert_eq!(line.args.last().map(String::as_str), Some("-"));
        assert_eq!(line.stdin, Some(long));
        let line = task(&"x".repeat(LONGEST_ARGUMENT)).command_line(Path::new("/l"), None);
        assert_eq!(line.stdin, None);
    }
}
