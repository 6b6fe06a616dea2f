//! From typed settings to the [`Config`]: defaults, absolute paths, and what must fit together.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::UsageError;
use super::low::{LowArgs, Restart};
use crate::config::{
    ApiBase, Config, Endpoint, Logs, Mode, Paths, RequestPolicy, Runs, Server, Service, Strategy, Sync,
};
use crate::model::preview;

const MIB: u64 = 1024 * 1024;

/// Resolves settings; relative paths are taken from `cwd`, and nothing needs to exist.
///
/// # Errors
/// Settings that do not fit together.
pub fn resolve(low: LowArgs, cwd: &Path) -> Result<Config, UsageError> {
    if cwd.to_str().is_none() {
        return Err(UsageError::not_utf8("the current directory", cwd.as_os_str()));
    }
    let path = |given: Option<String>| given.map(|given| absolute(cwd, &given));
    let repo_root = path(low.repo_root).unwrap_or_else(|| absolute(cwd, ""));
    let logs_root = path(low.logs_dir).unwrap_or_else(|| repo_root.join("logs"));
    let state_root = path(low.state_dir).unwrap_or_else(|| repo_root.join("state"));

    let mode = low.mode.unwrap_or(Mode::AppServer);
    let strategy = low.strategy.unwrap_or(Strategy::Spawn);
    let endpoint = low.endpoint.unwrap_or_else(|| "stdio://codex-app-server".to_owned());
    if strategy == Strategy::External {
        check_external(&endpoint)?;
    }
    let token_file = path(low.token_file);
    if low.require_token && token_file.is_none() {
        return Err(UsageError::new("--require-token needs --token-file PATH (or BAA_CODEXD_TOKEN_FILE)"));
    }
    let local_api_base = match low.local_api_base {
        Some(base) => base,
        None => ApiBase::parse("http://127.0.0.1:4319").map_err(UsageError::new)?,
    };
    let command = low.command.unwrap_or_else(|| "codex".to_owned());
    let server_cwd = path(low.server_cwd).unwrap_or_else(|| repo_root.clone());
    let codex = codex_command(low.codex_command.as_deref(), &command, cwd, &server_cwd);

    Ok(Config {
        node_id: low.node_id.unwrap_or_else(|| "mini-main".to_owned()),
        version: low.version,
        event_cache_size: low.event_cache_size.unwrap_or(50),
        smoke_lifetime: low.smoke_lifetime.unwrap_or(Duration::from_millis(100)),
        drain_timeout: low.drain_timeout.unwrap_or_default(),
        paths: Paths {
            logs_dir: logs_root.join("codexd"),
            state_dir: state_root.join("codexd"),
            repo_root,
            logs_root,
            state_root,
        },
        service: Service {
            event_stream_path: low.event_stream_path.unwrap_or_else(|| "/v1/codexd/events".to_owned()),
            local_api_base,
            token_file,
            require_token: low.require_token,
            allow_other_users: low.allow_other_users,
        },
        server: Server {
            mode,
            endpoint,
            strategy,
            token_file: path(low.server_token_file),
            ca_file: path(low.server_ca_file),
            command,
            args: low.args.unwrap_or_else(|| vec!["app-server".to_owned()]),
            cwd: server_cwd,
            restart: match mode {
                Mode::AppServer => low.restart != Some(Restart::Never),
                Mode::Exec => low.restart == Some(Restart::Always),
            },
            stop_timeout: low.stop_timeout.unwrap_or(Duration::from_secs(5)),
            call_timeout: low.call_timeout.unwrap_or(Duration::from_secs(60)),
            max_line_bytes: match low.max_line_bytes {
                None => 64 * 1024 * 1024,
                Some(0) => usize::MAX,
                Some(bytes) => bytes,
            },
            request_policy: low.request_policy.unwrap_or(RequestPolicy::Hold),
            request_timeout: Some(low.request_timeout.unwrap_or(Duration::from_secs(30 * 60)))
                .filter(|timeout| !timeout.is_zero()),
        },
        runs: Runs {
            command: codex,
            leading_args: Vec::new(),
            max_concurrent: low.max_concurrent.unwrap_or(4),
            max_queued: low.max_queued.unwrap_or(256),
        },
        logs: Logs {
            max_bytes: Some(low.max_log_bytes.unwrap_or(64 * MIB)).filter(|&bytes| bytes != 0),
            keep_segments: Some(low.keep_segments.unwrap_or(16)).filter(|&segments| segments != 0),
            sync: low.sync.unwrap_or(Sync::Interval),
        },
    })
}

/// The `codex` of one-shot runs. A relative path is made absolute, because runs work in folders of their own:
/// one given for runs is relative to where codexd was called, one taken from the child's command to the child's folder.
fn codex_command(given: Option<&str>, server_command: &str, cwd: &Path, server_cwd: &Path) -> String {
    let is_path = |command: &str| command.contains('/');
    let (base, command) = match given {
        Some(given) => (cwd, given),
        None if is_path(server_command)
            && Path::new(server_command).file_name() == Some("codex".as_ref()) =>
        {
            (server_cwd, server_command)
        }
        None => return "codex".to_owned(),
    };
    if is_path(command) { absolute(base, command).to_string_lossy().into_owned() } else { command.to_owned() }
}

