//! What each notification of the protocol becomes: one event, and what it does to sessions.

mod describe;
mod params;

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model::event::{EventType, Level};
use crate::model::{self, json};

use self::params::{
    Delta, DiffDetail, DiffParams, ErrorDetail, ErrorParams, Names, OutputParams, PlanDetail, PlanParams,
    StatusDetail, StatusParams, ThreadParams, TurnParams,
};

/// Turns notifications into drafts. It remembers the last thread's name, so that the thousands of deltas of one turn
/// share it.
#[derive(Debug, Default)]
pub struct Translator {
    last_thread: Option<Arc<str>>,
}

impl Translator {
    /// Drafts the event of one notification. A method whose params are not what this version knows is passed on
    /// whole, like one it does not know at all: nothing is lost.
    pub fn translate(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) {
        if self.known(drafts, method, params).is_none() {
            self.unknown(drafts, method, params);
        }
    }

    fn known(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) -> Option<()> {
        let text = params.get();
        match method {
            "item/agentMessage/delta" => self.delta(drafts, EventType::MessageDelta, "delta", text),
            "item/plan/delta" => self.delta(drafts, EventType::PlanDelta, "plan delta", text),
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
                    message,
                )
            }
            "turn/plan/updated" => {
                let PlanParams { thread_id, turn_id, explanation, plan } = serde_json::from_str(text).ok()?;
                let detail = PlanDetail { explanation, plan, thread_id: &thread_id, turn_id: &turn_id };
                let message = format_args!("App-server updated plan for turn {turn_id}.");
                self.push(drafts, EventType::TurnPlanUpdated, &thread_id, None, &detail, message)
            }
            "error" => self.error(drafts, text),
            "command/exec/outputDelta" => command_output(drafts, text),
            _ => None,
        }
    }

    /// The hot path: the texts of the params are copied as they are; only the preview is decoded.
    fn delta(&mut self, drafts: &mut Drafts, kind: EventType, what: &str, text: &str) -> Option<()> {
        let Delta { delta, item_id, thread_id, turn_id } = serde_json::from_str(text).ok()?;
        if ![delta, item_id, thread_id, turn_id].iter().all(|raw| raw.get().starts_with('"')) {
            return None;
        }
        let subject = Subject { thread: Some(self.thread_of_raw(thread_id)), ..Subject::default() };
        let preview = model::preview_chars(json::string_chars(delta.get()));
        let turn = RawString(turn_id);
        drafts.push_raw(
            kind,
            kind.level(),
            subject,
            None,
            format_args!("App-server emitted {what} for turn {turn}: {preview}"),
            |out| {
                out.extend_from_slice(b"{\"delta\":");
                out.extend_from_slice(delta.get().as_bytes());
                out.extend_from_slice(b",\"itemId\":");
                out.extend_from_slice(item_id.get().as_bytes());
                out.extend_from_slice(b",\"threadId\":");
                out.extend_from_slice(thread_id.get().as_bytes());
                out.extend_from_slice(b",\"turnId\":");
                out.extend_from_slice(turn_id.get().as_bytes());
                out.push(b'}');
            },
        );
        Some(())
    }

    fn error(&mut self, drafts: &mut Drafts, text: &str) -> Option<()> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Message {
            message: String,
        }
        let ErrorParams { thread_id, turn_id, will_retry, error } = serde_json::from_str(text).ok()?;
        let shown: Message = serde_json::from_str(error.get()).unwrap_or_default();
        let change = Change::TurnError { thread_id: thread_id.clone(), turn_id: turn_id.clone(), will_retry };
        let detail = ErrorDetail { error, thread_id: &thread_id, turn_id: &turn_id, will_retry };
        self.push(
            drafts,
            EventType::TurnError,
            &thread_id,
            Some(change),
            &detail,
            format_args!("App-server turn {turn_id} failed: {}", model::preview(&shown.message)),
        )
    }

    fn unknown(&mut self, drafts: &mut Drafts, method: &str, params: &RawValue) {
        let names = Names::of(params);
        let thread = names.thread_id.as_deref().map(|id| self.thread(id));
        let kind = EventType::Notification;
        let message = describe::describe(method, params);
        drafts.push_raw(
            kind,
            kind.level(),
            Subject { thread, ..Subject::default() },
            None,
            format_args!("{message}"),
            |out| {
                out.push(b'{');
                let mut id = |name: &str, value: &Option<Cow<'_, str>>| {
                    if let Some(value) = value {
                        let _ = write_member(out, name, value);
                        out.push(b',');
                    }
                };
                id("itemId", &names.item_id);
                id("threadId", &names.thread_id);
                id("turnId", &names.turn_id);
                let _ = write_member(out, "notificationMethod", method);
                out.extend_from_slice(b",\"params\":");
                out.extend_from_slice(params.get().as_bytes());
                out.push(b'}');
            },
        );
    }

    fn push(
        &mut self,
        drafts: &mut Drafts,
        kind: EventType,
        thread_id: &str,
        change: Option<Change>,
        detail: &impl serde::Serialize,
        message: std::fmt::Arguments<'_>,
    ) -> Option<()> {
        let subject = Subject { thread: Some(self.thread(thread_id)), ..Subject::default() };
        drafts.push(kind, message, Some(detail), subject, change);
        Some(())
    }

    fn thread(&mut self, id: &str) -> Arc<str> {
        match &self.last_thread {
            Some(last) if **last == *id => Arc::clone(last),
            _ => {
                let id: Arc<str> = Arc::from(id);
                self.last_thread = Some(Arc::clone(&id));
                id
            }
        }
    }

    fn thread_of_raw(&mut self, raw: &RawValue) -> Arc<str> {
        match plain(raw) {
            Some(id) => self.thread(id),
            None => self.thread(&json::string_chars(raw.get()).collect::<String>()),
        }
    }
}

