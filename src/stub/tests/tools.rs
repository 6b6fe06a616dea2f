//! Approvals, permissions and questions.

use super::{Session, assert_alike, recorded};
use serde_json::{Value, json};

/// Runs one turn whose only request gets `answer`, and returns the log and the end of the turn.
fn decide(prompt: &str, answer: Value) -> (Vec<(&'static str, String)>, Value) {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({"approvalPolicy": "untrusted"}));
    session.turn(&thread, prompt);
    while !session.log.last().is_some_and(|(_, name)| name.contains("/request")) {
        session.read();
    }
    let mut message = answer;
    message["id"] = json!(0);
    session.send(&message);
    let completed = session.until("turn/completed");
    (session.since_turn_start(), completed["params"]["turn"].clone())
}

#[test]
fn command_approvals() {
    let decision = |name: &str| json!({"result": {"decision": name}});
    let (ours, turn) = decide("run: echo hi", decision("accept"));
    assert_alike(&ours, &recorded("command-approval-accept.jsonl", "turn/start", None)[..]);
    assert!(turn["items"][0]["text"].as_str().unwrap().contains("ran: echo hi"));
    let (ours, turn) = decide("run: echo hi", decision("decline"));
    assert_alike(&ours, &recorded("command-approval-decline.jsonl", "turn/start", None));
    assert_eq!(turn["status"], "completed");
    let (ours, turn) = decide("run: echo hi", decision("cancel"));
    let theirs = "command-approval-cancel-and-error.jsonl";
    assert_alike(&ours, &recorded(theirs, "turn/start", Some("turn/start")));
    assert_eq!(turn["status"], "interrupted");
    let (ours, _) = decide("run: echo hi", json!({"error": {"code": -32601, "message": "nope"}}));
    let all = recorded(theirs, "turn/start", None);
    let second = all.iter().rposition(|(_, name)| name == "turn/start").unwrap();
    assert_alike(&ours, &all[second..]);
}

#[test]
fn file_changes_permissions_and_questions() {
    let theirs = recorded("filechange-approval.jsonl", "turn/start", None);
    let turns: Vec<_> = theirs.split_inclusive(|(_, name)| name == "turn/completed").collect();
    for (decision, theirs) in ["accept", "decline", "cancel"].iter().zip(turns) {
        let (ours, _) = decide("patch: f.txt hello", json!({"result": {"decision": decision}}));
        assert_alike(&ours, theirs);
    }
    let (ours, _) = decide("perm: /srv", json!({"result": {"permissions": {}}}));
    assert_alike(&ours, &recorded("permissions-approval.jsonl", "turn/start", None));
    let answers = json!({"answers": {"q1": {"answers": ["No"]}}});
    let (ours, turn) = decide("ask: Continue?", json!({"result": answers}));
    let mut theirs = recorded("user-input.jsonl", "turn/start", None);
    theirs.retain(|(_, name)| name != "thread/settings/updated");
    assert_alike(&ours, &theirs);
    assert_eq!(turn["items"][0]["text"], format!("done: {answers}"));
}

#[test]
fn two_approvals_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    let turn = session.turn(&thread, "run2: a && b");
    session.until("item/commandExecution/requestApproval");
    assert_eq!(session.until("item/commandExecution/requestApproval")["id"], 1);
    session.call("turn/interrupt", json!({"threadId": thread, "turnId": turn}));
    let log = session.log.len();
    assert_eq!(session.until("turn/completed")["params"]["turn"]["status"], "interrupted");
    session.until("serverRequest/resolved");
    session.until("serverRequest/resolved");
    let names: Vec<&str> = session.log[log..].iter().map(|(_, name)| name.as_str()).collect();
    let resolved = "serverRequest/resolved";
    assert_eq!(names, ["thread/status/changed", "turn/completed", resolved, resolved]);
    // Too late: nothing happens.
    session.send(&json!({"id": 0, "result": {"decision": "accept"}}));
    session.turn(&thread, "say 1 words");
    assert_eq!(session.until("turn/completed")["params"]["turn"]["status"], "completed");
}

#[test]
fn accepted_for_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let (mut session, thread) = Session::ready(folder.path(), json!({}));
    session.turn(&thread, "run: a");
    session.until("item/commandExecution/requestApproval");
    session.send(&json!({"id": 0, "result": {"decision": "acceptForSession"}}));
    session.until("turn/completed");
    session.turn(&thread, "run: a");
    session.until("turn/completed");
    let asked = session.log.iter().filter(|(_, name)| name.ends_with("requestApproval")).count();
    assert_eq!(asked, 1);
}
