//! The hub: the one thread that owns the state (sessions, runs, requests, child, seq, subscribers). Nobody locks it;
//! others ask it.
//!
//! Two inboxes. `events` carries what the child says, in the child's order, and what must keep that order; it is
//! short and its senders wait when it is full, so a slow disk fills the child's pipe. `control` carries the questions
//! and transactions of everybody else; they wait too, but the hub never leaves it unread, not even while the log
//! cannot be written.

mod actor;
mod asked;
pub mod batch;
pub mod change;
pub mod core;
pub mod drafts;
pub mod filter;
mod log_sync;
mod persister;
pub mod recent;
mod recent_file;
pub mod recover;
pub mod replay;
mod settled;
pub mod state;
mod subscribers;
pub mod subscription;
pub mod tally;
mod voice;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use self::actor::Actor;
use self::core::AfterCommit;
pub use self::core::{Core, Start};
use self::drafts::Drafts;
use self::log_sync::LogSync;
pub use self::persister::FileExtras;
use self::voice::Voice;
use crate::config::{Paths, Sync};
use crate::threads::answer::{Answer, answer};
use crate::threads::budget::{Budget, Share};
use crate::threads::{self, Thread};

/// Messages of the child that may wait; each is what one read of its pipe held. An answer of the app-server waits behind
/// them, so more would be slower for whoever asks during a burst, and not faster for the burst.
const EVENTS_BOUND: usize = 8;
/// Their size in bytes: a single line of the child may be as long as `--max-line-bytes`.
const EVENTS_BYTES: usize = 16 * 1024 * 1024;
/// Questions and transactions that may wait.
const CONTROL_BOUND: usize = 256;
/// How long a transaction may wait for the log.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Something for the hub to do in its own thread.
type Work = Box<dyn FnOnce(&mut Core) -> Option<Transaction> + Send>;

/// The events of a transaction and what is done when they are in the log.
struct Transaction {
    drafts: Drafts,
    after: AfterCommit,
    /// It tells what has happened already, so it must be logged sooner or later.
    binding: bool,
}

enum Message {
    /// Events without a change that anybody waits for.
    Drafts(Drafts, Share),
    /// A question or a transaction.
    Work(Work),
    /// The persister has rested. The events up to which every file is written now, if that was a job of all of them, or
    /// why it has something left that it could not write.
    PersisterIdle(Result<Option<u64>, String>),
    /// The daemon has started.
    Started,
    /// The daemon is about to stop: nothing may wait for the log without end any more.
    Closing,
    /// End.
    Stop,
}

/// How long the last lines of the daemon's own log get.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Why the hub did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HubError {
    /// It has stopped.
    #[error("codexd is stopping")]
    Stopped,
    /// The log cannot be written, so nothing can be promised.
    #[error("{0}")]
    Stalled(String),
    /// It did not answer in time.
    #[error("the hub did not answer in time")]
    Timeout,
}

/// The way to the hub; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    events: Sender<Message>,
    /// What waits in `events`, in bytes.
    waiting: Arc<Budget>,
    version: Arc<AtomicU64>,
    control: Sender<Message>,
    /// The hub looks into its inboxes for the last time, or has done so.
    ended: Arc<AtomicBool>,
}

/// How full the hub's inboxes are.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// Messages of the child, of 8 at most.
    pub events: usize,
    /// Their size in bytes.
    pub event_bytes: usize,
    /// Questions and transactions, of 256 at most.
    pub control: usize,
}

/// The hub's threads; see [`HubThreads::stop`] for what dropping them does.
pub struct HubThreads {
    hub: Hub,
    threads: Vec<Thread>,
    speaker: Option<Thread>,
}

