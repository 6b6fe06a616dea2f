//! A bound in bytes for what waits in a queue whose own bound counts messages: one message may be a line of 64 MiB.

use std::sync::{Arc, Condvar, Mutex};

use super::{lock, sound};

/// So many bytes may wait; who wants to add more waits itself. One message larger than the whole passes when nothing
/// else waits, so the most that can wait is the limit or that one message.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// Bytes taken from a budget, given back when dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the bytes back"]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: Mutex::new(0), freed: Condvar::new() })
    }

    /// Bytes that are taken now.
    pub fn used(&self) -> usize {
        *lock(&self.used)
    }

    /// Takes `bytes`, waiting until there is room. Shares that wait in a queue must be dropped with it.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Share {
        let mut used = lock(&self.used);
        while bytes > 0 && *used > 0 && *used + bytes > self.limit {
            used = sound(self.freed.wait(used));
        }
        *used += bytes;
        Share { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *lock(&self.budget.used) -= self.bytes;
        self.budget.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_the_largest_passes_alone() {
        // Some of the rounds begin to wait before the others have given back all, some after that.
        for round in 0..100 {
            let budget = Budget::new(10);
            let (first, second) = (budget.take(4), budget.take(6));
            let all_given_back = Arc::<AtomicBool>::default();
            let (taken, seen) = bounded(1);
            let (for_thread, was_given_back) = (Arc::clone(&budget), Arc::clone(&all_given_back));
            let waiting = crate::threads::spawn("test-budget", move || {
                let share = for_thread.take(100);
                taken.send(was_given_back.load(Ordering::SeqCst)).unwrap();
                drop(share);
            })
            .unwrap();
            drop(first);
            for _ in 0..round {
                std::thread::yield_now();
            }
            all_given_back.store(true, Ordering::SeqCst);
            drop(second);
            assert!(seen.recv_timeout(Duration::from_secs(30)).unwrap(), "6 bytes still waited");
            waiting.join();
            assert_eq!(*lock(&budget.used), 0);
            let (_full, _nothing) = (budget.take(10), budget.take(0));
        }
    }
}
