//! The child's life: started, watched, ended, started again. One thread owns the process and is the only one that
//! signals it.
//!
//! Promises: a child that ends unasked is told truthfully (child.exited, the transport's end, the turns it cut short)
//! and comes back after a backoff of 0.5 s to 30 s; a stop ends its whole tree; nothing waits on it without a deadline.
//!
//! | the app-server | what comes of it |
//! |---|---|
//! | does not answer `initialize` | 504 at the deadline, `child.error`; it is ended and started again |
//! | answers three calls in a row with nothing, and says nothing else | the same (it reads nothing, or hangs) |
//! | ends before it has answered anything | `lastError` and whoever waits are told what it wrote, and what to do |
//! | closes its input | the next line to it fails: 503, `child.error`; ended and started again |
//! | closes its output | `child.error`; it has a second to end, is ended, and started again |
//! | ignores SIGTERM | SIGKILL after `--stop-timeout-ms` |
//! | writes what is no message | `app-server.message.unreadable`, and it goes on |
//! | writes a line longer than `--max-line-bytes` | the same; no more of the line than that is kept |
//! | writes a long line, or many | each is an event; what waits for the hub is bounded in bytes, its pipe fills |
//! | ends in the middle of a line | the line is taken if it is a message, and told in `app-server.transport.closed` |
//! | floods stderr | each line is an event; its pipe fills, requests are served on |
//! | outlives SIGKILL | `child.kill.failed` after ten seconds; it stays on record for the next start |

mod backoff;
mod external;
mod farewell;
mod life;
mod output;
pub mod probe;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::warn;
use serde::Serialize;

use crate::app_server::client::Client;
use crate::app_server::inbox::Inbox;
use crate::clock;
use crate::config::{Config, Mode, Strategy};
use crate::hub::drafts::Drafts;
use crate::hub::{Hub, HubError};
use crate::model::event::EventType;
use crate::model::record::{Child, ChildStatus};
use crate::process::ledger::Ledger;
use crate::threads::answer::{Answer, Reply, answer};
use crate::threads::{self, Thread};

pub use self::farewell::turns_cut_off_by_a_crash;

use self::backoff::Backoff;
use self::external::External;
use self::life::{Life, LifeEnd, Watched};

/// What the supervisor works with.
pub struct Parts {
    /// The resolved configuration.
    pub config: Arc<Config>,
    /// The hub.
    pub hub: Hub,
    /// Told of each life of the app-server.
    pub client: Arc<Client>,
    /// Where the app-server's requests go.
    pub inbox: Arc<Inbox>,
    /// The daemon's id, for the child's environment.
    pub daemon_id: String,
    /// Where the child is on record while it lives.
    pub ledger: Arc<Ledger>,
    /// Told of each life after the first: what the one before had loaded is to be loaded again.
    pub revived: Sender<()>,
}

impl Parts {
    fn update(&self, change: impl FnOnce(&mut Child) + Send + 'static) {
        if let Err(error) = self.hub.ask(|core| core.update_child(change)) {
            warn!("the child's state could not be recorded: {error}");
        }
    }

    /// Logs something about the child, in its own order.
    fn note(&self, kind: EventType, message: fmt::Arguments<'_>, detail: &impl Serialize) {
        let mut drafts = Drafts::new();
        drafts.note(kind, message, detail);
        if let Err(error) = self.hub.send(drafts) {
            warn!("an event of the child could not be logged: {error}");
        }
    }
}

/// Why the child could not be started the first time.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The command cannot be run.
    #[error("{0}")]
    Spawn(String),
    /// The event could not be logged.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// No thread for it.
    #[error("cannot start the supervisor's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The running supervisor.
pub struct Supervisor {
    stop: Sender<()>,
    thread: Thread,
    /// When the child runs or cannot.
    started: Answer<Result<(), StartError>>,
}

impl Supervisor {
    /// Begins to start the child, or to greet an external app-server.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(parts: Parts) -> Result<Self, StartError> {
        let (stop, stops) = bounded(1);
        let (first, started) = answer();
        let thread = threads::spawn("child", move || match parts.config.server.strategy {
            Strategy::Spawn => Actor {
                parts,
                stops,
                generation: 0,
                restarts: 0,
                stillborn: RefCell::default(),
                trouble: None,
            }
            .run(first),
            Strategy::External => External::new(parts, stops).run(first),
        })?;
        Ok(Self { stop, thread, started })
    }

    /// Returns when the child runs; to be called once.
    ///
    /// # Errors
    /// When the command cannot be started; `child.spawn.failed` has been logged then, and nothing is tried again.
    pub fn wait_for_child(&self) -> Result<(), StartError> {
        // A supervisor that ends without a word has panicked, and the daemon with it.
        self.started.get().unwrap_or(Err(StartError::Hub(HubError::Stopped)))
    }

    /// Ends the child and everything it started; its last events are in the log when this returns.
    pub fn stop(self) {
        // Full means that it was told before.
        let _ = self.stop.try_send(());
        self.thread.join();
    }
}

struct Actor {
    parts: Parts,
    stops: Receiver<()>,
    generation: u64,
    restarts: u64,
    /// Why the last life may have been no app-server at all, for whoever asks while the next one dies.
    stillborn: RefCell<Option<String>>,
    /// Why the last life could not be worked with; the next one is the same program, until it has shown otherwise.
    trouble: Option<String>,
}

