//! What is tried with each version. A scenario that cannot go on panics; what it finds wanting it returns.

use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::inbox_support::{self, text};
use crate::model_server::ModelServer;
use crate::real_codex::{CodexHome, RealCodex};
use crate::recording::Recording;
use crate::run_bench;
use crate::schema::Protocol;
use crate::schema_requests::{check_needs, problems};

/// A version with a home, a model behind it, and what the daemon says to it on record.
pub(crate) struct Trial<'a> {
    codex: &'a RealCodex,
    protocol: &'a Result<Protocol, String>,
    model: ModelServer,
    home: CodexHome,
    recording: Recording,
}

impl<'a> Trial<'a> {
    pub(crate) fn new(codex: &'a RealCodex, protocol: &'a Result<Protocol, String>) -> Trial<'a> {
        let model = ModelServer::start();
        let home = CodexHome::new(&model);
        Trial { codex, protocol, model, home, recording: Recording::new() }
    }

    /// A daemon with this Codex as its app-server, recorded.
    fn bench(&self) -> inbox_support::Bench {
        let builder = Daemon::builder().codex(self.codex.native(), &self.home);
        let builder = self.recording.of(builder, self.codex.native(), &["app-server"]);
        inbox_support::Bench::with(builder.flags(&["--app-server-timeout-ms", "10000"]))
    }

    fn session(&self, bench: &inbox_support::Bench, mut more: Value) -> String {
        more["cwd"] = json!(self.home.work());
        bench.session(more)
    }

    /// Whether the model is offered that tool; a version that has none cannot ask what belongs to it.
    fn offers(&self, tool: &str) -> bool {
        let requests = self.model.requests();
        let names = |request: &Value| {
            request["tools"].as_array().is_some_and(|tools| tools.iter().any(|has| has["name"] == tool))
        };
        requests.last().is_some_and(names)
    }
}

/// A session, turns, a failure of the model, and a turn after it.
pub(crate) fn turns(trial: &Trial<'_>) -> Vec<String> {
    let bench = trial.bench();
    let session = trial.session(&bench, json!({"metadata": {"a": "b"}}));
    for n in [5, 500] {
        let turn = bench.turn(&session, &format!("say {n} words"));
        assert_eq!(bench.ended(&turn), "completed");
        assert_eq!(bench.said(&turn), (0..n).map(|at| format!("word{at} ")).collect::<String>());
    }
    let failed = bench.turn(&session, "fail: 500");
    assert_eq!(bench.ended(&failed), "failed");
    bench.event("app-server.turn.error", |detail| detail["turnId"] == failed);
    assert_eq!(bench.ended(&bench.turn(&session, "still there")), "completed");
    let record = bench.session_record(&session);
    assert_eq!((&record["lastTurnStatus"], &record["currentTurnId"]), (&json!("completed"), &Value::Null));
    let mut wanting = Vec::new();
    for name in ["model", "modelProvider", "cwd"] {
        if record[name].is_null() {
            wanting.push(format!("the session's {name} is not told"));
        }
    }
    let usage = |event: &Value| event["detail"]["notificationMethod"] == "thread/tokenUsage/updated";
    if !bench.stream.events().iter().any(usage) {
        wanting.push("no token usage".to_owned());
    }
    wanting
}

