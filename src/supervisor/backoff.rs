//! How long to wait before the child is started again.

use std::time::Duration;

use crate::clock;

const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A life of this length was healthy.
const HEALTHY: Duration = Duration::from_secs(60);

/// Exponential backoff with jitter.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// The wait after a life of that length. A life that completed a turn was no crash loop, however short it was.
    pub(super) fn next(&mut self, lived: Duration, progress: bool) -> Duration {
        if progress || lived >= HEALTHY {
            self.next = SHORTEST;
        }
        let delay = self.next;
        self.next = (self.next * 2).min(LONGEST);
        // Up to a quarter more, so that many daemons on one host do not restart in step.
        (delay + clock::jitter(delay / 4)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_is_throttled_and_forgiven() {
        let mut backoff = Backoff::new();
        let delays: Vec<Duration> = (0..8).map(|_| backoff.next(Duration::ZERO, false)).collect();
        for (delay, expected) in delays.iter().zip([500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000])
        {
            let millis = delay.as_millis();
            assert!(millis >= expected && millis <= expected * 5 / 4, "{delay:?} for {expected}");
        }
        assert!(backoff.next(HEALTHY, false) < Duration::from_secs(1));
        backoff.next(Duration::ZERO, false);
        assert!(backoff.next(Duration::ZERO, true) < Duration::from_secs(1));
    }
}
