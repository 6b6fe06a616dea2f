//! Waiting for a turn to begin or to end, without a subscription to everything.

use std::sync::{Arc, Weak};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::change::Change;

/// One wait for the next beginning or end of a turn in one thread.
#[derive(Debug)]
pub struct TurnWatch {
    over: Receiver<()>,
    _alive: Arc<()>,
}

impl TurnWatch {
    /// Waits, and says whether it came before the deadline. It may also be that no turn can begin or end there any
    /// more: look again.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        self.over.recv_deadline(deadline) != Err(RecvTimeoutError::Timeout)
    }
}

#[derive(Debug)]
struct Watch {
    thread_id: String,
    alive: Weak<()>,
    /// Dropped when it is over; nothing is ever sent.
    _over: Sender<()>,
}

/// Everybody who waits.
#[derive(Debug, Default)]
pub(super) struct Watches {
    list: Vec<Watch>,
}

impl Watches {
    pub(super) fn add(&mut self, thread_id: &str) -> TurnWatch {
        self.list.retain(|watch| watch.alive.strong_count() > 0);
        let (sender, over) = bounded(0);
        let alive = Arc::new(());
        self.list.push(Watch {
            thread_id: thread_id.to_owned(),
            alive: Arc::downgrade(&alive),
            _over: sender,
        });
        TurnWatch { over, _alive: alive }
    }

    /// Wakes those whom a change of the state concerns; they look again, and find it made.
    pub(super) fn wake(&mut self, change: &Change) {
        if self.list.is_empty() {
            return;
        }
        match change {
            Change::TurnStarted { thread_id, .. }
            | Change::TurnCompleted { thread_id, .. }
            | Change::TurnError { thread_id, will_retry: false, .. } => {
                self.list.retain(|watch| watch.thread_id != *thread_id);
            }
            // Rare, and whoever was woken for nothing looks again.
            Change::TurnMissing { .. } | Change::SessionClosed { .. } | Change::DaemonStopped => {
                self.list.clear();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_watch_is_woken_by_its_own_thread_and_forgotten_when_dropped() {
        let mut watches = Watches::default();
        let (mine, other) = (watches.add("t"), watches.add("u"));
        watches.wake(&Change::TurnStarted { thread_id: "t".to_owned(), turn_id: "1".to_owned() });
        assert!(mine.wait_until(Instant::now() + Duration::from_secs(30)));
        assert!(!other.wait_until(Instant::now()));
        drop(other);
        let _last = watches.add("u");
        assert_eq!(watches.list.len(), 1);
    }
}
