//! Start-up after damage: everything that is whole is kept, everything that is not is set aside and told.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::DEADLINE;
use crate::client::Stream;
use crate::daemon::Daemon;
use crate::log::{check_contiguous, new_session, on_disk, page, pages, seq, turn, wait_for_turn, wait_until};

#[expect(clippy::disallowed_methods, reason = "a damaged file is what the test makes")]
fn damage(path: &std::path::Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
}

/// A stopped daemon with two sessions, one of which ran a turn.
fn with_sessions(flags: &[&str]) -> (Daemon, Vec<Value>) {
    let mut daemon = Daemon::builder().flags(flags).start();
    let client = daemon.client();
    let sessions = vec![new_session(&client), new_session(&client)];
    wait_for_turn(&client, &turn(&client, &sessions[0], "say 30 words"));
    daemon.stop();
    (daemon, sessions)
}

fn repaired(daemon: &Daemon) -> Vec<Value> {
    pages(&daemon.client(), 0, "type=store.repaired").iter().map(|event| event["detail"].clone()).collect()
}

fn check_sessions(daemon: &Daemon, sessions: &[Value]) {
    let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    let ids = |list: &[Value]| list.iter().map(|session| session["sessionId"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(listed.as_array().unwrap()), ids(sessions));
    for (listed, created) in listed.as_array().unwrap().iter().zip(sessions) {
        assert_eq!(listed["threadId"], created["threadId"]);
        assert_eq!(listed["createdAt"], created["createdAt"]);
        assert_eq!(listed["currentTurnId"], Value::Null);
    }
    assert_eq!(listed[0]["lastTurnStatus"], "completed");
}

#[test]
fn a_torn_tail_of_any_length_is_cut_off_and_kept() {
    let (mut daemon, sessions) = with_sessions(&[]);
    let mut starts = 0;
    let path = daemon.log("events.jsonl");
    for cut in 1..=200 {
        let seq = on_disk(&daemon).last().map_or(1, |event| seq(event) + 1);
        // The record that was being written when the power went.
        let line = format!(
            "{{\"seq\":{seq},\"createdAt\":\"2026-03-22T15:39:28.123Z\",\"level\":\"info\",\"type\":\"x\",\"message\":\"{}\"}}\n",
            "ä".repeat(100)
        );
        let torn = &line.as_bytes()[..cut];
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(torn).unwrap();
        let ended = daemon.again().run(&["start", "--run-once", "--smoke-lifetime-ms=0"]);
        assert!(ended.status.success(), "cut at {cut}: {ended:?}");
        let events = on_disk(&daemon);
        check_contiguous(&events);
        let told: Vec<&Value> = events.iter().filter(|event| event["type"] == "store.repaired").collect();
        assert_eq!(told.len(), cut, "cut at {cut}");
        assert_eq!(told[cut - 1]["level"], "warn");
        let kept = daemon.log(&format!("events.{seq}.broken"));
        assert_eq!(fs::read(&kept).unwrap(), torn);
        assert_eq!(told[cut - 1]["detail"]["keptAs"], kept.display().to_string());
        starts += 1;
    }
    println!("{starts} starts after a torn tail");
    daemon.restart();
    check_sessions(&daemon, &sessions);
}

#[test]
fn a_damaged_line_in_the_middle_is_reported_and_kept() {
    let (mut daemon, sessions) = with_sessions(&[]);
    let path = daemon.log("events.jsonl");
    let mut lines: Vec<Vec<u8>> =
        fs::read(&path).unwrap().split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let middle = lines.len() / 2;
    let half = lines[middle].len() / 2;
    for byte in &mut lines[middle][half..half + 5] {
        *byte = 0xff;
    }
    lines[middle + 1] = b"\0\0\0\0\n".to_vec();
    let damaged = lines.concat();
    damage(&path, &damaged);
    // The state files are gone as well: the whole log is read.
    fs::remove_dir_all(daemon.state("")).unwrap();
    daemon.restart();
    let client = daemon.client();
    let told = repaired(&daemon);
    let about: Vec<&Value> =
        told.iter().filter(|detail| detail["file"] == path.display().to_string()).collect();
    assert_eq!(about.len(), 1, "{told:?}");
    assert_eq!(about[0]["keptAs"], Value::Null);
    assert!(about[0]["problem"].as_str().unwrap().contains("2 of its lines"), "{}", about[0]);
    assert!(fs::read(&path).unwrap().starts_with(&damaged), "what was there is kept");
    check_sessions(&daemon, &sessions);
    // Readers are told by a gap.
    let first = page(&client, "limit=10000");
    assert_eq!(first["more"], true);
    assert_eq!(first["events"].as_array().unwrap().len(), middle);
    let second = page(&client, &format!("after={middle}&limit=10000"));
    assert_eq!(second["gap"], json!({ "from": middle + 1, "to": middle + 2 }));
    assert_eq!(second["events"][0]["seq"].as_u64(), Some(middle as u64 + 3));
    let stream = Stream::open(&format!("{}?after=0", daemon.ws_url()));
    let synced = stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    assert_eq!(stream.events().len() as u64, synced["seq"].as_u64().unwrap() - 2);
}

#[test]
fn damaged_state_files_are_set_aside_and_rebuilt() {
    let (mut daemon, sessions) = with_sessions(&[]);
    let identity = daemon.state_json("identity.json")["daemonId"].clone();
    let names = [
        "identity.json",
        "daemon-state.json",
        "session-registry.json",
        "run-registry.json",
        "request-registry.json",
        "recent-events.json",
    ];
    let whole = fs::read(daemon.state("session-registry.json")).unwrap();
    let kinds: [&[u8]; 6] = [
        b"",
        &whole[..whole.len() / 2],
        b"\0\0\0\0\0",
        b"[]",
        b"{\"sessions\": 7, \"events\": {}}",
        b"\"x\"",
    ];
    let mut repairs = 0;
    for bytes in kinds {
        for name in names {
            damage(&daemon.state(name), bytes);
        }
        daemon.restart();
        repairs += names.len();
        assert_eq!(repaired(&daemon).len(), repairs, "{:?}", String::from_utf8_lossy(bytes));
        check_sessions(&daemon, &sessions);
        daemon.stop();
        assert_eq!(daemon.state_json("identity.json")["daemonId"], identity);
        check_contiguous(&on_disk(&daemon));
    }
    // Something that is no file at all.
    for name in names {
        fs::remove_file(daemon.state(name)).unwrap();
        fs::create_dir(daemon.state(name)).unwrap();
    }
    daemon.restart();
    assert_eq!(repaired(&daemon).len(), repairs + names.len());
    check_sessions(&daemon, &sessions);
    daemon.stop();
    let kept = fs::read_dir(daemon.state(""))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".damaged"))
        .count();
    assert_eq!(kept, repairs + names.len());
    for name in names {
        daemon.state_json(name);
    }
}

