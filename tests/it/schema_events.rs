//! Whatever the app-server says, nothing of it is lost: everything that Codex's own schema names, with every value it
//! allows and with what later versions may send, through a daemon and out of its log, its pages and its next life.

use std::fmt::Write;

use codexd::model::members::{self, Members};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::recording::Recording;
use crate::schema::Protocol;
use crate::schema::generate::Generator;
use crate::talk::{completed, id, session, turn};

/// Methods that no version knows yet.
const NOVELTIES: &[&str] = &["brand/new", "", "ü/\u{1f600} \"quoted\" \\ \u{7}", "turn/completed/really"];
/// Params that are no object, and none at all.
const ODD_PARAMS: &[Option<&str>] =
    &[None, Some("null"), Some("[1,{\"a\":1e400}]"), Some("\"text\""), Some("7"), Some("{}")];

/// One line that the app-server writes.
struct Said {
    line: String,
    method: String,
    params: String,
    /// Of a request, as text.
    id: Option<String>,
}

impl Said {
    fn new(method: &str, params: Option<&str>, id: Option<String>) -> Said {
        let mut line = format!("{{\"method\":{}", json!(method));
        if let Some(id) = &id {
            write!(line, ",\"id\":{id}").unwrap();
        }
        if let Some(params) = params {
            write!(line, ",\"params\":{params}").unwrap();
        }
        line.push_str(",\"emittedAtMs\":1}");
        Said { line, method: method.to_owned(), params: params.unwrap_or("null").to_owned(), id }
    }
}

/// Everything, each request with an id of its own, which may be a number of any size or a text.
fn everything(protocol: &Protocol) -> Vec<Said> {
    let mut said = Vec::new();
    let mut generator = Generator::new(protocol);
    let odd =
        |method: &str| ODD_PARAMS.iter().map(|params| Said::new(method, *params, None)).collect::<Vec<_>>();
    for (method, schema) in &protocol.notifications {
        said.extend(generator.values(schema).iter().map(|params| Said::new(method, Some(params), None)));
        said.extend(odd(method));
        let unused = generator.unused(schema);
        assert!(unused.is_empty(), "{method}: never used were {unused:?}");
    }
    said.extend(NOVELTIES.iter().flat_map(|method| odd(method)));
    let mut asked = 0_u64;
    let mut next_id = || {
        asked += 1;
        Some(match asked % 3 {
            0 => asked.to_string(),
            1 => format!("\"id {asked}\""),
            _ => format!("90071992547409930000000000{asked}"),
        })
    };
    for (method, (schema, _)) in &protocol.requests {
        let values = generator.values(schema);
        said.extend(values.iter().map(|params| Said::new(method, Some(params), next_id())));
        said.extend(ODD_PARAMS.iter().map(|params| Said::new(method, *params, next_id())));
        let unused = generator.unused(schema);
        assert!(unused.is_empty(), "{method}: never used were {unused:?}");
    }
    said.extend(NOVELTIES.iter().map(|method| Said::new(method, Some("{\"a\":1e999}"), next_id())));
    said
}

/// An event as text.
struct Logged {
    kind: String,
    message: String,
    detail: Box<RawValue>,
}

fn logged(line: &str) -> Logged {
    let event: &RawValue =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}", short(line)));
    let members = Members::of(event).expect("an object");
    let text = |name: &str| members.text(name).expect(name).into_owned();
    Logged { kind: text("type"), message: text("message"), detail: members.get("detail").unwrap().to_owned() }
}

fn short(text: &str) -> String {
    text.chars().take(300).collect()
}

/// The same text, or the same string written with other escapes.
fn alike(one: &RawValue, other: &RawValue) -> bool {
    one.get() == other.get() || members::text(one).is_some_and(|one| Some(one) == members::text(other))
}

