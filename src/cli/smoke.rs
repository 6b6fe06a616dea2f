//! `codexd smoke`.

use std::process::ExitCode;

use super::print::{self, SmokeReport};
use crate::config::Config;
use crate::smoke;

/// Tests codexd with the built-in child; in temporary folders unless `keep_files`, that is unless one of
/// `--repo-root`, `--logs-dir`, `--state-dir` was typed.
///
/// Prints [`print::smoke_lines`] or, with `json`, [`print::SmokeReport`]; succeeds only if every check does.
pub fn run(mut config: Config, json: bool, keep_files: bool) -> ExitCode {
    let folder = match (!keep_files).then(|| smoke::temporary(&mut config)).transpose() {
        Ok(folder) => folder,
        Err(error) => return print::fail(&format!("no temporary folder: {error}")),
    };
    let config = match smoke::configure(config) {
        Ok(config) => config,
        Err(error) => return print::fail(&format!("cannot tell where this program is: {error}")),
    };
    let outcome = smoke::run(&config);
    drop(folder);
    let (checks, snapshot) = match outcome {
        Ok(outcome) => outcome,
        Err(problem) => {
            smoke::clean_up();
            return print::fail(&problem.to_string());
        }
    };
    let told = if json {
        print::out_json(&SmokeReport { checks: &checks, snapshot: &snapshot })
    } else {
        print::out(&print::smoke_lines(&config, &checks, &snapshot))
    };
    if checks.iter().all(|check| check.ok) { told } else { ExitCode::FAILURE }
}
