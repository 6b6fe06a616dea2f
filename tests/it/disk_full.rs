//! A log that cannot be written: nothing is promised, nothing is lost, nothing is torn, and it goes on by itself.
//!
//! Full is made here in two ways: a small tmpfs (root only; skipped loudly otherwise), and faults on demand (debug
//! builds). `file_limit` has a third.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::{Client, Stream};
use crate::daemon::Daemon;
use crate::log::{check_contiguous, new_session, on_disk, pages, turn, wait_for_turn, wait_until};
use crate::skipped::skipped;

/// How soon it must go on once it can.
pub(crate) const RESUMES_WITHIN: Duration = Duration::from_secs(2);

pub(crate) fn readyz(client: &Client) -> (u16, Value) {
    let answer = client.get("/readyz");
    (answer.status, answer.json())
}

/// It is up, says that it cannot work and why, and refuses what it could not keep.
pub(crate) fn check_stalled(client: &Client, reason: &str) {
    wait_until("it is noticed", || readyz(client).1["checks"]["log"]["ok"] == false);
    let (status, ready) = readyz(client);
    assert_eq!(status, 503);
    assert_eq!((&ready["ok"], &ready["status"]), (&json!(false), &json!("unready")));
    for name in ["hub", "log", "disk", "child", "appServer", "work"] {
        assert!(ready["checks"][name]["ok"].is_boolean(), "{name}: {ready}");
    }
    assert_eq!(ready["checks"]["hub"]["ok"], true);
    assert_eq!(ready["checks"]["log"]["ok"], false);
    let detail = ready["checks"]["log"]["detail"].as_str().unwrap();
    assert!(detail.contains(reason), "{detail}");
    assert_eq!(client.get("/healthz").status, 200);
    assert_eq!(client.get("/v1/codexd/status").status, 200);
    let begun = Instant::now();
    let refused = client.post("/v1/codexd/sessions", &json!({}));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(begun.elapsed() < Duration::from_secs(5), "at once: {:?}", begun.elapsed());
    let body = refused.json();
    assert_eq!(body["error"], "unavailable");
    assert!(body["message"].as_str().unwrap().contains(reason), "{body}");
    assert!(refused.header("retry-after").is_some());
}

/// What a stream has shown is in the log, whole; the log ends with a line.
pub(crate) fn check_log_first(daemon: &Daemon, stream: &Stream) {
    let seen = stream.events();
    let logged = on_disk(daemon);
    check_contiguous(&logged);
    for event in &seen {
        assert!(logged.contains(event), "seen but not logged: {event}");
    }
}

/// The time it takes to be ready again.
pub(crate) fn wait_ready(client: &Client) -> Duration {
    let begun = Instant::now();
    wait_until("it is ready again", || readyz(client).0 == 200);
    begun.elapsed()
}

