//! The JSON objects of the protocol, as the real Codex was seen to write them.

use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// The version the stand-in claims: that of the Codex whose transcripts it follows.
pub(super) const VERSION: &str = "0.169.0";
/// The most characters of text in one turn's input.
pub(super) const MAX_INPUT: usize = 1 << 20;
/// A request that makes no sense at this point, and every other refusal without a code of its own.
pub(super) const INVALID: i64 = -32600;

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A JSON-RPC error of the usual kind.
pub(super) fn invalid(message: impl Into<String>) -> Value {
    json!({"code": INVALID, "message": message.into()})
}

/// The error for a method the server does not know: not -32601.
pub(super) fn unknown_method(method: &str) -> Value {
    invalid(format!(
        "Invalid request: unknown variant `{method}`, expected one of `initialize`, `thread/start`, `thread/resume`, \
         `thread/read`, `thread/turns/list`, `turn/start`, `turn/steer`, `turn/interrupt`"
    ))
}

/// The error for a text longer than [`MAX_INPUT`].
pub(super) fn input_too_large(actual: usize) -> Value {
    json!({
        "code": -32602,
        "message": format!("Input exceeds the maximum length of {MAX_INPUT} characters."),
        "data": {"input_error_code": "input_too_large", "max_chars": MAX_INPUT, "actual_chars": actual},
    })
}

/// The `sandbox` object for the name given at `thread/start`.
pub(super) fn sandbox(name: Option<&str>) -> Value {
    match name {
        Some("workspace-write") => {
            json!({"type": "workspaceWrite", "writableRoots": [], "networkAccess": false,
            "excludeTmpdirEnvVar": false, "excludeSlashTmp": false})
        }
        Some("danger-full-access") => json!({"type": "dangerFullAccess"}),
        _ => json!({"type": "readOnly", "networkAccess": false}),
    }
}

/// The status of a thread with a running turn.
pub(super) fn active(flags: &[&str]) -> Value {
    json!({"type": "active", "activeFlags": flags})
}

/// A turn, in a response or a notification.
pub(super) struct TurnView<'a> {
    /// The turn's id.
    pub(super) id: &'a str,
    /// `inProgress`, `completed`, `interrupted` or `failed`.
    pub(super) status: &'a str,
    /// The items shown.
    pub(super) items: &'a [Value],
    /// Which items they are: `notLoaded`, `summary` or `full`.
    pub(super) view: &'a str,
    /// Why it failed.
    pub(super) error: &'a Value,
    /// When it began, in milliseconds, if it has begun.
    pub(super) started_ms: Option<u64>,
    /// When it ended, in milliseconds, if it has ended.
    pub(super) completed_ms: Option<u64>,
}

impl TurnView<'_> {
    /// The object of the protocol: whole seconds, and the duration in milliseconds.
    pub(super) fn json(&self) -> Value {
        let duration = self.started_ms.zip(self.completed_ms).map(|(start, end)| end.saturating_sub(start));
        json!({
            "id": self.id, "rootTurnId": self.id, "items": self.items, "itemsView": self.view,
            "status": self.status, "error": self.error,
            "startedAt": self.started_ms.map(|ms| ms / 1000),
            "completedAt": self.completed_ms.map(|ms| ms / 1000),
            "durationMs": duration,
        })
    }
}

/// A message of the user.
pub(super) fn user_message(
    id: &str,
    text: &str,
    client_id: &Value,
    completed: Option<u64>,
    at: u64,
) -> Value {
    json!({"type": "userMessage", "id": id, "clientId": client_id,
        "content": [{"type": "text", "text": text, "text_elements": []}],
        "startedAtMs": at, "completedAtMs": completed})
}

/// A message of the model.
pub(super) fn agent_message(id: &str, text: &str, completed: Option<u64>, at: u64) -> Value {
    json!({"type": "agentMessage", "moderation": null, "id": id, "text": text, "phase": null,
        "memoryCitation": null, "delivery": null, "questions": null, "startedAtMs": at, "completedAtMs": completed})
}

/// The tokens used: every answer of the model costs the same.
pub(super) fn token_usage(thread: &str, turn: &str, answers: u64) -> Value {
    let count = |n: u64| {
        json!({"totalTokens": 15 * n, "inputTokens": 10 * n, "cachedInputTokens": 0, "cacheWriteInputTokens": 0,
            "outputTokens": 5 * n, "reasoningOutputTokens": 0})
    };
    json!({"threadId": thread, "turnId": turn,
        "tokenUsage": {"total": count(answers), "last": count(1), "modelContextWindow": 258_400}})
}

/// The rate limits of an account without any.
pub(super) fn rate_limits() -> Value {
    json!({"rateLimits": {"limitId": "codex", "limitName": null, "normalModelSlug": null, "primary": null,
        "secondary": null, "credits": null, "individualLimit": null, "spendControlReached": null, "planType": null,
        "rateLimitReachedType": null}})
}

/// The error object of a failed model request; `what` is an HTTP status or one of Codex's own names.
pub(super) fn model_error(what: &str) -> Value {
    const NAMES: [&str; 4] =
        ["rateLimitExceeded", "contextWindowExceeded", "usageLimitExceeded", "serverOverloaded"];
    let status = what.split(' ').next().unwrap_or_default();
    let code = status.parse::<u16>().ok();
    let named = NAMES.iter().find(|name| what.split(' ').any(|word| word == **name));
    let info = match (named, code) {
        (Some(name), _) => json!(name),
        (None, Some(500)) => json!("internalServerError"),
        (None, Some(401 | 403 | 503)) => json!({"httpConnectionFailed": {"httpStatusCode": code}}),
        (None, Some(404)) => json!("modelNotFound"),
        (None, Some(429)) => json!({"responseTooManyFailedAttempts": {"httpStatusCode": code}}),
        _ => json!("other"),
    };
    let message = match code {
        Some(500) => {
            "We\u{2019}re currently experiencing high demand, which may cause temporary errors.".to_owned()
        }
        _ => format!("unexpected status {what}"),
    };
    json!({"message": message, "codexErrorInfo": info, "additionalDetails": null, "misalignment": null})
}

/// The error object of a lost connection that is tried again.
pub(super) fn reconnecting(attempt: u64, attempts: u64) -> Value {
    json!({"message": format!("Reconnecting... {attempt}/{attempts}"),
        "codexErrorInfo": {"responseStreamDisconnected": {"httpStatusCode": null}},
        "additionalDetails": "stream disconnected before completion: stream closed before response.completed",
        "misalignment": null})
}
