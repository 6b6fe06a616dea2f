//! `--server-strategy external` against the real `codex app-server --listen`: sessions and turns over WebSocket, what a
//! cut connection costs, and several codexd on one app-server.

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::daemon::{Builder, Daemon};
use crate::listener::Listener;
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};
use crate::relay::Relay;

/// A daemon that reaches its app-server at `url`.
pub(crate) fn external(url: &str) -> Builder {
    Daemon::builder().flags(&["--server-strategy", "external", "--server-endpoint", url])
}

fn servers(codex: &RealCodex) -> (ModelServer, CodexHome, Listener) {
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let listener = Listener::start(codex, &home, &[]);
    (model, home, listener)
}

fn session(daemon: &Daemon, home: &CodexHome) -> (String, String) {
    let answer = daemon.client().post("/v1/codexd/sessions", &json!({"cwd": home.work()}));
    assert_eq!(answer.status, 201, "{}", answer.text());
    let session = &answer.json()["data"]["session"];
    let text = |name: &str| session[name].as_str().unwrap().to_owned();
    (text("sessionId"), text("threadId"))
}

fn turn(daemon: &Daemon, session: &str, prompt: &str) -> String {
    let answer = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": session, "input": prompt}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["data"]["turnId"].as_str().unwrap().to_owned()
}

fn record(daemon: &Daemon, session: &str) -> Value {
    let answer = daemon.client().get(&format!("/v1/codexd/sessions/{session}"));
    answer.json()["data"]["session"].clone()
}

fn child(daemon: &Daemon) -> Value {
    daemon.client().get("/v1/codexd/status").json()["data"]["snapshot"]["daemon"]["child"].clone()
}

fn of_turn<'a>(kind: &'a str, turn: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |event| event["type"] == kind && event["detail"]["turnId"] == turn
}

/// The types of the events about this turn, in the order of the log, deltas and notifications left out.
fn story(daemon: &Daemon, turn: &str) -> Vec<String> {
    let events = daemon.log_events();
    let about = events.iter().filter(|event| event["detail"]["turnId"] == turn);
    let kinds = about.map(|event| event["type"].as_str().unwrap().to_owned());
    kinds.filter(|kind| !kind.contains("delta") && kind != "app-server.notification").collect()
}

/// The end of that turn, with the turn as the app-server gave it beside the event's own fields.
fn assert_completed(event: &Value, thread: &str, turn: &str) {
    let detail = &event["detail"];
    assert_eq!((&detail["status"], &detail["threadId"]), (&json!("completed"), &json!(thread)), "{event}");
    assert_eq!((&detail["turnId"], &detail["turn"]["id"]), (&json!(turn), &json!(turn)), "{event}");
}

