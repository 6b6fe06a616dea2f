//! What is forced to disk while the log goes on.

use crate::daemon::Daemon;
use crate::log::{new_session, turn};

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn every_segment_is_forced_to_disk_once_it_is_finished() {
    // What is being written is forced once a second: at that pace the fault would come after twice the deadline. Small
    // segments, for a machine on which each event takes its time.
    let mut daemon = Daemon::builder()
        .flags(&["--sync=interval", "--max-log-bytes=500"])
        .env("CODEXD_FAULT", "fail:log.sync:120")
        .start();
    let client = daemon.client();
    turn(&client, &new_session(&client), "slow: 10000 1");
    let ended = daemon.wait();
    assert_eq!(ended.status.code(), Some(70), "{ended:?}");
    assert!(ended.stderr.contains("cannot be forced to disk"), "{}", ended.stderr);
}