/// Input for a running turn, and its end by order.
pub(crate) fn steer_and_interrupt(trial: &Trial<'_>) -> Vec<String> {
    let bench = trial.bench();
    let session = trial.session(&bench, json!({}));
    let turn = bench.turn(&session, "slow: 50 100");
    bench.event("app-server.turn.message.delta", |detail| detail["turnId"] == turn);
    let steer = json!({"sessionId": session, "input": "say 2 words", "expectedTurnId": turn});
    let answer = bench.client.post("/v1/codexd/turn", &steer);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(bench.ended(&turn), "completed");
    trial.model.wait_for_prompt("say 2 words", crate::DEADLINE);
    let late = bench.client.post("/v1/codexd/turn", &steer);
    let mut wanting = Vec::new();
    if late.status != 409 {
        wanting.push(format!("a steer that comes too late is {}", late.status));
    }
    // Input that names no turn goes to the one that runs, and leaves none behind.
    let turn = bench.turn(&session, "slow: 50 100");
    bench.event("app-server.turn.message.delta", |detail| detail["turnId"] == turn);
    let joined = bench.post_turn(&session, "say 3 words");
    assert_eq!((&joined["steered"], &joined["turnId"]), (&json!(true), &json!(turn)));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(bench.session_record(&session)["currentTurnId"], Value::Null);
    // At once, before the turn has begun; more than once, as it takes Codex a varying time.
    for _ in 0..5 {
        let turn = bench.turn(&session, "slow: 100 300");
        let answer = bench.act(&session, "interrupt");
        assert_eq!(answer.status, 202, "{}", answer.text());
        assert_eq!(bench.ended(&turn), "interrupted");
    }
    wanting
}

