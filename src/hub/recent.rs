//! The last events, kept at hand: the end of the log, as much of it as fits.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Batch, Subject};

/// Bytes of JSON that are kept at most. They are in memory, in recent-events.json and twice in every hello of a stream,
/// and a single event may have as many as `--max-line-bytes`. A turn with the largest prompt has three events of 4 MiB, and
/// is to be there as a whole.
pub(super) const MOST_BYTES: usize = 16 * 1024 * 1024;

/// A cached event.
#[derive(Debug, Clone)]
pub struct Recent {
    /// Its number.
    pub seq: u64,
    /// What it is about.
    pub subject: Subject,
    /// Its JSON.
    pub json: Arc<str>,
}

/// The last events, oldest first: at most so many of them, and at most 16 MiB of them. None is left out between two that
/// are kept, so an event that is too large by itself leaves none, until newer ones come; the log has it.
#[derive(Debug)]
pub struct RecentEvents {
    events: VecDeque<Recent>,
    /// Of the events' JSON.
    bytes: usize,
    capacity: usize,
}

impl RecentEvents {
    /// None yet, and so many at most.
    pub fn new(capacity: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, capacity }
    }

    /// How many are kept at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The events.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Recent> {
        self.events.iter()
    }

    /// One more, newer than all others.
    pub fn push(&mut self, event: Recent) {
        self.bytes += event.json.len();
        self.events.push_back(event);
        self.make_fit();
    }

    /// Those of a batch, newer than all others. What would not stay is not copied.
    pub(super) fn extend(&mut self, batch: &Batch) {
        let entries = batch.entries();
        let mut bytes = 0;
        let stays = |size: usize| {
            bytes += size;
            bytes <= MOST_BYTES
        };
        let newest_first = entries.iter().rev().map(|entry| batch.event(entry).len());
        let kept = newest_first.take(self.capacity).map(stays).take_while(|&stays| stays).count();
        if kept < entries.len() {
            self.events.clear();
            self.bytes = 0;
        }
        for entry in &entries[entries.len() - kept..] {
            let Ok(json) = std::str::from_utf8(batch.event(entry)) else { continue };
            self.push(Recent {
                seq: entry.seq,
                subject: batch.subject(entry).clone(),
                json: Arc::from(json),
            });
        }
    }

    fn make_fit(&mut self) {
        while self.events.len() > self.capacity || self.bytes > MOST_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.json.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::{EventType, Level};

    /// A batch of events of these sizes.
    fn batch(first_seq: u64, sizes: &[usize]) -> Batch {
        let mut batch = Batch::default();
        for (seq, &size) in (first_seq..).zip(sizes) {
            let event = "x".repeat(size);
            let about = batch.about(Subject::default());
            batch.push(seq, EventType::Notification, Level::Info, about, &[event.as_bytes()]);
        }
        batch
    }

    fn seqs(events: &RecentEvents) -> Vec<u64> {
        let bytes: usize = events.iter().map(|event| event.json.len()).sum();
        assert_eq!(bytes, events.bytes);
        assert!(bytes <= MOST_BYTES && events.iter().len() <= events.capacity());
        events.iter().map(|event| event.seq).collect()
    }

    #[test]
    fn of_small_events_the_last_so_many_are_kept() {
        let mut events = RecentEvents::new(3);
        for (first_seq, count, expected) in
            [(1, 2, vec![1, 2]), (3, 2, vec![2, 3, 4]), (5, 9, vec![11, 12, 13])]
        {
            events.extend(&batch(first_seq, &vec![100; count]));
            assert_eq!(seqs(&events), expected);
        }
        let mut none = RecentEvents::new(0);
        none.extend(&batch(1, &[100, 100]));
        assert_eq!(seqs(&none), [0; 0]);
    }

    #[test]
    fn of_large_events_so_many_are_kept_as_fit() {
        const QUARTER: usize = MOST_BYTES / 4;
        for one_by_one in [true, false] {
            let mut events = RecentEvents::new(50);
            let mut add = |first_seq: u64, sizes: &[usize]| {
                if one_by_one {
                    (first_seq..).zip(sizes).for_each(|(seq, &size)| events.extend(&batch(seq, &[size])));
                } else {
                    events.extend(&batch(first_seq, sizes));
                }
                seqs(&events)
            };
            assert_eq!(add(1, &[QUARTER; 10]), [7, 8, 9, 10]);
            assert_eq!(add(11, &[1]), [8, 9, 10, 11]);
            assert_eq!(add(12, &[3 * QUARTER]), [11, 12]);
            assert_eq!(add(13, &[QUARTER, 1]), [13, 14]);
            assert_eq!(add(15, &[10, MOST_BYTES]), [16]);
            assert_eq!(add(17, &[10, MOST_BYTES + 1]), [0; 0]);
            assert_eq!(add(19, &[10, 10]), [19, 20]);
            assert_eq!(add(21, &[MOST_BYTES + 1, 10]), [22]);
        }
    }
}
