//! The backbone with the real Codex behind it, and a fake model behind that.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::daemon::Daemon;
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::talk::{
    SESSIONS, TURN, assert_in_order, completed, count, deltas, find, id, of_turn, session, session_now,
    steer, try_turn, turn, whole_log, words,
};

/// Turns that answer, one that fails, and one after it; then an idle stop. Gives the time that the stop took.
fn turns(codex: &Path) -> Duration {
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex, &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({"cwd": home.work(), "metadata": {"a": "b"}}));
    assert_eq!(session["cwd"], json!(home.work()));
    assert_eq!(
        (&session["model"], &session["modelProvider"]),
        (&json!(crate::real_codex::MODEL), &json!("mock"))
    );
    let mut ran = Vec::new();
    for n in [5, 2000] {
        let turn = turn(&client, id(&session), &format!("say {n} words"));
        assert_eq!(completed(&stream, &turn), "completed");
        let now = session_now(&client, id(&session));
        assert_eq!(
            (&now["currentTurnId"], &now["lastTurnId"], &now["lastTurnStatus"]),
            (&Value::Null, &json!(turn), &json!("completed"))
        );
        ran.push((turn, words(n)));
    }

    let failed = turn(&client, id(&session), "fail: 500");
    let error = of_turn(&stream, "app-server.turn.error", &failed);
    assert_eq!((&error["level"], &error["detail"]["willRetry"]), (&json!("error"), &json!(false)));
    assert_eq!(error["detail"]["error"]["codexErrorInfo"], "internalServerError");
    assert_eq!(completed(&stream, &failed), "failed");
    let now = session_now(&client, id(&session));
    assert_eq!((&now["lastTurnStatus"], &now["currentTurnId"]), (&json!("failed"), &Value::Null));
    let after = turn(&client, id(&session), "still there");
    assert_eq!(completed(&stream, &after), "completed");
    ran.push((after, vec!["done: ".to_owned(), "still there".to_owned()]));

    let (took, ended) = daemon.stop_timed();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(stream.close_code(), Some(1001));
    let (log, seen) = (whole_log(&daemon), stream.events());
    assert_eq!(log.last().unwrap()["type"], "daemon.stopped");
    for events in [&log, &seen] {
        for (turn, said) in &ran {
            assert_in_order(events, turn);
            assert!(deltas(events, turn) == *said, "not each delta once and in order");
        }
    }
    assert_eq!(count(&log, "app-server.transport.closed"), 0);
    assert!(model.strays().is_empty(), "it reached for {:?}", model.strays());
    took
}

#[test]
fn turns_through_the_native_binary() {
    let codex = real_codex_or_skip!("turns_through_the_native_binary");
    let took = turns(codex.native());
    assert!(took < Duration::from_secs(2), "SIGTERM to the end: {took:?}");
}

#[test]
fn turns_through_the_npm_wrapper() {
    let codex = real_codex_or_skip!("turns_through_the_npm_wrapper");
    let took = turns(codex.wrapper());
    assert!(took < Duration::from_secs(2), "SIGTERM to the end: {took:?}");
}

#[test]
fn a_steer_joins_the_turn_of_the_real_codex() {
    let codex = real_codex_or_skip!("a_steer_joins_the_turn_of_the_real_codex");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({"cwd": home.work()}));
    let turn = turn(&client, id(&session), "slow: 100 200");
    of_turn(&stream, "app-server.turn.message.delta", &turn);
    let refused = steer(&client, id(&session), "another-turn", "x");
    assert_eq!((refused.status, &refused.json()["error"]), (409, &json!("conflict")), "{}", refused.text());
    let joined = steer(&client, id(&session), &turn, "say 2 words");
    assert_eq!((joined.status, &joined.json()["data"]["turnId"]), (202, &json!(turn)), "{}", joined.text());
    model.wait_for_prompt("say 2 words", DEADLINE);
    assert_eq!(completed(&stream, &turn), "completed");
    let too_late = steer(&client, id(&session), &turn, "x");
    assert_eq!(too_late.status, 409, "{}", too_late.text());
    daemon.stop();
    let log = whole_log(&daemon);
    assert_in_order(&log, &turn);
    let said = deltas(&log, &turn);
    assert!(said.len() < 100 && said.ends_with(&words(2)), "{said:?}");
    assert_eq!(count(&log, "turn.accepted"), 2, "the turn and the steer that fitted");
}

