//! What codexd relies on in `codex app-server`, proved with the real Codex and a fake model.
//!
//! Each test is a fact codexd is built on; when a new version of Codex breaks one, this is where it shows first. Where
//! the order of messages is stable it is compared with what was recorded in tests/transcripts.

use serde_json::{Value, json};

use crate::app_server::AppServer;
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, RealCodex, real_codex_or_skip};

/// The methods of a turn from turn/started to turn/completed, with what distinguishes them; runs of deltas are one.
fn shape<'a>(messages: impl Iterator<Item = &'a Value>) -> Vec<String> {
    let mut shape: Vec<String> = Vec::new();
    let mut inside = false;
    for message in messages {
        let Some(method) = message["method"].as_str() else { continue };
        inside |= method == "turn/started";
        if !inside {
            continue;
        }
        let params = &message["params"];
        let more = match method {
            "warning" | "configWarning" => continue,
            "item/started" | "item/completed" => {
                format!(" {} {}", params["item"]["type"], params["item"]["status"])
            }
            "thread/status/changed" => params["status"].to_string(),
            "turn/completed" => params["turn"]["status"].to_string(),
            _ => String::new(),
        };
        let line = format!("{method}{more}");
        if shape.last() != Some(&line) {
            shape.push(line);
        }
        if method == "turn/completed" {
            break;
        }
    }
    shape
}

/// The same of the first turn in a transcript.
fn recorded(name: &str) -> Vec<String> {
    let path = format!("{}/tests/transcripts/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    shape(lines.iter().filter(|line| line["dir"] == "in").map(|line| &line["msg"]))
}

fn servers(codex: &RealCodex) -> (ModelServer, CodexHome, AppServer) {
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let server = AppServer::start(codex.native(), &home);
    (model, home, server)
}

#[test]
fn a_plain_turn_streams_every_delta_in_order() {
    let codex = real_codex_or_skip!("a_plain_turn_streams_every_delta_in_order");
    let (model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "say 5 words");
    let ended = server.completed(&turn);
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["items"][0]["text"], "word0 word1 word2 word3 word4 ");
    assert_eq!(server.deltas(&turn), ["word0 ", "word1 ", "word2 ", "word3 ", "word4 "]);
    assert_eq!(shape(server.seen().iter()), recorded("plain-turn"));

    let turn = server.turn(&thread, "say 2000 words");
    assert_eq!(server.completed(&turn)["status"], "completed");
    let deltas = server.deltas(&turn);
    assert_eq!(deltas.len(), 2000);
    assert!(deltas.iter().enumerate().all(|(i, delta)| *delta == format!("word{i} ")));

    let turn = server.turn(&thread, "big: 300000");
    server.completed(&turn);
    assert_eq!(server.deltas(&turn).concat().len(), 300_000);
    assert_eq!(model.prompts(), ["say 5 words", "say 2000 words", "big: 300000"]);
    assert_eq!(server.close().code(), Some(0));
    assert!(model.strays().is_empty(), "it reached for {:?}", model.strays());
}

