//! What happens to drafts inside the hub: numbered, logged, applied, handed out, in that order.
//!
//! **Invariant**: the state never runs ahead of the log. What the log does not take waits, rendered, and is tried again
//! (`Core::commit`), or has not happened (`Core::try_commit`); until it is in the log nobody sees it, in the state
//! or on a stream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use log::{error, info};

use super::batch::{Batch, Subject};
use super::change::Change;
use super::drafts::Drafts;
use super::log_sync::LogSync;
use super::persister;
use super::recent::{Recent, RecentEvents};
use super::state::State;
use super::subscribers::Subscribers;
use super::subscription::Subscription;
use super::tally::Tally;
use super::voice::Voice;
use super::watch::{TurnWatch, Watches};
use crate::clock;
use crate::model::event::EventType;
use crate::model::record::{Child, DaemonState};
use crate::model::view::EventList;
use crate::store::journal::{AppendError, Journal, LogView};

/// What a transaction does once its events are in the log, or, with the reason, when they never will be.
pub(super) type AfterCommit = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Bytes of an event beside its draft: number, time and braces.
const BESIDE_DRAFT: usize = 64;

/// The hub's inside; only its thread touches it.
pub struct Core {
    /// What the log and the daemon say.
    pub(super) state: State,
    version: Arc<AtomicU64>,
    journal: Journal,
    /// The next seq to give.
    next_seq: u64,
    /// The last seq in the log: behind `next_seq - 1` while a batch waits for it.
    logged_seq: u64,
    recent: RecentEvents,
    recent_updated_at: Option<String>,
    pub(super) recent_dirty: bool,
    subscribers: Subscribers,
    /// With `--sync interval`.
    log_sync: Option<LogSync>,
    lines: Vec<u8>,
    stalled: Option<Stalled>,
    /// Why the state files cannot be written.
    pub(super) unsaved: Option<String>,
    watches: Watches,
    tally: Tally,
    voice: Voice,
}

/// A batch on its way to the log.
struct Rendered {
    batch: Batch,
    changes: Vec<Change>,
    at: String,
    first_seq: u64,
    after: Vec<AfterCommit>,
}

/// The log takes nothing.
struct Stalled {
    /// What it did not take and is to take first; nothing if that could be taken back.
    waiting: Option<Rendered>,
    reason: String,
    since: Instant,
}

/// What the hub starts with.
pub struct Start {
    /// Files and log tail, folded.
    pub state: State,
    /// The log, open.
    pub journal: Journal,
    /// The first seq to give.
    pub next_seq: u64,
    /// The last events.
    pub recent: RecentEvents,
    /// When the last of them came.
    pub recent_updated_at: Option<String>,
}

impl Core {
    pub(super) fn new(
        start: Start,
        version: Arc<AtomicU64>,
        log_sync: Option<LogSync>,
        voice: Voice,
    ) -> Self {
        Self {
            state: start.state,
            version,
            journal: start.journal,
            next_seq: start.next_seq,
            logged_seq: start.next_seq - 1,
            recent: start.recent,
            recent_updated_at: start.recent_updated_at,
            recent_dirty: true,
            subscribers: Subscribers::default(),
            log_sync,
            lines: Vec::new(),
            stalled: None,
            unsaved: None,
            watches: Watches::default(),
            tally: Tally::default(),
            voice,
        }
    }

    /// The state as the log has it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// See [`super::Hub::version`].
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The last seq in the log.
    pub fn latest_seq(&self) -> u64 {
        self.logged_seq
    }