#[test]
fn a_session_and_its_turns_over_websocket() {
    let codex = real_codex_or_skip!("a_session_and_its_turns_over_websocket");
    let (model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let mut daemon = external(&format!("{}/any/path?x=1", relay.url())).start();
    let stream = daemon.stream();
    assert_eq!(child(&daemon)["status"], "external");
    assert_eq!(child(&daemon)["connected"], false);
    assert_eq!(child(&daemon)["pid"], Value::Null);
    assert_eq!(relay.accepted(), 0, "nobody has asked for anything yet");

    let (session, thread) = session(&daemon, &home);
    assert_eq!(child(&daemon)["connected"], true);
    let connected = stream.wait_for_type("app-server.connected");
    assert_eq!(connected["detail"]["endpoint"], format!("{}/any/path?x=1", relay.url()));
    let turn = turn(&daemon, &session, "say 500 words");
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    assert_completed(&ended, &thread, &turn);
    let deltas = stream.events();
    let deltas = deltas.iter().filter(|event| event["type"] == "app-server.turn.message.delta");
    let said: String = deltas.map(|event| event["detail"]["delta"].as_str().unwrap()).collect();
    assert_eq!(said, (0..500).map(|i| format!("word{i} ")).collect::<String>());
    let record = record(&daemon, &session);
    assert_eq!(record["lastTurnStatus"], "completed");
    assert_eq!(record["childPid"], Value::Null);
    assert_eq!(relay.accepted(), 1, "one connection for everything");
    assert_eq!(model.prompts(), ["say 500 words"]);

    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let events = daemon.log_events();
    for kind in ["app-server.transport.closed", "app-server.close.failed", "child.started", "child.exited"] {
        assert!(!events.iter().any(|event| event["type"] == kind), "{kind}");
    }
    assert_eq!(daemon.state_json("daemon-state.json")["child"]["status"], "idle");
}

#[test]
fn a_turn_that_is_cut_off_goes_on_after_the_reconnect() {
    let codex = real_codex_or_skip!("a_turn_that_is_cut_off_goes_on_after_the_reconnect");
    let (model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let (session_id, thread) = session(&daemon, &home);
    let turn = turn(&daemon, &session_id, "slow: 60 100");
    stream.wait_for(of_turn("app-server.turn.message.delta", &turn), DEADLINE);
    relay.cut();
    let closed = stream.wait_for_type("app-server.transport.closed");
    assert_eq!(closed["detail"]["source"], "websocket.error");
    let missing = stream.wait_for(of_turn("app-server.turn.completed.missing", &turn), DEADLINE);
    assert_eq!(missing["detail"]["childStatus"], "external");
    assert_eq!(missing["detail"]["turnStatusAtClose"], "inProgress");
    let recovered = stream.wait_for_type("session.recovered");
    assert_eq!(recovered["detail"]["replacedThreadId"], Value::Null);
    assert_eq!(recovered["detail"]["record"]["currentTurnId"], turn);
    assert_eq!(recovered["detail"]["record"]["lastTurnStatus"], "inProgress");
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    assert_eq!(ended["detail"]["status"], "completed");
    let seq = |event: &Value| event["seq"].as_u64().unwrap();
    let later =
        |event: &Value| event["type"] == "app-server.turn.message.delta" && seq(event) > seq(&recovered);
    assert!(stream.events().iter().any(later), "the remaining deltas arrive");
    assert_eq!(record(&daemon, &session_id)["lastTurnStatus"], "completed");
    assert_eq!(record(&daemon, &session_id)["currentTurnId"], Value::Null);
    assert_eq!(record(&daemon, &session_id)["threadId"], thread);
    assert_eq!(
        story(&daemon, &turn).iter().filter(|kind| kind.starts_with("app-server.turn.c")).collect::<Vec<_>>(),
        ["app-server.turn.completed.missing", "app-server.turn.completed"]
    );
    assert_eq!(
        daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].as_array().unwrap().len(),
        1
    );
    assert_eq!(model.prompts().len(), 1, "the turn ran once");
}

#[test]
fn a_turn_that_ended_without_us_is_told_after_the_reconnect() {
    let codex = real_codex_or_skip!("a_turn_that_ended_without_us_is_told_after_the_reconnect");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    // Another codexd on the same app-server is our witness of what happens while this one is cut off.
    let witness = external(&listener.url()).start();
    let (session_id, thread) = session(&daemon, &home);
    let turn = turn(&daemon, &session_id, "slow: 20 100");
    stream.wait_for(of_turn("app-server.turn.message.delta", &turn), DEADLINE);
    let attached = witness.client().post("/v1/codexd/sessions", &json!({"threadId": thread}));
    assert_eq!(attached.status, 201, "{}", attached.text());
    relay.set_target(None);
    stream.wait_for(of_turn("app-server.turn.completed.missing", &turn), DEADLINE);
    witness.stream().wait_frame(
        |frame| {
            let recent = frame["recentEvents"].as_array().into_iter().flatten();
            let live = (frame["type"] == "event").then_some(&frame["event"]);
            recent.chain(live).any(of_turn("app-server.turn.completed", &turn))
        },
        DEADLINE,
    );
    assert_eq!(record(&daemon, &session_id)["lastTurnStatus"], "failed");
    relay.set_target(Some(listener.authority()));
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    assert_completed(&ended, &thread, &turn);
    assert_eq!(record(&daemon, &session_id)["lastTurnStatus"], "completed");
    assert_eq!(story(&daemon, &turn).iter().filter(|kind| *kind == "app-server.turn.completed").count(), 1);
}

#[test]
fn a_listener_that_was_restarted_is_found_again() {
    let codex = real_codex_or_skip!("a_listener_that_was_restarted_is_found_again");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let (idle, idle_thread) = session(&daemon, &home);
    let (used, thread) = session(&daemon, &home);
    let first = turn(&daemon, &used, "say 3 words");
    stream.wait_for(of_turn("app-server.turn.completed", &first), DEADLINE);
    let cut = turn(&daemon, &used, "slow: 100 100");
    stream.wait_for(of_turn("app-server.turn.message.delta", &cut), DEADLINE);
    relay.set_target(None);
    listener.kill();
    stream.wait_for(of_turn("app-server.turn.completed.missing", &cut), DEADLINE);
    // Nobody waits for an app-server that is not there.
    let refused = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": used, "input": "hello"}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(child(&daemon)["connected"], false);
    stream.wait_for_type("app-server.connect.failed");

    let listener = Listener::start(&codex, &home, &[]);
    relay.set_target(Some(listener.authority()));
    let recovered = stream.wait_for(
        |event| event["type"] == "session.recovered" && event["detail"]["sessionId"] == used.as_str(),
        DEADLINE,
    );
    assert_eq!(recovered["detail"]["threadId"], thread);
    // The cut turn died with the listener.
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &cut), DEADLINE);
    assert_eq!(ended["detail"]["status"], "interrupted");
    for (session, prompt) in [(&used, "say 4 words"), (&idle, "say 5 words")] {
        let turn = turn(&daemon, session, prompt);
        stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    }
    // A thread without a turn had nothing to load: the session has a new one, made for its first turn.
    assert_ne!(record(&daemon, &idle)["threadId"], idle_thread.as_str());
    assert_eq!(record(&daemon, &used)["threadId"], thread.as_str());
    assert_eq!(
        daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].as_array().unwrap().len(),
        2
    );
}

