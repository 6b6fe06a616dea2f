//! `codexd start`. SEAM: to be filled with the daemon.

use std::process::ExitCode;

use super::print;
use crate::config::Config;

/// Runs the daemon until SIGINT or SIGTERM; with `run_once` only for the smoke lifetime.
///
/// After start-up it prints [`print::start_line`] or, with `json`, [`print::StartReport`].
pub fn run(config: Config, json: bool, run_once: bool) -> ExitCode {
    let _ = (config, json, run_once);
    print::complain("start is not built yet");
    ExitCode::FAILURE
}
