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

/// Logs the end. `asked`: codexd itself ended it, which is no transport failure.
pub(super) fn tell(parts: &Parts, ending: Ending, asked: bool) {
    let (done, told) = crossbeam_channel::bounded(1);
    let sent = parts.hub.transact_in_order(
        move |core, drafts| draft(core, drafts, &ending, asked),
        move |outcome| drop(done.send(outcome)),
    );
    // The next life begins, or the daemon stops, only after this is in the log; a stopped hub has said why.
    if sent.is_ok() {
        let _ = told.recv();
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
        drafts.push(
            EventType::ChildError,
            format_args!("The child is of no use any more and was ended: {}.", crate::model::preview(reason)),
            None::<&()>,
            Subject::default(),
            None,
        );
    }
    if ending.survived {
        drafts.push(
            EventType::ChildKillFailed,
            format_args!("Child process {} could not be killed; it may still run.", ending.pid),
            None::<&()>,
            Subject::default(),
            None,
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
        drafts.push(
            EventType::TransportClosed,
            format_args!("App-server transport closed: {}.", output.message),
            Some(&TransportClosed {
                exit_code: exit.code,
                flushed_trailing_message: output.flushed_trailing_message,
                signal,
                source: output.source,
                trailing_message_length: output.trailing_message_length,
            }),
            Subject::default(),
            None,
        );
        for session in core.state().sessions.all() {
            turn_missing(drafts, session, ending, output, status);
        }
    }
}

fn turn_missing(drafts: &mut Drafts, session: &Session, ending: &Ending, output: &End, status: ChildStatus) {
    let Some(turn_id) = session.current_turn_id.as_deref() else { return };
    missing_turn(
        drafts,
        session,
        &TurnMissing {
            child_exit_code: ending.exit.code,
            child_pid: Some(ending.pid),
            child_signal: ending.exit.signal.as_deref(),
            child_status: status,
            failure_class: "transport_closed_before_turn_completed",
            flushed_trailing_message: output.flushed_trailing_message,
            session_id: &session.session_id,
            thread_id: session.thread_id.as_deref(),
            trailing_message_length: output.trailing_message_length,
            transport_close_message: &output.message,
            transport_close_source: output.source,
            turn_id,
            turn_status_at_close: session.last_turn_status.as_deref(),
        },
    );
}

/// Logs that the connection to an external app-server was lost.
pub(super) fn tell_lost(parts: &Parts, end: End, used: bool) {
    let (done, told) = crossbeam_channel::bounded(1);
    let sent = parts.hub.transact_in_order(
        move |core, drafts| draft_lost(core, drafts, &end, used),
        move |outcome| drop(done.send(outcome)),
    );
    // The turns are told before a new connection brings their end; a stopped hub has said why.
    if sent.is_ok() {
        let _ = told.recv();
    }
}

fn draft_lost(core: &mut Core, drafts: &mut Drafts, end: &End, used: bool) {
    core.update_child(|child| {
        child.connected = Some(false);
        child.last_error = Some(format!("The connection has ended: {}.", end.message));
    });
    if !used {
        return;
    }
    drafts.push(
        EventType::TransportClosed,
        format_args!("App-server transport closed: {}.", end.message),
        Some(&TransportClosed {
            exit_code: None,
            flushed_trailing_message: end.flushed_trailing_message,
            signal: None,
            source: end.source,
            trailing_message_length: end.trailing_message_length,
        }),
        Subject::default(),
        None,
    );
    for session in core.state().sessions.all() {
        let Some(turn_id) = session.current_turn_id.as_deref() else { continue };
        missing_turn(
            drafts,
            session,
            &TurnMissing {
                child_exit_code: None,
                child_pid: None,
                child_signal: None,
                child_status: ChildStatus::External,
                failure_class: "transport_closed_before_turn_completed",
                flushed_trailing_message: end.flushed_trailing_message,
                session_id: &session.session_id,
                thread_id: session.thread_id.as_deref(),
                trailing_message_length: end.trailing_message_length,
                transport_close_message: &end.message,
                transport_close_source: end.source,
                turn_id,
                turn_status_at_close: session.last_turn_status.as_deref(),
            },
        );
    }
}

fn missing_turn(drafts: &mut Drafts, session: &Session, detail: &TurnMissing<'_>) {
    drafts.push(
        EventType::TurnMissing,
        format_args!("App-server transport closed before turn {} completed.", detail.turn_id),
        Some(detail),
        Subject::session(&session.session_id, session.thread_id.as_deref()),
        Some(Change::TurnMissing { session_id: session.session_id.clone() }),
    );
}

/// The turns that were in flight when an earlier life of the daemon itself was cut off.
pub fn turns_cut_off_by_a_crash(core: &Core, drafts: &mut Drafts) {
    for session in core.state().sessions.all() {
        let Some(turn_id) = session.current_turn_id.as_deref() else { continue };
        missing_turn(
            drafts,
            session,
            &TurnMissing {
                child_exit_code: None,
                child_pid: session.child_pid,
                child_signal: None,
                child_status: ChildStatus::Failed,
                failure_class: "transport_closed_before_turn_completed",
                flushed_trailing_message: false,
                session_id: &session.session_id,
                thread_id: session.thread_id.as_deref(),
                trailing_message_length: 0,
                transport_close_message: "codexd ended without stopping",
                transport_close_source: "daemon.crash",
                turn_id,
                turn_status_at_close: session.last_turn_status.as_deref(),
            },
        );
    }
}
