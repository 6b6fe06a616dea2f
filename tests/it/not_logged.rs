//! What is only to happen, and is itself what the log does not take: it has not happened, and leaves no trace.

use std::time::{Duration, Instant};

use codexd::clock;
use serde_json::json;

use crate::daemon::Daemon;
use crate::file_limit::{limit_files, log_size};
use crate::inbox_support::Bench;
use crate::log::{check_contiguous, on_disk, pages, wait_until};

/// The log of an idle daemon takes so many bytes more, or, with `None`, any number of them.
fn limit_log(daemon: &Daemon, more: Option<u64>) {
    limit_files(daemon, more.map(|more| log_size(daemon) + more));
}

/// Half a line fits. Nothing else is being logged: what comes next is what fails, not what comes after that.
const HALF_A_LINE: Option<u64> = Some(40);

fn wait_ready(daemon: &Daemon) {
    wait_until("it is ready again", || daemon.client().get("/readyz").status == 200);
}

#[test]
fn what_the_log_did_not_take_is_refused_and_its_place_and_number_are_given_again() {
    // Room for two runs.
    let mut daemon = Daemon::builder().flags(&["--max-concurrent-runs=1", "--max-queued-runs=1"]).start();
    let client = daemon.client();
    let begin = || client.post("/v1/codexd/runs", &json!({ "prompt": "x" }));
    let runs = || client.get("/v1/codexd/runs").json()["data"]["runs"].as_array().unwrap().len();
    for round in 1..=2 {
        limit_log(&daemon, HALF_A_LINE);
        let refused = begin();
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.json()["error"], "unavailable");
        assert_eq!(runs(), 0);
        // Time for the log to be tried again, in vain; nothing tells of that.
        let until = Instant::now() + Duration::from_secs(1);
        wait_until("a second", || Instant::now() >= until);
        assert_eq!(client.get("/readyz").status, 503);
        limit_log(&daemon, None);
        wait_ready(&daemon);
        assert_eq!(pages(&client, 0, "type=store.resumed").len(), round);
    }
    assert_eq!(runs(), 0);
    let accepted = begin();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    daemon.stop();
    check_contiguous(&on_disk(&daemon));
}

#[test]
fn an_answer_that_the_log_did_not_take_is_not_sent() {
    let mut bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({}), "run: one");
    limit_log(&bench.daemon, HALF_A_LINE);
    let refused = bench.answer(&request, &json!({ "decision": "accept" }));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(bench.request(&request)["status"], "pending");
    limit_log(&bench.daemon, None);
    wait_ready(&bench.daemon);
    // What Codex has heard is this answer alone.
    bench.answered(&request, json!({ "decision": "decline" }));
    assert_eq!(bench.ended(&turn), "completed");
    assert!(bench.said(&turn).contains("rejected by user"), "{}", bench.said(&turn));
    bench.daemon.stop();
    check_contiguous(&on_disk(&bench.daemon));
}

#[test]
fn a_deadline_that_passes_while_the_log_takes_nothing_counts_as_soon_as_it_does() {
    let mut bench = Bench::stub();
    let (_, turn, request) = bench.asked(json!({ "requestTimeoutMs": 2000 }), "run: one");
    limit_log(&bench.daemon, HALF_A_LINE);
    let deadline = clock::parse_iso(request["deadline"].as_str().unwrap()).unwrap();
    // Nothing tells when it has been seen to, in vain.
    wait_until("the deadline", || clock::unix_millis() > deadline + 500);
    assert_eq!(bench.client.get("/readyz").status, 503);
    assert_eq!(bench.request(&request)["status"], "pending");
    limit_log(&bench.daemon, None);
    bench.settled("request.expired", &request);
    assert_eq!(bench.ended(&turn), "completed");
    bench.daemon.stop();
    check_contiguous(&on_disk(&bench.daemon));
}
