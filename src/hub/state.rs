//! The state the hub owns: what the log says, and the daemon's own.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::asked::Asked;
use super::change::Change;
use super::settled::{self, Settled};
use crate::model::record::{DaemonState, Identity, Request, Run, RunStatus, Session, SessionStatus};

/// A record with an id.
pub trait Record {
    /// Its id.
    fn id(&self) -> &str;

    /// The idempotency key it was made with.
    fn key(&self) -> Option<&str> {
        None
    }
}

impl Record for Session {
    fn id(&self) -> &str {
        &self.session_id
    }

    fn key(&self) -> Option<&str> {
        self.idempotency.as_ref().map(|idempotency| idempotency.key.as_str())
    }
}

impl Record for Run {
    fn id(&self) -> &str {
        &self.run_id
    }

    fn key(&self) -> Option<&str> {
        self.idempotency.as_ref().map(|idempotency| idempotency.key.as_str())
    }
}

impl Record for Request {
    fn id(&self) -> &str {
        &self.request_id
    }
}

/// Records in order of creation, found by id. Each is shared: a snapshot of ten thousand copies no record.
#[derive(Debug)]
pub struct Registry<T> {
    /// When one of them last changed.
    pub updated_at: Option<String>,
    items: Vec<Arc<T>>,
    index: HashMap<String, usize>,
    keys: HashMap<String, usize>,
    /// Changed since it was last written to disk.
    pub dirty: bool,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            updated_at: None,
            items: Vec::new(),
            index: HashMap::new(),
            keys: HashMap::new(),
            dirty: false,
        }
    }
}

impl<T: Record + Clone> Registry<T> {
    /// A registry of these records; of two with one id the later wins.
    pub fn load(updated_at: Option<String>, records: Vec<Arc<T>>) -> Self {
        let mut registry = Self {
            updated_at,
            items: Vec::with_capacity(records.len()),
            index: HashMap::with_capacity(records.len()),
            ..Self::default()
        };
        for record in records {
            registry.put(record);
        }
        registry.dirty = false;
        registry
    }

    /// All, in order of creation.
    pub fn all(&self) -> &[Arc<T>] {
        &self.items
    }

    /// The one with that id.
    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.index.get(id).and_then(|&at| self.items.get(at))
    }

    /// The last one that was made with this idempotency key.
    pub fn by_key(&self, key: &str) -> Option<&Arc<T>> {
        self.keys.get(key).and_then(|&at| self.items.get(at))
    }

    fn put(&mut self, record: Arc<T>) -> usize {
        self.dirty = true;
        if let Some(&at) = self.index.get(record.id()) {
            self.items[at] = record;
            return at;
        }
        let at = self.items.len();
        self.index.insert(record.id().to_owned(), at);
        if let Some(key) = record.key() {
            self.keys.insert(key.to_owned(), at);
        }
        self.items.push(record);
        at
    }

    fn change(&mut self, id: &str, at: &str, change: impl FnOnce(&mut T)) {
        if let Some(&index) = self.index.get(id) {
            self.change_at(index, at, change);
        }
    }

    fn change_at(&mut self, index: usize, at: &str, change: impl FnOnce(&mut T)) {
        change(Arc::make_mut(&mut self.items[index]));
        self.updated_at = Some(at.to_owned());
        self.dirty = true;
    }
}

/// Everything the hub knows.
#[derive(Debug)]
pub struct State {
    /// Who this daemon is; from the log when the state folder was lost.
    pub identity: Option<Identity>,
    /// Changed since it was last written to disk.
    pub identity_dirty: bool,
    /// The daemon and its child; not part of the log's fold.
    pub daemon: DaemonState,
    /// Changed since it was last written to disk.
    pub daemon_dirty: bool,
    /// The sessions.
    pub sessions: Registry<Session>,
    /// The runs.
    pub runs: Registry<Run>,
    /// What Codex asked.
    pub requests: Registry<Request>,
    asked: Asked,
    settled: Settled,
    threads: HashMap<String, Vec<usize>>,
}

