//! Typed settings as they were given, before defaults and relations between them: `None` is "not given".

use std::ffi::OsString;
use std::time::Duration;

use log::LevelFilter;

use super::UsageError;
use super::flags::{FLAGS, Flag, Update};
use crate::config::{ApiBase, Mode, RequestPolicy, Strategy, Sync};
use crate::model::preview;
use crate::model::record::worded;

/// Looks up an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// What a value would have to be, as it follows the name: `must be …`.
pub type Expected = String;

/// The flags as they were typed, each with its value (empty for a switch), in order.
pub type Given = Vec<(&'static Flag, String)>;

worded! {
    /// When the child is started again.
    Restart {
        /// Whenever it ends unasked.
        Always = "always",
        /// Not at all.
        Never = "never",
    }
}

/// Typed settings from flags and variables.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is what its flag's row in the table says")]
pub struct LowArgs {
    pub repo_root: Option<String>,
    pub node_id: Option<String>,
    pub mode: Option<Mode>,
    pub logs_dir: Option<String>,
    pub state_dir: Option<String>,
    pub local_api_base: Option<ApiBase>,
    pub event_stream_path: Option<String>,
    pub endpoint: Option<String>,
    pub strategy: Option<Strategy>,
    pub server_token_file: Option<String>,
    pub server_ca_file: Option<String>,
    pub command: Option<String>,
    pub args: Option<Vec<String>>,
    pub server_cwd: Option<String>,
    pub event_cache_size: Option<usize>,
    pub smoke_lifetime: Option<Duration>,
    pub version: Option<String>,
    pub run_once: bool,
    pub json: bool,
    pub restart: Option<Restart>,
    pub stop_timeout: Option<Duration>,
    pub drain_timeout: Option<Duration>,
    pub call_timeout: Option<Duration>,
    pub max_line_bytes: Option<usize>,
    pub request_policy: Option<RequestPolicy>,
    pub request_timeout: Option<Duration>,
    pub codex_command: Option<String>,
    pub max_concurrent: Option<usize>,
    pub max_queued: Option<usize>,
    pub max_log_bytes: Option<u64>,
    pub keep_segments: Option<usize>,
    pub sync: Option<Sync>,
    pub token_file: Option<String>,
    pub require_token: bool,
    pub allow_other_users: bool,
    pub log_level: Option<LevelFilter>,
    pub launchd: bool,
    pub systemd: bool,
    pub run: RunArgs,
    pub people: PeopleArgs,
}

/// What the actions that talk to the running daemon are about.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is what its flag's row in the table says")]
pub struct PeopleArgs {
    pub after: Option<u64>,
    pub types: Vec<String>,
    pub session: Option<String>,
    pub cwd: Option<String>,
    pub all: bool,
}

/// The flags of `codexd run`.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is what its flag's row in the table says")]
pub struct RunArgs {
    pub model: Option<String>,
    pub profile: Option<String>,
    pub sandbox: Option<String>,
    pub config: Vec<String>,
    pub add_dirs: Vec<String>,
    pub images: Vec<String>,
    pub output_schema: Option<String>,
    pub skip_git_repo_check: bool,
    pub ephemeral: bool,
    pub timeout_ms: Option<u64>,
}

impl LowArgs {
    /// Puts together what was typed and what the environment says: a flag beats its variables, the first variable
    /// that is set beats the others, blank is "not given".
    ///
    /// # Errors
    /// The first value that is not what its flag or variable takes.
    pub fn gather(given: &Given, env: &Env<'_>) -> Result<Self, UsageError> {
        let mut low = Self::default();
        for flag in FLAGS {
            flag.apply(given, env, &mut low)?;
        }
        Ok(low)
    }
}

/// What a flag was given, and by what; what it means is not yet looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// What was typed: the last value, trimmed; of a flag whose values add up all of them, as they are; of a switch an
    /// empty one.
    Typed(Vec<String>),
    /// The variable that counts, and what it says, trimmed.
    Variable(&'static str, String),
}

impl Setting {
    /// What to call it in a complaint: the flag or the variable.
    pub fn name(&self, flag: &Flag) -> String {
        match self {
            Self::Typed(_) => format!("--{}", flag.name),
            Self::Variable(name, _) => (*name).to_owned(),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Typed(values) => values.last().map_or("", String::as_str),
            Self::Variable(_, value) => value,
        }
    }
}

impl Flag {
    /// The one answer to the question whose word counts: that of `codexd start` and of the service that is to do the same.
    ///
    /// # Errors
    /// A variable that is not UTF-8.
    pub fn setting(&self, given: &Given, env: &Env<'_>) -> Result<Option<Setting>, UsageError> {
        let mut typed =
            given.iter().filter(|(flag, _)| flag.name == self.name).map(|(_, value)| value.as_str());
        let typed: Vec<&str> = match self.update {
            Update::Switch(_) => typed.take(1).collect(),
            Update::One(..) => {
                typed.next_back().map(str::trim).filter(|value| !value.is_empty()).into_iter().collect()
            }
            Update::Many(..) => typed.filter(|value| !value.trim().is_empty()).collect(),
        };
        if !typed.is_empty() {
            return Ok(Some(Setting::Typed(typed.into_iter().map(str::to_owned).collect())));
        }
        // A list that the variable leaves blank is an empty one.
        let blank_counts = matches!(self.update, Update::Many(..));
        for name in self.env {
            if let Some(value) = text(name, env)?
                && (blank_counts || !value.trim().is_empty())
            {
                return Ok(Some(Setting::Variable(name, value.trim().to_owned())));
            }
        }
        Ok(None)
    }

    fn apply(&self, given: &Given, env: &Env<'_>, low: &mut LowArgs) -> Result<(), UsageError> {
        let Some(setting) = self.setting(given, env)? else { return Ok(()) };
        let taken = match (self.update, &setting) {
            (Update::Switch(set), Setting::Typed(_)) => {
                set(low, true);
                Ok(())
            }
            (Update::Switch(set), Setting::Variable(_, value)) => switch(value).map(|on| set(low, on)),
            (Update::One(_, set), setting) => set(low, setting.text()),
            (Update::Many(_, set), Setting::Typed(words)) => {
                set(low, words.clone());
                Ok(())
            }
            (Update::Many(_, set), Setting::Variable(_, value)) => list(value).map(|words| set(low, words)),
        };
        taken.map_err(|expected| UsageError::value(&setting.name(self), &expected, setting.text()))
    }
}

fn text(name: &'static str, env: &Env<'_>) -> Result<Option<String>, UsageError> {
    env(name).map(|value| value.into_string().map_err(|value| UsageError::not_utf8(name, &value))).transpose()
}

/// What a word out of a fixed list means, such as [`Mode::ALL`].
pub(super) fn one_of<T: Copy>(words: &[(&str, T)], value: &str) -> Result<T, Expected> {
    words.iter().find(|(word, _)| *word == value).map(|(_, meant)| *meant).ok_or_else(|| {
        let mut words = words.iter().map(|(word, _)| *word);
        let last = words.next_back().unwrap_or_default();
        format!("must be {} or {last}", words.collect::<Vec<_>>().join(", "))
    })
}

/// The largest number taken: what JSON readers hold exactly, and no deadline overflows by.
pub const MAX_NUMBER: u64 = (1 << 53) - 1;

/// An integer, at least `least`.
pub(super) fn number(least: u64, value: &str) -> Result<u64, Expected> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|number| digits && (least..=MAX_NUMBER).contains(number)).ok_or_else(|| {
        if digits && value.parse::<u64>().map_or(true, |number| number > MAX_NUMBER) {
            format!("must be an integer up to {MAX_NUMBER}")
        } else {
            format!("must be an integer, {least} or more")
        }
    })
}

/// As [`number`], for what is counted in memory.
pub(super) fn count(least: u64, value: &str) -> Result<usize, Expected> {
    usize::try_from(number(least, value)?).map_err(|_| format!("must be an integer up to {}", usize::MAX))
}

/// Milliseconds.
pub(super) fn millis(least: u64, value: &str) -> Result<Duration, Expected> {
    number(least, value).map(Duration::from_millis)
}

/// A switch as a variable.
fn switch(value: &str) -> Result<bool, Expected> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// A list as a variable: a JSON array of strings when it begins with `[`, else words.
fn list(value: &str) -> Result<Vec<String>, Expected> {
    if value.trim_start().starts_with('[') {
        serde_json::from_str(value)
            .map_err(|_| r#"must be a JSON array of strings such as ["app-server"], or words"#.to_owned())
    } else {
        Ok(value.split_whitespace().map(str::to_owned).collect())
    }
}

impl UsageError {
    fn value(name: &str, expected: &str, value: &str) -> Self {
        Self::new(format!("{name} {expected}, not \"{}\"", preview(value)))
    }
}
