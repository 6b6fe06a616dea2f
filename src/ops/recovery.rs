//! Sessions in a new life of the app-server: their threads are loaded again before their next turn, and after a crash at
//! once, so that the turn does not have to wait for it. What fails then is tried again by the turn.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use log::{info, warn};
use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::{Params, param};
use super::sessions::{ThreadAnswer, closed, resume_params, without_thread};
use super::{OpError, Ops, catch_up};
use crate::app_server::call::CallError;
use crate::app_server::connection::Connection;
use crate::app_server::impression::Impression;
use crate::app_server::inbox;
use crate::app_server::needs;
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::EventType;
use crate::model::record::{Session, SessionStatus};
use crate::threads::{self, Thread, lock};
use crate::{clock, model};

/// Threads loaded at once: a few of the calls that may be in flight, so that clients get theirs through.
const AT_ONCE: usize = 4;

/// Loads a thread.
const RESUME: &str = "thread/resume";

/// Starts the thread that loads threads after each message of `revived`; it ends when the sender is dropped.
///
/// # Errors
/// When the system has no thread.
pub fn start(ops: Arc<Ops>, revived: Receiver<()>) -> io::Result<Thread> {
    threads::spawn("recover", move || {
        while revived.recv().is_ok() {
            if let Err(error) = recover_all(&ops) {
                // Each session's next turn tries again, and tells its client.
                warn!("sessions could not be recovered: {error}");
            }
        }
    })
}

/// Never waits for an app-server to begin: of a life that is over already nothing is loaded, the next one is announced as
/// well, and after the last one none comes.
fn recover_all(ops: &Arc<Ops>) -> Result<(), OpError> {
    let Some(connection) = ops.client.present() else { return Ok(()) };
    let generation = connection.generation();
    let external = connection.pid().is_none();
    let ids = ops.hub.ask(move |core| to_load(core, generation, external))?;
    // A child is talked to when it is needed; an external app-server is connected to because it is.
    if ids.is_empty() && !external {
        return Ok(());
    }
    ops.client.greet(&connection)?;
    if ids.is_empty() {
        return Ok(());
    }
    match ids.len() {
        1 => info!("loading the thread of 1 session again"),
        several => info!("loading the threads of {several} sessions again"),
    }
    let (hand_out, waiting) = bounded(ids.len());
    for id in ids {
        // There is room for all.
        let _ = hand_out.try_send(id);
    }
    drop(hand_out);
    let workers: Vec<Thread> = (0..AT_ONCE.min(waiting.len()))
        .map(|number| {
            let (ops, connection, waiting) = (Arc::clone(ops), Arc::clone(&connection), waiting.clone());
            threads::spawn_contained(format!("recover-{number}"), move || work(&ops, &connection, &waiting))
        })
        .collect::<Result<_, _>>()
        .map_err(|error| OpError::Internal(format!("no thread for the recovery: {error}")))?;
    // Each ends when nothing is waiting, or when the connection is closed.
    for worker in workers {
        worker.join();
    }
    Ok(())
}

fn work(ops: &Ops, connection: &Connection, waiting: &Receiver<String>) {
    while let Ok(id) = waiting.try_recv() {
        if connection.closed().is_some() {
            return;
        }
        if let Err(error) = ops.load_thread(&id, connection) {
            warn!("session {id} is not recovered yet: {error}");
        }
    }
}

/// Active sessions whose thread that life has not loaded, those used last first. An external app-server still has the
/// thread that never ran a turn, but nothing of it to load: it is replaced when its first turn comes, not each time the
/// connection is.
fn to_load(core: &Core, generation: u64, external: bool) -> Vec<String> {
    let mut sessions: Vec<_> = core
        .state()
        .sessions
        .all()
        .iter()
        .filter(|session| {
            session.status == SessionStatus::Active
                && session.thread_id.is_some()
                && session.generation != Some(generation)
                && (!external || session.last_turn_id.is_some())
        })
        .collect();
    sessions.sort_by(|one, other| other.updated_at.cmp(&one.updated_at));
    sessions.into_iter().map(|session| session.session_id.clone()).collect()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecoveredDetail<'a> {
    record: &'a Session,
    replaced_thread_id: Option<&'a str>,
    session_id: &'a str,
    thread_id: Option<&'a str>,
}

impl Ops {
    /// Makes sure that this life of the app-server has the session's thread loaded, and returns the session as it is
    /// then. Of concurrent callers one loads it.
    ///
    /// # Errors
    /// When the app-server refuses; the session stays active, its lastError says why. [`OpError::Timeout`] also when it has
    /// not answered another caller all the while. [`OpError::Conflict`] when the session has been closed meanwhile.
    pub(super) fn load_thread(&self, id: &str, connection: &Connection) -> Result<Arc<Session>, OpError> {
        let _mine = self.loading.claim(id, self.client.timeout())?;
        let session = self.session(id)?;
        if session.status == SessionStatus::Closed {
            return Err(closed(id));
        }
        if session.generation == Some(connection.generation()) {
            return Ok(session);
        }
        self.resume_thread(&session, connection)
    }

