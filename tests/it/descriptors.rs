//! A daemon that has no descriptor left for a moment: it answers as well as it can, and is well again afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;

use crate::DEADLINE;
use crate::client::{authority, read_answer};
use crate::conversation::until;
use crate::daemon::Daemon;

/// A request takes fewer on its way: from the client, to the handlers, and what tiny_http makes of that.
const ROOM: usize = 8;

#[test]
fn every_shortage_of_descriptors_is_over_when_it_is_over() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    // Every connection that a daemon has from the start is there now.
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let host = authority(daemon.base()).to_owned();
    let ask = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
    for _ in 0..3 {
        for room in 0..ROOM {
            let mut stream = client.connect();
            stream.write_all(ask("/healthz", "").as_bytes()).unwrap();
            // It has its connection then, and no more.
            assert_eq!(read_answer(&mut stream, Instant::now() + DEADLINE, false).status, 200);
            let short = Rlimit { current: Some(limit(daemon.pid(), room)), ..getrlimit(Resource::Nofile) };
            let usual = prlimit(pid, Resource::Nofile, short).unwrap();
            stream.write_all(ask("/v1/codexd/status", "Connection: close\r\n").as_bytes()).unwrap();
            // Whatever comes of it, an answer does.
            let answer = read_answer(&mut stream, Instant::now() + DEADLINE, false);
            prlimit(pid, Resource::Nofile, usual).unwrap();
            let told = answer.json()["error"].is_string();
            assert!(told || answer.status == 200, "with {room} left: {}", answer.text());
            let after = client.get("/v1/codexd/status");
            assert_eq!(after.status, 200, "after {room}: {}", after.text());
            assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201, "after {room}");
        }
    }
    assert!(daemon.stop().status.success());
}

#[test]
fn without_a_descriptor_a_newcomer_is_answered_in_the_place_of_the_silent() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    assert_eq!(client.post("/v1/codexd/sessions", &json!({})).status, 201);
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    // So many new ones that all numbers below the limit are taken then.
    let short = Rlimit { current: Some(limit(daemon.pid(), 20)), ..getrlimit(Resource::Nofile) };
    prlimit(pid, Resource::Nofile, short).unwrap();
    let silent = [(); 40].map(|()| client.connect());
    let told = || daemon.stderr().contains("no descriptor for another connection").then_some(());
    until("a line of the log", DEADLINE, told);
    for _ in 0..20 {
        // The last descriptor may be its own, and none be left to look up whose it is.
        let answer = client.get("/healthz");
        assert!([200, 503].contains(&answer.status), "{}", answer.text());
    }
    drop(silent);
    let session = || (client.post("/v1/codexd/sessions", &json!({})).status == 201).then_some(());
    until("a session", DEADLINE, session);
    assert!(daemon.stop().status.success());
}

/// The RLIMIT_NOFILE, one more than the highest descriptor, that leaves a process so many new ones.
fn limit(pid: u32, room: usize) -> u64 {
    let open: BTreeSet<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    (0..).filter(|number| !open.contains(number)).nth(room).unwrap()
}
