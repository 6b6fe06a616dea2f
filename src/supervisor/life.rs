//! One life of the child: its process, and the threads at its three pipes.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{ChildStderr, ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::warn;

use super::output::{self, Stream};
use super::{Parts, StartError};
use crate::app_server::connection::Connection;
use crate::app_server::reader::{End, Reader};
use crate::config::{Mode, Server};
use crate::hub::HubError;
use crate::process::{self, Exit, Flags, Input, Process, Spec};
use crate::store::raw_log::RawLog;
use crate::threads::{self, Thread};

const FLAGS: Flags = Flags { command: "--server-command", folder: "--server-cwd" };

/// How long a child may run on after it has closed its output.
const AFTER_OUTPUT: Duration = Duration::from_secs(1);
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

/// What is known of a life that is over.
pub(super) struct Ending {
    pub(super) pid: u32,
    pub(super) exit: Exit,
    /// How the app-server's output ended; `None` in exec mode.
    pub(super) output: Option<End>,
    /// Whether anybody had connected.
    pub(super) connected: bool,
}

pub(super) struct Life {
    process: Process,
    pid: u32,
    connection: Option<Arc<Connection>>,
    lines: Option<Receiver<Vec<u8>>>,
    output_end: Receiver<End>,
    output_end_sender: Option<Sender<End>>,
    /// Dropping these ends the readers.
    cancel: Vec<OwnedFd>,
    threads: Vec<Thread>,
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
        let process = Process::spawn(&spec, format!("{}-{generation}", parts.daemon_id))
            .map_err(|error| format!("cannot start {}: {error}", spec.command.display()))?;
        let pid = process.id();
        let (connection, lines) = if app_server {
            let (connection, lines) = Connection::new(generation, Some(pid));
            (Some(connection), Some(lines))
        } else {
            (None, None)
        };
        let (sender, output_end) = bounded(1);
        Ok(Self {
            process,
            pid,
            connection,
            lines,
            output_end,
            output_end_sender: Some(sender),
            cancel: Vec::new(),
            threads: Vec::new(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.connection.clone()
    }

    pub(super) fn ended(&self) -> &Receiver<()> {
        self.process.ended()
    }

    /// Has one message when the app-server's output has ended.
    pub(super) fn output_end(&self) -> &Receiver<End> {
        &self.output_end
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
        let to_hub = hub.clone();
        self.threads.push(threads::spawn(format!("child-{generation}-err"), move || {
            output::run(stderr, &cancelled, stderr_log, Stream::Stderr, &to_hub);
        })?);

        let cancelled = self.cancellation()?;
        let to_hub = hub.clone();
        let Some(connection) = self.connection.clone() else {
            let done = self.output_end_sender.take();
            self.threads.push(threads::spawn("child-out", move || {
                output::run(stdout, &cancelled, stdout_log, Stream::Stdout, &to_hub);
                // In exec mode the output's end means nothing; the channel stays open until the process has ended.
                drop(done);
            })?);
            // Without a sender a receiver is always ready: exec mode waits on one that never is.
            self.output_end = crossbeam_channel::never();
            return Ok(());
        };
        let max_line = config.server.max_line_bytes;
        if let Some(done) = self.output_end_sender.take() {
            self.threads.push(threads::spawn(format!("app-rx-{generation}"), move || {
                let end = Reader::new(to_hub, connection, max_line).run(stdout, &cancelled, stdout_log);
                // The supervisor listens until it has heard it.
                let _ = done.send(end);
            })?);
        }
        if let (Some(stdin), Some(lines)) = (self.process.take_stdin(), self.lines.take()) {
            self.threads
                .push(threads::spawn(format!("app-tx-{generation}"), move || write_lines(stdin, &lines))?);
        }
        Ok(())
    }

    fn cancellation(&mut self) -> Result<OwnedFd, StartError> {
        let (cancelled, cancel) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| StartError::Thread(error.into()))?;
        self.cancel.push(cancel);
        Ok(cancelled)
    }

    /// The daemon stops: end of input, SIGTERM, SIGKILL.
    pub(super) fn stop(mut self, server: &Server) -> Ending {
        if let Some(connection) = &self.connection {
            connection.close("codexd is stopping");
        }
        let exit = self.process.terminate(server.stop_timeout);
        self.bury(exit)
    }

    /// It has ended, or closed its output, which for an app-server is as good.
    pub(super) fn ended_unasked(mut self, server: &Server) -> Ending {
        // An error other than a timeout is what is waited for: the end.
        let over = self.process.ended().recv_timeout(AFTER_OUTPUT)
            != Err(crossbeam_channel::RecvTimeoutError::Timeout);
        let exit = if over {
            self.process.finish()
        } else {
            warn!("the child closed its output but runs on; it is ended");
            self.process.terminate(server.stop_timeout)
        };
        self.bury(exit)
    }

    fn bury(mut self, exit: Exit) -> Ending {
        let connected = self.connection.as_ref().is_some_and(|connection| connection.was_used());
        let output = self.connection.is_some().then(|| {
            self.output_end.recv_timeout(AFTER_EXIT).unwrap_or_else(|_| {
                self.cancel.clear();
                self.output_end.recv().unwrap_or_else(|_| End {
                    source: "closed",
                    message: "the reader ended without a word".to_owned(),
                    flushed_trailing_message: false,
                    trailing_message_length: 0,
                })
            })
        });
        // What the process left in its pipes was read; a stranger that still holds them is not waited for.
        for thread in self.threads.iter().filter(|thread| !thread.is_finished()) {
            thread.wait(AFTER_EXIT);
        }
        self.cancel.clear();
        if let Some(connection) = &self.connection {
            connection.close("the app-server has ended");
        }
        self.threads.clear();
        Ending { pid: self.pid, exit, output, connected }
    }
}

/// Writes what the connection sends; ends, and with it the app-server's standard input, when it is closed.
fn write_lines(mut stdin: ChildStdin, lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        if let Err(error) = stdin.write_all(&line) {
            // The reader learns of the same end; what was in flight fails there.
            warn!("the app-server takes no more input: {error}");
            return;
        }
    }
}
