//! What an external app-server did while nobody here was connected: turns run on without us, and nobody tells their end
//! a second time. So it is asked for.

use std::sync::Arc;

use log::warn;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{OpError, Ops};
use crate::app_server::connection::Connection;
use crate::app_server::inbox;
use crate::app_server::notification::translate;
use crate::hub::Core;
use crate::hub::drafts::Drafts;
use crate::model::record::Session;

/// The status of a turn that has not ended.
const IN_PROGRESS: &str = "inProgress";
/// What a turn counts as whose connection was cut.
const CUT_OFF: &str = "failed";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListTurns<'a> {
    thread_id: &'a str,
    limit: u32,
    sort_direction: &'a str,
}

#[derive(Deserialize)]
struct Turns {
    data: Vec<Turn>,
}

#[derive(Serialize, Deserialize)]
struct Turn {
    id: String,
    status: String,
}

/// The params of `turn/started` and `turn/completed`, as far as they matter.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnParams<'a> {
    thread_id: &'a str,
    turn: &'a Turn,
}

/// Whether the session's last turn may have gone on, or ended, without us.
fn was_cut_off(session: &Session) -> bool {
    session.last_turn_id.is_some()
        && matches!(session.last_turn_status.as_deref(), Some(CUT_OFF | IN_PROGRESS))
}

/// The thread was loaded again and is at work: the turn that was cut off goes on.
pub(super) fn goes_on(session: &mut Session) {
    if session.current_turn_id.is_none() && was_cut_off(session) {
        session.current_turn_id.clone_from(&session.last_turn_id);
        session.last_turn_status = Some(IN_PROGRESS.to_owned());
    }
}

impl Ops {
    /// Tells how the session's last turn stands, if it was cut off. What comes of a later turn, or an app-server that
    /// does not know the question, is no reason not to use the thread.
    pub(super) fn catch_up(
        &self,
        session: &Arc<Session>,
        connection: &Connection,
    ) -> Result<Arc<Session>, OpError> {
        let Some(thread) = session.thread_id.clone().filter(|_| was_cut_off(session)) else {
            return Ok(Arc::clone(session));
        };
        let params = ListTurns { thread_id: &thread, limit: 1, sort_direction: "desc" };
        let (id, of_thread) = (session.session_id.clone(), thread.clone());
        let record = move |core: &mut Core, drafts: &mut Drafts, result: &RawValue| {
            let turns: Turns = serde_json::from_str(result.get()).map_err(|error| error.to_string())?;
            let (Some(turn), Some(session)) = (turns.data.first(), core.state().sessions.get(&id)) else {
                return Ok(());
            };
            draft(drafts, session, &of_thread, turn).map_err(|error| error.to_string())?;
            if turn.status != IN_PROGRESS {
                // What it asked it asks no more, even if the app-server that asked has been started again since.
                inbox::cancel_of_turn(core, drafts, &of_thread, &turn.id);
            }
            Ok(())
        };
        let asked =
            connection.call_in_order(&self.hub, "thread/turns/list", &params, self.client.timeout(), record);
        if let Err(error) = asked {
            warn!("how the last turn of session {} stands is not known: {error}", session.session_id);
        }
        self.session(&session.session_id)
    }
}

/// The turn as the app-server has it against the turn as the log has it; what was told meanwhile is not told again.
fn draft(drafts: &mut Drafts, session: &Session, thread_id: &str, turn: &Turn) -> serde_json::Result<()> {
    let same = session.last_turn_id.as_deref() == Some(turn.id.as_str());
    let method = match (same, turn.status.as_str()) {
        // One that began while nobody listened.
        (false, IN_PROGRESS) => "turn/started",
        (true, status) if status != IN_PROGRESS && was_cut_off(session) => {
            if session.current_turn_id.is_none() && status == CUT_OFF {
                return Ok(());
            }
            "turn/completed"
        }
        _ => return Ok(()),
    };
    let params = serde_json::value::to_raw_value(&TurnParams { thread_id, turn })?;
    translate(drafts, method, &params);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(current: Option<&str>, last: Option<&str>, status: Option<&str>) -> Session {
        serde_json::from_value(serde_json::json!({
            "sessionId": "s", "purpose": "duplex", "threadId": "t", "status": "active", "endpoint": "ws://h",
            "childPid": null, "createdAt": "", "updatedAt": "", "cwd": null, "model": null, "modelProvider": null,
            "serviceTier": null, "reasoningEffort": null, "currentTurnId": current, "lastTurnId": last,
            "lastTurnStatus": status, "metadata": {},
        }))
        .unwrap()
    }

    fn told(session: &Session, id: &str, status: &str) -> Option<String> {
        let mut drafts = Drafts::new();
        draft(&mut drafts, session, "t", &Turn { id: id.to_owned(), status: status.to_owned() }).unwrap();
        let (_, _, items) = drafts.into_parts();
        assert!(items.len() < 2);
        items.first().map(|item| item.kind.name().to_owned())
    }

    #[test]
    fn what_happened_without_us_is_told_once() {
        let ended = Some("app-server.turn.completed".to_owned());
        let began = Some("app-server.turn.started".to_owned());
        let cut = session(None, Some("a"), Some("failed"));
        assert_eq!(told(&cut, "a", "completed"), ended);
        assert_eq!(told(&cut, "a", "interrupted"), ended);
        assert_eq!(told(&cut, "a", "failed"), None);
        assert_eq!(told(&cut, "b", "inProgress"), began);
        assert_eq!(told(&cut, "b", "completed"), None);
        let mut going_on = cut.clone();
        goes_on(&mut going_on);
        assert_eq!(going_on.current_turn_id.as_deref(), Some("a"));
        assert_eq!(told(&going_on, "a", "inProgress"), None);
        assert_eq!(told(&going_on, "a", "completed"), ended);
        assert_eq!(told(&going_on, "a", "failed"), ended);
        // Its end came between the question and the answer.
        let ended_since = session(None, Some("a"), Some("completed"));
        assert_eq!(told(&ended_since, "a", "inProgress"), None);
        assert_eq!(told(&ended_since, "a", "completed"), None);
    }

    #[test]
    fn a_turn_that_ended_does_not_go_on() {
        for mut session in [
            session(None, Some("a"), Some("completed")),
            session(None, None, None),
            session(None, None, Some("failed")),
        ] {
            goes_on(&mut session);
            assert_eq!(session.current_turn_id, None);
        }
    }
}
