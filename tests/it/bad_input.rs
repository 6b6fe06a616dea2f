//! What is wrong in a request, and what is said to it: the statuses of the contract, the field named, nothing done.

use std::io::Write;
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Answer, Client, read_answer};
use crate::conversation::on_script;
use crate::daemon::Daemon;
use crate::talk::{SESSIONS, TURN, completed, count, id, session, whole_log};

const JSON: (&str, &str) = ("content-type", "application/json");
const LIMIT: usize = 4 * 1024 * 1024;

/// What a field of a body may be, by the contract.
#[derive(Clone, Copy)]
enum May {
    Text,
    Flag,
    Object,
    TextOrObject,
    Texts,
    Input,
}

const SESSION_FIELDS: &[(&str, May)] = &[
    ("purpose", May::Text),
    ("threadId", May::Text),
    ("cwd", May::Text),
    ("model", May::Text),
    ("modelProvider", May::Text),
    ("serviceTier", May::Text),
    ("personality", May::Text),
    ("baseInstructions", May::Text),
    ("developerInstructions", May::Text),
    ("ephemeral", May::Flag),
    ("approvalPolicy", May::TextOrObject),
    ("sandbox", May::Text),
    ("config", May::Object),
    ("metadata", May::Texts),
];

const TURN_FIELDS: &[(&str, May)] = &[
    ("sessionId", May::Text),
    ("input", May::Input),
    ("prompt", May::Input),
    ("expectedTurnId", May::Text),
    ("cwd", May::Text),
    ("model", May::Text),
    ("effort", May::Text),
    ("serviceTier", May::Text),
    ("personality", May::Text),
    ("approvalPolicy", May::TextOrObject),
    ("sandboxPolicy", May::Object),
    ("collaborationMode", May::Object),
    ("outputSchema", May::Object),
    ("summary", May::Text),
];

/// Values that the field must not have.
fn wrong(may: May) -> Vec<Value> {
    let deep = (0..150).fold(json!(1), |inner, _| json!([inner]));
    match may {
        May::Text => vec![json!(7), json!(true), json!(["x"]), json!({"x": 1})],
        May::Flag => vec![json!("true"), json!(1), json!([]), json!({})],
        May::Object => vec![json!("x"), json!(7), json!(false), json!(["x"]), json!({"x": deep})],
        May::TextOrObject => vec![json!(7), json!(true), json!(["x"]), json!({"x": deep})],
        May::Texts => vec![json!("x"), json!(7), json!(["x"]), json!({"x": 1}), json!({"x": {"y": "z"}})],
        May::Input => {
            let mut wrong = vec![json!(""), json!(" \n "), json!([]), json!({}), json!(7), json!(true)];
            wrong.extend([json!(["x"]), json!([{"type": "text"}, 7]), json!([[]]), json!([{"x": deep}])]);
            wrong
        }
    }
}

/// A failure in the one form that all have.
#[track_caller]
fn assert_error(answer: &Answer, status: u16, code: &str, names: &str) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
    let body = answer.json();
    assert_eq!((&body["ok"], &body["error"]), (&json!(false), &json!(code)), "{text}");
    let message = body["message"].as_str().expect("a message");
    assert!(message.contains(names) && !message.contains('\n'), "no {names} in {message}");
    assert!(message.len() < 400, "{message}");
}

fn post_raw(client: &Client, path: &str, body: &[u8]) -> Answer {
    client.request("POST", path, &[JSON], body)
}

#[test]
fn a_wrong_field_is_named_and_nothing_is_done() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    for (field, may) in SESSION_FIELDS {
        for value in wrong(*may) {
            let answer = client.post(SESSIONS, &json!({*field: value}));
            assert_error(&answer, 400, "bad_request", &format!("`{field}`"));
        }
        // Absent in every way: refused by nobody. No session is made, for another field is wrong.
        let empty = if matches!(may, May::Text) { json!(" ") } else { Value::Null };
        let probe = if *field == "config" { ("ephemeral", json!(1)) } else { ("config", json!(1)) };
        let answer = client.post(SESSIONS, &json!({*field: empty, probe.0: probe.1}));
        assert_error(&answer, 400, "bad_request", &format!("`{}`", probe.0));
    }
    let answer = client.post(SESSIONS, &json!({"purpose": "other"}));
    assert_error(&answer, 400, "bad_request", "\"duplex\", \"smoke\", \"worker\"");
    assert_eq!(client.get(SESSIONS).json()["data"]["sessions"], json!([]));
    daemon.stop();
    let log = whole_log(&daemon);
    assert_eq!(count(&log, "app-server.connected"), 0, "the app-server was not bothered");
}

