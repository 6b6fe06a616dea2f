//! The events of requests, each with the record as it is from then on.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::clock;
use crate::hub::batch::Subject;
use crate::hub::change::Change;
use crate::hub::drafts::Drafts;
use crate::model;
use crate::model::event::EventType;
use crate::model::record::{Request, RequestKind, RequestStatus};

/// The detail of all of them; two fields are that of `request.opened` alone.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<Option<&'a str>>,
    kind: RequestKind,
    method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<&'a RawValue>,
    record: &'a Request,
    request_id: &'a str,
    session_id: Option<&'a str>,
    status: RequestStatus,
    thread_id: Option<&'a str>,
    turn_id: Option<&'a str>,
}

impl<'a> Detail<'a> {
    fn of(request: &'a Request) -> Self {
        Self {
            item_id: None,
            kind: request.kind,
            method: &request.method,
            params: None,
            record: request,
            request_id: &request.request_id,
            session_id: request.session_id.as_deref(),
            status: request.status,
            thread_id: request.thread_id.as_deref(),
            turn_id: request.turn_id.as_deref(),
        }
    }
}

/// Codex asks, for the first time or (`again`) after a reconnect.
pub(super) fn opened(drafts: &mut Drafts, record: &Arc<Request>, again: bool) {
    let request = &**record;
    let (item_id, params) = (Some(request.item_id.as_deref()), Some(&*request.params));
    let detail = Detail { item_id, params, ..Detail::of(request) };
    let again = if again { " again" } else { "" };
    drafts.push(
        EventType::RequestOpened,
        format_args!("Codex asks{again} {} ({}).", about(request), request.request_id),
        Some(&detail),
        subject(request),
        Some(Change::Request(Arc::clone(record))),
    );
}

/// The request leaves `pending`, or finds out that its answer was in vain; the new record.
pub(super) fn settled(
    drafts: &mut Drafts,
    request: &Request,
    status: RequestStatus,
    answer: Option<Box<RawValue>>,
) -> Arc<Request> {
    let mut request = request.clone();
    request.status = status;
    request.answer = answer;
    request.updated_at = clock::now_iso();
    let (kind, what) = match status {
        RequestStatus::Pending | RequestStatus::Answered => (EventType::RequestAnswered, "was answered"),
        RequestStatus::Expired => (EventType::RequestExpired, "was declined: nobody answered in time"),
        RequestStatus::Cancelled => (EventType::RequestCancelled, "was withdrawn by Codex"),
        RequestStatus::Orphaned => (EventType::RequestOrphaned, "is void: the app-server that asked is gone"),
    };
    let request = Arc::new(request);
    drafts.push(
        kind,
        format_args!("Request {} {what}.", request.request_id),
        Some(&Detail::of(&request)),
        subject(&request),
        Some(Change::Request(Arc::clone(&request))),
    );
    request
}

fn subject(request: &Request) -> Subject {
    let thread = request.thread_id.as_deref();
    match request.session_id.as_deref() {
        Some(session) => Subject::session(session, thread),
        None => thread.map(Subject::thread).unwrap_or_default(),
    }
}

/// What is asked, in a few words for a person.
fn about(request: &Request) -> String {
    let params: Value = serde_json::from_str(request.params.get()).unwrap_or_default();
    let text = |value: &Value| match value {
        Value::String(text) => model::preview(text),
        Value::Array(words) => {
            model::preview(&words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
        }
        _ => "unnamed".to_owned(),
    };
    match request.kind {
        RequestKind::Command => format!("to run {}", text(&params["command"])),
        RequestKind::FileChange => {
            let paths: Vec<&str> = params["changes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|c| c["path"].as_str())
                .collect();
            let paths = if paths.is_empty() { "files".to_owned() } else { paths.join(", ") };
            format!("to change {}", model::preview(&paths))
        }
        RequestKind::Permissions => format!("for permissions: {}", text(&params["reason"])),
        RequestKind::UserInput => format!("a question: {}", text(&params["questions"][0]["question"])),
        RequestKind::Elicitation => format!("for input: {}", text(&params["message"])),
        RequestKind::ToolCall => format!("for a call of the tool {}", text(&params["tool"])),
        RequestKind::Other => model::preview(&request.method),
    }
}
