//! The hub: the one thread that owns the state (sessions, runs, requests, child, seq, subscribers). Nobody locks it;
//! others ask it.
//!
//! Two inboxes. `events` carries what the child says, in the child's order, and what must keep that order; it is
//! short and its senders wait when it is full, so a slow disk fills the child's pipe. `control` carries the questions
//! and transactions of everybody else; they wait too, but the hub never leaves it unread, not even while the log
//! cannot be written.

mod asked;
pub mod batch;
pub mod change;
pub mod core;
pub mod drafts;
mod persister;
pub mod recover;
pub mod state;
pub mod subscription;
pub mod watch;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, select};
use log::error;

use self::core::AfterCommit;
pub use self::core::{Core, Recent, Start};
use self::drafts::Drafts;
pub use self::persister::FileExtras;
use self::persister::{Job, Records};
use crate::config::Paths;
use crate::threads::budget::{Budget, Share};
use crate::threads::{self, Thread};

/// Messages of the child that may wait; each is what one read of its pipe held.
const EVENTS_BOUND: usize = 32;
/// Their size in bytes: a single line of the child may be as long as `--max-line-bytes`.
const EVENTS_BYTES: usize = 16 * 1024 * 1024;
/// Questions and transactions that may wait.
const CONTROL_BOUND: usize = 256;
/// Bytes of drafts taken into one batch: what a slow moment piles up, but no more than a write of a few milliseconds.
const BATCH_BYTES: usize = 256 * 1024;
/// How often a log that failed is tried again.
const LOG_RETRY: Duration = Duration::from_millis(500);
/// The interval of `--sync interval`.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long a transaction may wait for the log.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Something for the hub to do in its own thread.
type Work = Box<dyn FnOnce(&mut Core) -> Option<Transaction> + Send>;

/// The events of a transaction and what is done when they are in the log.
struct Transaction {
    drafts: Drafts,
    after: AfterCommit,
}

enum Message {
    /// Events without a change that anybody waits for.
    Drafts(Drafts, Share),
    /// A question or a transaction.
    Work(Work),
    /// The persister has rested; what it could not write comes back.
    PersisterIdle { unwritten: Option<Box<Job>> },
    /// End.
    Stop,
}

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
    #[error("the hub did not answer within {} s", COMMIT_TIMEOUT.as_secs())]
    Timeout,
}

/// The way to the hub; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    events: Sender<Message>,
    /// What waits in `events`, in bytes.
    waiting: Arc<Budget>,
    control: Sender<Message>,
}

/// The hub's threads.
pub struct HubThreads {
    hub: Hub,
    threads: Vec<Thread>,
}

