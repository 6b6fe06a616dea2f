//! Who asks while the hub ends is told so at once.

use std::io::Write;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use codexd::hub::{Hub, HubError};
use codexd::threads::answer::answer;
use crossbeam_channel::RecvTimeoutError;
use rustix::process::Signal;

use crate::conversation::rounds;
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