impl State {
    /// The state as the files had it.
    pub fn new(
        identity: Option<Identity>,
        daemon: DaemonState,
        sessions: Registry<Session>,
        runs: Registry<Run>,
        requests: Registry<Request>,
    ) -> Self {
        let mut state = Self {
            identity,
            identity_dirty: false,
            daemon,
            daemon_dirty: true,
            sessions,
            runs,
            requests,
            asked: Asked::default(),
            settled: Settled::default(),
            threads: HashMap::new(),
        };
        for at in 0..state.sessions.items.len() {
            state.link_thread(at);
        }
        state.note_requests();
        state.forget_settled();
        state
    }

    fn note_requests(&mut self) {
        (self.asked, self.settled) = Default::default();
        for (at, request) in self.requests.items.iter().enumerate() {
            self.asked.note(at, request);
            self.settled.note(None, request);
        }
    }

    /// Lets settled requests go that are more than are kept.
    fn forget_settled(&mut self) {
        if self.settled.are_too_many() {
            let requests = &mut self.requests;
            *requests = Registry::load(requests.updated_at.take(), settled::kept(&requests.items));
            requests.dirty = true;
            self.note_requests();
        }
    }

    /// A new life of the daemon: no thread is loaded yet. One registry, the one that is hardly ever large, is written anew
    /// whatever is in it: should log and recent events be lost together, its `appliedSeq` is what numbers go on from. What
    /// waits in an `external` app-server waits for whoever asks it again, though that connection may have the same number:
    /// the file that has the count may be lost.
    pub fn begin_life(&mut self, external: bool) {
        self.requests.dirty = true;
        for session in self.sessions.items.iter_mut().filter(|session| session.generation.is_some()) {
            Arc::make_mut(session).generation = None;
            self.sessions.dirty = true;
        }
        if external {
            for at in self.asked.pending() {
                Arc::make_mut(&mut self.requests.items[at]).generation = 0;
            }
        }
    }

    fn link_thread(&mut self, at: usize) {
        if let Some(thread) = &self.sessions.items[at].thread_id {
            let sessions = self.threads.entry(thread.clone()).or_default();
            if !sessions.contains(&at) {
                sessions.push(at);
            }
        }
    }

    /// The sessions on that thread.
    pub fn sessions_of_thread(&self, thread_id: &str) -> impl Iterator<Item = &Arc<Session>> {
        let places = self.threads.get(thread_id).map(Vec::as_slice).unwrap_or_default();
        places
            .iter()
            .filter_map(|&at| self.sessions.items.get(at))
            .filter(move |session| session.thread_id.as_deref() == Some(thread_id))
    }

    /// The active session on that thread.
    pub fn active_session_of_thread(&self, thread_id: &str) -> Option<&Arc<Session>> {
        self.sessions_of_thread(thread_id).find(|session| session.status == SessionStatus::Active)
    }

    /// Takes one step. `at` is the event's time.
    pub fn apply(&mut self, change: Change, at: &str) {
        match change {
            Change::Identity(identity) => {
                let told = Some(*identity);
                // Each start tells it again.
                self.identity_dirty |= self.identity != told;
                self.identity = told;
            }
            Change::DaemonStopped => self.interrupt_turns(at),
            Change::Session(session) => {
                let place = self.sessions.put(session);
                self.sessions.updated_at = Some(at.to_owned());
                self.link_thread(place);
            }
            Change::SessionClosed { session_id } => self.session(&session_id, at, |session| {
                session.status = SessionStatus::Closed;
                session.current_turn_id = None;
            }),
            Change::SessionError { session_id, error } => {
                self.session(&session_id, at, |session| session.last_error = Some(error));
            }
            Change::TurnAccepted { session_id, turn_id, steered, sandbox } => {
                self.session(&session_id, at, |session| {
                    if let Some(sandbox) = &sandbox {
                        replace_sandbox(session, sandbox);
                    }
                    // A turn may be accepted after it has begun, or even ended. A steer begins none: its answer may come when
                    // the next turn runs. But where no turn was ever seen, it runs: one of a thread that was taken over.
                    if (!steered || session.last_turn_id.is_none())
                        && session.last_turn_id.as_deref() != Some(turn_id.as_str())
                    {
                        begin_turn(session, &turn_id);
                    }
                })
            }
            Change::TurnStarted { thread_id, turn_id } => {
                self.thread(&thread_id, at, |session| begin_turn(session, &turn_id));
            }
            Change::TurnCompleted { thread_id, turn_id, status } => {
                self.thread(&thread_id, at, |session| end_turn(session, &turn_id, &status));
            }
            Change::TurnError { thread_id, turn_id, will_retry } => self.thread(&thread_id, at, |session| {
                if will_retry {
                    session.last_turn_id = Some(turn_id.clone());
                    session.last_turn_status = Some("inProgress".to_owned());
                } else {
                    end_turn(session, &turn_id, "failed");
                }
            }),
            Change::ThreadTouched { thread_id } => self.thread(&thread_id, at, |_| {}),
            Change::TurnMissing { session_id } => self.session(&session_id, at, |session| {
                session.current_turn_id = None;
                session.last_turn_status = Some("failed".to_owned());
            }),
            Change::Run(run) => {
                self.runs.put(run);
                self.runs.updated_at = Some(at.to_owned());
            }
            Change::RunStarted { run_id } => self.runs.change(&run_id, at, |run| {
                run.status = RunStatus::Running;
                run.started_at = Some(at.to_owned());
                run.updated_at = at.to_owned();
            }),
            Change::Request(request) => {
                self.settled.note(self.requests.get(&request.request_id).map(AsRef::as_ref), &request);
                let place = self.requests.put(request);
                self.asked.note(place, &self.requests.items[place]);
                self.requests.updated_at = Some(at.to_owned());
                self.forget_settled();
            }
        }
    }

