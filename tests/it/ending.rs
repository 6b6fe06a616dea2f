//! Interrupting turns, closing sessions, steering in disguise; with the built-in app-server as Codex.

use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::Answer;
use crate::conversation::{child, kill, on_script, send, suspend, unread_input, until};
use crate::inbox_support::{Bench, text};

#[test]
fn an_interrupt_waits_for_the_turn_to_begin() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, "gap: 400 hang:");
    // The answer to the POST is out, turn/started is not: the app-server refuses to interrupt now.
    let answer = bench.act(&session, "interrupt");
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["data"]["turnId"], turn);
    assert_eq!(bench.ended(&turn), "interrupted");
    let started = bench.event("app-server.turn.started", |detail| detail["turnId"] == turn);
    let ended = bench.event("app-server.turn.completed", |detail| detail["turnId"] == turn);
    assert!(started["seq"].as_u64() < ended["seq"].as_u64());
    assert_eq!(bench.session_record(&session)["lastTurnStatus"], "interrupted");
}

#[test]
fn a_turn_that_ends_in_time_needs_no_interrupt() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, "gap: 100 say 1 words");
    let answer = bench.act(&session, "interrupt");
    let status = bench.ended(&turn);
    // Whoever was first; never an error of the app-server.
    match answer.status {
        202 => assert!(["interrupted", "completed"].contains(&status.as_str()), "{status}"),
        409 => assert_eq!(status, "completed"),
        _ => panic!("{}", answer.text()),
    }
}

#[test]
fn an_interrupt_names_what_is_wrong() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let path = format!("/v1/codexd/sessions/{session}/interrupt");
    let conflict = |body: Value| {
        let answer = bench.client.post(&path, &body);
        assert_eq!((answer.status, &answer.json()["error"]), (409, &json!("conflict")), "{}", answer.text());
        text(&answer.json()["message"])
    };
    assert!(conflict(json!({})).contains("No turn runs"));
    let turn = bench.turn(&session, "hang:");
    assert!(conflict(json!({"turnId": "another"})).contains(&turn));
    assert_eq!(bench.client.post(&path, &json!({"turnId": 7})).status, 400);
    assert_eq!(bench.client.post(&path, &json!({"turnId": turn})).status, 202);
    assert_eq!(bench.ended(&turn), "interrupted");
    assert_eq!(bench.act("session-x", "interrupt").status, 404);
    assert_eq!(bench.act(&session, "close").status, 200);
    assert!(conflict(json!({})).contains("is closed"));
}

#[test]
fn a_close_ends_the_turn_first() {
    let bench = Bench::stub();
    let (session, turn, request) = bench.asked(json!({}), "run: echo hi");
    let answer = bench.act(&session, "close");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = answer.json()["data"]["session"].clone();
    assert_eq!((&record["status"], &record["currentTurnId"]), (&json!("closed"), &Value::Null));
    assert_eq!(record["lastTurnStatus"], "interrupted");
    assert_eq!(bench.ended(&turn), "interrupted");
    let ended = bench.event("app-server.turn.completed", |detail| detail["turnId"] == turn);
    let closed = bench.event("session.closed", |detail| detail["sessionId"] == session);
    assert!(ended["seq"].as_u64() < closed["seq"].as_u64());
    assert_eq!(bench.request(&request)["status"], "cancelled");

    let again = bench.act(&session, "close");
    assert_eq!((again.status, &again.json()["data"]["session"]), (200, &record));
    assert_eq!(bench.types("session.closed", &json!(session)).len(), 1);
    let turn = bench.client.post("/v1/codexd/turn", &json!({"sessionId": session, "input": "x"}));
    assert_eq!(turn.status, 409);
    assert_eq!(bench.act("session-x", "close").status, 404);
}

#[test]
fn many_closes_are_one() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, "gap: 50 hang:");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = bench.act(&session, "close");
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.json()["data"]["session"]["status"], "closed");
            });
        }
    });
    assert_eq!(bench.ended(&turn), "interrupted");
    bench.event("session.closed", |detail| detail["sessionId"] == session);
    assert_eq!(bench.types("session.closed", &json!(session)).len(), 1);
}

/// Posts a turn beside the test, which goes on with `meanwhile`; the answer.
fn while_posted(bench: &Bench, session: &str, meanwhile: impl FnOnce()) -> Answer {
    thread::scope(|scope| {
        let body = json!({"sessionId": session, "input": "hang:"});
        let post = move || bench.client.post("/v1/codexd/turn", &body);
        let posted = thread::Builder::new().name("post".into()).spawn_scoped(scope, post).unwrap();
        meanwhile();
        posted.join().unwrap()
    })
}

fn check_closed(bench: &Bench, session: &str, posted: &Answer) {
    assert_eq!((posted.status, &posted.json()["error"]), (409, &json!("conflict")), "{}", posted.text());
    assert_eq!(posted.json()["message"], format!("Session {session} is closed."));
    let record = bench.session_record(session);
    assert_eq!((&record["status"], &record["currentTurnId"]), (&json!("closed"), &Value::Null), "{record}");
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "what a process has not read is told by Linux only")]
fn a_turn_that_is_accepted_after_its_session_was_closed_is_ended() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let first = bench.turn(&session, "say 1 words");
    assert_eq!(bench.ended(&first), "completed");
    let pid = child(&bench.client)["pid"].clone();
    suspend(&pid);
    let posted = while_posted(&bench, &session, || {
        until("a request that it does not read", DEADLINE, || (unread_input(&pid) > 0).then_some(()));
        assert_eq!(bench.act(&session, "close").status, 200);
        send(&pid, Signal::CONT);
    });
    let accepted = bench.event("turn.accepted", |detail| detail["turnId"] != first);
    assert_eq!(bench.ended(&text(&accepted["detail"]["turnId"])), "interrupted");
    check_closed(&bench, &session, &posted);
}

