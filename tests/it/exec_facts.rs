//! What codexd relies on in `codex exec`, proved with the real Codex and a fake model.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::DEADLINE;
use crate::model_server::ModelServer;
use crate::processes::Process;
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};

/// The last message of a run, its lines of JSON, its exit status.
fn exec(codex: &RealCodex, home: &CodexHome, prompt: &str) -> (String, Vec<Value>, ExitStatus) {
    let last = home.outside("last-message.txt");
    let _ = std::fs::remove_file(&last); // a failing run leaves the text of an earlier one in it
    // The argument order codexd uses.
    let mut command = Command::new(codex.native());
    command.args(["exec", "--cd"]).arg(home.work());
    command.args([
        "--color",
        "never",
        "--sandbox",
        "read-only",
        "--skip-git-repo-check",
        "--json",
        "--ephemeral",
    ]);
    command.args(["--config", "hide_agent_reasoning=true"]).arg("--add-dir").arg(home.outside(""));
    command.arg("--output-last-message").arg(&last).args(["--", prompt]);
    command.envs(home.env()).env_remove("OPENAI_API_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let mut stdout = String::new();
    process.child().stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    let status = process.wait(DEADLINE).expect("it ends");
    assert!(process.left(DEADLINE).is_empty());
    let lines =
        stdout.lines().map(|line| serde_json::from_str(line).expect("stdout is JSON lines")).collect();
    (std::fs::read_to_string(last).unwrap_or_default(), lines, status)
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines.iter().map(|line| line["type"].as_str().unwrap()).collect()
}

#[test]
fn a_run_ends_with_its_last_message() {
    let codex = real_codex_or_skip!("a_run_ends_with_its_last_message");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let (last, lines, status) = exec(&codex, &home, "--looks like a flag");
    assert_eq!(status.code(), Some(0));
    assert_eq!(last, "done: --looks like a flag");
    assert_eq!(kinds(&lines), ["thread.started", "turn.started", "item.completed", "turn.completed"]);
    assert_eq!(model.prompts(), ["--looks like a flag"]);

    let (last, lines, status) = exec(&codex, &home, "fail: 500");
    assert_eq!(status.code(), Some(1));
    assert_eq!(last, "");
    assert_eq!(kinds(&lines).last(), Some(&"turn.failed"));
    assert!(model.strays().is_empty(), "it reached for {:?}", model.strays());
}