#[test]
fn a_crash_of_codexd_does_not_end_the_turn() {
    let codex = real_codex_or_skip!("a_crash_of_codexd_does_not_end_the_turn");
    let (model, home, listener) = servers(&codex);
    let mut daemon = external(&listener.url()).start();
    let stream = daemon.stream();
    let (session, _) = session(&daemon, &home);
    let turn = turn(&daemon, &session, "slow: 60 100");
    stream.wait_for(of_turn("app-server.turn.message.delta", &turn), DEADLINE);
    daemon.kill();
    daemon.restart();
    let stream = daemon.stream();
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    assert_eq!(ended["detail"]["status"], "completed");
    assert_eq!(record(&daemon, &session)["lastTurnStatus"], "completed");
    let told = story(&daemon, &turn);
    assert!(told.iter().any(|kind| kind == "app-server.turn.completed.missing"), "{told:?}");
    assert_eq!(model.prompts().len(), 1);
}

#[test]
fn a_message_of_five_megabytes() {
    let codex = real_codex_or_skip!("a_message_of_five_megabytes");
    let (_model, home, listener) = servers(&codex);
    let daemon = external(&listener.url()).start();
    let (session, _) = session(&daemon, &home);
    let turn = turn(&daemon, &session, "big: 5000000");
    // A tail that begins now gets no event of 15 MB: it is told to come back for them.
    let stream = daemon.stream();
    stream.wait_frame(|frame| frame["event"]["type"] == "app-server.turn.completed", DEADLINE);
    let events = daemon.log_events();
    let deltas = events.into_iter().filter(of_turn("app-server.turn.message.delta", &turn));
    let delta: usize = deltas.map(|event| event["detail"]["delta"].as_str().unwrap().len()).sum();
    assert_eq!(delta, 5_000_000);
}

#[test]
fn two_daemons_on_one_app_server_see_their_own_sessions() {
    let codex = real_codex_or_skip!("two_daemons_on_one_app_server_see_their_own_sessions");
    let (_model, home, listener) = servers(&codex);
    let daemons = [external(&listener.url()).start(), external(&listener.url()).start()];
    // Both are connected before either has a thread.
    let first: Vec<_> = daemons.iter().map(|daemon| session(daemon, &home)).collect();
    let streams: Vec<_> = daemons.iter().map(Daemon::stream).collect();
    let second: Vec<_> = daemons.iter().map(|daemon| session(daemon, &home)).collect();
    for (daemon, (session, _)) in daemons.iter().zip(&second) {
        turn(daemon, session, "say 20 words");
    }
    for stream in &streams {
        stream.wait_for_type("app-server.turn.completed");
    }
    for (at, daemon) in daemons.iter().enumerate() {
        let own = [&first[at].1, &second[at].1];
        let others = [&first[1 - at].1, &second[1 - at].1];
        let log = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
        assert!(own.iter().all(|thread| log.contains(thread.as_str())));
        assert!(others.iter().all(|thread| !log.contains(thread.as_str())), "{log}");
        let started = daemon.log_events();
        let started = started.iter().filter(|event| event["type"] == "app-server.thread.started");
        assert_eq!(started.count(), 2, "its own threads are told");
    }
}

#[test]
fn a_token_opens_the_listener() {
    let codex = real_codex_or_skip!("a_token_opens_the_listener");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let token = home.outside("token");
    let write = |text: &str| {
        let mut file = std::fs::File::create(&token).unwrap();
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    };
    let secret = "0123456789abcdef0123456789abcdef";
    write(&format!("{secret}\n"));
    let path = token.display().to_string();
    let listener =
        Listener::start(&codex, &home, &["--ws-auth", "capability-token", "--ws-token-file", &path]);

    let refused = |daemon: &Daemon, wanted: &str| {
        let answer = daemon.client().post("/v1/codexd/sessions", &json!({"cwd": home.work()}));
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(answer.text().contains(wanted), "{}", answer.text());
        assert!(!answer.text().contains(secret));
    };
    let daemon = external(&listener.url()).start();
    refused(&daemon, "with 401: it demands a token");
    let mut daemon = external(&listener.url()).flags(&["--server-token-file", &path]).start();
    write("0123456789abcdef0123456789abcdeX");
    refused(&daemon, "with 401: it does not accept the token");
    write("");
    refused(&daemon, "is empty");
    std::fs::remove_file(&token).unwrap();
    refused(&daemon, "cannot be read");
    write(&format!("{secret}\n"));
    session(&daemon, &home);
    let ended = daemon.stop();
    assert!(!ended.stderr.contains(secret));
    let log = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    assert!(!log.contains(secret) && log.contains("app-server.connect.failed"));
}

