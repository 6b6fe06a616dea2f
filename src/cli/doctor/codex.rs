//! Codex itself: is it there, does it run, which one is it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Check, Host, protocol};
use crate::app_server::dial::Target;
use crate::config::{Mode, Server, Strategy};
use crate::duplex::code;
use crate::os;
use crate::process::shown_path;

const NAME: &str = "codex";
const INSTALL: &str = "install it with `npm install -g @openai/codex`, or name it with --server-command PATH";

/// Connects to the external app-server as the daemon does, and says goodbye; an error says what to check.
fn reach(server: &Server) -> Result<(), String> {
    let (cancelled, _cancel) = os::pipe().map_err(|error| error.to_string())?;
    let dialled = Target::of(server).and_then(|target| target.dial(&cancelled));
    let (_, mut writer) = dialled.map_err(|error| error.to_string())?;
    // That it took the connection is what was asked.
    let _ = writer.close(code::NORMAL, "");
    Ok(())
}

/// The command of the app-server: its path and version, the node of the npm package, and what it makes of the protocol.
pub(super) fn found(host: &Host) -> Vec<Check> {
    let server = &host.config.server;
    if server.strategy == Strategy::External {
        let elsewhere = format!("the app-server runs elsewhere ({})", server.endpoint);
        // In exec mode nobody connects to it.
        let reached = if server.mode == Mode::Exec { Ok(()) } else { reach(server) };
        return vec![match reached {
            Ok(()) => Check::ok(NAME, elsewhere),
            Err(problem) => Check::fail(NAME, format!("{elsewhere} and cannot be reached"), problem),
        }];
    }
    let path = match command(host) {
        Ok(path) => path,
        Err(problem) => return vec![Check::fail(NAME, problem, INSTALL)],
    };
    let shown = path.display();
    let (check, protocol) = match host.ask(&path, &["--version"]) {
        Ok(said) if said.code == Some(0) => {
            let version = said.first_line().split_whitespace().last().unwrap_or_default();
            let protocol = protocol::checks(host, &path, version);
            (Check::ok(NAME, format!("{} at {shown}", said.first_line())), protocol)
        }
        Ok(said) => {
            let what = format!("{shown} --version fails: {}", said.first_line());
            (Check::fail(NAME, what, INSTALL), Vec::new())
        }
        Err(problem) => (Check::fail(NAME, problem, INSTALL), Vec::new()),
    };
    std::iter::once(check).chain(node(host, &path)).chain(protocol).collect()
}

/// Whether the app-server is the `codex app-server` of this host.
pub(super) fn is_app_server(host: &Host) -> bool {
    let server = &host.config.server;
    server.strategy == Strategy::Spawn
        && server.args.first().is_some_and(|arg| arg == "app-server")
        && Path::new(&server.command).file_name().is_some_and(|name| name == "codex")
}

/// The Codex of one-shot runs, where it is not that of the app-server.
pub(super) fn of_runs(host: &Host) -> Vec<Check> {
    const NAME: &str = "codex-runs";
    let config = &host.config;
    let found = host.find(&config.runs.command, &config.paths.repo_root);
    if config.server.strategy == Strategy::Spawn && command(host).ok() == found.as_ref().ok().cloned() {
        return Vec::new();
    }
    vec![match found {
        Ok(path) => Check::ok(NAME, format!("one-shot runs use {}", path.display())),
        Err(problem) => {
            let what = format!("one-shot runs will fail: {problem}");
            Check::warn(NAME, what, "install Codex, or name it with --codex-command PATH")
        }
    }]
}

/// The file that the app-server's command stands for in the daemon's environment.
///
/// # Errors
/// Where it was looked for.
pub(super) fn command(host: &Host) -> Result<PathBuf, String> {
    let server = &host.config.server;
    host.find(&server.command, &server.cwd)
}

/// The npm package's `codex` is a script for `/usr/bin/env node`: without a node on the daemon's PATH it cannot run.
fn node(host: &Host, codex: &Path) -> Option<Check> {
    if !is_node_script(codex) {
        return None;
    }
    const NAME: &str = "node";
    let Some(node) = host.which("node") else {
        let what =
            format!("{} needs node, which is not on PATH={}", codex.display(), shown_path(&host.path()));
        let todo = "put the folder of node on the PATH of the service (`codexd service install` from a shell that \
                    has it), or name the native binary with --server-command";
        return Some(Check::fail(NAME, what, todo));
    };
    let shown = node.display();
    Some(match host.ask(&node, &["--version"]) {
        Ok(said) if said.code == Some(0) => Check::ok(NAME, format!("{} at {shown}", said.first_line())),
        Ok(said) => Check::fail(NAME, format!("{shown} fails: {}", said.first_line()), "install node anew"),
        Err(problem) => Check::fail(NAME, problem, "install node anew"),
    })
}

fn is_node_script(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(128).read_to_end(&mut start));
    read.is_ok()
        && start.starts_with(b"#!")
        && start.split(|&byte| byte == b'\n').next().is_some_and(|line| line.ends_with(b"node"))
}