#[test]
fn folders_that_it_makes_are_kept_out_of_git_and_others_are_left_alone() {
    let mut daemon = Daemon::builder().start();
    let files = [daemon.log(".gitignore"), daemon.state(".gitignore")];
    for file in &files {
        assert_eq!(fs::read_to_string(file).unwrap(), "*\n");
    }
    // What the folders' owner makes of them stays.
    fs::remove_file(&files[0]).unwrap();
    damage(&files[1], b"!*\n");
    daemon.stop();
    daemon.restart();
    assert!(!files[0].exists());
    assert_eq!(fs::read_to_string(&files[1]).unwrap(), "!*\n");
}

#[test]
fn fields_of_a_newer_version_survive() {
    let (mut daemon, _) = with_sessions(&[]);
    let add = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = daemon.state_json(name);
        change(&mut value);
        damage(&daemon.state(name), value.to_string().as_bytes());
    };
    let mark = json!({ "of": "a newer version" });
    add("identity.json", &|file| file["newer"] = mark.clone());
    add("daemon-state.json", &|file| {
        file["newer"] = mark.clone();
        file["child"]["newer"] = mark.clone();
    });
    add("session-registry.json", &|file| {
        file["newer"] = mark.clone();
        file["sessions"][0]["newer"] = mark.clone();
    });
    for name in ["run-registry.json", "request-registry.json", "recent-events.json"] {
        add(name, &|file| file["newer"] = mark.clone());
    }
    daemon.restart();
    assert_eq!(repaired(&daemon), [] as [Value; 0]);
    let client = daemon.client();
    let listed = client.get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    wait_for_turn(&client, &turn(&client, &listed[0], "say 3 words"));
    daemon.stop();
    for pointer in ["/newer"] {
        for name in [
            "identity.json",
            "daemon-state.json",
            "session-registry.json",
            "run-registry.json",
            "request-registry.json",
            "recent-events.json",
        ] {
            assert_eq!(daemon.state_json(name).pointer(pointer), Some(&mark), "{name}");
        }
    }
    assert_eq!(daemon.state_json("daemon-state.json")["child"]["newer"], mark);
    assert_eq!(daemon.state_json("session-registry.json")["sessions"][0]["newer"], mark);
}

