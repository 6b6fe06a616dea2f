//! The runs' queue and workers. A worker is a thread `run-N` that takes task after task and ends when there is none; it
//! outlives each process it starts. What may wait is bounded: beyond it a run is refused, not queued.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{error, warn};
use serde::Serialize;
use serde_json::value::RawValue;

use super::process::{self, Cancel, OnJson, Shared};
use super::{Failure, FailureCode, Outcome, Task};
use crate::clock;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::hub::{Core, Hub, HubError};
use crate::model::event::EventType;
use crate::model::record::{Run, RunStatus};
use crate::threads::{self, Thread, lock};

/// How often an outcome is offered to a log that takes nothing.
const LOG_RETRY: Duration = Duration::from_millis(500);

/// The runs of one daemon.
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    hub: Hub,
    shared: Shared,
    max_concurrent: usize,
    max_queued: usize,
    state: Mutex<State>,
    /// A run has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    running: HashMap<String, Sender<Cancel>>,
    /// Places given out to runs that are being recorded.
    admitted: usize,
    workers: usize,
    threads: Vec<Thread>,
    started: u64,
    /// No run begins any more; those that have begun may end by themselves.
    holding: bool,
    stopping: bool,
}

/// A place for one run, given back when dropped.
pub struct Admission<'a> {
    pool: &'a Pool,
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many runs run and wait as may.
    #[error("{running} runs are running and {queued} are waiting; no more may wait")]
    Full {
        /// Running now.
        running: usize,
        /// Waiting now.
        queued: usize,
    },
    /// The daemon stops.
    #[error("codexd is stopping")]
    Stopping,
}

/// What cancelling a run meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; it has ended.
    Queued,
    /// It runs; it is being ended.
    Running,
    /// It is not here: it has ended already.
    Not,
}

impl Pool {
    /// A pool without runs.
    pub fn new(hub: Hub, shared: Shared, max_concurrent: usize, max_queued: usize) -> Self {
        let inner = Inner {
            hub,
            shared,
            max_concurrent,
            max_queued,
            state: Mutex::new(State::default()),
            ended: Condvar::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A place for one more run, before it is recorded: what is acknowledged is never refused later.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(&self) -> Result<Admission<'_>, Refused> {
        let mut state = lock(&self.inner.state);
        if state.stopping {
            return Err(Refused::Stopping);
        }
        let (running, queued) = (state.running.len(), state.queue.len() + state.admitted);
        if running + queued >= self.inner.max_concurrent + self.inner.max_queued {
            return Err(Refused::Full { running, queued });
        }
        state.admitted += 1;
        Ok(Admission { pool: self })
    }

    /// Ends a run, whether it waits or runs.
    pub fn cancel(&self, run_id: &str) -> Cancelled {
        let queued = {
            let mut state = lock(&self.inner.state);
            if let Some(cancel) = state.running.get(run_id) {
                // Full means that it is being ended already.
                let _ = cancel.try_send(Cancel::Client);
                return Cancelled::Running;
            }
            let place = state.queue.iter().position(|task| task.run_id == run_id);
            place.and_then(|place| state.queue.remove(place))
        };
        let Some(task) = queued else { return Cancelled::Not };
        let failure = Failure::new(FailureCode::Cancelled, "The run was cancelled before it started.");
        self.inner.finish(&task.run_id, Outcome::failed(failure));
        Cancelled::Queued
    }

    /// How many run and how many wait.
    pub fn load(&self) -> (usize, usize) {
        let state = lock(&self.inner.state);
        (state.running.len(), state.queue.len())
    }

    /// What waits is not begun any more: the daemon is about to stop.
    pub fn hold(&self) {
        lock(&self.inner.state).holding = true;
    }

    /// Waits until nothing runs, or waits to be begun, but no longer than `timeout`; whether that came about.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = lock(&self.inner.state);
        while !(state.running.is_empty() && (state.holding || state.queue.is_empty())) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.inner.ended.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(_) => threads::end_the_daemon("a lock was poisoned by a panic"),
            };
        }
        true
    }

    /// Ends every run and records it; none is taken any more.
    pub fn stop(&self) {
        let (queued, workers) = {
            let mut state = lock(&self.inner.state);
            state.stopping = true;
            for cancel in state.running.values() {
                let _ = cancel.try_send(Cancel::Stop);
            }
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.threads))
        };
        for task in queued {
            let failure = Failure::new(FailureCode::Interrupted, "codexd stopped before the run started.");
            self.inner.finish(&task.run_id, Outcome::failed(failure));
        }
        workers.into_iter().for_each(Thread::join);
    }
}

