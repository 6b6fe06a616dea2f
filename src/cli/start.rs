//! `codexd start`.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::logging;
use super::print::{self, StartReport};
use crate::config::Config;
use crate::daemon::manager::Manager;
use crate::daemon::{Daemon, Stopped};
use crate::model::view::{ServiceView, Snapshot, Summary};
use crate::ops::OpError;
use crate::ops::status::Status;
use crate::os;
use crate::process::orphans;
use crate::threads;

/// How long the daemon waits for standard output to take what it says there.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// Runs the daemon until SIGTERM, SIGINT or SIGHUP; with `run_once` only for the smoke lifetime.
///
/// After start-up it prints [`print::start_line`] or, with `json`, [`print::StartReport`].
pub fn run(config: Config, json: bool, run_once: bool) -> ExitCode {
    threads::vital("main", || live(config, json, run_once))
}

fn live(config: Config, json: bool, run_once: bool) -> ExitCode {
    let signals = match watch_signals() {
        Ok(signals) => signals,
        Err(error) => return print::fail(&format!("cannot watch signals: {error}")),
    };
    if let Err(error) = survive_file_size_limit() {
        return print::fail(&format!("cannot watch signals: {error}"));
    }
    let lifetime = config.smoke_lifetime;
    let shown = config.clone();
    let mut manager = Manager::from_env();
    let daemon = match Daemon::start(config) {
        Ok(daemon) => daemon,
        Err(error) => {
            manager.failed(&error.to_string());
            return print::fail(&error.to_string());
        }
    };
    manager.ready(&daemon);
    let ended_by = if run_once {
        signals.recv_timeout(lifetime).ok()
    } else {
        if let Err(error) = announce(&shown, json, &daemon) {
            print::complain(&error.to_string());
        }
        signals.recv().ok()
    };
    manager.stopping();
    match daemon.stop() {
        Ok(Stopped { service, snapshot, logged }) => {
            let mut text = String::new();
            if let Some(signal) = ended_by.filter(|_| !json && !run_once) {
                text = format!("codexd stopped after {}\n", name(signal));
            }
            if !json || run_once {
                text += &report(&shown, json, &service, &snapshot);
            }
            if run_once {
                print::out(&text);
            } else {
                say(text);
            }
            logged.map_or_else(|error| print::fail(&error.to_string()), |()| ExitCode::SUCCESS)
        }
        Err(error) => print::fail(&error.to_string()),
    }
}

/// The line needs no more than the counts: whoever waits for it does not wait for 10,000 records to be gathered.
fn announce(config: &Config, json: bool, daemon: &Daemon) -> Result<(), OpError> {
    let ops = daemon.ops();
    say(if json {
        let Status { service, snapshot } = ops.status()?;
        report(config, json, &service, &snapshot)
    } else {
        line(config, &ops.summary()?, &ops.service.view())
    });
    Ok(())
}

/// Writes to standard output, which may be a pipe that nobody reads, or a terminal that somebody stopped: after a second
/// that is left to the thread, which then lasts as long as the process, for the daemon is to hear of signals and to end.
fn say(text: String) {
    let text: Arc<str> = text.into();
    let shared = Arc::clone(&text);
    let written = threads::spawn_contained("stdout", move || {
        print::out(&shared);
    });
    match written {
        Ok(thread) if thread.wait(SAID_WITHIN) => thread.join(),
        Ok(thread) => thread.leave(),
        // Whoever waits for the line is not to do so for ever.
        Err(_) => {
            print::out(&text);
        }
    }
}

fn report(config: &Config, json: bool, service: &ServiceView, snapshot: &Snapshot) -> String {
    if !json {
        return line(config, &Summary::from(snapshot), service);
    }
    print::json_text(&StartReport { service, snapshot }).map_or_else(
        |error| {
            print::complain(&format!("cannot print JSON: {error}"));
            String::new()
        },
        |text| print::json_to_show(&text).into_owned(),
    )
}

fn line(config: &Config, summary: &Summary, service: &ServiceView) -> String {
    format!("{}\n", print::start_line(config, summary, service))
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// The first SIGTERM, SIGINT or SIGHUP (a terminal that is closed) comes through the channel; the second SIGTERM or SIGINT
/// ends the process at once after its child processes, whether the first was taken yet or not. The thread lasts as long as
/// the process: nothing but its end ends the watch.
fn watch_signals() -> std::io::Result<Receiver<i32>> {
    os::unblock_signals()?;
    let mut ends = vec![SIGTERM, SIGINT];
    // Watched, it would count again where nohup(1) has seen to it that it does not.
    if !os::is_ignored(Signal::HUP)? {
        ends.push(SIGHUP);
    }
    let mut signals = Signals::new(ends)?;
    let (sender, receiver) = bounded(1);
    threads::spawn("signals", move || {
        // A terminal's end is told twice, by the shell and by the system, and a logout sends SIGTERM as well: SIGHUP is
        // nobody's impatience, and neither is what comes first beside it.
        let mut asked = false;
        for signal in signals.forever() {
            // There is room for one, and the first is the one that counts.
            let _ = sender.try_send(signal);
            if signal != SIGHUP && std::mem::replace(&mut asked, true) {
                end_at_once(signal);
            }
        }
    })?
    .leave();
    Ok(receiver)
}

/// A file at the limit of setrlimit(2) is like a full disk: the write is to fail, not the process to be killed.
fn survive_file_size_limit() -> std::io::Result<()> {
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(|_| ())
}

#[expect(clippy::disallowed_methods, reason = "the operator asked twice: destructors have had their chance")]
fn end_at_once(signal: i32) {
    orphans::kill_everything();
    print::complain(&format!("second {}: ending at once", name(signal)));
    logging::flush();
    std::process::exit(128 + signal)
}
