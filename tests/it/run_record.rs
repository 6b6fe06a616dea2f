//! What became of a run is recorded once and whole, however long the hub is held up by something else, and though its
//! last message cannot be read for a moment.

use std::path::Path;
use std::sync::{Arc, Mutex};

use codexd::app_server::inbox::Inbox;
use codexd::config::Config;
use codexd::exec::pool::Pool;
use codexd::exec::process::Shared;
use codexd::hub::{Core, Hub, HubError, HubThreads};
use codexd::model::record::RunStatus;
use codexd::ops::Ops;
use codexd::ops::body::Body;
use codexd::ops::service::Service;
use codexd::process::ledger::Ledger;
use codexd::store::files::make_folder;
use codexd::timer::{Timer, TimerThread};
use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use crate::conversation::{fake_codex, until};
use crate::daemon::Daemon;
use crate::run_bench::Bench;
use crate::{DEADLINE, lone_hub};

#[test]
fn what_a_run_prints_while_the_hub_answers_nobody_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let codex = fake_codex(&format!(
        "cd {}; echo '{{\"n\":0}}'; while [ ! -e now ]; do sleep 0.02; done; echo '{{\"n\":1}}'; : > printed",
        root.display()
    ));
    let Lone { config, hub, threads, timer_thread, ops } = Lone::start(root, &codex);
    let body = Body::parse(br#"{"prompt": "x", "json": true}"#).unwrap();
    let run = ops.create_run(&body, None).unwrap().run.run_id.clone();
    let log = config.paths.events();
    until("the first line", DEADLINE, || (printed(&log) == [0]).then_some(()));

    let (let_go, question) = hold_up(&hub);
    while hub.waiting().control < 256 {
        hub.started();
    }
    std::fs::File::create(root.join("now")).unwrap();
    until("the second line", DEADLINE, || root.join("printed").exists().then_some(()));
    // Whoever has asked before this one has been told as well that there is no answer.
    assert!(matches!(hub.ask(|_| ()), Err(HubError::Timeout)));
    drop(let_go);
    question.join().unwrap();
    until("the run's end", DEADLINE, || {
        let run = run.clone();
        let status = hub.ask(move |core| core.state().runs.get(&run).map(|run| run.status)).ok()?;
        (status == Some(RunStatus::Completed)).then_some(())
    });
    ops.runs.stop();
    drop(timer_thread);
    threads.stop();
    assert_eq!(printed(&log), [0, 1]);
}

#[test]
fn a_run_whose_cancel_is_being_recorded_has_not_ended() {
    let folder = tempfile::tempdir().unwrap();
    let codex = fake_codex("exec sleep 300");
    let Lone { hub, threads, timer_thread, ops, .. } = Lone::start(folder.path(), &codex);
    let body = Body::parse(br#"{"prompt": "x"}"#).unwrap();
    let run = || ops.create_run(&body, None).unwrap().run.run_id.clone();
    let (runs, waits) = (run(), run());
    // Nothing of it is on its way to the hub then.
    let is_running = || (ops.run(&runs).unwrap().status == RunStatus::Running).then_some(());
    until("the first run", DEADLINE, is_running);
    let (let_go, question) = hold_up(&hub);
    std::thread::scope(|scope| {
        let cancelling = scope.spawn(|| ops.runs.cancel(&waits));
        until("the cancel on its way to the hub", DEADLINE, || (hub.waiting().events > 0).then_some(()));
        assert!(ops.runs.cancel(&waits), "its record says that it waits");
        drop(let_go);
        assert!(cancelling.join().unwrap());
    });
    question.join().unwrap();
    assert_eq!(ops.run(&waits).unwrap().status, RunStatus::Failed);
    assert!(!ops.runs.cancel(&waits), "it has ended");
    ops.runs.stop();
    drop(timer_thread);
    threads.stop();
}

/// The verbs of a daemon with room for one run at a time and one that waits, without the daemon.
struct Lone {
    config: Arc<Config>,
    hub: Hub,
    threads: HubThreads,
    timer_thread: TimerThread,
    ops: Ops,
}

impl Lone {
    fn start(root: &Path, codex: &Path) -> Lone {
        let words =
            ["start", "--repo-root", root.to_str().unwrap(), "--codex-command", codex.to_str().unwrap()];
        let config = Arc::new(codexd::cli::config_of(&words, &|_| None, root).unwrap().unwrap());
        let (hub, threads) = lone_hub::start(&config);
        let client = lone_hub::client(&hub, &config);
        let (timer, timer_thread) = Timer::start().unwrap();
        let inbox = Arc::new(Inbox::new(hub.clone(), Arc::clone(&client), timer, &config));
        let (ledger, _) = Ledger::open(&config.paths.processes(), "test", &mut Vec::new()).unwrap();
        let shared = Shared {
            command: config.runs.command.clone(),
            leading_args: Vec::new(),
            fallback_cwd: root.to_owned(),
            temporary: root.join("temporary"),
            logs: root.join("runs"),
            ledger,
            starts: Mutex::default(),
        };
        make_folder(&shared.temporary).unwrap();
        let service = Arc::new(Service::new(&config));
        let runs = Pool::new(hub.clone(), shared, 1, 1);
        let ops = Ops::new(Arc::clone(&config), hub.clone(), client, inbox, service, runs);
        Lone { config, hub, threads, timer_thread, ops }
    }
}

/// The hub is busy with a question until what this returns is dropped.
fn hold_up(hub: &Hub) -> (Sender<()>, std::thread::JoinHandle<()>) {
    let (let_go, held) = bounded::<()>(0);
    let (asked, busy) = bounded(1);
    let asking = hub.clone();
    let question = move || {
        let held_up = move |_: &mut Core| {
            asked.send(()).unwrap();
            let _ = held.recv();
        };
        // It is past its deadline when it is let go.
        let _ = asking.ask(held_up);
    };
    let question = std::thread::Builder::new().name("question".into()).spawn(question).unwrap();
    busy.recv_timeout(DEADLINE).unwrap();
    (let_go, question)
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_last_message_that_cannot_be_read_is_tried_again_a_little_later() {
    let codex = fake_codex(&format!("exec '{}' stub-exec \"$@\"", env!("CARGO_BIN_EXE_codexd")));
    for (fault, summary) in
        [("once:run.last-message:1", "word0 word1 word2 "), ("fail:run.last-message:1", "exit_code:0")]
    {
        let mut bench = Bench::real(&codex, Daemon::builder().env("CODEXD_FAULT", fault));
        let done = bench.run(&json!({ "prompt": "say 3 words" }));
        assert_eq!((&done["status"], &done["summary"]), (&json!("completed"), &json!(summary)), "{fault}");
        bench.daemon.stop();
    }
}

/// The numbers that the log's `run.output` events have.
fn printed(log: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
    let events = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events
        .filter(|event| event["type"] == "run.output")
        .map(|event| event["detail"]["event"]["n"].as_u64().unwrap())
        .collect()
}