#[test]
fn a_wrong_field_of_a_turn_is_named_and_no_turn_is_run() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = session(&client, &json!({}));
    for (field, may) in TURN_FIELDS {
        for value in wrong(*may) {
            let mut body = json!({"sessionId": id(&session), "input": "never"});
            if *field == "prompt" {
                body.as_object_mut().unwrap().remove("input");
            }
            body[*field] = value;
            assert_error(&client.post(TURN, &body), 400, "bad_request", &format!("`{field}`"));
        }
    }
    for (body, field) in [
        (json!({"input": "never"}), "sessionId"),
        (json!({"sessionId": " ", "input": "never"}), "sessionId"),
        (json!({"sessionId": null, "input": "never"}), "sessionId"),
        (json!({"sessionId": id(&session)}), "input"),
        (json!({"sessionId": id(&session), "input": null, "prompt": null}), "input"),
        (json!({"sessionId": id(&session), "prompt": " "}), "prompt"),
    ] {
        assert_error(&client.post(TURN, &body), 400, "bad_request", &format!("`{field}`"));
    }
    // Half of a surrogate pair is JSON by the grammar, and no reader takes it.
    for input in [r#""\ud83d""#, r#"[{"type":"text","text":"\ud83d"}]"#, r#"[{"x":1e999}]"#] {
        let body = format!("{{\"sessionId\":\"{}\",\"input\":{input}}}", id(&session));
        assert_error(&post_raw(&client, TURN, body.as_bytes()), 400, "bad_request", "`input`");
    }
    let stream = daemon.stream();
    // Blank is as good as not given.
    let right = json!({"sessionId": id(&session), "input": " ", "prompt": "say 2 words"});
    let accepted = client.post(TURN, &right);
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    completed(&stream, accepted.json()["data"]["turnId"].as_str().unwrap());
    daemon.stop();
    assert_eq!(count(&whole_log(&daemon), "turn.accepted"), 1, "only the right one ran");
}

/// An app-server that answers `initialize` at once, and two `thread/start` together, when both have come.
const TWO_AT_ONCE: &str = r#"
while read -r line; do
    case $line in
        *'"initialize"'*) echo '{"id":1,"result":{}}' ;;
        *'"thread/start"'*) [ "$waiting" ] && echo '{"id":2,"result":{"thread":{"id":"two"}}}' &&
            echo '{"id":3,"result":{"thread":{"id":"three"}}}'
            waiting=1 ;;
    esac
done"#;

#[test]
fn of_two_sessions_at_once_with_one_key_the_one_with_another_body_is_refused() {
    for (second, status) in [("other", 422), ("one", 200)] {
        let mut daemon = on_script(TWO_AT_ONCE, &[]).start();
        let client = daemon.client();
        let post = |model: &str| {
            let body = json!({"model": model}).to_string();
            client.request("POST", SESSIONS, &[JSON, ("idempotency-key", "key")], body.as_bytes())
        };
        let mut answers = thread::scope(|scope| {
            let one = scope.spawn(|| post("one"));
            let two = scope.spawn(|| post(second));
            [one.join().unwrap(), two.join().unwrap()]
        });
        answers.sort_by_key(|answer| answer.status != 201);
        let [made, refused] = answers;
        assert_eq!((made.status, refused.status), (201, status), "{} {}", made.text(), refused.text());
        match status {
            422 => assert_eq!(refused.json()["error"], "idempotency_mismatch"),
            _ => assert_eq!(refused.json()["data"]["session"], made.json()["data"]["session"]),
        }
        assert_eq!(count(&whole_log(&daemon), "session.created"), 1);
        daemon.stop();
    }
}