#[test]
fn log_and_state_heal_each_other() {
    let (mut daemon, sessions) = with_sessions(&[]);
    let identity = daemon.state_json("identity.json")["daemonId"].clone();
    let before = on_disk(&daemon).len() as u64;
    // The state is lost: the same daemon by the log.
    fs::remove_dir_all(daemon.state("")).unwrap();
    daemon.restart();
    check_sessions(&daemon, &sessions);
    daemon.stop();
    assert_eq!(daemon.state_json("identity.json")["daemonId"], identity);
    let after = on_disk(&daemon);
    check_contiguous(&after);
    assert!(after.len() as u64 > before);
    // The log is lost: the seq goes on, the sessions stay, readers are told by a gap.
    fs::remove_dir_all(daemon.log("")).unwrap();
    daemon.restart();
    check_sessions(&daemon, &sessions);
    let first = page(&daemon.client(), "after=0");
    assert_eq!(first["oldestSeq"].as_u64(), Some(after.len() as u64 + 1));
    assert_eq!(first["gap"], json!({ "from": 1, "to": after.len() }));
    assert_eq!(repaired(&daemon).len(), 1);
    daemon.stop();
    assert_eq!(daemon.state_json("identity.json")["daemonId"], identity);
    // A part of the log is lost: a gap in the middle.
    let events = on_disk(&daemon);
    let text = fs::read_to_string(daemon.log("events.jsonl")).unwrap();
    let keep: usize = text.split_inclusive('\n').take(2).map(str::len).sum();
    damage(&daemon.log("events.jsonl"), &text.as_bytes()[..keep]);
    daemon.restart();
    let lost = json!({ "from": seq(&events[1]) + 1, "to": seq(events.last().unwrap()) });
    let second = page(&daemon.client(), &format!("after={}", seq(&events[1])));
    assert_eq!(second["gap"], lost);
    let stream = Stream::open(&format!("{}?after={}", daemon.ws_url(), seq(&events[0])));
    stream.wait_frame(|frame| frame["type"] == "synced", DEADLINE);
    let frames = stream.frames();
    assert_eq!(frames[1]["event"]["seq"], events[1]["seq"]);
    assert_eq!(
        (&frames[2]["type"], &frames[2]["from"], &frames[2]["to"]),
        (&json!("gap"), &lost["from"], &lost["to"])
    );
    drop(stream);
    daemon.stop();
    // Both are lost: a new daemon.
    fs::remove_dir_all(daemon.log("")).unwrap();
    fs::remove_dir_all(daemon.state("")).unwrap();
    daemon.restart();
    assert_eq!(page(&daemon.client(), "")["events"][0]["seq"], 1);
    assert_ne!(daemon.state_json("identity.json")["daemonId"], identity);
}

#[test]
fn numbers_go_on_from_the_last_start_when_log_and_recent_events_are_lost() {
    let (mut daemon, sessions) = with_sessions(&[]);
    // Nothing happens to sessions and runs in these lives.
    for _ in 0..3 {
        daemon.restart();
        daemon.stop();
    }
    let started = on_disk(&daemon).iter().rfind(|event| event["type"] == "daemon.started").map(seq).unwrap();
    fs::remove_dir_all(daemon.log("")).unwrap();
    fs::remove_file(daemon.state("recent-events.json")).unwrap();
    daemon.restart();
    check_sessions(&daemon, &sessions);
    let first = page(&daemon.client(), "")["events"][0]["seq"].as_u64().unwrap();
    assert!(first > started, "{first} after a start at {started}");
    daemon.stop();
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "what a process has read is told by Linux only")]
fn a_start_reads_the_tail_and_not_the_log() {
    let (mut daemon, _) = with_sessions(&["--max-log-bytes=0"]);
    let first = on_disk(&daemon).len() as u64 + 1;
    let log = fs::OpenOptions::new().append(true).open(daemon.log("events.jsonl")).unwrap();
    let mut log = std::io::BufWriter::new(log);
    let filler = "x".repeat(1000);
    for seq in first..first + 40_000 {
        writeln!(
            log,
            "{{\"seq\":{seq},\"createdAt\":\"2026-03-22T15:39:28.123Z\",\"level\":\"info\",\"type\":\"x\",\
             \"message\":\"{filler}\",\"detail\":null}}"
        )
        .unwrap();
    }
    let size = log.into_inner().unwrap().metadata().unwrap().len();
    // This start reads all of that: no state file knows it. The next one must not.
    daemon.restart();
    daemon.stop();
    daemon.restart();
    let io = fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
    let read: u64 = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap();
    println!("a log of {size} bytes, {read} bytes read at the start");
    assert!(size > 40_000_000 && read < 4_000_000, "{read} of {size}");
    assert_eq!(repaired(&daemon), [] as [Value; 0]);
}

