//! Tests of the drivers themselves, so that a failing test of codexd points at codexd.
//!
//! A shell script plays the daemon's outside; the model server is the HTTP server at hand.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::thread;

use serde_json::json;
use tungstenite::Message;
use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use crate::client::{Client, Stream};
use crate::daemon::{Builder, Daemon};
use crate::model_server::ModelServer;
use crate::{DEADLINE, processes};

/// A builder whose program is a script: it gets the daemon's flags and the file `lives` to count its starts in.
fn scripted(script: &str) -> Builder {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = tempfile::Builder::new().prefix("daemon-").suffix(".sh").tempfile_in(folder).unwrap();
    // It must live as long as the test: the script removes itself at last.
    let path = file.into_temp_path().keep().unwrap();
    processes::write_program(&path, &format!("#!/bin/sh\n{script}"));
    Daemon::builder().program(path)
}

const DAEMON: &str = r#"
echo start >> lives
trap 'echo codexd stopped after SIGTERM; kill -9 $!; rm -f "$0"; exit 0' TERM
sleep 600 &
echo warning >&2
echo "identity=x child=running resolved_base=http://127.0.0.1:9 ws_url=ws://127.0.0.1:9/v1/codexd/events"
wait
"#;

#[test]
fn a_daemon_starts_stops_and_starts_again_on_its_folders() {
    let mut daemon = scripted(DAEMON).start();
    assert_eq!((daemon.base(), daemon.ws_url()), ("http://127.0.0.1:9", "ws://127.0.0.1:9/v1/codexd/events"));
    daemon.signal(rustix::process::Signal::CONT);
    let crashed = daemon.crash();
    assert_eq!(crashed.left(std::time::Duration::ZERO).len(), usize::from(cfg!(target_os = "linux")));
    drop(crashed);
    daemon.restart();
    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(
        (ended.stdout.as_str(), ended.stderr.as_str()),
        ("codexd stopped after SIGTERM\n", "warning\n")
    );
    assert_eq!(std::fs::read_to_string(daemon.repo().join("lives")).unwrap(), "start\nstart\n");
}

#[test]
fn a_daemon_that_does_not_start_tells_why() {
    let builder = scripted("echo no port >&2; rm -f \"$0\"; exit 2");
    let ended = builder.try_start().err().expect("it ends");
    assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(2), "no port\n"));
}

#[test]
fn an_action_runs_to_its_end() {
    let ended = scripted("echo \"$1\"; rm -f \"$0\"; kill -9 $$").run(&["status"]);
    assert_eq!((ended.status.signal(), ended.stdout.as_str()), (Some(9), "status\n"));
}

#[test]
fn codexd_starts_answers_and_stops() {
    let mut daemon = Daemon::builder().start();
    assert_eq!(daemon.client().get("/healthz").json()["status"], "ok");
    let stream = daemon.stream();
    assert_eq!(stream.hello()["service"]["resolvedBaseUrl"], daemon.base());
    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with("codexd stopped after SIGTERM\nidentity="), "{ended:?}");
    assert_eq!(stream.close_code(), Some(1001));
    assert_eq!(daemon.log_events().last().unwrap()["type"], "daemon.stopped");
}

#[test]
fn thirty_turns_at_once_stream_side_by_side() {
    let model = ModelServer::start();
    let body = |text: String| json!({"input": [{"type": "message", "role": "user", "content": text}]});
    thread::scope(|scope| {
        for i in 0..30 {
            let client = Client::new(&model.url());
            let ask = move || {
                let answer = client.post("/v1/responses", &body(format!("slow: 3 {}", 50 + i)));
                assert_eq!(answer.status, 200);
                let text = answer.text();
                assert_eq!(text.matches("event: response.output_text.delta").count(), 3);
                assert!(text.contains("event: response.completed"), "{text}");
            };
            thread::Builder::new().name(format!("ask-{i}")).spawn_scoped(scope, ask).unwrap();
        }
    });
    assert_eq!(model.requests().len(), 30);
    assert!(model.prompts().contains(&"slow: 3 55".to_owned()));
    let client = Client::new(&model.url());
    assert_eq!(client.post("/v1/responses", &body("fail: 429".into())).status, 429);
    assert!(!client.post("/v1/responses", &body("cut: 2".into())).text().contains("completed"));
    assert_eq!(client.raw(b"GET /v1/models HTTP/1.1\r\n\r\n").json()["object"], "list");
    assert!(model.strays().is_empty());
    assert_eq!(client.get("/elsewhere").status, 404);
    assert_eq!(model.strays(), ["GET /elsewhere"]);
}

#[test]
fn a_stream_collects_frames_and_its_close_code() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/v1/codexd/events", listener.local_addr().unwrap());
    let serve = move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        socket.send(Message::text(r#"{"type":"hello"}"#)).unwrap();
        let asked = socket.read().unwrap();
        assert_eq!(asked, Message::text(r#"{"type":"ping"}"#));
        for seq in 1..=3 {
            let frame = json!({"type": "event", "event": {"seq": seq, "type": "daemon.started"}});
            socket.send(Message::text(frame.to_string())).unwrap();
        }
        socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "stop".into() })).unwrap();
        while socket.read().is_ok() {}
    };
    let server = thread::Builder::new().name("ws-server".into()).spawn(serve).unwrap();
    let mut stream = Stream::open(&url);
    stream.hello();
    stream.send(r#"{"type":"ping"}"#);
    assert_eq!(stream.wait_for(|event| event["seq"] == 3, DEADLINE)["type"], "daemon.started");
    assert_eq!(stream.events().len(), 3);
    assert_eq!(stream.closed(DEADLINE), Some((1001, "stop".to_owned())));
    drop(stream);
    server.join().unwrap();
}

#[test]
fn a_refused_upgrade_is_an_answer() {
    let model = ModelServer::start();
    let url = format!("{}/v1/codexd/events", model.url().replace("http", "ws"));
    let answer = Stream::try_open(&url, &[("origin", "http://elsewhere")]).err().expect("refused");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["type"], "not_found");
}

#[test]
fn a_mark_nobody_carries_is_on_no_process() {
    assert!(processes::left_of("nobody").is_empty());
}
