//! The daemon, if one runs: what it says of itself; its lock, its port, its neighbours, and what a dead one has left.

use serde_json::Value;

use super::host::Answers;
use super::{Check, Host};
use crate::os;
use crate::process::ledger;

/// What the daemon that runs says of itself.
pub(super) fn daemon(host: &Host) -> Vec<Check> {
    const NAME: &str = "daemon";
    const LOG: &str = "its log on standard error has more (the journal, or logs/launchd)";
    let pid = match &host.holder {
        Ok(Some(pid)) => pid.as_raw_pid(),
        Ok(None) => return vec![Check::ok(NAME, "none runs for this state folder")],
        Err(error) => {
            let lock = host.config.paths.lock();
            let what = format!("cannot tell whether one runs: {}: {error}", lock.display());
            return vec![Check::fail(NAME, what, "make the state folder readable for you")];
        }
    };
    let Some((status, ready)) = host.own_status() else {
        return vec![match &host.answers {
            Answers::AnyPort => Check::ok(NAME, format!("pid {pid} runs, at a port of its own choice")),
            // More of that is said of the port.
            Answers::Closed(..) => Check::ok(NAME, format!("pid {pid} runs")),
            _ => Check::fail(
                NAME,
                format!("pid {pid} holds the state folder, but does not answer at the port configured here"),
                "name its port with --local-api-base, or stop it and start it anew",
            ),
        }];
    };
    let mut checks: Vec<Check> = Vec::new();
    for (name, check) in ready["checks"].as_object().into_iter().flatten() {
        if check["ok"] == Value::Bool(false) {
            let detail = check["detail"].as_str().unwrap_or("no reason given");
            checks.push(Check::fail(NAME, format!("pid {pid} is not ready: {name}: {detail}"), LOG));
        }
    }
    if checks.is_empty() {
        let child = status["snapshot"]["daemon"]["child"]["status"].as_str().unwrap_or("unknown");
        checks.push(Check::ok(NAME, format!("pid {pid} is ready; its child: {child}")));
    }
    checks
}

/// The port: free, or taken by the daemon of this state folder.
pub(super) fn port(host: &Host) -> Vec<Check> {
    const NAME: &str = "port";
    const TODO: &str = "stop it, or name another port with --local-api-base";
    let base = &host.config.service.local_api_base.text;
    vec![match &host.answers {
        Answers::AnyPort => Check::ok(NAME, "any free one will do"),
        Answers::Nobody => Check::ok(NAME, format!("{base} is free")),
        Answers::Codexd(answers) if host.own_status().is_none() => {
            let folder = &answers.0["snapshot"]["config"]["paths"]["stateDir"];
            let folder = folder.as_str().unwrap_or("an unknown folder");
            Check::fail(NAME, format!("{base} is taken by the codexd of {folder}"), TODO)
        }
        Answers::Codexd(_) => {
            Check::ok(NAME, format!("{base} is answered by the daemon of this state folder"))
        }
        Answers::Closed(status, message) => Check::fail(
            NAME,
            format!("the codexd at {base} does not let us in: {message}"),
            match (status, &host.config.service.token_file) {
                (401, None) => "name its token with --token-file".to_owned(),
                (401, Some(file)) => {
                    format!("its token is not that of {}: name its own with --token-file", file.display())
                }
                _ => "ask as the user whose daemon it is, or name another port with --local-api-base"
                    .to_owned(),
            },
        ),
        Answers::Stranger(problem) => Check::fail(NAME, format!("{base} is taken: {problem}"), TODO),
    }]
}

/// Other daemons of this host: each has its own state folder and port.
pub(super) fn others(host: &Host) -> Vec<Check> {
    const NAME: &str = "others";
    let own = host.holder.as_ref().ok().copied().flatten().map(|pid| pid.as_raw_pid());
    let me = rustix::process::getpid().as_raw_pid();
    let others: Vec<String> = os::command_lines()
        .into_iter()
        .filter(|(pid, words)| *pid != me && Some(*pid) != own && is_daemon(words))
        .map(|(pid, _)| pid.to_string())
        .collect();
    vec![match others.as_slice() {
        [] => Check::ok(NAME, "no other codexd runs here"),
        pids => Check::ok(NAME, format!("codexd of other state folders run here: pid {}", pids.join(", "))),
    }]
}

/// Whether this is the command line of a daemon: `codexd`, its first action `start` or none.
fn is_daemon(words: &[String]) -> bool {
    let Some((program, rest)) = words.split_first() else { return false };
    let name = program.rsplit('/').next().unwrap_or(program);
    let action = rest.iter().find(|word| super::ACTIONS.iter().any(|row| row.name == word.as_str()));
    name == "codexd" && action.is_none_or(|action| action == "start")
}

/// Processes that a daemon which is gone has left.
pub(super) fn orphans(host: &Host) -> Vec<Check> {
    const NAME: &str = "orphans";
    let path = host.config.paths.processes();
    let entries = match ledger::entries(&path) {
        Ok(entries) => entries,
        Err(problem) => {
            let what = format!("{}: {problem}", path.display());
            return vec![Check::warn(NAME, what, "the next start sets the file aside and looks by itself")];
        }
    };
    let left: Vec<String> = entries
        .iter()
        .filter(|entry| !entry.daemon.is_alive() && entry.is_alive())
        .map(|entry| format!("{} ({})", entry.pid, entry.purpose.as_str()))
        .collect();
    vec![match left.as_slice() {
        [] => Check::ok(NAME, "none"),
        left => Check::warn(
            NAME,
            format!("an earlier life of the daemon has left pid {}", left.join(", ")),
            "the next start ends them",
        ),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_told_by_their_command_line() {
        let is = |line: &str| is_daemon(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for line in
            ["codexd", "/usr/bin/codexd start", "codexd --repo-root /x start --json", "./codexd --json"]
        {
            assert!(is(line), "{line}");
        }
        for line in
            ["codexd status", "codexd stub-app-server x", "codexd --json doctor", "vim codexd", "codex start"]
        {
            assert!(!is(line), "{line}");
        }
    }
}