#[test]
fn the_wrapper_behaves_like_the_binary() {
    let codex = real_codex_or_skip!("the_wrapper_behaves_like_the_binary");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut server = AppServer::start(codex.wrapper(), &home);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "hello");
    assert_eq!(server.completed(&turn)["items"][0]["text"], "done: hello");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn a_steer_joins_the_running_turn() {
    let codex = real_codex_or_skip!("a_steer_joins_the_running_turn");
    let (model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "slow: 50 300");
    // A steer before the model was asked goes into the first request, and the prompt is never answered by itself.
    server.notified("item/agentMessage/delta", &turn);
    let input = json!([{"type": "text", "text": "say 2 words"}]);
    let steer = |turn: &str| json!({"threadId": thread, "expectedTurnId": turn, "input": input});
    let refused = server.request("turn/steer", steer("another")).unwrap_err();
    assert_eq!(refused["code"], -32600);
    assert_eq!(server.request("turn/steer", steer(&turn)).unwrap(), json!({"turnId": turn}));
    model.wait_for_prompt("say 2 words", crate::DEADLINE);
    assert_eq!(server.completed(&turn)["status"], "completed");
    // The model's answer in progress is given up at once: its message never completes, a new one starts.
    let deltas = server.deltas(&turn);
    assert!(deltas.len() < 50 && deltas.ends_with(&["word0 ".to_owned(), "word1 ".to_owned()]), "{deltas:?}");
    let messages = |method: &str| {
        let fits = |m: &&Value| m["method"] == method && m["params"]["item"]["type"] == "agentMessage";
        server.seen().iter().filter(fits).count()
    };
    assert_eq!((messages("item/started"), messages("item/completed")), (2, 1));
    let refused = server.request("turn/steer", steer(&turn)).unwrap_err();
    assert_eq!(refused["message"], "no active turn to steer");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn an_interrupt_ends_the_turn() {
    let codex = real_codex_or_skip!("an_interrupt_ends_the_turn");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "slow: 100 300");
    server.notified("item/agentMessage/delta", &turn);
    let params = json!({"threadId": thread, "turnId": turn});
    assert_eq!(server.request("turn/interrupt", params).unwrap(), json!({}));
    let ended = server.completed(&turn);
    assert_eq!((&ended["status"], &ended["items"]), (&json!("interrupted"), &json!([])));
    let turn = server.turn(&thread, "again");
    assert_eq!(server.completed(&turn)["items"][0]["text"], "done: again");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn a_command_asks_first_and_runs_when_accepted() {
    let codex = real_codex_or_skip!("a_command_asks_first_and_runs_when_accepted");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "run: echo hi > made.txt; cat made.txt");
    let (id, params) = server.asked("item/commandExecution/requestApproval", &turn);
    assert_eq!(params["reason"], "Do you want to run this?");
    assert!(!home.work().join("made.txt").exists(), "it ran without approval");
    server.answer(&id, json!({"decision": "accept"}));
    let text = server.completed(&turn)["items"][0]["text"].as_str().unwrap().to_owned();
    assert!(text.contains("exited with code 0") && text.ends_with("hi\n"), "{text}");
    // Deltas of the output are not complete, and may even be missing.
    let mut ours = shape(server.seen().iter());
    let mut theirs = recorded("command-approval-accept");
    ours.retain(|line| line != "item/commandExecution/outputDelta");
    theirs.retain(|line| line != "item/commandExecution/outputDelta");
    assert_eq!(ours, theirs);

    let turn = server.turn(&thread, "run: touch never.txt");
    let (id, _) = server.asked("item/commandExecution/requestApproval", &turn);
    server.answer(&id, json!({"decision": "decline"}));
    assert_eq!(server.completed(&turn)["status"], "completed");
    assert!(!home.work().join("never.txt").exists());
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn two_commands_wait_for_approval_at_once() {
    let codex = real_codex_or_skip!("two_commands_wait_for_approval_at_once");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "run2: echo first && echo second");
    let method = "item/commandExecution/requestApproval";
    let asks = |m: &Value, word: &str| {
        m["method"] == method && m["params"]["command"].as_str().is_some_and(|command| command.contains(word))
    };
    let second = server.wait_for("the second request", |m| asks(m, "second"));
    let first = server.wait_for("the first request", |m| asks(m, "first"));
    server.answer(&second["id"], json!({"decision": "accept"}));
    server.answer(&first["id"], json!({"decision": "accept"}));
    let text = server.completed(&turn)["items"][0]["text"].to_string();
    assert!(text.contains("first") && text.contains("second"), "{text}");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn a_patch_asks_in_a_read_only_sandbox() {
    let codex = real_codex_or_skip!("a_patch_asks_in_a_read_only_sandbox");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({"sandbox": "read-only"}));
    let turn = server.turn(&thread, "patch: f1.txt hello");
    let (id, params) = server.asked("item/fileChange/requestApproval", &turn);
    assert!(params.get("changes").is_none(), "the changes are in the item, not in the request");
    let item = server.wait_for("the item", |m| {
        m["method"] == "item/started" && m["params"]["item"]["id"] == params["itemId"]
    });
    assert_eq!(item["params"]["item"]["changes"][0]["diff"], "hello\n");
    server.answer(&id, json!({"decision": "accept"}));
    assert_eq!(server.completed(&turn)["status"], "completed");
    assert_eq!(std::fs::read_to_string(home.work().join("f1.txt")).unwrap(), "hello\n");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn questions_and_permissions_are_asked() {
    let codex = real_codex_or_skip!("questions_and_permissions_are_asked");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "ask: Continue?");
    let (id, params) = server.asked("item/tool/requestUserInput", &turn);
    assert_eq!(params["questions"][0]["question"], "Continue?");
    server.answer(&id, json!({"answers": {"q1": {"answers": ["No"]}}}));
    let text = server.completed(&turn)["items"][0]["text"].to_string();
    assert!(text.contains("No"), "{text}");

    let folder = home.outside("granted");
    std::fs::create_dir(&folder).unwrap();
    let turn = server.turn(&thread, &format!("perm: {}", folder.display()));
    let (id, params) = server.asked("item/permissions/requestApproval", &turn);
    assert_eq!(params["permissions"]["fileSystem"]["write"], json!([folder]));
    server.answer(&id, json!({"permissions": params["permissions"], "scope": "turn"}));
    assert_eq!(server.completed(&turn)["status"], "completed");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn a_failing_model_fails_the_turn_and_not_the_thread() {
    let codex = real_codex_or_skip!("a_failing_model_fails_the_turn_and_not_the_thread");
    let (_model, home, mut server) = servers(&codex);
    let thread = server.thread(&home, json!({}));
    let turn = server.turn(&thread, "fail: 500");
    let error = server.notified("error", &turn);
    assert_eq!(
        (&error["willRetry"], &error["error"]["codexErrorInfo"]),
        (&json!(false), &json!("internalServerError"))
    );
    let ended = server.completed(&turn);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("failed"), &error["error"]));
    assert_eq!(shape(server.seen().iter()), recorded("model-error"));
    let turn = server.turn(&thread, "cut: 2");
    assert_eq!(server.completed(&turn)["error"]["codexErrorInfo"], "other");
    let turn = server.turn(&thread, "still here");
    assert_eq!(server.completed(&turn)["items"][0]["text"], "done: still here");
    assert_eq!(server.close().code(), Some(0));
}

