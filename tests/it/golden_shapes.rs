//! Shapes and texts against what the older implementation answered, wrote and sent (tests/fixtures).
//!
//! The recorded story is told again to today's daemon and its stand-in; then every field of a fixture must be there
//! with the same JSON type, and with the same value unless it names something of the machine. Fields may be added.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli_support::fixture;
use crate::client::{Answer, Stream};
use crate::daemon::Daemon;
use crate::talk::{SESSIONS, TURN, completed, id};

/// Fields whose values belong to the machine, the moment or the app-server: only their types are compared.
const OF_THE_MACHINE: &[&str] = &[
    // Times and numbers.
    "createdAt",
    "updatedAt",
    "startedAt",
    "stoppedAt",
    "exitedAt",
    "seq",
    "pid",
    "childPid",
    "websocketClients",
    // Who and where.
    "daemonId",
    "repoRoot",
    "logsRootDir",
    "stateRootDir",
    "logsDir",
    "stateDir",
    "structuredEventLogPath",
    "stdoutLogPath",
    "stderrLogPath",
    "identityPath",
    "daemonStatePath",
    "sessionRegistryPath",
    "runRegistryPath",
    "recentEventsPath",
    "cwd",
    "childCwd",
    "configuredBaseUrl",
    "localApiBase",
    // The child and what it says of itself.
    "command",
    "args",
    "childCommand",
    "childArgs",
    "platformOs",
    "userAgent",
    "model",
    "modelProvider",
    // Corrected: the app-server's endpoint, where the fixture has the working directory; compared below.
    "endpoint",
];

/// Fields that the contract has as "or null", with the type they have otherwise: where one side is null, the other may
/// be of that type.
const OR_NULL: &[(&str, &str)] = &[
    ("version", "string"),
    ("startedAt", "string"),
    ("stoppedAt", "string"),
    ("exitedAt", "string"),
    ("updatedAt", "string"),
    ("pid", "number"),
    ("childPid", "number"),
    ("exitCode", "number"),
    ("signal", "string"),
    ("code", "number"),
    ("serviceTier", "string"),
    ("reasoningEffort", "string"),
    ("currentTurnId", "string"),
    ("lastTurnId", "string"),
    ("lastTurnStatus", "string"),
];

