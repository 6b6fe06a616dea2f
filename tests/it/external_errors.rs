//! What can be wrong between codexd and an external app-server: each fault has a text that says what to check, and
//! nothing hangs. With fakes, since the real one commits none of these.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;

use crate::DEADLINE;
use crate::client::Answer;
use crate::conversation::{child, until};
use crate::daemon::Daemon;
use crate::external::external;
use crate::fake_app_server::{Fake, THREAD, completed, delta, send_in_pieces};
use crate::relay::Relay;

/// A port on which every connection is given these bytes once it has asked something, and is then closed.
pub(crate) fn answering(bytes: &'static [u8]) -> String {
    listening(move |mut stream| {
        let mut asked = [0; 4096];
        if matches!(stream.read(&mut asked), Ok(1..)) {
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while let Ok(1..) = stream.read(&mut asked) {}
        }
    })
}

/// A port on which `serve` gets every connection; its thread ends with the test program.
pub(crate) fn listening(serve: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    let accept = move || listener.incoming().map_while(Result::ok).for_each(&serve);
    thread::Builder::new().name("test-listener".into()).spawn(accept).expect("a thread");
    authority
}

/// A request made while the test goes on.
fn asking<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    thread::Builder::new().name("test-asking".into()).spawn(ask).expect("a thread")
}

pub(crate) fn new_session(daemon: &Daemon) -> Answer {
    daemon.client().post("/v1/codexd/sessions", &json!({}))
}

/// The first session at `url` is refused with a text that has these words, and so does the log.
pub(crate) fn fails_with(url: &str, flags: &[&str], words: &str) {
    let daemon = external(url).flags(flags).start();
    let answer = new_session(&daemon);
    assert_eq!(answer.status, 503, "{url}: {}", answer.text());
    assert_eq!(answer.json()["error"], "unavailable");
    assert!(answer.json()["message"].as_str().unwrap().contains(words), "{url}: {}", answer.text());
    let events = daemon.log_events();
    let failed: Vec<_> = events.iter().filter(|event| event["type"] == "app-server.connect.failed").collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["detail"]["endpoint"], url);
    assert!(failed[0]["message"].as_str().unwrap().contains(&words[..words.len().min(20)]), "{failed:?}");
    let child = &daemon.client().get("/v1/codexd/status").json()["data"]["snapshot"]["daemon"]["child"];
    assert_eq!((&child["status"], &child["connected"]), (&json!("external"), &json!(false)));
    assert!(child["lastError"].as_str().unwrap().contains(words), "{child}");
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fails_with(&format!("ws://{free}"), &[], "nothing listens at 127.0.0.1:");
    fails_with("ws://no-such-host.invalid:9", &[], "the host no-such-host.invalid cannot be resolved");
}

#[test]
fn refusals_say_what_to_check() {
    for (answer, words) in [
        (
            "HTTP/1.1 401 Unauthorized\r\n\r\n",
            "refused the WebSocket with 401: it demands a token; name the file",
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "with 403: it forbids the connection"),
        ("HTTP/1.1 404 Not Found\r\n\r\n", "with 404: it has no WebSocket at /a?b; check the path"),
        (
            "HTTP/1.1 302 Found\r\nLocation: https://other/\r\n\r\n",
            "with 302: it redirects to https://other/",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "with 200: it is a plain HTTP server at /a?b"),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "with 400: it takes the request for a bad one; if it expects TLS",
        ),
        ("HTTP/1.1 503 Busy\r\n\r\n", "with 503: a proxy answers, but the app-server behind it does not"),
        (
            "HTTP/1.1 418 Teapot\r\n\r\n",
            "with 418: check that --server-endpoint names an app-server's listener",
        ),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
            "answered the upgrade, but not as a WebSocket server does",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP"),
        ("\x15\x03\x01\x00\x02\x02\x0a", "speaks TLS: use wss://"),
        ("HTTP/1.1 101", "closed the connection instead of answering: if it expects TLS, use wss://"),
    ] {
        fails_with(&format!("ws://{}/a?b", answering(answer.as_bytes())), &[], words);
    }
}

