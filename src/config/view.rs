//! The resolved configuration as clients see it; what codexd has beyond the contract stands in
//! objects of its own at the end.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::Config;
use crate::clock;
use crate::model::record::DaemonState;

/// The resolved configuration as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    node_id: String,
    version: Option<String>,
    event_cache_size: usize,
    smoke_lifetime_ms: u64,
    paths: PathsView,
    service: ServiceView,
    server: ServerView,
    supervision: SupervisionView,
    runs: RunsView,
    logs: LogsView,
    access: AccessView,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PathsView {
    repo_root: String,
    logs_root_dir: String,
    state_root_dir: String,
    logs_dir: String,
    state_dir: String,
    structured_event_log_path: String,
    stdout_log_path: String,
    stderr_log_path: String,
    identity_path: String,
    daemon_state_path: String,
    session_registry_path: String,
    run_registry_path: String,
    recent_events_path: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceView {
    event_stream_path: String,
    local_api_base: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    mode: &'static str,
    endpoint: String,
    child_strategy: &'static str,
    child_command: String,
    child_args: Vec<String>,
    child_cwd: String,
}

/// Null means without a limit, here and below.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SupervisionView {
    restart: bool,
    stop_timeout_ms: u64,
    drain_timeout_ms: u64,
    app_server_timeout_ms: u64,
    max_line_bytes: Option<usize>,
    request_policy: &'static str,
    request_timeout_ms: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunsView {
    codex_command: String,
    max_concurrent_runs: usize,
    max_queued_runs: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogsView {
    max_log_bytes: Option<u64>,
    keep_segments: Option<usize>,
    sync: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessView {
    token_file: Option<String>,
    require_token: bool,
    allow_other_users: bool,
}

impl Config {
    /// The configuration as clients see it.
    pub fn view(&self) -> ConfigView {
        let Self { paths, service, server, runs, logs, .. } = self;
        ConfigView {
            node_id: self.node_id.clone(),
            version: self.version.clone(),
            event_cache_size: self.event_cache_size,
            smoke_lifetime_ms: millis(self.smoke_lifetime),
            paths: PathsView {
                repo_root: text(&paths.repo_root),
                logs_root_dir: text(&paths.logs_root),
                state_root_dir: text(&paths.state_root),
                logs_dir: text(&paths.logs_dir),
                state_dir: text(&paths.state_dir),
                structured_event_log_path: text(&paths.events()),
                stdout_log_path: text(&paths.stdout_log()),
                stderr_log_path: text(&paths.stderr_log()),
                identity_path: text(&paths.identity()),
                daemon_state_path: text(&paths.daemon_state()),
                session_registry_path: text(&paths.session_registry()),
                run_registry_path: text(&paths.run_registry()),
                recent_events_path: text(&paths.recent_events()),
            },
            service: ServiceView {
                event_stream_path: service.event_stream_path.clone(),
                local_api_base: service.local_api_base.text.clone(),
            },
            server: ServerView {
                mode: server.mode.as_str(),
                endpoint: server.endpoint.clone(),
                child_strategy: server.strategy.as_str(),
                child_command: server.command.clone(),
                child_args: server.args.clone(),
                child_cwd: text(&server.cwd),
            },
            supervision: SupervisionView {
                restart: server.restart,
                stop_timeout_ms: millis(server.stop_timeout),
                drain_timeout_ms: millis(self.drain_timeout),
                app_server_timeout_ms: millis(server.call_timeout),
                max_line_bytes: Some(server.max_line_bytes).filter(|&bytes| bytes != usize::MAX),
                request_policy: server.request_policy.as_str(),
                request_timeout_ms: server.request_timeout.map(millis),
            },
            runs: RunsView {
                codex_command: runs.command.clone(),
                max_concurrent_runs: runs.max_concurrent,
                max_queued_runs: runs.max_queued,
            },
            logs: LogsView {
                max_log_bytes: logs.max_bytes,
                keep_segments: logs.keep_segments,
                sync: logs.sync.as_str(),
            },
            access: AccessView {
                token_file: service.token_file.as_deref().map(text),
                require_token: service.require_token,
                allow_other_users: service.allow_other_users,
            },
        }
    }

    /// The recorded state with what this configuration says of the child; the default where there is none.
    pub fn daemon_state(&self, recorded: Option<DaemonState>) -> DaemonState {
        let mut state = recorded
            .unwrap_or_else(|| DaemonState { updated_at: clock::now_iso(), ..DaemonState::default() });
        let child = &mut state.child;
        let server = &self.server;
        let spawned = server.strategy == super::Strategy::Spawn;
        server.strategy.as_str().clone_into(&mut child.strategy);
        server.mode.as_str().clone_into(&mut child.mode);
        server.endpoint.clone_into(&mut child.endpoint);
        child.command = spawned.then(|| server.command.clone());
        child.args = if spawned { server.args.clone() } else { Vec::new() };
        child.cwd = spawned.then(|| text(&server.cwd));
        state
    }
}

/// Paths are UTF-8: `cli::resolve` takes no others.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
