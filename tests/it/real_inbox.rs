//! What the real Codex asks, seen and answered through codexd; the model is scripted.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::inbox_support::{Bench, text};
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};

/// The bench is dropped before the home and the model it uses.
struct Real {
    bench: Bench,
    home: CodexHome,
    _model: ModelServer,
}

fn real(codex: &RealCodex, flags: &[&str]) -> Real {
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let bench = Bench::with(Daemon::builder().codex(codex.native(), &home).flags(flags));
    Real { bench, home, _model: model }
}

impl Real {
    /// Params of a session in the folder to work in.
    fn here(&self, more: Value) -> Value {
        let mut body = json!({"cwd": self.home.work()});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }

    fn made(&self, file: &str) -> bool {
        self.home.work().join(file).exists()
    }
}

#[test]
fn a_command_runs_only_when_it_is_accepted() {
    let codex = real_codex_or_skip!("a_command_runs_only_when_it_is_accepted");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let (session, turn, request) = bench.asked(real.here(json!({})), "run: touch one.txt");
    assert_eq!((&request["kind"], &request["status"]), (&json!("command"), &json!("pending")));
    assert!(text(&request["params"]["command"]).contains("touch one.txt"));
    assert_eq!(request["params"]["reason"], "Do you want to run this?");
    assert!(!real.made("one.txt"), "it ran without approval");
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(real.made("one.txt"));
    // What Codex itself says of the request afterwards changes nothing.
    bench.event("app-server.notification", |detail| detail["notificationMethod"] == "serverRequest/resolved");
    assert_eq!(bench.types("request.", &request["requestId"]), ["request.opened", "request.answered"]);

    let turn = bench.turn(&session, "run: touch two.txt");
    bench.answered(&bench.opened(&turn), json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed", "a declined command does not end the turn");

    let turn = bench.turn(&session, "run: touch three.txt");
    let request = bench.opened(&turn);
    bench.answered(&request, json!({"decision": "cancel"}));
    assert_eq!(bench.ended(&turn), "interrupted");
    assert_eq!(bench.request(&request)["status"], "answered");

    let turn = bench.turn(&session, "run: touch four.txt");
    bench.answered(&bench.opened(&turn), json!({"error": {"code": -32000, "message": "no"}}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(!real.made("two.txt") && !real.made("three.txt") && !real.made("four.txt"));

    let turn = bench.turn(&session, "run: touch five.txt");
    bench.answered(&bench.opened(&turn), json!({"result": {"decision": "accept"}}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(real.made("five.txt"));
    assert_eq!(bench.requests("").len(), 5);
}

#[test]
fn what_was_accepted_for_the_session_is_not_asked_again() {
    let codex = real_codex_or_skip!("what_was_accepted_for_the_session_is_not_asked_again");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let (session, turn, request) = bench.asked(real.here(json!({})), "run: touch one.txt");
    bench.answered(&request, json!({"decision": "acceptForSession"}));
    assert_eq!(bench.ended(&turn), "completed");
    std::fs::remove_file(real.home.work().join("one.txt")).unwrap();
    let turn = bench.turn(&session, "run: touch one.txt");
    assert_eq!(bench.ended(&turn), "completed");
    assert!(real.made("one.txt"));

    // The amendment that Codex proposes covers what begins with the same words.
    let turn = bench.turn(&session, "run: mkdir a");
    let request = bench.opened(&turn);
    let offered = request["params"]["availableDecisions"].as_array().unwrap();
    let amendment = offered.iter().find(|decision| decision.is_object()).unwrap().clone();
    let record = bench.answered(&request, json!({"decision": amendment}));
    assert_eq!(record["answer"], json!({"decision": amendment}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(real.made("a"));
    assert_eq!(bench.requests("").len(), 2);
}

#[test]
fn a_forced_removal_is_asked_for() {
    let codex = real_codex_or_skip!("a_forced_removal_is_asked_for");
    let real = real(&codex, &[]);
    std::fs::create_dir(real.home.work().join("precious")).unwrap();
    let (_, turn, request) = real.bench.asked(real.here(json!({})), "plainrun: rm -rf precious");
    assert!(text(&request["params"]["command"]).contains("rm -rf precious"));
    real.bench.answered(&request, json!({"decision": "decline"}));
    assert_eq!(real.bench.ended(&turn), "completed");
    assert!(real.made("precious"));
}

#[test]
fn a_patch_outside_shows_what_it_changes() {
    let codex = real_codex_or_skip!("a_patch_outside_shows_what_it_changes");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let outside = real.home.outside("outside.txt");
    let prompt = format!("patch: {} hello", outside.display());
    let (session, turn, request) = bench.asked(real.here(json!({"sandbox": "workspace-write"})), &prompt);
    assert_eq!(request["kind"], "fileChange");
    let change = &request["params"]["changes"][0];
    assert_eq!((&change["path"], &change["diff"]), (&json!(outside), &json!("hello\n")));
    bench.answered(&request, json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(!outside.exists());

    let turn = bench.turn(&session, &prompt);
    bench.answered(&bench.opened(&turn), json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "hello\n");
}

#[test]
fn questions_and_permissions_are_answered() {
    let codex = real_codex_or_skip!("questions_and_permissions_are_answered");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let (session, turn, request) = bench.asked(real.here(json!({})), "ask: Continue?");
    assert_eq!(request["kind"], "userInput");
    assert_eq!(request["params"]["questions"][0]["question"], "Continue?");
    bench.answered(&request, json!({"answers": {"q1": "No"}}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("No"), "{}", bench.said(&turn));
    let turn = bench.turn(&session, "ask: Continue?");
    bench.answered(&bench.opened(&turn), json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");

    let folder = real.home.outside("granted");
    std::fs::create_dir(&folder).unwrap();
    for (decision, scope) in [("accept", "turn"), ("decline", "turn"), ("acceptForSession", "session")] {
        let turn = bench.turn(&session, &format!("perm: {}", folder.display()));
        let request = bench.opened(&turn);
        assert_eq!(request["kind"], "permissions");
        let record = bench.answered(&request, json!({ "decision": decision }));
        assert_eq!(record["answer"]["scope"], scope);
        assert_eq!(bench.ended(&turn), "completed", "{decision}");
        let granted = bench.said(&turn).contains(&folder.display().to_string());
        assert_eq!(granted, decision != "decline", "{}", bench.said(&turn));
    }
}

#[test]
fn two_commands_wait_and_an_interrupt_cancels_both() {
    let codex = real_codex_or_skip!("two_commands_wait_and_an_interrupt_cancels_both");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let (session, turn, first) = bench.asked(real.here(json!({})), "run2: touch one.txt && touch two.txt");
    let other = |turn: &str, first: &Value| {
        let event = bench.event("request.opened", |detail| {
            detail["turnId"] == turn && detail["requestId"] != first["requestId"]
        });
        event["detail"]["record"].clone()
    };
    let second = other(&turn, &first);
    assert_eq!(bench.requests("?status=pending").len(), 2);
    bench.answered(&second, json!({"decision": "decline"}));
    bench.answered(&first, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    let accepted = |request: &Value, file: &str| text(&request["params"]["command"]).contains(file);
    for file in ["one.txt", "two.txt"] {
        assert_eq!(real.made(file), accepted(&first, file), "{file}");
    }

    let turn = bench.turn(&session, "run2: touch three.txt && touch four.txt");
    let first = bench.opened(&turn);
    let second = other(&turn, &first);
    assert_eq!(bench.act(&session, "interrupt").status, 202);
    assert_eq!(bench.ended(&turn), "interrupted");
    for request in [first, second] {
        let record = bench.settled("request.cancelled", &request)["detail"]["record"].clone();
        assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);
    }
    // The thread takes the next turn as if nothing had been.
    let turn = bench.turn(&session, "say 2 words");
    assert_eq!(bench.ended(&turn), "completed");
    assert!(!real.made("three.txt") && !real.made("four.txt"));
}

#[test]
fn an_interrupt_at_once_and_a_close_end_the_turn() {
    let codex = real_codex_or_skip!("an_interrupt_at_once_and_a_close_end_the_turn");
    let real = real(&codex, &[]);
    let bench = &real.bench;
    let session = bench.session(real.here(json!({})));
    for _ in 0..5 {
        // As soon as the turn is accepted: Codex refuses an interrupt for 15 to 65 ms from then on.
        let turn = bench.turn(&session, "slow: 100 300");
        let answer = bench.act(&session, "interrupt");
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(bench.ended(&turn), "interrupted");
    }
    let turn = bench.turn(&session, "run: touch one.txt");
    let request = bench.opened(&turn);
    let steered = bench.post_turn(&session, "say 1 words");
    assert_eq!((&steered["steered"], &steered["turnId"]), (&json!(true), &json!(turn)));
    let answer = bench.act(&session, "close");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let record = answer.json()["data"]["session"].clone();
    assert_eq!((&record["status"], &record["lastTurnStatus"]), (&json!("closed"), &json!("interrupted")));
    assert_eq!(bench.request(&request)["status"], "cancelled");
    assert_eq!(bench.act(&session, "close").json()["data"]["session"], record);
    assert!(!real.made("one.txt"));
}

#[test]
fn at_the_deadline_the_turn_goes_on() {
    let codex = real_codex_or_skip!("at_the_deadline_the_turn_goes_on");
    let real = real(&codex, &["--request-timeout-ms", "100"]);
    let bench = &real.bench;
    let (session, turn, request) = bench.asked(real.here(json!({})), "run: touch one.txt");
    let record = bench.settled("request.expired", &request)["detail"]["record"].clone();
    assert_eq!(record["answer"], json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");
    let turn = bench.turn(&session, "ask: Continue?");
    bench.settled("request.expired", &bench.opened(&turn));
    assert_eq!(bench.ended(&turn), "completed");

    let body = real.here(json!({"requestPolicy": "decline"}));
    let (_, turn, request) = bench.asked(body, "patch: ../one.txt hello");
    assert_eq!(bench.settled("request.answered", &request)["detail"]["record"]["status"], "answered");
    assert_eq!(bench.ended(&turn), "completed");
    assert!(!real.made("one.txt") && !real.made("../one.txt"));
}

#[test]
fn a_crash_leaves_nothing_to_answer() {
    let codex = real_codex_or_skip!("a_crash_leaves_nothing_to_answer");
    let mut real = real(&codex, &[]);
    let (session, turn, request) = real.bench.asked(real.here(json!({})), "run: touch one.txt");
    let bench = &real.bench;
    let child =
        bench.client.get("/v1/codexd/status").json()["data"]["snapshot"]["daemon"]["child"]["pid"].clone();
    let child = rustix::process::Pid::from_raw(i32::try_from(child.as_i64().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
    let record = bench.settled("request.orphaned", &request)["detail"]["record"].clone();
    assert_eq!(bench.refused(&request, json!({"decision": "accept"})), record);
    bench.event("app-server.turn.completed.missing", |detail| detail["turnId"] == turn);
    bench.stream.wait_for_type("child.restarted");

    // The same thread asks anew in the next life, and codexd's own restart orphans that.
    let turn = bench.turn(&session, "run: touch two.txt");
    let request = bench.opened(&turn);
    real.bench.daemon.restart();
    real.bench.reopen();
    assert_eq!(real.bench.refused(&request, json!({"decision": "accept"}))["status"], "orphaned");
    assert!(!real.made("one.txt") && !real.made("two.txt"));
}
