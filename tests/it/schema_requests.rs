//! What codexd says to an app-server is what Codex's schema wants: every request, every answer to every request of Codex.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use codexd::app_server::needs;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::inbox_support::Bench;
use crate::recording::Recording;
use crate::schema::Protocol;
use crate::schema::generate::Generator;

/// What is wrong with the lines that codexd sent, by that version's schema. `asked`: the methods of the app-server's
/// requests by their ids, for the answers.
pub(crate) fn problems(protocol: &Protocol, lines: &[Value], asked: &[(Value, String)]) -> Vec<String> {
    let mut problems = Vec::new();
    for line in lines {
        let (schema, value, what) = match (line["method"].as_str(), line.get("id")) {
            (Some(method), Some(_)) => match protocol.calls.get(method) {
                Some(schema) => (schema, &line["params"], method.to_owned()),
                None => {
                    problems.push(format!("{method} is not known"));
                    continue;
                }
            },
            (Some(method), None) => {
                if !protocol.tellings.contains(method) {
                    problems.push(format!("{method} is not known"));
                }
                continue;
            }
            // An error is one in any protocol.
            (None, _) if line.get("error").is_some() => continue,
            (None, id) => {
                let method = asked.iter().find(|(asked, _)| Some(asked) == id).map(|(_, method)| method);
                let method = method.unwrap_or_else(|| panic!("an answer to nothing: {line}"));
                (&protocol.requests[method].1, &line["result"], format!("the answer to {method}"))
            }
        };
        let findings = protocol.check(schema, value);
        problems.extend(findings.wrong.iter().map(|problem| format!("{what}: {problem}: {line}")));
        problems.extend(findings.unknown.iter().map(|name| format!("{what}: {name} is passed over: {line}")));
    }
    problems
}

/// Every request that codexd sends is in its table of needs, with the params that the table promises.
pub(crate) fn check_needs(lines: &[Value]) -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for line in lines.iter().filter(|line| line.get("id").is_some()) {
        let Some(method) = line["method"].as_str() else { continue };
        let need = needs::request(method).unwrap_or_else(|| panic!("{method} is not in needs::REQUESTS"));
        for name in need.always {
            assert!(line["params"].get(name).is_some(), "{method} without {name}: {line}");
        }
        seen.insert(need.method);
    }
    seen
}

/// The stand-in, recorded.
fn recorded(recording: &Recording, flags: &[&str]) -> Bench {
    let codexd = Path::new(env!("CARGO_BIN_EXE_codexd"));
    Bench::with(recording.of(Daemon::builder(), codexd, &["stub-app-server", "threads"]).flags(flags))
}

