//! What the checks look at: this host as the daemon sees it, or would see it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::ask::{self, Asked};
use crate::config::Config;
use crate::process;

/// The configuration and the environment that the daemon has, or would have.
#[derive(Debug)]
pub struct Host {
    /// The configuration.
    pub config: Config,
    /// Variables that the daemon has otherwise than this process.
    variables: Vec<(OsString, Option<OsString>)>,
}

impl Host {
    /// In this process's environment.
    pub fn new(config: Config) -> Self {
        Self { config, variables: Vec::new() }
    }

    /// A variable of the daemon's environment.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        match self.variables.iter().find(|(known, _)| known == name) {
            Some((_, value)) => value.clone(),
            None => std::env::var_os(name),
        }
    }

    /// The daemon's PATH, empty if it has none.
    pub fn path(&self) -> OsString {
        self.variable("PATH").unwrap_or_default()
    }

    /// The file that a command of the daemon stands for: itself when it has a slash, else the first one on its PATH.
    ///
    /// # Errors
    /// Where it was looked for.
    pub fn find(&self, command: &str, cwd: &Path) -> Result<PathBuf, String> {
        if command.contains('/') {
            let path = cwd.join(command);
            let complaint = format!("{} is no executable file", path.display());
            return process::executable(&path).then_some(path).ok_or(complaint);
        }
        self.which(command).ok_or_else(|| format!("{command} is not on PATH={}", self.path().display()))
    }

    /// Runs a command in the daemon's environment, with a deadline of ten seconds.
    ///
    /// # Errors
    /// That it cannot be started or does not end in time, for a person.
    pub fn ask(&self, command: &Path, args: &[&str]) -> Result<Asked, String> {
        let mut spec = ask::spec(command, args, Path::new("/"));
        spec.env.clone_from(&self.variables);
        ask::ask(&spec, ask::DEADLINE)
    }

    /// The first executable of that name on the daemon's PATH.
    pub fn which(&self, name: &str) -> Option<PathBuf> {
        process::which(&self.path(), name)
    }
}
