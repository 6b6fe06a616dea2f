//! The child comes back, and so do its sessions; one daemon a state folder.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use codexd::app_server::call::CallError;
use codexd::app_server::inbox::Inbox;
use codexd::hub::batch::Batch;
use codexd::model::event::EventType;
use codexd::process::ledger::Ledger;
use codexd::supervisor::{Parts, Supervisor};
use codexd::timer::Timer;
use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::client::Stream;
use crate::conversation::{
    child, ended, full_access, kill, look, on_script, on_stub, post_turn, rounds, session, suspend, talk,
    turn, unread_input, until,
};
use crate::daemon::Daemon;
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::{DEADLINE, lone_hub};

/// The first event of that type about a session after `seq`.
fn about(stream: &Stream, kind: &str, session: &str, after: u64) -> Value {
    let fits = |event: &Value| {
        event["type"] == kind
            && event["detail"]["sessionId"] == session
            && event["seq"].as_u64().unwrap() > after
    };
    stream.wait_for(fits, DEADLINE)
}

/// The turn that was cut off is told.
fn about_turn(stream: &Stream, turn: &str) {
    let fits = |event: &Value| {
        event["type"] == "app-server.turn.completed.missing" && event["detail"]["turnId"] == turn
    };
    stream.wait_for(fits, DEADLINE);
}

#[test]
fn a_crash_is_told_and_every_active_session_is_loaded_again_at_once() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let ids: Vec<String> = (0..6).map(|_| session(&client, &json!({}))).collect();
    // The last one never runs a turn: there is nothing of it to resume.
    for id in &ids[..5] {
        talk(&client, &stream, id, "say 1 words");
    }
    let fresh = look(&client, &ids[5])["threadId"].clone();
    let running = turn(&client, &ids[0], "hang:");
    about(&stream, "turn.accepted", &ids[0], 0);
    stream
        .wait_for(|e| e["type"] == "app-server.turn.started" && e["detail"]["turnId"] == *running, DEADLINE);

    let before = child(&client);
    kill(&before["pid"]);
    let missing = about(&stream, "app-server.turn.completed.missing", &ids[0], 0);
    assert_eq!(missing["detail"]["turnId"], *running);
    assert_eq!(missing["detail"]["childSignal"], "SIGKILL");
    assert_eq!(missing["detail"]["transportCloseSource"], "stdout.end");
    let seq = missing["seq"].as_u64().unwrap();
    for id in &ids {
        let recovered = about(&stream, "session.recovered", id, seq);
        let replaced = &recovered["detail"]["replacedThreadId"];
        assert_eq!(*replaced, if *id == ids[5] { fresh.clone() } else { Value::Null });
    }
    let after = child(&client);
    assert_eq!(after["status"], "running");
    assert_eq!((&after["restarts"], &after["lastError"]), (&json!(1), &Value::Null), "it is connected again");
    assert_eq!(after["generation"].as_u64(), before["generation"].as_u64().map(|number| number + 1));
    for id in &ids {
        let session = look(&client, id);
        assert_eq!(session["generation"], after["generation"]);
        assert_eq!((&session["status"], &session["lastError"]), (&json!("active"), &Value::Null));
        talk(&client, &stream, id, "say 1 words");
    }
    let order: Vec<String> = stream
        .events()
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .filter(|kind| {
            ["child.exited", "app-server.transport.closed", "child.restarting", "child.restarted"]
                .contains(&kind.as_str())
        })
        .collect();
    assert_eq!(order, ["child.exited", "app-server.transport.closed", "child.restarting", "child.restarted"]);
    // Loaded once each: neither the turns nor anybody else loaded them again.
    let count = stream.events().iter().filter(|event| event["type"] == "session.recovered").count();
    assert_eq!(count, ids.len());
    daemon.stop();
}