#[test]
fn silence_ends_at_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", silent.local_addr().unwrap());
    fails_with(
        &url,
        &["--app-server-timeout-ms", "300"],
        "took the connection but did not answer within 300 ms",
    );
}

#[test]
fn a_stop_does_not_wait_for_a_dial() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut daemon = external(&format!("ws://{}", silent.local_addr().unwrap())).start();
    let client = daemon.client();
    let asking = asking(move || client.post("/v1/codexd/sessions", &json!({})));
    let (mut dialling, _) = silent.accept().unwrap();
    assert!(dialling.read(&mut [0; 16]).unwrap() > 0, "it asks for the upgrade");
    let began = Instant::now();
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(asking.join().unwrap().status, 503);
}

#[test]
fn the_upgrade_respects_the_endpoint() {
    let fake = Fake::start(|_| {});
    let daemon = external(&format!("http://{}/deep/path?q=1&r=%20", fake.authority())).start();
    assert_eq!(new_session(&daemon).status, 201);
    let heads = fake.heads();
    assert_eq!(heads.len(), 1);
    let head = &heads[0];
    assert!(head.starts_with("/deep/path?q=1&r=%20\n"), "{head}");
    assert!(head.contains(&format!("\nhost: {}\n", fake.authority())), "{head}");
    assert!(!head.contains("origin") && !head.contains("authorization"), "{head}");
}

#[test]
fn callers_at_once_share_one_connection() {
    let fake = Fake::start(|_| {});
    let daemon = external(&fake.url()).start();
    let clients: Vec<_> = (0..8).map(|_| daemon.client()).collect();
    let calls: Vec<_> = clients
        .into_iter()
        .map(|client| asking(move || client.post("/v1/codexd/sessions", &json!({})).status))
        .collect();
    // The fake has one thread for all: the first session is made, the others are given it.
    let mut statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    statuses.sort_unstable();
    assert!(statuses.iter().all(|status| [200, 201].contains(status)), "{statuses:?}");
    assert_eq!(fake.heads().len(), 1);
    let events = daemon.log_events();
    assert_eq!(events.iter().filter(|event| event["type"] == "app-server.connected").count(), 1);
}

/// The session and the turn that makes the fake act.
fn start_turn(daemon: &Daemon) {
    let answer = new_session(daemon);
    assert_eq!(answer.status, 201, "{}", answer.text());
    let session = answer.json()["data"]["session"]["sessionId"].clone();
    let answer = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": session, "input": "go"}));
    assert_eq!(answer.status, 202, "{}", answer.text());
}

/// The lengths of the deltas.
pub(crate) fn deltas(events: &[Value]) -> Vec<usize> {
    let deltas = events.iter().filter(|event| event["type"] == "app-server.turn.message.delta");
    deltas.map(|event| event["detail"]["delta"].as_str().unwrap().len()).collect()
}

/// Waits for the end of the only session's turn.
pub(crate) fn wait_until_completed(daemon: &Daemon) {
    let until = Instant::now() + DEADLINE;
    let status = || {
        let sessions = daemon.client().get("/v1/codexd/sessions").json();
        sessions["data"]["sessions"][0]["lastTurnStatus"].clone()
    };
    while status() != "completed" {
        assert!(Instant::now() < until, "the turn does not end");
    }
}

#[test]
fn large_messages_whole_and_in_pieces() {
    const SIZE: usize = 15_000_000;
    let fake = Fake::start(|socket| {
        socket.send(Message::text(delta(&"a".repeat(SIZE)))).unwrap();
        send_in_pieces(socket, &delta(&"ä".repeat(SIZE / 2)), 1_000_001);
        socket.send(Message::Binary(bytes::Bytes::from_static(b"no message"))).unwrap();
        socket.send(Message::text(delta(&"b".repeat(60 << 20)))).unwrap();
        socket.send(Message::text(completed())).unwrap();
    });
    let daemon = external(&fake.url()).flags(&["--max-log-bytes", "0"]).start();
    start_turn(&daemon);
    wait_until_completed(&daemon);
    let events = daemon.log_events();
    assert_eq!(deltas(&events), [SIZE, SIZE, 60 << 20]);
    let odd: Vec<_> =
        events.iter().filter(|event| event["type"] == "app-server.message.unreadable").collect();
    assert_eq!(odd.len(), 1);
    assert_eq!(odd[0]["detail"]["bytes"], 10);
}