/// Why there is no app-server between two lives.
const BETWEEN: &str = "the app-server has ended and is being started again";

impl Actor {
    fn run(mut self, first: Reply<Result<(), StartError>>) {
        let mut backoff = Backoff::new();
        let mut attempt = 0;
        match self.parts.hub.ask(|core| core.state().daemon.child.generation) {
            Ok(generation) => self.generation = generation,
            Err(error) => return first.give(Err(error.into())),
        }
        let mut first = Some(first);
        loop {
            let began = Instant::now();
            let progress = match self.start_life(attempt) {
                Ok(life) => {
                    if let Some(first) = first.take() {
                        first.give(Ok(()));
                    }
                    let connection = life.connection();
                    match self.live(life) {
                        LifeEnd::Asked => return,
                        LifeEnd::Ended { restart: false } => {
                            // What is left to do is to wait for the daemon's stop.
                            let _ = self.stops.recv();
                            return;
                        }
                        LifeEnd::Ended { restart: true } => {}
                    }
                    self.trouble =
                        connection.as_ref().and_then(|connection| connection.impression().trouble());
                    connection.is_some_and(|connection| connection.made_progress())
                }
                Err(error) => match first.take() {
                    Some(first) => return first.give(Err(error)),
                    None => {
                        self.parts.client.down(error.to_string());
                        false
                    }
                },
            };
            attempt += 1;
            let delay = backoff.next(began.elapsed(), progress);
            let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            self.parts.note(
                EventType::ChildRestarting,
                format_args!("The Codex child is started again in {millis} ms (attempt {attempt})."),
                &serde_json::json!({ "attempt": attempt, "delayMs": millis }),
            );
            if self.stops.recv_timeout(delay).is_ok() {
                // Whoever waits for the next life is told that there is none.
                return self.parts.client.gone("codexd is stopping");
            }
        }
    }

    fn start_life(&mut self, attempt: u64) -> Result<Life, StartError> {
        self.parts.update(|child| child.status = ChildStatus::Starting);
        self.generation += 1;
        let generation = self.generation;
        let mut life = Life::spawn(&self.parts, generation).map_err(|problem| self.spawn_failed(problem))?;
        if attempt > 0 {
            self.restarts += 1;
        }
        let (pid, restarts) = (life.pid(), self.restarts);
        self.parts.update(move |child| {
            child.status = ChildStatus::Running;
            child.pid = Some(pid);
            child.started_at = Some(clock::now_iso());
            child.exited_at = None;
            child.exit_code = None;
            child.signal = None;
            if attempt == 0 {
                child.last_error = None;
            }
            child.generation = generation;
            child.restarts = restarts;
        });
        let server = &self.parts.config.server;
        self.parts.note(
            EventType::ChildStarted,
            format_args!("Started Codex child process {pid}."),
            &serde_json::json!({ "args": server.args, "command": server.command }),
        );
        if attempt > 0 {
            self.parts.note(
                EventType::ChildRestarted,
                format_args!("The Codex child runs again as process {pid}."),
                &serde_json::json!({ "attempt": attempt, "generation": generation }),
            );
        }
        life.listen(&self.parts)
            .map_err(|error| self.spawn_failed(format!("cannot listen to the child: {error}")))?;
        if let Some(connection) = life.connection() {
            connection.impression().inherit(self.trouble.clone());
            self.parts.client.up(connection);
            if attempt > 0 {
                // Full means that whoever loads the threads has not even begun.
                let _ = self.parts.revived.try_send(());
            }
        }
        Ok(life)
    }

    fn spawn_failed(&self, problem: String) -> StartError {
        let shown = problem.clone();
        self.parts.update(move |child| {
            child.status = ChildStatus::Failed;
            child.pid = None;
            child.last_error = Some(shown);
        });
        self.parts.note(EventType::ChildSpawnFailed, format_args!("{problem}"), &());
        StartError::Spawn(problem)
    }

    /// Watches one life to its end.
    fn live(&self, life: Life) -> LifeEnd {
        let (asked, given_up) = match life.watch(&self.stops) {
            Watched::Asked => (true, None),
            Watched::Unasked(reason) => (false, reason),
        };
        let config = &self.parts.config;
        let restart = !asked && config.server.restart;
        if asked {
            self.parts.client.gone("codexd is stopping");
        } else if restart {
            self.down();
            if let Some(obituary) = life.obituary() {
                self.stillborn.replace(Some(obituary));
                self.down();
            }
        } else {
            self.parts.client.gone("the app-server has ended and is not started again");
        }
        let stillborn = |why: Option<&str>| {
            self.stillborn.replace(why.map(str::to_owned));
            if restart {
                self.down();
            }
        };
        let ending = if asked {
            life.stop(&config.server)
        } else {
            life.ended_unasked(&config.server, given_up, &stillborn)
        };
        let clean = ending.exit.code == Some(0);
        farewell::tell(&self.parts, ending, asked);
        if asked {
            return LifeEnd::Asked;
        }
        // In exec mode a child that ended well has done its work.
        LifeEnd::Ended { restart: restart && (config.server.mode == Mode::AppServer || !clean) }
    }

    fn down(&self) {
        let why = self.stillborn.borrow().as_ref().map_or_else(String::new, |why| format!(". {why}"));
        self.parts.client.down(format!("{BETWEEN}{why}"));
    }
}
