//! One-shot runs with the real Codex and a scripted model behind it.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::daemon::Daemon;
use crate::model_server::ModelServer;
use crate::processes;
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};
use crate::run_bench::{Bench, assert_failed, assert_golden, assert_golden_file};
use crate::runs::most_at_once;

/// A daemon whose runs are the real Codex, with a fresh CODEX_HOME; its app-server is the stand-in.
struct Real {
    model: ModelServer,
    home: CodexHome,
    bench: Bench,
}

impl Real {
    fn start(codex: &RealCodex, flags: &[&str]) -> Real {
        Real::with(codex.native().to_owned(), flags)
    }

    fn with(codex: PathBuf, flags: &[&str]) -> Real {
        let model = ModelServer::start();
        let home = CodexHome::new(&model);
        let builder =
            home.env().iter().fold(Daemon::builder(), |builder, (name, value)| builder.env(name, value));
        let bench = Bench::real(&codex, builder.flags(flags));
        Real { model, home, bench }
    }

    /// A body for the folder to work in, which is no git repository.
    fn body(&self, prompt: &str) -> Value {
        json!({ "prompt": prompt, "cwd": self.home.work(), "skipGitRepoCheck": true, "sandbox": "read-only" })
    }

    fn assert_quiet(&self) {
        self.bench.assert_nothing_temporary();
        assert!(self.model.strays().is_empty(), "it reached for {:?}", self.model.strays());
    }
}

#[test]
fn a_run_has_the_recorded_shapes_with_codex() {
    let codex = real_codex_or_skip!("a_run_has_the_recorded_shapes_with_codex");
    let mut real = Real::start(&codex, &[]);
    assert_golden(&real.bench);
    assert_eq!(real.model.prompts(), ["Inspect repo"]);
    real.assert_quiet();
    real.bench.daemon.stop();
    assert_golden_file(&real.bench.daemon);
}

#[test]
fn the_npm_wrapper_works_as_well() {
    let codex = real_codex_or_skip!("the_npm_wrapper_works_as_well");
    let real = Real::with(codex.wrapper().canonicalize().unwrap(), &[]);
    let record = real.bench.run(&real.body("say 3 words"));
    assert_eq!((&record["status"], &record["summary"]), (&json!("completed"), &json!("word0 word1 word2 ")));
    real.assert_quiet();
}

#[test]
fn what_codex_refuses_is_a_failed_run_with_its_words() {
    let codex = real_codex_or_skip!("what_codex_refuses_is_a_failed_run_with_its_words");
    let real = Real::start(&codex, &[]);
    let fails = |body: &Value, code: i32| {
        let record = real.bench.run_fails(body, "CODEX_EXEC_EXIT_NON_ZERO");
        assert_eq!(record["result"]["error"]["details"], json!({ "exitCode": code }), "{record:#}");
        record["error"].as_str().unwrap().to_owned()
    };
    let error = fails(&real.body("fail: 500"), 1);
    assert!(error.starts_with("codex exec exited with code 1: ERROR: "), "{error}");
    let mut body = real.body("fail: 500");
    body["json"] = json!(true);
    let record = real.bench.run_fails(&body, "CODEX_EXEC_EXIT_NON_ZERO");
    let said = record["result"]["result"]["jsonEvents"].as_array().unwrap().last().unwrap();
    assert_eq!(said["type"], "turn.failed");
    let said = said["error"]["message"].as_str().unwrap();
    assert_eq!(record["error"], format!("codex exec exited with code 1: {said}"));

    // The target folder, where the other folders are, may lie in a repository; the system's temporary folder does not.
    let nowhere = tempfile::tempdir().unwrap();
    let mut body = real.body("hi");
    body["skipGitRepoCheck"] = json!(false);
    body["cwd"] = json!(nowhere.path());
    let error = fails(&body, 1);
    assert!(error.contains("trusted directory") || error.contains("git"), "{error}");
    let mut body = real.body("hi");
    body["cwd"] = json!("/no/such/folder");
    fails(&body, 1);
    let mut body = real.body("hi");
    body["config"] = json!(["model_provider=\"nobody\""]);
    let error = fails(&body, 1);
    assert!(error.contains("nobody"), "{error}");
    // A value can never become an option.
    for (name, value) in
        [("model", json!("--help")), ("profile", json!("-h")), ("config", json!(["--version"]))]
    {
        let mut body = real.body("hi");
        body[name] = value;
        let error = fails(&body, 2);
        assert!(error.contains("a value is required for '--"), "{error}");
    }
    assert_eq!(real.model.prompts(), ["fail: 500", "fail: 500"]);
    real.assert_quiet();
}

