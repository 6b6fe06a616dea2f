//! Somebody removes or adds files of the log while the daemon writes it.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Client, Stream};
use crate::daemon::Daemon;
use crate::log::{EVENTS, new_session, on_disk, page, segments, seq, turn, wait_for_turn, wait_until};

/// A daemon with some finished segments.
fn with_segments() -> Daemon {
    let daemon = Daemon::builder().flags(&["--max-log-bytes=2000", "--keep-segments=0"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    wait_for_turn(&client, &turn(&client, &session, "slow: 40 2"));
    assert!(segments(&daemon).len() > 3);
    daemon
}

fn log_files(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(daemon.log("")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("events.")).collect()
}

fn repaired(client: &Client) -> Option<Value> {
    page(client, "limit=10000&type=store.repaired")["events"].as_array().unwrap().first().cloned()
}

#[test]
fn finished_segments_that_are_removed_leave_a_gap_and_no_error() {
    let mut daemon = with_segments();
    let client = daemon.client();
    let finished = log_files(&daemon).into_iter().filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.ends_with(".jsonl") && name != "events.jsonl"
    });
    finished.for_each(|path| fs::remove_file(path).unwrap());
    let answer = client.get(&format!("{EVENTS}?after=0"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"]["gap"]["from"], 1);
    let repaired = repaired(&client).expect("it is told");
    assert!(repaired["message"].as_str().unwrap().contains("were removed by somebody"), "{repaired}");
    daemon.stop();
}

#[test]
fn any_finished_segment_that_is_removed_leaves_a_gap_for_pages_and_streams() {
    for by_page in [true, false] {
        let mut daemon = with_segments();
        let client = daemon.client();
        let events = on_disk(&daemon);
        let removed = segments(&daemon).remove(1);
        let lost = fs::read_to_string(&removed).unwrap().lines().count() as u64;
        fs::remove_file(&removed).unwrap();
        let from: u64 = removed.to_str().unwrap().rsplit('.').nth(1).unwrap().parse().unwrap();
        let gap = (from, from + lost - 1);
        if by_page {
            let first = page(&client, "after=0&limit=10000");
            assert_eq!(seq(first["events"].as_array().unwrap().last().unwrap()), from - 1);
            let second = page(&client, &format!("after={}&limit=10000", from - 1));
            assert_eq!(second["gap"], json!({ "from": gap.0, "to": gap.1 }));
            assert_eq!(seq(&second["events"][0]), gap.1 + 1);
        } else {
            let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
            let last = events.last().map(seq).unwrap();
            stream.wait_for(|event| seq(event) >= last, DEADLINE);
            let frames = stream.frames();
            let at = frames.iter().position(|frame| frame["type"] == "gap").expect("it is told of");
            assert_eq!((&frames[at]["from"], &frames[at]["to"]), (&json!(gap.0), &json!(gap.1)));
            assert_eq!(seq(&frames[at + 1]["event"]), gap.1 + 1);
            let seqs: Vec<u64> = stream.events().iter().map(seq).filter(|&seq| seq <= last).collect();
            let expected: Vec<u64> = (1..=last).filter(|seq| !(gap.0..=gap.1).contains(seq)).collect();
            assert_eq!(seqs, expected);
        }
        let repaired = repaired(&client).expect("it is told");
        assert_eq!(repaired["detail"]["file"], removed.to_str().unwrap());
        daemon.stop();
    }
}

#[test]
fn a_copy_under_the_name_that_the_log_will_have_costs_nothing() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let first = new_session(&client)["sessionId"].clone();
    fs::copy(daemon.log("events.jsonl"), daemon.log("events.1.jsonl")).unwrap();
    let second = new_session(&client)["sessionId"].clone();
    assert_eq!(page(&client, "after=0&limit=10000")["gap"], Value::Null);
    daemon.crash();
    daemon.restart();
    let sessions = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    let ids: Vec<&Value> = sessions.as_array().unwrap().iter().map(|session| &session["sessionId"]).collect();
    assert_eq!(ids, [&first, &second]);
    daemon.stop();
}

#[test]
fn a_log_that_is_removed_with_its_lock_is_still_one_daemons() {
    let mut daemon = with_segments();
    let client = daemon.client();
    log_files(&daemon).into_iter().for_each(|path| fs::remove_file(path).unwrap());
    new_session(&client);
    wait_until("the log is put back", || daemon.log("events.jsonl").exists() && repaired(&client).is_some());
    let logs = daemon.log("").parent().unwrap().to_owned();
    let other = Daemon::builder().flags(&["--logs-dir", logs.to_str().unwrap()]);
    let refused = other.try_start().err().expect("it does not start");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("choose another --logs-dir"), "{refused:?}");
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    daemon.stop();
}
