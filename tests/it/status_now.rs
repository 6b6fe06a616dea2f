//! The status that many ask for all the time tells what is true at that moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use codexd::hub::Hub;
use codexd::hub::batch::{Batch, Subject};
use codexd::hub::subscription::Direct;
use codexd::model::event::EventType;
use serde_json::{Value, json};

use crate::cli_support::codexd;
use crate::client::{Client, Stream};
use crate::daemon::Daemon;
use crate::log::wait_until;
use crate::lone_hub;
use crate::talk::{id, of_turn, session, turn};

/// Sees the hub's version at the moment at which it is told of events.
struct Look(Hub, Mutex<Vec<u64>>);

impl Direct for Look {
    fn take(&self, _: &Batch) -> bool {
        self.1.lock().unwrap().push(self.0.version());
        true
    }
}

#[test]
fn the_version_has_changed_before_anybody_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["start", "--repo-root", folder.path().to_str().unwrap()];
    let config = codexd::cli::config_of(&words, &|_| None, folder.path()).unwrap().unwrap();
    let (hub, threads) = lone_hub::start(&config);
    let look = Arc::new(Look(hub.clone(), Mutex::default()));
    let subscription = hub.ask(|core| core.subscribe()).unwrap();
    subscription.take_directly(&look);
    let mut versions = vec![hub.version()];
    let unchanged = hub.version();
    for _ in 0..3 {
        let answered = hub.transact(|_, drafts| {
            drafts.push(
                EventType::StoreRepaired,
                format_args!("x"),
                None::<&Value>,
                Subject::default(),
                None,
            );
        });
        answered.unwrap();
        versions.push(hub.version());
    }
    hub.ask(|core| core.update_daemon(|daemon| daemon.pid = Some(1))).unwrap();
    versions.push(hub.version());
    // Before anything can fail: what is left running would be waited for.
    threads.stop();
    assert_eq!(unchanged, versions[0], "nothing had happened");
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    assert_eq!(*look.1.lock().unwrap(), versions[1..4]);
}

const STATUS: &str = "/v1/codexd/status";

/// Ends those who ask, also when the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn snapshot(client: &Client) -> Value {
    client.get(STATUS).json()["data"]["snapshot"].take()
}

fn last_turn_status(snapshot: &Value, session: &str) -> Option<Value> {
    let sessions = snapshot["sessionRegistry"]["sessions"].as_array().unwrap();
    let found = sessions.iter().find(|record| record["sessionId"] == session)?;
    Some(found["lastTurnStatus"].clone())
}

#[test]
fn what_was_acknowledged_or_seen_is_in_the_next_status() {
    let mut daemon = Daemon::builder().start();
    let client = daemon.client();
    let stream = Stream::open(daemon.ws_url());
    let done = AtomicBool::new(false);
    let ask = || {
        let client = daemon.client();
        while !done.load(Ordering::SeqCst) {
            assert_eq!(client.get(STATUS).status, 200);
        }
    };
    thread::scope(|scope| {
        let _done = Done(&done);
        for n in 0..3 {
            thread::Builder::new().name(format!("asks-{n}")).spawn_scoped(scope, ask).unwrap();
        }
        for _ in 0..30 {
            let session = id(&session(&client, &json!({}))).to_owned();
            assert_eq!(last_turn_status(&snapshot(&client), &session), Some(Value::Null));
            let turn = turn(&client, &session, "say 2 words");
            assert!(last_turn_status(&snapshot(&client), &session).is_some_and(|is| !is.is_null()));
            let completed = of_turn(&stream, "app-server.turn.completed", &turn);
            let now = snapshot(&client);
            assert_eq!(last_turn_status(&now, &session), Some(json!("completed")));
            let recent = now["recentEvents"]["events"].as_array().unwrap();
            assert!(recent.iter().any(|event| event["seq"] == completed["seq"]), "{completed} is not there");
        }
    });
    daemon.stop();
}

#[test]
fn the_address_of_a_daemon_that_runs_is_found_by_its_state_folder() {
    // It listens at any free port.
    let mut daemon = Daemon::builder().start();
    let status = |daemon: &Daemon, flag: &str| {
        let (logs, state) = (daemon.log(""), daemon.state(""));
        let root = |folder: &std::path::Path| folder.parent().unwrap().to_str().unwrap().to_owned();
        codexd(&["status", flag, "--logs-dir", &root(&logs), "--state-dir", &root(&state)])
    };
    // The file is written once the start is over.
    wait_until("the state file has it", || {
        let text = std::fs::read(daemon.state("daemon-state.json")).unwrap_or_default();
        serde_json::from_slice::<Value>(&text).is_ok_and(|state| state["started"] == true)
    });
    let told = format!("codexd: this daemon listens at {}: name that with --local-api-base\n", daemon.base());
    let ran = status(&daemon, "--log-level=warn");
    assert_eq!((ran.code, ran.stderr), (0, told));
    assert!(
        ran.stdout.contains(" daemon=running ")
            && ran.stdout.contains(" local_api_base=http://127.0.0.1:4319 ")
    );
    let here = status(&daemon, &format!("--local-api-base={}", daemon.base()));
    assert_eq!((here.code, here.stderr.as_str()), (0, ""));
    let json: Value = serde_json::from_str(&status(&daemon, "--json").stdout).unwrap();
    assert_eq!(json["daemon"]["resolvedBaseUrl"], daemon.base());
    let served = daemon.client().get("/v1/codexd/status").json();
    assert_eq!(served["data"]["snapshot"]["daemon"]["resolvedBaseUrl"], daemon.base());
    // What a daemon that was killed has left there is no address.
    daemon.kill();
    let ran = status(&daemon, "--json");
    let json: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.stderr.as_str(), &json["daemon"]["resolvedBaseUrl"]), ("", &Value::Null));
    daemon.restart();
    daemon.stop();
    assert_eq!(daemon.state_json("daemon-state.json")["resolvedBaseUrl"], Value::Null);
}
