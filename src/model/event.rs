//! Events: their types as one table, and their JSON form.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::record::worded;

worded! {
    /// How much an event matters to a person.
    Level {
        /// All is well.
        Info = "info",
        /// Worth a look.
        Warn = "warn",
        /// Something failed.
        Error = "error",
    }
}

macro_rules! event_types {
    ($($(#[doc = $doc:literal])* $variant:ident = $name:literal, $level:ident, [$($field:literal),*];)*) => {
        /// The type of an event. The table is the only place where a type's name, usual level and detail fields stand.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventType { $($(#[doc = $doc])* $variant,)* }

        impl EventType {
            /// Every type, in the table's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The level unless the event itself says otherwise.
            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level),* }
            }

            /// The fields every detail of this type has; none where the detail is null.
            pub const fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($field),*]),* }
            }

            /// The type of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

event_types! {
    /// The daemon serves.
    DaemonStarted = "daemon.started", Info, ["endpoint", "identity", "localApiBase", "strategy"];
    /// The last event of an ordered stop.
    DaemonStopped = "daemon.stopped", Info, [];
    /// The app-server runs elsewhere.
    ChildExternal = "child.external", Info, [];
    /// The child runs.
    ChildStarted = "child.started", Info, ["args", "command"];
    /// The command could not be started.
    ChildSpawnFailed = "child.spawn.failed", Error, [];
    /// Something is wrong with the child's pipes.
    ChildError = "child.error", Error, [];
    /// The child ended (error when the code is not 0, or a signal that codexd did not send ended it).
    ChildExited = "child.exited", Info, ["code", "signal"];
    /// The child could not be killed.
    ChildKillFailed = "child.kill.failed", Warn, [];
    /// The child is started again after a delay.
    ChildRestarting = "child.restarting", Warn, ["attempt", "delayMs"];
    /// The child runs again.
    ChildRestarted = "child.restarted", Info, ["attempt", "generation"];
    /// A process left over by an earlier life of the daemon was ended.
    ChildOrphanReaped = "child.orphan.reaped", Warn, ["pid", "purpose"];
    /// Output of an exec-mode child.
    ChildStdout = "child.stdout", Info, ["bytes", "stream"];
    /// Standard error of a child.
    ChildStderr = "child.stderr", Warn, ["bytes", "stream"];
    /// A session without a thread was recorded.
    SessionRegistered = "session.registered", Info, ["record", "sessionId", "threadId"];
    /// A session on a new thread.
    SessionCreated = "session.created", Info, ["purpose", "record", "sessionId", "threadId"];
    /// A session on a thread that existed.
    SessionResumed = "session.resumed", Info, ["purpose", "record", "sessionId", "threadId"];
    /// A session's thread is loaded again.
    SessionRecovered = "session.recovered", Info, ["record", "replacedThreadId", "sessionId", "threadId"];
    /// A session's thread could not be loaded again; the session stays active.
    SessionRecoveryFailed = "session.recovery.failed", Error, ["error", "sessionId", "threadId"];
    /// A session is over.
    SessionClosed = "session.closed", Info, ["sessionId", "threadId"];
    /// The app-server accepted a turn or a steer.
    TurnAccepted = "turn.accepted", Info, ["sandboxPolicy", "sessionId", "steered", "threadId", "turnId"];
    /// A run was accepted.
    RunQueued = "run.queued", Info, ["cwd", "purpose", "record", "runId", "sessionId"];
    /// A run's process runs.
    RunStarted = "run.started", Info, ["runId", "sessionId"];
    /// One line of a run's JSON output.
    RunOutput = "run.output", Info, ["event", "runId", "sessionId"];
    /// A run ended with 0.
    RunCompleted = "run.completed", Info, ["record", "runId", "sessionId"];
    /// A run failed.
    RunFailed = "run.failed", Error, ["record", "runId", "sessionId"];
    /// Codex asks something of its client.
    RequestOpened = "request.opened", Warn, ["itemId", "kind", "method", "params", "record", "requestId", "sessionId", "status", "threadId", "turnId"];
    /// It was answered.
    RequestAnswered = "request.answered", Info, ["kind", "method", "record", "requestId", "sessionId", "status", "threadId", "turnId"];
    /// It was declined at its deadline.
    RequestExpired = "request.expired", Warn, ["kind", "method", "record", "requestId", "sessionId", "status", "threadId", "turnId"];
    /// Codex withdrew it.
    RequestCancelled = "request.cancelled", Info, ["kind", "method", "record", "requestId", "sessionId", "status", "threadId", "turnId"];
    /// The app-server that asked is gone.
    RequestOrphaned = "request.orphaned", Warn, ["kind", "method", "record", "requestId", "sessionId", "status", "threadId", "turnId"];
    /// Codex asked what no client of codexd can answer.
    RequestUnsupported = "request.unsupported", Warn, ["method", "params", "threadId"];
    /// The protocol's handshake is done.
    AppServerConnected = "app-server.connected", Info, ["endpoint", "platformFamily", "platformOs", "userAgent"];
    /// It failed.
    AppServerConnectFailed = "app-server.connect.failed", Error, ["endpoint"];
    /// The connection could not be closed in order.
    AppServerCloseFailed = "app-server.close.failed", Warn, [];
    /// The connection ended unasked.
    TransportClosed = "app-server.transport.closed", Warn, ["exitCode", "flushedTrailingMessage", "signal", "source", "trailingMessageLength"];
    /// A turn was in flight when it did.
    TurnMissing = "app-server.turn.completed.missing", Error, ["childExitCode", "childPid", "childSignal", "childStatus", "failureClass", "flushedTrailingMessage", "sessionId", "threadId", "trailingMessageLength", "transportCloseMessage", "transportCloseSource", "turnId", "turnStatusAtClose"];
    /// The app-server wrote something that is no message of the protocol, or is longer than --max-line-bytes.
    MessageUnreadable = "app-server.message.unreadable", Warn, ["bytes", "reason"];
    /// `thread/started`.
    ThreadStarted = "app-server.thread.started", Info, ["threadId"];
    /// `thread/status/changed`.
    ThreadStatusChanged = "app-server.thread.status.changed", Info, ["status", "threadId"];
    /// `turn/started`.
    TurnStarted = "app-server.turn.started", Info, ["threadId", "turnId"];
    /// `turn/completed`.
    TurnCompleted = "app-server.turn.completed", Info, ["status", "threadId", "turnId"];
    /// `turn/diff/updated`.
    TurnDiffUpdated = "app-server.turn.diff.updated", Info, ["diff", "threadId", "turnId"];
    /// `turn/plan/updated`.
    TurnPlanUpdated = "app-server.turn.plan.updated", Info, ["explanation", "plan", "threadId", "turnId"];
    /// `item/agentMessage/delta`.
    MessageDelta = "app-server.turn.message.delta", Info, ["delta", "itemId", "threadId", "turnId"];
    /// `item/plan/delta`.
    PlanDelta = "app-server.turn.plan.delta", Info, ["delta", "itemId", "threadId", "turnId"];
    /// `error`.
    TurnError = "app-server.turn.error", Error, ["error", "threadId", "turnId", "willRetry"];
    /// `command/exec/outputDelta` (warn for its standard error).
    CommandOutputDelta = "app-server.command.output.delta", Info, ["capReached", "deltaBase64", "processId", "stream"];
    /// Any other notification, its params whole.
    Notification = "app-server.notification", Info, ["notificationMethod", "params"];
    /// A file of the store was damaged and has been set aside or rebuilt.
    StoreRepaired = "store.repaired", Warn, ["file", "keptAs", "problem"];
    /// The event log could not be written for a while; what came meanwhile was held back.
    StoreResumed = "store.resumed", Warn, ["reason", "stalledMs"];
    /// A stream client could not keep up and was cut off.
    StreamClientLagged = "stream.client.lagged", Warn, ["afterSeq"];
}

/// An event as it stands in the log and on every stream, its detail's text untouched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// From 1, one more each, never used again.
    pub seq: u64,
    /// When the hub took it.
    pub created_at: String,
    /// How much it matters.
    pub level: Level,
    /// Its type's name; a newer version's type is kept as it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// One line for a person.
    pub message: String,
    /// What is particular to its type.
    pub detail: Option<Box<RawValue>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for &kind in EventType::ALL {
            assert_eq!(EventType::from_name(kind.name()), Some(kind));
            let mut sorted = kind.fields().to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, kind.fields(), "{}: fields in alphabetical order", kind.name());
        }
    }
}
