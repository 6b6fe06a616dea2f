//! The command line: words → [`parse`] → what was typed → [`low`] (with the environment) → typed settings →
//! [`resolve`] → [`Config`] → an action. The tables in [`flags`] are all there is to know about
//! flags and actions. Only this module prints, and only through [`print`](mod@print).

pub mod ask;
pub mod completions;
pub mod doctor;
pub mod events;
pub mod flags;
pub mod folder;
pub mod help;
pub mod interrupt;
pub mod list;
pub mod logging;
pub mod low;
pub mod man;
pub mod parse;
pub mod print;
pub mod question;
pub mod reach;
pub mod render;
pub mod resolve;
pub mod run;
pub mod service;
pub mod smoke;
pub mod start;
pub mod status;
pub mod tail;
pub mod terminal;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use log::LevelFilter;
use thiserror::Error;

use crate::config::Config;
use crate::model::preview;
use crate::stub;
use flags::Action;
use low::{Given, LowArgs};
use parse::{Command, Parsed};

/// A wrong command line or environment: one line that names what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct UsageError(String);

impl UsageError {
    /// The exit code.
    pub const EXIT: u8 = 2;

    /// With that message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    fn not_utf8(name: &str, value: &OsStr) -> Self {
        Self(format!("{name} must be UTF-8 text, which \"{}\" is not", preview(&value.to_string_lossy())))
    }
}

/// The program: reads the process's arguments, environment and directory, and does what they ask for.
pub fn main() -> ExitCode {
    match parse::parse(std::env::args_os().skip(1).collect()) {
        Ok(Parsed::Help) => print::out(&help::help()),
        Ok(Parsed::Version) => print::out(concat!("codexd ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Parsed::Act(command)) => {
            let code = act(command);
            logging::flush();
            code
        }
        Err(error) => refuse(&error),
    }
}

fn act(command: Command) -> ExitCode {
    let with_config = |run: &dyn Fn(Config, &LowArgs) -> ExitCode| match settle(&command) {
        Ok((config, low)) => run(config, &low),
        Err(code) => code,
    };
    match command.action {
        Action::Start => with_config(&|config, low| start::run(config, low.json, low.run_once)),
        Action::Status => with_config(&|config, low| status::run(&config, low.json)),
        Action::Config => with_config(&|config, low| match low.json {
            true => print::out_json(&config.view()),
            false => print::out(&print::config_lines(&config)),
        }),
        Action::Smoke => with_config(&|config, low| smoke::run(config, low.json, keeps_files(&command))),
        Action::Run => with_config(&|config, low| run::run(&config, low, &command.words)),
        Action::Ask => with_config(&|config, low| match low.json {
            true => {
                refuse(&UsageError::new("ask prints what Codex says; for JSON there is codexd tail --json"))
            }
            false => ask::run(&config, &low.people, &command.words),
        }),
        Action::Sessions => with_config(&|config, low| list::run(&config, list::SESSIONS, low.json)),
        Action::Runs => with_config(&|config, low| list::run(&config, list::RUNS, low.json)),
        Action::Requests => with_config(&|config, low| {
            list::run(&config, if low.people.all { list::REQUESTS } else { list::PENDING }, low.json)
        }),
        Action::Answer => with_config(&|config, low| list::answer(&config, &command.words, low.json)),
        Action::Tail => with_config(&|config, low| tail::run(&config, &low.people, low.json)),
        Action::Doctor => doctor(&command),
        Action::Service => with_config(&|config, low| {
            service::run(&config, low, &command).unwrap_or_else(|error| refuse(&error))
        }),
        Action::Completions => {
            let shell = command.words.first().map(|shell| shell.to_string_lossy()).unwrap_or_default();
            completions::script(&shell).map_or_else(|error| refuse(&error), |script| print::out(&script))
        }
        Action::Man => print::out(&man::page()),
        Action::Help => print::out(&help::help()),
        Action::StubAppServer => ExitCode::from(stub::app_server_stdio(command.words.first().map(Path::new))),
        Action::StubExec => {
            let words: Vec<_> =
                command.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
            ExitCode::from(stub::exec(&words, std::io::stdin(), std::io::stdout(), std::io::stderr()))
        }
    }
}

fn doctor(command: &Command) -> ExitCode {
    let (low, cwd) = match here(command) {
        Ok(here) => here,
        Err(code) => return code,
    };
    logging::init(low.log_level.unwrap_or(LevelFilter::Warn));
    doctor::run(&command.given, &low, &cwd).unwrap_or_else(|error| refuse(&error))
}

/// What was typed and set, and the directory it was typed in; or the exit code after a complaint.
fn here(command: &Command) -> Result<(LowArgs, PathBuf), ExitCode> {
    let env = |name: &str| std::env::var_os(name);
    let low = LowArgs::gather(&command.given, &env).map_err(|error| refuse(&error))?;
    let cwd = std::env::current_dir()
        .map_err(|error| print::fail(&format!("cannot tell the current directory: {error}")))?;
    Ok((low, cwd))
}

/// The configuration of this process, and logging started; or the exit code after a complaint.
fn settle(command: &Command) -> Result<(Config, LowArgs), ExitCode> {
    let (low, cwd) = here(command)?;
    let config = resolve::resolve(low.clone(), &cwd).map_err(|error| refuse(&error))?;
    for flag in command.without_effect() {
        print::complain(&format!(
            "--{flag} has no effect here: it is a flag of codexd start, for a daemon that is not running yet"
        ));
    }
    if works_there(command) {
        folder::check_working(&config, &command.given, &|name| std::env::var_os(name))
            .map_err(|error| refuse(&error))?;
    }
    match command.action {
        Action::Start => logging::init_daemon(low.log_level.unwrap_or(LevelFilter::Info))
            .map_err(|error| print::fail(&format!("cannot start the thread that logs: {error}")))?,
        _ => logging::init(low.log_level.unwrap_or(LevelFilter::Warn)),
    }
    Ok((config, low))
}

/// Whether `codexd smoke` leaves its files where they were asked for.
fn keeps_files(command: &Command) -> bool {
    ["repo-root", "logs-dir", "state-dir"].iter().any(|flag| command.is_given(flag))
}

/// Whether the action is one of a daemon that will work in the repository; others read what one has left, print for another
/// host, or do not look.
fn works_there(command: &Command) -> bool {
    match command.action {
        Action::Start => true,
        Action::Smoke => keeps_files(command),
        Action::Service => command.words.first().is_some_and(|verb| verb == "install"),
        _ => false,
    }
}

fn refuse(error: &UsageError) -> ExitCode {
    print::complain(&error.to_string());
    ExitCode::from(UsageError::EXIT)
}

/// What `codexd WORDS…` would run with in the environment `env` and the directory `cwd`.
///
/// # Errors
/// As the program's exit code 2.
pub fn config_of(words: &[&str], env: &low::Env<'_>, cwd: &Path) -> Result<Option<Config>, UsageError> {
    match parse::parse(words.iter().map(OsString::from).collect())? {
        Parsed::Act(command) => config_with(&command.given, env, cwd).map(Some),
        Parsed::Help | Parsed::Version => Ok(None),
    }
}

/// What these flags would run with in the environment `env` and the directory `cwd`.
fn config_with(given: &Given, env: &low::Env<'_>, cwd: &Path) -> Result<Config, UsageError> {
    resolve::resolve(LowArgs::gather(given, env)?, cwd)
}