#[test]
fn a_thread_that_cannot_be_resumed_costs_no_session() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    let thread = look(&client, &id)["threadId"].clone();
    daemon.stop();

    let mut daemon = daemon.again().env("CODEXD_STUB", "refuse-resume=1").start();
    let (client, stream) = (daemon.client(), daemon.stream());
    assert_eq!(look(&client, &id)["generation"], Value::Null);
    let refused = post_turn(&client, &id, "say 1 words");
    assert_eq!((refused.status, refused.json()["error"].as_str()), (502, Some("app_server_error")));
    let failed = stream.wait_for_type("session.recovery.failed");
    assert_eq!((&failed["level"], &failed["detail"]["threadId"]), (&json!("error"), &thread));
    let shown = look(&client, &id);
    assert_eq!((&shown["status"], &shown["threadId"]), (&json!("active"), &thread));
    assert!(shown["lastError"].as_str().is_some_and(|error| error.contains("refused")), "{shown}");

    talk(&client, &stream, &id, "say 1 words");
    let shown = look(&client, &id);
    assert_eq!((&shown["lastError"], &shown["threadId"]), (&Value::Null, &thread));
    let all = client.get("/v1/codexd/sessions").json();
    assert_eq!(all["data"]["sessions"].as_array().map(Vec::len), Some(1), "no duplicate of it");
    daemon.stop();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "what a process has not read is told by Linux only")]
fn a_turn_on_its_way_when_the_child_dies_is_sent_again_only_if_it_was_not_taken() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    let posted = |prompt: &str| {
        let (client, id, prompt) = (client.clone(), id.clone(), prompt.to_owned());
        thread::Builder::new().name("post".into()).spawn(move || post_turn(&client, &id, &prompt)).unwrap()
    };
    // It is stopped and reads nothing any more: what is sent to it is lost with it.
    talk(&client, &stream, &id, "say 1 words");
    let pid = child(&client)["pid"].clone();
    suspend(&pid);
    let lost = posted("say 1 words");
    until("a request that it does not read", DEADLINE, || (unread_input(&pid) > 0).then_some(()));
    kill(&pid);
    let answer = lost.join().unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(ended(&stream, answer.json()["data"]["turnId"].as_str().unwrap()), "completed");

    // It answers nothing any more, but does what it is asked.
    talk(&client, &stream, &id, "mute:");
    let before = look(&client, &id)["lastTurnId"].clone();
    let taken = posted("hang:");
    until("the turn", DEADLINE, || {
        let turn = &look(&client, &id)["currentTurnId"];
        (turn.is_string() && *turn != before).then_some(())
    });
    kill(&child(&client)["pid"]);
    let answer = taken.join().unwrap();
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (503, Some("unavailable")),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    talk(&client, &stream, &id, "say 1 words");
    daemon.stop();
}

#[test]
fn a_crash_loop_is_throttled_and_visible() {
    let seconds = rounds(6, 60) as u64;
    let mut daemon = on_script("exit 3", &[]).start();
    let began = Instant::now();
    let stream = daemon.stream();
    let client = daemon.client();
    // The log of the whole life is looked at below; here only time passes, and the fifth start takes 3.75 s.
    let shown = until("a restart in the status", DEADLINE, || {
        let child = child(&client);
        (child["restarts"].as_u64() >= Some(3) && child["status"] == "failed").then_some(child)
    });
    let error = shown["lastError"].as_str().unwrap();
    assert!(error.starts_with("The child exited with code 3. It had answered nothing yet"), "{error}");
    assert_eq!(shown["exitCode"], 3);
    let answer = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(
        (answer.status, answer.json()["error"].as_str()),
        (503, Some("unavailable")),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some());
    let left = Duration::from_secs(seconds).saturating_sub(began.elapsed());
    until("the time is over", left + DEADLINE, || {
        (began.elapsed() > Duration::from_secs(seconds)).then_some(())
    });
    let starts = daemon.log_events().iter().filter(|event| event["type"] == "child.started").count();
    assert!((4..=15).contains(&starts), "{starts} starts in {seconds} s");
    stream.wait_for_type("child.restarting");
    let delays: Vec<u64> = stream
        .events()
        .iter()
        .filter(|event| event["type"] == "child.restarting")
        .map(|event| event["detail"]["delayMs"].as_u64().unwrap())
        .collect();
    assert!(delays.is_sorted(), "{delays:?}");
    daemon.stop();
    if seconds == 60 {
        report(&format!("crash loop: {starts} starts in the first {seconds} s"));
    }
}

