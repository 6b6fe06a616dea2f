//! Interrupting turns, closing sessions, steering in disguise; with the built-in app-server as Codex.

use std::thread;

use serde_json::{Value, json};

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