/// Whether an external app-server can be reached there: over WebSocket, http standing for ws.
fn check_external(endpoint: &str) -> Result<(), UsageError> {
    if !Endpoint::is_remote(endpoint) {
        return Err(UsageError::new(format!(
            "--server-strategy external needs a --server-endpoint that begins with ws://, wss://, http:// or \
             https://, not \"{}\"",
            preview(endpoint)
        )));
    }
    let parsed = Endpoint::parse(endpoint)
        .map_err(|problem| UsageError::new(format!("--server-endpoint {problem}")))?;
    if parsed.tls && !cfg!(feature = "tls") {
        return Err(UsageError::new(
            "--server-endpoint needs TLS, which this codexd was built without: use ws://, or build it with the \
             feature `tls`",
        ));
    }
    Ok(())
}

/// The path from the root on, with `.` and `..` taken out by their text, as a shell's `cd` does.
pub(super) fn absolute(base: &Path, path: &str) -> PathBuf {
    let mut absolute = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                absolute.pop();
            }
            part => absolute.push(part),
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut LowArgs)) -> Config {
        let mut low = LowArgs::default();
        change(&mut low);
        resolve(low, Path::new("/srv/codexd")).unwrap()
    }

    #[test]
    fn paths_are_absolute_and_follow_each_other() {
        let config = config(|low| {
            low.repo_root = Some("../other/./repo".into());
            low.state_dir = Some("var".into());
            low.token_file = Some("/etc/../run/token".into());
        });
        assert_eq!(config.paths.repo_root, Path::new("/srv/other/repo"));
        assert_eq!(config.paths.logs_dir, Path::new("/srv/other/repo/logs/codexd"));
        assert_eq!(config.paths.state_dir, Path::new("/srv/codexd/var/codexd"));
        assert_eq!(config.server.cwd, Path::new("/srv/other/repo"));
        assert_eq!(config.service.token_file.as_deref(), Some(Path::new("/run/token")));
        assert_eq!(absolute(Path::new("/"), "../.."), Path::new("/"));
    }

    #[test]
    fn zero_is_without_a_limit() {
        let config = config(|low| {
            low.max_log_bytes = Some(0);
            low.keep_segments = Some(0);
            low.request_timeout = Some(Duration::ZERO);
            low.max_line_bytes = Some(0);
        });
        assert_eq!((config.logs.max_bytes, config.logs.keep_segments), (None, None));
        assert_eq!((config.server.request_timeout, config.server.max_line_bytes), (None, usize::MAX));
    }

    #[test]
    fn a_child_is_started_again_by_mode() {
        use Restart::{Always, Never};
        for (mode, restart, expected) in [
            (Mode::AppServer, None, true),
            (Mode::AppServer, Some(Always), true),
            (Mode::AppServer, Some(Never), false),
            (Mode::Exec, None, false),
            (Mode::Exec, Some(Always), true),
            (Mode::Exec, Some(Never), false),
        ] {
            let config = config(|low| (low.mode, low.restart) = (Some(mode), restart));
            assert_eq!(config.server.restart, expected, "{mode:?} {restart:?}");
        }
    }

    #[test]
    fn the_codex_of_runs() {
        for (given, server, expected) in [
            (None, None, "codex"),
            (None, Some("node"), "codex"),
            (None, Some("/opt/bin/codex"), "/opt/bin/codex"),
            (None, Some("bin/codex"), "/work/child/bin/codex"),
            (None, Some("/opt/bin/codex-next"), "codex"),
            (Some("mycodex"), Some("/opt/bin/codex"), "mycodex"),
            (Some("./codex"), None, "/srv/codexd/codex"),
        ] {
            let config = config(|low| {
                low.server_cwd = Some("/work/child".into());
                low.codex_command = given.map(str::to_owned);
                low.command = server.map(str::to_owned);
            });
            assert_eq!(config.runs.command, expected, "{given:?} {server:?}");
        }
    }

    #[test]
    fn external_needs_a_remote_endpoint() {
        for endpoint in ["ws://h", "http://127.0.0.1:9"] {
            assert!(check_external(endpoint).is_ok(), "{endpoint}");
        }
        for endpoint in ["wss://h:1/x", "HTTPS://h"] {
            assert_eq!(check_external(endpoint).is_ok(), cfg!(feature = "tls"), "{endpoint}");
        }
        for endpoint in ["stdio://codex-app-server", "ws:/h", "ftp://h", "ws://user:secret@h"] {
            let error = check_external(endpoint).unwrap_err().to_string();
            assert!(error.contains("--server-endpoint") && !error.contains("secret"), "{error}");
        }
    }
}