#[test]
fn a_crash_loop_with_nothing_to_load_connects_to_nothing_and_holds_up_no_stop() {
    let mut daemon = on_script("exit 3", &[]).start();
    let client = daemon.client();
    until("a restart in the status", DEADLINE, || {
        let child = child(&client);
        (child["restarts"].as_u64() >= Some(3) && child["status"] == "failed").then_some(())
    });
    let (took, ended) = daemon.stop_timed();
    assert!(!ended.stderr.contains("could not be recovered"), "{}", ended.stderr);
    let failed = daemon.log_events().iter().any(|event| event["type"] == "app-server.connect.failed");
    assert!(!failed, "nobody wanted a connection");
    // A wait for the child would last up to 5 s.
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn a_stop_between_two_lives_is_told_to_whoever_waits_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["start", "--repo-root", folder.path().to_str().unwrap(), "--server-command", "false"];
    let config = codexd::cli::config_of(&words, &|_| None, folder.path()).unwrap().unwrap();
    let (hub, threads) = lone_hub::start(&config);
    let client = lone_hub::client(&hub, &config);
    let (timer, timer_thread) = Timer::start().unwrap();
    let (ledger, _) = Ledger::open(&config.paths.processes(), "test", &mut Vec::new()).unwrap();
    let (revived, _lives) = bounded(1);
    let events = hub.ask(|core| core.subscribe()).unwrap();
    let supervisor = Supervisor::start(Parts {
        inbox: Arc::new(Inbox::new(hub.clone(), Arc::clone(&client), timer, &config)),
        config: Arc::new(config),
        hub,
        client: Arc::clone(&client),
        daemon_id: "test".to_owned(),
        ledger,
        revived,
    })
    .unwrap();
    supervisor.wait_for_child().unwrap();
    let restarting =
        |batch: Arc<Batch>| batch.entries().iter().any(|entry| entry.kind == EventType::ChildRestarting);
    while !restarting(events.taken(events.receiver().recv_timeout(DEADLINE).unwrap())) {}
    supervisor.stop();
    // The next life will not come: who asks for it learns that at once instead of after the wait for it.
    match client.connect().map(|_| ()) {
        Err(CallError::Unavailable { reason, retry_after: None }) => assert_eq!(reason, "codexd is stopping"),
        other => panic!("{other:?}"),
    }
    drop(timer_thread);
    threads.stop();
}

/// Every file below a folder with its content and time of change.
fn files(root: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if entry.path().is_file() {
            let changed = entry.metadata().unwrap().modified().unwrap();
            found.insert(entry.path().display().to_string(), (std::fs::read(entry.path()).unwrap(), changed));
        }
    }
    found
}

#[test]
fn a_second_daemon_names_the_first_and_changes_nothing() {
    let mut daemon = Daemon::builder().start();
    let root = daemon.repo().parent().unwrap().to_owned();
    // Its state files are written a moment after its first line; what is in them then is everything.
    until("the state on disk", DEADLINE, || {
        let last = daemon.log_events().last().map(|event| event["seq"].clone());
        let recent = std::fs::read(daemon.state("recent-events.json")).ok()?;
        let recent: Value = serde_json::from_slice(&recent).unwrap();
        let child = &daemon.state_json("daemon-state.json")["child"];
        (recent["appliedSeq"] == last? && child["status"] == "running").then_some(())
    });
    let before = files(&root);
    let message = format!("codexd: another codexd (pid {}) uses ", daemon.pid());
    for round in 0..50 {
        // Half of them want the port of the first besides.
        let second = match round % 2 {
            0 => daemon.again(),
            _ => daemon.again().flags(&["--local-api-base", daemon.base()]),
        };
        let ended = second.run(&["start"]);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.stderr.starts_with(&message) && ended.stderr.lines().count() == 1, "{ended:?}");
        assert_eq!(ended.stdout, "");
    }
    let after = files(&root);
    let names = |files: &BTreeMap<String, _>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before));
    for (name, file) in &before {
        assert!(after[name] == *file, "{name} was changed");
    }
    assert_eq!(daemon.client().get("/healthz").status, 200);
    daemon.stop();
}