    fn resume_thread(
        &self,
        session: &Arc<Session>,
        connection: &Connection,
    ) -> Result<Arc<Session>, OpError> {
        let thread = session.thread_id.as_deref().ok_or_else(|| without_thread(&session.session_id))?;
        let request = resume_params(thread, &settings(&session.thread_params, connection.impression())?)?;
        let outcome = match self.take_up(session, connection, RESUME, &request) {
            Err(CallError::Refused { error, .. }) if never_ran(&error.message) => {
                // A record of an older version knows no params.
                let none = serde_json::json!({});
                let params = Some(&session.thread_params).filter(|params| params.is_object());
                self.take_up(session, connection, "thread/start", params.unwrap_or(&none))
            }
            outcome => outcome,
        };
        let session = outcome.inspect_err(|error| {
            // An app-server that is gone says nothing about the thread: its next life is asked again.
            if !matches!(error, CallError::Unavailable { .. } | CallError::Hub(_)) {
                self.tell_recovery_failed(session, error);
            }
        })?;
        // A child that ended took its turns with it; an external app-server went on without us.
        if connection.pid().is_none() { self.catch_up(&session, connection) } else { Ok(session) }
    }

    /// Loads or replaces the session's thread and records it.
    fn take_up(
        &self,
        session: &Arc<Session>,
        connection: &Connection,
        method: &str,
        params: &impl Serialize,
    ) -> Result<Arc<Session>, CallError> {
        let (id, endpoint) = (session.session_id.clone(), self.config.server.endpoint.clone());
        let (pid, generation) = (connection.pid(), connection.generation());
        let record = move |core: &mut Core, drafts: &mut Drafts, result: &RawValue| {
            let answer: ThreadAnswer =
                serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
            let now = core.state().sessions.get(&id).ok_or("the session is gone")?;
            let mut session = Session::clone(now);
            if pid.is_none() && answer.thread.is_active() {
                catch_up::goes_on(&mut session);
            }
            let before = session.thread_id.replace(answer.thread.id);
            let replaced = before.filter(|before| session.thread_id.as_ref() != Some(before));
            // An older version put the working directory there.
            session.endpoint = endpoint;
            session.child_pid = pid;
            session.generation = Some(generation);
            session.last_error = None;
            session.updated_at = clock::now_iso();
            let session = Arc::new(session);
            draft_recovered(drafts, &session, replaced.as_deref());
            if let Some(thread) = &replaced {
                inbox::orphan_of_thread(core, drafts, thread, None);
            }
            Ok(session)
        };
        connection.call_in_order(&self.hub, method, params, self.client.timeout(), record)
    }

    fn tell_recovery_failed(&self, session: &Session, error: &CallError) {
        let (id, thread, error) = (session.session_id.clone(), session.thread_id.clone(), error.to_string());
        let told = self.hub.transact(move |_, drafts| {
            drafts.push(
                EventType::SessionRecoveryFailed,
                format_args!("Could not load the thread of session {id}: {}", model::preview(&error)),
                Some(&serde_json::json!({ "error": error, "sessionId": id, "threadId": thread })),
                Subject::session(&id, thread.as_deref()),
                Some(Change::SessionError { session_id: id.clone(), error: error.clone() }),
            );
        });
        if let Err(error) = told {
            warn!("session.recovery.failed could not be logged: {error}");
        }
    }
}

/// Sessions whose thread is being loaded by somebody: others wait for the outcome instead of loading it twice.
#[derive(Default)]
pub(super) struct BeingLoaded {
    ids: Mutex<HashSet<String>>,
    one_less: Condvar,
}

/// One session's thread is being loaded; the others that want it wait until this is dropped.
struct Loading<'a> {
    all: &'a BeingLoaded,
    id: &'a str,
}

impl BeingLoaded {
    /// Waits until nobody else loads that session's thread, but no longer than a call of its own would: of many, each would
    /// else have the deadline of all before it. Nothing is locked when this returns, so that only those wait
    /// for what is asked then that want the same session.
    fn claim<'a>(&'a self, id: &'a str, timeout: Duration) -> Result<Loading<'a>, CallError> {
        let began = Instant::now();
        let mut ids = lock(&self.ids);
        while ids.contains(id) {
            let left = timeout.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Err(CallError::Timeout { method: RESUME.to_owned(), after: timeout });
            }
            ids = threads::sound(self.one_less.wait_timeout(ids, left)).0;
        }
        ids.insert(id.to_owned());
        Ok(Loading { all: self, id })
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock(&self.all.ids).remove(self.id);
        self.all.one_less.notify_all();
    }
}