#[test]
fn a_session_goes_on_after_a_restart_of_the_daemon() {
    let codex = real_codex_or_skip!("a_session_goes_on_after_a_restart_of_the_daemon");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let used = session(&client, &json!({"cwd": home.work()}));
    let unused = session(&client, &json!({"cwd": home.work(), "developerInstructions": "be brief"}));
    completed(&stream, &turn(&client, id(&used), "first of all"));

    daemon.restart();
    let (client, stream) = (daemon.client(), daemon.stream());
    // Its thread is held by an active session, which is given back.
    let again = client.post(SESSIONS, &json!({"threadId": used["threadId"]}));
    assert_eq!((again.status, &again.json()["data"]["session"]["sessionId"]), (200, &used["sessionId"]));
    let second = turn(&client, id(&used), "second of all");
    assert_eq!(completed(&stream, &second), "completed");
    let recovered = stream.wait_for_type("session.recovered");
    assert_eq!(
        (
            &recovered["detail"]["sessionId"],
            &recovered["detail"]["threadId"],
            &recovered["detail"]["replacedThreadId"]
        ),
        (&used["sessionId"], &used["threadId"], &Value::Null)
    );
    let request = model.wait_for_prompt("second of all", DEADLINE);
    assert!(
        request["input"].to_string().contains("first of all"),
        "the model is not told what was said before"
    );

    // Nothing is on disk of a thread that never ran a turn: the session goes on with a new one.
    completed(&stream, &turn(&client, id(&unused), "a late start"));
    let replaced = |event: &Value| event["detail"]["replacedThreadId"] == unused["threadId"];
    let replaced = stream.wait_for(replaced, DEADLINE);
    let now = session_now(&client, id(&unused));
    assert_eq!(
        (&now["threadId"], &now["lastTurnStatus"]),
        (&replaced["detail"]["threadId"], &json!("completed"))
    );
    let request = model.wait_for_prompt("a late start", DEADLINE);
    assert!(request.to_string().contains("be brief"), "the thread lost its settings");
    daemon.stop();
    assert_in_order(&whole_log(&daemon), &second);
}

/// What the model is told with that prompt: the sandbox and whether it has the network, whether there is web search, the effort.
fn told(model: &ModelServer, prompt: &str) -> (String, bool, bool, Value) {
    let request = model.wait_for_prompt(prompt, DEADLINE);
    let input = request["input"].to_string();
    let sandbox = input.rsplit_once("`sandbox_mode` is `").expect("the sandbox is told").1;
    let (mode, rest) = sandbox.split_once('`').unwrap();
    let network = rest.split_once("Network access is ").unwrap().1.starts_with("enabled");
    let tools = request["tools"].as_array().unwrap();
    let web = tools.iter().any(|tool| tool["type"] == "web_search");
    (mode.to_owned(), network, web, request["reasoning"]["effort"].clone())
}

#[test]
fn a_session_keeps_its_configuration_over_a_restart_and_what_turns_changed_of_it() {
    let codex =
        real_codex_or_skip!("a_session_keeps_its_configuration_over_a_restart_and_what_turns_changed_of_it");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let config = json!({
        "model_reasoning_effort": "low", "web_search": "live", "sandbox_workspace_write": {"network_access": true},
    });
    let body = json!({
        "cwd": home.work(), "model": "gpt-5.1-codex", "approvalPolicy": "never", "sandbox": "workspace-write", "config": config,
    });
    let turns = [
        ("kept", json!({}), ("workspace-write", true, "low")),
        (
            "cut off",
            json!({"sandboxPolicy": {"type": "workspaceWrite", "networkAccess": false}}),
            ("workspace-write", false, "low"),
        ),
        (
            "narrowed",
            json!({"sandboxPolicy": {"type": "readOnly"}, "effort": "high"}),
            ("read-only", false, "high"),
        ),
    ];
    let sessions: Vec<Value> = turns.iter().map(|_| session(&client, &body)).collect();
    let check = |prompt: &str, (mode, network, effort): (&str, bool, &str)| {
        assert_eq!(told(&model, prompt), (mode.to_owned(), network, true, json!(effort)), "{prompt}");
    };
    for ((name, of_its_own, expected), session) in turns.iter().zip(&sessions) {
        let prompt = format!("{name} before");
        let mut body = of_its_own.clone();
        (body["sessionId"], body["input"]) = (json!(id(session)), json!(prompt));
        let accepted = client.post(TURN, &body);
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        completed(&stream, accepted.json()["data"]["turnId"].as_str().unwrap());
        check(&prompt, *expected);
    }

    daemon.restart();
    let (client, stream) = (daemon.client(), daemon.stream());
    for ((name, _, expected), session) in turns.iter().zip(&sessions) {
        let prompt = format!("{name} after");
        assert_eq!(completed(&stream, &turn(&client, id(session), &prompt)), "completed");
        check(&prompt, *expected);
    }
    daemon.stop();
}