impl Hub {
    /// Starts the hub, its persister and, with `--sync interval`, the thread that forces the log to disk.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(start: Start, paths: Paths, extras: FileExtras) -> std::io::Result<(Self, HubThreads)> {
        // Declared before all that ends them, and so waited for after it, should a later one not be started.
        let mut threads = Vec::with_capacity(3);
        let (events, events_inbox) = bounded(EVENTS_BOUND);
        let (control, control_inbox) = bounded(CONTROL_BOUND);
        let (jobs, jobs_inbox) = bounded(1);
        let version = Arc::new(AtomicU64::new(0));
        let ended = Arc::new(AtomicBool::new(false));
        let hub = Self {
            events,
            waiting: Budget::new(EVENTS_BYTES),
            version: Arc::clone(&version),
            control,
            ended: Arc::clone(&ended),
        };
        let to_hub = hub.control.clone();
        threads
            .push(threads::spawn("persist", move || persister::run(&paths, &extras, &jobs_inbox, &to_hub))?);
        let log_sync = match start.journal.sync() {
            Sync::Interval => {
                let (log_sync, syncer) = LogSync::start()?;
                threads.push(syncer);
                Some(log_sync)
            }
            Sync::Always | Sync::Never => None,
        };
        let (voice, speaker) = Voice::start()?;
        let core = Core::new(start, version, log_sync, voice);
        let actor = Actor::new(core, events_inbox, control_inbox, jobs, ended);
        // Joined first: its end ends the others.
        threads.insert(0, threads::spawn("hub", move || actor.run())?);
        Ok((hub.clone(), HubThreads { hub, threads, speaker: Some(speaker) }))
    }

    /// Events of the child, in order. Waits while the inbox is full: that is how a slow disk holds the child back.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub fn send(&self, drafts: Drafts) -> Result<(), HubError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let share = self.waiting.take(drafts.len());
        self.post_in_order(Message::Drafts(drafts, share))
    }

    /// Changes before anybody is told of a change of the state or of the recent events: what was asked for at this version
    /// is true for as long as it is the same.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A question about the state as the log has it.
    ///
    /// # Errors
    /// When the hub has stopped or does not answer in time.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        self.ask_within(COMMIT_TIMEOUT, question)
    }

    /// As [`Hub::ask`], with a deadline of its own.
    ///
    /// # Errors
    /// When the hub has stopped or does not answer in time.
    pub fn ask_within<T: Send + 'static>(
        &self,
        limit: Duration,
        question: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        let until = Instant::now() + limit;
        let (reply, answer) = answer();
        let work: Work = Box::new(move |core| {
            reply.give(question(core));
            None
        });
        self.post(work, until)?;
        self.wait(&answer, until)
    }

    /// A transaction: `run` looks at the state and drafts events; the answer comes when they are in the log.
    ///
    /// # Errors
    /// When the hub has stopped or does not answer in time, or the log cannot be written: then nothing was drafted, and
    /// nothing will be.
    pub fn transact<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        self.transact_then(run, |value| value)
    }

    /// A transaction that is acted on even when nobody waits for its outcome any more: `then` is called in the hub's
    /// thread once the events are in the log, and must not wait.
    ///
    /// # Errors
    /// As [`Hub::transact`]; after [`HubError::Timeout`] it may still happen.
    pub fn transact_then<T: Send + 'static, U: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
        then: impl FnOnce(T) -> U + Send + 'static,
    ) -> Result<U, HubError> {
        let until = Instant::now() + COMMIT_TIMEOUT;
        let (reply, answer) = answer();
        let then = move |result: Result<T, HubError>| reply.give(result.map(then));
        self.post(transaction(false, run, then), until)?;
        self.wait(&answer, until)?
    }

    /// A transaction that keeps its place among the child's messages and carries so many bytes of them; they count for the
    /// inbox, which waits while it is full. `then` is called in the hub's thread once the events are in the log, and must
    /// not wait.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub fn transact_in_order<T: Send + 'static>(
        &self,
        bytes: usize,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
        then: impl FnOnce(Result<T, HubError>) + Send + 'static,
    ) -> Result<(), HubError> {
        let share = self.waiting.take(bytes);
        let work = transaction(true, run, then);
        let work: Work = Box::new(move |core| {
            let _share = share;
            work(core)
        });
        self.post_in_order(Message::Work(work))
    }

    /// The daemon has started: from here on all state files are written as they change. Until then, but in a daemon's first
    /// life, cores and disk are left to the start, and daemon-state.json alone is written; the log has it all.
    pub fn started(&self) {
        // A hub that is already gone writes nothing.
        let _ = self.control.send(Message::Started);
    }

    /// The daemon is about to stop. From here on a log that cannot be written is waited for only a moment; then what
    /// waits for it is given up, and nobody who sends the child's events waits any more.
    pub fn closing(&self) {
        // A hub that is already gone waits for nothing.
        let _ = self.control.send(Message::Closing);
    }

    /// What waits for the hub now.
    pub fn waiting(&self) -> Waiting {
        Waiting { events: self.events.len(), event_bytes: self.waiting.used(), control: self.control.len() }
    }

    fn post(&self, work: Work, until: Instant) -> Result<(), HubError> {
        self.control
            .send_deadline(Message::Work(work), until)
            .map_err(|error| if error.is_timeout() { HubError::Timeout } else { HubError::Stopped })
    }

    fn post_in_order(&self, message: Message) -> Result<(), HubError> {
        self.events.send(message).map_err(|_| HubError::Stopped)?;
        if self.has_ended() { Err(HubError::Stopped) } else { Ok(()) }
    }

    /// Whether what was just sent may lie in an inbox for good: a channel of crossbeam keeps what came before its
    /// receiver was dropped until the last sender is, and the senders are those who wait.
    fn has_ended(&self) -> bool {
        // Either the hub sees the message, or this sees that the hub has ended: see the actor's end.
        fence(Ordering::SeqCst);
        self.ended.load(Ordering::Relaxed)
    }

    fn wait<T>(&self, answer: &Answer<T>, until: Instant) -> Result<T, HubError> {
        if self.has_ended() {
            return answer.take().ok_or(HubError::Stopped);
        }
        answer.wait(until).map_err(|error| match error {
            RecvTimeoutError::Timeout => HubError::Timeout,
            RecvTimeoutError::Disconnected => HubError::Stopped,
        })
    }
}

impl HubThreads {
    /// Ends the hub after everything already sent is in the log and the state files; streams end after it.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for HubThreads {
    fn drop(&mut self) {
        // A hub that is already gone has said why.
        let _ = self.hub.control.send(Message::Stop);
        for thread in self.threads.drain(..) {
            thread.join();
        }
        // Standard error may be a pipe that nobody reads: that must not keep the daemon from ending.
        if let Some(speaker) = self.speaker.take().filter(|speaker| !speaker.wait(LAST_LINES)) {
            speaker.leave();
        }
    }
}

/// `binding`: what it tells has happened already. Otherwise it is refused while the log cannot be written.
fn transaction<T: Send + 'static>(
    binding: bool,
    run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
    then: impl FnOnce(Result<T, HubError>) + Send + 'static,
) -> Work {
    Box::new(move |core| {
        if let Some(reason) = core.stalled().filter(|_| !binding) {
            then(Err(HubError::Stalled(reason.to_owned())));
            return None;
        }
        let mut drafts = Drafts::new();
        let value = run(core, &mut drafts);
        let after: AfterCommit =
            Box::new(move |logged| then(logged.map(|()| value).map_err(HubError::Stalled)));
        Some(Transaction { drafts, after, binding })
    })
}
