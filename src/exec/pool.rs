//! The runs' queue and workers. A worker is a thread `run-N` that takes task after task and ends when there is none; it
//! outlives each process it starts. What may wait is bounded: beyond it a run is refused, not queued.
//!
//! A run has its place ([`Admission`]) before it is recorded and enters the queue in the hub's thread as soon as it is:
//! whoever sees the record can cancel the run.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::{error, warn};
use serde::Serialize;
use serde_json::value::RawValue;

use super::json_lines::OnJson;
use super::process::{self, Cancel, Shared};
use super::{Outcome, Task};
use crate::clock;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::hub::{Core, Hub, HubError};
use crate::model::event::EventType;
use crate::model::record::{Run, RunStatus};
use crate::threads::answer::answer;
use crate::threads::{self, Thread, lock};

/// How often it is looked whether a log that takes nothing, or a hub that says nothing, is still to be waited for.
const LOG_RETRY: Duration = Duration::from_millis(500);
/// How long the stop waits for runs that are being recorded: longer than the hub lets anybody wait.
const RECORDING: Duration = Duration::from_secs(15);

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
    /// A run has ended, or an admission; no run is started any more.
    changed: Condvar,
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
    /// No run is taken or started any more.
    stopping: bool,
    /// Every run is being ended: a log that takes nothing is not waited for.
    ending: bool,
}

/// A place for one run, given back when dropped.
pub struct Admission {
    inner: Arc<Inner>,
    used: bool,
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
    /// There is no worker, and none can be started.
    #[error("no thread can be started for the run: {0}")]
    NoThread(String),
    /// The daemon stops.
    #[error("codexd is stopping")]
    Stopping,
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
            changed: Condvar::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A place for one more run and a worker for it, before it is recorded: what is acknowledged is never refused later.
    ///
    /// # Errors
    /// When there is none.
    pub fn admit(&self) -> Result<Admission, Refused> {
        let mut state = lock(&self.inner.state);
        if state.stopping {
            return Err(Refused::Stopping);
        }
        let (running, queued) = (state.running.len(), state.queue.len() + state.admitted);
        if running + queued >= self.inner.max_concurrent + self.inner.max_queued {
            return Err(Refused::Full { running, queued });
        }
        if state.workers < self.inner.max_concurrent {
            self.inner.start_worker(&mut state)?;
        }
        state.admitted += 1;
        Ok(Admission { inner: Arc::clone(&self.inner), used: false })
    }

    /// Ends a run: at once and recorded if it waits, soon if it runs. `false` when it is not here, having ended.
    pub fn cancel(&self, run_id: &str) -> bool {
        let mut state = lock(&self.inner.state);
        if let Some(cancel) = state.running.get(run_id) {
            // An error means that it is being ended already.
            let _ = cancel.try_send(Cancel::Client);
            return true;
        }
        let Some(place) = state.queue.iter().position(|task| task.run_id == run_id) else { return false };
        state.queue.remove(place);
        // Until its end is recorded it has not ended.
        state.running.insert(run_id.to_owned(), bounded(0).0);
        drop(state);
        self.inner.finish(run_id, process::before_start(Cancel::Client));
        self.inner.ended(run_id);
        true
    }

    /// Takes and starts no run any more; those that run go on.
    pub fn hold(&self) {
        lock(&self.inner.state).stopping = true;
        self.inner.changed.notify_all();
    }

    /// Waits until no run has begun that has not ended, but no longer than `timeout`; whether that came about. To be
    /// called after [`Pool::hold`].
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let state = self.inner.wait(lock(&self.inner.state), timeout, |state| state.running.is_empty());
        state.running.is_empty()
    }

    /// Ends every run, also those that wait, and records it.
    pub fn stop(&self) {
        self.hold();
        let inner = &self.inner;
        let mut state = lock(&inner.state);
        state.ending = true;
        for cancel in state.running.values() {
            // An error means that a client has cancelled it.
            let _ = cancel.try_send(Cancel::Stop);
        }
        // What was given a place is in the queue, or never will be, before the queue is emptied.
        state = inner.wait(state, RECORDING, |state| state.admitted == 0);
        let queued = std::mem::take(&mut state.queue);
        let workers = std::mem::take(&mut state.threads);
        drop(state);
        for task in queued {
            inner.finish(&task.run_id, process::before_start(Cancel::Stop));
        }
        workers.into_iter().for_each(Thread::join);
        // Those that a client has cancelled as they waited.
        drop(inner.wait(lock(&inner.state), RECORDING, |state| state.running.is_empty()));
    }
}

