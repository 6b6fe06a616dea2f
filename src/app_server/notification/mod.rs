//! What each notification of the protocol becomes: one event, and what it does to sessions.
//!
//! Nothing of the params is lost. A method without an event type of its own has them whole in `params`. In the detail of
//! the others stand the fields of the type, and beside them, under its own name and as it came, every other member of the
//! params; should one of a later version have the name of a field that codexd takes from elsewhere, all are in `params`.

mod delta;
mod describe;
mod params;
mod runs;

use std::fmt::Write;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::{EventType, Level};
use crate::model::members::{self, Members, is_name};
use crate::model::{self, json};

use self::delta::Delta;
use self::params::{DiffUpdated, ErrorMet, Output, PlanUpdated, StatusChanged, ThreadStarted, TurnParams};
pub(super) use self::runs::Runs;

/// Drafts the event of one notification. A method whose params are not what this version knows is passed on whole, like
/// one it does not know at all: nothing is lost.
pub fn translate(drafts: &mut Drafts, method: &str, params: &RawValue) {
    if known(drafts, method, params).is_none() {
        unknown(drafts, method, params);
    }
}

fn known(drafts: &mut Drafts, method: &str, params: &RawValue) -> Option<()> {
    if let Some(delta) = Delta::of_params(method, params) {
        delta.draft(drafts);
        return Some(());
    }
    let text = params.get();
    match method {
        "thread/started" => {
            let ThreadStarted { thread } = serde_json::from_str(text).ok()?;
            let detail = serde_json::json!({ "threadId": thread.id });
            let message = format_args!("App-server thread {} started.", thread.id);
            push(drafts, EventType::ThreadStarted, &thread.id, None, &detail, params, message)
        }
        "thread/status/changed" => {
            let detail: StatusChanged<'_> = serde_json::from_str(text).ok()?;
            let id = &detail.thread_id;
            let change = Change::ThreadTouched { thread_id: id.clone() };
            let shown = status_name(detail.status);
            let message = format_args!("App-server thread {id} status changed to {shown}.");
            push(drafts, EventType::ThreadStatusChanged, id, Some(change), &detail, params, message)
        }
        "turn/started" => {
            let TurnParams { thread_id, turn } = serde_json::from_str(text).ok()?;
            let detail = serde_json::json!({ "threadId": thread_id, "turnId": turn.id });
            let change = Change::TurnStarted { thread_id: thread_id.clone(), turn_id: turn.id.clone() };
            let message = format_args!("App-server turn {} started.", turn.id);
            push(drafts, EventType::TurnStarted, &thread_id, Some(change), &detail, params, message)
        }
        "turn/completed" => {
            let TurnParams { thread_id, turn } = serde_json::from_str(text).ok()?;
            let status = turn.status?;
            let detail = serde_json::json!({ "status": status, "threadId": thread_id, "turnId": turn.id });
            let shown = model::preview(&status);
            let message = format_args!("App-server turn {} {shown}.", turn.id);
            let (thread, turn_id) = (thread_id.clone(), turn.id.clone());
            let change = Change::TurnCompleted { thread_id, turn_id, status };
            push(drafts, EventType::TurnCompleted, &thread, Some(change), &detail, params, message)
        }
        "turn/diff/updated" => {
            let detail: DiffUpdated<'_> = serde_json::from_str(text).ok()?;
            let message = format_args!("App-server updated diff for turn {}.", detail.turn_id);
            push(drafts, EventType::TurnDiffUpdated, &detail.thread_id, None, &detail, params, message)
        }
        "turn/plan/updated" => {
            let detail: PlanUpdated<'_> = serde_json::from_str(text).ok()?;
            let message = format_args!("App-server updated plan for turn {}.", detail.turn_id);
            push(drafts, EventType::TurnPlanUpdated, &detail.thread_id, None, &detail, params, message)
        }
        "error" => error(drafts, params),
        "command/exec/outputDelta" => command_output(drafts, params),
        _ => None,
    }
}

fn error(drafts: &mut Drafts, params: &RawValue) -> Option<()> {
    let detail: ErrorMet<'_> = serde_json::from_str(params.get()).ok()?;
    let ErrorMet { error, thread_id, turn_id, will_retry } = &detail;
    let members = Members::of(error).unwrap_or_default();
    let shown = model::preview(&members.text("message").unwrap_or_default());
    let what = if *will_retry { "is tried again" } else { "failed" };
    let message = format_args!("App-server turn {turn_id} {what}: {shown}");
    let (thread, turn_id) = (thread_id.clone(), turn_id.clone());
    let change = Change::TurnError { thread_id: thread, turn_id, will_retry: *will_retry };
    push(drafts, EventType::TurnError, thread_id, Some(change), &detail, params, message)
}

