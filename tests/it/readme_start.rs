//! The README's ways to start a daemon: each is run as it stands, and the daemon must do its work.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;

use crate::DEADLINE;
use crate::client::Client;
use crate::processes::Process;
use crate::readme_operation::{Host, blocks};

/// Runs a block whose last command is a daemon, until that has said where it listens; `work` gets a client of it. Then
/// Ctrl-C, which it must obey.
fn started(host: &Host, block: &str, work: impl FnOnce(&Client)) {
    // The host's own daemon has the usual folders.
    let mut shell = host.shell(block, host.folder());
    for (name, folder) in [("BAA_CODEXD_LOGS_DIR", "other/logs"), ("BAA_CODEXD_STATE_DIR", "other/state")] {
        shell.env(name, host.folder().join(folder));
    }
    let mut shell = Process::spawn(shell.stdout(Stdio::piped()));
    let out = shell.child().stdout.take().unwrap();
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("resolved_base=")).expect("the daemon says where it listens");
    let base = said.split("resolved_base=").nth(1).unwrap().split(' ').next().unwrap();
    work(&Client::new(base));
    let group = Pid::from_raw(shell.pid().try_into().unwrap()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    assert!(shell.wait(DEADLINE).is_some(), "Ctrl-C ends it: {block}");
    assert_eq!(shell.left(DEADLINE), [], "nothing is left of: {block}");
}

fn has_a_session(client: &Client) {
    let made = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(made.status, 201, "{}", made.text());
}

#[test]
fn the_tour() {
    let host = Host::new();
    host.command("make", "test \"$*\" = build");
    started(&host, &blocks("## A tour in five minutes")[0], has_a_session);
}

#[test]
fn with_codex() {
    let host = Host::new();
    let calls = host.folder().join("calls");
    host.command("npm", &format!("echo \"npm $*\" >> '{}'", calls.display()));
    started(&host, &blocks("### With the real Codex")[0], has_a_session);
    assert_eq!(host.called(), "npm install -g @openai/codex\n");
}

#[test]
fn with_an_app_server_elsewhere() {
    let host = Host::new();
    let [listen, start] = &blocks("### With an app-server that runs elsewhere")[..] else { panic!() };
    let endpoint = "ws://127.0.0.1:4500";
    assert_eq!(
        listen,
        &format!("codex app-server --listen {endpoint}"),
        "what the tests in external.rs start"
    );
    // It connects when the first session needs it: nobody has to be there yet.
    started(&host, start, |client| {
        let status = client.get("/v1/codexd/status").json();
        assert_eq!(status["data"]["snapshot"]["daemon"]["child"]["endpoint"], endpoint, "{status}");
    });
}