/// `"name":"value"`; a string always serialises.
fn write_member(out: &mut Vec<u8>, name: &str, value: &str) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    serde_json::to_writer(out, value)
}

fn command_output(drafts: &mut Drafts, text: &str) -> Option<()> {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "camelCase")]
    struct OutputDetail<'a> {
        cap_reached: bool,
        delta_base64: &'a RawValue,
        process_id: &'a RawValue,
        stream: &'a str,
    }
    let OutputParams { process_id, stream, delta_base64, cap_reached } = serde_json::from_str(text).ok()?;
    let level = if stream == "stderr" { Level::Warn } else { Level::Info };
    let shown = model::preview(&stream);
    let process = model::preview_chars(json::string_chars(process_id.get()));
    drafts.push_at(
        EventType::CommandOutputDelta,
        level,
        format_args!("App-server emitted {shown} output for command {process}."),
        Some(&OutputDetail { cap_reached, delta_base64, process_id, stream: &stream }),
        Subject::default(),
        None,
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
fn plain(raw: &RawValue) -> Option<&str> {
    let inside = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    (!inside.contains('\\')).then_some(inside)
}

/// Shows a raw string's characters.
struct RawString<'a>(&'a RawValue);

impl std::fmt::Display for RawString<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match plain(self.0) {
            Some(text) => formatter.write_str(text),
            None => json::string_chars(self.0.get()).try_for_each(|char| formatter.write_char(char)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(method: &str, params: &str) -> (serde_json::Value, Option<Change>, Subject) {
        let mut drafts = Drafts::new();
        let params = RawValue::from_string(params.to_owned()).unwrap();
        Translator::default().translate(&mut drafts, method, &params);
        let (text, mut items) = drafts.into_parts();
        assert_eq!(items.len(), 1);
        let item = items.remove(0);
        let inside = std::str::from_utf8(item.text(&text)).unwrap();
        (serde_json::from_str(&format!("{{{inside}}}")).unwrap(), item.change, item.subject)
    }

    #[test]
    fn a_delta_keeps_its_text() {
        let (event, change, subject) = translate(
            "item/agentMessage/delta",
            r#"{"threadId":"t","turnId":"u","itemId":"i","delta":"a\u00e4\n  \"b\""}"#,
        );
        assert_eq!(event["type"], "app-server.turn.message.delta");
        assert_eq!(event["message"], "App-server emitted delta for turn u: aä \"b\"");
        assert_eq!(
            event["detail"],
            serde_json::json!({"delta":"aä\n  \"b\"","itemId":"i","threadId":"t","turnId":"u"})
        );
        assert!(change.is_none());
        assert_eq!(subject.thread.as_deref(), Some("t"));
    }

    #[test]
    fn every_event_has_the_fields_of_its_type() {
        let cases = [
            ("thread/started", r#"{"thread":{"id":"t"}}"#),
            ("thread/status/changed", r#"{"threadId":"t","status":{"type":"active","activeFlags":[]}}"#),
            ("turn/started", r#"{"threadId":"t","turn":{"id":"u","status":"inProgress"}}"#),
            ("turn/completed", r#"{"threadId":"t","turn":{"id":"u","status":"completed"}}"#),
            ("turn/diff/updated", r#"{"threadId":"t","turnId":"u","diff":"-a"}"#),
            ("turn/plan/updated", r#"{"threadId":"t","turnId":"u","plan":[]}"#),
            ("item/plan/delta", r#"{"threadId":"t","turnId":"u","itemId":"i","delta":"x"}"#),
            ("error", r#"{"threadId":"t","turnId":"u","willRetry":false,"error":{"message":"m"}}"#),
            (
                "command/exec/outputDelta",
                r#"{"processId":"p","stream":"stderr","deltaBase64":"eA==","capReached":true}"#,
            ),
            ("brand/new", r#"{"huge":123456789012345678901234567890}"#),
        ];
        for (method, params) in cases {
            let (event, _, _) = translate(method, params);
            let kind = EventType::from_name(event["type"].as_str().unwrap()).unwrap();
            let fields: Vec<&str> = event["detail"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(fields, kind.fields(), "{method}");
            assert_eq!(kind == EventType::Notification, method == "brand/new");
        }
    }

    #[test]
    fn params_of_another_shape_are_passed_on_whole() {
        for (method, params) in [
            ("item/agentMessage/delta", r#"{"threadId":7,"turnId":"u","itemId":"i","delta":"x"}"#),
            ("item/agentMessage/delta", "null"),
            ("turn/completed", r#"{"threadId":"t","turn":{"id":"u"}}"#),
            ("turn/started", "[1,2]"),
        ] {
            let (event, change, _) = translate(method, params);
            assert_eq!(event["type"], "app-server.notification", "{method}");
            assert_eq!(event["detail"]["notificationMethod"], method);
            assert_eq!(event["detail"]["params"], serde_json::from_str::<serde_json::Value>(params).unwrap());
            assert!(change.is_none());
        }
    }
}
