//! The records kept on disk and shown to clients. Absent values are `null`, never left out; fields that a newer
//! version wrote are kept in `extra` and written back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// An enum and the words for it, declared once: the records, the filters of the lists, the metrics, the OpenAPI document and
/// the command line have them from here.
macro_rules! worded {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $type {
            /// Every variant with its word, in the order in which they are declared.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($word, Self::$variant),)*];

            /// Every word, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($word,)*];

            /// As it stands in the JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

pub(crate) use worded;

/// Fields this version does not know.
pub type Extra = Map<String, Value>;

/// Who this daemon is. The id is made once and kept for ever; the rest is as the last start was configured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// A UUID.
    pub daemon_id: String,
    /// Name of the host among its kind.
    pub node_id: String,
    /// Root of the repository it works for.
    pub repo_root: String,
    /// When the identity was made.
    pub created_at: String,
    /// The version given by configuration.
    pub version: Option<String>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

worded! {
    /// Life of the child process.
    #[derive(Default)]
    ChildStatus {
        /// Never started, or an external one let go.
        #[default]
        Idle = "idle",
        /// Being started.
        Starting = "starting",
        /// Running.
        Running = "running",
        /// Ended as it was asked to, or with 0.
        Stopped = "stopped",
        /// Could not be started, or ended in another way.
        Failed = "failed",
        /// Runs elsewhere.
        External = "external",
    }
}

/// The child process, or the external app-server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// `spawn` or `external`.
    pub strategy: String,
    /// `app-server` or `exec`.
    pub mode: String,
    /// The app-server endpoint.
    pub endpoint: String,
    /// Where it is in its life.
    pub status: ChildStatus,
    /// The command, null when external.
    pub command: Option<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its working directory.
    pub cwd: Option<String>,
    /// Its process id while it runs.
    pub pid: Option<u32>,
    /// When it was last started.
    pub started_at: Option<String>,
    /// When it last ended.
    pub exited_at: Option<String>,
    /// Its exit code, if it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended it, by name.
    pub signal: Option<String>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// Which life of the app-server this is, from 1; 0 before the first.
    #[serde(default)]
    pub generation: u64,
    /// How often it was started again since the daemon started.
    #[serde(default)]
    pub restarts: u64,
    /// Whether there is a connection to an external app-server; null for a child.
    #[serde(default)]
    pub connected: Option<bool>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The daemon's own state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonState {
    /// Whether it runs.
    pub started: bool,
    /// When it last started.
    pub started_at: Option<String>,
    /// When it last stopped.
    pub stopped_at: Option<String>,
    /// When this last changed.
    pub updated_at: String,
    /// Its process id while it runs.
    pub pid: Option<u32>,
    /// The child.
    pub child: Child,
    /// Where it listens while it runs, which its configuration may leave open (port 0).
    #[serde(default)]
    pub resolved_base_url: Option<String>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

worded! {
    /// What a session is for.
    SessionPurpose {
        /// A conversation.
        Duplex = "duplex",
        /// The built-in test.
        Smoke = "smoke",
        /// A worker.
        Worker = "worker",
    }
}

worded! {
    /// Whether a session takes turns.
    SessionStatus {
        /// It does.
        Active = "active",
        /// It is over.
        Closed = "closed",
    }
}

worded! {
    /// What happens to a request of Codex that nobody has answered yet.
    RequestPolicy {
        /// It waits for a client, up to its deadline.
        Hold = "hold",
        /// It is declined at once.
        Decline = "decline",
    }
}

/// A session: one thread of the app-server and what it is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// `session-…`.
    pub session_id: String,
    /// What it is for.
    pub purpose: SessionPurpose,
    /// The app-server's thread.
    pub thread_id: Option<String>,
    /// Active or closed.
    pub status: SessionStatus,
    /// The app-server endpoint.
    pub endpoint: String,
    /// Process id of the child that made the thread.
    pub child_pid: Option<u32>,
    /// When it was created.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// The thread's working directory.
    pub cwd: Option<String>,
    /// The thread's model.
    pub model: Option<String>,
    /// The model's provider.
    pub model_provider: Option<String>,
    /// The service tier.
    pub service_tier: Option<String>,
    /// The reasoning effort.
    pub reasoning_effort: Option<String>,
    /// The turn in flight.
    pub current_turn_id: Option<String>,
    /// The last turn that began.
    pub last_turn_id: Option<String>,
    /// Its status in the app-server's words.
    pub last_turn_status: Option<String>,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// Which life of the app-server has the thread loaded; null when none has.
    #[serde(default)]
    pub generation: Option<u64>,
    /// Why the thread could last not be resumed.
    #[serde(default)]
    pub last_error: Option<String>,
    /// The params the thread was asked for with; null when there were none. A thread that never ran a turn cannot be
    /// resumed and is started anew with them.
    #[serde(default)]
    pub thread_params: Value,
    /// What happens to what Codex asks in this session; null for the daemon's own policy.
    #[serde(default)]
    pub request_policy: Option<RequestPolicy>,
    /// How long that waits for an answer, in milliseconds, 0 for ever; null for the daemon's own time.
    #[serde(default)]
    pub request_timeout_ms: Option<u64>,
    /// The key it was made with.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

/// The idempotency key a record was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// As the client sent it.
    pub key: String,
    /// A digest of the body it came with.
    pub body: String,
}

/// A record that may have been made with an idempotency key.
pub trait Idempotent {
    /// The key, if there was one.
    fn idempotency(&self) -> Option<&Idempotency>;
    /// When the record was made.
    fn created_at(&self) -> &str;
}

impl Idempotent for Session {
    fn idempotency(&self) -> Option<&Idempotency> {
        self.idempotency.as_ref()
    }

    fn created_at(&self) -> &str {
        &self.created_at
    }
}

impl Idempotent for Run {
    fn idempotency(&self) -> Option<&Idempotency> {
        self.idempotency.as_ref()
    }

    fn created_at(&self) -> &str {
        &self.created_at
    }
}

worded! {
    /// Life of a run.
    RunStatus {
        /// Waits for its turn.
        Queued = "queued",
        /// Its process runs.
        Running = "running",
        /// Ended with 0.
        Completed = "completed",
        /// Ended in any other way.
        Failed = "failed",
    }
}

/// A one-shot `codex exec`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// `run-…`.
    pub run_id: String,
    /// The session it was asked for.
    pub session_id: Option<String>,
    /// Where it is in its life.
    pub status: RunStatus,
    /// Always `codex-exec`.
    pub adapter: String,
    /// The prompt.
    pub prompt: String,
    /// What it is for.
    pub purpose: Option<String>,
    /// The working directory asked for.
    pub cwd: Option<String>,
    /// When it was accepted.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// When its process started.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The last message, or `exit_code:N`.
    pub summary: Option<String>,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
    /// The whole outcome (see `exec`).
    pub result: Option<Box<RawValue>>,
    /// The key it was made with.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

worded! {
    /// Life of a request that Codex made of its client.
    RequestStatus {
        /// Nobody has answered yet.
        Pending = "pending",
        /// Answered.
        Answered = "answered",
        /// Declined at its deadline.
        Expired = "expired",
        /// Withdrawn by Codex.
        Cancelled = "cancelled",
        /// The app-server that asked is gone.
        Orphaned = "orphaned",
    }
}

worded! {
    /// What a request asks for.
    RequestKind {
        /// To run a command.
        Command = "command",
        /// To change files.
        FileChange = "fileChange",
        /// Further permissions.
        Permissions = "permissions",
        /// Answers of the user.
        UserInput = "userInput",
        /// A form of an MCP server.
        Elicitation = "elicitation",
        /// A tool of the client.
        ToolCall = "toolCall",
        /// Something else.
        Other = "other",
    }
}

/// Something Codex asked of its client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `request-…`.
    pub request_id: String,
    /// The protocol's method.
    pub method: String,
    /// What it asks for.
    pub kind: RequestKind,
    /// The session of its thread.
    pub session_id: Option<String>,
    /// Its thread.
    pub thread_id: Option<String>,
    /// Its turn.
    pub turn_id: Option<String>,
    /// Its item.
    pub item_id: Option<String>,
    /// Its params, whole.
    pub params: Box<RawValue>,
    /// Where it is in its life.
    pub status: RequestStatus,
    /// When it was made.
    pub created_at: String,
    /// When it last changed.
    pub updated_at: String,
    /// When it is declined if nobody answers.
    pub deadline: Option<String>,
    /// What was sent to Codex: the result, or `{"error": …}`.
    pub answer: Option<Box<RawValue>>,
    /// The app-server's own id for it, a number or a string; ids start anew in each process.
    #[serde(default)]
    pub app_server_request_id: Option<Box<RawValue>>,
    /// Which life of the app-server, or which connection to an external one, asked last; 0 while that was in an earlier
    /// life of the daemon, and the external one still waits.
    #[serde(default)]
    pub generation: u64,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub extra: Extra,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        for (word, kind) in RequestKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), *word);
            assert_eq!(serde_json::from_value::<RequestKind>((*word).into()).unwrap(), *kind);
            assert_eq!(kind.as_str(), *word);
        }
        assert_eq!(RequestKind::NAMES[1], "fileChange");
        assert!(serde_json::from_str::<RunStatus>("\"Queued\"").is_err());
    }
}