impl Hub {
    /// Starts the hub, its persister and, with `--sync interval`, the thread that forces the log to disk.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(start: Start, paths: Paths, extras: FileExtras) -> std::io::Result<(Self, HubThreads)> {
        let (events, events_inbox) = bounded(EVENTS_BOUND);
        let (control, control_inbox) = bounded(CONTROL_BOUND);
        let (jobs, jobs_inbox) = bounded(1);
        let (log_sync, sync_inbox) = bounded(1);
        let hub = Self { events, waiting: Budget::new(EVENTS_BYTES), control };
        let to_hub = hub.control.clone();
        let persister =
            threads::spawn("persist", move || persister::run(&paths, &extras, &jobs_inbox, &to_hub))?;
        let syncer = threads::spawn("log-sync", move || sync_log(&sync_inbox))?;
        let core = Core::new(start, log_sync);
        let actor = Actor { core, events: events_inbox, control: control_inbox, jobs, persister_idle: true };
        let thread = threads::spawn("hub", move || actor.run())?;
        // Joined in this order: the hub's end ends the other two.
        Ok((hub.clone(), HubThreads { hub, threads: vec![thread, persister, syncer] }))
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
        self.events.send(Message::Drafts(drafts, share)).map_err(|_| HubError::Stopped)
    }

    /// A question about the state as the log has it.
    ///
    /// # Errors
    /// When the hub has stopped or does not answer in time.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        let (reply, answer) = bounded(1);
        self.post(
            &self.control,
            Box::new(move |core| {
                // Nobody waits any more after the deadline; that is no fault.
                let _ = reply.send(question(core));
                None
            }),
        )?;
        wait(&answer)
    }

    /// A transaction: `run` looks at the state and drafts events; the answer comes when they are in the log.
    ///
    /// # Errors
    /// When the hub has stopped, or the log cannot be written: then nothing was promised, and what was drafted may
    /// still be logged later.
    pub fn transact<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
    ) -> Result<T, HubError> {
        let (reply, answer) = bounded(1);
        self.post(&self.control, transaction(run, move |result| drop(reply.send(result))))?;
        wait(&answer)?
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
        let (reply, answer) = bounded(1);
        // Nobody waits any more after the deadline; that is no fault.
        let then = move |result: Result<T, HubError>| drop(reply.send(result.map(then)));
        self.post(&self.control, transaction(run, then))?;
        wait(&answer)?
    }

    /// A transaction that keeps its place among the child's messages. `then` is called in the hub's thread once the
    /// events are in the log, and must not wait.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub fn transact_in_order<T: Send + 'static>(
        &self,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
        then: impl FnOnce(Result<T, HubError>) + Send + 'static,
    ) -> Result<(), HubError> {
        self.transact_in_order_with(0, run, then)
    }

    /// [`Hub::transact_in_order`] for a `run` that carries so many bytes of the child's: they count for the inbox.
    ///
    /// # Errors
    /// When the hub has stopped.
    pub fn transact_in_order_with<T: Send + 'static>(
        &self,
        bytes: usize,
        run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
        then: impl FnOnce(Result<T, HubError>) + Send + 'static,
    ) -> Result<(), HubError> {
        let share = self.waiting.take(bytes);
        let work = transaction(run, then);
        let work: Work = Box::new(move |core| {
            let _share = share;
            work(core)
        });
        self.events.send(Message::Work(work)).map_err(|_| HubError::Stopped)
    }

    fn post(&self, inbox: &Sender<Message>, work: Work) -> Result<(), HubError> {
        inbox
            .send_timeout(Message::Work(work), COMMIT_TIMEOUT)
            .map_err(|error| if error.is_timeout() { HubError::Timeout } else { HubError::Stopped })
    }
}

impl HubThreads {
    /// Ends the hub after everything already sent is in the log and the state files; streams end after it.
    pub fn stop(self) {
        // A hub that is already gone has said why.
        let _ = self.hub.control.send(Message::Stop);
        for thread in self.threads {
            thread.join();
        }
    }
}

fn transaction<T: Send + 'static>(
    run: impl FnOnce(&mut Core, &mut Drafts) -> T + Send + 'static,
    then: impl FnOnce(Result<T, HubError>) + Send + 'static,
) -> Work {
    Box::new(move |core| {
        if let Some(reason) = core.stalled() {
            then(Err(HubError::Stalled(reason.to_owned())));
            return None;
        }
        let mut drafts = Drafts::new();
        let value = run(core, &mut drafts);
        Some(Transaction { drafts, after: Box::new(move || then(Ok(value))) })
    })
}

fn wait<T>(answer: &Receiver<T>) -> Result<T, HubError> {
    answer.recv_timeout(COMMIT_TIMEOUT).map_err(|error| match error {
        RecvTimeoutError::Timeout => HubError::Timeout,
        RecvTimeoutError::Disconnected => HubError::Stopped,
    })
}

struct Actor {
    core: Core,
    events: Receiver<Message>,
    control: Receiver<Message>,
    jobs: Sender<Job>,
    persister_idle: bool,
}

impl Actor {
    fn run(mut self) {
        loop {
            let Some(message) = self.next() else {
                self.core.retry();
                continue;
            };
            if matches!(message, Message::Stop) {
                break;
            }
            self.handle(message);
            self.persist();
        }
        self.finish();
    }

