//! Between the front door and the handlers: what is lost on the way there or back is told, and nobody waits for it.

use std::time::Duration;

use serde_json::json;

use crate::daemon::Daemon;

/// How long a lost answer would be waited for: only by a fault.
const LOST: Duration = Duration::from_secs(20);

/// A daemon to which the second request, that for a session, fails at that point; its answer, and how many sessions there
/// are after a restart.
fn second_request(point: &str) -> (u16, String, usize) {
    // The first request has one for its connection before it.
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", &format!("fail:{point}:3")).start();
    let client = daemon.client().with_deadline(LOST);
    assert_eq!(client.get("/v1/codexd/sessions").status, 200);
    let refused = client.post("/v1/codexd/sessions", &json!({}));
    let looked = client.get("/v1/codexd/sessions");
    assert_eq!((looked.status, &looked.json()["error"]), (503, &json!("unavailable")), "{point}");
    assert!(daemon.stop().status.success());
    let mut daemon = daemon.again().env("CODEXD_FAULT", "none").start();
    let sessions = daemon.client().get("/v1/codexd/sessions").json()["data"]["sessions"].take();
    daemon.stop();
    let error = refused.json()["error"].as_str().unwrap().to_owned();
    (refused.status, error, sessions.as_array().unwrap().len())
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_request_that_does_not_reach_its_handler_is_refused_and_has_no_effect() {
    assert_eq!(second_request("inner.send"), (503, "unavailable".to_owned(), 0));
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn an_answer_that_does_not_come_back_is_told_as_a_fault() {
    assert_eq!(second_request("inner.answer"), (500, "internal_error".to_owned(), 1));
}
