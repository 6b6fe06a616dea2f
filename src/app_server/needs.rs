//! What codexd needs of an app-server: the requests it sends, each with the params it always gives. The tests hold every
//! line that codexd sends against this table and against Codex's own schema; `ops::drift` holds a schema against it.

/// The oldest Codex that is known to work.
pub const OLDEST: &str = "0.120";

/// A request that codexd sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// The method.
    pub method: &'static str,
    /// The params that it always has; a client's own come on top.
    pub always: &'static [&'static str],
    /// What does not work without it.
    pub without: &'static str,
    /// Whether nothing works then.
    pub vital: bool,
}

const fn vital(method: &'static str, always: &'static [&'static str]) -> Need {
    Need { method, always, without: "sessions and turns do not work", vital: true }
}

const fn useful(method: &'static str, always: &'static [&'static str], without: &'static str) -> Need {
    Need { method, always, without, vital: false }
}

/// Every request of codexd's own.
pub const REQUESTS: &[Need] = &[
    vital("initialize", &["clientInfo", "capabilities"]),
    vital("thread/start", &[]),
    vital("turn/start", &["threadId", "input"]),
    useful(
        "thread/resume",
        &["threadId", "excludeTurns"],
        "a session does not survive a restart of the app-server",
    ),
    useful("turn/steer", &["threadId", "input", "expectedTurnId"], "a running turn cannot be steered"),
    useful("turn/interrupt", &["threadId", "turnId"], "a running turn cannot be interrupted"),
    useful(
        "thread/turns/list",
        &["threadId", "limit"],
        "after a crash or a cut it is not known what became of a running turn",
    ),
];

/// What codexd tells an app-server.
pub const NOTIFICATIONS: &[&str] = &["initialized"];

/// Without these notifications codexd does not know what a session is doing.
pub const EVENTS: &[&str] = &[
    "thread/started",
    "thread/status/changed",
    "turn/started",
    "turn/completed",
    "item/agentMessage/delta",
    "serverRequest/resolved",
    "error",
];

/// The need for that method, if it is one of codexd's requests.
pub fn request(method: &str) -> Option<&'static Need> {
    REQUESTS.iter().find(|need| need.method == method)
}
