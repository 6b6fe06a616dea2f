//! The records and what else answers are made of. A test holds every answer of a daemon against these tables, in both
//! directions: what a table has must be there, and what is there a table must have.

use super::shape::{Member, Shape};
use crate::config::{Mode, Strategy};
use crate::model::record::{
    ChildStatus, RequestKind, RequestPolicy, RequestStatus, RunStatus, SessionPurpose, SessionStatus,
};
use crate::ops::ready::Checks;
use Shape::{Any, Count, Flag, List, Map, Number, Object, Or, Ref, Text, Time, Words};

/// A named schema.
#[derive(Debug)]
pub struct Component {
    /// Its name in the document.
    pub name: &'static str,
    /// What it is.
    pub doc: &'static str,
    /// Its members.
    pub members: &'static [Member],
}

const TEXT: Shape = Or(&Text);
const TIME: Shape = Or(&Time);
const COUNT: Shape = Or(&Count);
const IDEMPOTENCY: Shape = Or(&Ref("Idempotency"));

/// One member for each check, as they are declared.
const CHECKS: [Member; Checks::ALL.len()] = {
    let mut members = [("", Ref("Check"), ""); Checks::ALL.len()];
    let mut at = 0;
    while at < members.len() {
        (members[at].0, members[at].2) = Checks::ALL[at];
        at += 1;
    }
    members
};

