//! A client's place on the stream: a bounded queue of shared batches that the hub never waits for.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::batch::Batch;

/// Bytes that may wait for one client, counted as [`weight`] does, before another batch is refused. The batches are shared
/// by all clients. At full speed (some 300 MB/s) this is a tenth of a second in which a client's thread did not come
/// to its turn on a busy machine.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;
/// A batch weighs no less than this: the memory of an event that waits alone.
const LEAST_WEIGHT: usize = 512;
/// And no more than this: a client that is a few events behind is not slow because some have 20 MB each, as a long answer
/// and the item it completes do. So no more than five batches of any length wait for one client.
const MOST_WEIGHT: usize = QUEUE_BYTES / 4;

/// A batch goes directly to so many clients at most: each costs the hub some 10 µs.
const DIRECT_CLIENTS: usize = 4;
/// And if it is no longer than that, in bytes. More means that the hub is behind: then its time is better spent on what
/// waits for it.
const DIRECT_BYTES: usize = 4 * 1024;

/// Whether a batch is to be offered directly, with so many clients.
pub fn goes_directly(batch: &Batch, clients: usize) -> bool {
    batch.len() <= DIRECT_BYTES && clients <= DIRECT_CLIENTS
}

/// A client that takes an event from the hub's own thread while it is up to date: that saves waking another thread,
/// which takes longer than all the rest.
pub trait Direct: Send + Sync {
    /// Sends the batch to the client if that needs no waiting at all, neither for a lock nor for the client. Whether it
    /// did; if not the batch comes by the queue, and whatever of it was sent is passed over there.
    fn take(&self, batch: &Batch) -> bool;
}

#[derive(Debug, Default)]
struct Shared {
    /// Is gone before the client is: the hub keeps no client's socket open.
    direct: OnceLock<Weak<dyn Direct>>,
    queued_bytes: AtomicUsize,
    lagged: AtomicBool,
    gone: AtomicBool,
    /// The last seq that was queued.
    last_queued: AtomicU64,
}

/// Why a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The daemon stops: every event up to `daemon.stopped` was queued.
    Shutdown,
    /// The client was too slow: what it has not got begins after the last batch of the queue.
    Lagged,
}

/// The client's end.
#[derive(Debug)]
pub struct Subscription {
    batches: Receiver<Arc<Batch>>,
    shared: Arc<Shared>,
}

/// The hub's end.
#[derive(Debug)]
pub struct Subscriber {
    batches: Sender<Arc<Batch>>,
    shared: Arc<Shared>,
}

/// A queue's two ends.
pub fn queue() -> (Subscriber, Subscription) {
    #[expect(
        clippy::disallowed_methods,
        reason = "bounded by what its batches weigh; a channel of so many slots would keep their memory for every idle client"
    )]
    let (sender, receiver) = unbounded();
    let shared = Arc::new(Shared::default());
    (Subscriber { batches: sender, shared: Arc::clone(&shared) }, Subscription { batches: receiver, shared })
}

/// What a batch counts towards [`QUEUE_BYTES`].
fn weight(batch: &Batch) -> usize {
    batch.len().clamp(LEAST_WEIGHT, MOST_WEIGHT)
}

/// What became of a batch that was offered. "Queued" is also what the client has got by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It waits in the queue.
    Queued,
    /// The queue is full, or nothing was taken for too long: the subscriber must be dropped, its client is cut off after what it has.
    Lagged,
    /// The client is gone.
    Gone,
}

impl Subscriber {
    /// Queues a batch without ever waiting. `direct`: or sends it to the client at once, if that needs no waiting either.
    pub fn offer(&self, batch: &Arc<Batch>, direct: bool) -> Offer {
        if self.shared.lagged.load(Ordering::Acquire) {
            return Offer::Lagged;
        }
        if self.is_gone() {
            return Offer::Gone;
        }
        let waiting = self.shared.queued_bytes.load(Ordering::Acquire);
        if waiting > QUEUE_BYTES {
            self.shared.lagged.store(true, Ordering::Release);
            return Offer::Lagged;
        }
        // What was queued before is counted until the client's thread has it and the lock that `take` tries.
        if !(direct && waiting == 0 && self.take(batch)) {
            // Counted before it is sent, or the client could take it off before it was put on.
            self.shared.queued_bytes.fetch_add(weight(batch), Ordering::AcqRel);
            if self.batches.send(Arc::clone(batch)).is_err() {
                return Offer::Gone;
            }
        }
        if let Some(last) = batch.entries().last() {
            self.shared.last_queued.store(last.seq, Ordering::Release);
        }
        Offer::Queued
    }

    /// Whether the client is gone by its own will: of one that lagged is still to be told.
    pub fn is_gone(&self) -> bool {
        self.shared.gone.load(Ordering::Acquire) && !self.shared.lagged.load(Ordering::Acquire)
    }

    fn take(&self, batch: &Batch) -> bool {
        self.shared.direct.get().and_then(Weak::upgrade).is_some_and(|direct| direct.take(batch))
    }

    /// The last seq its client was given, or 0.
    pub fn last_queued(&self) -> u64 {
        self.shared.last_queued.load(Ordering::Acquire)
    }
}

