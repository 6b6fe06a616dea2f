//! Of all that want a connection one shakes hands, and what comes of it is for all.

use std::thread;
use std::time::Duration;

use codexd::config::Strategy;
use crossbeam_channel::bounded;
use serde_json::json;

use crate::conversation::{sleeps, until};
use crate::inbox_reconnect::Parts;
use crate::{DEADLINE, lone_hub};

#[test]
fn who_waits_for_a_handshake_that_fails_has_failed_and_the_next_tries_again() {
    let parts = Parts::start(Strategy::External, Duration::ZERO);
    let mut wire = parts.connect(1);
    let connection = &*wire.connection.clone();
    let client = lone_hub::client(&parts.hub, &parts.config);
    let greet = || client.greet(connection).map_err(|error| error.to_string());
    thread::scope(|scope| {
        let first = scope.spawn(greet);
        let id = wire.heard()["id"].clone();
        let (name, named) = bounded(4);
        let others: Vec<_> = (0..4)
            .map(|_| {
                let name = name.clone();
                scope.spawn(move || {
                    name.send(rustix::thread::gettid()).unwrap();
                    greet()
                })
            })
            .collect();
        let waiting: Vec<_> = others.iter().map(|_| named.recv_timeout(DEADLINE).unwrap()).collect();
        until("the others wait", DEADLINE, || waiting.iter().all(|&thread| sleeps(thread)).then_some(()));
        wire.say(json!({"id": id, "error": {"code": -32600, "message": "not you"}}));
        for greeted in others.into_iter().chain([first]) {
            let error = greeted.join().unwrap().unwrap_err();
            assert!(error.contains("not you"), "{error}");
        }
        let next = scope.spawn(greet);
        let id = wire.heard()["id"].clone();
        wire.say(json!({"id": id, "result": {"userAgent": "codex"}}));
        assert_eq!(next.join().unwrap(), Ok(()));
        assert_eq!(wire.heard()["method"], "initialized");
        assert_eq!(greet(), Ok(()));
    });
    let log = std::fs::read_to_string(parts.config.paths.events()).unwrap();
    let told = |kind: &str| log.matches(&format!("\"type\":\"{kind}\"")).count();
    assert_eq!((told("app-server.connect.failed"), told("app-server.connected")), (1, 1));
}
