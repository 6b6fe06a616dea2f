//! A session's thread, loaded into a life of the app-server that does not have it.

use std::sync::Arc;

use log::warn;
use serde::Serialize;
use serde_json::value::RawValue;

use super::fields::Params;
use super::sessions::{ThreadAnswer, resume_params, without_thread};
use super::{OpError, Ops, catch_up};
use crate::app_server::connection::{CallError, Connection};
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::EventType;
use crate::model::record::Session;
use crate::threads::lock;
use crate::{clock, model};

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
    /// When the app-server refuses; the session stays active, its lastError says why.
    pub(super) fn load_thread(&self, id: &str, connection: &Connection) -> Result<Arc<Session>, OpError> {
        let mut loading = lock(&self.loading);
        while loading.contains(id) {
            loading = match self.loaded.wait(loading) {
                Ok(loading) => loading,
                Err(_) => crate::threads::end_the_daemon("a lock was poisoned by a panic"),
            };
        }
        let session = self.session(id)?;
        if session.generation == Some(connection.generation()) {
            return Ok(session);
        }
        loading.insert(id.to_owned());
        drop(loading);
        let _mine = Loading { ops: self, id };
        self.resume_thread(&session, connection)
    }

    fn resume_thread(
        &self,
        session: &Arc<Session>,
        connection: &Connection,
    ) -> Result<Arc<Session>, OpError> {
        let thread = session.thread_id.as_deref().ok_or_else(|| without_thread(&session.session_id))?;
        let request = resume_params(thread, &Params::new())?;
        let outcome = match self.take_up(session, connection, "thread/resume", &request) {
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
        let (id, pid, generation) = (session.session_id.clone(), connection.pid(), connection.generation());
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
            session.child_pid = pid;
            session.generation = Some(generation);
            session.last_error = None;
            session.updated_at = clock::now_iso();
            let session = Arc::new(session);
            draft_recovered(drafts, &session, replaced.as_deref());
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

/// One session's thread is being loaded; the others that want it wait until this is dropped.
struct Loading<'a> {
    ops: &'a Ops,
    id: &'a str,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock(&self.ops.loading).remove(self.id);
        self.ops.loaded.notify_all();
    }
}

/// Codex has nothing on disk of a thread that never ran a turn, nor of an ephemeral one. The protocol gives every
/// refusal the same code; only the text tells.
fn never_ran(message: &str) -> bool {
    message.contains("no rollout found")
}

fn draft_recovered(drafts: &mut Drafts, session: &Arc<Session>, replaced: Option<&str>) {
    let (id, thread) = (&session.session_id, session.thread_id.as_deref());
    let shown = thread.unwrap_or("none");
    let detail =
        RecoveredDetail { record: session, replaced_thread_id: replaced, session_id: id, thread_id: thread };
    let subject = Subject::session(id, thread);
    let change = Some(Change::Session(Arc::clone(session)));
    match replaced {
        None => drafts.push(
            EventType::SessionRecovered,
            format_args!("Loaded thread {shown} of session {id} again."),
            Some(&detail),
            subject,
            change,
        ),
        Some(old) => drafts.push(
            EventType::SessionRecovered,
            format_args!("Session {id} has a new thread {shown}: nothing was kept of thread {old}."),
            Some(&detail),
            subject,
            change,
        ),
    }
}
