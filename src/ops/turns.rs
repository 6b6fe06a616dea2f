//! Turns: input for a session's thread, new or steering the one that runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::body::{Body, check_readable, wrong};
use super::fields::{self, Params, param};
use super::sessions::{closed, without_thread};
use super::{OpError, Ops};
use crate::app_server::call::CallError;
use crate::app_server::connection::Connection;
use crate::app_server::needs;
use crate::app_server::wire::INVALID_REQUEST;
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::{Change, sandbox_type};
use crate::hub::drafts::Drafts;
use crate::model::event::EventType;
use crate::model::record::{Session, SessionStatus};

/// A turn that the app-server has taken.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The session as it is now.
    pub session: Arc<Session>,
    /// The turn.
    pub turn_id: String,
    /// Whether the input went to a turn that was already running.
    pub steered: bool,
}

/// turn/start answers with the turn, turn/steer with its id.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TurnAnswer {
    #[serde(default)]
    turn: Option<TurnId>,
    #[serde(default)]
    turn_id: Option<String>,
}

/// A page of a thread's turns, the newest first.
#[derive(Deserialize)]
struct Turns {
    data: Vec<TurnId>,
}

/// How long input for a turn that has been accepted waits for its beginning, which comes within a tenth of a second
/// where all is well.
const BEGINNING: Duration = Duration::from_secs(5);

/// Input for the turn that runs.
const STEER: &str = "turn/steer";

#[derive(Deserialize)]
struct TurnId {
    id: String,
}

/// The turn that the app-server took the input for, and whether it was running already; or why it did not.
type Taken = Result<(String, bool), CallError>;

impl Ops {
    /// Starts a turn, or steers the one that `expectedTurnId` names.
    ///
    /// # Errors
    /// For a wrong field, an unknown or closed session, a steer of a turn that is not the running one, and when the
    /// app-server is away, refuses or is late.
    pub fn create_turn(&self, body: &Body) -> Result<Accepted, OpError> {
        let session_id = body.required_text("sessionId")?;
        let input = input(body)?;
        let expected = body.text("expectedTurnId")?;
        let mut params = fields::collect(fields::TURN, body)?;
        self.check_app_server("Turns")?;
        if expected.is_none() {
            self.check_taking_work()?;
        }
        let session = self.session(&session_id)?;
        if session.status == SessionStatus::Closed {
            return Err(closed(&session_id));
        }
        if session.thread_id.is_none() {
            return Err(without_thread(&session_id));
        }
        let steer = expected.is_some();
        let method = if steer { STEER } else { "turn/start" };
        if let Some(turn) = &expected {
            // A steer takes nothing but its input: what shapes a turn was settled when it began.
            params = Params::from([("expectedTurnId", param(turn)?)]);
        }
        params.insert("input", input);
        let connection = self.client.connect()?;
        let session = self.load_thread(&session_id, &connection)?;
        // Loading the thread may have taken long.
        if session.status == SessionStatus::Closed {
            return Err(closed(&session_id));
        }
        let joined = if steer { None } else { self.join_running(&session_id, &connection, &params)? };
        let mut outcome = match joined {
            Some(outcome) => outcome,
            None => self.send_turn(&session, &connection, method, &mut params)?,
        };
        if let (Err(CallError::Unavailable { .. }), false) = (&outcome, steer)
            && let Some((session, connection)) = self.not_taken(&session)
        {
            outcome = self.send_turn(&session, &connection, method, &mut params)?;
        }
        let (turn_id, steered) = outcome.map_err(|error| match (&error, &expected) {
            (CallError::Refused { error: refusal, .. }, Some(turn))
                if refusal.code == INVALID_REQUEST && not_running(&refusal.message) =>
            {
                OpError::Conflict(format!("Turn {turn} is not the running one: {}.", refusal.message))
            }
            _ => error.into(),
        })?;
        let session = self.session(&session_id)?;
        if session.status == SessionStatus::Closed && !steer {
            return Err(self.end_turn_of_closed(&session_id, &turn_id));
        }
        Ok(Accepted { session, turn_id, steered })
    }

    /// Input for a session whose turn runs steers that turn. `turn/start` would as well, but older versions of Codex answer
    /// it with the id of a turn that neither begins nor ends. `None` where `turn/start` has to do it: no turn runs, more
    /// than input is given, Codex knows no `turn/steer`, or it knows of no turn and goes on knowing of none.
    fn join_running(
        &self,
        id: &str,
        connection: &Connection,
        params: &Params,
    ) -> Result<Option<Taken>, OpError> {
        let (Some(input), 1) = (params.get("input"), params.len()) else { return Ok(None) };
        if !connection.impression().is_older_than(needs::NAMES_RUNNING_TURN) {
            return Ok(None);
        }
        let deadline = Instant::now() + BEGINNING.min(self.client.timeout());
        loop {
            let (session, watch) = self.watched_session(id)?;
            let Some(turn) = &session.current_turn_id else { return Ok(None) };
            let mut steer = Params::from([("expectedTurnId", param(turn)?), ("input", input.clone())]);
            match self.send_turn(&session, connection, STEER, &mut steer)? {
                // Accepted and not begun yet, or just over: the next event of the thread tells.
                Err(CallError::Refused { error, .. })
                    if error.code == INVALID_REQUEST
                        && not_running(&error.message)
                        && watch.wait_until(deadline) => {}
                Err(CallError::Refused { .. } | CallError::Unfit(_)) => return Ok(None),
                outcome => return Ok(Some(outcome)),
            }
        }
    }

