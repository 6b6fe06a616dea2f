//! A wall clock that is not what one thinks; repairs has one that jumps to and fro.

use serde_json::json;

use crate::daemon::Daemon;
use crate::log::{check_contiguous, new_session, on_disk, turn, wait_for_turn};

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_clock_set_before_1970_is_one_that_stands_there() {
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", "clock:before-1970").start();
    let client = daemon.client();
    // From a handler, and from the front door itself.
    for (path, status) in [("/v1/codexd/sessions", 200), ("/v1/codexd/sessions/none", 404), ("/none", 404)] {
        let answer = client.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let dates: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "date").collect();
        let epoch = ("date".to_owned(), "Thu, 01 Jan 1970 00:00:00 GMT".to_owned());
        assert_eq!(dates, [&epoch], "{path}");
    }
    let refused = client.request("GET", "/healthz", &[("host", "elsewhere")], b"");
    assert_eq!(refused.header("date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    wait_for_turn(&client, &turn(&client, &new_session(&client), "say 3 words"));
    daemon.stop();
    let events = on_disk(&daemon);
    check_contiguous(&events);
    assert!(events.iter().all(|event| event["createdAt"] == json!("1970-01-01T00:00:00.000Z")));
}
