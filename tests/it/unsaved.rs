//! State files that cannot be written for a while, by a daemon to which nothing more happens then.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Daemon;
use crate::log::{new_session, wait_until};

#[test]
fn what_could_not_be_saved_is_saved_once_it_can_be_though_nothing_more_happens() {
    let mut daemon = Daemon::builder().start();
    let folder = daemon.state("x").parent().unwrap().to_owned();
    let away = folder.with_file_name("away");
    // The first files of a new daemon are there.
    wait_until("the files", || folder.join("session-registry.json").exists());
    std::fs::rename(&folder, &away).unwrap();
    let session = new_session(&daemon.client());
    wait_until("it is noticed", || daemon.stderr().contains("trying again"));
    // Until all that came of it has been tried as well, in vain; nothing tells of that.
    let until = Instant::now() + Duration::from_secs(2);
    wait_until("two seconds", || Instant::now() >= until);
    std::fs::rename(&away, &folder).unwrap();
    let saved = || {
        let file: Value = daemon.state_json("session-registry.json");
        file["sessions"].as_array().unwrap().iter().any(|saved| saved["sessionId"] == session["sessionId"])
    };
    wait_until("it is saved", saved);
    wait_until("it is ready again", || daemon.client().get("/readyz").status == 200);
    assert!(daemon.stderr().contains("the state files can be written again"), "{}", daemon.stderr());
    daemon.stop();
}