/// The event of what was said, and nothing of it missing.
fn check(said: &Said, event: &Logged) {
    let what = || format!("{}\nbecame {} {}", short(&said.line), event.kind, short(event.detail.get()));
    let detail = Members::of(&event.detail).unwrap_or_else(|| panic!("{}", what()));
    let params: Box<RawValue> = RawValue::from_string(said.params.clone()).unwrap();
    assert!(!event.message.is_empty() && event.message.len() < 1100, "{}", what());
    match (event.kind.as_str(), &said.id) {
        ("app-server.notification", None) => {
            assert_eq!(detail.text("notificationMethod").unwrap(), said.method, "{}", what());
            assert!(detail.get("params").unwrap().get() == said.params, "{}", what());
            let given = Members::of(&params).unwrap_or_default();
            for name in ["threadId", "turnId", "itemId"] {
                if let Some(id) = given.text(name) {
                    assert_eq!(detail.text(name), Some(id), "{}", what());
                }
            }
        }
        ("request.opened", Some(_)) => {
            assert_eq!(detail.text("method").unwrap(), said.method, "{}", what());
            // A file change's request gets the changes of its item, where they were told before.
            let asked = detail.get("params").unwrap().get();
            let more = said.params.strip_suffix('}').and_then(|open| asked.strip_prefix(open));
            let with_changes = said.method == "item/fileChange/requestApproval"
                && more.is_some_and(|more| more.starts_with(",\"changes\":[") && more.ends_with("]}"));
            assert!(asked == said.params || with_changes, "{}", what());
        }
        ("request.unsupported", Some(_)) => {
            assert_eq!(detail.text("method").unwrap(), said.method, "{}", what());
            assert!(codexd::app_server::answer::kind(&said.method).is_none(), "{}", what());
            assert!(detail.get("params").unwrap().get() == said.params, "{}", what());
        }
        (kind, None) if kind.starts_with("app-server.") => {
            for (name, value) in Members::of(&params).unwrap_or_else(|| panic!("{}", what())).iter() {
                let same = |(other, kept): (&RawValue, &RawValue)| alike(other, name) && alike(kept, value);
                assert!(detail.iter().any(same), "{} is lost\n{}", name.get(), what());
            }
        }
        _ => panic!("{}", what()),
    }
}

/// JSON without the white space between its tokens.
fn compact(json: &str) -> String {
    let (mut inside, mut escaped) = (false, false);
    let keep = |char: &char| {
        if inside {
            inside = escaped || *char != '"';
            escaped = !escaped && *char == '\\';
            return true;
        }
        inside = *char == '"';
        !char.is_ascii_whitespace()
    };
    json.chars().filter(keep).collect()
}

/// The events of the log, as text.
fn log_lines(daemon: &Daemon) -> Vec<String> {
    let text = std::fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// All events that the daemon's pages have, as text.
fn pages(daemon: &Daemon) -> Vec<String> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let answer = daemon.client().get(&format!("/v1/codexd/events?after={after}&limit=500"));
        assert_eq!(answer.status, 200, "{}", short(&answer.text()));
        let body: Box<RawValue> = RawValue::from_string(answer.text()).unwrap();
        let data = Members::of(&body).unwrap().object("data").unwrap();
        events.extend(data.list("events").unwrap().iter().map(|event| compact(event.get())));
        if data.get("more").unwrap().get() == "false" {
            return events;
        }
        after = events.len();
    }
}

/// Has the stand-in write these lines, and gives the events that they became.
fn played(daemon: &Daemon, lines: &[Said]) -> Vec<Logged> {
    let mut text = "{\"method\":\"test/begin\"}\n".to_owned();
    lines.iter().for_each(|said| writeln!(text, "{}", said.line).unwrap());
    text.push_str("{\"method\":\"test/end\"}\n");
    let file = tempfile::NamedTempFile::new_in(daemon.repo()).unwrap();
    std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).unwrap();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = session(&client, &json!({}));
    let turn = turn(&client, id(&session), &format!("play: {}", file.path().display()));
    assert_eq!(completed(&stream, &turn), "completed");
    let events: Vec<Logged> = log_lines(daemon).iter().map(|line| logged(line)).collect();
    let of = |mark: &str| {
        let is_mark = |event: &Logged| {
            event.kind == "app-server.notification"
                && Members::of(&event.detail).unwrap().text("notificationMethod").unwrap() == mark
        };
        events.iter().rposition(is_mark).unwrap_or_else(|| panic!("no event of {mark}"))
    };
    let (begin, end) = (of("test/begin"), of("test/end"));
    events.into_iter().take(end).skip(begin + 1).collect()
}

fn check_all(lines: &[Said], events: &[Logged]) {
    for (said, event) in lines.iter().zip(events) {
        check(said, event);
    }
    assert_eq!(lines.len(), events.len(), "an event for each line, and no other");
}