impl Admission {
    /// Puts the run, which is recorded as queued by now, in the queue. Waits for nothing.
    pub fn enter(mut self, task: Task) {
        self.used = true;
        let mut state = lock(&self.inner.state);
        state.admitted -= 1;
        state.queue.push_back(task);
        self.inner.changed.notify_all();
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if !self.used {
            lock(&self.inner.state).admitted -= 1;
            self.inner.changed.notify_all();
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunDetail<'a> {
    record: &'a Run,
    run_id: &'a str,
    session_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutputDetail<'a> {
    event: &'a RawValue,
    run_id: &'a str,
    session_id: Option<&'a str>,
}

impl Inner {
    /// One more worker. Where there are others, one of them takes the run if it cannot be started.
    fn start_worker(self: &Arc<Self>, state: &mut State) -> Result<(), Refused> {
        state.threads.retain(|thread| !thread.is_finished());
        state.started += 1;
        let worker = Arc::clone(self);
        match threads::spawn(format!("run-{}", state.started), move || worker.work()) {
            Ok(thread) => {
                state.workers += 1;
                state.threads.push(thread);
                Ok(())
            }
            Err(error) if state.workers == 0 => Err(Refused::NoThread(error.to_string())),
            Err(error) => {
                error!("no further thread for a run: {error}");
                Ok(())
            }
        }
    }

    /// Waits until `done`, but no longer than `timeout`.
    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        timeout: Duration,
        done: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let began = Instant::now();
        while !done(&state) {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            state = threads::sound(self.changed.wait_timeout(state, left)).0;
        }
        state
    }

    fn work(self: Arc<Self>) {
        while let Some((task, cancels)) = self.next() {
            let id = &task.run_id;
            let on_start = || self.started(id);
            let outcome = process::run(&self.shared, &task, &cancels, on_start, &Self::on_json(&self, id));
            self.finish(id, outcome);
            self.ended(id);
        }
    }

    /// The next run. A worker ends when there is none, and none to come that a place was given to.
    fn next(&self) -> Option<(Task, Receiver<Cancel>)> {
        let mut state = lock(&self.state);
        while state.queue.is_empty() && state.admitted > 0 && !state.stopping {
            state = threads::sound(self.changed.wait(state));
        }
        let task = if state.stopping { None } else { state.queue.pop_front() };
        let Some(task) = task else {
            state.workers -= 1;
            return None;
        };
        let (cancel, cancels) = bounded(1);
        state.running.insert(task.run_id.clone(), cancel);
        Some((task, cancels))
    }

    fn ended(&self, run_id: &str) {
        lock(&self.state).running.remove(run_id);
        self.changed.notify_all();
    }

    fn started(&self, run_id: &str) {
        let id = run_id.to_owned();
        self.record(0, move |core, drafts| draft_started(core, drafts, &id));
    }

    fn finish(&self, run_id: &str, outcome: Outcome) {
        let id = run_id.to_owned();
        self.record(0, move |core, drafts| draft_finished(core, drafts, &id, &outcome));
    }

    /// JSON lines become events one after the other, each waited for: so they stand in the log before the run's end, and
    /// a slow disk holds back the process that prints them.
    fn on_json(self: &Arc<Self>, run_id: &str) -> OnJson {
        let (inner, run_id): (_, Arc<str>) = (Arc::clone(self), Arc::from(run_id));
        Arc::new(move |events| {
            let bytes = events.iter().map(|event| event.get().len()).sum();
            let id = Arc::clone(&run_id);
            inner.record(bytes, move |core, drafts| draft_output(core, drafts, &id, &events));
        })
    }

    /// Records, once, what has happened already, with so many bytes of a process's output: whatever the log does, nothing
    /// of it is lost before the daemon stops. While the log takes nothing it waits here, and its worker with it; when the
    /// daemon stops meanwhile, that is given up.
    fn record(&self, bytes: usize, draft: impl FnOnce(&mut Core, &mut Drafts) + Send + 'static) {
        let (reply, recorded) = answer();
        if self.gives_up() {
            return warn!(
                "what became of a run could not be logged: codexd stops while the log takes nothing"
            );
        }
        if let Err(error) = self.hub.transact_in_order(bytes, draft, move |logged| reply.give(logged)) {
            return warn!("what became of a run could not be logged: {error}");
        }
        loop {
            match recorded.wait(Instant::now() + LOG_RETRY) {
                Ok(Ok(())) => return,
                // The hub has it, and logs it first when it can.
                Ok(Err(_)) => break,
                Err(RecvTimeoutError::Timeout) if !self.gives_up() => {}
                Err(_) => return warn!("what became of a run may not be logged: codexd is stopping"),
            }
        }
        while self.is_stalled() && !lock(&self.state).ending {
            threads::pause(LOG_RETRY);
        }
    }

    /// Whether what became of a run is not to be waited for.
    fn gives_up(&self) -> bool {
        let ending = lock(&self.state).ending;
        ending && self.is_stalled()
    }

    /// Whether the log takes nothing, or the hub has not said for long whether it does; one that is gone is not waited for.
    fn is_stalled(&self) -> bool {
        self.hub
            .ask(|core| core.stalled().is_some())
            .unwrap_or_else(|error| matches!(error, HubError::Timeout))
    }
}

fn subject(core: &Core, id: &str) -> Subject {
    let session = core.state().runs.get(id).and_then(|run| run.session_id.as_deref());
    Subject::run(id, session)
}

/// The start of a run, once.
fn draft_started(core: &Core, drafts: &mut Drafts, id: &str) {
    if core.state().runs.get(id).is_some_and(|run| run.status == RunStatus::Queued) {
        let subject = subject(core, id);
        drafts.push(
            EventType::RunStarted,
            format_args!("Started run {id}."),
            Some(&serde_json::json!({ "runId": id, "sessionId": subject.session })),
            subject.clone(),
            Some(Change::RunStarted { run_id: id.to_owned() }),
        );
    }
}

fn draft_output(core: &Core, drafts: &mut Drafts, id: &str, events: &[Box<RawValue>]) {
    let subject = subject(core, id);
    for event in events {
        drafts.push(
            EventType::RunOutput,
            format_args!("Run {id}: {}", crate::model::preview(event.get())),
            Some(&OutputDetail { event, run_id: id, session_id: subject.session.as_deref() }),
            subject.clone(),
            None,
        );
    }
}

/// The end of a run, once: what has ended is not ended again.
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
    let (kind, message) = match &outcome.error {
        None => {
            let last = outcome.result.as_ref().and_then(|result| result.last_message.clone());
            let code = outcome.result.as_ref().and_then(|result| result.exit_code).unwrap_or(0);
            run.status = RunStatus::Completed;
            run.summary = Some(last.unwrap_or_else(|| format!("exit_code:{code}")));
            (EventType::RunCompleted, format!("Completed run {id}."))
        }
        Some(failure) => {
            run.status = RunStatus::Failed;
            run.error = Some(failure.message.clone());
            run.summary = Some(failure.message.clone());
            (EventType::RunFailed, format!("Failed run {id}: {}", crate::model::preview(&failure.message)))
        }
    };
    let run = Arc::new(run);
    let subject = Subject::run(id, run.session_id.as_deref());
    let detail = RunDetail { record: &run, run_id: id, session_id: run.session_id.as_deref() };
    let change = Some(Change::Run(Arc::clone(&run)));
    drafts.push(kind, format_args!("{message}"), Some(&detail), subject, change);
}