    /// The oldest seq still in the log.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.journal.oldest_seq()
    }

    /// Where the events are.
    pub fn log_view(&self) -> LogView {
        self.journal.view()
    }

    /// Why the log takes no events now, if it does not.
    pub fn stalled(&self) -> Option<&str> {
        self.stalled.as_ref().map(|stalled| stalled.reason.as_str())
    }

    /// Why the state files cannot be written; `None` when they can. Nothing is lost then: the log has it all.
    pub fn unsaved(&self) -> Option<&str> {
        self.unsaved.as_deref()
    }

    /// Since when the log takes none.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        self.stalled.as_ref().map(|stalled| stalled.since)
    }

    /// Sees whether the log still has the name under which it is looked for, and tells what others did to its files. Until
    /// it has, nothing is promised.
    pub(super) fn look_after_log(&mut self) {
        if self.stalled.is_some() {
            // Retrying does it.
            return;
        }
        if let Err(error) = or_end(self.journal.look_after()) {
            return self.stall(None, &error, Instant::now());
        }
        let mut drafts = Drafts::new();
        self.journal.take_repairs().iter().for_each(|repair| drafts.push_repaired(repair));
        if !drafts.is_empty() {
            self.commit(vec![drafts], Vec::new());
        }
    }

    /// As [`Core::look_after_log`], when somebody who reads has missed a finished file.
    pub(super) fn look_for_removed(&mut self) {
        self.journal.forget_removed();
        self.look_after_log();
    }

    /// Events up to `seq` are in the state files.
    pub(super) fn persisted(&mut self, seq: u64) {
        self.journal.dispose_up_to(seq);
    }

    /// The last events, oldest first, and when the last one came.
    pub fn recent(&self) -> (impl Iterator<Item = &Recent>, Option<&String>) {
        (self.recent.iter(), self.recent_updated_at.as_ref())
    }

    pub(super) fn recent_for_file(&self) -> persister::Recent {
        persister::Recent {
            max_entries: self.recent.capacity(),
            updated_at: self.recent_updated_at.clone(),
            latest_seq: self.latest_seq(),
            events: EventList::new(self.recent.iter().map(|recent| Arc::clone(&recent.json)).collect()),
        }
    }

    /// Changes what is known of the child; this is the daemon's own knowledge and needs no event.
    pub fn update_child(&mut self, change: impl FnOnce(&mut Child)) {
        self.update_daemon(|daemon| change(&mut daemon.child));
    }

    /// Changes what is known of the daemon.
    pub fn update_daemon(&mut self, change: impl FnOnce(&mut DaemonState)) {
        self.version.fetch_add(1, Ordering::Release);
        change(&mut self.state.daemon);
        self.state.daemon.updated_at = clock::now_iso();
        self.state.daemon_dirty = true;
    }

    /// A new subscriber; it gets every event after [`Core::latest_seq`].
    pub fn subscribe(&mut self) -> Subscription {
        self.subscribers.add()
    }

    /// A wait for the next beginning or end of a turn in that thread.
    pub fn watch_turns(&mut self, thread_id: &str) -> TurnWatch {
        self.watches.add(thread_id)
    }

    /// The events of this life.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Logs, applies and hands out these drafts, then does what waits for them. What they tell has happened: if the log
    /// does not take them they wait; whoever waits for them is told so and does not.
    pub(super) fn commit(&mut self, drafts: Vec<Drafts>, after: Vec<AfterCommit>) {
        let rendered = self.render(drafts, after);
        if let Err(error) = self.append(&rendered) {
            let waiting = Rendered { after: Vec::new(), ..rendered };
            self.stall(Some(waiting), &error, Instant::now());
            return self.refuse(rendered.after);
        }
        self.finish(rendered);
    }

    fn refuse(&self, after: Vec<AfterCommit>) {
        let reason = self.stalled().unwrap_or_default();
        for after in after {
            after(Err(reason.to_owned()));
        }
    }

    /// As [`Core::commit`], for what is only to happen: if the log does not take it, it has not happened.
    pub(super) fn try_commit(&mut self, drafts: Drafts, after: AfterCommit) {
        let first_seq = self.next_seq;
        let rendered = self.render(vec![drafts], vec![after]);
        if let Err(error) = self.append(&rendered) {
            self.next_seq = first_seq;
            self.stall(None, &error, Instant::now());
            return self.refuse(rendered.after);
        }
        self.finish(rendered);
    }

    /// Tries once more to log what the log did not take, and that it did not.
    pub(super) fn retry(&mut self) {
        let Some(Stalled { waiting, reason, since }) = self.stalled.take() else { return };
        if let Err(error) = or_end(self.journal.look_after()) {
            return self.stall(waiting, &error, since);
        }
        if let Some(rendered) = waiting {
            self.render_lines(&rendered.batch);
            if let Err(error) = self.append(&rendered) {
                return self.stall(Some(rendered), &error, since);
            }
            self.finish(rendered);
            if self.stalled.is_some() {
                return;
            }
        }
        // Logging that it is over is also how it is found out.
        let first_seq = self.next_seq;
        let stalled_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut drafts = Drafts::new();
        drafts.note(
            EventType::StoreResumed,
            format_args!("The event log could not be written for {stalled_ms} ms: {reason}."),
            &serde_json::json!({ "reason": reason, "stalledMs": stalled_ms }),
        );
        let rendered = self.render(vec![drafts], Vec::new());
        if let Err(error) = self.append(&rendered) {
            self.next_seq = first_seq;
            return self.stall(None, &error, since);
        }
        info!("the event log takes events again after {stalled_ms} ms (it had failed: {reason})");
        self.finish(rendered);
    }

    fn render(&mut self, drafts: Vec<Drafts>, after: Vec<AfterCommit>) -> Rendered {
        let at = clock::now_iso();
        let first_seq = self.next_seq;
        let size: usize = drafts.iter().map(Drafts::len).sum();
        let count: usize = drafts.iter().map(Drafts::count).sum();
        let mut batch = Batch::with_room_for(count, size + count * BESIDE_DRAFT);
        let mut changes = Vec::new();
        let (mut seq, created_at) = (Vec::new(), format!(",\"createdAt\":\"{at}\","));
        for mut drafts in drafts {
            drafts.drop_foreign(|subject| self.is_foreign(subject));
            let (rendered, subjects, items) = drafts.into_parts();
            let places: Vec<usize> = subjects.into_iter().map(|subject| batch.about(subject)).collect();
            for draft in items {
                seq.clear();
                // A number in memory cannot fail, and costs less than formatted.
                let _ = serde_json::to_writer(&mut seq, &self.next_seq);
                let json = [&b"{\"seq\":"[..], &seq, created_at.as_bytes(), draft.text(&rendered), b"}"];
                batch.push(self.next_seq, draft.kind, draft.level, places[draft.about], &json);
                changes.extend(draft.change.map(|change| *change));
                self.next_seq += 1;
            }
        }
        self.render_lines(&batch);
        Rendered { batch, changes, at, first_seq, after }
    }

    /// Whether it is about a thread that no session here is on.
    pub fn is_foreign(&self, subject: &Subject) -> bool {
        subject.thread.as_deref().is_some_and(|thread| self.state.sessions_of_thread(thread).next().is_none())
    }

    fn render_lines(&mut self, batch: &Batch) {
        self.lines.clear();
        for entry in batch.entries() {
            self.lines.extend_from_slice(batch.event(entry));
            self.lines.push(b'\n');
        }
    }

    fn append(&mut self, rendered: &Rendered) -> io::Result<()> {
        if !rendered.batch.is_empty() {
            let appended = self.journal.append(&self.lines, rendered.first_seq);
            if let Some((log_sync, finished)) = self.log_sync.as_ref().zip(self.journal.take_finished()) {
                log_sync.finished(finished);
            }
            or_end(appended)?;
        }
        // A burst of long lines must not keep its memory for ever.
        if self.lines.capacity() > 1024 * 1024 {
            self.lines = Vec::new();
        }
        Ok(())
    }

    fn stall(&mut self, waiting: Option<Rendered>, error: &io::Error, since: Instant) {
        let reason = format!("the event log cannot be written: {error}");
        if since.elapsed() < super::actor::LOG_RETRY {
            error!("{reason}; events wait and the child is held back until it can");
        }
        self.stalled = Some(Stalled { waiting, reason, since });
    }

    fn finish(&mut self, rendered: Rendered) {
        if let Some(last) = rendered.batch.entries().last() {
            self.logged_seq = last.seq;
            self.version.fetch_add(1, Ordering::Release);
            if let Some(log_sync) = &self.log_sync {
                log_sync.written(self.journal.file());
            }
            for entry in rendered.batch.entries() {
                self.tally.count(entry.kind, entry.level);
            }
            self.voice.tell(&rendered.batch);
            for change in rendered.changes {
                self.watches.wake(&change);
                self.state.apply(change, &rendered.at);
            }
            self.remember(&rendered.batch, rendered.at);
            self.hand_out(&Arc::new(rendered.batch));
        }
        for after in rendered.after {
            after(Ok(()));
        }
    }

    fn remember(&mut self, batch: &Batch, at: String) {
        self.recent_updated_at = Some(at);
        self.recent_dirty = true;
        self.recent.extend(batch);
    }

    fn hand_out(&mut self, batch: &Arc<Batch>) {
        let lagged = self.subscribers.offer(batch);
        if lagged.is_empty() {
            return;
        }
        let mut drafts = Drafts::new();
        for after in lagged {
            let detail = serde_json::json!({ "afterSeq": after });
            drafts.note(
                EventType::StreamClientLagged,
                format_args!("A stream client could not keep up and was cut off after seq {after}."),
                &detail,
            );
        }
        // It may be what makes others lag. Each time there are fewer.
        self.commit(vec![drafts], Vec::new());
    }
}

/// A log that cannot be forced to disk ends the daemon; anything else may be tried again.
fn or_end(outcome: Result<(), AppendError>) -> io::Result<()> {
    outcome.map_err(|error| match error {
        AppendError::Write(error) => error,
        AppendError::Sync(error) => super::actor::log_not_forced(&error),
    })
}