#[test]
fn json_events_come_live_and_are_in_the_record() {
    let codex = real_codex_or_skip!("json_events_come_live_and_are_in_the_record");
    let real = Real::start(&codex, &[]);
    let mut body = real.body("slow: 3 300");
    body["json"] = json!(true);
    let run = real.bench.begin(&body);
    real.bench.wait_event(&run, "run.output");
    assert_eq!(real.bench.get(&run)["status"], "running");
    let record = real.bench.wait_end(&run);
    let told: Vec<Value> = real
        .bench
        .stream
        .events()
        .into_iter()
        .filter(|event| event["type"] == "run.output")
        .map(|mut event| event["detail"]["event"].take())
        .collect();
    let kinds: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["thread.started", "turn.started", "item.completed", "turn.completed"]);
    let result = &record["result"]["result"];
    assert_eq!((&result["jsonEvents"], &result["jsonParseErrors"]), (&json!(told), &json!([])));
    assert_eq!(result["lastMessage"], "word0 word1 word2 ");

    let mut body = real.body("{\"answer\":\"yes\"}");
    let schema = json!({ "type": "object", "properties": { "answer": { "type": "string" } },
        "required": ["answer"], "additionalProperties": false });
    body["outputSchema"] = schema.clone();
    assert_eq!(real.bench.run(&body)["status"], "completed");
    let asked = real.model.wait_for_prompt("{\"answer\":\"yes\"}", DEADLINE);
    assert_eq!(asked["text"]["format"]["schema"], schema);
    real.assert_quiet();
}

#[test]
fn no_prompt_is_an_option_or_a_subcommand() {
    let codex = real_codex_or_skip!("no_prompt_is_an_option_or_a_subcommand");
    let real = Real::start(&codex, &[]);
    let prompts = [
        "help",
        "review",
        "resume",
        "fork",
        "exec",
        "login",
        "e",
        "mcp",
        "--version",
        "-V",
        "--help",
        "-h",
        "--",
        "-- hi",
        "-c",
        "--json",
        "-m gpt",
        "--cd=/",
        "--last",
        "--dangerously-bypass-approvals-and-sandbox",
    ];
    let runs = prompts.map(|prompt| (prompt, real.bench.begin(&real.body(prompt))));
    for (prompt, run) in &runs {
        let record = real.bench.wait_end(run);
        assert_eq!(
            (&record["status"], &record["summary"]),
            (&json!("completed"), &json!(format!("done: {prompt}")))
        );
    }
    let mut seen = real.model.prompts();
    let mut asked: Vec<String> = prompts.map(str::to_owned).into();
    seen.sort();
    asked.sort();
    assert_eq!(seen, asked);
    assert_eq!(real.bench.post(&real.body("-")).status, 400);
    real.assert_quiet();
}

#[test]
fn twenty_at_once_on_a_fresh_home_four_at_a_time() {
    let codex = real_codex_or_skip!("twenty_at_once_on_a_fresh_home_four_at_a_time");
    let real = Real::start(&codex, &[]);
    // Longer than four starts, which are spaced.
    let begin = |n| real.bench.begin(&real.body(&format!("slow: {n} 100")));
    let runs: Vec<String> = (10..30).map(begin).collect();
    let mut retries = 0;
    for (words, run) in (10..30).zip(&runs) {
        let record = real.bench.wait_end(run);
        assert_eq!(record["status"], "completed", "{record:#}");
        assert_eq!(record["summary"].as_str().unwrap().split_whitespace().count(), words);
        let result = &record["result"]["result"];
        assert!(!result["stderr"].as_str().unwrap().contains("database is locked"), "{record:#}");
        retries += result["retries"].as_u64().unwrap();
    }
    assert_eq!((most_at_once(&real.bench), retries), (4, 0));
    assert_eq!(real.model.prompts().len(), 20);
    real.assert_quiet();
}

#[test]
fn a_prompt_too_long_for_an_argument_reaches_the_model_whole() {
    let codex = real_codex_or_skip!("a_prompt_too_long_for_an_argument_reaches_the_model_whole");
    let real = Real::start(&codex, &[]);
    let prompt: String = (0..30_000).map(|n| format!("{n} ")).collect();
    let prompt = prompt.trim();
    assert!(prompt.len() > 160 * 1024);
    let record = real.bench.run(&real.body(prompt));
    assert_eq!(record["status"], "completed", "{}", record["error"]);
    assert_eq!(real.model.prompts(), [prompt]);
    let args = record["result"]["invocation"]["args"].as_array().unwrap();
    assert_eq!(args[args.len() - 2..], [json!("--"), json!("-")]);
    real.assert_quiet();
}

#[test]
fn the_environment_of_a_run_can_be_changed() {
    let codex = real_codex_or_skip!("the_environment_of_a_run_can_be_changed");
    let real = Real::start(&codex, &[]);
    let other = CodexHome::new(&real.model);
    let mut body = real.body("hi");
    body["env"] = json!({ "CODEX_HOME": other.path(), "RUST_LOG": null });
    let record = real.bench.run(&body);
    assert_eq!(record["summary"], "done: hi", "{record:#}");
    assert!(other.path().join("sessions").is_dir());
    assert!(!real.home.path().join("sessions").exists());
    real.assert_quiet();
}