    /// The next message; `None` when it is time to try the log again. While the log fails the child's inbox is left
    /// alone: it fills, then the child's pipe does.
    fn next(&self) -> Option<Message> {
        if self.core.stalled().is_some() {
            return match self.control.recv_timeout(LOG_RETRY) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
            };
        }
        // The handles are cloned from one pair: both inboxes end together.
        select! {
            recv(self.events) -> message => Some(message.unwrap_or(Message::Stop)),
            recv(self.control) -> message => Some(message.unwrap_or(Message::Stop)),
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Drafts(first, share) => self.batch(first, share),
            Message::Work(work) => self.work(work),
            Message::PersisterIdle { unwritten } => {
                self.persister_idle = true;
                if let Some(unwritten) = unwritten {
                    self.mark_dirty(&unwritten);
                }
            }
            Message::Stop => {}
        }
    }

    /// Takes what else is waiting into the same batch: one write for all of it.
    fn batch(&mut self, first: Drafts, share: Share) {
        let mut size = first.len();
        let mut all = vec![first];
        let mut shares = vec![share];
        let mut interrupted_by = None;
        while size < BATCH_BYTES {
            match self.events.try_recv() {
                Ok(Message::Drafts(drafts, share)) => {
                    size += drafts.len();
                    all.push(drafts);
                    shares.push(share);
                }
                Ok(other) => {
                    interrupted_by = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        self.core.commit(all, Vec::new());
        drop(shares);
        if let Some(message) = interrupted_by {
            self.handle(message);
        }
    }

    fn work(&mut self, work: Work) {
        if let Some(Transaction { drafts, after }) = work(&mut self.core) {
            self.core.commit(vec![drafts], vec![after]);
        }
    }

    fn mark_dirty(&mut self, unwritten: &Job) {
        let state = &mut self.core.state;
        state.daemon_dirty |= unwritten.daemon.is_some();
        state.sessions.dirty |= unwritten.sessions.is_some();
        state.runs.dirty |= unwritten.runs.is_some();
        state.requests.dirty |= unwritten.requests.is_some();
        state.identity_dirty |= unwritten.identity.is_some();
        self.core.recent_dirty |= unwritten.recent.is_some();
    }

    fn persist(&mut self) {
        let job = if self.persister_idle { self.job() } else { self.urgent_job() };
        let Some(job) = job else { return };
        self.persister_idle = false;
        // Full when something urgent waits there: the persister will say again that it is idle.
        if let Err(TrySendError::Full(job)) = self.jobs.try_send(job) {
            self.mark_dirty(&job);
        }
    }

    /// What the persister's rest does not hold up: `codexd status` reads from the file whether daemon and child run.
    fn urgent_job(&mut self) -> Option<Job> {
        let applied_seq = self.core.latest_seq();
        let state = &mut self.core.state;
        let daemon = std::mem::take(&mut state.daemon_dirty).then(|| state.daemon.clone())?;
        Some(Job { applied_seq, daemon: Some(daemon), ..Job::default() })
    }

    fn job(&mut self) -> Option<Job> {
        let recent = std::mem::take(&mut self.core.recent_dirty).then(|| self.core.recent_for_file());
        let applied_seq = self.core.latest_seq();
        let state = &mut self.core.state;
        let job = Job {
            applied_seq,
            identity: std::mem::take(&mut state.identity_dirty).then(|| state.identity.clone()).flatten(),
            daemon: std::mem::take(&mut state.daemon_dirty).then(|| state.daemon.clone()),
            sessions: std::mem::take(&mut state.sessions.dirty).then(|| records(&state.sessions)),
            runs: std::mem::take(&mut state.runs.dirty).then(|| records(&state.runs)),
            requests: std::mem::take(&mut state.requests.dirty).then(|| records(&state.requests)),
            recent,
        };
        (!job.is_done()).then_some(job)
    }

    /// Everything sent before the stop is taken; then the last state is written.
    fn finish(mut self) {
        while let Ok(message) = self.events.try_recv() {
            self.handle(message);
        }
        while let Ok(message) = self.control.try_recv() {
            self.handle(message);
        }
        if let Some(reason) = self.core.stalled() {
            error!("codexd stops with events that are not in the log: {reason}");
        }
        if let Some(job) = self.job() {
            // The persister takes it after the write it may be at, or is gone with a message of its own.
            let _ = self.jobs.send(job);
        }
    }
}

fn records<T: state::Record + Clone>(registry: &state::Registry<T>) -> Records<T> {
    Records { updated_at: registry.updated_at.clone(), records: registry.all().to_vec() }
}

/// Forces the log to disk at most once an interval, while there is something new.
fn sync_log(inbox: &Receiver<Arc<File>>) {
    let mut last: Option<Instant> = None;
    while let Ok(mut file) = inbox.recv() {
        if let Some(last) = last {
            let rest = SYNC_INTERVAL.saturating_sub(last.elapsed());
            // What comes meanwhile is the same file or a newer one; the older was synced when it was finished.
            let due = Instant::now() + rest;
            while let Ok(newer) = inbox.recv_deadline(due) {
                file = newer;
            }
        }
        if let Err(error) = file.sync_data() {
            // The kernel may have dropped what it could not write and says so only once: going on would promise
            // what is not there. The next start looks at what the disk really has.
            threads::end_the_daemon(&format!("the event log cannot be forced to disk: {error}"));
        }
        last = Some(Instant::now());
    }
}