fn unknown(drafts: &mut Drafts, method: &str, params: &RawValue) {
    let members = Members::of(params).unwrap_or_default();
    // An object's own id counts as the id of what it is.
    let id_of = |name: &str, object: &str| {
        members.text(name).or_else(|| members.object(object).and_then(|object| object.text("id")))
    };
    let ids = [
        ("itemId", id_of("itemId", "item")),
        ("threadId", id_of("threadId", "thread")),
        ("turnId", id_of("turnId", "turn")),
    ];
    let about = match &ids[1].1 {
        Some(id) => drafts.about_thread(id),
        None => drafts.about(Subject::default()),
    };
    let kind = EventType::Notification;
    let message = describe::describe(method, &members);
    drafts.push_raw(kind, kind.level(), about, None, format_args!("{message}"), |out| {
        out.push(b'{');
        for (name, value) in &ids {
            if let Some(value) = value {
                let _ = write_member(out, name, value);
                out.push(b',');
            }
        }
        let _ = write_member(out, "notificationMethod", method);
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params.get().as_bytes());
        out.push(b'}');
    });
}

/// Drafts an event about a thread.
fn push(
    drafts: &mut Drafts,
    kind: EventType,
    thread_id: &str,
    change: Option<Change>,
    detail: &impl Serialize,
    params: &RawValue,
    message: std::fmt::Arguments<'_>,
) -> Option<()> {
    let about = drafts.about_thread(thread_id);
    let write = |out: &mut Vec<u8>| write_detail(out, kind, detail, params);
    drafts.push_raw(kind, kind.level(), about, change, message, write);
    Some(())
}

/// `"name":"value"`; a string always serialises.
fn write_member(out: &mut Vec<u8>, name: &str, value: &str) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    serde_json::to_writer(out, value)
}

/// The fields of an event's type, and what the params have besides.
fn write_detail(out: &mut Vec<u8>, kind: EventType, detail: &impl Serialize, params: &RawValue) {
    // The details are our own types and always serialise.
    match serde_json::to_writer(&mut *out, detail) {
        Ok(()) => write_rest(out, kind, params),
        Err(_) => out.extend_from_slice(b"null"),
    }
}

/// Adds to a finished detail what of the params is not in it yet.
fn write_rest(out: &mut Vec<u8>, kind: EventType, params: &RawValue) {
    // Fields that are not the member of that name in the params, but taken from within one.
    let from_within: &[&str] = match kind {
        EventType::ThreadStarted => &["threadId"],
        EventType::TurnStarted => &["turnId"],
        EventType::TurnCompleted => &["status", "turnId"],
        _ => &[],
    };
    let Some(members) = Members::of(params) else { return };
    let is_one_of = |name: &RawValue, fields: &[&str]| fields.iter().any(|field| is_name(name, field));
    out.pop();
    for (name, value) in members.iter().filter(|(name, _)| !is_one_of(name, kind.fields())) {
        out.push(b',');
        out.extend_from_slice(name.get().as_bytes());
        out.push(b':');
        out.extend_from_slice(value.get().as_bytes());
    }
    if members.iter().any(|(name, _)| is_one_of(name, from_within)) {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params.get().as_bytes());
    }
    out.push(b'}');
}

fn command_output(drafts: &mut Drafts, params: &RawValue) -> Option<()> {
    let detail: Output<'_> = serde_json::from_str(params.get()).ok()?;
    let kind = EventType::CommandOutputDelta;
    let level = if detail.stream == "stderr" { Level::Warn } else { kind.level() };
    let shown = model::preview(&detail.stream);
    let process = model::preview_of_raw(detail.process_id.get());
    let message = format_args!("App-server emitted {shown} output for command {process}.");
    let about = drafts.about(Subject::default());
    let write = |out: &mut Vec<u8>| write_detail(out, kind, &detail, params);
    drafts.push_raw(kind, level, about, None, message, write);
    Some(())
}

/// A thread's status is an object with a type, in older versions a plain name.
fn status_name(status: &RawValue) -> String {
    let members = Members::of(status).unwrap_or_default();
    let name = members.text("type").or_else(|| members::text(status));
    name.map_or_else(|| "unknown".to_owned(), |name| model::preview(&name))
}

/// The inside of a raw string without escapes.
fn plain(raw: &str) -> Option<&str> {
    let inside = raw.strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains('\\')).then_some(inside)
}

/// Shows a raw string's characters.
struct RawString<'a>(&'a str);

impl std::fmt::Display for RawString<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match plain(self.0) {
            Some(text) => formatter.write_str(text),
            None => json::string_chars(self.0).try_for_each(|char| formatter.write_char(char)),
        }
    }
}

#[cfg(test)]
mod tests;
