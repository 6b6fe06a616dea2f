//! A system that does not even let the port be waited for, as poll(2) says `ENOMEM` where the kernel has no memory left.

use crate::daemon::Daemon;

#[test]
#[cfg_attr(not(debug_assertions), ignore = "only a debug build has faults on demand")]
fn a_port_that_cannot_be_waited_for_neither_fills_the_log_nor_holds_up_the_stop() {
    let mut daemon = Daemon::builder().env("CODEXD_FAULT", "fail:port.poll:1").start();
    let told = |times: u32| format!("poll on the port, {times} times so far: Input/output error");
    crate::log::wait_until("it is tried again", || daemon.stderr().contains(&told(4)));
    let ended = daemon.stop();
    assert!(ended.status.success(), "{ended:?}");
    let lines = ended.stderr.lines().filter(|line| line.contains("poll on the port")).count();
    // One for each power of two that the tries came to: ten a second, and a test may take its time.
    assert!((3..=12).contains(&lines), "{lines}: {}", ended.stderr);
}
