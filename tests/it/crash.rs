//! SIGKILL at random moments under load, and at each step of a save: nothing that was acknowledged or shown is lost,
//! and every start is a good one.
//!
//! `CODEXD_SOAK_KILLS=200` (as `make soak` says) makes the short form the long one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tungstenite::Message;

use self::promises::{Promised, answer, try_post, write};
use crate::client::authority;
use crate::daemon::{Builder, Daemon};
use crate::log::{EVENTS, check_contiguous, on_disk, segments};
use crate::processes;

mod promises;

/// The same moments each time, but for what the machine adds.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A daemon whose Codex, runs and temporary files are all below one folder.
fn builder(folder: &Path) -> Builder {
    let codexd = env!("CARGO_BIN_EXE_codexd");
    let script = folder.join("codex");
    processes::write_program(&script, &format!("#!/bin/sh\nexec {codexd} stub-exec \"$@\"\n"));
    let temporary = folder.join("t");
    fs::create_dir(&temporary).unwrap();
    let threads = folder.join("threads");
    fs::create_dir(&threads).unwrap();
    Daemon::builder()
        .server(codexd, &["stub-app-server", threads.to_str().unwrap()])
        .env("TMPDIR", temporary.to_str().unwrap())
        .flags(&["--max-log-bytes=131072", "--keep-segments=0", "--codex-command", script.to_str().unwrap()])
}

fn folder() -> tempfile::TempDir {
    // Short: a Unix socket's path is.
    tempfile::Builder::new().prefix("cr-").tempdir().unwrap()
}

/// What one client has got so far: the events as text, from seq 1 on.
#[derive(Default)]
struct Got {
    events: Vec<String>,
}

impl Got {
    fn take(&mut self, event: &str) {
        let seq: Value = serde_json::from_str(event).unwrap();
        assert_eq!(seq["seq"].as_u64(), Some(self.events.len() as u64 + 1), "a hole, or twice: {event}");
        self.events.push(event.to_owned());
    }
}

fn read_websocket(ws_url: &str, got: &mut Got) {
    let Ok(socket) = TcpStream::connect(authority(ws_url)) else { return };
    let _ = socket.set_read_timeout(Some(crate::DEADLINE));
    let url = format!("{ws_url}?after={}", got.events.len());
    let Ok((mut socket, _)) = tungstenite::client(url.as_str(), socket) else { return };
    while let Ok(message) = socket.read() {
        let Message::Text(text) = message else { continue };
        if let Some(event) =
            text.strip_prefix("{\"event\":").and_then(|rest| rest.strip_suffix(",\"type\":\"event\"}"))
        {
            got.take(event);
        } else {
            assert!(!text.contains("\"type\":\"gap\""), "{text}");
        }
    }
}

fn read_sse(base: &str, got: &mut Got) {
    let host = authority(base);
    let Ok(mut socket) = TcpStream::connect(host) else { return };
    let _ = socket.set_read_timeout(Some(crate::DEADLINE));
    let id = got.events.len();
    let request = format!(
        "GET {EVENTS}?after=0 HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\nlast-event-id: {id}\r\n\r\n"
    );
    if socket.write_all(request.as_bytes()).is_err() {
        return;
    }
    let mut lines = BufReader::new(socket);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
        // A line that was cut off is no event.
        if let Some(event) = line.strip_prefix("data: ").and_then(|rest| rest.strip_suffix('\n')) {
            got.take(event);
        }
        assert!(!line.starts_with("event: gap"));
        line.clear();
    }
}

/// Every state file is whole; the temporary files there are now.
fn check_files(daemon: &Daemon, temporary: &Path) -> Vec<PathBuf> {
    let mut left: Vec<PathBuf> =
        fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    for entry in fs::read_dir(daemon.state("")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with(".codexd-") {
            left.push(path);
        } else if name.ends_with(".json") {
            let bytes = fs::read(&path).unwrap();
            serde_json::from_slice::<Value>(&bytes).unwrap_or_else(|error| panic!("{error} in {name}"));
        }
        assert!(!name.ends_with(".damaged"), "{name}");
    }
    left
}

/// What was temporary when the daemon died is gone when it has started.
fn check_swept(left: &[PathBuf]) {
    let still: Vec<&PathBuf> = left.iter().filter(|path| path.exists()).collect();
    assert!(still.is_empty(), "left over: {still:?}");
}

/// The lines of the log; those known from an earlier look are the same.
fn check_log(daemon: &Daemon, known: &mut Vec<String>) {
    let mut lines = Vec::new();
    for path in segments(daemon) {
        let text = fs::read_to_string(path).unwrap();
        lines.extend(text.lines().map(str::to_owned));
    }
    assert_eq!(lines[..known.len()], known[..], "what was logged has changed");
    for line in &lines[known.len()..] {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        known.push(line.clone());
        assert_eq!(event["seq"].as_u64(), Some(known.len() as u64), "{line}");
    }
}

