//! The resolved configuration: everything validated, every path absolute.
//!
//! Where the values come from (flags, variables, defaults) is the business of `cli::flags`.

mod api_base;
mod endpoint;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::record::worded;

pub use crate::model::record::RequestPolicy;
pub use api_base::ApiBase;
pub use endpoint::Endpoint;
pub use view::ConfigView;

worded! {
    /// What drives Codex: an app-server with sessions and turns, or a plain supervised child.
    Mode {
        /// The child (or the external server) speaks the app-server protocol.
        AppServer = "app-server",
        /// The child is a plain process; its output becomes events.
        Exec = "exec",
    }
}

worded! {
    /// Where the app-server comes from.
    Strategy {
        /// codexd starts it and owns it.
        Spawn = "spawn",
        /// It runs elsewhere and is reached over WebSocket.
        External = "external",
    }
}

worded! {
    /// When the event log is forced to the disk.
    Sync {
        /// fdatasync(2) at most once a second.
        Interval = "interval",
        /// fdatasync(2) before an event is announced.
        Always = "always",
        /// The kernel decides.
        Never = "never",
    }
}

/// The files and folders, all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Root of the repository the daemon works for.
    pub repo_root: PathBuf,
    /// Logs root as given.
    pub logs_root: PathBuf,
    /// State root as given.
    pub state_root: PathBuf,
    /// `<logs root>/codexd`.
    pub logs_dir: PathBuf,
    /// `<state root>/codexd`.
    pub state_dir: PathBuf,
}

/// The name of the event log's current segment.
pub const EVENTS: &str = "events.jsonl";
/// The name of its lock.
pub const LOG_LOCK: &str = "events.lock";

impl Paths {
    /// The event log's current segment.
    pub fn events(&self) -> PathBuf {
        self.logs_dir.join(EVENTS)
    }
    /// The child's raw standard output.
    pub fn stdout_log(&self) -> PathBuf {
        self.logs_dir.join("stdout.log")
    }
    /// The child's raw standard error.
    pub fn stderr_log(&self) -> PathBuf {
        self.logs_dir.join("stderr.log")
    }
    /// The daemon's identity.
    pub fn identity(&self) -> PathBuf {
        self.state_dir.join("identity.json")
    }
    /// The daemon's and the child's state.
    pub fn daemon_state(&self) -> PathBuf {
        self.state_dir.join("daemon-state.json")
    }
    /// The sessions.
    pub fn session_registry(&self) -> PathBuf {
        self.state_dir.join("session-registry.json")
    }
    /// The runs.
    pub fn run_registry(&self) -> PathBuf {
        self.state_dir.join("run-registry.json")
    }
    /// The requests Codex made of its client.
    pub fn request_registry(&self) -> PathBuf {
        self.state_dir.join("request-registry.json")
    }
    /// The last events.
    pub fn recent_events(&self) -> PathBuf {
        self.state_dir.join("recent-events.json")
    }
    /// The lock that makes one daemon of a state folder.
    pub fn lock(&self) -> PathBuf {
        self.state_dir.join("lock")
    }
    /// The lock that makes one daemon of a log.
    pub fn log_lock(&self) -> PathBuf {
        self.logs_dir.join(LOG_LOCK)
    }
    /// What was spawned and is not yet known to have ended.
    pub fn processes(&self) -> PathBuf {
        self.state_dir.join("processes.json")
    }
}

/// The REST API and the event stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Path of the event stream, beginning with `/`.
    pub event_stream_path: String,
    /// Where the API listens.
    pub local_api_base: ApiBase,
    /// File with the bearer token, if one is demanded.
    pub token_file: Option<PathBuf>,
    /// Refuse to start without a token file.
    pub require_token: bool,
    /// Serve connections of other users of this host too.
    pub allow_other_users: bool,
}

/// The app-server or child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What the child is.
    pub mode: Mode,
    /// `stdio://…` or the URL of an external app-server.
    pub endpoint: String,
    /// Spawned or external.
    pub strategy: Strategy,
    /// File with the bearer token that an external app-server demands.
    pub token_file: Option<PathBuf>,
    /// File with certificates (PEM) that an external app-server's is checked against, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The command, looked up on PATH when it has no slash.
    pub command: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its working directory.
    pub cwd: PathBuf,
    /// Whether it is started again when it ends unasked.
    pub restart: bool,
    /// How long its process group may take to end after SIGTERM.
    pub stop_timeout: Duration,
    /// How long one call to the app-server may take.
    pub call_timeout: Duration,
    /// The longest line read from it, in bytes.
    pub max_line_bytes: usize,
    /// What happens to its requests.
    pub request_policy: RequestPolicy,
    /// How long they wait; `None` for ever.
    pub request_timeout: Option<Duration>,
}

/// One-shot runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    /// The `codex` command.
    pub command: String,
    /// Words before `exec` (the built-in stand-in needs one; empty for Codex).
    pub leading_args: Vec<String>,
    /// How many run at once, 1 or more.
    pub max_concurrent: usize,
    /// How many wait beyond that.
    pub max_queued: usize,
}

/// The event log and the raw output logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logs {
    /// Size at which a log begins a new segment, in bytes; `None` for never.
    pub max_bytes: Option<u64>,
    /// How many old segments are kept; `None` for all.
    pub keep_segments: Option<usize>,
    /// When the event log is forced to the disk.
    pub sync: Sync,
}

/// Everything `codexd start` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this host among its kind.
    pub node_id: String,
    /// The version recorded in the identity and sent to the app-server.
    pub version: Option<String>,
    /// How many events are kept at hand; 0 for none.
    pub event_cache_size: usize,
    /// How long `start --run-once` lets the daemon live.
    pub smoke_lifetime: Duration,
    /// How long a stop waits for running turns and runs before it interrupts them.
    pub drain_timeout: Duration,
    /// Files and folders.
    pub paths: Paths,
    /// REST and stream.
    pub service: Service,
    /// App-server or child.
    pub server: Server,
    /// One-shot runs.
    pub runs: Runs,
    /// Logs.
    pub logs: Logs,
}