#[test]
fn a_second_daemon_on_the_same_log_names_the_first_and_leaves_no_state_folder() {
    let mut daemon = Daemon::builder().start();
    let root = daemon.repo().parent().unwrap().to_owned();
    let (logs, elsewhere) = (daemon.log("").canonicalize().unwrap(), root.join("elsewhere"));
    let link = root.join("link");
    std::os::unix::fs::symlink(logs.parent().unwrap(), &link).unwrap();
    for (folder, path) in [("logs", logs), ("link", link.join("codexd"))] {
        let path = path.display().to_string();
        let folder = root.join(folder).display().to_string();
        let flags = ["--logs-dir", &folder, "--state-dir", elsewhere.to_str().unwrap()];
        for base in ["http://127.0.0.1:0", daemon.base()] {
            let ended = daemon.again().flags(&flags).flags(&["--local-api-base", base]).run(&["start"]);
            let message = format!(
                "codexd: another codexd (pid {}) uses {path}; stop it or choose another --logs-dir\n",
                daemon.pid()
            );
            assert_eq!((ended.status.code(), ended.stderr), (Some(1), message));
            assert!(!elsewhere.exists());
        }
    }
    // Where the state folder is there already it has the lock of that, and then not the log's.
    std::fs::create_dir_all(elsewhere.join("codexd")).unwrap();
    let ended = daemon.again().flags(&["--state-dir", elsewhere.to_str().unwrap()]).run(&["start"]);
    assert!(ended.stderr.ends_with("choose another --logs-dir\n"), "{ended:?}");
    let left: Vec<_> = std::fs::read_dir(elsewhere.join("codexd")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    daemon.stop();
}

#[test]
fn one_folder_may_be_both_the_logs_and_the_state() {
    let builder = Daemon::builder();
    let both = builder.repo().join("both").display().to_string();
    let mut daemon = builder.flags(&["--logs-dir", &both, "--state-dir", &both]).start();
    let ended = daemon.again().run(&["start"]);
    assert!(ended.stderr.contains("choose another --state-dir"), "{ended:?}");
    let status = daemon.again().run(&["status"]);
    assert!(status.stdout.contains(" daemon=running "), "{status:?}");
    daemon.restart();
    daemon.stop();
}

#[test]
fn of_daemons_started_at_once_one_runs() {
    for _ in 0..rounds(3, 20) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let base = format!("http://127.0.0.1:{port}");
        let first = Daemon::builder().flags(&["--local-api-base", &base]);
        let both: Vec<_> = thread::scope(|scope| {
            let start = |_| {
                let builder = first.clone();
                thread::Builder::new().spawn_scoped(scope, move || builder.try_start()).unwrap()
            };
            let started: Vec<_> = (0..2).map(start).collect();
            started.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (mut run, refused): (Vec<_>, Vec<_>) = both.into_iter().partition(Result::is_ok);
        assert_eq!((run.len(), refused.len()), (1, 1));
        let mut daemon = run.remove(0).unwrap();
        let Err(ended) = &refused[0] else { unreachable!() };
        assert_eq!(ended.status.code(), Some(1));
        let message = format!("another codexd (pid {}) uses", daemon.pid());
        assert!(ended.stderr.contains(&message), "{ended:?}");
        daemon.stop();
    }
}

#[test]
fn status_beside_a_busy_daemon_is_right() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    let running = turn(&client, &id, "slow: 100000 1");
    stream.wait_for_type("app-server.turn.message.delta");
    // Written within 200 ms of the change.
    until("the state on disk", DEADLINE, || {
        // A daemon's first files are made when there is something to put in.
        let made = daemon.state("session-registry.json").exists();
        let on_disk = made.then(|| daemon.state_json("session-registry.json"))?;
        (on_disk["sessions"][0]["currentTurnId"] == *running).then_some(())
    });
    until("the last fifty events on disk", DEADLINE, || {
        let on_disk = daemon.state_json("recent-events.json");
        (on_disk["events"].as_array().map(Vec::len) == Some(50)).then_some(())
    });
    let pid = daemon.pid();
    for _ in 0..100 {
        let ran = daemon.again().run(&["status", "--json"]);
        assert_eq!((ran.status.code(), ran.stderr.as_str()), (Some(0), ""));
        let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((&shown["daemon"]["started"], &shown["daemon"]["pid"]), (&json!(true), &json!(pid)));
        assert_eq!(shown["daemon"]["child"]["status"], "running");
        assert_eq!(shown["sessionRegistry"]["sessions"][0]["sessionId"], *id);
        assert_eq!(shown["sessionRegistry"]["sessions"][0]["currentTurnId"], *running);
        assert_eq!(shown["recentEvents"]["events"].as_array().map(Vec::len), Some(50));
    }
    daemon.stop();
}

/// A figure for whoever ran the long form.
fn report(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "MEASURED {line}");
}