/// The names of the recorded story, and what they are today.
struct Names(Vec<(&'static str, String)>);

impl Names {
    /// The fixture's text with today's names in it.
    fn today(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (recorded, today)| text.replace(recorded, today))
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// 2026-03-22T15:39:28.123Z
fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == "0000-00-00T00:00:00.000Z"
}

/// What of `golden` is missing or different in `now`.
fn differences(names: &Names, path: &str, golden: &Value, now: &Value, found: &mut Vec<String>) {
    let name = path.rsplit('.').next().unwrap_or(path);
    let pair = (kind(golden), kind(now));
    if pair.0 != pair.1 {
        let other = if golden.is_null() { pair.1 } else { pair.0 };
        let free = (golden.is_null() || now.is_null()) && OR_NULL.contains(&(name, other));
        // `args` and the like are compared as a whole elsewhere; a type is a type.
        if !free {
            found.push(format!("{path}: {golden} has become {now}"));
        }
        return;
    }
    match (golden, now) {
        (Value::Object(golden), Value::Object(now)) => {
            for (key, value) in golden {
                let path = format!("{path}.{key}");
                match now.get(key) {
                    Some(now) => differences(names, &path, value, now, found),
                    None => found.push(format!("{path} is missing")),
                }
            }
        }
        // Lists of events and records are compared one by one, by those who know which belongs to which.
        (Value::Array(_), Value::Array(_)) => {}
        (Value::String(golden), Value::String(now)) => {
            let time = is_time(golden);
            if time && !is_time(now) {
                found.push(format!("{path}: {now} is no time"));
            }
            if !time && !OF_THE_MACHINE.contains(&name) && names.today(golden) != *now {
                found.push(format!("{path}: {golden:?} has become {now:?}"));
            }
        }
        _ if OF_THE_MACHINE.contains(&name) || golden == now => {}
        _ => found.push(format!("{path}: {golden} has become {now}")),
    }
}

fn assert_covers(names: &Names, what: &str, golden: &Value, now: &Value) {
    let mut found = Vec::new();
    differences(names, what, golden, now, &mut found);
    assert!(found.is_empty(), "{what}:\n{}\nnow: {now:#}", found.join("\n"));
}

fn parsed(name: &str) -> Value {
    serde_json::from_str(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn lines(name: &str) -> Vec<Value> {
    fixture(name).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// An answer in the one form that all have.
fn assert_answer(names: &Names, name: &str, status: u16, answer: &Answer) {
    assert_eq!(answer.status, status, "{name}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"), "{name}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
    let text = answer.text();
    assert!(text.starts_with("{\n  \"ok\": ") && text.ends_with("\n}\n"), "{name}: {text}");
    assert_covers(names, name, &parsed(name), &answer.json());
}

/// Every recorded event has one today that covers it, with the same message.
fn assert_events(names: &Names, what: &str, golden: &[Value], now: &[Value]) {
    for golden in golden {
        let message = names.today(golden["message"].as_str().unwrap());
        let found = now.iter().find(|event| event["type"] == golden["type"] && event["message"] == *message);
        let found = found.unwrap_or_else(|| {
            let same: Vec<_> = now.iter().filter(|event| event["type"] == golden["type"]).collect();
            panic!("{what}: no {} {message:?}; of that type: {same:#?}", golden["type"])
        });
        assert_covers(names, what, golden, found);
    }
}

/// The recorded events of a kind that is not told here: runs, the smoke test, and the lives that go with them.
fn told_elsewhere(event: &Value) -> bool {
    let kind = event["type"].as_str().unwrap();
    kind.starts_with("run.") || event["seq"].as_u64().unwrap() > 16
}

/// The story of the fixtures: a session, a turn of three words, a look at everything.
struct Story {
    daemon: Daemon,
    stream: Stream,
    hello: Value,
    created: Answer,
    accepted: Answer,
    names: Names,
}

fn story() -> Story {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    let healthz = client.get("/healthz");
    let stream = daemon.stream();
    let hello = stream.hello();
    let body = json!({"cwd": daemon.repo(), "metadata": {" source ": " fixture ", "blank": " "}});
    let created = client.post(SESSIONS, &body);
    assert_eq!(created.status, 201, "{}", created.text());
    let session = created.json()["data"]["session"].take();
    let accepted = client.post(TURN, &json!({"sessionId": id(&session), "prompt": " say 3 words "}));
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let turn = accepted.json()["data"]["turnId"].as_str().unwrap().to_owned();
    assert_eq!(completed(&stream, &turn), "completed");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let names = Names(vec![
        ("session-mwpqgany-m99ejh", text(&session["sessionId"])),
        ("thread-5758-1", text(&session["threadId"])),
        ("turn-1", turn),
        (
            "item-1",
            text(&crate::talk::find(&stream.events(), "app-server.turn.message.delta")["detail"]["itemId"]),
        ),
        ("process 5758", format!("process {}", session["childPid"])),
        ("http://127.0.0.1:4455", daemon.base().to_owned()),
        ("ws://127.0.0.1:4455", daemon.base().replace("http://", "ws://")),
    ]);
    assert_answer(&names, "http-healthz-200.json", 200, &healthz);
    Story { daemon, stream, hello, created, accepted, names }
}

#[test]
fn answers() {
    let Story { daemon, stream: _stream, created, accepted, names, .. } = story();
    let client = daemon.client();
    let endpoint = |session: &Value| assert_eq!(session["endpoint"], "stdio://codex-app-server");

    // The session's currentTurnId, lastTurnId and lastTurnStatus are null in the recorded 202: that version knew the
    // turn later. OR_NULL has them.
    assert_answer(&names, "http-post-sessions-201.json", 201, &created);
    assert_answer(&names, "http-post-turn-202.json", 202, &accepted);
    endpoint(&created.json()["data"]["session"]);

    let sessions = client.get(SESSIONS);
    assert_answer(&names, "http-get-sessions-200.json", 200, &sessions);
    let golden = parsed("http-get-sessions-200.json");
    assert_covers(
        &names,
        "sessions[0]",
        &golden["data"]["sessions"][0],
        &sessions.json()["data"]["sessions"][0],
    );
    endpoint(&sessions.json()["data"]["sessions"][0]);

    let session = client.get(&format!("{SESSIONS}/{}", id(&created.json()["data"]["session"])));
    assert_answer(&names, "http-get-session-200.json", 200, &session);
    let events = |value: &Value| value["data"]["recentEvents"].as_array().expect("recentEvents").clone();
    let now = events(&session.json());
    assert_events(&names, "recentEvents", &events(&parsed("http-get-session-200.json")), &now);
    let named = |event: &Value| event["detail"].as_object().is_some_and(|detail| !detail.is_empty());
    assert!(now.iter().all(named) && now.iter().all(|event| event["type"] != "child.started"));

    let status = client.get("/v1/codexd/status");
    assert_answer(&names, "http-get-status-200.json", 200, &status);
    let snapshot = status.json()["data"]["snapshot"].take();
    let paths = snapshot["config"]["paths"].as_object().unwrap();
    assert!(paths.values().all(|path| path.as_str().is_some_and(|path| path.starts_with('/'))), "{paths:?}");
    assert_covers(
        &names,
        "session",
        &golden["data"]["sessions"][0],
        &snapshot["sessionRegistry"]["sessions"][0],
    );

    // Corrected: the code is not_found where the fixture has bad_request.
    let unknown = client.get("/nope");
    let mut golden = parsed("http-unknown-route-404.json");
    golden["error"] = json!("not_found");
    assert_eq!((unknown.status, unknown.json()), (404, golden));
}

#[test]
fn what_the_stream_sends() {
    let Story { mut daemon, stream, hello, names, .. } = story();
    let golden = parsed("ws-hello.json");
    let mut golden_without_clients = golden.clone();
    assert_eq!(
        hello["service"]["websocketClients"],
        golden_without_clients["service"]["websocketClients"].take()
    );
    golden_without_clients["service"].as_object_mut().unwrap().remove("websocketClients");
    assert_covers(&names, "hello", &golden_without_clients, &hello);
    let events = |value: &Value| value["recentEvents"].as_array().expect("recentEvents").clone();
    assert_events(&names, "hello", &events(&golden), &events(&hello));
    assert_eq!(hello["snapshot"]["recentEvents"]["events"], hello["recentEvents"]);

    daemon.stop();
    assert_eq!(stream.close_code(), Some(1001));
    let frames = stream.frames();
    for frame in &frames[1..] {
        let keys: BTreeSet<&str> = frame.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["event", "type"]));
        assert_eq!(frame["type"], "event");
    }
    let recorded = lines("ws-events.jsonl").into_iter().map(|mut frame| frame["event"].take());
    let recorded: Vec<Value> = recorded.filter(|event| !told_elsewhere(event)).collect();
    assert!(recorded.len() >= 9, "the fixture has the turn");
    assert_events(&names, "stream", &recorded, &stream.events());
}

#[test]
fn the_log() {
    let Story { mut daemon, names, .. } = story();
    daemon.stop();
    let now = crate::talk::whole_log(&daemon);
    let recorded: Vec<Value> =
        lines("file-events.jsonl").into_iter().filter(|e| !told_elsewhere(e)).collect();
    // The recorded child died of the signal; the stand-in, as today's Codex, ends with 0 when it gets one.
    let (exited, others): (Vec<Value>, _) = recorded.into_iter().partition(|e| e["type"] == "child.exited");
    assert_eq!(exited.len(), 1);
    assert_events(&names, "events.jsonl", &others, &now);
    let mut golden = exited[0].clone();
    (golden["message"], golden["detail"]) =
        (json!("Codex child exited."), json!({"code": 0, "signal": null}));
    assert_events(&names, "events.jsonl", &[golden], &now);
    // One compact object a line, its fields in the recorded order.
    let text = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    for (line, event) in text.lines().zip(&now) {
        let places: Vec<_> = ["seq", "createdAt", "level", "type", "message", "detail"]
            .map(|key| line.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key} in {event}")))
            .into();
        assert!(
            places.is_sorted() && places[0] == 1 && is_time(event["createdAt"].as_str().unwrap()),
            "{line}"
        );
    }
}

#[test]
fn a_child_that_a_signal_ends() {
    let mut daemon = Daemon::builder().server("/bin/sleep", &["600"]).start();
    daemon.stop();
    let golden: Vec<Value> = lines("file-events.jsonl")
        .into_iter()
        .filter(|e| e["type"] == "child.exited" && !told_elsewhere(e))
        .collect();
    assert_eq!(golden.len(), 1);
    assert_events(&Names(Vec::new()), "events.jsonl", &golden, &daemon.log_events());
    let child = daemon.state_json("daemon-state.json")["child"].take();
    assert_eq!((&child["status"], &child["signal"]), (&json!("stopped"), &json!("SIGTERM")));
}

#[test]
fn state_files() {
    let Story { mut daemon, names, .. } = story();
    daemon.stop();
    for name in ["identity", "daemon-state", "session-registry", "run-registry", "recent-events"] {
        let file = format!("{name}.json");
        let text = std::fs::read_to_string(daemon.state(&file)).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_covers(&names, &file, &parsed(&format!("file-{file}")), &value);
        // Two spaces a level, a final newline; an empty object or list stays on its line.
        let depths = text.lines().map(|line| line.len() - line.trim_start().len());
        assert!(
            depths.clone().all(|depth| depth % 2 == 0) && depths.clone().any(|depth| depth == 2),
            "{file}: {text}"
        );
        assert!(text.ends_with("\n}\n") && !text.contains("\r") && !text.contains("\t"), "{file}");
        // serde_json indents by two spaces as well.
        assert_eq!(
            text.lines().count(),
            serde_json::to_string_pretty(&value).unwrap().lines().count(),
            "{file}"
        );
    }
    let registry = daemon.state_json("session-registry.json");
    let golden = parsed("file-session-registry.json")["sessions"][0].take();
    assert_covers(&names, "sessions[0]", &golden, &registry["sessions"][0]);
    let golden = parsed("file-recent-events.json")["events"].take();
    let golden: Vec<Value> = golden
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| !told_elsewhere(event) && event["type"] != "child.exited")
        .cloned()
        .collect();
    let recent = daemon.state_json("recent-events.json")["events"].take();
    assert_events(&names, "recent-events.json", &golden, recent.as_array().unwrap());
    let identity = daemon.state_json("identity.json");
    assert!(uuid::Uuid::parse_str(identity["daemonId"].as_str().unwrap()).is_ok(), "{identity}");
}

#[test]
fn the_comparison_finds_what_it_is_there_for() {
    let names = Names(vec![("turn-1", "abc".into())]);
    let golden = json!({"a": 1, "m": "turn-1 ended", "createdAt": "2026-11-21T01:32:09.472Z", "version": null, "x": null});
    let with = |key: &str, value: Value| {
        let mut now = json!({"a": 1, "m": "abc ended", "createdAt": "2026-12-01T00:00:00.000Z", "version": "1", "x": null, "new": 1});
        now[key] = value;
        let mut found = Vec::new();
        differences(&names, "", &golden, &now, &mut found);
        found.len()
    };
    assert_eq!(with("new", json!([])), 0);
    for (key, value) in [
        ("a", json!("1")),
        ("a", json!(2)),
        ("a", Value::Null),
        ("m", json!("abd ended")),
        ("createdAt", json!("2026-12-01T00:00:00Z")),
        ("version", json!(7)),
        ("x", json!("y")),
    ] {
        assert_eq!(with(key, value.clone()), 1, "{key}: {value}");
    }
    let mut found = Vec::new();
    differences(&names, "", &golden, &json!({}), &mut found);
    assert_eq!(found.len(), 5, "{found:?}");
}
