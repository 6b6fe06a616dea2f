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
pub mod filter;
mod persister;
pub mod recover;
pub mod replay;
pub mod state;
pub mod subscription;
pub mod watch;

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded, never, select};
use log::error;

use self::core::AfterCommit;
pub use self::core::{Core, Recent, Start};
use self::drafts::Drafts;
pub use self::persister::FileExtras;
use self::persister::{Job, Records};
use crate::config::Paths;
use crate::fault;
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
/// How long a stop waits for a log that cannot be written before it gives up what waits for it.
const GIVE_UP: Duration = Duration::from_secs(2);
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
    /// It tells what has happened already, so it must be logged sooner or later.
    binding: bool,
}

enum Message {
    /// Events without a change that anybody waits for.
    Drafts(Drafts, Share),
    /// A question or a transaction.
    Work(Work),
    /// The persister has rested; the events up to which the files are written, or what it could not write.
    PersisterIdle(Result<u64, Box<Job>>),
    /// The daemon is about to stop: nothing may wait for the log without end any more.
    Closing,
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
    #[error("the hub did not answer in time")]
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
        let actor = Actor {
            core,
            events: events_inbox,
            control: control_inbox,
            jobs,
            persister_idle: true,
            deferred: None,
            closing: None,
            given_up: false,
        };
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
        let (reply, answer) = bounded(1);
        let work: Work = Box::new(move |core| {
            // Nobody waits any more after the deadline; that is no fault.
            let _ = reply.send(question(core));
            None
        });
        self.post(work, until)?;
        wait(&answer, until)
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
        let until = Instant::now() + COMMIT_TIMEOUT;
        let (reply, answer) = bounded(1);
        self.post(transaction(false, run, move |result| drop(reply.send(result))), until)?;
        wait(&answer, until)?
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
        let (reply, answer) = bounded(1);
        // Nobody waits any more after the deadline; that is no fault.
        let then = move |result: Result<T, HubError>| drop(reply.send(result.map(then)));
        self.post(transaction(false, run, then), until)?;
        wait(&answer, until)?
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
        let work = transaction(true, run, then);
        let work: Work = Box::new(move |core| {
            let _share = share;
            work(core)
        });
        self.events.send(Message::Work(work)).map_err(|_| HubError::Stopped)
    }

    /// The daemon is about to stop. From here on a log that cannot be written is waited for only a moment; then what
    /// waits for it is given up, and nobody who sends the child's events waits any more.
    pub fn closing(&self) {
        // A hub that is already gone waits for nothing.
        let _ = self.control.send(Message::Closing);
    }

    fn post(&self, work: Work, until: Instant) -> Result<(), HubError> {
        self.control
            .send_deadline(Message::Work(work), until)
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

fn wait<T>(answer: &Receiver<T>, until: Instant) -> Result<T, HubError> {
    answer.recv_deadline(until).map_err(|error| match error {
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
    /// A message of the child that was taken up when the log failed; it is the next one.
    deferred: Option<Message>,
    /// Since when the daemon is stopping.
    closing: Option<Instant>,
    /// While the log fails the child's messages are dropped.
    given_up: bool,
}

impl Actor {
    fn run(mut self) {
        let mut retry_at = None;
        loop {
            let message = if self.core.stalled().is_some() {
                let due = *retry_at.get_or_insert_with(|| Instant::now() + LOG_RETRY);
                let Some(message) = self.next_while_stalled(due) else {
                    retry_at = None;
                    self.core.retry();
                    self.give_up_when_closing();
                    self.persist();
                    continue;
                };
                message
            } else {
                retry_at = None;
                self.next()
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
    fn next_while_stalled(&self, due: Instant) -> Option<Message> {
        // Whoever asks without a pause must not keep the log from being tried.
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            let events = self.given_up.then_some(&self.events);
            select! {
                recv(self.control) -> message => return Some(message.unwrap_or(Message::Stop)),
                // Taken and dropped, and whoever waits for what becomes of it is let go with it.
                recv(events.unwrap_or(&never())) -> message => drop(message),
                default(left) => return None,
            }
        }
        None
    }

    fn next(&mut self) -> Message {
        if let Some(message) = self.deferred.take() {
            return message;
        }
        select! {
            recv(self.events) -> message => message.unwrap_or(Message::Stop),
            recv(self.control) -> message => message.unwrap_or(Message::Stop),
        }
    }

    /// What the child's threads wait to send would make the stop wait as well: from here on it is dropped.
    fn give_up_when_closing(&mut self) {
        let since =
            self.core.stalled_since().zip(self.closing).map(|(stalled, closing)| stalled.max(closing));
        if !self.given_up && since.is_some_and(|since| since.elapsed() >= GIVE_UP) {
            error!("the event log cannot be written; what the child says last is given up");
            self.given_up = true;
            self.deferred = None;
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Drafts(first, share) => self.batch(first, share),
            Message::Work(work) => self.work(work),
            Message::PersisterIdle(written) => {
                self.persister_idle = true;
                match written {
                    Ok(seq) => self.core.persisted(seq),
                    Err(unwritten) => self.mark_dirty(&unwritten),
                }
            }
            Message::Closing => self.closing = Some(Instant::now()),
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
        self.deferred = interrupted_by;
    }

    fn work(&mut self, work: Work) {
        let Some(Transaction { drafts, after, binding }) = work(&mut self.core) else { return };
        if binding {
            self.core.commit(vec![drafts], vec![after]);
        } else {
            self.core.try_commit(drafts, after);
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
        while self.core.stalled().is_none() {
            let Some(message) = self.deferred.take().or_else(|| self.events.try_recv().ok()) else { break };
            self.handle(message);
        }
        while let Ok(message) = self.control.try_recv() {
            self.handle(message);
        }
        // With what is left, whoever waits for it is let go.
        while self.events.try_recv().is_ok() {}
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
        let forced = fault::point(fault::Point::LogSync).and_then(|()| file.sync_data());
        if let Err(error) = forced {
            log_not_forced(&error);
        }
        last = Some(Instant::now());
    }
}

/// The kernel may have dropped what it could not write and says so only once: going on would promise what is not there.
/// The next start looks at what the disk really has.
fn log_not_forced(error: &std::io::Error) -> ! {
    threads::end_the_daemon(&format!("the event log cannot be forced to disk: {error}"))
}
