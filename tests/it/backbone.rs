//! The backbone through the real binary, its child the built-in stand-in: order, numbers, files, start and stop.

use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Client, Stream};
use crate::daemon::{Builder, Daemon};
use crate::talk::{
    SESSIONS, TURN, assert_in_order, completed, count, deltas, find, id, of_turn, session, session_now,
    steer, try_turn, turn, whole_log, words,
};

const STATE_FILES: [&str; 5] = [
    "identity.json",
    "daemon-state.json",
    "session-registry.json",
    "run-registry.json",
    "recent-events.json",
];

/// A daemon whose child is a shell script.
fn scripted(script: &str) -> Builder {
    Daemon::builder().server("/bin/sh", &["-c", script])
}

/// Every state file is whole, indented by two spaces, with a final newline; nothing half-written lies beside them.
fn assert_state_is_whole(daemon: &Daemon) {
    for name in STATE_FILES {
        let text = std::fs::read_to_string(daemon.state(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            value.is_object() && text.starts_with("{\n  \"") && text.ends_with("\n}\n"),
            "{name}: {text}"
        );
    }
    let folder = daemon.state("identity.json").parent().unwrap().to_owned();
    let odd: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| match std::fs::read_dir(path) {
            // Folders are for what is short-lived.
            Ok(mut below) => below.next().is_some(),
            Err(_) => {
                let name = path.file_name().unwrap().to_string_lossy();
                (name.starts_with('.') && name != ".gitignore")
                    || name.contains("tmp")
                    || name.contains("damaged")
            }
        })
        .collect();
    assert!(odd.is_empty(), "left in the state folder: {odd:?}");
}

/// What must be true after an ordered stop.
fn assert_stopped_in_order(daemon: &Daemon) -> Vec<Value> {
    let log = whole_log(daemon);
    assert_eq!(log.last().unwrap()["type"], "daemon.stopped");
    assert_state_is_whole(daemon);
    let state = daemon.state_json("daemon-state.json");
    assert_eq!((&state["started"], &state["pid"]), (&json!(false), &Value::Null));
    assert_eq!((&state["child"]["status"], &state["child"]["pid"]), (&json!("stopped"), &Value::Null));
    let cached = daemon.state_json("recent-events.json")["events"].take();
    let kept = log.len().min(50);
    assert_eq!(cached, json!(log[log.len() - kept..]), "the cache is the end of the log");
    log
}

#[test]
fn a_turn_is_started_speaks_and_is_completed() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({}));
    let mut turns = Vec::new();
    for n in [5, 1, 300] {
        let turn = turn(&client, id(&session), &format!("say {n} words"));
        assert_eq!(completed(&stream, &turn), "completed");
        // Whoever was told of the end of a turn finds it in the record.
        let now = session_now(&client, id(&session));
        assert_eq!(
            (&now["currentTurnId"], &now["lastTurnId"], &now["lastTurnStatus"]),
            (&Value::Null, &json!(turn), &json!("completed"))
        );
        turns.push((turn, n));
    }
    let seen = stream.events();
    daemon.stop();
    let log = assert_stopped_in_order(&daemon);
    for (turn, n) in turns {
        for events in [&seen, &log] {
            assert_in_order(events, &turn);
            assert_eq!(deltas(events, &turn), words(n));
        }
    }
    assert_eq!(count(&log, "app-server.connected"), 1);
}

#[test]
fn a_steer_joins_the_turn_it_names_and_no_other() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({}));
    let nothing_runs = steer(&client, id(&session), "some-turn", "x");
    assert_eq!(nothing_runs.status, 409, "{}", nothing_runs.text());

    let turn = turn(&client, id(&session), "slow: 1000 50");
    of_turn(&stream, "app-server.turn.message.delta", &turn);
    let refused = steer(&client, id(&session), "another-turn", "x");
    assert_eq!((refused.status, &refused.json()["error"]), (409, &json!("conflict")), "{}", refused.text());
    assert!(refused.text().contains("another-turn"), "{}", refused.text());
    let now = session_now(&client, id(&session));
    assert_eq!((&now["currentTurnId"], &now["lastTurnStatus"]), (&json!(turn), &json!("inProgress")));

    let joined = steer(&client, id(&session), &turn, "say 2 words");
    assert_eq!((joined.status, &joined.json()["data"]["turnId"]), (202, &json!(turn)), "{}", joined.text());
    assert_eq!(completed(&stream, &turn), "completed");
    daemon.stop();
    let log = assert_stopped_in_order(&daemon);
    assert_in_order(&log, &turn);
    let said = deltas(&log, &turn);
    assert!(said.len() < 1000 && said.ends_with(&words(2)), "{} deltas", said.len());
    assert_eq!(count(&log, "turn.accepted"), 2, "the turn and the steer that fitted");
}