impl Admission<'_> {
    /// Puts the run, which is recorded as queued by now, in its place.
    pub fn enter(self, task: Task) {
        let inner = &self.pool.inner;
        let mut state = lock(&inner.state);
        if state.stopping {
            drop(state);
            let failure = Failure::new(FailureCode::Interrupted, "codexd stopped before the run started.");
            return inner.finish(&task.run_id, Outcome::failed(failure));
        }
        state.queue.push_back(task);
        if state.workers >= inner.max_concurrent {
            return;
        }
        state.threads.retain(|thread| !thread.is_finished());
        state.workers += 1;
        state.started += 1;
        let worker = Arc::clone(inner);
        match threads::spawn(format!("run-{}", state.started), move || worker.work()) {
            Ok(thread) => state.threads.push(thread),
            Err(error) => {
                // The task waits for the next worker; with none at work there would be none.
                state.workers -= 1;
                error!("no thread for a run: {error}");
            }
        }
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        lock(&self.pool.inner.state).admitted -= 1;
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDetail<'a> {
    record: &'a Run,
    run_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutputDetail<'a> {
    event: &'a RawValue,
    run_id: &'a str,
}

impl Inner {
    fn work(self: Arc<Self>) {
        while let Some((task, cancels)) = self.next() {
            self.started(&task.run_id);
            let outcome = process::run(&self.shared, &task, &cancels, &self.on_json(&task.run_id));
            self.finish(&task.run_id, outcome);
            lock(&self.state).running.remove(&task.run_id);
            self.ended.notify_all();
        }
    }

    fn next(&self) -> Option<(Task, Receiver<Cancel>)> {
        let mut state = lock(&self.state);
        let next = if state.holding { None } else { state.queue.pop_front() };
        let Some(task) = next else {
            state.workers -= 1;
            return None;
        };
        let (cancel, cancels) = bounded(1);
        state.running.insert(task.run_id.clone(), cancel);
        Some((task, cancels))
    }

    fn on_json(&self, run_id: &str) -> OnJson {
        let (hub, run_id) = (self.hub.clone(), run_id.to_owned());
        Arc::new(move |event| {
            let mut drafts = Drafts::new();
            drafts.push(
                EventType::RunOutput,
                format_args!("Run {run_id}: {}", crate::model::preview(event.get())),
                Some(&OutputDetail { event, run_id: &run_id }),
                Subject::run(&run_id, None),
                None,
            );
            // A stopped hub takes nothing; the run's own record has the output.
            let _ = hub.send(drafts);
        })
    }

    fn started(&self, run_id: &str) {
        let id = run_id.to_owned();
        self.record(move |core, drafts| {
            let session = core.state().runs.get(&id).and_then(|run| run.session_id.clone());
            drafts.push(
                EventType::RunStarted,
                format_args!("Started run {id}."),
                Some(&serde_json::json!({ "runId": id })),
                Subject::run(&id, session.as_deref()),
                Some(Change::RunStarted { run_id: id.clone() }),
            );
        });
    }

    fn finish(&self, run_id: &str, outcome: Outcome) {
        let id = run_id.to_owned();
        let outcome = Arc::new(outcome);
        self.record(move |core, drafts| draft_finished(core, drafts, &id, &outcome));
    }

    /// Records; while the log takes nothing the outcome waits here, and its worker with it.
    fn record(&self, draft: impl Fn(&mut Core, &mut Drafts) + Clone + Send + 'static) {
        loop {
            let draft = draft.clone();
            match self.hub.transact(move |core, drafts| draft(core, drafts)) {
                Ok(()) => return,
                Err(HubError::Stalled(_) | HubError::Timeout) if !lock(&self.state).stopping => {
                    let (_keep, never) = bounded::<()>(0);
                    let _ = never.recv_timeout(LOG_RETRY);
                }
                Err(error) => return warn!("a run's state could not be logged: {error}"),
            }
        }
    }
}

/// The end of a run, once: an outcome that was logged after its transaction had timed out is not logged again.
pub fn draft_finished(core: &mut Core, drafts: &mut Drafts, id: &str, outcome: &Outcome) {
    let Some(run) = core.state().runs.get(id) else { return };
    if matches!(run.status, RunStatus::Completed | RunStatus::Failed) {
        return;
    }
    let mut run = Run::clone(run);
    let now = clock::now_iso();
    run.updated_at.clone_from(&now);
    run.finished_at = Some(now);
    run.result = serde_json::value::to_raw_value(outcome).ok();
    let (kind, verb) = match &outcome.error {
        None => {
            let last = outcome.result.as_ref().and_then(|result| result.last_message.clone());
            let code = outcome.result.as_ref().and_then(|result| result.exit_code).unwrap_or(0);
            run.status = RunStatus::Completed;
            run.summary = Some(last.unwrap_or_else(|| format!("exit_code:{code}")));
            (EventType::RunCompleted, "Completed")
        }
        Some(failure) => {
            run.status = RunStatus::Failed;
            run.error = Some(failure.message.clone());
            run.summary = Some(failure.message.clone());
            (EventType::RunFailed, "Failed")
        }
    };
    let run = Arc::new(run);
    let subject = Subject::run(id, run.session_id.as_deref());
    let detail = RunDetail { record: &run, run_id: id };
    let change = Some(Change::Run(Arc::clone(&run)));
    match &run.error {
        None => drafts.push(kind, format_args!("{verb} run {id}."), Some(&detail), subject, change),
        Some(error) => {
            let shown = crate::model::preview(error);
            drafts.push(kind, format_args!("{verb} run {id}: {shown}"), Some(&detail), subject, change);
        }
    }
}