#[test]
fn what_was_asked_is_asked_again_after_the_reconnect() {
    let codex = real_codex_or_skip!("what_was_asked_is_asked_again_after_the_reconnect");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let (session, _) = session(&daemon, &home);
    let turn = turn(&daemon, &session, "run: touch made.txt");
    let opened = stream.wait_for(of_turn("request.opened", &turn), DEADLINE);
    let request = opened["detail"]["requestId"].as_str().unwrap().to_owned();
    relay.cut();
    stream.wait_for_type("session.recovered");
    let path = format!("/v1/codexd/requests/{request}");
    let until = std::time::Instant::now() + DEADLINE;
    // The app-server is away for a moment, and the answer is refused for as long.
    let answered = loop {
        let answer = daemon.client().post(&format!("{path}/answer"), &json!({"decision": "accept"}));
        if answer.status != 503 || std::time::Instant::now() > until {
            break answer;
        }
    };
    assert_eq!(answered.status, 200, "{}", answered.text());
    let ended = stream.wait_for(of_turn("app-server.turn.completed", &turn), DEADLINE);
    assert_eq!(ended["detail"]["status"], "completed");
    assert!(home.work().join("made.txt").exists());
    let requests = daemon.client().get("/v1/codexd/requests").json();
    assert_eq!(requests["data"]["requests"].as_array().unwrap().len(), 1, "the same record: {requests}");
}

#[test]
fn what_was_asked_by_a_listener_that_died_is_withdrawn() {
    let codex = real_codex_or_skip!("what_was_asked_by_a_listener_that_died_is_withdrawn");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let (session, _) = session(&daemon, &home);
    let turn = turn(&daemon, &session, "run: touch made.txt");
    let opened = stream.wait_for(of_turn("request.opened", &turn), DEADLINE);
    relay.set_target(None);
    listener.kill();
    let listener = Listener::start(&codex, &home, &[]);
    relay.set_target(Some(listener.authority()));
    let withdrawn = stream.wait_for(of_turn("request.cancelled", &turn), DEADLINE);
    assert_eq!(withdrawn["detail"]["requestId"], opened["detail"]["requestId"]);
    assert!(!home.work().join("made.txt").exists());
}

#[test]
fn what_was_asked_of_a_thread_that_is_replaced_is_given_up() {
    let codex = real_codex_or_skip!("what_was_asked_of_a_thread_that_is_replaced_is_given_up");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    // Of which nothing is left to load.
    let body = json!({"cwd": home.work(), "ephemeral": true});
    let session = daemon.client().post("/v1/codexd/sessions", &body).json()["data"]["session"].take();
    let turn = turn(&daemon, session["sessionId"].as_str().unwrap(), "run: touch made.txt");
    let opened = stream.wait_for(of_turn("request.opened", &turn), DEADLINE);
    relay.set_target(None);
    listener.kill();
    let listener = Listener::start(&codex, &home, &[]);
    relay.set_target(Some(listener.authority()));
    let recovered = stream.wait_for_type("session.recovered");
    assert_eq!(recovered["detail"]["replacedThreadId"], session["threadId"]);
    let orphaned = stream.wait_for(of_turn("request.orphaned", &turn), DEADLINE);
    assert_eq!(orphaned["detail"]["requestId"], opened["detail"]["requestId"]);
}

#[test]
fn readiness_follows_the_connection_once_it_is_needed() {
    let codex = real_codex_or_skip!("readiness_follows_the_connection_once_it_is_needed");
    let (_model, home, listener) = servers(&codex);
    let relay = Relay::to(listener.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let ready = || {
        let answer = daemon.client().get("/readyz");
        (answer.status, answer.json()["checks"]["appServer"].clone())
    };
    assert_eq!(ready(), (200, json!({"ok": true, "detail": "not connected yet"})));
    session(&daemon, &home);
    assert_eq!(ready(), (200, json!({"ok": true, "detail": null})));
    relay.set_target(None);
    let failed = stream.wait_for_type("app-server.connect.failed");
    let (status, check) = ready();
    assert_eq!((status, &check["ok"]), (503, &json!(false)), "{check}");
    relay.set_target(Some(listener.authority()));
    stream.wait_for(
        |event| event["type"] == "app-server.connected" && event["seq"].as_u64() > failed["seq"].as_u64(),
        DEADLINE,
    );
    assert_eq!(ready().0, 200);
}
