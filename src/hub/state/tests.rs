use super::*;

fn session() -> Arc<Session> {
    let record = serde_json::json!({
        "sessionId": "s", "purpose": "duplex", "threadId": "t", "status": "active", "endpoint": "e",
        "childPid": null, "createdAt": "", "updatedAt": "", "metadata": {},
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

fn run(id: &str, key: &str) -> Arc<Run> {
    let record = serde_json::json!({
        "runId": id, "status": "completed", "adapter": "a", "prompt": "p", "createdAt": "", "updatedAt": "",
        "metadata": {}, "idempotency": { "key": key, "body": "b" },
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

fn with(session: Arc<Session>) -> State {
    let daemon =
        serde_json::from_str(include_str!("../../../tests/fixtures/file-daemon-state.json")).unwrap();
    let sessions = Registry::load(None, vec![session]);
    State::new(None, daemon, sessions, Registry::default(), Registry::default())
}

#[test]
fn a_turns_own_sandbox_takes_the_place_of_the_configurations() {
    let mut made = Session::clone(&session());
    let config = serde_json::json!({
        "sandbox_workspace_write": {"network_access": true}, "sandbox_workspace_write.x": 1, "web_search": "live",
    });
    made.thread_params = serde_json::json!({ "sandbox": "workspace-write", "config": config });
    let mut state = with(Arc::new(made.clone()));
    let mut after = |sandbox: Option<&str>| {
        let (session_id, turn_id) = ("s".to_owned(), "t".to_owned());
        let sandbox = sandbox.map(str::to_owned);
        state.apply(Change::TurnAccepted { session_id, turn_id, steered: false, sandbox }, "");
        state.sessions.get("s").unwrap().thread_params.clone()
    };
    assert_eq!(after(None), made.thread_params);
    for (policy, mode) in [
        ("readOnly", "read-only"),
        ("dangerFullAccess", "danger-full-access"),
        ("workspaceWrite", "workspace-write"),
    ] {
        let expected = serde_json::json!({ "sandbox": mode, "config": {"web_search": "live"} });
        assert_eq!(after(Some(policy)), expected);
    }
    assert_eq!(after(Some("externalSandbox")), serde_json::json!({ "config": {"web_search": "live"} }));
}

#[test]
fn turns_begin_and_end_in_whatever_order_that_is_told() {
    let mut state = with(session());
    let name = str::to_owned;
    let took = |turn, steered| Change::TurnAccepted {
        session_id: name("s"),
        turn_id: name(turn),
        steered,
        sandbox: None,
    };
    let accepted = |turn| took(turn, false);
    let steered = |turn| took(turn, true);
    let started = |turn| Change::TurnStarted { thread_id: name("t"), turn_id: name(turn) };
    let completed =
        |turn| Change::TurnCompleted { thread_id: name("t"), turn_id: name(turn), status: name("completed") };
    let mut after = |change| {
        state.apply(change, "");
        let session = state.sessions.get("s").unwrap();
        (session.current_turn_id.clone(), session.last_turn_status.clone().unwrap())
    };
    // Its thread was taken over while a turn ran that nobody here has seen begin.
    assert_eq!(after(steered("0")), (Some(name("0")), name("inProgress")));
    assert_eq!(after(completed("0")), (None, name("completed")));
    assert_eq!(after(accepted("1")), (Some(name("1")), name("inProgress")));
    assert_eq!(after(started("1")), (Some(name("1")), name("inProgress")));
    assert_eq!(after(completed("1")), (None, name("completed")));
    // The answer to a steer comes when the turn is over.
    assert_eq!(after(accepted("1")), (None, name("completed")));
    // The end of a turn is not that of the one that has begun since.
    assert_eq!(after(started("2")).0, Some(name("2")));
    assert_eq!(after(completed("1")).0, Some(name("2")));
    // Nor is the late answer to a steer of it.
    assert_eq!(after(steered("0")).0, Some(name("2")));
}

#[test]
fn a_key_that_is_used_anew_names_the_last_record() {
    let records = vec![run("1", "k"), run("2", "k"), run("3", "other")];
    let registry = Registry::load(None, records);
    assert_eq!(registry.by_key("k").unwrap().run_id, "2");
    assert!(registry.by_key("none").is_none());
}