#[test]
fn another_daemon_resumes_the_thread() {
    let codex = real_codex_or_skip!("another_daemon_resumes_the_thread");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut first = Daemon::builder().codex(codex.native(), &home).start();
    let stream = first.stream();
    let old = session(&first.client(), &json!({"cwd": home.work()}));
    completed(&stream, &turn(&first.client(), id(&old), "first of all"));
    first.stop();

    let mut second = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (second.client(), second.stream());
    let resumed = session(&client, &json!({"threadId": old["threadId"], "purpose": "worker"}));
    assert_eq!((&resumed["threadId"], &resumed["purpose"]), (&old["threadId"], &json!("worker")));
    assert_ne!(resumed["sessionId"], old["sessionId"]);
    let turn = turn(&client, id(&resumed), "say 3 words");
    assert_eq!(completed(&stream, &turn), "completed");
    let request = model.wait_for_prompt("say 3 words", DEADLINE);
    assert!(
        request["input"].to_string().contains("first of all"),
        "the model is not told what was said before"
    );
    let unknown = client.post(SESSIONS, &json!({"threadId": "01a1fb80-7657-71b2-ac18-00d6ed8dbed5"}));
    assert_eq!(unknown.status, 502);
    assert!(
        unknown.text().contains("no rollout found") && unknown.text().contains("-32600"),
        "{}",
        unknown.text()
    );
    second.stop();
    let log = whole_log(&second);
    assert_eq!(find(&log, "session.resumed")["detail"]["threadId"], old["threadId"]);
    assert_eq!((count(&log, "session.resumed"), count(&log, "session.created")), (1, 0));
    assert_in_order(&log, &turn);
}

#[test]
fn a_long_prompt_runs_in_the_real_codex_or_is_refused_but_never_both() {
    let codex = real_codex_or_skip!("a_long_prompt_runs_in_the_real_codex_or_is_refused_but_never_both");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({"cwd": home.work()}));
    let long = "p".repeat(1_000_000);
    let accepted = turn(&client, id(&session), &long);
    assert_eq!(completed(&stream, &accepted), "completed");
    let refused = try_turn(&client, id(&session), &"q".repeat(2_000_000));
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (502, &json!("app_server_error")),
        "{}",
        refused.text()
    );
    assert!(refused.text().contains("-32602"), "{}", refused.text());
    let after = turn(&client, id(&session), "say 2 words");
    assert_eq!(completed(&stream, &after), "completed");
    daemon.stop();
    let log = whole_log(&daemon);
    assert!(deltas(&log, &accepted).concat() == format!("done: {long}"), "the prompt came back changed");
    for kind in ["turn.accepted", "app-server.turn.started", "app-server.turn.completed"] {
        assert_eq!(count(&log, kind), 2, "{kind}: what was refused did not run");
    }
    assert!(!model.prompts().iter().any(|prompt| prompt.starts_with("qq")), "the refused prompt ran");
}

#[test]
fn a_body_over_many_lines_reaches_the_real_codex() {
    let codex = real_codex_or_skip!("a_body_over_many_lines_reaches_the_real_codex");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut daemon = Daemon::builder().codex(codex.native(), &home).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let post = |path: &str, body: &Value| {
        let text = serde_json::to_string_pretty(body).unwrap();
        client.request("POST", path, &[("content-type", "application/json")], text.as_bytes())
    };
    // As deep as is let through: Codex can still read it.
    let deep = (0..99).fold(json!(1), |inner, _| json!([inner]));
    let made = post(
        SESSIONS,
        &json!({"cwd": home.work(), "config": {"model_verbosity": "low", "codexd_unknown": deep}}),
    );
    assert_eq!(made.status, 201, "{}", made.text());
    let session = made.json()["data"]["session"].take();
    let input = json!([{"type": "text", "text": "say 2 words"}]);
    let answer = post(crate::talk::TURN, &json!({"sessionId": id(&session), "input": input}));
    assert_eq!(answer.status, 202, "{}", answer.text());
    let turn = answer.json()["data"]["turnId"].as_str().unwrap().to_owned();
    assert_eq!(completed(&stream, &turn), "completed");
    daemon.stop();
    assert_eq!(deltas(&whole_log(&daemon), &turn), words(2));
}

#[test]
fn a_stop_interrupts_the_turn_of_the_real_codex() {
    let codex = real_codex_or_skip!("a_stop_interrupts_the_turn_of_the_real_codex");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    for program in [codex.native(), codex.wrapper()] {
        let mut daemon = Daemon::builder().codex(program, &home).start();
        let (client, stream) = (daemon.client(), daemon.stream());
        let session = session(&client, &json!({"cwd": home.work()}));
        let turn = turn(&client, id(&session), "slow: 200 200");
        of_turn(&stream, "app-server.turn.message.delta", &turn);
        let ended = daemon.stop();
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        let log = whole_log(&daemon);
        for kind in ["app-server.transport.closed", "app-server.turn.completed.missing"] {
            assert_eq!(count(&log, kind), 0, "{kind}");
        }
        let session = daemon.state_json("session-registry.json")["sessions"][0].take();
        assert_eq!(
            (&session["currentTurnId"], &session["lastTurnId"], &session["lastTurnStatus"]),
            (&Value::Null, &json!(turn), &json!("interrupted"))
        );
    }
}