    fn session(&mut self, id: &str, at: &str, change: impl FnOnce(&mut Session)) {
        self.sessions.change(id, at, |session| {
            change(session);
            session.updated_at = at.to_owned();
        });
    }

    fn thread(&mut self, thread_id: &str, at: &str, change: impl Fn(&mut Session)) {
        let Some(places) = self.threads.get(thread_id) else { return };
        for &place in places {
            if self.sessions.items[place].thread_id.as_deref() == Some(thread_id) {
                self.sessions.change_at(place, at, |session| {
                    change(session);
                    session.updated_at = at.to_owned();
                });
            }
        }
    }

    fn interrupt_turns(&mut self, at: &str) {
        for place in 0..self.sessions.items.len() {
            if self.sessions.items[place].current_turn_id.is_some() {
                self.sessions.change_at(place, at, |session| {
                    session.current_turn_id = None;
                    session.last_turn_status = Some("interrupted".to_owned());
                    session.updated_at = at.to_owned();
                });
            }
        }
    }

    /// Requests nobody has answered yet, in order of creation.
    pub fn pending_requests(&self) -> impl Iterator<Item = &Arc<Request>> {
        self.asked.pending().filter_map(|at| self.requests.items.get(at))
    }

    /// The last request that had this id of the app-server's own, as its JSON text, in this thread.
    pub fn request_with_id(&self, thread_id: Option<&str>, id: &str) -> Option<&Arc<Request>> {
        self.requests.items.get(self.asked.last(thread_id.unwrap_or_default(), id)?)
    }
}

/// A turn's sandbox policy is for the turns after it, too, in the place of what the session was made with: its mode, for the
/// rest of it cannot be said of a thread.
fn replace_sandbox(session: &mut Session, policy: &str) {
    let Some(params) = session.thread_params.as_object_mut() else { return };
    let mode = match policy {
        "readOnly" => Some("read-only"),
        "workspaceWrite" => Some("workspace-write"),
        "dangerFullAccess" => Some("danger-full-access"),
        _ => None,
    };
    match mode {
        Some(mode) => drop(params.insert("sandbox".to_owned(), mode.into())),
        None => drop(params.remove("sandbox")),
    }
    if let Some(config) = params.get_mut("config").and_then(Value::as_object_mut) {
        config.retain(|key, _| !key.starts_with("sandbox_"));
    }
}

fn begin_turn(session: &mut Session, turn_id: &str) {
    session.current_turn_id = Some(turn_id.to_owned());
    session.last_turn_id = Some(turn_id.to_owned());
    session.last_turn_status = Some("inProgress".to_owned());
}

fn end_turn(session: &mut Session, turn_id: &str, status: &str) {
    if session.current_turn_id.as_deref() == Some(turn_id) {
        session.current_turn_id = None;
    }
    session.last_turn_id = Some(turn_id.to_owned());
    session.last_turn_status = Some(status.to_owned());
}

#[cfg(test)]
mod tests;
