//! The one table of flags and the one table of actions. Parser, help, tests (and man page and completions) read them;
//! a new flag is a row here and a field in [`LowArgs`].

use log::LevelFilter;

use super::low::{Expected, LowArgs, Restart, count, millis, number, one_of};
use super::{completions, service};
use crate::config::{ApiBase, Mode, RequestPolicy, Strategy, Sync};
use crate::http::routes;
use crate::model::record::worded;
use crate::ops::runs::SANDBOXES;

/// What the program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table of actions says what each does")]
pub enum Action {
    Start,
    Status,
    Config,
    Smoke,
    Run,
    Ask,
    Tail,
    Sessions,
    Runs,
    Requests,
    Answer,
    Doctor,
    Service,
    Completions,
    Man,
    Help,
    StubAppServer,
    StubExec,
}

/// What may follow an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// Flags only.
    None,
    /// Flags, and these words, which must all be there; each text is a word's placeholder.
    Words(&'static [&'static str]),
    /// Anything, passed on as it is: none of it is a flag of codexd. The action is for codexd's own use.
    Raw,
}

/// A row of [`ACTIONS`].
#[derive(Debug)]
pub struct ActionRow {
    /// The action.
    pub action: Action,
    /// The word on the command line.
    pub name: &'static str,
    /// One line for the help.
    pub doc: &'static str,
    /// What may follow.
    pub operands: Operands,
}

const fn action(action: Action, name: &'static str, doc: &'static str) -> ActionRow {
    ActionRow { action, name, doc, operands: Operands::None }
}

const fn with_words(
    action: Action,
    name: &'static str,
    words: &'static [&'static str],
    doc: &'static str,
) -> ActionRow {
    ActionRow { action, name, doc, operands: Operands::Words(words) }
}

const fn stand_in(action: Action, name: &'static str, doc: &'static str) -> ActionRow {
    ActionRow { action, name, doc, operands: Operands::Raw }
}

/// Every action in the order of the help text, the default one first.
pub const ACTIONS: &[ActionRow] = &[
    action(Action::Start, "start", "Run the daemon until SIGINT, SIGTERM or SIGHUP (the default)"),
    action(Action::Status, "status", "Show the daemon of this state folder; only reads its files"),
    action(Action::Config, "config", "Show the configuration that flags and variables amount to"),
    action(Action::Smoke, "smoke", "Test codexd itself with a built-in child; needs no Codex"),
    with_words(
        Action::Run,
        "run",
        &["PROMPT"],
        "Have the running daemon do a one-shot run and print its last message; - reads PROMPT from standard input",
    ),
    with_words(
        Action::Ask,
        "ask",
        &["PROMPT"],
        "Ask Codex through the running daemon: the answer goes to standard output, progress to standard error, \
         approvals are asked here; - reads PROMPT from standard input",
    ),
    action(Action::Tail, "tail", "Show the running daemon's events as they happen, or from --after on"),
    action(Action::Sessions, "sessions", "List the running daemon's sessions"),
    action(Action::Runs, "runs", "List its one-shot runs"),
    action(Action::Requests, "requests", "List what Codex asks and nobody has answered yet"),
    with_words(
        Action::Answer,
        "answer",
        &["ID", "accept|acceptForSession|decline|cancel"],
        "Answer such a request; instead of the decision, a JSON object is the body of the answer as the API takes it",
    ),
    action(Action::Doctor, "doctor", "Check what codexd needs on this host, and say what to do"),
    with_words(
        Action::Service,
        "service",
        &[service::VERBS],
        "Run codexd under launchd or systemd: write its file (with the settings given here), remove it, or show it",
    ),
    with_words(
        Action::Completions,
        "completions",
        &[completions::SHELLS],
        "Print the completions for a shell, to be put where that looks for them",
    ),
    action(Action::Man, "man", "Print the manual page (roff)"),
    action(Action::Help, "help", "Show this text"),
    stand_in(Action::StubAppServer, "stub-app-server", "Built-in stand-in for `codex app-server`"),
    stand_in(Action::StubExec, "stub-exec", "Built-in stand-in for `codex exec`"),
];

worded! {
    /// The part of the help text a flag stands in, with its heading, in the order of that text.
    #[expect(missing_docs, reason = "see heading")]
    Group {
        Place = "Who and where",
        Service = "REST API and event stream",
        Server = "App-server",
        Supervision = "Supervision",
        Runs = "One-shot runs (codex exec)",
        Logs = "Logs on disk",
        OneRun = "The run of codexd run",
        Client = "What codexd tail, ask, run and requests are about",
        Unit = "The service of codexd service",
        Output = "This call",
    }
}