/// Keys of the configuration that a turn may have changed since. Codex knows them of the thread, and what is told beats that.
const KNOWN_OF_THE_THREAD: [&str; 5] =
    ["model", "model_reasoning_effort", "model_reasoning_summary", "personality", "service_tier"];

/// Of what the session was made with, that which Codex does not know of a thread that it loads again: the overrides of its
/// configuration, and the sandbox, which is the configuration's for it. A thread that it still has is not changed by this. Older
/// ones take the approval policy from there, too:
/// nobody is to be asked, or allowed, more than before.
fn settings(made_with: &serde_json::Value, codex: &Impression) -> Result<Params, OpError> {
    let mut params = Params::new();
    let forgets_approvals = codex.is_older_than(needs::RESTORES_APPROVAL_POLICY);
    if let Some(config) = made_with.get("config").and_then(serde_json::Value::as_object) {
        let known = |key: &str| match key {
            "approval_policy" => !forgets_approvals,
            _ => KNOWN_OF_THE_THREAD.contains(&key),
        };
        let rest: BTreeMap<_, _> = config.iter().filter(|(key, _)| !known(key)).collect();
        if !rest.is_empty() {
            params.insert("config", param(&rest)?);
        }
    }
    let forgotten: &[_] = if forgets_approvals { &["sandbox", "approvalPolicy"] } else { &["sandbox"] };
    for &name in forgotten {
        if let Some(value) = made_with.get(name) {
            params.insert(name, param(value)?);
        }
    }
    Ok(params)
}

/// Codex has nothing on disk of a thread that never ran a turn, nor of an ephemeral one. The protocol gives every
/// refusal the same code; only the text tells.
fn never_ran(message: &str) -> bool {
    message.contains("no rollout found")
}

fn draft_recovered(drafts: &mut Drafts, session: &Arc<Session>, replaced: Option<&str>) {
    let (id, thread) = (&session.session_id, session.thread_id.as_deref());
    let shown = thread.unwrap_or("none");
    let message = match replaced {
        None => format!("Loaded thread {shown} of session {id} again."),
        Some(old) => format!("Session {id} has a new thread {shown}: nothing was kept of thread {old}."),
    };
    let detail =
        RecoveredDetail { record: session, replaced_thread_id: replaced, session_id: id, thread_id: thread };
    drafts.push(
        EventType::SessionRecovered,
        format_args!("{message}"),
        Some(&detail),
        Subject::session(id, thread),
        Some(Change::Session(Arc::clone(session))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codex_is_told_what_it_does_not_know_of_a_thread() {
        let made_with = serde_json::json!({
            "approvalPolicy": "never", "sandbox": "read-only", "model": "m",
            "config": {"web_search": "live", "model": "m", "model_reasoning_effort": "low", "sandbox_mode": "read-only"},
        });
        let told = |user_agent| {
            let codex = Impression::default();
            codex.met(user_agent);
            serde_json::to_value(settings(&made_with, &codex).unwrap()).unwrap()
        };
        for older in ["codexd/0.120.0 (Debian)", "codexd/0.162.0-alpha.15 (Debian)"] {
            let config = serde_json::json!({"sandbox_mode": "read-only", "web_search": "live"});
            let all =
                serde_json::json!({"approvalPolicy": "never", "sandbox": "read-only", "config": config});
            assert_eq!(told(Some(older)), all, "{older}");
        }
        for other in [Some("codexd/0.163.0 (Debian)"), Some("codexd/1.0.0"), Some("strange"), None] {
            let config = serde_json::json!({"sandbox_mode": "read-only", "web_search": "live"});
            assert_eq!(
                told(other),
                serde_json::json!({"sandbox": "read-only", "config": config}),
                "{other:?}"
            );
        }
        let known = serde_json::json!({"model": "m", "config": {"model": "m"}});
        assert!(settings(&known, &Impression::default()).unwrap().is_empty());
        assert!(settings(&serde_json::Value::Null, &Impression::default()).unwrap().is_empty());
    }

    #[test]
    fn who_loads_a_session_is_waited_for_by_those_that_want_the_same_one_only() {
        const LONG: Duration = Duration::from_secs(60);
        let all = BeingLoaded::default();
        let (claimed, other) = bounded(2);
        std::thread::scope(|scope| {
            let first = all.claim("one", LONG);
            assert!(matches!(all.claim("one", Duration::ZERO), Err(CallError::Timeout { .. })));
            for id in ["two", "one"] {
                let (all, claimed) = (&all, claimed.clone());
                scope.spawn(move || {
                    let _mine = all.claim(id, LONG).unwrap();
                    claimed.send(id).unwrap();
                });
            }
            let next = || other.recv_timeout(LONG).unwrap();
            assert_eq!(next(), "two");
            assert!(other.is_empty());
            drop(first);
            assert_eq!(next(), "one");
        });
        assert!(lock(&all.ids).is_empty());
    }
}