/// Another life of the daemon, and one of the app-server: sessions go on with what was said before, and with what was
/// allowed.
pub(crate) fn restart_and_crash(trial: &Trial<'_>) -> Vec<String> {
    let mut bench = trial.bench();
    let allowed = json!({"approvalPolicy": "never", "sandbox": "danger-full-access"});
    let session = trial.session(&bench, allowed);
    let thread = bench.session_record(&session)["threadId"].clone();
    assert_eq!(bench.ended(&bench.turn(&session, "first of all")), "completed");
    bench.daemon.restart();
    bench.reopen();
    assert_eq!(bench.ended(&bench.turn(&session, "second of all")), "completed");
    let told = trial.model.wait_for_prompt("second of all", crate::DEADLINE)["input"].to_string();
    assert!(told.contains("first of all"), "the model is not told what was said before");
    let turn = bench.turn(&session, "slow: 100 300");
    bench.event("app-server.turn.message.delta", |detail| detail["turnId"] == turn);
    for (pid, _) in bench.daemon.descendants() {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    bench.event("app-server.turn.completed.missing", |detail| detail["turnId"] == turn);
    bench.event("session.recovered", |detail| detail["replacedThreadId"].is_null());
    let mark = trial.home.outside("made-after-the-crash");
    let turn = bench.turn(&session, &format!("plainrun: touch {}", mark.display()));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(mark.exists(), "after a crash the session may do less than before");
    assert_eq!(bench.session_record(&session)["threadId"], thread);
    Vec::new()
}

/// Commands that are accepted, declined and cancelled.
pub(crate) fn approvals(trial: &Trial<'_>) -> Vec<String> {
    let bench = trial.bench();
    let session = trial.session(&bench, json!({}));
    let made = |file: &str| trial.home.work().join(file).exists();
    for (decision, status) in [("accept", "completed"), ("decline", "completed"), ("cancel", "interrupted")] {
        let turn = bench.turn(&session, &format!("run: touch {decision}"));
        let request = bench.opened(&turn);
        assert_eq!((&request["kind"], &request["status"]), (&json!("command"), &json!("pending")));
        assert!(!made(decision), "it ran without approval");
        bench.answered(&request, json!({ "decision": decision }));
        assert_eq!(bench.ended(&turn), status, "{decision}");
        assert_eq!(made(decision), decision == "accept", "{decision}");
    }
    fits(trial, &bench)
}

/// Models that some version offers apply_patch.
const PATCHING: &[&str] =
    &[crate::real_codex::MODEL, "gpt-5.2-codex", "gpt-5.1-codex", "gpt-5-codex", "gpt-5"];

/// A patch outside of what may be written, with its changes in the request.
pub(crate) fn file_changes(trial: &Trial<'_>) -> Vec<String> {
    let bench = trial.bench();
    let with = |model: &&&str| {
        let session = trial.session(&bench, json!({"sandbox": "workspace-write", "model": model}));
        assert_eq!(bench.ended(&bench.turn(&session, "say 1 words")), "completed");
        trial.offers("apply_patch").then_some(session)
    };
    let Some(session) = PATCHING.iter().find_map(|model| with(&model)) else {
        return vec!["no model is offered apply_patch".to_owned()];
    };
    let outside = trial.home.outside("outside.txt");
    let prompt = format!("patch: {} hello", outside.display());
    let turn = bench.turn(&session, &prompt);
    let request = asked_in(&bench, &turn).unwrap_or_else(|said| panic!("the model is told: {said}"));
    assert_eq!(request["kind"], "fileChange");
    let change = &request["params"]["changes"][0];
    let mut wanting = Vec::new();
    if change["path"] != json!(outside) || !change["diff"].as_str().is_some_and(|diff| diff.contains("hello"))
    {
        wanting.push("the request is without its changes".to_owned());
    }
    bench.answered(&request, json!({"decision": "decline"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(!outside.exists());
    let turn = bench.turn(&session, &prompt);
    bench.answered(&bench.opened(&turn), json!({"decision": "accept"}));
    assert_eq!(bench.ended(&turn), "completed");
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "hello\n");
    wanting.extend(fits(trial, &bench));
    wanting
}

/// What is asked in the turn; if it ends without, what the model was told.
fn asked_in(bench: &inbox_support::Bench, turn: &str) -> Result<Value, String> {
    let kinds = ["request.opened", "app-server.turn.completed"];
    let either =
        |event: &Value| kinds.iter().any(|kind| event["type"] == *kind) && event["detail"]["turnId"] == turn;
    let event = bench.stream.wait_for(either, crate::DEADLINE);
    match event["type"] == kinds[0] {
        true => Ok(event["detail"]["record"].clone()),
        false => Err(bench.said(turn)),
    }
}

/// Questions of the model and its wish for permissions.
pub(crate) fn questions_and_permissions(trial: &Trial<'_>) -> Vec<String> {
    let bench = trial.bench();
    let session = trial.session(&bench, json!({}));
    assert_eq!(bench.ended(&bench.turn(&session, "say 1 words")), "completed");
    let mut wanting = Vec::new();
    if trial.offers("request_user_input") {
        let turn = bench.turn(&session, "ask: Continue?");
        match asked_in(&bench, &turn) {
            Ok(request) => {
                assert_eq!(request["kind"], "userInput");
                bench.answered(&request, json!({"answers": {"q1": "No"}}));
                assert_eq!(bench.ended(&turn), "completed");
                assert!(bench.said(&turn).contains("No"), "{}", bench.said(&turn));
            }
            Err(said) => wanting.push(format!("a question of the model is answered with: {said}")),
        }
    } else {
        wanting.push("the model is not offered to ask questions".to_owned());
    }
    if trial.offers("request_permissions") {
        let folder = trial.home.outside("granted");
        std::fs::create_dir(&folder).unwrap();
        let turn = bench.turn(&session, &format!("perm: {}", folder.display()));
        let request = asked_in(&bench, &turn).unwrap_or_else(|said| panic!("the model is told: {said}"));
        assert_eq!(request["kind"], "permissions");
        bench.answered(&request, json!({"decision": "accept"}));
        assert_eq!(bench.ended(&turn), "completed");
        assert!(bench.said(&turn).contains(&folder.display().to_string()), "{}", bench.said(&turn));
    } else {
        wanting.push("the model is not offered to ask for permissions".to_owned());
    }
    wanting.extend(fits(trial, &bench));
    wanting
}

/// One-shot runs: text, JSON, a schema for the answer, a failure, a cancelled one.
pub(crate) fn runs(trial: &Trial<'_>) -> Vec<String> {
    let builder =
        trial.home.env().iter().fold(Daemon::builder(), |builder, (name, value)| builder.env(name, value));
    let bench = run_bench::Bench::real(trial.codex.native(), builder);
    let body = |prompt: &str| json!({"prompt": prompt, "cwd": trial.home.work(), "skipGitRepoCheck": true, "sandbox": "read-only"});
    let record = bench.run(&body("say 3 words"));
    assert_eq!((&record["status"], &record["summary"]), (&json!("completed"), &json!("word0 word1 word2 ")));
    assert_eq!(bench.run(&body("-- help"))["summary"], "done: -- help");
    let mut with_json = body("say 3 words");
    with_json["json"] = json!(true);
    let record = bench.run(&with_json);
    let events = record["result"]["result"]["jsonEvents"].as_array().cloned().unwrap_or_default();
    assert!(events.iter().any(|event| event["type"] == "turn.completed"), "{record}");
    let mut with_schema = body("{\"answer\":\"yes\"}");
    with_schema["outputSchema"] = json!({"type": "object", "properties": {"answer": {"type": "string"}},
        "required": ["answer"], "additionalProperties": false});
    assert_eq!(bench.run(&with_schema)["status"], "completed");
    bench.run_fails(&body("fail: 500"), "CODEX_EXEC_EXIT_NON_ZERO");
    let long = bench.begin(&body("slow: 100 300"));
    trial.model.wait_for_prompt("slow: 100 300", crate::DEADLINE);
    assert_eq!(bench.cancel(&long).status, 202);
    run_bench::assert_failed(&bench.wait_end(&long), "CODEX_EXEC_CANCELLED");
    Vec::new()
}

/// What is sent to this version, by its own schema; and what it has of what codexd needs.
pub(crate) fn schema(trial: &Trial<'_>) -> Vec<String> {
    let protocol = trial.protocol.as_ref().unwrap_or_else(|error| panic!("no schema: {error}"));
    let mut bench = trial.bench();
    let session = trial.session(
        &bench,
        json!({"model": crate::real_codex::MODEL, "personality": "pragmatic", "developerInstructions": "d",
            "approvalPolicy": "on-request", "sandbox": "read-only", "config": {"model_verbosity": "low"}}),
    );
    let turn = bench.turn(&session, "slow: 30 100");
    bench.event("app-server.turn.started", |detail| detail["turnId"] == turn);
    let steer = json!({"sessionId": session, "input": "slow: 30 100", "expectedTurnId": turn});
    bench.client.post("/v1/codexd/turn", &steer);
    bench.act(&session, "interrupt");
    bench.ended(&turn);
    let turn = json!({"sessionId": session, "input": "say 1 words", "effort": "low", "summary": "auto",
        "outputSchema": {"type": "object"}, "sandboxPolicy": {"type": "dangerFullAccess"}, "personality": "none"});
    let answer = bench.client.post("/v1/codexd/turn", &turn);
    assert_eq!(answer.status, 202, "{}", answer.text());
    bench.ended(answer.json()["data"]["turnId"].as_str().unwrap());
    bench.daemon.restart();
    bench.reopen();
    bench.ended(&bench.turn(&session, "say 1 words"));
    check_needs(&trial.recording.lines());
    let missing =
        codexd::app_server::needs::REQUESTS.iter().filter(|need| !protocol.calls.contains_key(need.method));
    let mut wanting: Vec<String> =
        missing.map(|need| format!("{} is not known: {}", need.method, need.without)).collect();
    wanting.extend(fits(trial, &bench));
    wanting
}

/// What is wrong with what was sent, by the version's own schema, each once; the parts that vary are left out.
fn fits(trial: &Trial<'_>, bench: &inbox_support::Bench) -> Vec<String> {
    let Ok(protocol) = trial.protocol else { return Vec::new() };
    let asked = asked(&bench.daemon.log("stdout.log"));
    let mut found = problems(protocol, &trial.recording.lines(), &asked);
    for problem in &mut found {
        problem.truncate(problem.find(": {").unwrap_or(problem.len()));
    }
    found.sort();
    found.dedup();
    found
}

/// The requests of the app-server, by their ids.
fn asked(stdout: &Path) -> Vec<(Value, String)> {
    let lines = std::fs::read_to_string(stdout).unwrap();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let requests = lines.filter(|line| line["method"].is_string() && line.get("id").is_some());
    requests.map(|line| (line["id"].clone(), text(&line["method"]))).collect()
}
