//! What released versions of Codex did before 0.163 that later ones do better; the built-in stand-in does it too.

use serde_json::{Value, json};

use crate::conversation::{child, kill, on_stub};
use crate::inbox_support::Bench;

/// The stand-in as such a version, and the folder of its threads.
fn older() -> (Bench, tempfile::TempDir) {
    behaving("older,version=0.140.0")
}

fn behaving(behaviour: &str) -> (Bench, tempfile::TempDir) {
    let (builder, threads) = on_stub(&[]);
    (Bench::with(builder.env("CODEXD_STUB", behaviour)), threads)
}

/// Input beside a running turn goes to that one, which ends; its session and the turn.
fn check_joined(bench: &Bench) -> (String, String) {
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, "hang:");
    bench.event("app-server.turn.started", |detail| detail["turnId"] == turn);
    let second = bench.post_turn(&session, "say 2 words");
    assert_eq!((&second["steered"], &second["turnId"]), (&json!(true), &json!(turn)));
    assert_eq!(bench.ended(&turn), "completed");
    (session, turn)
}

#[test]
fn input_beside_a_running_turn_goes_to_that_turn() {
    let (bench, _threads) = older();
    let (session, turn) = check_joined(&bench);
    // No turn is left that would never end.
    let record = bench.session_record(&session);
    assert_eq!((&record["currentTurnId"], &record["lastTurnId"]), (&Value::Null, &json!(turn)));
}

#[test]
fn input_beside_a_turn_that_has_not_begun_goes_to_that_turn() {
    let (bench, _threads) = older();
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, "gap: 400 hang:");
    let second = bench.post_turn(&session, "say 2 words");
    assert_eq!((&second["steered"], &second["turnId"]), (&json!(true), &json!(turn)));
    assert_eq!(bench.ended(&turn), "completed");
}

#[test]
fn an_interrupt_waits_though_the_last_turn_counts_as_active() {
    let (bench, _threads) = older();
    let session = bench.session(json!({}));
    let last = bench.turn(&session, "say 1 words");
    bench.ended(&last);
    let turn = bench.turn(&session, "gap: 400 hang:");
    let answer = bench.act(&session, "interrupt");
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(bench.ended(&turn), "interrupted");
}

#[test]
fn a_session_keeps_its_approval_policy_over_a_crash() {
    let (bench, _threads) = older();
    let session = bench.session(json!({"approvalPolicy": "never"}));
    let before = bench.turn(&session, "run: ls");
    assert_eq!(bench.ended(&before), "completed");
    kill(&child(&bench.client)["pid"]);
    bench.event("session.recovered", |detail| detail["sessionId"] == session);
    let after = bench.turn(&session, "run: ls");
    assert_eq!(bench.ended(&after), "completed");
    assert_eq!(bench.requests(""), Vec::<Value>::new());
}

#[test]
fn without_turn_steer_input_is_given_to_turn_start() {
    let (bench, _threads) = behaving("no-turn-steer,version=0.90.0");
    check_joined(&bench);
}