/// A command that ignores SIGTERM, with a child in a session of its own; it is found by what it is called.
fn stubborn(real: &Real, seconds: &str) -> Value {
    let pid = real.home.work().join("pid");
    let script = format!(
        "trap '' TERM; setsid sleep {seconds} & echo $$ > {}; sleep {seconds}; sleep {seconds}",
        pid.display()
    );
    let mut body = real.body(&format!("plainrun: {script}"));
    body["sandbox"] = json!("danger-full-access");
    body["env"] = json!({ "RUN_TEST_TAG": seconds });
    body
}

fn wait_for_command(real: &Real) {
    let pid = real.home.work().join("pid");
    let until = Instant::now() + DEADLINE;
    while std::fs::read_to_string(&pid).unwrap_or_default().trim().is_empty() {
        assert!(Instant::now() < until, "the command does not run");
        std::thread::park_timeout(Duration::from_millis(10)); // a file announces itself to nobody
    }
}

fn sleeping(seconds: &str) -> Vec<(u32, String)> {
    let mut found = processes::carrying("RUN_TEST_TAG", seconds);
    found.retain(|(_, line)| line.contains("sleep"));
    found
}

#[test]
fn a_timeout_ends_codex_and_the_commands_it_runs() {
    let codex = real_codex_or_skip!("a_timeout_ends_codex_and_the_commands_it_runs");
    let real = Real::start(&codex, &[]);
    let mut body = stubborn(&real, "301");
    body["timeoutMs"] = json!(6000);
    let run = real.bench.begin(&body);
    wait_for_command(&real);
    assert!(!cfg!(target_os = "linux") || !sleeping("301").is_empty());
    let record = real.bench.wait_end(&run);
    assert_failed(&record, "CODEX_EXEC_TIMEOUT");
    assert_eq!(record["result"]["result"]["timedOut"], true);
    assert_eq!(sleeping("301"), []);
    real.assert_quiet();
}

#[test]
fn cancelling_ends_codex_and_the_commands_it_runs() {
    let codex = real_codex_or_skip!("cancelling_ends_codex_and_the_commands_it_runs");
    let real = Real::start(&codex, &[]);
    let run = real.bench.begin(&stubborn(&real, "302"));
    wait_for_command(&real);
    assert_eq!(real.bench.cancel(&run).status, 202);
    assert_failed(&real.bench.wait_end(&run), "CODEX_EXEC_CANCELLED");
    assert_eq!(sleeping("302"), []);
    real.assert_quiet();
}

#[test]
fn a_stop_ends_codex_and_the_commands_it_runs() {
    let codex = real_codex_or_skip!("a_stop_ends_codex_and_the_commands_it_runs");
    let mut real = Real::start(&codex, &[]);
    let run = real.bench.begin(&stubborn(&real, "303"));
    wait_for_command(&real);
    real.bench.daemon.stop(); // and nothing is left
    real.assert_quiet();
    real.bench.daemon.restart();
    assert_failed(&real.bench.get(&run), "CODEX_EXEC_INTERRUPTED");
}

#[test]
fn codex_ends_with_a_daemon_that_is_killed() {
    let codex = real_codex_or_skip!("codex_ends_with_a_daemon_that_is_killed");
    let mut real = Real::start(&codex, &[]);
    let run = real.bench.begin(&real.body("slow: 200 1000"));
    real.model.wait_for_prompt("slow: 200 1000", DEADLINE);
    real.bench.daemon.kill(); // and nothing is left soon
    real.bench.daemon.restart();
    assert_failed(&real.bench.get(&run), "CODEX_EXEC_INTERRUPTED");
    real.assert_quiet();
}

#[test]
fn on_the_command_line_with_codex() {
    let codex = real_codex_or_skip!("on_the_command_line_with_codex");
    let real = Real::start(&codex, &[]);
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_codexd"));
        command.args(["run", "--local-api-base", real.bench.daemon.base(), "--skip-git-repo-check", "--cwd"]);
        let output = command.arg(real.home.work()).args(words).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, stdout, stderr) = run(&["say 2 words"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "word0 word1 \n"));
    assert!(stderr.starts_with("run run-") && stderr.lines().count() == 1, "{stderr}");
    let (code, stdout, stderr) = run(&["fail: 500"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let (id, why) = stderr.split_once('\n').unwrap();
    assert!(
        id.starts_with("run run-") && why.starts_with("codexd: codex exec exited with code 1: "),
        "{stderr}"
    );
    let (code, stdout, _) = run(&["--json", "hi"]);
    assert_eq!((code, stdout.lines().count()), (Some(0), 4));
    real.assert_quiet();
}