#[test]
fn run_once_starts_stops_and_prints_the_last_line_only() {
    let builder = Daemon::builder();
    let ended = builder.run(&["start", "--run-once"]);
    assert_eq!((ended.status.code(), ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
    let wanted = [
        "daemon=stopped",
        "child=stopped",
        "sessions=0",
        "resolved_base=not-listening ws_url=not-listening\n",
    ];
    for part in wanted {
        assert!(ended.stdout.contains(part), "no {part} in {}", ended.stdout);
    }

    let ended = builder.run(&["start", "--run-once", "--json"]);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"));
    assert_eq!(
        (&report["service"]["listening"], &report["service"]["resolvedBaseUrl"]),
        (&json!(false), &Value::Null)
    );
    assert_eq!(report["snapshot"]["daemon"]["started"], false);
    let kinds: Vec<&str> = report["snapshot"]["recentEvents"]["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect();
    let life = ["daemon.started", "child.started", "child.exited", "daemon.stopped"];
    assert_eq!(kinds, [life, life].concat(), "two lives, one log");
}

#[test]
fn in_exec_mode_the_output_of_the_child_becomes_events() {
    for (code, status, level) in [(0, "stopped", "info"), (3, "failed", "error")] {
        // It ends when its input, a FIFO, does: nothing is to happen before the stream is open.
        let script = format!("read go < gate; echo 'one  two'; echo oops >&2; printf tail; exit {code}");
        let builder = scripted(&script).flags(&["--mode", "exec"]);
        std::process::Command::new("mkfifo").arg(builder.repo().join("gate")).status().unwrap();
        let mut daemon = builder.start();
        let (client, stream) = (daemon.client(), daemon.stream());
        stream.hello();
        for (path, body) in [(SESSIONS, json!({})), (TURN, json!({"sessionId": "x", "input": "y"}))] {
            let answer = client.post(path, &body);
            assert_eq!(
                (answer.status, &answer.json()["error"]),
                (409, &json!("conflict")),
                "{}",
                answer.text()
            );
            assert!(answer.text().contains("exec mode"), "{}", answer.text());
        }
        let mut gate = std::fs::OpenOptions::new().write(true).open(daemon.repo().join("gate")).unwrap();
        std::io::Write::write_all(&mut gate, b"go\n").unwrap();
        stream.wait_for_type("child.exited");
        daemon.stop();

        let log = whole_log(&daemon);
        let exited = log.iter().position(|event| event["type"] == "child.exited").unwrap();
        let lines: Vec<_> = log[..exited]
            .iter()
            .filter(|event| event["type"] == "child.stdout")
            .map(|event| (event["message"].as_str().unwrap(), event["detail"].clone()))
            .collect();
        let stdout = |bytes| json!({"bytes": bytes, "stream": "stdout"});
        assert_eq!(lines, [("stdout: one two", stdout(9)), ("stdout: tail", stdout(4))]);
        let stderr = find(&log[..exited], "child.stderr");
        assert_eq!((&stderr["level"], &stderr["message"]), (&json!("warn"), &json!("stderr: oops")));
        assert_eq!(stderr["detail"], json!({"bytes": 5, "stream": "stderr"}));
        let end = &log[exited];
        assert_eq!((&end["level"], &end["detail"]), (&json!(level), &json!({"code": code, "signal": null})));
        // Without --restart always it stays as it ended.
        assert_eq!((count(&log, "child.started"), count(&log, "child.restarting")), (1, 0));
        let child = daemon.state_json("daemon-state.json")["child"].take();
        assert_eq!(
            (&child["status"], &child["exitCode"], &child["mode"]),
            (&json!(status), &json!(code), &json!("exec"))
        );
        let raw = |name| std::fs::read_to_string(daemon.log(name)).unwrap();
        assert_eq!((raw("stdout.log").as_str(), raw("stderr.log").as_str()), ("one  two\ntail", "oops\n"));
    }
}

#[test]
fn a_busy_port_ends_the_start_before_anything_is_started_or_written() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", busy.local_addr().unwrap());
    let builder = scripted("touch started; exec sleep 600").flags(&["--local-api-base", &base]);
    let ended = builder.clone().try_start().err().expect("the port is taken");
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let port = busy.local_addr().unwrap().port().to_string();
    assert!(ended.stderr.contains(&port) && ended.stderr.contains("--local-api-base"), "{}", ended.stderr);
    for path in [builder.logs(), builder.state(), builder.repo().join("started")] {
        assert!(!path.exists(), "{} was made", path.display());
    }
    // The same folders serve once the port is free.
    drop(busy);
    let mut daemon = builder.start();
    assert_eq!(daemon.base(), base);
    daemon.stop();
    assert_stopped_in_order(&daemon);
}

#[test]
fn a_missing_command_says_where_it_looked_and_what_to_do() {
    let builder =
        Daemon::builder().server("codex", &["app-server"]).env("PATH", "/nowhere/bin:/elsewhere/bin");
    let ended = builder.clone().try_start().err().expect("there is no codex");
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    for part in ["codex", "/nowhere/bin:/elsewhere/bin", "npm install -g @openai/codex", "--server-command"] {
        assert!(ended.stderr.contains(part), "no {part} in {}", ended.stderr);
    }
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let log = read(builder.logs().join("codexd/events.jsonl"));
    let events: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["daemon.started", "child.spawn.failed", "daemon.stopped"]);
    assert_eq!((&events[1]["level"], &events[1]["detail"]), (&json!("error"), &Value::Null));
    let state: Value = serde_json::from_str(&read(builder.state().join("codexd/daemon-state.json"))).unwrap();
    assert_eq!((&state["started"], &state["child"]["status"]), (&json!(false), &json!("failed")));
    assert!(
        state["child"]["lastError"].as_str().is_some_and(|error| error.contains("/nowhere/bin")),
        "{state}"
    );

    let ended = Daemon::builder().server("bin/none", &[]).try_start().err().expect("there is no such file");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("repo/bin/none") && ended.stderr.contains("--server-command"), "{ended:?}");
}

