//! One-shot runs from their start to their outcome, with the stand-in for Codex.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::conversation::{fake_codex, run};
use crate::daemon::Daemon;
use crate::run_bench::{Bench, RUNS, assert_failed, assert_golden, assert_golden_file, id, scripted, tagged};

/// What ignores SIGTERM, has a child in its group and one in a session of its own, and says when all of it is there.
const STUBBORN: &str = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 300; :' & sleep 300 & \
                        echo '{\"ready\":true}'; while :; do sleep 1; done";

fn assert_gone(tag: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while !tagged(tag).is_empty() {
        assert!(Instant::now() < until, "still running: {:?}", tagged(tag));
        std::thread::park_timeout(Duration::from_millis(5)); // an absence announces itself to nobody
    }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn a_run_has_the_recorded_shapes() {
    let mut bench = Bench::stub(&[]);
    assert_golden(&bench);
    bench.assert_nothing_temporary();
    assert_eq!(mode(&bench.daemon.state("run-tmp")), 0o700);
    bench.daemon.stop();
    assert_golden_file(&bench.daemon);
}

#[test]
fn the_outcome_says_how_it_ended() {
    let bench = Bench::stub(&[]);
    let done = bench.run(&json!({ "prompt": "say 3 words" }));
    assert_eq!((&done["status"], &done["summary"]), (&json!("completed"), &json!("word0 word1 word2 ")));
    assert_eq!(
        (&done["error"], &done["cwd"], &done["purpose"]),
        (&Value::Null, &Value::Null, &json!("fallback-worker"))
    );
    assert_eq!(done["result"]["invocation"]["cwd"], json!(bench.daemon.repo()));

    let silent = bench.run(&json!({ "prompt": "exit: 0" }));
    assert_eq!(
        (&silent["summary"], &silent["result"]["result"]["lastMessage"]),
        (&json!("exit_code:0"), &Value::Null)
    );

    let failed = bench.run_fails(&json!({ "prompt": "fail: no luck" }), "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(failed["result"]["error"]["details"], json!({ "exitCode": 1 }));
    assert_eq!(failed["error"], "codex exec exited with code 1: ERROR: no luck");
    let failed =
        bench.run_fails(&json!({ "prompt": "fail: no luck", "json": true }), "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(failed["error"], "codex exec exited with code 1: no luck");
    let failed = bench.run_fails(&json!({ "prompt": "exit: 3" }), "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(failed["result"]["error"]["details"], json!({ "exitCode": 3 }));

    let killed = bench.run_fails(&scripted("x", "kill -KILL $$", "hi"), "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(killed["result"]["error"]["details"], json!({ "exitCode": null }));
    assert_eq!(killed["result"]["result"]["signal"], "SIGKILL");
    assert_eq!(killed["error"], "codex exec was ended by SIGKILL.");

    let lost =
        bench.run_fails(&json!({ "prompt": "hi", "cwd": "no/such/folder" }), "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(lost["result"]["invocation"]["cwd"], json!(bench.daemon.repo().join("no/such/folder")));
    bench.assert_nothing_temporary();
}

#[test]
fn a_codex_that_is_not_there_is_a_failed_run() {
    for command in ["/no/such/codex", "no-such-codex"] {
        let bench = Bench::stub(&["--codex-command", command]);
        let record = bench.run_fails(&json!({ "prompt": "hi" }), "CODEX_EXEC_SPAWN_FAILED");
        assert!(record["error"].as_str().unwrap().contains("--codex-command of codexd start"), "{record:#}");
        assert_eq!(record["result"]["invocation"]["command"], command);
        assert_eq!(record["result"].get("result"), None);
        bench.assert_nothing_temporary();
    }
}

#[test]
fn json_lines_are_events_at_once_and_stand_before_the_end() {
    let bench = Bench::stub(&[]);
    let live = bench.begin(&json!({ "prompt": "hang:", "json": true }));
    let first = bench.wait_event(&live, "run.output");
    assert_eq!(first["detail"]["event"]["type"], "thread.started");
    assert_eq!(bench.get(&live)["status"], "running");
    assert_eq!(bench.cancel(&live).status, 202);
    assert_failed(&bench.wait_end(&live), "CODEX_EXEC_CANCELLED");

    // Many lines, and two that are none: what is in the record is what was told, and all of it before the end.
    let script = "i=0; while [ $i -lt 3000 ]; do echo \"{\\\"n\\\":$i}\"; i=$((i+1)); done; echo nonsense; echo '{\"half\"'";
    let mut body = scripted("x", script, "run: ls");
    body["json"] = json!(true);
    let many = bench.begin(&body);
    let record = bench.wait_end(&many);
    let result = &record["result"]["result"];
    assert_eq!(result["jsonParseErrors"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&result["jsonParseErrors"][0]["line"], &result["jsonEventsTruncated"]),
        (&json!(3001), &json!(false))
    );
    let of_run = |event: &&Value| event["detail"]["runId"] == many.as_str();
    let events = bench.stream.events();
    let kinds: Vec<&str> =
        events.iter().filter(of_run).map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["run.queued", "run.started"]);
    assert_eq!(kinds.last(), Some(&"run.completed"));
    let told: Vec<Value> = events
        .iter()
        .filter(of_run)
        .filter(|event| event["type"] == "run.output")
        .map(|event| event["detail"]["event"].clone())
        .collect();
    assert_eq!((told.len(), kinds.len()), (3006, 3009));
    assert_eq!(json!(told), result["jsonEvents"]);
    assert!((0..3000).all(|n| told[n] == json!({ "n": n })));

    // More than the record holds: the events have it.
    let big = bench.begin(&json!({ "prompt": "big: 1500000", "json": true }));
    let record = bench.wait_end(&big);
    assert_eq!(record["result"]["result"]["jsonEventsTruncated"], true);
    let whole = |event: &Value| {
        event["detail"]["runId"] == big.as_str()
            && event["detail"]["event"]["item"]["text"].as_str().is_some_and(|text| text.len() == 1_500_000)
    };
    bench.stream.wait_for(whole, DEADLINE);
}

#[test]
fn long_output_is_whole_in_files_and_its_end_in_the_record() {
    const KEPT: usize = 256 * 1024;
    let bench = Bench::stub(&[]);
    let script =
        "i=0; while [ $i -lt 30000 ]; do echo \"out line $i\"; echo \"err line $i\" >&2; i=$((i+1)); done";
    let record = bench.run(&scripted("x", script, "hi"));
    let run = record["runId"].as_str().unwrap();
    for (stream, word) in [("stdout", "out"), ("stderr", "err")] {
        let shown = record["result"]["result"][stream].as_str().unwrap();
        assert_eq!(record["result"]["result"][format!("{stream}Truncated")], true);
        assert_eq!(shown.len(), KEPT);
        let file = bench.daemon.log(&format!("runs/{run}.{stream}.log"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.ends_with(shown));
        assert_eq!(text.lines().filter(|line| line.starts_with(&format!("{word} line "))).count(), 30_000);
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    }
    let short = bench.run(&json!({ "prompt": "stderr: 10 little" }));
    assert_eq!(short["result"]["result"]["stderrTruncated"], false);
    let file = bench.daemon.log(&format!("runs/{}.stderr.log", short["runId"].as_str().unwrap()));
    assert!(!file.exists());
}

#[test]
fn of_a_last_message_as_long_as_anybody_likes_the_end_is_kept_and_a_pipe_in_its_place_is_none() {
    const KEPT: usize = 4 * 1024 * 1024;
    let bench = Bench::stub(&[]);
    let find = "while [ \"$1\" != --output-last-message ]; do shift; done;";
    let script = format!("{find} mkfifo \"$2\"; exit 0");
    let record = bench.run(&scripted("x", &script, "hi"));
    assert_eq!((&record["status"], &record["summary"]), (&json!("completed"), &json!("exit_code:0")));
    assert_eq!(record["result"]["result"]["lastMessage"], Value::Null);

    let script = format!("{find} (head -c {KEPT} /dev/zero | tr '\\0' x; echo the end) > \"$2\"; exit 0");
    let result = bench.run(&scripted("x", &script, "hi"))["result"]["result"].take();
    let message = result["lastMessage"].as_str().unwrap();
    assert!(message.len() == KEPT && message.ends_with("xthe end\n"), "{} bytes", message.len());
    assert_eq!(result["lastMessageTruncated"], true);
    let short = bench.run(&json!({ "prompt": "say 3 words" }));
    assert_eq!(short["result"]["result"]["lastMessageTruncated"], false);
    bench.assert_nothing_temporary();
}

#[test]
fn the_environment_is_the_daemons_with_changes() {
    let bench = Bench::stub(&[]);
    let script = "echo \"foo=[$FOO] home=[${HOME-unset}] path=[$PATH]\" >&2";
    let body = json!({ "prompt": "hi", "env": {
        "FOO": " kept as it is ", "HOME": null, "PATH": "/nowhere", "RUN_TEST_SCRIPT": script } });
    // The changed PATH is Codex's; codexd finds Codex on its own.
    let record = bench.run(&body);
    assert_eq!(record["status"], "completed", "{record:#}");
    let stderr = record["result"]["result"]["stderr"].as_str().unwrap();
    assert!(stderr.contains("foo=[ kept as it is ] home=[unset] path=[/nowhere]\n"), "{stderr}");
}

#[test]
fn a_long_prompt_goes_by_standard_input() {
    let bench = Bench::stub(&[]);
    for length in [120 * 1024, 120 * 1024 + 1, 3 * 1024 * 1024] {
        let prompt = "x".repeat(length);
        let record = bench.run(&json!({ "prompt": prompt }));
        assert_eq!(record["status"], "completed", "{length}: {}", record["error"]);
        assert_eq!(record["summary"].as_str().unwrap().len(), "done: ".len() + length);
        let args = record["result"]["invocation"]["args"].as_array().unwrap();
        let last = if length > 120 * 1024 { "-" } else { &prompt };
        assert_eq!(args[args.len() - 2..], [json!("--"), json!(last)]);
        assert_eq!(record["result"]["invocation"]["prompt"], prompt);
    }
    bench.assert_nothing_temporary();
}

#[test]
fn a_timeout_ends_the_whole_tree() {
    let bench = Bench::stub(&[]);
    let tag = "runs-timeout";
    let mut body = scripted(tag, STUBBORN, "never reached");
    (body["json"], body["timeoutMs"]) = (json!(true), json!(2000));
    let run = bench.begin(&body);
    bench.wait_event(&run, "run.output");
    let until = Instant::now() + DEADLINE;
    // What is in the middle of an exec shows no environment.
    while cfg!(target_os = "linux") && tagged(tag).len() < 4 {
        assert!(Instant::now() < until, "{:?}", tagged(tag));
        std::thread::park_timeout(Duration::from_millis(5));
    }
    let record = bench.wait_end(&run);
    assert_gone(tag);
    assert_failed(&record, "CODEX_EXEC_TIMEOUT");
    assert_eq!(record["result"]["error"]["details"], json!({ "timeoutMs": 2000 }));
    let result = &record["result"]["result"];
    assert_eq!((&result["timedOut"], &result["signal"]), (&json!(true), &json!("SIGKILL")));
    let took = result["durationMs"].as_u64().unwrap();
    assert!((3000..15_000).contains(&took), "{took} ms: SIGTERM, a second, SIGKILL");
    bench.assert_nothing_temporary();
}

#[test]
fn what_a_run_leaves_in_the_background_is_ended_with_it() {
    let bench = Bench::stub(&[]);
    let tag = "runs-background";
    let record = bench.run(&scripted(tag, "setsid sleep 300 & sleep 300 &", "hi"));
    assert_eq!(record["status"], "completed");
    assert_gone(tag);
}

#[test]
fn cancelling_a_run_that_waits_runs_or_has_ended() {
    let bench = Bench::stub(&["--max-concurrent-runs", "1"]);
    let tag = "runs-cancel";
    let mut body = scripted(tag, STUBBORN, "never reached");
    body["json"] = json!(true);
    let running = bench.begin(&body);
    bench.wait_event(&running, "run.output");
    let folders = std::fs::read_dir(bench.daemon.state("run-tmp")).unwrap();
    assert_eq!(folders.map(|folder| mode(&folder.unwrap().path())).collect::<Vec<_>>(), [0o700]);
    let queued = bench.begin(&json!({ "prompt": "hi" }));

    let answer = bench.cancel(&queued);
    assert_eq!(answer.status, 202);
    let record = answer.json()["data"]["run"].take();
    assert_failed(&record, "CODEX_EXEC_CANCELLED");
    assert_eq!((&record["startedAt"], record["result"].get("invocation")), (&Value::Null, None));
    assert_eq!(record, bench.wait_end(&queued));

    assert_eq!(bench.cancel(&running).status, 202);
    assert_eq!(bench.cancel(&running).status, 202, "it is being ended");
    let record = bench.wait_end(&running);
    assert_failed(&record, "CODEX_EXEC_CANCELLED");
    assert_eq!(record["result"]["result"]["signal"], "SIGKILL");
    assert_gone(tag);

    let done = bench.run(&json!({ "prompt": "hi" }));
    for ended in [&record, &done] {
        let answer = bench.cancel(ended["runId"].as_str().unwrap());
        assert_eq!((answer.status, &answer.json()["data"]["run"]), (200, ended));
    }
    bench.assert_nothing_temporary();
}

#[test]
fn no_more_run_at_once_than_may() {
    let bench = Bench::stub(&[]);
    let runs: Vec<String> = (0..20).map(|_| bench.begin(&json!({ "prompt": "slow: 8 100" }))).collect();
    for run in &runs {
        assert_eq!(bench.wait_end(run)["status"], "completed");
    }
    assert_eq!(most_at_once(&bench), 4);
    let started: Vec<String> =
        bench.logged().into_iter().filter(|(kind, _)| kind == "run.started").map(|(_, run)| run).collect();
    assert_eq!(started.len(), 20);
    bench.assert_nothing_temporary();
}

/// From the log: how many runs were running at the same time.
pub(crate) fn most_at_once(bench: &Bench) -> i32 {
    let (mut running, mut most) = (0, 0);
    for (kind, _) in bench.logged() {
        running += match kind.as_str() {
            "run.started" => 1,
            "run.completed" | "run.failed" => -1,
            _ => 0,
        };
        most = most.max(running);
    }
    assert_eq!(running, 0);
    most
}

#[test]
fn a_stop_ends_the_runs_in_order_and_records_it() {
    let mut bench = Bench::stub(&["--max-concurrent-runs", "1"]);
    let tag = "runs-stop";
    let mut body = scripted(tag, STUBBORN, "never reached");
    body["json"] = json!(true);
    let running = bench.begin(&body);
    bench.wait_event(&running, "run.output");
    let queued: Vec<String> = (0..3).map(|_| bench.begin(&json!({ "prompt": "hi" }))).collect();
    bench.daemon.stop();
    assert!(tagged(tag).is_empty());
    bench.assert_nothing_temporary();

    let events = bench.daemon.log_events();
    assert_eq!(events.last().unwrap()["type"], "daemon.stopped");
    let failed: Vec<String> =
        bench.logged().into_iter().filter(|(kind, _)| kind == "run.failed").map(|(_, run)| run).collect();
    assert_eq!(failed[..3], queued);
    assert_eq!(failed[3..], [running.as_str()]);

    bench.daemon.restart();
    for run in queued.iter().chain([&running]) {
        let record = bench.get(run);
        assert_failed(&record, "CODEX_EXEC_INTERRUPTED");
        assert_eq!(record["startedAt"].is_null(), *run != running);
    }
}

#[test]
fn a_stop_may_let_running_runs_end_and_starts_none() {
    let mut bench = Bench::stub(&["--max-concurrent-runs", "1", "--drain-timeout-ms", "30000"]);
    let runs = [0, 1].map(|_| bench.begin(&json!({ "prompt": "slow: 3 100" })));
    bench.wait_event(&runs[0], "run.started");
    bench.daemon.stop();
    bench.daemon.restart();
    assert_eq!(bench.get(&runs[0])["status"], "completed");
    let waiting = bench.get(&runs[1]);
    assert_failed(&waiting, "CODEX_EXEC_INTERRUPTED");
    assert_eq!(waiting["startedAt"], Value::Null);
}

#[test]
fn runs_of_a_daemon_that_was_killed_are_interrupted() {
    let mut bench = Bench::stub(&["--max-concurrent-runs", "1"]);
    let running = bench.begin(&json!({ "prompt": "hang:" , "json": true }));
    bench.wait_event(&running, "run.output");
    let queued = bench.begin(&json!({ "prompt": "hi" }));
    let left = std::fs::read_dir(bench.daemon.state("run-tmp")).unwrap().count();
    assert_eq!(left, 1);
    bench.daemon.kill(); // what it started ends by itself
    bench.daemon.restart();
    for run in [&running, &queued] {
        let record = bench.get(run);
        assert_failed(&record, "CODEX_EXEC_INTERRUPTED");
        assert_eq!(record["result"].get("result"), None);
    }
    bench.assert_nothing_temporary();
    let failed: Vec<(String, String)> =
        bench.logged().into_iter().filter(|(kind, _)| kind == "run.failed").collect();
    assert_eq!(failed.len(), 2, "each once");
}

#[test]
#[cfg_attr(
    not(target_os = "linux"),
    ignore = "processes that hide from their parents are found on Linux only"
)]
fn what_outlives_a_daemon_that_was_killed_is_ended_by_the_next() {
    let mut bench = Bench::stub(&[]);
    let tag = "runs-crash";
    let mut body = scripted(tag, STUBBORN, "never reached");
    body["json"] = json!(true);
    let run = bench.begin(&body);
    bench.wait_event(&run, "run.output");
    let crashed = bench.daemon.crash();
    assert!(!tagged(tag).is_empty(), "it ignores SIGTERM, which is all it gets");
    bench.daemon.restart();
    assert_gone(tag);
    assert_failed(&bench.get(&run), "CODEX_EXEC_INTERRUPTED");
    assert!(crashed.left(Duration::ZERO).is_empty());
    let reaped =
        |event: &Value| event["type"] == "child.orphan.reaped" && event["detail"]["purpose"] == "run";
    assert!(bench.daemon.log_events().iter().any(reaped));
}

#[test]
fn a_database_that_is_locked_at_the_start_is_tried_again() {
    let bench = Bench::stub(&[]);
    let marks = bench.daemon.repo().join("marks");
    let mark = format!("echo x >> '{}'; [ $(wc -l < '{}') -gt", marks.display(), marks.display());
    let locked = "echo 'Error: database is locked' >&2";
    let record = bench.run(&scripted("x", &format!("{mark} 2 ] || {{ {locked}; exit 1; }}"), "hi"));
    assert_eq!((&record["status"], &record["result"]["result"]["retries"]), (&json!("completed"), &json!(2)));

    std::fs::remove_file(&marks).unwrap();
    let body = scripted("x", &format!("{mark} 9 ] || {{ {locked}; exit 1; }}"), "hi");
    let record = bench.run_fails(&body, "CODEX_EXEC_EXIT_NON_ZERO");
    assert_eq!(record["result"]["result"]["retries"], 2);

    // A run that has begun may have changed something: it is not started again.
    for begun in ["echo 'session id: 1' >&2", "echo '{\"type\":\"thread.started\"}'"] {
        let body = scripted("x", &format!("{begun}; {locked}; exit 1"), "hi");
        let record = bench.run_fails(&body, "CODEX_EXEC_EXIT_NON_ZERO");
        assert_eq!(record["result"]["result"]["retries"], 0, "{begun}");
    }
    bench.assert_nothing_temporary();
}

#[test]
fn what_was_ended_is_not_started_again_whatever_it_complained_of() {
    let bench = Bench::stub(&[]);
    let (gate, began) = (bench.daemon.repo().join("gate"), bench.daemon.repo().join("began"));
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    // Started a second time it ends well.
    let script = format!(
        "[ ! -e '{began}' ] || exit 0; : > '{began}'; trap 'echo database is locked >&2; exit 1' TERM; \
         echo ready > '{gate}'; sleep 300 & wait",
        began = began.display(),
        gate = gate.display()
    );
    let run = bench.begin(&scripted("x", &script, "hi"));
    assert_eq!(std::fs::read_to_string(&gate).unwrap(), "ready\n");
    assert_eq!(bench.cancel(&run).status, 202);
    let record = bench.wait_end(&run);
    assert_failed(&record, "CODEX_EXEC_CANCELLED");
    let result = &record["result"]["result"];
    assert_eq!((&result["retries"], &result["exitCode"]), (&json!(0), &json!(1)), "{record:#}");
}

#[test]
fn exec_mode_has_runs_too() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = folder.path().join("codex");
    std::os::unix::fs::symlink(
        if cfg!(target_os = "linux") { "/bin/true" } else { "/usr/bin/true" },
        &script,
    )
    .unwrap();
    let flags = ["--mode", "exec", "--codex-command", script.to_str().unwrap()];
    let daemon = Daemon::builder().server("sleep", &["300"]).flags(&flags).start();
    let stream = daemon.stream();
    let answer = daemon.client().post(RUNS, &json!({ "prompt": "hi" }));
    let run = id(&answer);
    let event = stream
        .wait_for(|event| event["detail"]["runId"] == run && event["type"] == "run.completed", DEADLINE);
    assert_eq!(event["detail"]["record"]["summary"], "exit_code:0");
}

#[test]
fn a_run_that_has_ended_takes_no_place() {
    let bench = Bench::stub(&["--max-concurrent-runs", "1", "--max-queued-runs", "1"]);
    for _ in 0..5 {
        bench.run(&json!({ "prompt": "say 1 words" }));
    }
}

#[test]
fn what_has_ended_well_is_not_started_again_whatever_it_complained_of() {
    let codex = fake_codex("echo begun >>begun; echo 'database is locked' >&2");
    let mut daemon = Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).start();
    let stream = daemon.stream();
    run(&daemon.client(), &stream, &json!({ "prompt": "x" }));
    stream.wait_for_type("run.completed");
    assert_eq!(std::fs::read_to_string(daemon.repo().join("begun")).unwrap(), "begun\n");
    daemon.stop();
}
