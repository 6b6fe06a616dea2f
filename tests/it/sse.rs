//! Server-Sent Events: the stream for whoever has only HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::daemon::Daemon;
use crate::log::{
    EVENTS, Message, Sse, new_session, on_disk, page, segments, seq, turn, wait_for_turn, wait_until,
};

/// The events of a stream up to that seq.
fn read_to(stream: &mut Sse, last: u64) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let (id, kind, event) = stream.next_event();
        assert_eq!(id, seq(&event));
        assert_eq!(event["type"], kind.as_str());
        events.push(event);
        if id >= last {
            return events;
        }
    }
}

#[test]
fn without_a_cursor_it_is_live_and_with_one_it_begins_there() {
    let mut daemon = Daemon::builder().flags(&["--max-log-bytes=4096", "--keep-segments=0"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    wait_for_turn(&client, &turn(&client, &session, "slow: 100 1"));
    let before = page(&client, "limit=1")["latestSeq"].as_u64().unwrap();
    let mut live = Sse::open(&client, "", &[]);
    assert!(live.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", live.head);
    assert!(live.head.contains("\r\ncontent-type: text/event-stream\r\n"), "{}", live.head);
    assert!(live.head.contains("\r\ncache-control: no-store\r\n"), "{}", live.head);
    let mut past = Sse::open(&client, "after=3", &[]);
    let mut resumed = Sse::open(&client, "after=3", &[("last-event-id", "7")]);
    let mut blank = Sse::open(&client, "after=3", &[("last-event-id", "")]);
    let session_id = session["sessionId"].as_str().unwrap();
    let mut filtered = Sse::open(&client, &format!("after=0&type=turn.&sessionId={session_id}"), &[]);
    wait_for_turn(&client, &turn(&client, &session, "say 5 words"));
    let last = page(&client, "limit=1")["latestSeq"].as_u64().unwrap();
    let logged = page(&client, "limit=10000")["events"].take();
    let logged = &logged.as_array().unwrap()[..last as usize];
    assert_eq!(read_to(&mut live, last), logged[before as usize..]);
    assert_eq!(read_to(&mut past, last), logged[3..]);
    assert_eq!(read_to(&mut resumed, last), logged[7..]);
    assert_eq!(read_to(&mut blank, last), logged[3..]);
    let accepted: Vec<_> = logged.iter().filter(|event| event["type"] == "turn.accepted").cloned().collect();
    assert_eq!(accepted.len(), 2);
    assert_eq!(read_to(&mut filtered, seq(&accepted[1])), accepted);
    // The stop ends it: every event up to the last one, then the end of the connection.
    daemon.stop();
    let (mut rest, mut end) = (Vec::new(), false);
    while !end {
        match live.next() {
            Message::Event { data, .. } => rest.push(data),
            Message::Comment(_) => {}
            Message::End => end = true,
        }
    }
    let whole = on_disk(&daemon);
    assert_eq!(rest, whole[last as usize..]);
    assert_eq!(rest.last().unwrap()["type"], "daemon.stopped");
}

#[test]
fn a_gap_has_an_id_so_that_it_is_told_once() {
    let daemon = Daemon::builder().flags(&["--max-log-bytes=2048", "--keep-segments=1"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    wait_for_turn(&client, &turn(&client, &session, "slow: 200 1"));
    // Segments go when their events are in the state files; then it stays as it is.
    wait_until("retention", || segments(&daemon).len() == 2);
    let oldest = page(&client, "limit=1")["oldestSeq"].as_u64().unwrap();
    let mut stream = Sse::open(&client, "after=0", &[]);
    assert_eq!(stream.next_event(), (oldest - 1, "gap".to_owned(), json!({ "from": 1, "to": oldest - 1 })));
    let (first, ..) = stream.next_event();
    assert_eq!(first, oldest);
    let id = (oldest - 1).to_string();
    let mut again = Sse::open(&client, "", &[("last-event-id", &id)]);
    assert_eq!(again.next_event().0, oldest);
}

#[test]
fn a_silent_stream_has_a_comment_every_fifteen_seconds() {
    let daemon = Daemon::builder().start();
    let client = daemon.client().with_deadline(DEADLINE + Duration::from_secs(15));
    let mut stream = Sse::open(&client, "type=nothing-of-this-type", &[]);
    assert_eq!(stream.next(), Message::Comment(String::new()));
}

#[test]
fn what_is_refused_is_answered_with_json() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    let accept = ("accept", "text/event-stream;q=1, */*;q=0.1");
    for (path, fields, status) in [
        (format!("{EVENTS}?after=x"), vec![accept], 400),
        (EVENTS.to_owned(), vec![accept, ("last-event-id", "x")], 400),
        (EVENTS.to_owned(), vec![accept, ("origin", "http://evil.example")], 403),
        (EVENTS.to_owned(), vec![accept, ("host", "evil.example")], 403),
        ("/v1/codexd/nothing".to_owned(), vec![accept], 404),
    ] {
        let answer = client.request("GET", &path, &fields, b"");
        assert_eq!(answer.status, status, "{path} {fields:?}");
        assert_eq!(answer.json()["ok"], false);
    }
    let posted = client.request("POST", EVENTS, &[accept, ("content-type", "application/json")], b"{}");
    assert_eq!(posted.status, 405);
    let head = client.request("HEAD", EVENTS, &[accept], b"");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    // Elsewhere the wish means nothing.
    let status = client.request("GET", "/v1/codexd/status", &[accept], b"");
    assert_eq!((status.status, status.json()["ok"].clone()), (200, json!(true)));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "names of threads are told by Linux only")]
fn clients_that_leave_are_noticed() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = new_session(&client);
    let streams: Vec<Sse> = (0..20).map(|_| Sse::open(&client, "", &[])).collect();
    wait_until("they are served", || threads(daemon.pid()) >= 20);
    drop(streams);
    // The first write is answered with a reset, the second one fails.
    wait_until("their threads end", || {
        wait_for_turn(&client, &turn(&client, &session, "say 2 words"));
        threads(daemon.pid()) < 10
    });
}

/// Threads of that process that serve connections.
fn threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("conn-"))
        .count()
}