#[test]
fn unknown_ids_are_not_found() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    for path in ["session-x", "%2e%2e", "a%2Fb", "%ff", "%zz", "%", "%E2%82%AC", "session-%00"] {
        assert_error(&client.get(&format!("{SESSIONS}/{path}")), 404, "not_found", "Unknown session");
    }
    assert_error(&client.get(&format!("{SESSIONS}/a%2Fb")), 404, "not_found", "Unknown session a/b.");
    assert_error(&client.get("/v1/codexd/runs/run-x"), 404, "not_found", "run-x");
    let body = json!({"sessionId": "session-x", "input": "x"});
    assert_error(&client.post(TURN, &body), 404, "not_found", "Unknown session session-x.");
    let long = json!({"sessionId": "s".repeat(5000), "input": "x"});
    assert_error(&client.post(TURN, &long), 404, "not_found", "...");
    // A thread is the app-server's to know: it says so itself.
    let thread = "01a1fb80-7657-71b2-ac18-00d6ed8dbed5";
    let answer = client.post(SESSIONS, &json!({"threadId": thread}));
    assert_error(&answer, 502, "app_server_error", &format!("no rollout found for thread id {thread}"));
    assert_error(&answer, 502, "app_server_error", "-32600");
    let answer = client.post(SESSIONS, &json!({"threadId": "nonsense"}));
    assert_error(&answer, 502, "app_server_error", "invalid thread id");
    assert_eq!(client.get(SESSIONS).json()["data"]["sessions"], json!([]));
}

#[test]
fn a_body_must_be_a_json_object_of_the_right_kind_and_size() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    for path in [SESSIONS, TURN] {
        for body in ["{", "{\"a\":1,}", "{} {}", "{'a':1}", "nonsense", "\u{feff}{}", "{\"a\":\"\u{1}\"}"] {
            assert_error(&post_raw(&client, path, body.as_bytes()), 400, "bad_request", "JSON");
        }
        for body in ["[]", "7", "\"x\"", "null", "true"] {
            assert_error(&post_raw(&client, path, body.as_bytes()), 400, "bad_request", "JSON object");
        }
        for body in ["", " ", "\n\t"] {
            assert_error(&post_raw(&client, path, body.as_bytes()), 400, "bad_request", "empty");
        }
        assert_error(&post_raw(&client, path, b"{\"a\":\"\xff\"}"), 400, "bad_request", "UTF-8");

        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ""] {
            let answer = client.request("POST", path, &[("content-type", kind)], b"{}");
            assert_error(&answer, 415, "unsupported_media_type", "application/json");
        }
        let answer = client.request("POST", path, &[], b"{}");
        assert_error(&answer, 415, "unsupported_media_type", "application/json");

        // One byte more than is taken, announced or in pieces; nothing of it need be sent for the answer.
        let length = (LIMIT + 1).to_string();
        let mut stream = client.connect();
        let host = daemon.base().trim_start_matches("http://");
        write!(stream, "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream, Instant::now() + DEADLINE, false);
        assert_error(&answer, 413, "payload_too_large", "");
        let chunk = [b"400001\r\n".as_slice(), &vec![b' '; LIMIT + 1], b"\r\n0\r\n\r\n"].concat();
        let headers = [JSON, ("transfer-encoding", "chunked"), ("content-length", "0")];
        // Both framings at once are refused before anything is read.
        assert_error(&client.request("POST", path, &headers, b""), 400, "bad_request", "Transfer-Encoding");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        assert_error(&client.raw(&[head.as_bytes(), &chunk].concat()), 413, "payload_too_large", "");
    }
    // The largest body there may be, with a field nobody knows.
    let mut body = br#"{"unknown":""#.to_vec();
    body.resize(LIMIT - 2, b'x');
    body.extend(b"\"}");
    assert_eq!(body.len(), LIMIT);
    assert_eq!(post_raw(&client, SESSIONS, &body).status, 201);
    assert_error(&post_raw(&client, TURN, &body), 400, "bad_request", "`sessionId`");
}

