//! What is forced to disk while the log goes on.

use crate::daemon::Daemon;
use crate::log::{new_session, turn};

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn every_segment_is_forced_to_disk_once_it_is_finished() {
    // What is being written is forced once a second: at that pace the two hundredth time would be minutes away.
    let mut daemon = Daemon::builder()
        .flags(&["--sync=interval", "--max-log-bytes=2000"])
        .env("CODEXD_FAULT", "fail:log.sync:200")
        .start();
    let client = daemon.client();
    turn(&client, &new_session(&client), "slow: 10000 1");
    let ended = daemon.wait();
    assert_eq!(ended.status.code(), Some(70), "{ended:?}");
    assert!(ended.stderr.contains("cannot be forced to disk"), "{}", ended.stderr);
}
