//! What codexd needs of an app-server: the requests it sends, each with the params it always gives. The tests hold every
//! request that codexd sends against this table, and every line against Codex's own schema; `ops::drift` holds a schema against it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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

/// Of the versions tried, the first whose `turn/start` beside a running turn answers with the id of that turn.
pub const NAMES_RUNNING_TURN: &str = "0.150.0";

/// The first version that loads a thread again with the approval policy that it had.
pub const RESTORES_APPROVAL_POLICY: &str = "0.163.0";

/// What came of `make matrix`: each version that was tried, the newest first, and how each scenario went.
const TRIED: &str = include_str!("tried.json");

/// The versions that codexd was tried with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// The day, as 2026-01-31.
    pub date: String,
    /// Each of them, the newest first.
    pub versions: Vec<TriedVersion>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriedVersion {
    /// Of Codex.
    pub version: String,
    /// Scenarios by name: `works`, `degraded: …` or `refused: …`.
    pub results: BTreeMap<String, String>,
}

/// The versions that codexd was tried with.
pub fn tried() -> Tried {
    // A test reads it: it can be read.
    serde_json::from_str(TRIED).unwrap_or_else(|_| Tried { date: String::new(), versions: Vec::new() })
}

impl TriedVersion {
    /// Whether every scenario could be gone through.
    pub fn is_usable(&self) -> bool {
        self.results.values().all(|outcome| !outcome.starts_with("refused"))
    }
}

/// The oldest and the newest of those that can be used.
pub fn tried_range() -> (String, String) {
    let usable: Vec<TriedVersion> = tried().versions.into_iter().filter(TriedVersion::is_usable).collect();
    let name = |version: Option<&TriedVersion>| {
        version.map_or_else(|| OLDEST.to_owned(), |tried| tried.version.clone())
    };
    (name(usable.last()), name(usable.first()))
}

/// The need for that method, if it is one of codexd's requests.
pub fn request(method: &str) -> Option<&'static Need> {
    REQUESTS.iter().find(|need| need.method == method)
}