#[test]
fn routes_and_methods() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = session(&client, &json!({}));
    for (method, path) in [
        ("GET", "/page"),
        ("GET", "/nope"),
        ("GET", "/v1/codexd"),
        ("GET", "/v1/codexd/sessions/a/b"),
        ("GET", "/v1/codexd//sessions"),
        ("GET", "//v1/codexd/sessions"),
        ("GET", "/V1/codexd/sessions"),
        ("GET", "/healthz/x"),
        ("DELETE", "/nope"),
        ("POST", "/v1/codexd/sessions/x/nope"),
    ] {
        let message = format!("Unknown codexd route {method} {path}.");
        assert_error(&client.request(method, path, &[JSON], b""), 404, "not_found", &message);
    }
    let one = format!("{SESSIONS}/{}", id(&session));
    for (path, allowed) in [
        ("/healthz", &["GET", "HEAD"][..]),
        ("/v1/codexd/status", &["GET", "HEAD"]),
        (SESSIONS, &["GET", "HEAD", "POST"]),
        ("/v1/codexd/runs", &["GET", "HEAD", "POST"]),
        (&one, &["GET", "HEAD"]),
        (TURN, &["POST"]),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            if allowed.contains(&method) {
                continue;
            }
            let answer = client.request(method, path, &[], b"");
            assert_eq!(answer.status, 405, "{method} {path}");
            let mut given: Vec<&str> = answer.header("allow").expect("Allow").split(", ").collect();
            given.sort_unstable();
            assert_eq!(given, allowed, "{method} {path}");
            if method != "HEAD" {
                assert_error(&answer, 405, "method_not_allowed", "");
            }
        }
    }
}

#[test]
fn a_trailing_slash_a_head_and_an_encoded_id_make_no_difference() {
    let daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let created = client.post(&format!("{SESSIONS}/"), &json!({}));
    assert_eq!(created.status, 201);
    // The last that is told of it: from here on the status stays as it is.
    stream.wait_for_type("app-server.thread.started");
    let session = created.json()["data"]["session"].take();
    let encoded: String = id(&session).bytes().map(|byte| format!("%{byte:02X}")).collect();
    let one = format!("{SESSIONS}/{}", id(&session));
    for path in ["/healthz", "/v1/codexd/status", SESSIONS, &one] {
        let answer = client.get(path);
        assert_eq!(answer.status, 200, "{path}");
        let same = |other: &Answer| {
            assert_eq!((other.status, &other.body), (200, &answer.body), "{path}");
        };
        same(&client.get(&format!("{path}/")));
        same(&client.get(&format!("{path}?unknown=1")));
        let head = client.request("HEAD", path, &[], b"");
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), answer.header(name), "HEAD {path}: {name}");
        }
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
    }
    let answer = client.get(&format!("{SESSIONS}/{encoded}"));
    assert_eq!((answer.status, answer.body), (200, client.get(&one).body));
    let head = client.request("HEAD", &format!("{SESSIONS}/nope"), &[], b"");
    assert_eq!((head.status, head.body.len()), (404, 0));

    let stream = daemon.stream();
    let body = json!({"sessionId": format!(" {} ", id(&session)), "input": " say 1 words "});
    let answer = client.post(&format!("{TURN}/"), &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(completed(&stream, answer.json()["data"]["turnId"].as_str().unwrap()), "completed");
}

#[test]
fn a_closed_session_takes_no_turn() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = session(&client, &json!({}));
    let closed = client.post(&format!("{SESSIONS}/{}/close", id(&session)), &json!({}));
    assert_eq!((closed.status, &closed.json()["data"]["session"]["status"]), (200, &json!("closed")));
    let body = json!({"sessionId": id(&session), "input": "never"});
    assert_error(&client.post(TURN, &body), 409, "conflict", "is closed");
    daemon.stop();
    assert_eq!(count(&whole_log(&daemon), "turn.accepted"), 0);
}