/// Every one.
#[rustfmt::skip]
pub const COMPONENTS: &[Component] = &[
    Component { name: "Session", doc: "One thread of Codex and what it is doing.", members: &[
        ("sessionId", Text, ""),
        ("purpose", Words(SessionPurpose::NAMES), ""),
        ("threadId", TEXT, "Codex's own id of the thread"),
        ("status", Words(SessionStatus::NAMES), ""),
        ("endpoint", Text, "the app-server's"),
        ("childPid", COUNT, ""),
        ("createdAt", Time, ""),
        ("updatedAt", Time, ""),
        ("cwd", TEXT, ""),
        ("model", TEXT, ""),
        ("modelProvider", TEXT, ""),
        ("serviceTier", TEXT, ""),
        ("reasoningEffort", TEXT, ""),
        ("currentTurnId", TEXT, "the turn that runs"),
        ("lastTurnId", TEXT, ""),
        ("lastTurnStatus", TEXT, "in Codex's words: inProgress, completed, interrupted, failed"),
        ("metadata", Map(&Text), ""),
        ("generation", COUNT, "which life of the app-server has the thread loaded"),
        ("lastError", TEXT, "why the thread could last not be resumed"),
        ("threadParams", Any, "what the thread was asked for with"),
        ("requestPolicy", Or(&Words(RequestPolicy::NAMES)), "null for the daemon's own"),
        ("requestTimeoutMs", COUNT, "null for the daemon's own"),
        ("idempotency", IDEMPOTENCY, ""),
    ]},
    Component { name: "Run", doc: "A one-shot `codex exec`.", members: &[
        ("runId", Text, ""),
        ("sessionId", TEXT, ""),
        ("status", Words(RunStatus::NAMES), ""),
        ("adapter", Words(&["codex-exec"]), ""),
        ("prompt", Text, ""),
        ("purpose", TEXT, ""),
        ("cwd", TEXT, "as it was asked for"),
        ("createdAt", Time, ""),
        ("updatedAt", Time, ""),
        ("startedAt", TIME, ""),
        ("finishedAt", TIME, ""),
        ("error", TEXT, ""),
        ("summary", TEXT, "the last message, or exit_code:N"),
        ("metadata", Map(&Text), ""),
        ("result", Or(&Object), "the whole outcome: ok, invocation, result or error"),
        ("idempotency", IDEMPOTENCY, ""),
    ]},
    Component { name: "Request", doc: "Something that Codex asked of its client.", members: &[
        ("requestId", Text, ""),
        ("method", Text, "the protocol's"),
        ("kind", Words(RequestKind::NAMES), ""),
        ("sessionId", TEXT, ""),
        ("threadId", TEXT, ""),
        ("turnId", TEXT, ""),
        ("itemId", TEXT, ""),
        ("params", Any, "whole, as Codex sent them; with the changes, for a file change"),
        ("status", Words(RequestStatus::NAMES), ""),
        ("createdAt", Time, ""),
        ("updatedAt", Time, ""),
        ("deadline", TIME, "when it is declined if nobody answers"),
        ("answer", Any, "what was sent to Codex"),
        ("appServerRequestId", Any, "Codex's own id for it"),
        ("generation", Count, "which life of the app-server asked"),
    ]},
    Component { name: "Event", doc: "Something that happened.", members: &[
        ("seq", Count, "from 1, one more each, never used again"),
        ("createdAt", Time, ""),
        ("level", Words(&["info", "warn", "error"]), ""),
        ("type", Text, ""),
        ("message", Text, "one line for a person"),
        ("detail", Or(&Object), "by type"),
    ]},
    Component { name: "Idempotency", doc: "The key that a record was made with.", members: &[
        ("key", Text, ""),
        ("body", Text, "a digest of the body"),
    ]},
    Component { name: "Identity", doc: "Who this daemon is.", members: &[
        ("daemonId", TEXT, "a UUID, kept for ever"),
        ("nodeId", Text, ""),
        ("repoRoot", Text, ""),
        ("createdAt", TIME, ""),
        ("version", TEXT, "the one given by configuration"),
    ]},
    Component { name: "Child", doc: "The app-server, or the plain child of exec mode.", members: &[
        ("strategy", Words(Strategy::NAMES), ""),
        ("mode", Words(Mode::NAMES), ""),
        ("endpoint", Text, ""),
        ("status", Words(ChildStatus::NAMES), ""),
        ("command", TEXT, ""),
        ("args", List(&Text), ""),
        ("cwd", TEXT, ""),
        ("pid", COUNT, ""),
        ("startedAt", TIME, ""),
        ("exitedAt", TIME, ""),
        ("exitCode", Or(&Number), ""),
        ("signal", TEXT, "by name"),
        ("lastError", TEXT, ""),
        ("generation", Count, "which life this is, over all lives of the daemon"),
        ("restarts", Count, "in this life of the daemon"),
        ("connected", Or(&Flag), "whether an external app-server is connected; null for a child"),
    ]},
    Component { name: "Daemon", doc: "The daemon and its child.", members: &[
        ("started", Flag, ""),
        ("startedAt", TIME, ""),
        ("stoppedAt", TIME, ""),
        ("updatedAt", Time, ""),
        ("pid", COUNT, ""),
        ("child", Ref("Child"), ""),
        ("resolvedBaseUrl", TEXT, "where it listens while it runs"),
    ]},
    Component { name: "Service", doc: "The port.", members: &[
        ("configuredBaseUrl", Text, ""),
        ("eventStreamPath", Text, ""),
        ("eventStreamUrl", TEXT, ""),
        ("listening", Flag, ""),
        ("resolvedBaseUrl", TEXT, ""),
        ("websocketClients", Count, ""),
    ]},
    Component { name: "SessionRegistry", doc: "The sessions.", members: &[
        ("updatedAt", TIME, ""),
        ("sessions", List(&Ref("Session")), "in order of creation"),
    ]},
    Component { name: "RunRegistry", doc: "The runs.", members: &[
        ("updatedAt", TIME, ""),
        ("runs", List(&Ref("Run")), "in order of creation"),
    ]},
    Component { name: "RecentEvents", doc: "The last events.", members: &[
        ("maxEntries", Count, ""),
        ("updatedAt", TIME, ""),
        ("events", List(&Ref("Event")), "in order of seq"),
    ]},
    Component { name: "Snapshot", doc: "Everything, at one moment.", members: &[
        ("config", Object, "what `codexd config --json` prints"),
        ("identity", Ref("Identity"), ""),
        ("daemon", Ref("Daemon"), ""),
        ("sessionRegistry", Ref("SessionRegistry"), ""),
        ("runRegistry", Ref("RunRegistry"), ""),
        ("recentEvents", Ref("RecentEvents"), ""),
    ]},
    Component { name: "Check", doc: "One thing that must be so.", members: &[
        ("ok", Flag, ""),
        ("detail", TEXT, "why not, or what there is to say"),
    ]},
    Component { name: "Checks", doc: "What readiness is made of.", members: &CHECKS },
    Component { name: "Readiness", doc: "Whether the daemon can do its work now.", members: &[
        ("ok", Flag, ""),
        ("status", Words(&["ready", "unready"]), ""),
        ("checks", Ref("Checks"), ""),
    ]},
    Component { name: "Health", doc: "The process serves.", members: &[
        ("ok", Flag, ""),
        ("status", Words(&["ok"]), ""),
        ("service", Ref("Service"), ""),
    ]},
    Component { name: "Gap", doc: "Events that are not there any more, both ends included.", members: &[
        ("from", Count, ""),
        ("to", Count, ""),
    ]},
];