#[test]
fn a_message_past_the_limit_costs_the_connection() {
    let fake = Fake::start(|socket| {
        let _ = socket.send(Message::text(delta(&"a".repeat(2 << 20))));
    });
    let daemon = external(&fake.url()).flags(&["--max-line-bytes", "1048576"]).start();
    let stream = daemon.stream();
    start_turn(&daemon);
    let closed = stream.wait_for_type("app-server.transport.closed");
    assert!(closed["message"].as_str().unwrap().contains("--max-line-bytes"), "{closed}");
    assert_eq!(closed["detail"]["source"], "websocket.error");
    stream.wait_for_type("app-server.turn.completed.missing");
    stream.wait_for_type("session.recovered");
    assert_eq!(fake.heads().len(), 2);
}

#[test]
fn the_reason_of_a_close_is_told() {
    let fake = Fake::start(|socket| {
        let close = CloseFrame { code: CloseCode::Restart, reason: "back in a minute".into() };
        let _ = socket.close(Some(close));
    });
    let daemon = external(&fake.url()).start();
    let stream = daemon.stream();
    start_turn(&daemon);
    let closed = stream.wait_for_type("app-server.transport.closed");
    assert_eq!(closed["detail"]["source"], "websocket.close");
    assert!(closed["message"].as_str().unwrap().contains("with 1012: back in a minute"), "{closed}");
}

#[test]
fn without_active_sessions_nobody_reconnects() {
    let fake = Fake::start(|_| {});
    let relay = Relay::to(&fake.authority());
    let daemon = external(&relay.url()).start();
    let stream = daemon.stream();
    let session = new_session(&daemon).json()["data"]["session"]["sessionId"].as_str().unwrap().to_owned();
    daemon.client().post(&format!("/v1/codexd/sessions/{session}/close"), &json!({}));
    relay.cut();
    stream.wait_for_type("app-server.transport.closed");
    // The next one that wants it gets it, at once.
    assert_eq!(new_session(&daemon).status, 201);
    assert_eq!(relay.accepted(), 2);
}

type FirstAnswer = fn() -> Option<Message>;

/// Serves every connection as a WebSocket, to whose first message `answer` is the answer; then only listens.
fn answering_the_first(answer: FirstAnswer) -> String {
    let authority = listening(move |stream| {
        thread::Builder::new()
            .name("test-websocket".into())
            .spawn(move || {
                let Ok(mut socket) = tungstenite::accept(stream) else { return };
                let _ = socket.read();
                if let Some(answer) = answer() {
                    let _ = socket.send(answer);
                }
                while socket.read().is_ok() {}
            })
            .expect("a thread");
    });
    format!("ws://{authority}")
}

#[test]
fn one_that_is_no_app_server_is_not_ready_from_then_on() {
    let answers: [(FirstAnswer, &str, &str); 4] = [
        (|| None, "did not answer initialize within ", "If it is no app-server: --server-endpoint must name"),
        (|| Some(Message::text("hello there")), "it wrote `hello there`", "--server-endpoint must name"),
        (
            || Some(Message::text("{\"id\": 1, \"method\": \"initialize\", \"params\": {}}")),
            "what answers at --server-endpoint is no app-server",
            "--server-endpoint must name",
        ),
        (
            || Some(Message::Close(Some(CloseFrame { code: CloseCode::Policy, reason: "who?".into() }))),
            "closed the connection with 1008: who?",
            "",
        ),
    ];
    for (answer, what, advice) in answers {
        let flags = ["--app-server-timeout-ms", "1000"];
        let daemon = external(&answering_the_first(answer)).flags(&flags).start();
        let refused = new_session(&daemon).json()["message"].as_str().unwrap().to_owned();
        assert!(refused.contains(what) && refused.contains(advice), "{refused}");
        assert!(!refused.contains("--server-command"), "{refused}");
        // Those that were given up, or have closed the connection, are away by then; the others still there.
        if !what.starts_with("what answers") {
            until("the connection's end in the status", DEADLINE, || {
                child(&daemon.client())["lastError"].as_str().map(drop)
            });
        }
        let ready = daemon.client().get("/readyz");
        let told = &ready.json()["checks"]["appServer"];
        assert_eq!((ready.status, &told["ok"]), (503, &json!(false)), "{what}: {told}");
        assert!(told["detail"].as_str().unwrap().contains(what), "{told}");
    }
}

