//! The past: pages of the log, and WebSocket streams that begin with a cursor.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::Stream;
use crate::daemon::Daemon;
use crate::log::{
    EVENTS, check_contiguous, new_session, on_disk, page, pages, segments, seq, turn, wait_for_turn,
    wait_until,
};
use crate::run_bench::Bench;

/// Small segments, all kept.
const SEGMENTS: &[&str] = &["--max-log-bytes=4096", "--keep-segments=0"];

/// A daemon whose log has some hundred events in many segments.
fn with_a_past(flags: &[&str]) -> Daemon {
    let daemon = Daemon::builder().flags(flags).start();
    let client = daemon.client();
    let session = new_session(&client);
    wait_for_turn(&client, &turn(&client, &session, "slow: 200 1"));
    daemon
}

/// What a stream sent after hello: events and gaps, and where it was synced.
fn seqs(frames: &[Value]) -> Vec<(u64, u64)> {
    frames
        .iter()
        .filter_map(|frame| match frame["type"].as_str().unwrap() {
            "event" => Some((seq(&frame["event"]), seq(&frame["event"]))),
            "gap" => Some((frame["from"].as_u64().unwrap(), frame["to"].as_u64().unwrap())),
            _ => None,
        })
        .collect()
}

#[test]
fn pages_of_any_size_make_up_the_log() {
    let mut daemon = with_a_past(SEGMENTS);
    let client = daemon.client();
    assert!(segments(&daemon).len() > 5);
    let whole = page(&client, "limit=10000");
    assert_eq!(whole["oldestSeq"], 1);
    assert_eq!(whole["more"], false);
    assert_eq!(whole["gap"], Value::Null);
    let latest = whole["latestSeq"].as_u64().unwrap();
    assert_eq!(page(&client, "")["events"].as_array().unwrap().len() as u64, latest.min(500));
    for limit in [1, 7, 100, latest, latest + 1] {
        let events = pages(&client, 0, &format!("limit={limit}"));
        assert_eq!(Value::Array(events), whole["events"], "limit {limit}");
    }
    for after in 0..=latest {
        let events = pages(&client, after, "limit=10000");
        assert_eq!(events.len() as u64, latest - after);
        assert!(events.first().is_none_or(|event| seq(event) == after + 1));
    }
    let exact = page(&client, &format!("after={}&limit=3", latest - 3));
    assert_eq!((exact["events"].as_array().unwrap().len(), &exact["more"]), (3, &json!(false)));
    let beyond = page(&client, "after=18446744073709551615");
    assert_eq!(beyond["events"], json!([]));
    assert_eq!(
        (&beyond["more"], &beyond["gap"], &beyond["latestSeq"]),
        (&json!(false), &Value::Null, &json!(latest))
    );
    daemon.stop();
    let logged = on_disk(&daemon);
    check_contiguous(&logged);
    assert_eq!(logged[..latest as usize], *whole["events"].as_array().unwrap());
}