pub(crate) fn words(client: &Client, turn: &str) -> usize {
    pages(client, 0, "type=app-server.turn.message.delta&limit=10000")
        .iter()
        .filter(|event| event["detail"]["turnId"] == turn)
        .count()
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_start_on_a_full_disk_fails_and_says_why() {
    let ended =
        Daemon::builder().env("CODEXD_FAULT", "fail:log.write:1").try_start().err().expect("no start");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("the event log cannot be written: Input/output error"), "{}", ended.stderr);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn an_input_output_error_is_a_full_disk_without_end() {
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", "fail:log.write:8").start();
    let client = daemon.client();
    let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
    // Some of these are the eighth write.
    let mut answers = Vec::new();
    while answers.last() != Some(&503) {
        answers.push(client.post("/v1/codexd/sessions", &json!({})).status);
        assert!(answers.len() < 20, "{answers:?}");
    }
    check_stalled(&client, "Input/output error");
    check_log_first(&daemon, &stream);
    let created = answers.iter().filter(|&&status| status == 201).count();
    assert_eq!(daemon.stop().status.code(), Some(1));
    check_contiguous(&on_disk(&daemon));
    let mut daemon = daemon.again().env("CODEXD_FAULT", "none").start();
    let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(listed.as_array().unwrap().len(), created);
    daemon.stop();
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_call_that_is_under_way_is_refused_soon_as_well() {
    // The write that fails is of the other session's words, and the answers to some of the calls stand behind them.
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", "fail:log.write:60").start();
    let client = daemon.client();
    turn(&client, &new_session(&client), "say 100000 words");
    let refused_in = |client: &Client| {
        loop {
            let begun = Instant::now();
            let answer = client.post("/v1/codexd/sessions", &json!({}));
            if answer.status != 201 {
                assert_eq!(answer.status, 503, "{}", answer.text());
                assert!(answer.text().contains("Input/output error"), "{}", answer.text());
                return begun.elapsed();
            }
        }
    };
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8).map(|_| scope.spawn(|| refused_in(&daemon.client()))).collect();
        for caller in callers {
            let took = caller.join().unwrap();
            assert!(took < Duration::from_secs(30), "at the deadline of a minute: {took:?}");
        }
    });
    daemon.stop();
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_failed_fsync_ends_the_daemon() {
    for sync in ["--sync=always", "--sync=interval"] {
        let mut running = Daemon::builder().flags(&[sync]).env("CODEXD_FAULT", "fail:log.sync:8").start();
        let mut created = 0;
        // With the interval the eighth sync takes eight seconds; the connection ends with the process.
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let Ok(mut socket) = std::net::TcpStream::connect(crate::client::authority(running.base()))
            else {
                break;
            };
            let _ = socket.set_read_timeout(Some(DEADLINE));
            let host = crate::client::authority(running.base());
            let request = format!(
                "POST /v1/codexd/sessions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
                 content-length: 2\r\nconnection: close\r\n\r\n{{}}"
            );
            let _ = socket.write_all(request.as_bytes());
            let mut answer = String::new();
            let _ = std::io::Read::read_to_string(&mut socket, &mut answer);
            if answer.starts_with("HTTP/1.1 201 ") {
                created += 1;
            }
        }
        let ended = running.wait();
        assert_eq!(ended.status.code(), Some(70), "{ended:?}");
        assert!(ended.stderr.contains("cannot be forced to disk"), "{}", ended.stderr);
        let mut next = running.again().env("CODEXD_FAULT", "none").start();
        let listed = next.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        assert!(listed.as_array().unwrap().len() >= created, "{created}: {listed}");
        next.stop();
        check_contiguous(&on_disk(&next));
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_folder_that_cannot_be_opened_to_be_forced_is_waited_for() {
    for sync in ["--sync=always", "--sync=interval"] {
        let mut daemon = Daemon::builder()
            .flags(&[sync, "--max-log-bytes=3000"])
            .env("CODEXD_FAULT", "fail:log.folder:3")
            .start();
        let client = daemon.client();
        let mut answers = Vec::new();
        while answers.last() != Some(&503) {
            answers.push(client.post("/v1/codexd/sessions", &json!({})).status);
            assert!(answers.len() < 100, "{answers:?}");
        }
        check_stalled(&client, "Input/output error");
        let created = answers.iter().filter(|&&status| status == 201).count();
        assert!(created > 2, "{sync}: {answers:?}");
        assert_eq!(daemon.stop().status.code(), Some(1), "{sync}");
        let mut daemon = daemon.again().env("CODEXD_FAULT", "none").start();
        let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        assert_eq!(listed.as_array().unwrap().len(), created, "{sync}");
        daemon.stop();
        check_contiguous(&on_disk(&daemon));
    }
}

/// A mounted tmpfs; unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` where this is not permitted.
    fn mount(at: &Path, size: &str) -> Option<Tmpfs> {
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Tmpfs(at.to_owned()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_file_system_without_space() {
    let mut daemon = Daemon::builder().start();
    daemon.stop();
    let logs = daemon.log("").parent().unwrap().to_owned();
    let Some(_tmpfs) = Tmpfs::mount(&logs, "24m") else {
        return skipped("a_file_system_without_space", "no permission to mount a tmpfs");
    };
    daemon.restart();
    let client = daemon.client();
    let session = new_session(&client);
    let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
    let running = turn(&client, &session, "slow: 600 5");
    let filler = logs.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    check_stalled(&client, "No space left on device");
    let (_, ready) = readyz(&client);
    assert_eq!(ready["checks"]["disk"]["ok"], false);
    check_log_first(&daemon, &stream);
    drop(file);
    fs::remove_file(&filler).unwrap();
    let took = wait_ready(&client);
    println!("space came back: ready after {took:?}");
    assert!(took < RESUMES_WITHIN, "{took:?}");
    wait_for_turn(&client, &running);
    assert_eq!(words(&client, &running), 600);
    daemon.stop();
    stream.close_code();
    let logged = on_disk(&daemon);
    check_contiguous(&logged);
    assert_eq!(
        stream.events()[..],
        logged[(stream.events()[0]["seq"].as_u64().unwrap() - logged[0]["seq"].as_u64().unwrap()) as usize..]
    );
}

/// A folder in which nothing may be made, renamed or removed, until dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// `None` where that is not possible: root needs a file system with the immutable attribute (chattr(1)).
    fn make(folder: &Path) -> Option<Self> {
        let made = if rustix::process::geteuid().is_root() {
            Command::new("chattr").arg("+i").arg(folder).output().is_ok_and(|output| output.status.success())
        } else {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o500)).is_ok()
        };
        made.then(|| Self(folder.to_owned()))
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        if rustix::process::geteuid().is_root() {
            let _ = Command::new("chattr").arg("-i").arg(&self.0).output();
        } else {
            let _ = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700));
        }
    }
}