#[test]
fn every_request_of_codexd_fits_the_schema() {
    let (protocol, recording) = (Protocol::recorded(), Recording::new());
    let mut bench = recorded(&recording, &[]);
    // Every field that is passed on, with a value that fits.
    let thread = json!({"cwd": bench.daemon.repo(), "model": "m", "modelProvider": "p", "serviceTier": "fast",
        "personality": "friendly", "baseInstructions": "b", "developerInstructions": "d", "ephemeral": false,
        "approvalPolicy": "on-request", "sandbox": "read-only", "config": {"a.b": [1]}});
    let session = bench.session(thread);
    let turn = json!({"sessionId": session, "input": "say 1 words", "cwd": "/", "model": "m", "effort": "low",
        "serviceTier": "fast", "personality": "pragmatic", "approvalPolicy": "never",
        "sandboxPolicy": {"type": "dangerFullAccess"}, "outputSchema": {"type": "object"}, "summary": "auto",
        "collaborationMode": {"mode": "plan", "settings": {"model": "m", "reasoning_effort": null,
            "developer_instructions": null}}});
    let answer = bench.client.post("/v1/codexd/turn", &turn);
    assert_eq!(answer.status, 202, "{}", answer.text());
    bench.ended(answer.json()["data"]["turnId"].as_str().unwrap());
    bench.session(json!({"approvalPolicy": {"granular": {"sandbox_approval": true, "rules": true,
        "mcp_elicitations": true, "request_permissions": true, "skill_approval": true}}}));
    // Items as a client may give them, a steer, an interrupt.
    let items = json!([{"type": "text", "text": "hang:", "text_elements": []}, {"type": "image", "url": "data:,"},
        {"type": "localImage", "path": "/a.png"}, {"type": "skill", "name": "s", "path": "/s"}]);
    let hangs = bench.client.post("/v1/codexd/turn", &json!({"sessionId": session, "input": items}));
    let hangs = hangs.json()["data"]["turnId"].as_str().unwrap().to_owned();
    bench.event("app-server.turn.started", |detail| detail["turnId"] == hangs);
    let steer = json!({"sessionId": session, "input": "hang:", "expectedTurnId": hangs});
    assert_eq!(bench.client.post("/v1/codexd/turn", &steer).status, 202);
    assert_eq!(bench.act(&session, "interrupt").status, 202);
    bench.ended(&hangs);
    // Another life: the thread is resumed; a client resumes one too.
    let record = bench.session_record(&session);
    bench.daemon.restart();
    bench.reopen();
    bench.ended(&bench.turn(&session, "say 1 words"));
    bench.act(&session, "close");
    let resume = json!({"threadId": record["threadId"], "cwd": "/", "personality": "none"});
    assert_eq!(bench.client.post("/v1/codexd/sessions", &resume).status, 201);
    // A turn that was on its way when the app-server died: whether it was taken is asked before it is sent again.
    let session = session_of(&bench, &record);
    bench.ended(&bench.turn(&session, "mute:"));
    let completed = "app-server.turn.completed";
    let of_before = bench.stream.events().into_iter().filter(|event| event["type"] == completed);
    let of_before: Vec<Value> = of_before.map(|mut event| event["detail"]["turnId"].take()).collect();
    let client = bench.client.clone();
    let ask = move || client.post("/v1/codexd/turn", &json!({"sessionId": session, "input": "say 1 words"}));
    let asks = std::thread::Builder::new().name("asks".into()).spawn(ask).unwrap();
    bench.event(completed, |detail| !of_before.contains(&detail["turnId"]));
    for (pid, _) in bench.daemon.descendants() {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    // It was: only its answer was lost.
    let answer = asks.join().unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    bench.daemon.stop();

    let lines = recording.lines();
    let expected: BTreeSet<&str> = needs::REQUESTS.iter().map(|need| need.method).collect();
    assert_eq!(check_needs(&lines), expected, "the table is what is really sent");
    let problems = problems(&protocol, &lines, &[]);
    assert!(problems.is_empty(), "{problems:#?}");
}

/// The active session on that record's thread.
fn session_of(bench: &Bench, record: &Value) -> String {
    let sessions = bench.client.get("/v1/codexd/sessions?status=active").json();
    let sessions = sessions["data"]["sessions"].as_array().unwrap().clone();
    let found = sessions.iter().find(|session| session["threadId"] == record["threadId"]).unwrap();
    found["sessionId"].as_str().unwrap().to_owned()
}

/// What a client may say to a request of that kind.
fn proposals(request: &Value) -> Vec<Value> {
    let decisions = |words: &[&str]| words.iter().map(|word| json!({"decision": word})).collect::<Vec<_>>();
    let all = ["accept", "acceptForSession", "decline", "cancel"];
    match (request["kind"].as_str().unwrap(), request["method"].as_str().unwrap()) {
        ("command", "execCommandApproval") | ("fileChange", _) => decisions(&all),
        ("command", _) => {
            let amendment = json!({"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["a", "b"]}});
            let rule = json!({"network_policy_amendment": {"action": "deny", "host": "h"}});
            let mut proposals = decisions(&all);
            proposals.push(json!({"decision": amendment}));
            proposals.push(json!({"decision": {"applyNetworkPolicyAmendment": rule}}));
            proposals
        }
        ("permissions", _) => decisions(&all[..3]),
        ("userInput", _) => {
            let mut proposals = decisions(&["decline"]);
            let questions = request["params"]["questions"].as_array().cloned().unwrap_or_default();
            let ids = questions.iter().filter_map(|question| question["id"].as_str());
            for answer in [json!("one"), json!(["one", "two"]), json!({"answers": ["one"]})] {
                let answers: Value = ids.clone().map(|id| (id.to_owned(), answer.clone())).collect();
                proposals.push(json!({"answers": answers}));
            }
            proposals
        }
        ("elicitation", _) => {
            let mut proposals = decisions(&["accept", "decline", "cancel"]);
            proposals.push(json!({"answers": {"name": "value"}}));
            proposals
        }
        ("toolCall", _) => decisions(&["decline"]),
        (kind, method) => panic!("no proposals for {kind} {method}"),
    }
}

#[test]
fn every_answer_of_codexd_fits_the_schema() {
    let (protocol, recording) = (Protocol::recorded(), Recording::new());
    // Some at the deadline, some by the policy, some from clients.
    let bench = recorded(&recording, &[]);
    let mut generator = Generator::new(&protocol);
    let (mut script, mut asked) = (String::new(), Vec::new());
    for (method, (schema, _)) in
        protocol.requests.iter().filter(|(method, _)| codexd::app_server::answer::kind(method).is_some())
    {
        // Only what fits the schema: an answer to anything else may be anything. Each value as often as there are ways
        // to answer it.
        let values = generator.values(schema);
        let fits = |text: &&String| {
            serde_json::from_str(text)
                .is_ok_and(|value: Value| protocol.check(schema, &value).wrong.is_empty())
        };
        let fitting: Vec<&String> = values.iter().filter(fits).collect();
        assert!(fitting.len() > 1, "{method}: {} of {} values fit", fitting.len(), values.len());
        for value in fitting.iter().flat_map(|value| std::iter::repeat_n(value, 6)) {
            let id = json!(format!("ask {}", asked.len()));
            writeln!(
                script,
                "{}",
                json!({"id": id, "method": method, "params": serde_json::from_str::<Value>(value).unwrap()})
            )
            .unwrap();
            asked.push((id, method.clone()));
        }
    }
    let file = tempfile::NamedTempFile::new_in(bench.daemon.repo()).unwrap();
    std::io::Write::write_all(&mut file.as_file(), script.as_bytes()).unwrap();
    let session = bench.session(json!({}));
    let turn = bench.turn(&session, &format!("play: {}", file.path().display()));
    bench.ended(&turn);
    let requests = bench.requests("?status=pending");
    assert_eq!(requests.len(), asked.len());
    let mut answered = BTreeSet::new();
    for (number, request) in requests.iter().enumerate() {
        let proposals = proposals(request);
        let way = number % proposals.len();
        bench.answered(request, proposals[way].clone());
        answered.insert((request["method"].to_string(), way));
    }
    for request in &requests {
        let ways = proposals(request).len();
        let method = request["method"].to_string();
        let used = answered.iter().filter(|(answered, _)| *answered == method).count();
        assert_eq!(used, ways, "{}: not every way was used", request["method"]);
    }
    bench.ended(&bench.turn(&session, "say 1 words"));
    let lines = recording.lines();
    assert_eq!(lines.iter().filter(|line| line.get("result").is_some()).count(), asked.len());
    let problems = problems(&protocol, &lines, &asked);
    assert!(problems.is_empty(), "{problems:#?}");
    println!(
        "{} answers in {} ways fit the schema of Codex {}",
        asked.len(),
        answered.len(),
        protocol.version
    );
}

#[test]
fn a_request_that_does_not_fit_is_found() {
    let protocol = Protocol::recorded();
    let problems = |line: Value| {
        problems(&protocol, &[line], &[(json!(0), "item/fileChange/requestApproval".to_owned())]).len()
    };
    assert_eq!(
        problems(json!({"id": 1, "method": "turn/interrupt", "params": {"threadId": "t", "turnId": "u"}})),
        0
    );
    assert_eq!(problems(json!({"id": 1, "method": "turn/interrupt", "params": {"threadId": "t"}})), 1);
    assert_eq!(
        problems(json!({"id": 1, "method": "turn/interrupt", "params": {"threadId": "t", "turnId": 7}})),
        1
    );
    assert_eq!(
        problems(
            json!({"id": 1, "method": "turn/interrupt", "params": {"threadId": "t", "turnId": "u", "x": 1}})
        ),
        1
    );
    assert_eq!(problems(json!({"id": 1, "method": "turn/begin", "params": {}})), 1);
    assert_eq!(problems(json!({"method": "initialised"})), 1);
    assert_eq!(problems(json!({"id": 0, "result": {"decision": "accept"}})), 0);
    assert_eq!(problems(json!({"id": 0, "result": {"decision": "yes"}})), 1);
}