#[test]
fn a_turn_that_waits_for_the_child_is_refused_when_its_session_is_closed() {
    let gate = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = env!("CARGO_BIN_EXE_codexd");
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.02; done", gate.path().display());
    let bench = Bench::with(on_script(&format!("{waits}; exec '{program}' stub-app-server"), &[]));
    let session = bench.session(json!({}));
    let first = bench.turn(&session, "say 1 words");
    assert_eq!(bench.ended(&first), "completed");
    let path = gate.path().to_owned();
    gate.close().unwrap();
    kill(&child(&bench.client)["pid"]);
    bench.event("child.restarted", |_| true);
    let posted = while_posted(&bench, &session, || {
        // Nothing tells that it waits; after as many others it does.
        (0..50).for_each(|_| assert_eq!(bench.client.get("/v1/codexd/sessions").status, 200));
        assert_eq!(bench.act(&session, "close").status, 200);
        std::fs::File::create(&path).unwrap();
    });
    std::fs::remove_file(&path).unwrap();
    check_closed(&bench, &session, &posted);
    assert_eq!(bench.types("turn.accepted", &json!(session)).len(), 1);
    assert!(bench.types("session.recovered", &json!(session)).is_empty(), "nobody needs its thread");
}

#[test]
fn the_late_answer_to_a_steer_begins_no_turn() {
    let script = r#"read line; echo '{"id":1,"result":{"userAgent":"sh"}}'; read line
        told() { echo "{\"method\":\"turn/$1\",\"params\":{\"threadId\":\"t\",\"turn\":{\"id\":\"$2\",\"status\":\"$3\"}}}"; }
        read line; echo '{"id":2,"result":{"thread":{"id":"t"}}}'
        read line; echo '{"id":3,"result":{"turn":{"id":"one"}}}'; told started one inProgress
        read line; told completed one completed
        read line; echo '{"id":5,"result":{"turn":{"id":"two"}}}'; told started two inProgress
        echo '{"id":4,"result":{"turnId":"one"}}'; told completed two completed
        exec sleep 600"#;
    let bench = Bench::with(on_script(script, &[]));
    let session = bench.session(json!({}));
    let one = bench.turn(&session, "x");
    let steer = json!({"sessionId": session, "input": "x", "expectedTurnId": one});
    thread::scope(|scope| {
        let steer = || bench.client.post("/v1/codexd/turn", &steer);
        let steered = thread::Builder::new().name("steer".into()).spawn_scoped(scope, steer).unwrap();
        assert_eq!(bench.ended(&one), "completed");
        let two = bench.turn(&session, "x");
        assert_eq!(bench.ended(&two), "completed");
        assert_eq!(steered.join().unwrap().json()["data"]["steered"], true);
    });
    let accepted = bench.event("turn.accepted", |detail| detail["steered"] == true);
    assert_eq!(accepted["detail"]["turnId"], "one");
    let record = bench.session_record(&session);
    assert_eq!((&record["currentTurnId"], &record["lastTurnId"]), (&Value::Null, &json!("two")));
    let mut bench = bench;
    bench.daemon.kill();
    bench.daemon.restart();
    bench.reopen();
    let replayed = bench.session_record(&session);
    assert_eq!((&replayed["currentTurnId"], &replayed["lastTurnId"]), (&Value::Null, &json!("two")));
}

#[test]
fn a_turn_on_a_busy_session_is_a_steer() {
    let bench = Bench::stub();
    let session = bench.session(json!({}));
    let first = bench.post_turn(&session, "hang:");
    assert_eq!(first["steered"], false);
    let turn = text(&first["turnId"]);
    let second = bench.post_turn(&session, "say 2 words");
    assert_eq!((&second["steered"], &second["turnId"]), (&json!(true), &json!(turn)));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.said(&turn), "word0 word1 ");
    let body = json!({"sessionId": session, "input": "x", "expectedTurnId": turn});
    let late = bench.client.post("/v1/codexd/turn", &body);
    assert_eq!((late.status, &late.json()["error"]), (409, &json!("conflict")), "{}", late.text());
}

#[test]
fn the_list_of_sessions_has_filters() {
    let bench = Bench::stub();
    let ids: Vec<String> =
        ["duplex", "worker", "duplex"].map(|purpose| bench.session(json!({ "purpose": purpose }))).into();
    bench.act(&ids[0], "close");
    let list = |query: &str| -> Vec<String> {
        let answer = bench.client.get(&format!("/v1/codexd/sessions{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let sessions = answer.json()["data"]["sessions"].as_array().unwrap().clone();
        sessions.iter().map(|session| text(&session["sessionId"])).collect()
    };
    assert_eq!(list(""), ids);
    assert_eq!(list("?status=closed"), ids[..1]);
    assert_eq!(list("?status=active&purpose=duplex"), ids[2..]);
    assert_eq!(list("?limit=2"), ids[..2]);
    assert_eq!(list(&format!("?limit=2&after={}", ids[1])), ids[2..]);
    for wrong in ["?status=open", "?purpose=x", "?limit=0", "?after=session-x"] {
        let answer = bench.client.get(&format!("/v1/codexd/sessions{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}");
    }
}