#[test]
fn a_server_that_does_not_answer_our_close_does_not_hold_up_the_stop() {
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let fake = Fake::start(move |_| {
        // It reads nothing more until the test is over.
        let _ = released.recv();
    });
    let mut daemon = external(&fake.url()).flags(&["--app-server-timeout-ms", "500"]).start();
    start_turn(&daemon);
    let began = Instant::now();
    assert_eq!(daemon.stop().status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(daemon.log_events().iter().any(|event| event["type"] == "app-server.close.failed"));
    drop(release);
}

#[test]
fn one_that_answers_no_call_but_says_something_is_kept_and_said_not_to_be_ready() {
    const CALLS: usize = 5;
    let (finish, finished) = crossbeam_channel::bounded(1);
    let fake = Fake::start(move |socket| {
        for _ in 0..CALLS {
            let _ = socket.read();
            let _ = socket.send(Message::text(delta("still at it")));
        }
        finished.recv_timeout(DEADLINE).unwrap();
        let _ = socket.send(Message::text(completed()));
    });
    let daemon = external(&fake.url()).flags(&["--app-server-timeout-ms", "300"]).start();
    let stream = daemon.stream();
    start_turn(&daemon);
    for _ in 0..CALLS {
        assert_eq!(new_session(&daemon).status, 504);
    }
    let app_server = || daemon.client().get("/readyz").json()["checks"]["appServer"].take();
    let told = app_server();
    assert!(told["detail"].as_str().is_some_and(|text| text.contains("did not answer in time")), "{told}");
    finish.send(()).unwrap();
    stream.wait_for_type("app-server.turn.completed");
    assert_eq!(app_server()["ok"], true);
    assert_eq!(fake.heads().len(), 1, "it was connected to again");
}

/// Only who loads the thread again is asked again, and nobody loads that of a closed session.
#[test]
fn what_a_closed_session_was_asked_is_given_up_with_the_connection() {
    for what_happens in ["cut, close", "close, cut", "close, kill"] {
        let fake = Fake::start(|socket| {
            // Of a turn that is not known here to run: a close has none to interrupt, and does not withdraw it.
            let params = json!({"threadId": THREAD, "turnId": "turn-0", "itemId": "i", "command": "echo"});
            let asked = json!({"id": 7, "method": "item/commandExecution/requestApproval", "params": params});
            for message in [completed(), asked.to_string()] {
                socket.send(Message::text(message)).unwrap();
            }
        });
        let mut daemon = external(&fake.url()).start();
        let stream = daemon.stream();
        let session = new_session(&daemon).json()["data"]["session"]["sessionId"].take();
        let turn = daemon.client().post("/v1/codexd/turn", &json!({"sessionId": session, "input": "x"}));
        assert_eq!(turn.status, 202, "{}", turn.text());
        let opened = stream.wait_for_type("request.opened");
        let close = |daemon: &Daemon| {
            let path = format!("/v1/codexd/sessions/{}/close", session.as_str().unwrap());
            assert_eq!(daemon.client().post(&path, &json!({})).status, 200);
        };
        match what_happens {
            "cut, close" => {
                drop(fake);
                stream.wait_for_type("app-server.transport.closed");
                close(&daemon);
            }
            "close, cut" => {
                close(&daemon);
                drop(fake);
                stream.wait_for_type("request.orphaned");
            }
            _ => {
                close(&daemon);
                daemon.kill();
                daemon.restart();
            }
        }
        let id = opened["detail"]["requestId"].as_str().unwrap();
        let request = daemon.client().get(&format!("/v1/codexd/requests/{id}"));
        assert_eq!(request.json()["data"]["request"]["status"], "orphaned", "{what_happens}");
    }
}
