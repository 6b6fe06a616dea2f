//! One life of the child: its process, and the threads at its three pipes.

use std::os::fd::OwnedFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, never, select};
use log::warn;

use super::output::{self, LastWords, Stream};
use super::{Parts, StartError};
use crate::app_server::connection::Connection;
use crate::app_server::impression;
use crate::app_server::outgoing::Lines;
use crate::app_server::reader::{End, Reader};
use crate::config::{Mode, Server};
use crate::hub::HubError;
use crate::os;
use crate::process::ledger::Purpose;
use crate::process::{self, Exit, Flags, Input, Process, Spec};
use crate::store::raw_log::RawLog;
use crate::threads::answer::{Answer, answer};
use crate::threads::{self, Thread};

const FLAGS: Flags = Flags { command: "--server-command", folder: "--server-cwd" };

/// How long a child may run on after it has closed its output.
const AFTER_OUTPUT: Duration = Duration::from_secs(1);
/// How long the end of a process may come after that of its input: then it did not close that, but died.
const AFTER_INPUT: Duration = Duration::from_millis(100);
/// How long the last words of one that ends without an answer may take to be read.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long its output may stay open after it has ended: somebody who is no descendant holds it.
const AFTER_EXIT: Duration = Duration::from_secs(1);

/// How the supervisor goes on.
pub(super) enum LifeEnd {
    /// The daemon stops.
    Asked,
    /// The child ended by itself.
    Ended {
        /// Whether it is to come back.
        restart: bool,
    },
}

/// What a life has come to.
pub(super) enum Watched {
    /// The daemon stops.
    Asked,
    /// It has ended, or must: why, unless its process or its output ended by itself.
    Unasked(Option<String>),
}

/// What is known of a life that is over.
pub(super) struct Ending {
    pub(super) pid: u32,
    pub(super) exit: Exit,
    /// How the app-server's output ended; `None` in exec mode.
    pub(super) output: Option<End>,
    /// Whether anybody had connected.
    pub(super) connected: bool,
    /// Why codexd itself ended it, when it did so unasked.
    pub(super) given_up: Option<String>,
    /// What to say of a program that ended before it had answered anything.
    pub(super) stillborn: Option<String>,
    /// Whether it could not be killed.
    pub(super) survived: bool,
}

pub(super) struct Life {
    process: Process,
    pid: u32,
    connection: Option<Arc<Connection>>,
    lines: Option<Lines>,
    /// How its output ends; `None` in exec mode, where that means nothing.
    output_end: Option<Answer<End>>,
    last_words: Arc<LastWords>,
    /// Dropping these ends the readers, and the writer where it waits for room.
    cancel: Vec<OwnedFd>,
    /// Those that read its pipes.
    threads: Vec<Thread>,
    /// The one that writes; it ends with the connection.
    writer: Option<Thread>,
}