#[test]
fn a_second_process_resumes_the_thread_of_a_killed_one() {
    let codex = real_codex_or_skip!("a_second_process_resumes_the_thread_of_a_killed_one");
    let (_model, home, mut first) = servers(&codex);
    let thread = first.thread(&home, json!({}));
    let unused = first.thread(&home, json!({}));
    let turn = first.turn(&thread, "one");
    first.completed(&turn);
    let cut = first.turn(&thread, "slow: 100 300");
    first.notified("item/agentMessage/delta", &cut);
    let pid = first.pid();
    first.kill();

    let mut second = AppServer::start(codex.native(), &home);
    assert_ne!(second.pid(), pid);
    let error = second.request("thread/resume", json!({"threadId": unused})).unwrap_err();
    assert_eq!(error["message"], format!("no rollout found for thread id {unused}"));
    let resumed = second.request("thread/resume", json!({"threadId": thread})).unwrap();
    let turns = &resumed["thread"]["turns"];
    assert_eq!((&turns[0]["status"], &turns[1]["status"]), (&json!("completed"), &json!("interrupted")));
    let turn = second.turn(&thread, "two");
    assert_eq!(second.completed(&turn)["items"][0]["text"], "done: two");
    assert_eq!(second.close().code(), Some(0));
}

/// After a cut, codexd names the sandbox that the session was made with to an app-server that may still have the thread.
#[test]
fn a_thread_that_is_still_loaded_keeps_its_sandbox_whatever_its_resume_names() {
    let codex =
        real_codex_or_skip!("a_thread_that_is_still_loaded_keeps_its_sandbox_whatever_its_resume_names");
    let model = ModelServer::start();
    let home = CodexHome::new(&model);
    let mut server = AppServer::start(codex.native(), &home);
    let thread = server.thread(&home, json!({"sandbox": "workspace-write"}));
    let input = json!([{"type": "text", "text": "say 1 words"}]);
    let turn = json!({"threadId": thread, "input": input, "sandboxPolicy": {"type": "readOnly"}});
    let answer = server.request("turn/start", turn).unwrap();
    server.notified("turn/completed", answer["turn"]["id"].as_str().unwrap());
    let again = json!({"threadId": thread, "excludeTurns": true, "sandbox": "workspace-write"});
    assert_eq!(server.request("thread/resume", again).unwrap()["sandbox"]["type"], "readOnly");
}