    /// Sends the turn and records what was accepted: its id, and whether it was running already.
    fn send_turn(
        &self,
        session: &Session,
        connection: &Connection,
        method: &str,
        params: &mut Params,
    ) -> Result<Taken, OpError> {
        let (id, steer) = (session.session_id.clone(), method == STEER);
        let thread = session.thread_id.clone().ok_or_else(|| without_thread(&id))?;
        params.insert("threadId", param(&thread)?);
        let sandbox = params.get("sandboxPolicy").cloned();
        let record = move |core: &mut Core, drafts: &mut Drafts, result: &RawValue| {
            let answer: TurnAnswer = serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
            let turn_id =
                answer.turn.map(|turn| turn.id).or(answer.turn_id).ok_or("it names no turn".to_owned())?;
            let running = core
                .state()
                .sessions
                .get(&id)
                .is_some_and(|session| session.current_turn_id.as_deref() == Some(turn_id.as_str()));
            draft_accepted(drafts, &id, &thread, &turn_id, steer, sandbox.as_deref());
            Ok((turn_id, running || steer))
        };
        Ok(connection.call_in_order(&self.hub, method, params, self.client.timeout(), record))
    }

    /// A turn was on its way when the app-server died. Where its next life knows of no turn since the last one known
    /// here, the turn was never taken and can be sent again without running twice: the session and the life to send it
    /// to. `None` leaves the decision to the client.
    fn not_taken(&self, before: &Session) -> Option<(Arc<Session>, Arc<Connection>)> {
        let connection = self.client.connect().ok()?;
        let session = self.load_thread(&before.session_id, &connection).ok()?;
        if session.thread_id == before.thread_id {
            let params =
                serde_json::json!({ "threadId": session.thread_id, "limit": 1, "itemsView": "notLoaded" });
            let answer = self.client.call(&connection, "thread/turns/list", &params).ok()?;
            let turns: Turns = serde_json::from_str(answer.get()).ok()?;
            if turns.data.first().map(|turn| turn.id.as_str()) != before.last_turn_id.as_deref() {
                return None;
            }
        }
        Some((session, connection))
    }
}

/// Codex gives every refusal the same code; these texts say that there was nothing to steer or interrupt.
pub(super) fn not_running(message: &str) -> bool {
    message.starts_with("expected active turn id") || message.starts_with("no active turn")
}

fn draft_accepted(
    drafts: &mut Drafts,
    session_id: &str,
    thread: &str,
    turn_id: &str,
    steered: bool,
    sandbox: Option<&RawValue>,
) {
    let mut detail = serde_json::json!({ "sessionId": session_id, "threadId": thread, "turnId": turn_id });
    if steered {
        detail["steered"] = true.into();
    }
    if let Some(sandbox) = sandbox {
        detail["sandboxPolicy"] = serde_json::json!(sandbox);
    }
    drafts.push(
        EventType::TurnAccepted,
        format_args!("Accepted turn {turn_id} for session {session_id}."),
        Some(&detail),
        Subject::session(session_id, Some(thread)),
        Some(Change::TurnAccepted {
            session_id: session_id.to_owned(),
            turn_id: turn_id.to_owned(),
            steered,
            sandbox: sandbox.map(sandbox_type),
        }),
    );
}

/// `input`, or `prompt` where that is absent or blank: text, or the app-server's own input items.
fn input(body: &Body) -> Result<Box<RawValue>, OpError> {
    const RIGHT: &str = "a non-empty string or a non-empty array of input items";
    let given = || ["input", "prompt"].into_iter().filter_map(|name| Some((name, body.raw(name)?)));
    let is_blank =
        |name: &str, raw: &RawValue| raw.get().starts_with('"') && matches!(body.text(name), Ok(None));
    let first = given().find(|(name, raw)| !is_blank(name, raw)).or_else(|| given().next());
    let Some((name, raw)) = first else {
        return Err(OpError::BadRequest(format!("`input` (or `prompt`) is required: {RIGHT}.")));
    };
    match raw.get().as_bytes().first() {
        Some(b'"') => {
            let text = body.text(name)?.ok_or_else(|| wrong(name, RIGHT))?;
            param(&[serde_json::json!({ "type": "text", "text": text, "text_elements": [] })])
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| wrong(name, RIGHT))?;
            if items.is_empty() || items.iter().any(|item| !item.get().starts_with('{')) {
                return Err(wrong(name, "a non-empty array of objects, each an app-server input item"));
            }
            check_readable(name, raw)?;
            Ok(raw.to_owned())
        }
        _ => Err(wrong(name, RIGHT)),
    }
}
