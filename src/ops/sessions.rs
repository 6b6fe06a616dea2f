//! Sessions: one thread of the app-server each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::body::Body;
use super::fields::{self, Params, param};
use super::idempotency::Key;
use super::query::Query;
use super::{OpError, Ops};
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::EventType;
use crate::model::record::{Extra, RequestPolicy, Session, SessionPurpose, SessionStatus};
use crate::model::view::EventList;
use crate::{clock, ids, model};

/// A session, and whether it is new.
#[derive(Debug, Clone)]
pub struct Created {
    /// The session.
    pub session: Arc<Session>,
    /// False when an active session already held the thread.
    pub new: bool,
}

/// A session with what has happened to it lately.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionWithEvents {
    /// The session.
    pub session: Arc<Session>,
    /// Cached events that name the session or its thread.
    pub recent_events: EventList,
}

/// The part of thread/start's and thread/resume's answer that a session keeps.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ThreadAnswer {
    pub(super) thread: ThreadId,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    model_provider: Option<String>,
    #[serde(default)]
    service_tier: Option<String>,
    #[serde(default)]
    reasoning_effort: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ThreadId {
    pub(super) id: String,
    /// An object with a type; in older versions a name.
    #[serde(default)]
    status: serde_json::Value,
}

impl ThreadId {
    /// Whether a turn runs in it.
    pub(super) fn is_active(&self) -> bool {
        self.status["type"] == "active" || self.status == "active"
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionDetail<'a> {
    purpose: SessionPurpose,
    record: &'a Session,
    session_id: &'a str,
    thread_id: Option<&'a str>,
}

impl Ops {
    /// The sessions that fit `status`, `purpose`, `limit` and `after`, in order of creation.
    ///
    /// # Errors
    /// For a wrong parameter.
    pub fn sessions(&self, query: &Query<'_>) -> Result<Vec<Arc<Session>>, OpError> {
        let status = query.one_of("status", SessionStatus::ALL)?;
        let purpose = query.one_of("purpose", SessionPurpose::ALL)?;
        let page = query.page()?;
        let all = self.hub.ask(|core| core.state().sessions.all().to_vec())?;
        page.take(
            &all,
            |session| &session.session_id,
            |session| {
                status.is_none_or(|status| session.status == status)
                    && purpose.is_none_or(|purpose| session.purpose == purpose)
            },
        )
    }

    /// One session.
    ///
    /// # Errors
    /// [`OpError::NotFound`].
    pub fn session(&self, id: &str) -> Result<Arc<Session>, OpError> {
        let wanted = id.to_owned();
        self.hub
            .ask(move |core| core.state().sessions.get(&wanted).cloned())?
            .ok_or_else(|| unknown_session(id))
    }

    /// One session and the cached events about it.
    ///
    /// # Errors
    /// [`OpError::NotFound`].
    pub fn session_with_events(&self, id: &str) -> Result<SessionWithEvents, OpError> {
        let wanted = id.to_owned();
        let found = self.hub.ask(move |core| {
            let session = core.state().sessions.get(&wanted).cloned()?;
            let (recent, _) = core.recent();
            let events: Vec<Arc<str>> = recent
                .filter(|event| {
                    event.subject.session.as_deref() == Some(&session.session_id)
                        || (event.subject.thread.is_some()
                            && event.subject.thread.as_deref() == session.thread_id.as_deref())
                })
                .map(|event| Arc::clone(&event.json))
                .collect();
            Some((session, events))
        })?;
        let (session, events) = found.ok_or_else(|| unknown_session(id))?;
        Ok(SessionWithEvents { session, recent_events: EventList::new(events) })
    }

    /// Starts a thread, or resumes the one that `threadId` names, and records a session on it.
    ///
    /// # Errors
    /// For a wrong field, a key that named another body, in exec mode, and when the app-server is away, refuses or is
    /// late.
    pub fn create_session(&self, body: &Body, key: Option<Key>) -> Result<Created, OpError> {
        let purpose = body.one_of("purpose", SessionPurpose::ALL)?.unwrap_or(SessionPurpose::Duplex);
        let thread_id = body.text("threadId")?;
        let metadata = body.metadata()?;
        let request_policy = body.one_of("requestPolicy", RequestPolicy::ALL)?;
        let request_timeout_ms = body.number("requestTimeoutMs", 0)?;
        let params = fields::collect(fields::THREAD, body)?;
        self.check_app_server("Sessions")?;
        if let Some(key) = key.clone()
            && let Some(session) = self.hub.ask(move |core| known(core, &key))??
        {
            return Ok(Created { session, new: false });
        }
        if let Some(thread) = &thread_id
            && let Some(session) = self.active_session_of(thread)?
        {
            return Ok(Created { session, new: false });
        }
        self.check_taking_work()?;
        let connection = self.client.connect()?;
        let (method, request) = match &thread_id {
            None => ("thread/start", params.clone()),
            Some(thread) => ("thread/resume", resume_params(thread, &params)?),
        };
        let resumed = thread_id.is_some();
        let thread_params =
            serde_json::to_value(&params).map_err(|error| OpError::Internal(error.to_string()))?;
        let (endpoint, pid, generation) =
            (self.config.server.endpoint.clone(), connection.pid(), connection.generation());
        let record = move |core: &mut Core, drafts: &mut Drafts, result: &RawValue| {
            let answer: ThreadAnswer =
                serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
            // Two at once with one key: the thread of the second stays without a session, whatever its body was.
            match key.as_ref().map_or(Ok(None), |key| known(core, key)) {
                Ok(None) => {}
                Ok(Some(session)) => return Ok(Ok(Created { session, new: false })),
                Err(mismatch) => return Ok(Err(mismatch)),
            }
            if let Some(session) = core.state().active_session_of_thread(&answer.thread.id) {
                return Ok(Ok(Created { session: Arc::clone(session), new: false }));
            }
            let session = Arc::new(Session {
                thread_id: Some(answer.thread.id),
                cwd: answer.cwd,
                model: answer.model,
                model_provider: answer.model_provider,
                service_tier: answer.service_tier,
                reasoning_effort: answer.reasoning_effort,
                metadata,
                generation: Some(generation),
                thread_params,
                request_policy,
                request_timeout_ms,
                idempotency: key.map(Key::record),
                ..without_a_thread(purpose, endpoint, pid)
            });
            draft_created(drafts, &session, resumed);
            Ok(Ok(Created { session, new: true }))
        };
        connection.call_in_order(&self.hub, method, &request, self.client.timeout(), record)?
    }

