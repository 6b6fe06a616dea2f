//! What is told when a life of the child is over, as one transaction in the child's own order.

use serde::Serialize;

use super::Parts;
use super::life::Ending;
use crate::app_server::inbox;
use crate::app_server::reader::End;
use crate::clock;
use crate::hub::Core;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::{EventType, Level};
use crate::model::record::{ChildStatus, Session};
use crate::threads::answer::answer;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TransportClosed<'a> {
    exit_code: Option<i32>,
    flushed_trailing_message: bool,
    signal: Option<&'a str>,
    source: &'a str,
    trailing_message_length: usize,
}

/// The fate of a turn that was in flight.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TurnMissing<'a> {
    child_exit_code: Option<i32>,
    child_pid: Option<u32>,
    child_signal: Option<&'a str>,
    child_status: ChildStatus,
    failure_class: &'static str,
    flushed_trailing_message: bool,
    session_id: &'a str,
    thread_id: Option<&'a str>,
    trailing_message_length: usize,
    transport_close_message: &'a str,
    transport_close_source: &'a str,
    turn_id: &'a str,
    turn_status_at_close: Option<&'a str>,
}

/// What cut the turns off, as much of it as is known.
struct Cut<'a> {
    end: &'a End,
    exit_code: Option<i32>,
    signal: Option<&'a str>,
    status: ChildStatus,
}

impl Cut<'_> {
    /// That the connection is closed, and which turns that cut off; `pid`: of the process that ran them.
    fn draft(&self, core: &Core, drafts: &mut Drafts, pid: Option<u32>) {
        drafts.note(
            EventType::TransportClosed,
            format_args!("App-server transport closed: {}.", self.end.message),
            &TransportClosed {
                exit_code: self.exit_code,
                flushed_trailing_message: self.end.flushed_trailing_message,
                signal: self.signal,
                source: self.end.source,
                trailing_message_length: self.end.trailing_message_length,
            },
        );
        self.draft_turns(core, drafts, |_| pid);
    }

    fn draft_turns(&self, core: &Core, drafts: &mut Drafts, pid: impl Fn(&Session) -> Option<u32>) {
        for session in core.state().sessions.all() {
            let Some(turn_id) = session.current_turn_id.as_deref() else { continue };
            drafts.push(
                EventType::TurnMissing,
                format_args!("App-server transport closed before turn {turn_id} completed."),
                Some(&TurnMissing {
                    child_exit_code: self.exit_code,
                    child_pid: pid(session),
                    child_signal: self.signal,
                    child_status: self.status,
                    failure_class: "transport_closed_before_turn_completed",
                    flushed_trailing_message: self.end.flushed_trailing_message,
                    session_id: &session.session_id,
                    thread_id: session.thread_id.as_deref(),
                    trailing_message_length: self.end.trailing_message_length,
                    transport_close_message: &self.end.message,
                    transport_close_source: self.end.source,
                    turn_id,
                    turn_status_at_close: session.last_turn_status.as_deref(),
                }),
                Subject::session(&session.session_id, session.thread_id.as_deref()),
                Some(Change::TurnMissing { session_id: session.session_id.clone() }),
            );
        }
    }
}

/// Logs the end. `asked`: codexd itself ended it, which is no transport failure.
pub(super) fn tell(parts: &Parts, ending: Ending, asked: bool) {
    log(parts, move |core, drafts| draft(core, drafts, &ending, asked));
}

/// Logs that the connection to an external app-server was lost.
pub(super) fn tell_lost(parts: &Parts, end: End, used: bool) {
    log(parts, move |core, drafts| draft_lost(core, drafts, &end, used));
}

/// In the child's own order, and back once it is in the log: only then the next life begins, a new connection brings the
/// turns' end, or the daemon stops.
fn log(parts: &Parts, draft: impl FnOnce(&mut Core, &mut Drafts) + Send + 'static) {
    let (done, told) = answer();
    let sent = parts.hub.transact_in_order(0, draft, move |_| done.give(()));
    // A stopped hub has said why.
    if sent.is_ok() {
        told.get();
    }
}