impl Life {
    /// Starts the process.
    pub(super) fn spawn(parts: &Parts, generation: u64) -> Result<Self, String> {
        let server = &parts.config.server;
        let app_server = server.mode == Mode::AppServer;
        let spec = Spec {
            command: process::find(&server.command, &server.cwd, FLAGS)?,
            args: server.args.iter().map(Into::into).collect(),
            cwd: server.cwd.clone(),
            env: vec![
                ("BAA_CODEXD_DAEMON_ID".into(), Some(parts.daemon_id.clone().into())),
                ("BAA_CODEXD_SERVER_ENDPOINT".into(), Some(server.endpoint.clone().into())),
            ],
            stdin: if app_server { Input::Pipe } else { Input::Null },
        };
        let purpose = if app_server { Purpose::AppServer } else { Purpose::Child };
        let process = parts
            .ledger
            .spawn(&spec, purpose, &format!("generation-{generation}"))
            .map_err(|error| format!("cannot start {}: {error}", spec.command.display()))?;
        let pid = process.id();
        let (connection, lines) = if app_server {
            let (connection, lines) = Connection::new(generation, Some(pid));
            (Some(connection), Some(lines))
        } else {
            (None, None)
        };
        Ok(Self {
            process,
            pid,
            connection,
            lines,
            output_end: None,
            last_words: Arc::default(),
            cancel: Vec::new(),
            threads: Vec::new(),
            writer: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.connection.clone()
    }

    /// Waits until it ends, closes its output or is of no use any more, or until `stops` has a message.
    pub(super) fn watch(&self, stops: &Receiver<()>) -> Watched {
        let (no_output, no_connection) = (never(), never());
        let output_end = self.output_end.as_ref().map_or(&no_output, Answer::given);
        let hopeless = self.connection.as_ref().map_or(&no_connection, |connection| connection.hopeless());
        select! {
            recv(stops) -> _ => Watched::Asked,
            recv(self.process.ended()) -> _ => Watched::Unasked(None),
            recv(output_end) -> _ => Watched::Unasked(None),
            recv(hopeless) -> reason => Watched::Unasked(reason.ok()),
        }
    }

    /// Starts the threads at the pipes; after `child.started` is on its way, so that nothing the child says precedes it.
    pub(super) fn listen(&mut self, parts: &Parts) -> Result<(), StartError> {
        let (config, hub) = (&parts.config, &parts.hub);
        let open =
            |path: std::path::PathBuf| RawLog::open(&path, config.logs.max_bytes, config.logs.keep_segments);
        let stdout_log = open(config.paths.stdout_log())?;
        let stderr_log = open(config.paths.stderr_log())?;
        let missing = || StartError::Hub(HubError::Stopped);
        let stdout: ChildStdout = self.process.take_stdout().ok_or_else(missing)?;
        let stderr: ChildStderr = self.process.take_stderr().ok_or_else(missing)?;
        let generation = self.connection.as_ref().map_or(0, |connection| connection.generation());

        let cancelled = self.cancellation()?;
        let (to_hub, last_words) = (hub.clone(), Arc::clone(&self.last_words));
        self.threads.push(threads::spawn(format!("child-{generation}-err"), move || {
            output::run(stderr, &cancelled, stderr_log, Stream::Stderr, &last_words, &to_hub);
        })?);

        let cancelled = self.cancellation()?;
        let to_hub = hub.clone();
        let Some(connection) = self.connection.clone() else {
            self.threads.push(threads::spawn("child-out", move || {
                output::run(stdout, &cancelled, stdout_log, Stream::Stdout, &LastWords::default(), &to_hub);
            })?);
            return Ok(());
        };
        let max_line = config.server.max_line_bytes;
        let inbox = Arc::clone(&parts.inbox);
        let (ended, output_end) = answer();
        self.output_end = Some(output_end);
        self.threads.push(threads::spawn(format!("app-rx-{generation}"), move || {
            ended.give(Reader::new(to_hub, connection, inbox, max_line).run(stdout, &cancelled, stdout_log));
        })?);
        if let (Some(stdin), Some(lines), Some(connection)) =
            (self.process.take_stdin(), self.lines.take(), self.connection.clone())
        {
            os::dont_wait(&stdin)?;
            let cancelled = self.cancellation()?;
            self.writer = Some(threads::spawn(format!("app-tx-{generation}"), move || {
                write_lines(&stdin, &cancelled, &lines, &connection);
            })?);
        }
        Ok(())
    }

    fn cancellation(&mut self) -> Result<OwnedFd, StartError> {
        let (cancelled, cancel) = os::pipe().map_err(StartError::Thread)?;
        self.cancel.push(cancel);
        Ok(cancelled)
    }

    /// What can be said at once of a life that ends before it has answered anything: its burial may take a while.
    pub(super) fn obituary(&self) -> Option<String> {
        self.stillborn()?;
        for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
            thread.wait(LAST_WORDS);
        }
        self.stillborn()
    }

    /// The daemon stops: end of input, SIGTERM, SIGKILL.
    pub(super) fn stop(mut self, server: &Server) -> Ending {
        if let Some(connection) = &self.connection {
            connection.close("codexd is stopping");
        }
        let exit = self.process.terminate(server.stop_timeout);
        self.bury(exit, None, &|_| ())
    }

    /// It has ended, or is of no use any more: `given_up` says why, or it has closed its output. `stillborn` is told, before
    /// anybody who waits for an answer is, whether this may be no app-server at all.
    pub(super) fn ended_unasked(
        mut self,
        server: &Server,
        given_up: Option<String>,
        stillborn: &dyn Fn(Option<&str>),
    ) -> Ending {
        if let Some(reason) = &given_up {
            if self.ends_within(AFTER_INPUT) {
                let exit = self.process.finish();
                return self.bury(exit, None, stillborn);
            }
            if let Some(connection) = &self.connection {
                // The end of its input, which the real one takes for a farewell.
                connection.close(reason);
            }
        }
        if self.ends_within(AFTER_OUTPUT) {
            let exit = self.process.finish();
            return self.bury(exit, given_up, stillborn);
        }
        let reason = given_up.unwrap_or_else(|| "the app-server closed its standard output".to_owned());
        warn!("{reason}: it is ended");
        let exit = self.process.terminate(server.stop_timeout);
        self.bury(exit, Some(reason), stillborn)
    }

    fn ends_within(&self, time: Duration) -> bool {
        // An error other than a timeout is what is waited for: the end.
        self.process.ended().recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }

    fn bury(mut self, exit: Exit, given_up: Option<String>, tell: &dyn Fn(Option<&str>)) -> Ending {
        let connected = self.connection.as_ref().is_some_and(|connection| connection.was_used());
        let output = self.connection.is_some().then(|| self.end_of_output());
        // What the process left in its pipes was read; a stranger that still holds them is not waited for.
        for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
            thread.wait(AFTER_EXIT);
        }
        self.cancel.clear();
        let stillborn = exit.code.and_then(|_| self.stillborn());
        tell(stillborn.as_deref());
        if let Some(connection) = &self.connection {
            let more = stillborn.as_ref().map_or_else(String::new, |text| format!(". {text}"));
            connection.close(&format!("the app-server has ended{more}"));
        }
        self.threads.clear();
        self.writer = None;
        let survived = self.process.survived();
        Ending { pid: self.pid, exit, output, connected, given_up, stillborn, survived }
    }

    /// A program that ends by itself before it has answered anything may be no app-server at all.
    fn stillborn(&self) -> Option<String> {
        let connection = self.connection.as_ref().filter(|connection| !connection.was_met())?;
        let said = self.last_words.get().or_else(|| connection.impression().strange());
        Some(impression::stillborn(said.as_deref()))
    }

    fn end_of_output(&mut self) -> End {
        let Some(output) = self.output_end.take() else { return End::unexplained() };
        let heard = output.wait(Instant::now() + AFTER_EXIT).ok();
        let heard = heard.or_else(|| {
            self.cancel.clear();
            output.get()
        });
        heard.unwrap_or_else(End::unexplained)
    }
}

/// Writes what the connection sends; ends, and with it the app-server's standard input, when it is closed. An
/// app-server that takes no input will never answer again, even if it lives on. Whoever else holds the other end of a
/// full pipe when it is dead is not waited for: see `cancel`.
fn write_lines(stdin: &ChildStdin, cancel: &OwnedFd, lines: &Lines, connection: &Connection) {
    while let Ok(line) = lines.recv() {
        match os::write_all(stdin, &line, cancel) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                connection.give_up(&format!("the app-server takes no more input: {error}"));
                return;
            }
        }
    }
}
