//! The process as a whole: reads lines until the input ends or a turn ends it.

use super::behaviour::Behaviour;
use super::output::Output;
use super::requests::Dispatcher;
use super::state::{Requests, Shared};
use crossbeam_channel::{Receiver, Sender, bounded, never, select};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Lines read ahead of what is handled.
const READ_AHEAD: usize = 64;
/// How long the end waits for a client that does not read.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(1);
/// The same after SIGTERM, which the real one obeys within a few hundredths of a second even when it is blocked.
const IN_A_HURRY: Duration = Duration::from_millis(50);

/// Speaks the app-server protocol until the input ends (exit code 0); a code that comes through `stop` ends it from outside.
///
/// Installs no signal handlers; [`super::app_server_stdio`] does.
pub(super) fn app_server(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    rollouts: &Path,
    behaviour: &Behaviour,
    stop: &Receiver<u8>,
) -> u8 {
    if let Some(code) = behaviour.exit_at_once {
        return code;
    }
    serve(input, output, rollouts, behaviour, stop).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "stub: {error}");
        1
    })
}

fn serve(
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
    rollouts: &Path,
    behaviour: &Behaviour,
    stop: &Receiver<u8>,
) -> io::Result<u8> {
    let (exit, ended) = bounded(1);
    let shared = Arc::new(Shared {
        out: Output::start(output)?,
        rollouts: rollouts.to_owned(),
        threads: Mutex::new(HashMap::new()),
        requests: Mutex::new(Requests::default()),
        items: AtomicU64::new(0),
        exit,
        deaf: AtomicBool::new(false),
    });
    let (line, mut lines) = bounded(READ_AHEAD);
    let reader = Arc::clone(&shared);
    std::thread::Builder::new()
        .name("stub-reader".into())
        .spawn(move || read_lines(BufReader::new(input), &line, &reader))?;
    let mut dispatcher = Dispatcher::new(Arc::clone(&shared), behaviour.clone());
    let (code, patience) = loop {
        select! {
            recv(stop) -> code => break (code.unwrap_or(0), IN_A_HURRY),
            recv(ended) -> code => break (code.unwrap_or(0), LAST_WORDS),
            recv(lines) -> line => match line {
                Ok(line) => dispatcher.line(&line),
                Err(_) if behaviour.ignore_eof => lines = never(),
                Err(_) => break (0, LAST_WORDS),
            },
        }
    };
    shared.abandon_turns();
    shared.out.close(patience);
    Ok(code)
}

/// Reads until the end; like the real one it takes invalid UTF-8 for the end.
fn read_lines(mut input: impl BufRead, lines: &Sender<String>, shared: &Shared) {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        let more = input.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0);
        if shared.deaf.load(Ordering::Relaxed) {
            // Keeps the input open without reading it; the process ends in another way.
            let _ = never::<()>().recv();
        }
        let Some(line) = more.then(|| std::str::from_utf8(&bytes).ok()).flatten() else { return };
        if lines.send(line.trim_end().to_owned()).is_err() {
            return;
        }
    }
}