#[test]
fn a_start_writes_what_has_changed_and_what_is_lost() {
    // What a start may leave as it is, and what says something new of every life.
    const SETTLED: [&str; 3] = ["identity.json", "session-registry.json", "run-registry.json"];
    const NEW: [&str; 3] = ["daemon-state.json", "recent-events.json", "request-registry.json"];
    let (mut daemon, sessions) = with_sessions(&[]);
    // The first start forgets which threads are loaded.
    daemon.restart();
    daemon.stop();
    let written = |daemon: &Daemon, name: &str| fs::metadata(daemon.state(name)).unwrap().modified().unwrap();
    let before: Vec<_> = SETTLED.iter().chain(&NEW).map(|name| written(&daemon, name)).collect();
    daemon.restart();
    check_sessions(&daemon, &sessions);
    daemon.stop();
    for (at, name) in SETTLED.iter().chain(&NEW).enumerate() {
        assert_eq!(written(&daemon, name) == before[at], SETTLED.contains(name), "{name}");
    }
    for name in SETTLED {
        fs::remove_file(daemon.state(name)).unwrap();
    }
    daemon.restart();
    check_sessions(&daemon, &sessions);
    daemon.stop();
    for name in SETTLED {
        assert!(daemon.state_json(name).is_object(), "{name}");
    }
}

#[test]
fn a_large_run_registry_is_read_beside_the_rest() {
    const RUNS: usize = 1000;
    let (mut daemon, sessions) = with_sessions(&[]);
    let name = "run-registry.json";
    let mut registry = daemon.state_json(name);
    let now = "2026-01-02T03:04:05.678Z";
    registry["runs"] = (0..RUNS)
        .map(|number| {
            json!({
                "runId": format!("run-{number}"), "status": "completed", "adapter": "codex-exec",
                "prompt": "x".repeat(1000), "createdAt": now, "updatedAt": now, "metadata": {},
            })
        })
        .collect();
    let whole = registry.to_string();
    damage(&daemon.state(name), whole.as_bytes());
    daemon.restart();
    check_sessions(&daemon, &sessions);
    assert_eq!(repaired(&daemon), [] as [Value; 0]);
    let run = |number: usize| daemon.client().get(&format!("/v1/codexd/runs/run-{number}")).status;
    assert_eq!((run(0), run(RUNS - 1), run(RUNS)), (200, 200, 404));
    daemon.stop();
    damage(&daemon.state(name), &whole.as_bytes()[..whole.len() - 10]);
    daemon.restart();
    check_sessions(&daemon, &sessions);
    let repaired = repaired(&daemon);
    assert!(repaired.len() == 1 && repaired[0]["file"].as_str().unwrap().ends_with(name), "{repaired:?}");
    daemon.stop();
}

