//! The fields of the bodies, declared once: validation, the requests to the app-server, the README and the OpenAPI document
//! read these tables. In debug builds a body gives out no field that its table does not have.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::OpError;
use super::body::{Body, Kind};
use super::runs;
use crate::model::record::{RequestPolicy, SessionPurpose};

/// A field of a body.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name; of one that is passed on, also in the protocol.
    pub name: &'static str,
    /// Its type. What is inside of something that is passed on is the app-server's business.
    pub kind: Kind,
    /// For which request to the app-server: a new thread's only, or every one.
    pub only_new: bool,
    /// Whether it must be there.
    pub required: bool,
    /// What it is, for people.
    pub doc: &'static str,
}

const fn field(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, only_new: false, required: false, doc }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Field {
    Field { name, kind, only_new: false, required: true, doc }
}

/// The names of a table of words.
fn words<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(word, _)| *word).collect()
}

/// A session's own fields; [`THREAD`] is passed on.
pub const SESSION: &[Field] = &[
    field("purpose", Kind::OneOf(|| SessionPurpose::NAMES.to_vec()), "what it is for; `duplex` unless given"),
    field("threadId", Kind::Text, "go on with that thread of Codex instead of a new one"),
    field(
        "requestPolicy",
        Kind::OneOf(|| RequestPolicy::NAMES.to_vec()),
        "what becomes of what Codex asks in it; the daemon's own unless given",
    ),
    field(
        "requestTimeoutMs",
        Kind::Number(0),
        "how long that waits for an answer, 0 for ever; the daemon's own unless given",
    ),
    field("metadata", Kind::Texts, "the client's own notes"),
];

/// `thread/start` and, but for `ephemeral`, `thread/resume`.
pub const THREAD: &[Field] = &[
    field("cwd", Kind::Text, "where Codex works"),
    field("model", Kind::Text, "the model"),
    field("modelProvider", Kind::Text, "its provider"),
    field("serviceTier", Kind::Text, "the service tier"),
    field("personality", Kind::Text, "the personality"),
    field("baseInstructions", Kind::Text, "instead of Codex's own instructions"),
    field("developerInstructions", Kind::Text, "beside them"),
    Field { only_new: true, ..field("ephemeral", Kind::Flag, "Codex keeps nothing of the thread") },
    field("approvalPolicy", Kind::TextOrObject, "when Codex asks, for example `never`"),
    field("sandbox", Kind::Text, "what commands may do, for example `workspace-write`"),
    field("config", Kind::Object, "overrides of Codex's configuration"),
];

/// A turn's own fields; [`TURN`] is passed on with a new turn.
pub const INPUT: &[Field] = &[
    required("sessionId", Kind::Text, "the session"),
    field(
        "input",
        Kind::Input,
        "text, or an array of the app-server's input items; this or `prompt` is required",
    ),
    field("prompt", Kind::Input, "the same"),
    field("expectedTurnId", Kind::Text, "steer that turn, which must be the running one"),
];

/// `turn/start`.
pub const TURN: &[Field] = &[
    field("cwd", Kind::Text, "where Codex works from now on"),
    field("model", Kind::Text, "the model"),
    field("effort", Kind::Text, "the reasoning effort"),
    field("serviceTier", Kind::Text, "the service tier"),
    field("personality", Kind::Text, "the personality"),
    field("approvalPolicy", Kind::TextOrObject, "when Codex asks"),
    field("sandboxPolicy", Kind::Object, "what commands may do"),
    field("collaborationMode", Kind::Object, "how Codex works with you"),
    field("outputSchema", Kind::Object, "JSON Schema of the last message"),
    field("summary", Kind::Text, "how reasoning is summarised"),
];

/// What an interrupt may name.
pub const INTERRUPT: &[Field] =
    &[field("turnId", Kind::Text, "interrupt that turn only; the running one unless given")];

/// The ways to answer a request of Codex; a body has exactly one of them.
pub const ANSWER: &[Field] = &[
    field(
        "decision",
        Kind::TextOrObject,
        "`accept`, `acceptForSession`, `decline`, `cancel`, or one of the protocol's structured decisions",
    ),
    field("answers", Kind::Object, "answers to questions by their ids, or the content of a form"),
    field("result", Kind::Object, "sent to Codex as it is"),
    field("error", Kind::Object, "a JSON-RPC error: `code`, a whole number, and `message`"),
];

/// A one-shot run.
pub const RUN: &[Field] = &[
    required("prompt", Kind::Text, "what to do"),
    field("purpose", Kind::OneOf(|| words(runs::PURPOSES)), "what it is for; `fallback-worker` unless given"),
    field("sessionId", Kind::Text, "the session it is for, for the record"),
    field("cwd", Kind::Text, "where Codex works; relative to the repository, which it is unless given"),
    field("model", Kind::Text, "the model"),
    field("profile", Kind::Text, "the profile of Codex's configuration"),
    field("sandbox", Kind::OneOf(|| words(runs::SANDBOXES)), "what commands may do"),
    field("config", Kind::List, "overrides of Codex's configuration, each `KEY=VALUE`"),
    field("additionalWritableDirectories", Kind::List, "further folders that may be written"),
    field("images", Kind::List, "pictures for the prompt, by path"),
    field("env", Kind::TextsOrNulls, "variables for Codex; null removes one"),
    field("skipGitRepoCheck", Kind::Flag, "work outside of a repository too"),
    field("json", Kind::Flag, "each line of JSON output becomes an event `run.output`"),
    field("ephemeral", Kind::Flag, "Codex keeps nothing of the thread"),
    field("outputSchema", Kind::Object, "JSON Schema of the last message"),
    field("timeoutMs", Kind::Number(1), "the time limit; 300000 unless given"),
    field("metadata", Kind::Texts, "the client's own notes"),
];

/// Params on their way to the app-server.
pub type Params = BTreeMap<&'static str, Box<RawValue>>;

/// Takes the fields of a table out of a body.
///
/// # Errors
/// The first that has the wrong type.
pub fn collect(table: &[Field], body: &Body) -> Result<Params, OpError> {
    let mut params = Params::new();
    for field in table {
        if let Some(value) = body.passed_on(field.name, field.kind)? {
            params.insert(field.name, value);
        }
    }
    Ok(params)
}

/// Any JSON as a param.
///
/// # Errors
/// Never in practice: strings and flags always serialise.
pub fn param(value: &impl serde::Serialize) -> Result<Box<RawValue>, OpError> {
    serde_json::value::to_raw_value(value).map_err(|error| OpError::Internal(error.to_string()))
}