#[test]
fn sigterm_with_an_idle_child_leaves_everything_whole() {
    const WITHIN: Duration = Duration::from_millis(100);
    // The machine may be busy with other tests: the best of many shows what the stop itself takes.
    let mut took: Vec<Duration> = Vec::new();
    while took.len() < 3 || took.len() < 40 && took.iter().all(|time| *time >= WITHIN) {
        let mut daemon = Daemon::builder().start();
        let (client, stream) = (daemon.client(), daemon.stream());
        let session = session(&client, &json!({}));
        let turn = turn(&client, id(&session), "say 3 words");
        completed(&stream, &turn);
        let (time, ended) = daemon.stop_timed();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert_eq!(stream.closed(DEADLINE).map(|(code, _)| code), Some(1001));
        assert_eq!(stream.events().last().unwrap()["type"], "daemon.stopped");
        let log = assert_stopped_in_order(&daemon);
        let exited = find(&log, "child.exited");
        assert_eq!((&exited["level"], &exited["detail"]["signal"]), (&json!("info"), &Value::Null));
        assert_eq!(count(&log, "app-server.transport.closed"), 0, "an ordered stop is no failure");
        took.push(time);
    }
    assert!(took.iter().any(|time| *time < WITHIN), "SIGTERM to the end: {took:?}");
}

#[test]
fn a_turn_that_runs_at_the_stop_is_interrupted() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({}));
    let turn = turn(&client, id(&session), "hang:");
    of_turn(&stream, "app-server.turn.started", &turn);
    daemon.stop();
    let log = assert_stopped_in_order(&daemon);
    for kind in ["app-server.transport.closed", "app-server.turn.completed.missing"] {
        assert_eq!(count(&log, kind), 0, "{kind}");
    }
    let session = daemon.state_json("session-registry.json")["sessions"][0].take();
    assert_eq!(
        (&session["currentTurnId"], &session["lastTurnId"], &session["lastTurnStatus"]),
        (&Value::Null, &json!(turn), &json!("interrupted"))
    );
}

#[test]
fn seq_goes_on_over_a_stop_and_over_a_kill() {
    let mut daemon = Daemon::builder().start();
    // Not from the file: that is written behind the log, whenever the disk has time.
    let identity = |daemon: &Daemon| {
        let mut status = daemon.client().get("/v1/codexd/status").json();
        status["data"]["snapshot"]["identity"].take()
    };
    let first = identity(&daemon);
    let mut lives = 1;
    for kill in [false, true, false, true] {
        let (client, stream) = (daemon.client(), daemon.stream());
        let hello = stream.hello();
        let latest =
            hello["snapshot"]["recentEvents"]["events"].as_array().unwrap().last().unwrap()["seq"].clone();
        let session = session(&client, &json!({}));
        completed(&stream, &turn(&client, id(&session), "say 20 words"));
        assert_eq!(stream.events()[0]["seq"], json!(latest.as_u64().unwrap() + 1));
        let announced = stream.events();
        if kill {
            daemon.kill();
        } else {
            daemon.stop();
        }
        let log = whole_log(&daemon);
        for event in &announced {
            let seq = usize::try_from(event["seq"].as_u64().unwrap()).unwrap();
            assert_eq!(&log[seq - 1], event, "announced, so it is in the log");
        }
        daemon.restart();
        lives += 1;
        let log = whole_log(&daemon);
        assert_eq!(count(&log, "daemon.started"), lives);
        let sessions = daemon.client().get(SESSIONS).json()["data"]["sessions"].as_array().unwrap().len();
        assert_eq!(sessions, lives - 1, "no session is lost");
        assert_eq!(identity(&daemon), first);
    }
    daemon.stop();
    assert_stopped_in_order(&daemon);
    assert_eq!(daemon.state_json("identity.json"), first);
}

