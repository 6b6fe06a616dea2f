//! Everybody who gets the events as they happen.

use std::sync::Arc;

use super::batch::Batch;
use super::subscription::{self, Offer, Subscriber, Subscription};

/// All subscribers. One whose client is gone is forgotten with the next event or the next subscriber, whichever comes first:
/// so they do not pile up where clients come and go and nothing happens.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    list: Vec<Subscriber>,
}

impl Subscribers {
    /// One more; it gets every batch from here on.
    pub(super) fn add(&mut self) -> Subscription {
        self.list.retain(|subscriber| !subscriber.is_gone());
        let (subscriber, subscription) = subscription::queue();
        self.list.push(subscriber);
        subscription
    }

    /// Hands a batch to all, without waiting for any. For each that could not keep up, and is one no more, the last seq that
    /// its client was given.
    pub(super) fn offer(&mut self, batch: &Arc<Batch>) -> Vec<u64> {
        let mut lagged = Vec::new();
        let direct = subscription::goes_directly(batch, self.list.len());
        self.list.retain(|subscriber| match subscriber.offer(batch, direct) {
            Offer::Queued => true,
            Offer::Gone => false,
            Offer::Lagged => {
                lagged.push(subscriber.last_queued());
                false
            }
        });
        lagged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_gone_do_not_pile_up_while_nothing_happens() {
        let mut subscribers = Subscribers::default();
        let stays = subscribers.add();
        for _ in 0..10 {
            drop(subscribers.add());
        }
        let last = subscribers.add();
        assert_eq!(subscribers.list.len(), 2);
        assert!(subscribers.offer(&Arc::new(Batch::of_size(1))).is_empty());
        for subscription in [stays, last] {
            assert!(subscription.try_next().unwrap().is_some());
        }
    }

    #[test]
    fn one_that_lagged_is_told_of_once_though_it_is_gone() {
        let mut subscribers = Subscribers::default();
        let lags = subscribers.add();
        lags.lagged_after(7);
        drop(lags);
        let stays = subscribers.add();
        let batch = Arc::new(Batch::of_size(1));
        assert_eq!(subscribers.offer(&batch), [7]);
        assert!(subscribers.offer(&batch).is_empty());
        assert_eq!([(); 3].map(|()| stays.try_next().unwrap().is_some()), [true, true, false]);
    }
}