#[test]
fn everything_that_the_schema_names_comes_out_whole() {
    let protocol = Protocol::recorded();
    assert!(protocol.notifications.len() > 80 && protocol.requests.len() > 10, "{}", protocol.version);
    let recording = Recording::new();
    let codexd = std::path::Path::new(env!("CARGO_BIN_EXE_codexd"));
    let mut daemon = recording.of(Daemon::builder(), codexd, &["stub-app-server"]).start();
    let lines = everything(&protocol);
    check_all(&lines, &played(&daemon, &lines));

    // What nobody can answer was refused at once, and nothing else was answered.
    let answers: Vec<Value> =
        recording.lines().into_iter().filter(|line| line.get("method").is_none()).collect();
    let refused: Vec<&Said> = lines
        .iter()
        .filter(|said| said.id.is_some() && codexd::app_server::answer::kind(&said.method).is_none())
        .collect();
    assert_eq!(answers.len(), refused.len());
    for (answer, said) in answers.iter().zip(&refused) {
        assert_eq!(answer["error"]["code"], -32601, "{}", short(&said.line));
        assert_eq!(answer["id"], serde_json::from_str::<Value>(said.id.as_ref().unwrap()).unwrap());
    }
    let pending = lines.iter().filter(|said| said.id.is_some()).count() - refused.len();
    let waiting = daemon.client().get("/v1/codexd/requests?status=pending").text();
    let waiting: Box<RawValue> = RawValue::from_string(waiting).unwrap();
    let waiting = Members::of(&waiting).unwrap().object("data").unwrap().list("requests").unwrap().len();
    assert_eq!(waiting, pending);

    // Pages have what the log has, also after another start that reads it all back.
    let log = log_lines(&daemon);
    assert!(pages(&daemon) == log.iter().map(|line| compact(line)).collect::<Vec<_>>());
    daemon.restart();
    let log = log_lines(&daemon);
    assert!(pages(&daemon) == log.iter().map(|line| compact(line)).collect::<Vec<_>>());
    println!(
        "{} lines of {} notifications and {} requests of Codex {}, each whole in its event",
        lines.len(),
        protocol.notifications.len(),
        protocol.requests.len(),
        protocol.version
    );
}

#[test]
fn lines_of_20_megabytes_come_out_whole() {
    let daemon = Daemon::builder().flags(&["--max-log-bytes", "0", "--event-cache-size", "0"]).start();
    let long = "x\\n".repeat(20 * 1024 * 1024 / 3);
    let number = "7".repeat(20 * 1024 * 1024);
    let item = format!(
        r#"{{"id":"i","type":"commandExecution","command":"cargo test","aggregatedOutput":"{long}"}}"#
    );
    let lines = [
        Said::new(
            "item/agentMessage/delta",
            Some(&format!(r#"{{"threadId":"t","turnId":"u","itemId":"i","delta":"{long}"}}"#)),
            None,
        ),
        Said::new("item/completed", Some(&format!(r#"{{"threadId":"t","turnId":"u","item":{item}}}"#)), None),
        Said::new("brand/new", Some(&format!(r#"{{"threadId":"t","number":{number}}}"#)), None),
        Said::new(
            "item/commandExecution/requestApproval",
            Some(&format!(r#"{{"threadId":"t","turnId":"u","itemId":"i","command":"{long}"}}"#)),
            Some("7".to_owned()),
        ),
    ];
    check_all(&lines, &played(&daemon, &lines));
}

#[test]
fn a_loss_is_found() {
    let said = Said::new("turn/completed", Some(r#"{"threadId":"t","turn":{"id":"u"},"new":1.0}"#), None);
    let lost = |detail: &str, kind: &str| {
        let event = format!(r#"{{"type":"{kind}","message":"m","detail":{detail}}}"#);
        std::panic::catch_unwind(|| check(&said, &logged(&event))).is_err()
    };
    let (typed, plain) = ("app-server.turn.completed", "app-server.notification");
    assert!(!lost(r#"{"threadId":"t","turn":{"id":"u"},"new":1.0,"status":"x"}"#, typed));
    assert!(lost(r#"{"threadId":"t","turn":{"id":"u"},"new":1,"status":"x"}"#, typed), "a digit");
    assert!(lost(r#"{"threadId":"t","turn":{"id":"u"}}"#, typed), "a member");
    let whole = r#"{"threadId":"t","notificationMethod":"turn/completed","params":{"threadId":"t","turn":{"id":"u"},"new":1.0}}"#;
    assert!(!lost(whole, plain));
    assert!(lost(&whole.replace("1.0", "1"), plain) && lost(&whole.replacen("\"t\"", "\"s\"", 1), plain));
    assert_eq!(compact("{ \"a b\\\" c\" : [ 1 , \"\\\\\" ] }\n"), r#"{"a b\" c":[1,"\\"]}"#);
}
