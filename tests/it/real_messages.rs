//! What the real Codex tells, held against its own schema, and what a person reads of it.

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::inbox_support::{Bench, text};
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, real_codex_or_skip};
use crate::schema::Protocol;

/// Lines of events that a turn has, wildcards for times and tokens.
fn has_line(bench: &Bench, begin: &str, end: &str) {
    let line = |event: &Value| text(&event["message"]);
    let fits = |event: &&Value| line(event).starts_with(begin) && line(event).ends_with(end);
    let events = bench.stream.events();
    let lines = || events.iter().map(line).collect::<Vec<_>>();
    assert!(events.iter().find(fits).is_some(), "no line {begin}…{end} among {:#?}", lines());
}

#[test]
fn a_person_can_read_what_the_real_codex_does() {
    let codex = real_codex_or_skip!("a_person_can_read_what_the_real_codex_does");
    let (model, protocol) = (ModelServer::start(), Protocol::recorded());
    let home = CodexHome::new(&model);
    let bench = Bench::with(Daemon::builder().codex(codex.native(), &home));
    let (session, turn, request) =
        bench.asked(json!({"cwd": home.work()}), "run: echo out; sleep 2; echo err >&2; exit 3");
    bench.answered(&request, json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    let command = request["params"]["command"].as_str().unwrap();
    has_line(&bench, &format!("App-server item/started: command `{command}`"), "");
    has_line(&bench, "App-server item/commandExecution/outputDelta: command output: ", "");
    has_line(&bench, &format!("App-server item/completed: command `{command}` failed, exit 3, "), " s");
    has_line(&bench, "App-server item/completed: user message: run: echo out", "");
    has_line(&bench, "App-server item/completed: message: done: ", "");
    has_line(&bench, "App-server thread/tokenUsage/updated: 15 tokens in all, 10 in, 5 out", "");
    has_line(&bench, "App-server serverRequest/resolved: request ", " resolved");

    let turn = bench.turn(&session, "think: so it is");
    assert_eq!(bench.ended(&turn), "completed");
    has_line(&bench, "App-server item/reasoning/summaryTextDelta: reasoning summary: so it is", "");
    has_line(&bench, "App-server item/reasoning/summaryPartAdded: reasoning summary, part 0", "");
    has_line(&bench, "App-server item/completed: reasoning: so it is indeed", "");

    let outside = home.outside("a.txt");
    let turn = bench.turn(&session, &format!("patch: {} hello", outside.display()));
    bench.answered(&bench.opened(&turn), json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    has_line(&bench, "App-server item/started: file change of ", "a.txt");
    has_line(&bench, "App-server item/completed: file change of ", "a.txt completed");
    let turn = bench.turn(&session, "run: touch declined");
    bench.answered(&bench.opened(&turn), json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");
    has_line(&bench, "App-server item/completed: command `", " declined");
    let failed = bench.turn(&session, "fail: 500");
    assert_eq!(bench.ended(&failed), "failed");
    has_line(&bench, &format!("App-server turn {failed} failed: "), "");

    // All that is about a turn or an item can be filtered by it.
    for event in bench.stream.events().iter().filter(|event| event["type"] == "app-server.notification") {
        let (detail, params) = (&event["detail"], &event["detail"]["params"]);
        for name in ["threadId", "turnId", "itemId"].iter().filter(|name| params[**name].is_string()) {
            assert_eq!(detail[*name], params[*name], "{event}");
        }
        if params["item"].is_object() {
            assert_eq!(detail["itemId"], params["item"]["id"], "{event}");
        }
    }

    // Its schema tells the truth about it, or the tests on the schema would say nothing about Codex.
    let said = std::fs::read_to_string(bench.daemon.log("stdout.log")).unwrap();
    let mut seen = 0;
    for line in said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let Some(method) = line["method"].as_str() else { continue };
        let asked = protocol.requests.get(method).map(|(params, _)| params);
        let schema = asked.or_else(|| protocol.notifications.get(method));
        let schema = schema.unwrap_or_else(|| panic!("the schema does not name {method}"));
        let findings = protocol.check(schema, &line["params"]);
        assert!(findings.wrong.is_empty(), "{method}: {:?}", findings.wrong);
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn the_end_of_a_turn_of_the_real_codex_is_known_though_its_line_is_too_long() {
    let codex =
        real_codex_or_skip!("the_end_of_a_turn_of_the_real_codex_is_known_though_its_line_is_too_long");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let bench =
        Bench::with(Daemon::builder().codex(codex.native(), &home).flags(&["--max-line-bytes", "100000"]));
    let session = bench.session(json!({"cwd": home.work()}));
    let turn = bench.turn(&session, "big: 200000");
    assert_eq!(bench.ended(&turn), "completed");
    let turn = bench.turn(&session, "say 1 words");
    assert_eq!(bench.ended(&turn), "completed");
    // Of a turn that is over, the log may lack the last lines yet; this one is not the last.
    let said = std::fs::read_to_string(bench.daemon.log("stdout.log")).unwrap();
    let ends = |line: &&str| line.starts_with(r#"{"method":"turn/completed""#);
    assert!(said.lines().find(ends).unwrap().len() > 200_000, "what this test is for has happened");
}
