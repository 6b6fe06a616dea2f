//! A stop takes no new work, lets running work end for a while, and interrupts what has not.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::conversation::{
    child, fake_codex, on_script, on_stub, post_turn, run, session, talk, turn, until,
};
use crate::daemon::Daemon;
use crate::processes;
use crate::skipped::skipped;

/// A turn that streams a word every 20 ms, and has begun.
fn running(daemon: &Daemon, words: u32) -> (String, String, crate::client::Stream) {
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    let turn = turn(&client, &id, &format!("slow: {words} 20"));
    stream.wait_for_type("app-server.turn.message.delta");
    (id, turn, stream)
}

/// The turn's end as the log has it, and how the session stands after the stop.
fn in_the_end(daemon: &Daemon, turn: &str) -> (Option<String>, Value) {
    let events = daemon.log_events();
    assert_eq!(events.last().unwrap()["type"], "daemon.stopped");
    assert!(events.iter().all(|event| event["type"] != "app-server.turn.completed.missing"));
    let completed =
        |event: &&Value| event["type"] == "app-server.turn.completed" && event["detail"]["turnId"] == turn;
    let status =
        events.iter().find(completed).map(|event| event["detail"]["status"].as_str().unwrap().to_owned());
    let mut registry = daemon.state_json("session-registry.json");
    (status, registry["sessions"][0].take())
}

#[test]
fn a_drain_lets_the_running_turn_end_and_refuses_new_work() {
    let (builder, _threads) = on_stub(&["--drain-timeout-ms", "60000"]);
    let mut daemon = builder.start();
    let client = daemon.client();
    let (id, running, stream) = running(&daemon, 200);
    daemon.signal(Signal::TERM);
    let refused = until("the refusal", DEADLINE, || {
        let answer = client.post("/v1/codexd/sessions", &json!({}));
        (answer.status != 201).then_some(answer)
    });
    assert_eq!(
        (refused.status, refused.json()["error"].as_str()),
        (503, Some("unavailable")),
        "{}",
        refused.text()
    );
    let seconds: u32 = refused.header("retry-after").expect("when to come back").parse().unwrap();
    assert!(seconds > 0);
    assert_eq!(post_turn(&client, &id, "say 1 words").status, 503);
    // What serves the work that goes on is still served.
    assert_eq!(client.get("/healthz").status, 200);
    let steer = json!({"sessionId": id, "input": "slow: 30 20", "expectedTurnId": running});
    let steered = client.post("/v1/codexd/turn", &steer);
    assert_eq!(steered.status, 202, "{}", steered.text());

    let ended = daemon.wait();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let (status, session) = in_the_end(&daemon, &running);
    assert_eq!(status.as_deref(), Some("completed"));
    assert_eq!((&session["currentTurnId"], &session["lastTurnStatus"]), (&Value::Null, &json!("completed")));
    assert_eq!(stream.close_code(), Some(1001));
}

#[test]
fn a_drain_that_takes_too_long_is_interrupted() {
    let (builder, _threads) = on_stub(&["--drain-timeout-ms", "700"]);
    let mut daemon = builder.start();
    let (_, running, _stream) = running(&daemon, 100_000);
    let asked = Instant::now();
    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(asked.elapsed() >= Duration::from_millis(700), "{:?}", asked.elapsed());
    let (status, session) = in_the_end(&daemon, &running);
    assert_eq!(status.as_deref(), Some("interrupted"));
    assert_eq!(
        (&session["currentTurnId"], &session["lastTurnStatus"]),
        (&Value::Null, &json!("interrupted"))
    );
}

#[test]
fn without_a_drain_timeout_the_turn_is_interrupted_at_once() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (_, running, _stream) = running(&daemon, 100_000);
    let asked = Instant::now();
    daemon.stop();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let (status, session) = in_the_end(&daemon, &running);
    assert_eq!(status.as_deref(), Some("interrupted"));
    assert_eq!(session["lastTurnStatus"], "interrupted");
}

#[test]
fn an_app_server_that_does_not_interrupt_holds_up_no_stop() {
    let (builder, _threads) = on_stub(&["--drain-timeout-ms", "100"]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "mute:");
    // No request is answered any more, nor is this one.
    let client = client.with_deadline(Duration::from_millis(200));
    let asked = std::panic::catch_unwind(|| post_turn(&client, &id, "hang:").status);
    assert!(asked.is_err(), "{asked:?}");
    drop(stream);
    let asked = Instant::now();
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

#[test]
fn a_drain_waits_for_runs_that_run_and_begins_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("while [ ! -e {}/end ]; do sleep 0.05; done", folder.path().display());
    let codex = fake_codex(&script);
    let flags = ["--drain-timeout-ms", "60000", "--max-concurrent-runs", "1"];
    let mut daemon =
        Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).flags(&flags).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let running = run(&client, &stream, &json!({"prompt": "first"}));
    let queued = client.post("/v1/codexd/runs", &json!({"prompt": "second"}));
    assert_eq!(queued.status, 202);
    daemon.signal(Signal::TERM);
    let refused = until("the drain", DEADLINE, || {
        let answer = client.post("/v1/codexd/runs", &json!({"prompt": "third"}));
        (answer.status != 202).then_some(answer)
    });
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    std::fs::File::create(folder.path().join("end")).unwrap();
    assert_eq!(daemon.wait().status.code(), Some(0));
    let registry = daemon.state_json("run-registry.json");
    let of = |id: &Value| {
        let runs = registry["runs"].as_array().unwrap();
        runs.iter().find(|run| run["runId"] == *id).unwrap().clone()
    };
    assert_eq!(of(&json!(running))["status"], "completed");
    let queued = of(&queued.json()["data"]["run"]["runId"]);
    assert_eq!(
        (&queued["status"], &queued["result"]["error"]["code"]),
        (&json!("failed"), &json!("CODEX_EXEC_INTERRUPTED"))
    );
    assert_eq!(queued["startedAt"], Value::Null);
}