fn draft(core: &mut Core, drafts: &mut Drafts, ending: &Ending, asked: bool) {
    let exit = &ending.exit;
    let signal = exit.signal.as_deref();
    // A signal of codexd's own is no failure of the child's; what made codexd send it is told in child.error.
    let well = asked || exit.code == Some(0) || (ending.given_up.is_some() && exit.code.is_none());
    let status = if well { ChildStatus::Stopped } else { ChildStatus::Failed };
    let given_up = ending.given_up.as_deref();
    let problem = match (given_up, exit.code, signal) {
        (Some(reason), _, _) => Some(format!("The child was given up: {reason}.")),
        (None, _, _) if well => None,
        (None, Some(code), _) => Some(format!("The child exited with code {code}.")),
        (None, None, Some(signal)) => Some(format!("The child was ended by {signal}.")),
        (None, None, None) => Some("The child ended.".to_owned()),
    };
    // What it was given up for says as much.
    let unasked = !asked && given_up.is_none();
    let problem = match (problem, ending.stillborn.as_ref().filter(|_| unasked)) {
        (Some(problem), Some(stillborn)) => Some(format!("{problem} {stillborn}.")),
        (None, Some(stillborn)) => Some(format!("The child ended with code 0. {stillborn}.")),
        (problem, None) => problem,
    };
    core.update_child(|child| {
        child.status = status;
        child.pid = None;
        child.exited_at = Some(clock::now_iso());
        child.exit_code = exit.code;
        child.signal.clone_from(&exit.signal);
        child.last_error = problem;
    });
    if let Some(reason) = given_up {
        drafts.note(
            EventType::ChildError,
            format_args!("The child is of no use any more and was ended: {}.", crate::model::preview(reason)),
            &(),
        );
    }
    if ending.survived {
        drafts.note(
            EventType::ChildKillFailed,
            format_args!("Child process {} could not be killed; it may still run.", ending.pid),
            &(),
        );
    }
    let failed = exit.code.map_or(!well, |code| code != 0);
    let level = if failed { Level::Error } else { Level::Info };
    let after = match (exit.code, signal) {
        (_, Some(signal)) => format!(" after {signal}"),
        (Some(code), None) if code != 0 => format!(" with code {code}"),
        _ => String::new(),
    };
    drafts.push_at(
        EventType::ChildExited,
        level,
        format_args!("Codex child exited{after}."),
        Some(&serde_json::json!({ "code": exit.code, "signal": signal })),
        Subject::default(),
        None,
    );
    inbox::orphan_pending(core, drafts);
    if asked {
        return;
    }
    if let Some(output) = ending.output.as_ref().filter(|_| ending.connected) {
        Cut { end: output, exit_code: exit.code, signal, status }.draft(core, drafts, Some(ending.pid));
    }
}

fn draft_lost(core: &mut Core, drafts: &mut Drafts, end: &End, used: bool) {
    core.update_child(|child| {
        child.connected = Some(false);
        child.last_error = Some(format!("The connection has ended: {}.", end.message));
    });
    if used {
        Cut { end, exit_code: None, signal: None, status: ChildStatus::External }.draft(core, drafts, None);
    }
    inbox::orphan_unattended(core, drafts);
}

/// The turns that were in flight when an earlier life of the daemon itself was cut off.
pub fn turns_cut_off_by_a_crash(core: &Core, drafts: &mut Drafts) {
    let end = End {
        source: "daemon.crash",
        message: "codexd ended without stopping".to_owned(),
        ..End::unexplained()
    };
    let cut = Cut { end: &end, exit_code: None, signal: None, status: ChildStatus::Failed };
    cut.draft_turns(core, drafts, |session| session.child_pid);
}