/// Runs `count` jobs at once and gives their results in order.
fn at_once<T: Send>(count: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let gate = std::sync::Barrier::new(count);
    thread::scope(|scope| {
        let (gate, job) = (&gate, &job);
        let spawn = |n| {
            let run = move || {
                gate.wait();
                job(n)
            };
            thread::Builder::new().name(format!("job-{n}")).spawn_scoped(scope, run).unwrap()
        };
        let handles: Vec<_> = (0..count).map(spawn).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

#[test]
fn fifty_sessions_and_twenty_turns_at_once_before_eight_clients() {
    let mut daemon = Daemon::builder().start();
    let url = daemon.ws_url().to_owned();
    let client: Client = daemon.client();
    let streams = at_once(8, |_| Stream::open(&url));
    let mut sessions = at_once(50, |_| id(&session(&client, &json!({}))).to_owned());
    let turns = at_once(20, |n| turn(&client, &sessions[n], "say 50 words"));
    for turn in &turns {
        assert_eq!(completed(&streams[0], turn), "completed");
    }
    for session in &sessions[..20] {
        assert_eq!(session_now(&client, session)["lastTurnStatus"], "completed");
    }
    sessions.sort_unstable();
    sessions.dedup();
    assert_eq!(sessions.len(), 50);
    daemon.stop();

    let log = assert_stopped_in_order(&daemon);
    assert_eq!((count(&log, "session.created"), count(&log, "app-server.connected")), (50, 1));
    for turn in &turns {
        assert_in_order(&log, turn);
        assert_eq!(deltas(&log, turn), words(50));
    }
    for stream in &streams {
        assert_eq!(stream.close_code(), Some(1001));
        let hello = stream.hello();
        let known = hello["recentEvents"].as_array().unwrap().last().unwrap()["seq"].as_u64().unwrap();
        let seen = stream.events();
        assert_eq!(seen.len(), log.len() - usize::try_from(known).unwrap());
        assert!(seen == log[log.len() - seen.len()..], "a client saw something else than the log says");
    }
}

#[test]
fn a_long_prompt_runs_or_is_refused_but_never_both() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({}));
    let long = "p".repeat(1_000_000);
    let accepted = turn(&client, id(&session), &long);
    assert_eq!(completed(&stream, &accepted), "completed");

    let refused = try_turn(&client, id(&session), &"p".repeat(2_000_000));
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (502, &json!("app_server_error")),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("-32602"), "{}", refused.text());
    let now = session_now(&client, id(&session));
    assert_eq!((&now["currentTurnId"], &now["lastTurnId"]), (&Value::Null, &json!(accepted)));
    let after = turn(&client, id(&session), "say 2 words");
    assert_eq!(completed(&stream, &after), "completed");
    daemon.stop();

    let log = assert_stopped_in_order(&daemon);
    assert_in_order(&log, &accepted);
    assert!(deltas(&log, &accepted).concat() == format!("done: {long}"), "the prompt came back changed");
    for kind in ["turn.accepted", "app-server.turn.started", "app-server.turn.completed"] {
        assert_eq!(count(&log, kind), 2, "{kind}: what was refused did not run");
    }
}

#[test]
fn a_prompt_laid_out_over_many_lines_arrives_as_one_message() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({"config": {"a": 1}}));
    // The middle line would be a request of its own if it reached the app-server as a line.
    let body = format!(
        "{{\"sessionId\": \"{}\", \"input\": [\r\n{{\"id\":77,\"method\":\"thread/start\",\"params\":{{}},\"type\":\"text\",\"text\":\"say 2 words\"}}\n]}}",
        id(&session)
    );
    let answer = client.request("POST", TURN, &[("content-type", "application/json")], body.as_bytes());
    assert_eq!(answer.status, 202, "{}", answer.text());
    let turn = answer.json()["data"]["turnId"].as_str().unwrap().to_owned();
    assert_eq!(completed(&stream, &turn), "completed");
    daemon.stop();
    let log = assert_stopped_in_order(&daemon);
    assert_eq!(deltas(&log, &turn), words(2));
    assert_eq!(count(&log, "app-server.thread.started"), 1);
}
