//! What waits for the hub is bounded, and who asks while it ends is told so at once.

use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use codexd::hub::batch::Subject;
use codexd::hub::drafts::Drafts;
use codexd::hub::{Hub, HubError};
use codexd::model::event::EventType;
use codexd::threads::answer::answer;
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use rustix::process::Signal;
use serde_json::json;

use crate::conversation::{rounds, until};
use crate::daemon::Daemon;
use crate::{DEADLINE, client, lone_hub};

/// Asks until there is nobody to ask.
fn ask(hub: &Hub, all_ask: &Barrier) {
    assert!(hub.ask(|_| ()).is_ok());
    all_ask.wait();
    loop {
        match hub.ask(|_| ()) {
            Ok(()) => {}
            Err(HubError::Stopped) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The same in the child's order.
fn ask_in_order(hub: &Hub, all_ask: &Barrier) {
    all_ask.wait();
    loop {
        let (reply, outcome) = answer();
        if hub.transact_in_order(0, |_, _| (), move |_| reply.give(())).is_err() {
            return;
        }
        let heard = outcome.wait(Instant::now() + DEADLINE);
        assert_ne!(heard, Err(RecvTimeoutError::Timeout));
    }
}

#[test]
fn whoever_asks_while_the_hub_ends_waits_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["start", "--repo-root", folder.path().to_str().unwrap()];
    let config = codexd::cli::config_of(&words, &|_| None, folder.path()).unwrap().unwrap();
    for _ in 0..rounds(100, 2000) {
        let (hub, threads) = lone_hub::start(&config);
        let all_ask = Barrier::new(5);
        thread::scope(|scope| {
            for number in 0..4 {
                let (hub, all_ask) = (&hub, &all_ask);
                let asks = move || if number < 3 { ask(hub, all_ask) } else { ask_in_order(hub, all_ask) };
                thread::Builder::new().name(format!("asks-{number}")).spawn_scoped(scope, asks).unwrap();
            }
            all_ask.wait();
            threads.stop();
        });
    }
}

#[test]
fn a_stop_while_clients_ask_abandons_none_of_them() {
    for _ in 0..rounds(5, 100) {
        let mut daemon = Daemon::builder().start();
        let all_ask = Barrier::new(9);
        let ended = thread::scope(|scope| {
            for number in 0..8 {
                let (client, base, all_ask) = (daemon.client(), daemon.base().to_owned(), &all_ask);
                let asks = move || {
                    let mut connection = client.connect();
                    let host = client::authority(&base);
                    let request = format!("GET /v1/codexd/sessions HTTP/1.1\r\nhost: {host}\r\n\r\n");
                    let mut status = || {
                        // The other side may be gone; then there is no answer.
                        let _ = connection.write_all(request.as_bytes());
                        client::read_answer(&mut connection, Instant::now() + DEADLINE, false).status
                    };
                    assert_eq!(status(), 200);
                    all_ask.wait();
                    while status() != 0 {}
                };
                thread::Builder::new().name(format!("asks-{number}")).spawn_scoped(scope, asks).unwrap();
            }
            all_ask.wait();
            daemon.signal(Signal::TERM);
            daemon.wait()
        });
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(!ended.stderr.contains("handler") && !ended.stderr.contains("did not end"), "{ended:?}");
    }
}

#[test]
fn what_waits_for_the_hub_is_bounded_in_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let words = ["start", "--repo-root", folder.path().to_str().unwrap()];
    let config = codexd::cli::config_of(&words, &|_| None, folder.path()).unwrap().unwrap();
    let (hub, threads) = lone_hub::start(&config);
    // The hub is busy with a question until the test lets it go.
    let (let_go, held) = bounded::<()>(0);
    let (asked, busy) = bounded(1);
    let asking = hub.clone();
    let question = move || {
        let held_up = move |_: &mut codexd::hub::Core| {
            asked.send(()).unwrap();
            let _ = held.recv();
        };
        asking.ask(held_up).unwrap();
    };
    let question = std::thread::Builder::new().name("question".into()).spawn(question).unwrap();
    busy.recv_timeout(DEADLINE).unwrap();
    let (sent, passed) = bounded(100);
    let sending = hub.clone();
    let send = move || {
        let long = json!({"text": "x".repeat(10_000_000)});
        for _ in 0..20 {
            let mut drafts = Drafts::new();
            let kind = EventType::from_name("app-server.notification").unwrap();
            drafts.push(kind, format_args!("long"), Some(&long), Subject::default(), None);
            sending.send(drafts).unwrap();
            sent.send(()).unwrap();
        }
    };
    let sender = std::thread::Builder::new().name("sender".into()).spawn(send).unwrap();
    passed.recv_timeout(DEADLINE).unwrap();
    // Of the 8 messages that may wait, two of this size are too many.
    assert!(passed.recv_timeout(Duration::from_secs(1)).is_err());
    drop(let_go);
    question.join().unwrap();
    for _ in 1..20 {
        passed.recv_timeout(DEADLINE).unwrap();
    }
    sender.join().unwrap();
    threads.stop();
}

/// Keeps the hub busy until what this returns is dropped.
fn keep_busy(hub: &Hub) -> Sender<()> {
    let (busy, is_busy) = bounded(0);
    let (free, is_free) = bounded::<()>(0);
    let wait = move |_: &mut codexd::hub::Core, _: &mut Drafts| {
        busy.send(()).unwrap();
        // An error is the end of the wait.
        let _ = is_free.recv();
    };
    hub.transact_in_order(0, wait, |_| ()).unwrap();
    is_busy.recv().unwrap();
    free
}

fn said(text: &str) -> Drafts {
    let mut drafts = Drafts::new();
    drafts.push(EventType::ChildStderr, format_args!("{text}"), None::<&()>, Subject::default(), None);
    drafts
}

#[test]
fn what_waits_for_a_busy_hub_is_counted_in_bytes() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = codexd::cli::resolve::resolve(codexd::cli::low::LowArgs::default(), folder.path()).unwrap();
    let (hub, threads) = lone_hub::start(&config);
    let free = keep_busy(&hub);
    let drafts = said("x");
    let length = drafts.len();
    hub.send(drafts).unwrap();
    assert_eq!(hub.waiting().event_bytes, length);
    hub.transact_in_order(1000, |_, _| (), |_| ()).unwrap();
    assert_eq!(hub.waiting().event_bytes, length + 1000);
    drop(free);
    threads.stop();
    assert_eq!(hub.waiting().event_bytes, 0);
}

#[test]
fn what_was_sent_to_the_hub_before_its_end_is_logged() {
    // Which of its inboxes a hub looks at first is chance, and the same chance for each that has done as much before.
    for round in 0..8 {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config =
            codexd::cli::resolve::resolve(codexd::cli::low::LowArgs::default(), folder.path()).unwrap();
        let (hub, threads) = lone_hub::start(&config);
        (0..round).for_each(|_| hub.ask(|_| ()).unwrap());
        let free = keep_busy(&hub);
        (0..4).for_each(|number| hub.send(said(&number.to_string())).unwrap());
        let before = hub.waiting().control;
        thread::scope(|scope| {
            scope.spawn(|| threads.stop());
            // Or the persister has said something there: then this round shows nothing.
            until("its end is asked for", DEADLINE, || (hub.waiting().control > before).then_some(()));
            drop(free);
        });
        let log = std::fs::read_to_string(config.paths.events()).unwrap();
        assert_eq!(log.lines().filter(|line| line.contains("child.stderr")).count(), 4);
    }
}
