//! `codexd doctor`: what would stop codexd from working on this host, one line a check, each with what to do.
//!
//! A check is a function over a [`Host`], listed in [`CHECKS`]; it looks at things with deadlines and changes nothing.

mod ask;
mod codex;
mod host;
mod login;
mod place;
mod protocol;
mod running;
mod unit;

use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::flags::ACTIONS;
use super::low::{Given, LowArgs};
use super::{UsageError, print};
use crate::model::printable;
use crate::model::record::worded;

pub use ask::Asked;
pub use host::{Answers, Host};

worded! {
    /// How a check came out.
    Status {
        /// All is well.
        Ok = "ok",
        /// It works, but not for long or not wholly.
        Warn = "warn",
        /// codexd cannot do its work like this.
        Fail = "fail",
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at, one word with hyphens.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// What was found, for a person.
    pub what: String,
    /// What to do about it; null when there is nothing to do.
    pub todo: Option<String>,
}

impl Check {
    /// Nothing to do.
    pub fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, what: what.into(), todo: None }
    }

    /// Worth a look.
    pub fn warn(name: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, what: what.into(), todo: Some(todo.into()) }
    }

    /// To be mended.
    pub fn fail(name: &'static str, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, what: what.into(), todo: Some(todo.into()) }
    }

    /// `STATUS NAME: WHAT; TODO`, without anything a terminal would obey.
    pub fn line(&self) -> String {
        let said = format!("{} {}: {}", self.status.as_str(), self.name, self.what);
        let text = match &self.todo {
            // What the daemon or a command says may be a sentence, which goes on here.
            Some(todo) => format!("{}; {todo}", said.trim_end_matches('.')),
            None => said,
        };
        printable(&text).to_string()
    }
}

/// Every check, in the order of the lines. One function may have several things to say.
pub const CHECKS: &[fn(&Host) -> Vec<Check>] = &[
    unit::service,
    running::daemon,
    running::port,
    running::others,
    running::orphans,
    unit::access,
    codex::found,
    codex::of_runs,
    login::status,
    place::folders,
    place::disk,
    place::logs,
];

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Check],
}

/// Runs every check and prints what it found; exit code 1 if one failed.
///
/// # Errors
/// A wrong command line or environment.
pub fn run(given: &Given, low: &LowArgs, cwd: &Path) -> Result<ExitCode, UsageError> {
    let (host, json) = (Host::look(given, low, cwd)?, low.json);
    let mut checks = Vec::new();
    for check in CHECKS {
        let found = check(&host);
        if !json {
            // One by one: some of them take a while.
            for check in &found {
                print::out(&format!("{}\n", check.line()));
            }
        }
        checks.extend(found);
    }
    let ok = checks.iter().all(|check| check.status != Status::Fail);
    if json {
        print::out_json(&Report { ok, checks: &checks });
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let check = Check::fail("codex", "a\nb\u{1b}[2J", "mend it");
        assert_eq!(check.line(), "fail codex: a\\nb\\u{1b}[2J; mend it");
        assert_eq!(
            Check::warn("port", "It is closed.", "open it").line(),
            "warn port: It is closed; open it"
        );
        assert_eq!(Check::ok("codex", "fine").line(), "ok codex: fine");
    }
}
