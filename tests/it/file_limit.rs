//! A log that cannot grow, made by a limit of the file size on the running daemon (setrlimit(2)): anybody may set it, and
//! a write up to the limit is a partial one.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal};
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Client, Stream};
use crate::conversation::{child, fake_codex, run};
use crate::daemon::Daemon;
use crate::disk_full::{RESUMES_WITHIN, check_log_first, check_stalled, readyz, wait_ready, words};
use crate::log::{check_contiguous, new_session, on_disk, page, pages, turn, wait_for_turn, wait_until};

/// No file of the daemon may grow beyond that many bytes.
pub(crate) fn limit_files(daemon: &Daemon, bytes: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    rustix::process::prlimit(pid, Resource::Fsize, Rlimit { current: bytes, maximum: None })
        .expect("the limit of one's own process");
}

/// Of the 65,536 bytes that a pipe takes (pipe(7)), as pages that the next line does not fit in are not quite full.
const NEARLY_FULL: u64 = 56 * 1024;

pub(crate) fn log_size(daemon: &Daemon) -> u64 {
    fs::metadata(daemon.log("events.jsonl")).unwrap().len()
}

#[test]
fn a_full_disk_holds_everything_back_and_loses_nothing() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    assert_eq!(readyz(&client).0, 200);
    let session = new_session(&client);
    let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
    for round in 1..=3 {
        let running = turn(&client, &session, "slow: 40 5");
        limit_files(&daemon, Some(log_size(&daemon) + 500 + round));
        check_stalled(&client, "File too large");
        check_log_first(&daemon, &stream);
        let hello = daemon.stream().hello();
        let latest = page(&client, "limit=1")["latestSeq"].clone();
        assert_eq!(hello["recentEvents"].as_array().unwrap().last().unwrap()["seq"], latest);
        // A client that comes now misses nothing of what waits.
        let late = Stream::open(&format!("{}?after={latest}", daemon.ws_url()));
        late.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
        limit_files(&daemon, None);
        let took = wait_ready(&client);
        assert!(took < RESUMES_WITHIN, "{took:?}");
        println!("round {round}: ready again after {took:?}");
        wait_for_turn(&client, &running);
        assert_eq!(words(&client, &running), 40);
        let resumed = pages(&client, 0, "type=store.resumed");
        assert_eq!(resumed.len() as u64, round);
        let reason = resumed.last().unwrap()["detail"]["reason"].as_str().unwrap();
        assert!(reason.contains("File too large"), "{reason}");
        let last = page(&client, "limit=1")["latestSeq"].as_u64();
        late.wait_for(|event| event["seq"].as_u64() == last, DEADLINE);
        check_contiguous(&late.events());
        assert_eq!(late.events()[0]["seq"].as_u64(), latest.as_u64().map(|seq| seq + 1));
    }
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    daemon.stop();
    stream.close_code();
    assert_eq!(stream.events(), on_disk(&daemon));
}

#[test]
fn a_burst_is_held_back_at_the_child() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let session = new_session(&client);
    limit_files(&daemon, Some(log_size(&daemon) + 20_000));
    let body = json!({ "sessionId": session["sessionId"], "input": "say 60000 words" });
    let accepted = client.post("/v1/codexd/turn", &body);
    wait_until("it is noticed", || readyz(&client).0 == 503);
    let (before, size) = (memory(daemon.pid()), log_size(&daemon));
    let output = fs::File::open(format!("/proc/{}/fd/1", child(&client)["pid"])).unwrap();
    wait_until("the child's pipe is full", || rustix::io::ioctl_fionread(&output).unwrap() >= NEARLY_FULL);
    drop(output);
    let grown = memory(daemon.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes of memory more");
    assert_eq!(log_size(&daemon), size);
    limit_files(&daemon, None);
    wait_ready(&client);
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let running = accepted.json()["data"]["turnId"].as_str().unwrap().to_owned();
    wait_for_turn(&client, &running);
    assert_eq!(words(&client, &running), 60_000);
    daemon.stop();
    check_contiguous(&on_disk(&daemon));
}

/// Resident bytes.
fn memory(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_stop_while_the_log_is_full_does_not_hang() {
    for prompt in ["slow: 1000 2", "say 100000 words"] {
        let mut daemon = Daemon::builder().flags(&["--stop-timeout-ms=1000"]).start();
        let client = daemon.client();
        let session = new_session(&client);
        turn(&client, &session, "slow: 1000 2");
        let other = new_session(&client);
        limit_files(&daemon, Some(log_size(&daemon) + 3_000));
        let body = json!({ "sessionId": other["sessionId"], "input": prompt });
        let asked = std::thread::Builder::new().name("turn".into());
        let quick = client.clone().with_deadline(Duration::from_secs(60));
        let asked = asked.spawn(move || quick.post("/v1/codexd/turn", &body).status).unwrap();
        wait_until("it is noticed", || readyz(&client).0 == 503);
        let begun = Instant::now();
        daemon.signal(Signal::TERM);
        let ended = daemon.wait();
        println!("{prompt}: stopped after {:?}", begun.elapsed());
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        assert!(
            ended.stderr.contains("given up") || ended.stderr.contains("not in the log"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("\ncodexd: daemon.stopped could not be logged: "), "{}", ended.stderr);
        let status = asked.join().unwrap();
        assert!([0, 202, 503].contains(&status), "{status}");
        check_contiguous(&on_disk(&daemon));
        daemon.restart();
        let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        assert_eq!(listed.as_array().unwrap().len(), 2);
        assert!(listed.as_array().unwrap().iter().all(|session| session["currentTurnId"].is_null()));
        daemon.stop();
        check_contiguous(&on_disk(&daemon));
    }
}

#[test]
fn what_a_run_prints_while_the_log_takes_nothing_is_logged_when_it_does() {
    let lines = 200;
    // It goes on when the test says so, with the log full.
    let go = tempfile::Builder::new().prefix("go-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let script = format!(
        "echo '{{\"n\":0}}'; while [ ! -e {}/now ]; do sleep 0.02; done; \
         for n in $(seq 1 {lines}); do echo \"{{\\\"n\\\":$n}}\"; done",
        go.path().display()
    );
    let run_into_a_full_log = |daemon: &Daemon, client: &Client, stream: &Stream| {
        run(client, stream, &json!({ "prompt": "x", "json": true }));
        stream.wait_for_type("run.output");
        limit_files(daemon, Some(log_size(daemon) + 700));
        fs::File::create(go.path().join("now")).unwrap();
        wait_until("it is noticed", || readyz(client).0 == 503);
    };
    let codex = fake_codex(&script);
    let mut daemon = Daemon::builder().flags(&["--codex-command", codex.to_str().unwrap()]).start();
    let (client, stream) = (daemon.client(), daemon.stream());
    run_into_a_full_log(&daemon, &client, &stream);
    check_log_first(&daemon, &stream);
    limit_files(&daemon, None);
    wait_ready(&client);
    stream.wait_for_type("run.completed");
    let printed =
        |event: &Value| (event["type"] == "run.output").then(|| event["detail"]["event"]["n"].as_u64());
    let printed: Vec<_> = on_disk(&daemon).iter().filter_map(printed).collect();
    assert_eq!(printed, (0..=lines).map(Some).collect::<Vec<_>>());
    daemon.stop();

    // With a log that never takes anything again the stop does not wait for it.
    fs::remove_file(go.path().join("now")).unwrap();
    daemon.restart();
    let (client, stream) = (daemon.client(), daemon.stream());
    run_into_a_full_log(&daemon, &client, &stream);
    let begun = Instant::now();
    let ended = daemon.stop();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
}
