//! The hub's thread: takes messages, keeps the log before everything, hands work to the persister.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Select, Sender, never, select};
use log::error;

use super::core::Core;
use super::drafts::Drafts;
use super::persister::{Job, Records};
use super::{Message, Transaction, Work, state};
use crate::threads;
use crate::threads::budget::Share;

/// Bytes of drafts taken into one batch: what a slow moment piles up, but no more than a write of a few milliseconds.
const BATCH_BYTES: usize = 256 * 1024;
/// How long a stop waits for a log that cannot be written before it gives up what waits for it.
const GIVE_UP: Duration = Duration::from_secs(2);
/// How often a log that failed is tried again.
pub(super) const LOG_RETRY: Duration = Duration::from_millis(500);

/// The hub's thread.
pub(super) struct Actor {
    core: Core,
    events: Receiver<Message>,
    control: Receiver<Message>,
    jobs: Sender<Job>,
    /// Set when the inboxes are looked into for the last time.
    ended: Arc<AtomicBool>,
    persister_idle: bool,
    /// Whether the daemon has, or has no files yet that it could leave as they are until then.
    started: bool,
    /// A message of the child that was taken up when the log failed; it is the next one.
    deferred: Option<Message>,
    /// Since when the daemon is stopping.
    closing: Option<Instant>,
    /// While the log fails the child's messages are dropped.
    given_up: bool,
}

impl Actor {
    pub(super) fn new(
        core: Core,
        events: Receiver<Message>,
        control: Receiver<Message>,
        jobs: Sender<Job>,
        ended: Arc<AtomicBool>,
    ) -> Self {
        let started = core.state.identity_dirty;
        Self {
            core,
            events,
            control,
            jobs,
            ended,
            persister_idle: true,
            started,
            deferred: None,
            closing: None,
            given_up: false,
        }
    }

    pub(super) fn run(mut self) {
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
                self.core.unsaved = None;
                match written {
                    Ok(Some(seq)) => self.core.persisted(seq),
                    Ok(None) => {}
                    Err(reason) => self.core.unsaved = Some(reason),
                }
                // It comes after events, and not with each.
                self.core.look_after_log();
            }
            // The persister is at rest, most likely, after an urgent job; that can be cut short once.
            Message::Started => (self.started, self.persister_idle) = (true, true),
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

    fn persist(&mut self) {
        // Something urgent waits there: the persister will say again that it is idle.
        if self.jobs.is_full() {
            return;
        }
        let job = if self.persister_idle && self.started { self.job() } else { self.urgent_job() };
        let Some(job) = job else { return };
        self.persister_idle = false;
        // There is room: nobody else sends. A persister that is gone has ended the daemon.
        let _ = self.jobs.try_send(job);
    }

    /// What the persister's rest does not hold up: `codexd status` reads from the file whether daemon and child run.
    fn urgent_job(&mut self) -> Option<Job> {
        let state = &mut self.core.state;
        let daemon = std::mem::take(&mut state.daemon_dirty).then(|| state.daemon.clone())?;
        Some(Job { daemon: Some(daemon), ..Job::default() })
    }

    fn job(&mut self) -> Option<Job> {
        let recent = std::mem::take(&mut self.core.recent_dirty).then(|| self.core.recent_for_file());
        let applied_seq = Some(self.core.latest_seq());
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
        // Also one with nothing new, where the persister has something left.
        (!job.is_done() || self.core.unsaved.is_some()).then_some(job)
    }

    /// Everything sent before the stop is taken; then the last state is written.
    fn finish(mut self) {
        while self.core.stalled().is_none() {
            let Some(message) = self.deferred.take().or_else(|| self.events.try_recv().ok()) else { break };
            self.handle(message);
        }
        // Not until it is empty: clients that ask and ask would keep it from ending.
        for _ in 0..self.control.len() {
            let Ok(message) = self.control.try_recv() else { break };
            self.handle(message);
        }
        if let Some(reason) = self.core.stalled() {
            error!("codexd stops with events that are not in the log: {reason}");
        }
        if let Some(job) = self.job() {
            self.hand_over(job);
        }
        self.ended.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Who sends from here on sees that this has ended.
        while self.control.try_recv().is_ok() || self.events.try_recv().is_ok() {}
    }

    /// The last job: the persister takes it after the write it may be at, or is gone with a message of its own. With what
    /// comes meanwhile, whoever waits for it is let go; the persister itself may wait to say something.
    fn hand_over(&self, job: Job) {
        let mut select = Select::new();
        let taken = select.send(&self.jobs);
        select.recv(&self.control);
        select.recv(&self.events);
        loop {
            let ready = select.select();
            match ready.index() {
                index if index == taken => return drop(ready.send(&self.jobs, job)),
                1 => drop(ready.recv(&self.control)),
                _ => drop(ready.recv(&self.events)),
            }
        }
    }
}

/// A registry as it is to be written.
pub(super) fn records<T: state::Record + Clone>(registry: &state::Registry<T>) -> Records<T> {
    Records { updated_at: registry.updated_at.clone(), records: registry.all().to_vec() }
}

/// The kernel may have dropped what it could not write and says so only once: going on would promise what is not there.
/// The next start looks at what the disk really has.
pub(super) fn log_not_forced(error: &std::io::Error) -> ! {
    threads::end_the_daemon(&format!("the event log cannot be forced to disk: {error}"))
}