#[test]
fn real_codex_killed_in_a_turn_serves_the_next_within_seconds() {
    let codex = real_codex_or_skip!("real_codex_killed_in_a_turn_serves_the_next_within_seconds");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.wrapper(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let ids: Vec<String> = (0..3).map(|_| session(&client, &full_access(&home))).collect();
    for id in &ids {
        talk(&client, &stream, id, "say 2 words");
    }
    let mut slowest = Duration::ZERO;
    for round in 0..rounds(2, 30) {
        let running = turn(&client, &ids[round % 3], "slow: 1000 20");
        stream.wait_for(
            |e| e["type"] == "app-server.turn.message.delta" && e["detail"]["turnId"] == *running,
            DEADLINE,
        );
        kill(&child(&client)["pid"]);
        let crash = Instant::now();
        // Until then the native process behind the npm wrapper still takes turns, and loses them.
        about_turn(&stream, &running);
        for id in &ids {
            // What the session was started with holds in the new life too: nobody is asked, nothing is forbidden.
            let mark = home.outside(&format!("round-{round}-{id}"));
            let accepted = post_turn(&client, id, &format!("plainrun: touch {}", mark.display()));
            assert_eq!(accepted.status, 202, "{}", accepted.text());
            let next = accepted.json()["data"]["turnId"].as_str().unwrap().to_owned();
            assert_eq!(ended(&stream, &next), "completed");
            assert!(mark.exists(), "round {round}: the command did not run as before");
        }
        slowest = slowest.max(crash.elapsed());
        assert!(crash.elapsed() < Duration::from_secs(5), "round {round}: {:?}", crash.elapsed());
    }
    report(&format!(
        "SIGKILL of the app-server: next turns of three sessions done after {slowest:?} at most"
    ));
    daemon.stop();
}

#[test]
fn while_the_next_life_runs_the_status_says_why_the_last_one_ended_and_nothing_else_of_it() {
    let script = "if [ -e once ]; then exec sleep 600; fi; touch once; exit 3";
    let mut daemon = on_script(script, &[]).start();
    let client = daemon.client();
    let next = until("the next life", DEADLINE, || {
        let child = child(&client);
        (child["generation"] == 2 && child["status"] == "running").then_some(child)
    });
    assert!(next["lastError"].as_str().unwrap().contains("exited with code 3"), "{next}");
    assert_eq!(
        (&next["exitedAt"], &next["exitCode"], &next["signal"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    // Lives are counted on, so that nothing of an earlier one is taken for one of a later.
    daemon.restart();
    assert_eq!(child(&daemon.client())["generation"], 3);
    daemon.stop();
}

#[test]
fn a_child_gets_the_time_of_a_stop_to_end_by_itself() {
    let script = "trap 'sleep 0.3; exit 0' TERM; echo ready >&2; while :; do sleep 0.02; done";
    let mut daemon = on_script(script, &["--stop-timeout-ms", "30000"]).start();
    Stream::open(&format!("{}?after=0", daemon.ws_url())).wait_for_type("child.stderr");
    daemon.stop();
    let events = daemon.log_events();
    let exited = events.iter().find(|event| event["type"] == "child.exited").expect("told");
    assert_eq!(exited["detail"], json!({"code": 0, "signal": null}));
}

#[test]
fn a_plain_child_that_has_done_its_work_is_not_started_again() {
    let flags = ["--mode", "exec", "--restart", "always"];
    for (code, again) in [(0, false), (3, true)] {
        let script = format!("read go < gate; exit {code}");
        let builder = on_script(&script, &flags);
        std::process::Command::new("mkfifo").arg(builder.repo().join("gate")).status().unwrap();
        let mut daemon = builder.start();
        let stream = daemon.stream();
        stream.hello();
        drop(std::fs::OpenOptions::new().write(true).open(daemon.repo().join("gate")).unwrap());
        stream.wait_for_type("child.exited");
        // Whether it is, is decided before the stop is heard.
        daemon.stop();
        let restarting = daemon.log_events().iter().any(|event| event["type"] == "child.restarting");
        assert_eq!(restarting, again, "{code}");
    }
}

#[test]
fn of_many_turns_at_once_after_a_restart_one_loads_the_thread() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    // A thread that never ran a turn would be replaced by each that loads it.
    let id = session(&daemon.client(), &json!({}));
    daemon.restart();
    thread::scope(|scope| {
        let turns: Vec<_> =
            (0..8).map(|_| scope.spawn(|| post_turn(&daemon.client(), &id, "say 1 words").status)).collect();
        assert!(turns.into_iter().all(|turn| turn.join().unwrap() == 202));
    });
    daemon.stop();
    let events = daemon.log_events();
    let loaded = events.iter().filter(|event| event["type"] == "session.recovered").count();
    assert_eq!(loaded, 1);
}

/// Were each to wait for all before it, and then to ask in turn, the last of them would wait for eight deadlines.
#[test]
fn of_many_turns_at_once_on_a_thread_that_is_not_loaded_none_waits_for_all_the_others() {
    let (builder, _threads) = on_stub(&["--app-server-timeout-ms", "2000"]);
    let mut daemon = builder.env("CODEXD_STUB", "mute-resume").start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    daemon.restart();
    let client = daemon.client();
    // An app-server that says nothing at all would be given up, and end the waiting.
    let other = session(&client, &json!({}));
    turn(&client, &other, "slow: 10000 100");
    thread::scope(|scope| {
        let turns: Vec<_> =
            (0..8).map(|_| scope.spawn(|| post_turn(&daemon.client(), &id, "say 1 words").status)).collect();
        assert!(turns.into_iter().all(|turn| turn.join().unwrap() == 504));
    });
    daemon.stop();
    let events = daemon.log_events();
    // One event for each call that was not answered. Who is woken by the end of the first one's call may still ask.
    let asked = events.iter().filter(|event| event["type"] == "session.recovery.failed").count();
    assert!((1..=4).contains(&asked), "{asked}");
}

#[test]
fn an_ordered_stop_is_no_end_of_the_transport() {
    let (builder, _threads) = on_stub(&[]);
    let mut daemon = builder.start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let id = session(&client, &json!({}));
    talk(&client, &stream, &id, "say 1 words");
    daemon.stop();
    let events = daemon.log_events();
    assert!(events.iter().all(|event| event["type"] != "app-server.transport.closed"));
}