#[test]
fn kills_at_random_moments_lose_nothing() {
    let kills: u32 = std::env::var("CODEXD_SOAK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    let folder = folder();
    let mut daemon = builder(folder.path()).start();
    let temporary = folder.path().join("t");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let promised = Arc::new(Mutex::new(Promised::default()));
    let clients: Vec<Arc<Mutex<Got>>> = (0..4).map(|_| Arc::default()).collect();
    let mut log = Vec::new();
    let (mut acknowledged, mut answered) = (0, 0);
    let begun = Instant::now();
    for kill in 1..=kills {
        let (base, ws_url) = (daemon.base().to_owned(), daemon.ws_url().to_owned());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for number in 0..4 {
                let (base, promised, over) = (&base, &promised, &over);
                let work = move || write(base, promised, number, over);
                thread::Builder::new().name(format!("writer-{number}")).spawn_scoped(scope, work).unwrap();
            }
            let (answering, promises, ended) = (&base, &promised, &over);
            let work = move || answer(answering, promises, ended);
            thread::Builder::new().name("answerer".to_owned()).spawn_scoped(scope, work).unwrap();
            for (number, got) in clients.iter().enumerate() {
                let (base, ws_url) = (&base, &ws_url);
                let read = move || {
                    let mut got = got.lock().unwrap();
                    if number % 2 == 0 { read_websocket(ws_url, &mut got) } else { read_sse(base, &mut got) }
                };
                thread::Builder::new().name(format!("reader-{number}")).spawn_scoped(scope, read).unwrap();
            }
            let until = Instant::now() + Duration::from_millis(20 + random.below(400));
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
            daemon.signal(Signal::KILL);
            over.store(true, Ordering::Relaxed);
        });
        let ended = daemon.wait();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&ended.status),
            Some(9),
            "kill {kill}: {ended:?}"
        );
        let left = check_files(&daemon, &temporary);
        daemon.restart();
        check_swept(&left);
        check_log(&daemon, &mut log);
        let promised = promised.lock().unwrap();
        promises::check(&daemon, &promised, &log);
        acknowledged = promised.count();
        answered = promised.answers.len();
        for got in &clients {
            let got = got.lock().unwrap();
            assert_eq!(got.events[..], log[..got.events.len()], "kill {kill}: shown, but not in the log");
        }
    }
    daemon.stop();
    let shown: usize = clients.iter().map(|got| got.lock().unwrap().events.len()).sum();
    println!(
        "{kills} kills in {:?}: {} events logged, {shown} shown to 4 clients, {acknowledged} sessions, turns, \
         runs and {answered} answers acknowledged; nothing lost, twice or out of order",
        begun.elapsed(),
        log.len(),
    );
    assert!(shown > 0 && acknowledged > answered && answered > 0);
    let left: Vec<_> = fs::read_dir(&temporary).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_death_at_any_step_of_a_save_is_survived() {
    let mut deaths = 0;
    for (fault, limit) in [
        ("half:log.write", 40),
        ("die:log.write", 40),
        ("die:log.written", 40),
        ("die:log.sync", 3),
        ("die:log.rename", 4),
        ("die:log.open", 4),
        ("die:state.open", 40),
        ("half:state.write", 40),
        ("die:state.write", 40),
        ("die:state.sync", 40),
        ("die:state.rename", 40),
        ("die:state.folder-sync", 40),
    ] {
        let mut passed = 0;
        for number in 1..=limit {
            let folder = folder();
            let base = builder(folder.path()).flags(&["--max-log-bytes=3000"]);
            if !dies(&base, &format!("{fault}:{number}"), &folder.path().join("t")) {
                break;
            }
            passed += 1;
        }
        assert!(passed > 0, "{fault} never happened");
        println!("{fault}: {passed} deaths");
        deaths += passed;
    }
    println!("{deaths} deaths, each followed by a good start");
}

/// Lets a daemon work with that fault; whether it died. Checks the start after it.
fn dies(builder: &Builder, fault: &str, temporary: &Path) -> bool {
    let promised = Mutex::new(Promised::default());
    let faulty = builder.clone().env("CODEXD_FAULT", fault);
    let died = match faulty.try_start() {
        Err(_) => true,
        Ok(mut daemon) => {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let base = daemon.base().to_owned();
            for _ in 0..3 {
                let Some((201, answer)) = try_post(&base, "/v1/codexd/sessions", &json!({})) else { break };
                let session = text(&answer["data"]["session"]["sessionId"]);
                promised.lock().unwrap().sessions.insert(session.clone());
                let body = json!({ "sessionId": session, "input": "say 3 words" });
                let Some((202, answer)) = try_post(&base, "/v1/codexd/turn", &body) else { break };
                promised.lock().unwrap().turns.insert(text(&answer["data"]["turnId"]));
            }
            daemon.signal(Signal::TERM);
            !daemon.wait().status.success()
        }
    };
    let left: Vec<PathBuf> = fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut daemon = builder.clone().start();
    check_swept(&left);
    let events = on_disk(&daemon);
    check_contiguous(&events);
    assert_eq!(events[0]["seq"], 1, "{fault}");
    promises::check(
        &daemon,
        &promised.lock().unwrap(),
        &events.iter().map(Value::to_string).collect::<Vec<_>>(),
    );
    daemon.stop();
    assert_eq!(check_files(&daemon, temporary), [] as [PathBuf; 0], "{fault}");
    died
}