/// How a flag changes the settings; the text is the value's placeholder.
#[derive(Debug, Clone, Copy)]
pub enum Update {
    /// Without a value; a variable says true or false.
    Switch(fn(&mut LowArgs, bool)),
    /// With one value, trimmed and never blank; of several the last wins.
    One(&'static str, fn(&mut LowArgs, &str) -> Result<(), Expected>),
    /// With one value each time, which add up.
    Many(&'static str, fn(&mut LowArgs, Vec<String>)),
}

/// A row of [`FLAGS`].
#[derive(Debug)]
pub struct Flag {
    /// Without the dashes.
    pub name: &'static str,
    /// Variables, the first that is set wins.
    pub env: &'static [&'static str],
    /// The default for people; empty for none.
    pub default: &'static str,
    /// The actions it is for; none named means every one.
    pub actions: &'static [Action],
    /// Where it stands in the help.
    pub group: Group,
    /// What it is, for the help.
    pub doc: &'static str,
    /// What it does.
    pub update: Update,
}

impl Flag {
    /// The placeholder of its value; `None` for a switch.
    pub const fn value(&self) -> Option<&'static str> {
        match self.update {
            Update::Switch(_) => None,
            Update::One(value, _) | Update::Many(value, _) => Some(value),
        }
    }
}

/// `flag!(group, name, [variables], default, doc, update)`; `for Action, …` before the group if it is not for all.
macro_rules! flag {
    ($group:ident, $name:literal, [$($env:literal),*], $default:literal, $doc:literal, $update:expr) => {
        Flag {
            name: $name,
            env: &[$($env),*],
            default: $default,
            actions: &[],
            group: Group::$group,
            doc: $doc,
            update: $update,
        }
    };
    (for $($action:ident),+; $($row:tt)*) => {
        Flag { actions: &[$(Action::$action),+], ..flag!($($row)*) }
    };
}

/// One value that goes into a field: as text, or by a function that may refuse it.
macro_rules! one {
    ($value:literal, $($field:ident).+) => {
        Update::One($value, |low, value| {
            low.$($field).+ = Some(value.to_owned());
            Ok(())
        })
    };
    ($value:literal, $($field:ident).+, $read:expr) => {
        Update::One($value, |low, value| {
            low.$($field).+ = Some($read(value)?);
            Ok(())
        })
    };
}

macro_rules! switch {
    ($($field:ident).+) => {
        Update::Switch(|low, on| low.$($field).+ = on)
    };
}