#[test]
fn folders_nobody_may_write_to() {
    let mut daemon = Daemon::builder().flags(&["--max-log-bytes=20000"]).start();
    let client = daemon.client();
    let session = new_session(&client);
    for name in ["logs", "state"] {
        let folder = if name == "logs" { daemon.log("") } else { daemon.state("") };
        let Some(guard) = ReadOnly::make(&folder) else {
            return skipped("folders_nobody_may_write_to", "this file system has no immutable folders");
        };
        let running = turn(&client, &session, "say 200 words");
        if name == "logs" {
            // The segment is full, and there cannot be another.
            let root = rustix::process::geteuid().is_root();
            check_stalled(&client, if root { "Operation not permitted" } else { "Permission denied" });
        } else {
            wait_until("it is noticed", || readyz(&client).1["checks"]["disk"]["ok"] == false);
            let (status, ready) = readyz(&client);
            assert_eq!(status, 503);
            let detail = ready["checks"]["disk"]["detail"].as_str().unwrap();
            assert!(detail.starts_with("cannot write"), "{detail}");
            // The log has it, so it is kept.
            assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
        }
        drop(guard);
        let took = wait_ready(&client);
        assert!(took < RESUMES_WITHIN, "{name}: {took:?}");
        wait_for_turn(&client, &running);
        assert_eq!(words(&client, &running), 200);
    }
    daemon.stop();
    check_contiguous(&on_disk(&daemon));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_torn_end_that_cannot_be_kept_leaves_nothing_however_often_it_is_tried() {
    let mut daemon = Daemon::builder().start();
    daemon.stop();
    let path = daemon.log("events.jsonl");
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":").unwrap();
    let torn = fs::read(&path).unwrap();
    let names = || {
        let entries = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    for _ in 0..3 {
        let failing = daemon.again().env("CODEXD_FAULT", "fail:tail.write:1");
        let ended = failing.try_start().err().expect("no start");
        let message = format!("codexd: cannot set aside the torn end of {}: ", path.display());
        assert!(ended.stderr.contains(&message), "{}", ended.stderr);
        assert_eq!((names(), fs::read(&path).unwrap()), (before.clone(), torn.clone()));
    }
    daemon.restart();
    let broken: Vec<_> = names().into_iter().filter(|name| !before.contains(name)).collect();
    let [broken] = &broken[..] else { panic!("{broken:?}") };
    assert_eq!(fs::read(path.with_file_name(broken)).unwrap(), b"{\"seq\":");
    daemon.stop();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "names of threads are told by Linux only")]
fn only_the_interval_of_sync_has_a_thread() {
    for (sync, has_one) in [("interval", true), ("always", false), ("never", false)] {
        let mut daemon = Daemon::builder().flags(&["--sync", sync]).start();
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let mut names =
            threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
        assert_eq!(names.any(|name| name == "log-sync\n"), has_one, "--sync {sync}");
        daemon.stop();
    }
}