#[test]
fn a_cache_of_no_events_is_empty() {
    let (mut daemon, _) = with_sessions(&["--event-cache-size=0"]);
    for _ in 0..2 {
        let recent = daemon.state_json("recent-events.json");
        assert_eq!(recent["maxEntries"], 0);
        assert_eq!(recent["events"], json!([]));
        daemon.restart();
        let client = daemon.client();
        let status = client.get("/v1/codexd/status").json();
        assert_eq!(status["data"]["snapshot"]["recentEvents"]["events"], json!([]));
        assert_eq!(daemon.stream().hello()["recentEvents"], json!([]));
        assert!(page(&client, "")["events"].as_array().unwrap().len() > 5, "the log has them all");
        daemon.stop();
    }
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_clock_that_jumps_touches_neither_seq_nor_deadlines() {
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", "clock:jump").start();
    let client = daemon.client();
    let stream = daemon.stream();
    let sessions: Vec<Value> = (0..5).map(|_| new_session(&client)).collect();
    for session in &sessions {
        wait_for_turn(&client, &turn(&client, session, "say 20 words"));
    }
    let status = client.get("/v1/codexd/status").json();
    assert_eq!(status["data"]["snapshot"]["daemon"]["child"]["status"], "running");
    daemon.stop();
    let events = on_disk(&daemon);
    check_contiguous(&events);
    let live = stream.events();
    check_contiguous(&live);
    let times: Vec<&str> = events.iter().map(|event| event["createdAt"].as_str().unwrap()).collect();
    assert!(!times.is_sorted(), "the clock has jumped");
    daemon.restart();
    let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(listed.as_array().unwrap().len(), 5);
}

#[test]
fn a_log_taken_away_while_it_is_written_is_begun_anew_and_told() {
    let mut daemon = Daemon::builder().start();
    let path = daemon.log("events.jsonl");
    let mut sessions = vec![new_session(&daemon.client())];
    for take_away in [
        (|path| fs::remove_file(path).unwrap()) as fn(&std::path::Path),
        |path| fs::rename(path, path.with_file_name("elsewhere")).unwrap(),
        |path| {
            fs::remove_file(path).unwrap();
            damage(path, b"somebody's own\n");
        },
    ] {
        let (client, stream) = (daemon.client(), daemon.stream());
        take_away(&path);
        sessions.push(new_session(&client));
        let told = stream.wait_for_type("store.repaired");
        assert_eq!(told["detail"]["file"], path.display().to_string());
        let problem = told["detail"]["problem"].as_str().unwrap();
        wait_until("the line on standard error", || daemon.stderr().contains(problem));
        let kept_as = told["detail"]["keptAs"].as_str();
        assert!(kept_as.is_none_or(|kept| fs::read(kept).unwrap() == b"somebody's own\n"));

        sessions.push(new_session(&client));
        // What is on disk is all that there is, and readers are told what there is no more.
        let shown = page(&client, "after=0");
        let shown_events = shown["events"].as_array().unwrap();
        let events = on_disk(&daemon);
        check_contiguous(&events);
        assert!(shown_events.contains(&told) && events.starts_with(shown_events));
        let gap = seq(&events[0]) > 1;
        assert_eq!(
            shown["gap"],
            if gap { json!({ "from": 1, "to": seq(&events[0]) - 1 }) } else { Value::Null }
        );

        // Nor is anything lost that was acknowledged.
        daemon.kill();
        daemon.restart();
        check_contiguous(&on_disk(&daemon));
        let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        let ids = |list: &[Value]| list.iter().map(|one| one["sessionId"].clone()).collect::<Vec<_>>();
        assert_eq!(ids(listed.as_array().unwrap()), ids(&sessions));
    }
    daemon.stop();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a damaged file is what the test makes")]
fn a_number_that_no_event_can_have_is_not_believed() {
    let mut daemon = Daemon::builder().start();
    let session = new_session(&daemon.client());
    daemon.stop();
    for name in ["session-registry.json", "recent-events.json"] {
        let mut file = daemon.state_json(name);
        file["appliedSeq"] = json!(u64::MAX);
        if name == "session-registry.json" {
            file["sessions"] = json!([]);
        }
        std::fs::write(daemon.state(name), file.to_string()).unwrap();
    }
    daemon.restart();
    let listed = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    assert_eq!(listed[0]["sessionId"], session["sessionId"], "the log has it");
    daemon.stop();
    check_contiguous(&daemon.log_events());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file that is behind is what the test makes")]
fn each_registry_is_brought_forward_from_where_it_stands_itself() {
    let mut daemon = Daemon::builder().start();
    let (client, stream) = (daemon.client(), daemon.stream());
    let session = new_session(&client);
    let body = json!({ "prompt": "x" });
    assert_eq!(client.post("/v1/codexd/runs", &body).status, 202);
    let ended = |event: &Value| event["type"] == "run.completed" || event["type"] == "run.failed";
    let run = stream.wait_for(ended, DEADLINE)["detail"]["record"].take();
    for (name, list) in [("session-registry.json", "sessions"), ("run-registry.json", "runs")] {
        daemon.stop();
        // As after a save that was cut off before it came to this one.
        let mut file = daemon.state_json(name);
        (file[list], file["appliedSeq"]) = (json!([]), json!(1));
        std::fs::write(daemon.state(name), file.to_string()).unwrap();
        let mut recent = daemon.state_json("recent-events.json");
        recent["appliedSeq"] = json!(1);
        std::fs::write(daemon.state("recent-events.json"), recent.to_string()).unwrap();
        daemon.restart();
        let listed =
            |path: &str| daemon.client().get(&format!("/v1/codexd/{path}")).json()["data"][path].take();
        assert_eq!(listed("sessions")[0]["sessionId"], session["sessionId"], "{name}");
        assert_eq!(listed("runs"), json!([run]), "{name}");
    }
    daemon.stop();
}