/// Every flag, in the order of the help text.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    flag!(Place, "repo-root", ["BAA_CODEXD_REPO_ROOT"], "current directory",
        "Repository the daemon works for", one!("PATH", repo_root)),
    flag!(Place, "node-id", ["BAA_NODE_ID"], "mini-main",
        "Name of this host among its kind", one!("ID", node_id, one_line)),
    flag!(Place, "logs-dir", ["BAA_CODEXD_LOGS_DIR", "BAA_LOGS_DIR"], "<repo root>/logs",
        "Logs root; the logs are in its folder codexd", one!("PATH", logs_dir)),
    flag!(Place, "state-dir", ["BAA_CODEXD_STATE_DIR", "BAA_STATE_DIR"], "<repo root>/state",
        "State root; the state is in its folder codexd", one!("PATH", state_dir)),
    flag!(Place, "version", ["BAA_CODEXD_VERSION"], "",
        "Version recorded in the identity and sent to the app-server; as the last word (and as -V) it \
         prints the version of this program instead", one!("STRING", version, one_line)),

    flag!(Service, "local-api-base", ["BAA_CODEXD_LOCAL_API_BASE"], "http://127.0.0.1:4319",
        "Where the API listens: http:// on a loopback host; port 0 is any free port",
        one!("URL", local_api_base, ApiBase::parse)),
    flag!(Service, "event-stream-path", ["BAA_CODEXD_EVENT_STREAM_PATH"], "/v1/codexd/events",
        "Path of the event stream", one!("PATH", event_stream_path, url_path)),
    flag!(Service, "token-file", ["BAA_CODEXD_TOKEN_FILE"], "",
        "Demand the bearer token in this file; it is made if missing", one!("PATH", token_file)),
    flag!(Service, "require-token", ["BAA_CODEXD_REQUIRE_TOKEN"], "off",
        "Refuse to start without --token-file", switch!(require_token)),
    flag!(Service, "allow-other-users", ["BAA_CODEXD_ALLOW_OTHER_USERS"], "off",
        "Serve connections of other users of this host too; as a client, talk to their daemons",
        switch!(allow_other_users)),

    flag!(Server, "mode", ["BAA_CODEXD_MODE"], "app-server",
        "The child speaks the app-server protocol, or is a plain process whose output becomes events",
        one!("app-server|exec", mode, |value| one_of(Mode::ALL, value))),
    flag!(Server, "server-strategy", ["BAA_CODEXD_SERVER_STRATEGY"], "spawn",
        "Start the app-server, or reach one that runs elsewhere",
        one!("spawn|external", strategy, |value| one_of(Strategy::ALL, value))),
    flag!(Server, "server-endpoint", ["BAA_CODEXD_SERVER_ENDPOINT"], "stdio://codex-app-server",
        "Endpoint of the app-server; ws, wss, http or https when external", one!("URL", endpoint, one_line)),
    flag!(Server, "server-token-file", ["BAA_CODEXD_SERVER_TOKEN_FILE"], "",
        "File with the bearer token that an external app-server demands; read at each connection",
        one!("PATH", server_token_file)),
    flag!(Server, "server-ca-file", ["BAA_CODEXD_SERVER_CA_FILE"], "",
        "PEM file with the certificates to trust for wss:// and https:// instead of the system's", one!("PATH", server_ca_file)),
    flag!(Server, "server-command", ["BAA_CODEXD_SERVER_COMMAND"], "codex",
        "Command of the child", one!("CMD", command)),
    flag!(Server, "server-arg", ["BAA_CODEXD_SERVER_ARGS"], "app-server",
        "Argument of the child, repeatable; the first replaces the inherited list. The variable is a JSON \
         array of strings or words; blank means no arguments",
        Update::Many("ARG", |low, words| low.args = Some(words))),
    flag!(Server, "server-cwd", ["BAA_CODEXD_SERVER_CWD"], "repo root",
        "Working directory of the child", one!("PATH", server_cwd)),

    flag!(Supervision, "restart", ["BAA_CODEXD_RESTART"], "always",
        "Start the child again when it ends unasked; in exec mode only if asked for explicitly",
        one!("always|never", restart, |value| one_of(Restart::ALL, value))),
    flag!(Supervision, "stop-timeout-ms", ["BAA_CODEXD_STOP_TIMEOUT_MS"], "5000",
        "From SIGTERM to SIGKILL when a child is stopped", one!("N", stop_timeout, |value| millis(0, value))),
    flag!(Supervision, "drain-timeout-ms", ["BAA_CODEXD_DRAIN_TIMEOUT_MS"], "0",
        "How long a stop waits for running turns and runs", one!("N", drain_timeout, |value| millis(0, value))),
    flag!(Supervision, "app-server-timeout-ms", ["BAA_CODEXD_APP_SERVER_TIMEOUT_MS"], "60000",
        "Deadline of one call to the app-server", one!("N", call_timeout, |value| millis(1, value))),
    flag!(Supervision, "max-line-bytes", ["BAA_CODEXD_MAX_LINE_BYTES"], "67108864",
        "Longest line taken from the app-server; 0 is unlimited", one!("N", max_line_bytes, |value| count(0, value))),
    flag!(Supervision, "request-policy", ["BAA_CODEXD_REQUEST_POLICY"], "hold",
        "Keep what Codex asks (approvals, questions) for a client, or decline at once",
        one!("hold|decline", request_policy, |value| one_of(RequestPolicy::ALL, value))),
    flag!(Supervision, "request-timeout-ms", ["BAA_CODEXD_REQUEST_TIMEOUT_MS"], "1800000",
        "When such a request is declined after all; 0 is never", one!("N", request_timeout, |value| millis(0, value))),

    flag!(Runs, "codex-command", ["BAA_CODEXD_CODEX_COMMAND"], "codex",
        "Codex for runs; a --server-command that is a path to codex is the default",
        one!("CMD", codex_command)),
    flag!(Runs, "max-concurrent-runs", ["BAA_CODEXD_MAX_CONCURRENT_RUNS"], "4",
        "How many run at once, 1 or more", one!("N", max_concurrent, |value| count(1, value))),
    flag!(Runs, "max-queued-runs", ["BAA_CODEXD_MAX_QUEUED_RUNS"], "256",
        "How many may wait beyond that", one!("N", max_queued, |value| count(0, value))),

    flag!(Logs, "event-cache-size", ["BAA_CODEXD_EVENT_CACHE_SIZE"], "50",
        "How many recent events are kept at hand, with 16 MiB of them at most", one!("N", event_cache_size, |value| count(0, value))),
    flag!(Logs, "max-log-bytes", ["BAA_CODEXD_MAX_LOG_BYTES"], "67108864",
        "Size at which a log begins a new segment; 0 is never", one!("N", max_log_bytes, |value| number(0, value))),
    flag!(Logs, "keep-segments", ["BAA_CODEXD_KEEP_SEGMENTS"], "16",
        "Old segments kept of each log; 0 is all", one!("N", keep_segments, |value| count(0, value))),
    flag!(Logs, "sync", ["BAA_CODEXD_SYNC"], "interval",
        "When the event log is forced to the disk: once a second, before each announcement, or never",
        one!("interval|always|never", sync, |value| one_of(Sync::ALL, value))),

    flag!(for Run; OneRun, "model", [], "", "The model", one!("NAME", run.model)),
    flag!(for Run; OneRun, "profile", [], "", "The profile of Codex's configuration", one!("NAME", run.profile)),
    flag!(for Run; OneRun, "sandbox", [], "",
        "What commands may do",
        one!("read-only|workspace-write|danger-full-access", run.sandbox, |value| one_of(SANDBOXES, value).map(str::to_owned))),
    flag!(for Run; OneRun, "codex-config", [], "",
        "Override of Codex's configuration, repeatable", Update::Many("KEY=VALUE", |low, values| low.run.config = values)),
    flag!(for Run; OneRun, "add-dir", [], "",
        "Further folder that may be written, repeatable", Update::Many("PATH", |low, paths| low.run.add_dirs = paths)),
    flag!(for Run; OneRun, "image", [], "",
        "Picture for the prompt, repeatable", Update::Many("PATH", |low, paths| low.run.images = paths)),
    flag!(for Run; OneRun, "output-schema", [], "",
        "File with the JSON Schema of the last message", one!("PATH", run.output_schema)),
    flag!(for Run; OneRun, "skip-git-repo-check", [], "off",
        "Work outside a git repository too", switch!(run.skip_git_repo_check)),
    flag!(for Run; OneRun, "ephemeral", [], "off", "Keep nothing of the thread", switch!(run.ephemeral)),
    flag!(for Run; OneRun, "timeout-ms", [], "300000",
        "The time limit, 1 or more", one!("N", run.timeout_ms, |value| number(1, value))),

    flag!(for Tail; Client, "after", [], "now",
        "Begin with the first event after this seq; 0 is all there is",
        one!("SEQ", people.after, |value| number(0, value))),
    flag!(for Tail; Client, "type", [], "all",
        "Only events whose type begins so, repeatable",
        Update::Many("PREFIX", |low, prefixes| low.people.types = prefixes)),
    flag!(for Tail, Ask; Client, "session", [], "",
        "tail: only the events of this session; ask: go on with it instead of a new one", one!("ID", people.session)),
    flag!(for Ask, Run; Client, "cwd", [], "run: the repo root; ask: where the app-server runs",
        "Where Codex works", one!("PATH", people.cwd)),
    flag!(for Requests; Client, "all", [], "off", "Those that are settled too", switch!(people.all)),

    flag!(for Service; Unit, "launchd", [], "off", "The service of macOS, which is the default there", switch!(launchd)),
    flag!(for Service; Unit, "systemd", [], "off", "The user unit of systemd, the default elsewhere", switch!(systemd)),

    flag!(Output, "json", [], "off", "Print JSON instead of lines", switch!(json)),
    flag!(Output, "run-once", [], "off", "start: wait the smoke lifetime, then stop", switch!(run_once)),
    flag!(Output, "smoke-lifetime-ms", ["BAA_CODEXD_SMOKE_LIFETIME_MS"], "100",
        "How long --run-once lets the daemon live", one!("N", smoke_lifetime, |value| millis(0, value))),
    flag!(Output, "log-level", ["BAA_CODEXD_LOG"], "warn; info for start",
        "How much codexd says on standard error: error, warn, info, debug, trace or off", one!("LEVEL", log_level, |value| one_of(LEVELS, value))),
];

const LEVELS: &[(&str, LevelFilter)] = &[
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
    ("off", LevelFilter::Off),
];

/// What stands in the status line.
fn one_line(value: &str) -> Result<String, Expected> {
    if value.chars().any(char::is_control) {
        return Err("must be one line without control characters".to_owned());
    }
    Ok(value.to_owned())
}

/// The path of a URL, without a query.
fn url_path(value: &str) -> Result<String, Expected> {
    if !value.starts_with('/') || value.contains(['?', '#']) {
        return Err("must be a path that begins with / and has no query".to_owned());
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be of ASCII characters without blanks; percent-encode what is none".to_owned());
    }
    if routes::is_taken(value) {
        return Err("must be a path that nothing else is served at".to_owned());
    }
    Ok(value.to_owned())
}
