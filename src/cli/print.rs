//! The texts for standard output, and the one way to get them there.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;

use super::logging;
use super::render::readable;
use crate::config::Config;
use crate::model::json;
use crate::model::view::{ServiceView, Snapshot, Summary};
use crate::model::{printable, printable_json};
use crate::smoke::{self, Check};

/// Writes text to standard output at once. A reader that has gone away (`codexd help | head -1`) has seen what it
/// wanted: that is a success. Anything else that fails is said on standard error, exit code 1.
pub fn out(text: &str) -> ExitCode {
    match write(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write to standard output: {error}")),
    }
}

/// As [`out`], for who has something to end when that fails.
///
/// # Errors
/// What write(2) says.
pub fn write(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// Says on standard error why this call fails, and fails.
pub fn fail(message: &str) -> ExitCode {
    complain(message);
    ExitCode::FAILURE
}

/// Writes `codexd: …` to standard error as one line. There is nobody left to tell when that fails.
pub fn complain(message: &str) {
    progress(&format!("codexd: {}", message.replace(['\n', '\r'], " ")));
}

/// Writes a line about what is going on to standard error. There is nobody left to tell when that fails.
///
/// What it quotes may come from outside, an error of the app-server or of whoever has the port: a terminal obeys nothing of
/// it, and it makes no further line, for scripts read these.
pub fn progress(line: &str) {
    tell(&printable(line));
}

/// As [`progress`], of several lines.
pub fn progress_lines(lines: &str) {
    tell(&readable(lines, ""));
}

fn tell(text: &str) {
    if !logging::queue(text) {
        write_progress(text);
    }
}

/// Writes a line to standard error as it is, in this thread.
pub(super) fn write_progress(line: &str) {
    // With one write(2): what somebody types meanwhile does not stand in its middle.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// A value as JSON indented by two spaces, with a final newline. Raw JSON inside is indented too.
///
/// # Errors
/// What cannot be JSON, which none of our types is.
pub fn json_text(value: &impl Serialize) -> serde_json::Result<String> {
    let mut text = String::from_utf8_lossy(&json::pretty(&serde_json::to_vec(value)?)).into_owned();
    text.push('\n');
    Ok(text)
}

/// JSON text as standard output gets it: a program byte for byte, a terminal without what it would obey.
pub fn json_to_show(json: &str) -> Cow<'_, str> {
    if io::stdout().is_terminal() { printable_json(json) } else { Cow::Borrowed(json) }
}

/// Prints a value with [`json_text`].
pub fn out_json(value: &impl Serialize) -> ExitCode {
    match json_text(value) {
        Ok(text) => out(&json_to_show(&text)),
        Err(error) => fail(&format!("cannot print JSON: {error}")),
    }
}

/// What `config` prints.
pub fn config_lines(config: &Config) -> String {
    let Config { paths, service, server, .. } = config;
    let args = if server.args.is_empty() { "(none)".to_owned() } else { server.args.join(" ") };
    let lines: [(&str, &dyn std::fmt::Display); 14] = [
        ("node_id", &config.node_id),
        ("version", &config.version.as_deref().unwrap_or("not-set")),
        ("mode", &server.mode.as_str()),
        ("endpoint", &server.endpoint),
        ("child_strategy", &server.strategy.as_str()),
        ("child_command", &server.command),
        ("child_args", &args),
        ("child_cwd", &server.cwd.display()),
        ("local_api_base", &service.local_api_base.text),
        ("event_stream_path", &service.event_stream_path),
        ("logs_dir", &paths.logs_dir.display()),
        ("state_dir", &paths.state_dir.display()),
        ("event_cache_size", &config.event_cache_size),
        ("smoke_lifetime_ms", &config.smoke_lifetime.as_millis()),
    ];
    lines.iter().map(|(key, value)| format!("{key}: {}\n", printable(&value.to_string()))).collect()
}

/// The status line, without a newline. The names of the identity stand in a file, and folders may be called anything.
pub fn status_line(config: &Config, summary: &Summary) -> String {
    let Summary { identity, daemon, sessions, runs, recent_events } = summary;
    let line = format!(
        "identity={} node={} daemon={} child={} strategy={} mode={} endpoint={} local_api_base={} \
         event_stream_path={} sessions={sessions} runs={runs} recent_events={recent_events} logs_dir={} state_dir={}",
        identity.daemon_id.as_deref().unwrap_or("none"),
        identity.node_id,
        if daemon.started { "running" } else { "stopped" },
        daemon.child.status.as_str(),
        daemon.child.strategy,
        daemon.child.mode,
        daemon.child.endpoint,
        config.service.local_api_base.text,
        config.service.event_stream_path,
        config.paths.logs_dir.display(),
        config.paths.state_dir.display(),
    );
    printable(&line).into_owned()
}

/// The line of `start`: the status line and where the service listens.
pub fn start_line(config: &Config, summary: &Summary, service: &ServiceView) -> String {
    let or_not = |url: &Option<String>| url.clone().unwrap_or_else(|| "not-listening".to_owned());
    format!(
        "{} resolved_base={} ws_url={}",
        status_line(config, summary),
        or_not(&service.resolved_base_url),
        or_not(&service.event_stream_url)
    )
}

/// What `start --json` prints.
#[derive(Debug, Serialize)]
pub struct StartReport<'a> {
    /// The service.
    pub service: &'a ServiceView,
    /// Everything else.
    pub snapshot: &'a Snapshot,
}

/// What `smoke --json` prints.
#[derive(Debug, Serialize)]
pub struct SmokeReport<'a> {
    /// The checks in order.
    pub checks: &'a [Check],
    /// The end of the daemon that was tested.
    pub snapshot: &'a Snapshot,
}

/// What `smoke` prints.
pub fn smoke_lines(config: &Config, checks: &[Check], snapshot: &Snapshot) -> String {
    let daemon = snapshot.identity.daemon_id.as_deref().unwrap_or("none");
    let mut text = format!("smoke daemon={}\n", printable(daemon));
    for Check { name, ok, detail } in checks {
        text.push_str(&format!("- {} {name}: {}\n", smoke::outcome(*ok), printable(detail)));
    }
    text.push_str(&status_line(config, &Summary::from(snapshot)));
    text.push('\n');
    text
}
