//! The files that an older version left (tests/fixtures): what they hold is kept as it is.

use std::fs;

use serde_json::{Value, json};

use crate::cli_support::{fixture, fixture_path};
use crate::daemon::{Builder, Daemon};
use crate::log::new_session;

const FILES: [&str; 5] = ["identity", "daemon-state", "session-registry", "run-registry", "recent-events"];

/// What they hold in that list.
fn recorded(name: &str, list: &str) -> Value {
    serde_json::from_str::<Value>(&fixture(name)).unwrap()[list].take()
}

/// A daemon to be started on those files.
fn on_recorded_files(faults: &str) -> Builder {
    let builder = Daemon::builder().env("CODEXD_FAULT", faults);
    let (logs, state) = (builder.logs().join("codexd"), builder.state().join("codexd"));
    for folder in [&logs, &state] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::copy(fixture_path("file-events.jsonl"), logs.join("events.jsonl")).unwrap();
    for name in FILES {
        fs::copy(fixture_path(&format!("file-{name}.json")), state.join(format!("{name}.json"))).unwrap();
    }
    builder
}

#[test]
fn finished_runs_and_sessions_are_what_they_were() {
    let last = fixture("file-events.jsonl").lines().count() as u64;
    let mut daemon = on_recorded_files("").start();
    for life in 1..=2 {
        let client = daemon.client();
        let runs = client.get("/v1/codexd/runs").json()["data"]["runs"].take();
        let sessions = client.get("/v1/codexd/sessions").json()["data"]["sessions"].take();
        for (now, then) in [
            (&runs, recorded("file-run-registry.json", "runs")),
            (&sessions, recorded("file-session-registry.json", "sessions")),
        ] {
            let (now, then) = (now.as_array().unwrap(), then.as_array().unwrap());
            assert_eq!(now.len(), then.len(), "life {life}");
            for (now, then) in now.iter().zip(then) {
                for (name, value) in then.as_object().unwrap() {
                    assert_eq!(&now[name], value, "{name} in life {life}");
                }
            }
        }
        let events = daemon.log_events();
        let new = events.iter().filter(|event| event["seq"].as_u64().unwrap() > last);
        let told: Vec<&Value> = new.map(|event| &event["type"]).collect();
        assert!(
            told.contains(&&json!("daemon.started")) && !told.contains(&&json!("run.failed")),
            "{told:?}"
        );
        daemon.stop();
        daemon.restart();
    }
    daemon.stop();
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn what_is_acknowledged_is_there_though_the_files_were_never_written_anew() {
    let mut acknowledged = 0;
    for number in 1..=12 {
        let fault = format!("fail:state.open:{number}");
        let Ok(mut daemon) = on_recorded_files(&fault).try_start() else { continue };
        let answer = daemon.client().post("/v1/codexd/runs", &json!({ "prompt": "x" }));
        daemon.kill();
        if answer.status != 202 {
            continue;
        }
        acknowledged += 1;
        let mut next = daemon.again().env("CODEXD_FAULT", "").start();
        let id = answer.json()["data"]["run"]["runId"].take();
        let run = next.client().get(&format!("/v1/codexd/runs/{}", id.as_str().unwrap()));
        assert_eq!(run.status, 200, "{fault}: {}", run.text());
        next.stop();
    }
    assert!(acknowledged > 2, "{acknowledged}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a file of the test, not live state")]
fn the_endpoint_of_a_session_is_the_app_servers_once_it_goes_on() {
    let builder = Daemon::builder();
    let state = builder.state().join("codexd");
    fs::create_dir_all(&state).unwrap();
    // With an id as Codex gives them, of a thread that it does not know.
    let registry = fixture("file-session-registry.json")
        .replace("thread-5758-1", "00000000-0000-7000-8000-000000000007");
    fs::write(state.join("session-registry.json"), registry).unwrap();
    let mut daemon = builder.start();
    let client = daemon.client();
    let session = recorded("file-session-registry.json", "sessions")[0]["sessionId"].take();
    let answer = client.post("/v1/codexd/turn", &json!({ "sessionId": session, "input": "go on" }));
    assert_eq!(answer.status, 202, "{}", answer.text());
    let now = client.get(&format!("/v1/codexd/sessions/{}", session.as_str().unwrap())).json();
    let new = new_session(&client);
    assert_eq!(now["data"]["session"]["endpoint"], new["endpoint"]);
    daemon.stop();
}

#[test]
fn the_identity_keeps_its_id_and_says_what_this_start_is_configured_to_be() {
    let old: Value = serde_json::from_str(&fixture("file-identity.json")).unwrap();
    let mut daemon = on_recorded_files("").flags(&["--version", "8.1", "--node-id", "moved"]).start();
    let snapshot = daemon.client().get("/v1/codexd/status").json()["data"]["snapshot"].take();
    let mut expected = old.clone();
    expected["nodeId"] = json!("moved");
    expected["repoRoot"] = snapshot["config"]["paths"]["repoRoot"].clone();
    expected["version"] = json!("8.1");
    assert_ne!(expected["repoRoot"], old["repoRoot"]);
    assert_eq!(snapshot["identity"], expected);
    daemon.stop();
    assert_eq!(daemon.state_json("identity.json"), expected);
    let started = daemon.log_events().into_iter().rfind(|event| event["type"] == "daemon.started").unwrap();
    assert_eq!(started["detail"]["identity"], expected);
}
