//! A short life of the app-server, to see whether codexd can work with it; nothing is started in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::{Value, json};

use super::output::LastWords;
use crate::app_server::client;
use crate::app_server::impression::{self, Impression};
use crate::app_server::wire::{self, Incoming};
use crate::ids;
use crate::process::{Input, Process, Spec};
use crate::threads::{self, Thread};

/// Lines that may wait to be looked at.
const LINES: usize = 64;
/// Bytes of output that are looked at.
const MOST: u64 = 16 * 1024 * 1024;
/// How long what has ended may take to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Shakes hands and asks for a thread in a way that no version accepts: it is known from the refusal whether the method
/// is. Ends with `deadline` at the latest, and everything that was started with it.
///
/// # Errors
/// What is wrong and what to do about it, for a person.
pub fn probe(spec: Spec, version: &str, deadline: Duration) -> Result<String, String> {
    let shown = spec.command.display().to_string();
    let mut process = Process::spawn(&Spec { stdin: Input::Pipe, ..spec }, ids::daemon_id())
        .map_err(|error| format!("{shown} does not start: {error}"))?;
    let words = std::sync::Arc::new(LastWords::default());
    let (sender, lines) = bounded(LINES);
    let stdout =
        process.take_stdout().map(|pipe| each_line("probe-out", pipe, move |line| sender.send(line).is_ok()));
    let heard = std::sync::Arc::clone(&words);
    let stderr = process.take_stderr().map(|pipe| {
        each_line("probe-err", pipe, move |line| {
            heard.note(&line);
            true
        })
    });
    let mut stdin = process.take_stdin();
    let mut say = |line: serde_json::Result<Vec<u8>>| {
        // One that does not read will not answer either.
        if let (Ok(line), Some(stdin)) = (line, &mut stdin) {
            let _ = stdin.write_all(&line);
        }
    };
    let impression = Impression::default();
    say(client::introduction(1, version));
    let outcome = converse(&lines, &impression, Instant::now() + deadline, || {
        say(wire::notification("initialized"));
        say(wire::request(2, "thread/start", &json!({ "cwd": 7 })));
    });
    drop(stdin);
    let outcome = outcome.map_err(|stop| match stop {
        Stop::Trouble(text) => text,
        Stop::Late => impression.mute(&format!("{shown} did not answer within {} s", deadline.as_secs())),
        Stop::End => {
            // Its last words may come after the end of its output.
            let _ = process.ended().recv_timeout(LAST_LINES);
            let code = process.finish().code;
            if let Some(Ok(stderr)) = &stderr {
                stderr.wait(LAST_LINES);
            }
            let how = code.map_or_else(String::new, |code| format!(" with code {code}"));
            let said = words.get().or_else(|| impression.strange());
            format!("{shown} has ended{how}. {}", impression::stillborn(said.as_deref()))
        }
    });
    // It may have something to clear away.
    process.terminate(LAST_LINES);
    // A receiver that is gone ends a sender that waits.
    drop(lines);
    for reader in [stdout, stderr].into_iter().flatten().flatten() {
        // What it reads has ended, unless somebody has left the process's group and holds it open, perhaps for ever.
        if !reader.wait(LAST_LINES) {
            reader.leave();
        }
    }
    outcome
}

/// Why a probe has no good end.
enum Stop {
    Trouble(String),
    End,
    Late,
}

fn converse(
    lines: &Receiver<String>,
    impression: &Impression,
    deadline: Instant,
    mut greet: impl FnMut(),
) -> Result<String, Stop> {
    let mut name = String::new();
    loop {
        let line = lines.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => Stop::Late,
            RecvTimeoutError::Disconnected => Stop::End,
        })?;
        match wire::decode(&line) {
            Ok(Incoming::Response { id: 1, outcome: Ok(result) }) => {
                let result: Value = serde_json::from_str(result.get()).unwrap_or_default();
                result["userAgent"].as_str().unwrap_or("no name").clone_into(&mut name);
                impression.met(Some(&name));
                greet();
            }
            Ok(Incoming::Response { id, outcome: Err(error) }) if id <= 2 => {
                let method = if id == 1 { "initialize" } else { "thread/start" };
                // Refused for its params: so the method is known.
                return impression.refused(method, &error).map_or(Ok(name), |text| Err(Stop::Trouble(text)));
            }
            Ok(Incoming::Response { id: 2, .. }) => return Ok(name),
            Ok(Incoming::Request { method, .. }) if method == "initialize" => {
                return Err(Stop::Trouble(impression.no_app_server("it sends back what it is sent")));
            }
            Ok(_) => {}
            Err(_) => impression.wrote(&line),
        }
    }
}

/// Hands each line on, until there are no more or `take` has enough of them.
fn each_line(
    name: &'static str,
    pipe: impl Read + Send + 'static,
    mut take: impl FnMut(String) -> bool + Send + 'static,
) -> std::io::Result<Thread> {
    threads::spawn_contained(name, move || {
        let mut pipe = BufReader::new(pipe.take(MOST));
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if !take(String::from_utf8_lossy(&line).into_owned()) {
                return;
            }
            line.clear();
        }
    })
}