    fn active_session_of(&self, thread: &str) -> Result<Option<Arc<Session>>, OpError> {
        let thread = thread.to_owned();
        Ok(self.hub.ask(move |core| core.state().active_session_of_thread(&thread).cloned())?)
    }

    /// Records a session without a thread; the smoke test does.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn register_session(&self, purpose: SessionPurpose) -> Result<Arc<Session>, OpError> {
        let endpoint = self.config.server.endpoint.clone();
        Ok(self.hub.transact(move |core, drafts| {
            let session = Arc::new(Session {
                metadata: [("source".to_owned(), "embedded-smoke".to_owned())].into(),
                ..without_a_thread(purpose, endpoint, core.state().daemon.child.pid)
            });
            let detail = serde_json::json!({
                "record": &*session, "sessionId": session.session_id, "threadId": null,
            });
            drafts.push(
                EventType::SessionRegistered,
                format_args!("Registered smoke session {}.", session.session_id),
                Some(&detail),
                Subject::session(&session.session_id, None),
                Some(Change::Session(Arc::clone(&session))),
            );
            session
        })?)
    }
}

/// A new session.
fn without_a_thread(purpose: SessionPurpose, endpoint: String, child_pid: Option<u32>) -> Session {
    let now = clock::now_iso();
    Session {
        session_id: ids::record_id("session"),
        purpose,
        thread_id: None,
        status: SessionStatus::Active,
        endpoint,
        child_pid,
        created_at: now.clone(),
        updated_at: now,
        cwd: None,
        model: None,
        model_provider: None,
        service_tier: None,
        reasoning_effort: None,
        current_turn_id: None,
        last_turn_id: None,
        last_turn_status: None,
        metadata: BTreeMap::new(),
        generation: None,
        last_error: None,
        thread_params: serde_json::Value::Null,
        request_policy: None,
        request_timeout_ms: None,
        idempotency: None,
        extra: Extra::new(),
    }
}

/// The session that this key named before, if any.
fn known(core: &Core, key: &Key) -> Result<Option<Arc<Session>>, OpError> {
    key.made(core.state().sessions.by_key(key.name()))
}

/// Without `excludeTurns` the answer would hold the thread's whole history.
pub(super) fn resume_params(thread: &str, params: &Params) -> Result<Params, OpError> {
    let mut params = params.clone();
    for field in fields::THREAD.iter().filter(|field| field.only_new) {
        params.remove(field.name);
    }
    params.insert("threadId", param(&thread)?);
    params.insert("excludeTurns", param(&true)?);
    Ok(params)
}

fn draft_created(drafts: &mut Drafts, session: &Arc<Session>, resumed: bool) {
    let (kind, verb) =
        if resumed { (EventType::SessionResumed, "Resumed") } else { (EventType::SessionCreated, "Created") };
    let (id, thread) = (&session.session_id, session.thread_id.as_deref());
    drafts.push(
        kind,
        format_args!("{verb} session {id} for thread {}.", thread.unwrap_or("none")),
        Some(&SessionDetail { purpose: session.purpose, record: session, session_id: id, thread_id: thread }),
        Subject::session(id, thread),
        Some(Change::Session(Arc::clone(session))),
    );
}

pub(super) fn unknown_session(id: &str) -> OpError {
    OpError::NotFound(format!("Unknown session {}.", model::preview(id)))
}

pub(super) fn closed(id: &str) -> OpError {
    OpError::Conflict(format!("Session {id} is closed."))
}

pub(super) fn without_thread(id: &str) -> OpError {
    OpError::Conflict(format!("Session {id} has no app-server thread."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_asks_for_no_turns_and_for_nothing_that_only_a_new_thread_takes() {
        let params = Params::from([("ephemeral", param(&true).unwrap()), ("model", param(&"m").unwrap())]);
        let resumed = serde_json::to_value(resume_params("t", &params).unwrap()).unwrap();
        assert_eq!(resumed, serde_json::json!({"excludeTurns": true, "model": "m", "threadId": "t"}));
    }
}
