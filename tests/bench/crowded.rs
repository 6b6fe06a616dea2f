//! What must not matter: how much is there already, and a client that does not read.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::clients::open_stream;
use super::daemon::Daemon;
use super::report::{Better, Report};

const RECORDS: usize = 10_000;
const LOG_BYTES: usize = 1 << 30;
const COUNT: usize = 600_000;
const FLAGS: &[&str] = &["--max-log-bytes=0", "--event-cache-size=10000"];

/// A daemon with 10,000 sessions and runs, a log of 1 GB and a cache of 10,000 events, beside an empty one.
pub fn flat(report: &mut Report) {
    let mut folder = filled();
    for _ in 0..report.repeats {
        let full = Daemon::start_in(folder, FLAGS);
        let start = full.started_in.as_secs_f64() * 1e3;
        report.add(
            "start with 10,000 sessions and runs and 1 GB of log",
            "ms",
            Better::Less,
            Some(50.0),
            start,
        );
        let mut posts: Vec<f64> = (0..50)
            .map(|_| {
                let began = Instant::now();
                full.session();
                began.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        posts.sort_by(f64::total_cmp);
        report.add(
            "POST session beside 10,000 others, p50",
            "ms",
            Better::Less,
            Some(5.0),
            posts[posts.len() / 2],
        );
        let name = "64 B deltas, 1 client, full daemon beside an empty one";
        let rate = burst(&full);
        folder = full.stop().1;
        let empty = Daemon::start(&[]);
        let alone = burst(&empty);
        drop(empty);
        report.add(name, "/s", Better::More, None, rate);
        report.add_yardstick(name, alone, 0.9);
    }
}

fn burst(daemon: &Daemon) -> f64 {
    let session = daemon.session();
    let reader = open_stream(daemon.address).count_deltas(COUNT, false);
    let began = Instant::now();
    daemon.turn(&session, &format!("burst {COUNT} 64"));
    COUNT as f64 / reader.join().unwrap().0.duration_since(began).as_secs_f64()
}

/// A folder as a daemon leaves it after a long life: what one has written, many times over.
fn filled() -> tempfile::TempDir {
    let daemon = Daemon::start(FLAGS);
    daemon.session();
    let run = daemon.http().post("/v1/codexd/runs", r#"{"prompt":"x"}"#)["run"]["runId"].clone();
    let path = format!("/v1/codexd/runs/{}", run.as_str().unwrap());
    loop {
        let record: Value = serde_json::from_slice(&daemon.http().get(&path)).unwrap();
        if record["data"]["run"]["status"] == "failed" {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let folder = daemon.stop().1;
    let log = folder.path().join("logs/codexd/events.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    let last = text.lines().last().unwrap();
    let mut seq = serde_json::from_str::<Value>(last).unwrap()["seq"].as_u64().unwrap();
    let mut out = std::io::BufWriter::new(std::fs::OpenOptions::new().append(true).open(&log).unwrap());
    let mut written = 0;
    while written < LOG_BYTES {
        seq += 1;
        let line = format!(
            "{{\"seq\":{seq},\"createdAt\":\"2026-03-22T15:39:28.123Z\",\"level\":\"info\",\
             \"type\":\"app-server.turn.message.delta\",\"message\":\"Delta.\",\"detail\":{{\"delta\":\"{}\",\
             \"itemId\":\"i\",\"threadId\":\"t\",\"turnId\":\"u\"}}}}\n",
            "d".repeat(64)
        );
        out.write_all(line.as_bytes()).unwrap();
        written += line.len();
    }
    out.flush().unwrap();
    for (file, list, id) in [
        ("session-registry", "sessions", "sessionId"),
        ("run-registry", "runs", "runId"),
        ("recent-events", "", ""),
        ("request-registry", "", ""),
    ] {
        let path = folder.path().join(format!("state/codexd/{file}.json"));
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        value["appliedSeq"] = json!(seq);
        if !list.is_empty() {
            let one = value[list][0].clone();
            let many = (0..RECORDS).map(|number| {
                let mut record = one.clone();
                record[id] = json!(format!("{}-{number}", one[id].as_str().unwrap()));
                if list == "sessions" {
                    record["threadId"] = json!(format!("filled-{number}"));
                }
                record
            });
            value[list] = many.collect();
        }
        std::fs::write(path, value.to_string()).unwrap();
    }
    folder
}

/// Ten clients, of which one reads nothing: the others are served as if it were not there.
pub fn one_is_stuck(report: &mut Report) {
    const CLIENTS: usize = 9;
    let deliver = |with_stuck: bool| {
        let daemon = Daemon::start(&[]);
        let session = daemon.session();
        let stuck = with_stuck.then(|| open_stream(daemon.address));
        let readers: Vec<_> =
            (0..CLIENTS).map(|_| open_stream(daemon.address).count_deltas(COUNT / 2, false)).collect();
        let began = Instant::now();
        daemon.turn(&session, &format!("burst {} 64", COUNT / 2));
        let last = readers.into_iter().map(|reader| reader.join().unwrap().0).max().unwrap();
        let rate = (COUNT / 2 * CLIENTS) as f64 / last.duration_since(began).as_secs_f64();
        drop(stuck);
        (rate, daemon.peak() as f64 / 1024.0)
    };
    for _ in 0..report.repeats {
        let ((rate, peak), (alone, usual)) = (deliver(true), deliver(false));
        let name = "9 clients beside a stuck one, deliveries; and without it";
        report.add(name, "/s", Better::More, None, rate);
        report.add_yardstick(name, alone, 0.9);
        let name = "peak memory beside a stuck client; and without it";
        report.add(name, "MB", Better::Less, None, peak);
        report.add_reference(name, usual);
    }
}
