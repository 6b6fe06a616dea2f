//! Folders that are named on the command line and must be there. codexd makes folders for its logs and its state; a
//! repository that it would have to make is a slip of the keyboard, and whatever worked in it would work on nothing.

use std::fs;
use std::io;
use std::path::Path;

use super::UsageError;
use super::flags::{FLAGS, Flag};
use super::low::{Env, Given};
use crate::config::{Config, Strategy};
use crate::model::preview;

/// Refuses a repository root, and a working directory of the child, that was given and is no folder; by default both are
/// the current one, which is there.
///
/// # Errors
/// Naming the flag or the variable it came from.
pub fn check_working(config: &Config, given: &Given, env: &Env<'_>) -> Result<(), UsageError> {
    let spawns = config.server.strategy == Strategy::Spawn;
    let of_child = spawns.then_some(("server-cwd", &config.server.cwd));
    for (name, folder) in [("repo-root", &config.paths.repo_root)].into_iter().chain(of_child) {
        let flag = FLAGS.iter().find(|flag: &&Flag| flag.name == name);
        if let Some(flag) = flag
            && let Some(setting) = flag.setting(given, env)?
        {
            check(&setting.name(flag), folder)?;
        }
    }
    Ok(())
}

/// Refuses what is known not to be a folder. What cannot be looked at may be one, for whoever works there.
///
/// # Errors
/// Naming `name`, which it was given by.
pub fn check(name: &str, folder: &Path) -> Result<(), UsageError> {
    let shown = preview(&folder.to_string_lossy());
    match fs::metadata(folder) {
        Ok(found) if !found.is_dir() => {
            Err(UsageError::new(format!("{name} must be a folder, which \"{shown}\" is not")))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Err(UsageError::new(format!("{name} must be a folder that exists, and there is no \"{shown}\"")))
        }
        _ => Ok(()),
    }
}