#[test]
fn what_is_wrong_with_a_page_is_named() {
    let daemon = Daemon::builder().start();
    let client = daemon.client();
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=x", "limit"),
        ("after=-1", "after"),
        ("after=1e3", "after"),
        ("after=1&after=2", "after"),
        ("threadId=%ff", "threadId"),
    ] {
        let answer = client.get(&format!("{EVENTS}?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        let body = answer.json();
        assert_eq!(body["error"], "bad_request");
        assert!(body["message"].as_str().unwrap().contains(&format!("`{name}`")), "{query}: {body}");
        let upgrade = Stream::try_open(&format!("{}?{query}", daemon.ws_url()), &[]).err();
        // A stream knows no limit, but one that is wrong is wrong.
        assert_eq!(upgrade.expect("refused").status, 400, "{query}");
    }
    let posted = client.post(EVENTS, &json!({}));
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    let message = posted.json()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("; GET, HEAD are."), "{message}");
    let head = client.request("HEAD", EVENTS, &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(client.get(&format!("{EVENTS}/")).status, 200);
}

#[test]
fn filters_take_a_session_with_its_thread() {
    let daemon = Daemon::builder().flags(SEGMENTS).start();
    let client = daemon.client();
    let (one, two) = (new_session(&client), new_session(&client));
    for session in [&one, &two] {
        wait_for_turn(&client, &turn(&client, session, "say 20 words"));
    }
    let whole = pages(&client, 0, "limit=10000");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (session, thread) = (text(&one["sessionId"]), text(&one["threadId"]));
    let names = |event: &Value, name: &str, id: &str| {
        let detail = &event["detail"];
        [&detail[name], &detail["params"][name]].iter().any(|found| found.as_str() == Some(id))
    };
    let about: Vec<Value> = whole
        .iter()
        .filter(|event| names(event, "sessionId", &session) || names(event, "threadId", &thread))
        .cloned()
        .collect();
    assert!(about.len() > 22, "{}", about.len());
    assert_eq!(pages(&client, 0, &format!("limit=9&sessionId={session}")), about);
    assert_eq!(pages(&client, 0, &format!("limit=9&threadId={thread}")), about);
    assert_eq!(pages(&client, 0, &format!("sessionId={session}&threadId={thread}")), about);
    let other = text(&two["threadId"]);
    assert_eq!(pages(&client, 0, &format!("sessionId={session}&threadId={other}")), [] as [Value; 0]);
    assert_eq!(pages(&client, 0, "runId=run-unknown"), [] as [Value; 0]);
    let typed: Vec<Value> = whole
        .iter()
        .filter(|event| {
            let kind = event["type"].as_str().unwrap();
            kind.starts_with("session.") || kind == "app-server.turn.started"
        })
        .cloned()
        .collect();
    assert_eq!(typed.len(), 4);
    let query = "type=session.&type=app-server.turn.started";
    assert_eq!(pages(&client, 0, &format!("limit=2&{query}")), typed);
    // The same of a stream, past and live.
    let stream = Stream::open(&format!("{}?after=0&type=turn.accepted&sessionId={session}", daemon.ws_url()));
    stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    let live = turn(&client, &one, "say 3 words");
    turn(&client, &two, "say 3 words");
    stream.wait_for(|event| event["detail"]["turnId"] == live.as_str(), DEADLINE);
    wait_for_turn(&client, &turn(&client, &one, "say 1 words"));
    let expected = pages(&client, 0, &format!("type=turn.accepted&sessionId={session}"));
    assert_eq!(expected.len(), 3);
    stream.wait_for(|event| event["seq"] == expected[2]["seq"], DEADLINE);
    assert_eq!(stream.events(), expected);
}

/// Also of what an event tells only by what it belongs to, as a run's output does.
#[test]
fn a_filter_takes_the_same_live_and_afterwards() {
    let bench = Bench::stub(SEGMENTS);
    let (daemon, client) = (&bench.daemon, bench.daemon.client());
    let session = new_session(&client);
    let text = |name: &str| session[name].as_str().unwrap().to_owned();
    let (session, thread) = (text("sessionId"), text("threadId"));
    let filters = [format!("sessionId={session}"), format!("threadId={thread}")];
    let live = filters.clone().map(|filter| {
        let stream = Stream::open(&format!("{}?after=0&{filter}", daemon.ws_url()));
        stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
        stream
    });
    let theirs = bench.begin(&json!({"prompt": "say 1 words", "sessionId": session}));
    let other = bench.begin(&json!({"prompt": "say 1 words"}));
    for run in [theirs, other] {
        let ended =
            |event: &Value| event["type"] == "run.completed" && event["detail"]["runId"] == run.as_str();
        bench.stream.wait_for(ended, DEADLINE);
    }
    let closed = client.request("POST", &format!("/v1/codexd/sessions/{session}/close"), &[], b"");
    assert_eq!(closed.status, 200, "{}", closed.text());
    for (stream, filter) in live.iter().zip(&filters) {
        stream.wait_for_type("session.closed");
        let afterwards = pages(&client, 0, filter);
        assert_eq!(stream.events(), afterwards, "{filter}");
        let of_run = afterwards.iter().filter(|event| event["type"].as_str().unwrap().starts_with("run."));
        assert_eq!(of_run.count(), 3, "{filter}");
    }
}

#[test]
fn a_stream_with_a_cursor_goes_from_the_log_to_live() {
    let mut daemon = with_a_past(SEGMENTS);
    let client = daemon.client();
    let latest = page(&client, "limit=1")["latestSeq"].as_u64().unwrap();
    let mut streams = Vec::new();
    for after in [0, 1, latest / 2, latest - 1, latest] {
        streams.push((after, Stream::open(&format!("{}?after={after}", daemon.ws_url()))));
    }
    let beyond = Stream::open(&format!("{}?after={}", daemon.ws_url(), latest + 1000));
    for (_, stream) in &streams {
        stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    }
    beyond.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    let session = new_session(&client);
    wait_for_turn(&client, &turn(&client, &session, "say 50 words"));
    daemon.stop();
    let logged = on_disk(&daemon);
    for (after, stream) in &streams {
        assert_eq!(stream.close_code(), Some(1001));
        let frames = stream.frames();
        assert_eq!(frames[0]["type"], "hello");
        let synced = frames.iter().position(|frame| frame["type"] == "synced").unwrap();
        assert_eq!(
            frames[synced]["seq"].as_u64(),
            frames[synced - 1]["event"]["seq"].as_u64().or(Some(latest))
        );
        assert_eq!(stream.events(), logged[*after as usize..], "after {after}");
    }
    // A cursor of a log that was lost: live from now on.
    assert_eq!(beyond.close_code(), Some(1001));
    assert_eq!(beyond.events(), logged[latest as usize..]);
}

#[test]
fn what_retention_took_is_a_gap() {
    let daemon = with_a_past(&["--max-log-bytes=2048", "--keep-segments=2"]);
    let client = daemon.client();
    // Segments go when their events are in the state files; then it stays as it is.
    wait_until("retention", || segments(&daemon).len() == 3);
    let first = page(&client, "after=5&limit=3");
    let oldest = first["oldestSeq"].as_u64().unwrap();
    assert_eq!(first["gap"], json!({ "from": 6, "to": oldest - 1 }));
    assert_eq!(first["events"][0]["seq"], oldest);
    assert_eq!(page(&client, &format!("after={}&limit=3", oldest - 1))["gap"], Value::Null);
    assert_eq!(page(&client, "limit=3")["gap"], Value::Null, "nothing in particular was asked for");
    let stream = Stream::open(&format!("{}?after=5", daemon.ws_url()));
    let synced = stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    let frames = stream.frames();
    assert_eq!(frames[1], json!({ "type": "gap", "from": 6, "to": oldest - 1 }));
    let covered = seqs(&frames);
    assert_eq!(covered[1].0, oldest);
    assert_eq!(Some(covered.last().unwrap().1), synced["seq"].as_u64());
}

#[test]
fn lives_too_short_for_the_state_files_to_be_told_of_let_segments_go_too() {
    let mut daemon = with_a_past(SEGMENTS);
    daemon.stop();
    let all = segments(&daemon).len();
    let short = ["start", "--run-once", "--smoke-lifetime-ms=0"];
    assert!(all > 7 && daemon.again().run(&short).status.success());
    assert!(segments(&daemon).len() >= all, "nothing is to go");
    assert!(daemon.again().flags(&["--keep-segments=2"]).run(&short).status.success());
    // Those of the short lives are beside them at most.
    assert!(segments(&daemon).len() <= 5, "{} of {all}", segments(&daemon).len());
    check_contiguous(&on_disk(&daemon));
    daemon.restart();
    let sessions = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(sessions.as_array().map(Vec::len), Some(1));
    daemon.stop();
}

#[test]
fn a_segment_removed_under_a_reader_is_a_gap_and_no_error() {
    let daemon = Daemon::builder().flags(&["--max-log-bytes=2000", "--keep-segments=1"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    let last = turn(&client, &session, "slow: 4000 1");
    let mut rounds = 0;
    let mut gaps = BTreeSet::new();
    let done = || {
        let ended = pages(&client, 0, "type=app-server.turn.completed");
        ended.iter().any(|event| event["detail"]["turnId"] == last.as_str())
    };
    while !done() {
        rounds += 1;
        let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
        stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
        let covered = seqs(&stream.frames());
        let mut next = 1;
        for (from, to) in covered {
            assert_eq!(from, next, "round {rounds}");
            if to > from {
                gaps.insert((from, to));
            }
            next = to + 1;
        }
        let whole = page(&client, "after=0&limit=10000");
        check_contiguous(whole["events"].as_array().unwrap());
        let first = whole["events"][0]["seq"].as_u64();
        assert!(first.is_none_or(|first| first == whole["gap"]["to"].as_u64().unwrap_or(0) + 1));
    }
    assert!(rounds > 0 && !gaps.is_empty(), "{rounds} rounds, gaps {gaps:?}");
    println!("{rounds} rounds while the log rotated, {} different gaps", gaps.len());
}

#[test]
fn two_hundred_reconnects_make_up_the_log() {
    let mut daemon = Daemon::builder().flags(&["--max-log-bytes=65536", "--keep-segments=0"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    let last = turn(&client, &session, "slow: 6000 1");
    // A generator of its own: the same points each time, other ones in each round.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut got: Vec<Value> = Vec::new();
    for round in 0..200 {
        let after = got.last().map_or(0, seq);
        let stream = Stream::open(&format!("{}?after={after}", daemon.ws_url()));
        let wanted = after + random(40);
        stream.wait_frame(
            |frame| {
                frame["type"] == "synced" && frame["seq"].as_u64().unwrap() >= wanted
                    || frame["type"] == "event" && seq(&frame["event"]) >= wanted
            },
            DEADLINE,
        );
        assert!(seqs(&stream.frames()).iter().all(|(from, to)| from == to), "a gap in round {round}");
        let events = stream.events();
        assert!(events.first().is_none_or(|event| seq(event) == after + 1), "round {round}");
        got.extend(events);
    }
    wait_for_turn(&client, &last);
    let stream = Stream::open(&format!("{}?after={}", daemon.ws_url(), got.last().map_or(0, seq)));
    // A stop does not wait for a client that still reads the past.
    stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    daemon.stop();
    assert_eq!(stream.close_code(), Some(1001));
    got.extend(stream.events());
    assert_eq!(got, on_disk(&daemon));
}

#[test]
fn a_client_that_lags_is_told_where_to_come_back() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = new_session(&client);
    // A client that opens the stream and reads nothing; its socket holds some megabytes.
    let mut deaf = client.connect();
    let host = deaf.peer_addr().unwrap();
    let handshake = format!(
        "GET {EVENTS}?after=0 HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    deaf.write_all(handshake.as_bytes()).unwrap();
    wait_until("the client is counted", || client.get("/healthz").json()["service"]["websocketClients"] == 1);
    let mut lagged = None;
    for _ in 0..60 {
        wait_for_turn(&client, &turn(&client, &session, "big: 2000000"));
        lagged = pages(&client, 0, "type=stream.client.lagged").pop();
        if lagged.is_some() {
            break;
        }
    }
    let after = lagged.expect("it lags")["detail"]["afterSeq"].as_u64().unwrap();
    // Nobody waits for it: the others are served as ever.
    let stream = Stream::open(&format!("{}?after={after}", daemon.ws_url()));
    stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    assert_eq!(seq(&stream.events()[0]), after + 1);
    drop(deaf);
    drop(stream);
    daemon.stop();
}

/// `CODEXD_TEST_LOG_MB=1024` for the figure of the README; small by default, so that it costs a CI run nothing.
#[test]
fn a_page_from_the_middle_costs_the_same_whatever_the_logs_size() {
    let megabytes = std::env::var("CODEXD_TEST_LOG_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(48);
    let mut daemon = Daemon::builder().flags(&["--max-log-bytes=0"]).start();
    daemon.stop();
    let mut next = on_disk(&daemon).last().map_or(1, |event| seq(event) + 1);
    let mut log = std::io::BufWriter::new(
        std::fs::OpenOptions::new().append(true).open(daemon.log("events.jsonl")).unwrap(),
    );
    let mut written = 0;
    while written < megabytes * 1024 * 1024 {
        let line = format!(
            "{{\"seq\":{next},\"createdAt\":\"2026-03-22T15:39:28.123Z\",\"level\":\"info\",\
             \"type\":\"app-server.turn.message.delta\",\"message\":\"Delta: {}.\",\"detail\":{{\"delta\":\"{}\",\
             \"itemId\":\"item_1\",\"threadId\":\"thread-1\",\"turnId\":\"turn-1\"}}}}\n",
            "m".repeat(40),
            "d".repeat(64),
        );
        log.write_all(line.as_bytes()).unwrap();
        written += line.len();
        next += 1;
    }
    log.flush().unwrap();
    let begun = Instant::now();
    daemon.restart();
    let start = begun.elapsed();
    let client = daemon.client();
    let middle = next / 2;
    let best = (0..20)
        .map(|round| {
            let begun = Instant::now();
            let answer = client.get(&format!("{EVENTS}?after={}&limit=500", middle + round * 1000));
            let took = begun.elapsed();
            assert_eq!(answer.json()["data"]["events"].as_array().unwrap().len(), 500);
            took
        })
        .min()
        .unwrap();
    println!(
        "{megabytes} MB, {next} events: start {start:?}, page of 500 from the middle {best:?} (best of 20)"
    );
    // A debug build is some ten times slower; in both the whole log would take far longer.
    let limit = if cfg!(debug_assertions) { 250 } else { 20 };
    assert!(best < Duration::from_millis(limit), "{best:?}");
}

/// A power loss under `--sync interval` may leave a finished segment shorter than it was.
#[test]
fn the_end_that_a_finished_segment_has_lost_is_a_gap() {
    let mut daemon = with_a_past(SEGMENTS);
    daemon.stop();
    let before = on_disk(&daemon);
    let paths = segments(&daemon);
    let short = &paths[paths.len() - 2];
    let text = std::fs::read_to_string(short).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let kept: usize = lines[..lines.len() - 2].iter().map(|line| line.len()).sum();
    // Two events are gone, of one of them the beginning is left.
    std::fs::File::options().write(true).open(short).unwrap().set_len(kept as u64 + 20).unwrap();
    let lost = serde_json::from_str::<Value>(lines[lines.len() - 2]).unwrap()["seq"].as_u64().unwrap();
    daemon.restart();
    let client = daemon.client();
    let page = page(&client, &format!("after={}&limit=1", lost - 1));
    assert_eq!(page["gap"], json!({ "from": lost, "to": lost + 1 }));
    assert_eq!(page["events"][0]["seq"], lost + 2);
    let stream = Stream::open(&format!("{}?after={}", daemon.ws_url(), lost - 1));
    stream.wait_frame(
        |frame| frame["type"] == "gap" && frame["from"] == lost && frame["to"] == lost + 1,
        DEADLINE,
    );
    let all = pages(&client, 0, "limit=10000");
    let expected = before.iter().map(seq).filter(|seq| !(lost..=lost + 1).contains(seq));
    assert!(all.iter().map(seq).take(before.len() - 2).eq(expected));
    check_contiguous(&all[before.len() - 2..]);
}
