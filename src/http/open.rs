//! The connections that are open: no more than so many at a time.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::Connection;
use crate::threads::Thread;

/// How long a newcomer waits for the end of a connection that was ended for it.
const PATIENCE: Duration = Duration::from_millis(500);

/// By their number, each with its thread once that has started.
type ByNumber = HashMap<u64, (Arc<Connection>, Option<Thread>)>;

/// The open connections. When there are as many as may be, a newcomer takes the place of the one whose request has been
/// waited for the longest: clients that say nothing cannot shut out those that do.
#[derive(Debug)]
pub(super) struct Open {
    most: usize,
    by_number: Mutex<ByNumber>,
    /// Told of each end.
    ended: Condvar,
    /// How often a request was begun to be waited for.
    turns: AtomicU64,
}

impl Open {
    /// At most so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, by_number: Mutex::default(), ended: Condvar::new(), turns: AtomicU64::new(0) }
    }

    /// Takes it in; `false` if there is no room, nor in a moment, because all the others are served.
    pub(super) fn admit(&self, number: u64, connection: &Arc<Connection>) -> bool {
        let mut open = self.lock();
        if open.len() >= self.most {
            let (now, made) = self.make_room_in(open);
            if !made {
                return false;
            }
            open = now;
        }
        self.waits(connection);
        open.insert(number, (Arc::clone(connection), None));
        true
    }

    /// Ends the one whose request has been waited for the longest, for want of what it holds; `false` if there is none
    /// or it has not ended in a moment.
    pub(super) fn make_room(&self) -> bool {
        self.make_room_in(self.lock()).1
    }

    fn make_room_in<'a>(&self, open: MutexGuard<'a, ByNumber>) -> (MutexGuard<'a, ByNumber>, bool) {
        if !end_the_longest_waiting(&open) {
            return (open, false);
        }
        let before = open.len();
        let ended = self.ended.wait_timeout_while(open, PATIENCE, |open: &mut ByNumber| open.len() >= before);
        let (open, outcome) = ended.unwrap_or_else(PoisonError::into_inner);
        (open, !outcome.timed_out())
    }

    /// Its thread, which it is given back if the connection has ended already.
    pub(super) fn started(&self, number: u64, thread: Thread) -> Option<Thread> {
        match self.lock().get_mut(&number) {
            Some((_, handle)) => handle.replace(thread),
            None => Some(thread),
        }
    }

    /// A request on it is waited for from now on.
    pub(super) fn waits(&self, connection: &Connection) {
        connection.waiting.wait(self.turns.fetch_add(1, Ordering::Relaxed));
    }

    /// It has ended; how many are left.
    pub(super) fn strike_off(&self, number: u64) -> usize {
        let (ended, left) = {
            let mut open = self.lock();
            (open.remove(&number), open.len())
        };
        // The thread's handle is dropped by the thread itself: nobody has to join it. The socket is closed with it, before
        // anybody who waits for its descriptor is told.
        drop(ended);
        self.ended.notify_one();
        left
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Does something to each.
    pub(super) fn each(&self, act: impl Fn(&Connection)) {
        self.lock().values().for_each(|(connection, _)| act(connection));
    }

    fn lock(&self) -> MutexGuard<'_, ByNumber> {
        self.by_number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there was one.
fn end_the_longest_waiting(open: &ByNumber) -> bool {
    let mut waiting: Vec<_> =
        open.values().filter_map(|(connection, _)| Some((connection.waiting.since()?, connection))).collect();
    waiting.sort_unstable_by_key(|(since, _)| *since);
    let ended = waiting.into_iter().find(|(since, connection)| connection.waiting.end(*since));
    if let Some((_, connection)) = ended {
        // The client may be gone already.
        drop(connection.stream.shutdown(Shutdown::Both));
    }
    ended.is_some()
}

/// Whether a connection waits for a request, and since which turn of all that have waited. Each wait ends once: with a
/// request that is whole, or for somebody else's sake.
#[derive(Debug)]
pub(super) struct Waiting(AtomicU64);

impl Waiting {
    const NOT: u64 = u64::MAX;

    /// Of a connection that does not wait yet.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Self::NOT))
    }

    fn wait(&self, turn: u64) {
        self.0.store(turn, Ordering::Relaxed);
    }

    fn since(&self) -> Option<u64> {
        let since = self.0.load(Ordering::Relaxed);
        (since != Self::NOT).then_some(since)
    }

    /// Whether it was still waiting since then.
    fn end(&self, since: u64) -> bool {
        self.0.compare_exchange(since, Self::NOT, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The request is there; `false` if the connection was ended before.
    pub(super) fn has_come(&self) -> bool {
        self.0.swap(Self::NOT, Ordering::Relaxed) != Self::NOT
    }
}