impl Subscription {
    /// The next batch if there is one now; `Ok(None)` when the queue is empty for the moment.
    ///
    /// # Errors
    /// Why there will be no more. What was queued before that is still handed out first.
    pub fn try_next(&self) -> Result<Option<Arc<Batch>>, End> {
        match self.batches.try_recv() {
            Ok(batch) => Ok(Some(self.taken(batch))),
            Err(crossbeam_channel::TryRecvError::Empty) => Ok(None),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(self.end()),
        }
    }

    /// From here on the hub may hand batches to the client by itself. A second call does nothing.
    pub fn take_directly(&self, direct: &Arc<impl Direct + 'static>) {
        self.shared.direct.get_or_init(|| Arc::downgrade(direct) as Weak<dyn Direct>);
    }

    /// The queue itself, to be waited for together with other channels; what is received through it must be passed
    /// to [`Subscription::taken`].
    pub fn receiver(&self) -> &Receiver<Arc<Batch>> {
        &self.batches
    }

    /// Accounts for a batch received through [`Subscription::receiver`].
    pub fn taken(&self, batch: Arc<Batch>) -> Arc<Batch> {
        self.shared.queued_bytes.fetch_sub(weight(&batch), Ordering::AcqRel);
        batch
    }

    /// The client takes nothing any more, and is cut off after this seq; the hub tells of it with the next event.
    pub fn lagged_after(&self, seq: u64) {
        self.shared.last_queued.store(seq, Ordering::Release);
        self.shared.lagged.store(true, Ordering::Release);
    }

    /// Why the queue ended, once the receiver reports that it did.
    pub fn end(&self) -> End {
        if self.shared.lagged.load(Ordering::Acquire) { End::Lagged } else { End::Shutdown }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize) -> Arc<Batch> {
        Arc::new(Batch::of_size(bytes))
    }

    /// Takes what has no more than so many bytes.
    struct UpTo(usize, AtomicUsize);

    impl Direct for UpTo {
        fn take(&self, batch: &Batch) -> bool {
            let takes = batch.len() <= self.0;
            self.1.fetch_add(usize::from(takes), Ordering::SeqCst);
            takes
        }
    }

    #[test]
    fn a_batch_goes_directly_unless_something_waits_before_it() {
        let (hub, client) = queue();
        let direct = Arc::new(UpTo(1, AtomicUsize::new(0)));
        let taken = |bytes, directly| {
            assert_eq!(hub.offer(&of(bytes), directly), Offer::Queued);
            direct.1.swap(0, Ordering::SeqCst) == 1
        };
        assert!(!taken(1, true), "nobody is there to take it");
        client.take_directly(&direct);
        assert!(!taken(1, true), "the first one waits");
        while client.try_next().unwrap().is_some() {}
        assert!(taken(1, true));
        assert!(client.try_next().unwrap().is_none());
        assert!(!taken(1, false), "it is not to go directly");
        while client.try_next().unwrap().is_some() {}
        assert!(!taken(2, true), "it is refused");
        assert!(!taken(1, true), "what was refused waits");
        assert_eq!([(); 3].map(|()| client.try_next().unwrap().is_some()), [true, true, false]);
        assert!(taken(1, true));
    }

    #[test]
    fn one_that_is_gone_is_not_kept_by_the_hub() {
        let (hub, client) = queue();
        let direct = Arc::new(UpTo(1, AtomicUsize::new(0)));
        client.take_directly(&direct);
        assert_eq!(hub.offer(&of(1), true), Offer::Queued);
        assert_eq!(Arc::strong_count(&direct), 1);
        drop(direct);
        assert_eq!(hub.offer(&of(1), true), Offer::Queued);
        assert!(client.try_next().unwrap().is_some());
    }

    #[test]
    fn large_batches_and_many_clients_go_by_the_queue() {
        let ways = [(1, 1), (DIRECT_BYTES, 4), (DIRECT_BYTES + 1, 1), (1, 5)];
        assert_eq!(
            ways.map(|(bytes, clients)| goes_directly(&of(bytes), clients)),
            [true, true, false, false]
        );
    }

    #[test]
    fn a_few_giants_and_what_follows_them_wait_together() {
        let (hub, client) = queue();
        for bytes in [20_000_000, 300, 20_000_000, 300, 20_000_000, 300, 300] {
            assert_eq!(hub.offer(&of(bytes), false), Offer::Queued);
        }
        while client.try_next().unwrap().is_some() {}
        assert_eq!(hub.shared.queued_bytes.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_client_that_takes_nothing_lags_whatever_the_size() {
        for (bytes, most) in [(1, QUEUE_BYTES / LEAST_WEIGHT + 1), (1 << 20, 33), (20 << 20, 5)] {
            let (hub, client) = queue();
            let batch = of(bytes);
            let queued = (0..=most).take_while(|_| hub.offer(&batch, false) == Offer::Queued).count();
            assert_eq!(queued, most, "of {bytes} bytes");
            drop(hub);
            for _ in 0..queued {
                assert!(client.try_next().unwrap().is_some());
            }
            assert_eq!(client.try_next().unwrap_err(), End::Lagged);
        }
    }

    #[test]
    fn one_that_took_nothing_for_too_long_has_lagged_and_not_just_gone() {
        let (hub, client) = queue();
        assert_eq!(hub.offer(&of(1), false), Offer::Queued);
        client.lagged_after(7);
        drop(client);
        assert_eq!((hub.offer(&of(1), false), hub.last_queued()), (Offer::Lagged, 7));
    }
}
