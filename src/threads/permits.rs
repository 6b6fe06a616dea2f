//! A count of how many may do a thing at once.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

/// So many may do it at a time. Who comes when one is given back may be faster than who waits for it.
#[derive(Debug)]
pub struct Permits {
    /// A token for each that is left.
    left: Receiver<()>,
    give_back: Sender<()>,
    count: usize,
}

/// One of [`Permits`], given back when dropped: also by a panic.
#[derive(Debug)]
#[must_use = "dropping it gives the permit back"]
pub struct Permit<'a>(&'a Permits);

impl Permits {
    /// That many.
    pub fn new(count: usize) -> Self {
        let (give_back, left) = bounded(count);
        for _ in 0..count {
            // There is room for all.
            let _ = give_back.try_send(());
        }
        Self { left, give_back, count }
    }

    /// One, if one is left.
    pub fn take(&self) -> Option<Permit<'_>> {
        self.left.try_recv().ok().map(|()| Permit(self))
    }

    /// One, as soon as one is left, if that is within `wait`.
    pub fn take_within(&self, wait: Duration) -> Option<Permit<'_>> {
        self.left.recv_timeout(wait).ok().map(|()| Permit(self))
    }

    /// How many are taken now.
    pub fn taken(&self) -> usize {
        self.count - self.left.len()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        // There is room for all.
        let _ = self.0.give_back.try_send(());
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn no_more_than_there_are() {
        let permits = Permits::new(2);
        let one = permits.take();
        let two = permits.take_within(Duration::ZERO);
        assert!(one.is_some() && two.is_some() && permits.take().is_none());
        assert!(permits.take_within(Duration::from_millis(1)).is_none());
        assert_eq!(permits.taken(), 2);
        drop(one);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _three = permits.take().unwrap();
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err());
        assert_eq!(permits.taken(), 1);
        assert!(permits.take().is_some());
    }
}
