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

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::{EventType, Level};
use crate::model::members::{Members, is_name};
use crate::model::{self, json};

use self::delta::Delta;
use self::params::{
    DiffDetail, DiffParams, ErrorDetail, ErrorParams, OutputDetail, OutputParams, PlanDetail, PlanParams,
    StatusDetail, StatusParams, ThreadParams, TurnParams,
};
use self::runs::Runs;

/// Turns notifications into drafts. It remembers what the deltas of one text have in common.
#[derive(Debug, Default)]
pub struct Translator {
    runs: Runs,
}

impl Translator {
    /// Drafts the event of one notification. A method whose params are not what this version knows is passed on
    /// whole, like one it does not know at all: nothing is lost.
    pub fn translate(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) {
        if self.known(drafts, method, params).is_none() {
            self.unknown(drafts, method, params);
        }
    }

    /// Drafts the event of a line that is a delta as Codex writes it. `false` if it is something else, or a delta that is
    /// written otherwise; then nothing was drafted.
    pub fn translate_plain_delta(&mut self, drafts: &mut Drafts, line: &str) -> bool {
        self.runs.draft(drafts, line)
    }

    fn known(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) -> Option<()> {
        let text = params.get();
        if let Some(delta) = Delta::of_params(method, params) {
            delta.draft(drafts);
            return Some(());
        }
        match method {
            "thread/started" => {
                let ThreadParams { thread } = serde_json::from_str(text).ok()?;
                let id = &thread.id;
                let detail = serde_json::json!({ "threadId": id });
                self.push(
                    drafts,
                    EventType::ThreadStarted,
                    id,
                    None,
                    &detail,
                    params,
                    format_args!("App-server thread {id} started."),
                )
            }
            "thread/status/changed" => {
                let StatusParams { thread_id, status } = serde_json::from_str(text).ok()?;
                let shown = status_name(status);
                let change = Change::ThreadTouched { thread_id: thread_id.clone() };
                self.push(
                    drafts,
                    EventType::ThreadStatusChanged,
                    &thread_id,
                    Some(change),
                    &StatusDetail { status, thread_id: &thread_id },
                    params,
                    format_args!("App-server thread {thread_id} status changed to {shown}."),
                )
            }
            "turn/started" => {
                let TurnParams { thread_id, turn } = serde_json::from_str(text).ok()?;
                let change = Change::TurnStarted { thread_id: thread_id.clone(), turn_id: turn.id.clone() };
                let detail = serde_json::json!({ "threadId": thread_id, "turnId": turn.id });
                self.push(
                    drafts,
                    EventType::TurnStarted,
                    &thread_id,
                    Some(change),
                    &detail,
                    params,
                    format_args!("App-server turn {} started.", turn.id),
                )
            }
            "turn/completed" => {
                let TurnParams { thread_id, turn } = serde_json::from_str(text).ok()?;
                let status = turn.status?;
                let detail =
                    serde_json::json!({ "status": status, "threadId": thread_id, "turnId": turn.id });
                let change = Change::TurnCompleted {
                    thread_id: thread_id.clone(),
                    turn_id: turn.id.clone(),
                    status: status.clone(),
                };
                self.push(
                    drafts,
                    EventType::TurnCompleted,
                    &thread_id,
                    Some(change),
                    &detail,
                    params,
                    format_args!("App-server turn {} {}.", turn.id, model::preview(&status)),
                )
            }
            "turn/diff/updated" => {
                let DiffParams { thread_id, turn_id, diff } = serde_json::from_str(text).ok()?;
                let message = format_args!("App-server updated diff for turn {turn_id}.");
                self.push(
                    drafts,
                    EventType::TurnDiffUpdated,
                    &thread_id,
                    None,
                    &DiffDetail { diff, thread_id: &thread_id, turn_id: &turn_id },
                    params,
                    message,
                )
            }
            "turn/plan/updated" => {
                let PlanParams { thread_id, turn_id, explanation, plan } = serde_json::from_str(text).ok()?;
                let detail = PlanDetail { explanation, plan, thread_id: &thread_id, turn_id: &turn_id };
                let message = format_args!("App-server updated plan for turn {turn_id}.");
                self.push(drafts, EventType::TurnPlanUpdated, &thread_id, None, &detail, params, message)
            }
            "error" => self.error(drafts, params),
            "command/exec/outputDelta" => command_output(drafts, params),
            _ => None,
        }
    }

    fn error(&mut self, drafts: &mut Drafts, params: &RawValue) -> Option<()> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Message {
            message: String,
        }
        let ErrorParams { thread_id, turn_id, will_retry, error } =
            serde_json::from_str(params.get()).ok()?;
        let shown: Message = serde_json::from_str(error.get()).unwrap_or_default();
        let change = Change::TurnError { thread_id: thread_id.clone(), turn_id: turn_id.clone(), will_retry };
        let detail = ErrorDetail { error, thread_id: &thread_id, turn_id: &turn_id, will_retry };
        let what = if will_retry { "is tried again" } else { "failed" };
        self.push(
            drafts,
            EventType::TurnError,
            &thread_id,
            Some(change),
            &detail,
            params,
            format_args!("App-server turn {turn_id} {what}: {}", model::preview(&shown.message)),
        )
    }

    fn unknown(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) {
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

    #[allow(clippy::too_many_arguments, reason = "an event is that much")]
    fn push(
        &mut self,
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
    let OutputParams { process_id, stream, delta_base64, cap_reached } =
        serde_json::from_str(params.get()).ok()?;
    let kind = EventType::CommandOutputDelta;
    let level = if stream == "stderr" { Level::Warn } else { kind.level() };
    let shown = model::preview(&stream);
    let process = model::preview_of_raw(process_id.get());
    let detail = OutputDetail { cap_reached, delta_base64, process_id, stream: &stream };
    let about = drafts.about(Subject::default());
    drafts.push_raw(
        kind,
        level,
        about,
        None,
        format_args!("App-server emitted {shown} output for command {process}."),
        |out| write_detail(out, kind, &detail, params),
    );
    Some(())
}

/// A thread's status is an object with a type, in older versions a plain name.
fn status_name(status: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: String,
    }
    serde_json::from_str::<Typed>(status.get())
        .map(|typed| typed.kind)
        .or_else(|_| serde_json::from_str::<String>(status.get()))
        .map_or_else(|_| "unknown".to_owned(), |name| model::preview(&name))
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
