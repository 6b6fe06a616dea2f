//! Ending what runs: a turn's interrupt, a session's close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::warn;
use serde::Serialize;

use super::body::Body;
use super::sessions::{closed, unknown_session, without_thread};
use super::turns::not_running;
use super::{OpError, Ops};
use crate::app_server::call::CallError;
use crate::app_server::inbox;
use crate::app_server::wire::INVALID_REQUEST;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::watch::TurnWatch;
use crate::model;
use crate::model::event::EventType;
use crate::model::record::{Session, SessionStatus};

/// How long a close waits for the turn it has interrupted.
const TURN_END: Duration = Duration::from_secs(5);

/// A turn that is being interrupted.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interrupted {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// The turn.
    pub turn_id: String,
}

impl Ops {
    /// Interrupts the running turn; with `turnId` only if that is the one. Called between the acceptance of a turn
    /// and its beginning, when the app-server would refuse, it waits for the beginning.
    ///
    /// # Errors
    /// [`OpError::Conflict`] when no turn runs or another one does.
    pub fn interrupt_turn(&self, id: &str, body: &Body) -> Result<Interrupted, OpError> {
        let wanted = body.text("turnId")?;
        self.check_app_server("Turns")?;
        let turn_id = self.interrupt(id, wanted.as_deref(), Instant::now() + self.client.timeout())?;
        Ok(Interrupted { session: self.session(id)?, turn_id })
    }

    /// Interrupts and returns the turn as soon as the app-server has agreed.
    fn interrupt(&self, id: &str, wanted: Option<&str>, deadline: Instant) -> Result<String, OpError> {
        loop {
            let (session, watch) = self.watched_session(id)?;
            let turn = running_turn(&session, wanted)?;
            let thread = session.thread_id.as_deref().ok_or_else(|| without_thread(id))?;
            let connection = self.client.connect()?;
            let params = serde_json::json!({ "threadId": thread, "turnId": turn });
            let left = deadline.saturating_duration_since(Instant::now());
            match connection.call("turn/interrupt", &params, left) {
                Ok(_) => return Ok(turn),
                Err(CallError::Refused { error, .. })
                    if error.code == INVALID_REQUEST && not_running(&error.message) =>
                {
                    // Not begun yet, or just over, or (before Codex 0.169) the last one still counts as active: the
                    // next event of the thread tells.
                    if !watch.wait_until(deadline) {
                        return Err(OpError::Timeout(format!("Turn {turn} has not begun in time.")));
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A session, and a wait for the next beginning or end of a turn in its thread. They come together: what happens after
    /// the look at the session is not missed.
    pub(super) fn watched_session(&self, id: &str) -> Result<(Arc<Session>, TurnWatch), OpError> {
        let wanted = id.to_owned();
        let found = self.hub.ask(move |core| {
            let session = core.state().sessions.get(&wanted).cloned()?;
            let watch = core.watch_turns(session.thread_id.as_deref().unwrap_or_default());
            Some((session, watch))
        })?;
        found.ok_or_else(|| unknown_session(id))
    }

    /// Closes a session, its running turn interrupted first; one that is closed stays as it is.
    ///
    /// # Errors
    /// [`OpError::NotFound`], or when it cannot be recorded. That the app-server is away or refuses the interrupt
    /// keeps nobody from closing a session.
    pub fn close_session(&self, id: &str) -> Result<Arc<Session>, OpError> {
        let deadline = Instant::now() + TURN_END;
        loop {
            let last_try = !self.end_turn(id, deadline)?;
            let (wanted, connection) = (id.to_owned(), self.client.present());
            let closed = self.hub.transact(move |core, drafts| {
                let session = core.state().sessions.get(&wanted)?;
                if session.status == SessionStatus::Closed {
                    return Some(true);
                }
                // Another client's turn may have come in between; it is ended too.
                if session.current_turn_id.is_some() && !last_try {
                    return Some(false);
                }
                drafts.push(
                    EventType::SessionClosed,
                    format_args!("Closed session {wanted}."),
                    Some(&serde_json::json!({ "sessionId": wanted, "threadId": session.thread_id })),
                    Subject::session(&wanted, session.thread_id.as_deref()),
                    Some(Change::SessionClosed { session_id: wanted.clone() }),
                );
                if let Some(thread) = &session.thread_id {
                    let present = connection.as_ref().filter(|connection| connection.closed().is_none());
                    let present = present.map(|connection| connection.generation());
                    inbox::orphan_of_thread(core, drafts, thread, present);
                }
                Some(true)
            })?;
            if closed.ok_or_else(|| unknown_session(id))? {
                return self.session(id);
            }
        }
    }

    /// Interrupts the session's turn, if one runs, and waits for its end; whether there is hope of a better outcome.
    fn end_turn(&self, id: &str, deadline: Instant) -> Result<bool, OpError> {
        let session = self.session(id)?;
        if session.status == SessionStatus::Closed || session.current_turn_id.is_none() {
            return Ok(true);
        }
        match self.interrupt(id, None, deadline) {
            Ok(turn) => self.wait_for_end(id, &turn, deadline),
            // It ended by itself meanwhile, or another one runs.
            Err(OpError::Conflict(_)) => Ok(self.session(id)?.current_turn_id != session.current_turn_id),
            Err(error @ (OpError::NotFound(_) | OpError::Internal(_))) => Err(error),
            Err(error) => {
                warn!("session {id} is closed although its turn could not be interrupted: {error}");
                Ok(false)
            }
        }
    }

    /// A turn was on its way while its session was closed: what nobody looks after any more does not run. The answer to
    /// who asked for it.
    pub(super) fn end_turn_of_closed(&self, id: &str, turn: &str) -> OpError {
        match self.interrupt(id, Some(turn), Instant::now() + TURN_END) {
            // It has ended already, or the close has ended it.
            Ok(_) | Err(OpError::Conflict(_)) => closed(id),
            Err(error) => {
                warn!("turn {turn} goes on in the closed session {id}: {error}");
                error
            }
        }
    }

    fn wait_for_end(&self, id: &str, turn: &str, deadline: Instant) -> Result<bool, OpError> {
        loop {
            let wanted = id.to_owned();
            let (current, watch) = self.hub.ask(move |core| {
                let session = core.state().sessions.get(&wanted).cloned();
                let thread = session.as_ref().and_then(|session| session.thread_id.as_deref());
                let watch = core.watch_turns(thread.unwrap_or_default());
                (session.and_then(|session| session.current_turn_id.clone()), watch)
            })?;
            if current.as_deref() != Some(turn) {
                return Ok(true);
            }
            if !watch.wait_until(deadline) {
                warn!("session {id} is closed although its turn {turn} has not ended yet");
                return Ok(false);
            }
        }
    }
}

/// The session's running turn, if it is the one that is wanted.
fn running_turn(session: &Session, wanted: Option<&str>) -> Result<String, OpError> {
    let id = &session.session_id;
    let conflict = |text: String| Err(OpError::Conflict(text));
    match (&session.current_turn_id, wanted) {
        (Some(turn), Some(wanted)) if turn != wanted => conflict(format!(
            "Turn {} is not the running one of session {id}: that is {turn}.",
            model::preview(wanted)
        )),
        (Some(turn), _) => Ok(turn.clone()),
        (None, _) if session.status == SessionStatus::Closed => Err(closed(id)),
        (None, _) => conflict(format!("No turn runs in session {id}.")),
    }
}