#[test]
fn a_second_sigterm_ends_at_once_and_leaves_nothing() {
    let (builder, _threads) = on_stub(&["--drain-timeout-ms", "600000"]);
    let mut daemon = builder.env("CODEXD_STUB", "ignore-sigterm,ignore-eof").start();
    let (id, running, _stream) = running(&daemon, 100_000);
    let client = daemon.client();
    daemon.signal(Signal::TERM);
    let ready = until("the drain", DEADLINE, || {
        let ready = client.get("/readyz");
        (ready.json()["checks"]["work"]["ok"] == false).then_some(ready)
    });
    let checks = &ready.json()["checks"];
    assert_eq!((ready.status, &checks["child"]["ok"]), (503, &json!(true)));
    assert!(checks["work"]["detail"].as_str().unwrap().contains("takes no new work"), "{checks}");
    assert_eq!(post_turn(&client, &id, "x").status, 503);
    let asked = Instant::now();
    daemon.signal(Signal::TERM);
    // Fails the test when a process is left.
    let ended = daemon.wait();
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(143), None), "{ended:?}");
    assert!(ended.stderr.contains("second SIGTERM"), "{ended:?}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    // The next life tells the truth about it.
    daemon.restart();
    let log = daemon.log_events();
    let missing = log.iter().find(|event| event["type"] == "app-server.turn.completed.missing");
    let last = || log.iter().rev().take(12).map(|event| event.to_string()).collect::<Vec<_>>();
    let missing = missing.unwrap_or_else(|| panic!("not told; the last events, backwards: {:#?}", last()));
    assert_eq!(missing["detail"]["turnId"], *running);
    daemon.stop();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "there is setsid(1) on Linux only")]
fn a_closed_terminal_is_a_stop_like_any_other() {
    if codexd::os::is_ignored(Signal::HUP).unwrap() {
        return skipped(
            "a_closed_terminal_is_a_stop_like_any_other",
            "the tests run under nohup, and so would the daemon",
        );
    }
    let script = "trap '' TERM; setsid sleep 602 & echo ready >&2; while :; do sleep 1; done";
    let mut daemon = on_script(script, &["--stop-timeout-ms", "1000"]).start();
    let written = || daemon.log_events().iter().any(|event| event["type"] == "child.stderr");
    until("a line of the child", DEADLINE, || written().then_some(()));
    daemon.signal(Signal::HUP);
    // The stop is under way. The shell tells of the terminal's end, and then the system does.
    until("the stop", DEADLINE, || {
        let answer = daemon.client().post("/v1/codexd/sessions", &json!({}));
        (answer.status == 503).then_some(())
    });
    daemon.signal(Signal::HUP);
    // Fails the test when a process is left.
    let ended = daemon.wait();
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(0), None), "{ended:?}");
    assert!(ended.stdout.starts_with("codexd stopped after SIGHUP\n"), "{ended:?}");
    assert_eq!(daemon.log_events().last().unwrap()["type"], "daemon.stopped");
}

#[test]
fn under_nohup_a_closed_terminal_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let nohup = folder.path().join("nohup");
    let program = env!("CARGO_BIN_EXE_codexd");
    processes::write_program(&nohup, &format!("#!/bin/sh\ntrap '' HUP\nexec '{program}' \"$@\"\n"));
    let mut daemon = Daemon::builder().program(&nohup).start();
    // Were it watched, it would be the first signal and the other the second.
    daemon.signal(Signal::HUP);
    let ended = daemon.stop();
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(0), None), "{ended:?}");
    assert!(ended.stdout.starts_with("codexd stopped after SIGTERM\n"), "{ended:?}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "there is env --block-signal on Linux only")]
fn a_daemon_whose_starter_has_blocked_its_signals_is_stopped_by_them_and_so_is_its_child() {
    let block = "env --block-signal=TERM --block-signal=CHLD --block-signal=USR1";
    if !Command::new("sh")
        .args(["-c", &format!("{block} true")])
        .status()
        .is_ok_and(|status| status.success())
    {
        return skipped(
            "a_daemon_whose_starter_has_blocked_its_signals_is_stopped_by_them_and_so_is_its_child",
            "env(1) cannot block signals here",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("blocks");
    let program = env!("CARGO_BIN_EXE_codexd");
    processes::write_program(&wrapper, &format!("#!/bin/sh\nexec {block} '{program}' \"$@\"\n"));
    // Its end is heard of only by SIGCHLD: it is adopted.
    let script = "(setsid true &); echo ready >&2; exec sleep 600";
    let mut daemon = on_script(script, &["--stop-timeout-ms", "60000"]).program(&wrapper).start();
    let stream = daemon.stream();
    let written = || daemon.log_events().iter().any(|event| event["type"] == "child.stderr");
    until("a line of the child", DEADLINE, || written().then_some(()));
    let status = std::fs::read_to_string(format!("/proc/{}/status", child(&daemon.client())["pid"])).unwrap();
    assert!(status.contains("\nSigBlk:\t0000000000000000\n"), "{status}");
    let own = i32::try_from(daemon.pid()).unwrap();
    let children = || codexd::os::list().iter().filter(|process| process.parent == own).count();
    until("only the child is left", DEADLINE, || (children() == 1).then_some(()));
    let ended = daemon.stop();
    assert!(ended.stdout.starts_with("codexd stopped after SIGTERM\n"), "{ended:?}");
    assert_eq!(stream.wait_for_type("child.exited")["detail"]["signal"], "SIGTERM");
}
