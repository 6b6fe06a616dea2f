//! The connections that are open: no more than so many at a time.

use std::collections::HashMap;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;

use super::connection::Connection;
use super::limits::Limits;
use crate::threads::Thread;

/// How long a newcomer waits for the end of another connection. Nobody else is let in meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks for one that can be ended, at least.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// By their number, each with its thread once that has started.
type ByNumber = HashMap<u64, (Arc<Connection>, Option<Thread>)>;

/// The open connections. When there are as many as may be, a newcomer takes the place of the one whose request has been
/// waited for the longest: clients that say nothing cannot shut out those that do.
#[derive(Debug)]
pub(super) struct Open {
    most: usize,
    /// Who has been waited for for less long keeps its place.
    silence: Duration,
    by_number: Mutex<ByNumber>,
    /// Told of each end.
    ended: Condvar,
    began: Instant,
}

impl Open {
    /// None so far.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            most: limits.connections,
            silence: limits.silence,
            by_number: Mutex::default(),
            ended: Condvar::new(),
            began: Instant::now(),
        }
    }

    /// Takes it in; `false` if there are as many as may be, and none of them ends in a moment. Up to `instead_of` others
    /// are to end for it even if there are fewer.
    pub(super) fn admit(&self, number: u64, connection: &Arc<Connection>, instead_of: usize) -> bool {
        let mut open = self.lock();
        let full = open.len() >= self.most;
        if full || instead_of > 0 {
            let (now, made) = self.make_room_in(open, instead_of.max(1));
            if full && !made {
                return false;
            }
            open = now;
        }
        self.waits(connection);
        open.insert(number, (Arc::clone(connection), None));
        true
    }

    /// Ends up to so many for want of what they hold; `false` if there is nobody to end or to wait for.
    pub(super) fn make_room(&self, count: usize) -> bool {
        self.make_room_in(self.lock(), count).1
    }

    fn make_room_in<'a>(
        &self,
        mut open: MutexGuard<'a, ByNumber>,
        count: usize,
    ) -> (MutexGuard<'a, ByNumber>, bool) {
        let until = Instant::now() + PATIENCE;
        let mut left = open.len().saturating_sub(1);
        while open.len() > left {
            let mut again = until;
            match self.end_the_longest_waiting(&open, count) {
                Found::Nobody => return (open, false),
                Found::Ended(ended) => left = open.len() - ended,
                Found::Not(oldest) => again = until.min(oldest.max(Instant::now() + LOOK_AGAIN)),
            }
            let wait = again.saturating_duration_since(Instant::now());
            let waited = self.ended.wait_timeout_while(open, wait, |open| open.len() > left);
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
            if Instant::now() >= until {
                break;
            }
        }
        let made = open.len() <= left;
        (open, made)
    }

    /// Ends up to so many of those that have been silent for long enough.
    fn end_the_longest_waiting(&self, open: &ByNumber, count: usize) -> Found {
        let mut waiting: Vec<_> = open
            .values()
            .filter_map(|(connection, _)| Some((connection.waiting.since()?, connection)))
            .collect();
        waiting.sort_unstable_by_key(|(since, _)| *since);
        let Some((oldest, _)) = waiting.first() else { return Found::Nobody };
        let oldest = self.began + Duration::from_nanos(*oldest) + self.silence;
        let long_enough = self.now().saturating_sub(nanos(self.silence));
        waiting.retain(|(since, _)| *since <= long_enough);
        // What has come and was not read yet is a request, or the end of a client that makes room by itself.
        let mut unread: Vec<_> =
            waiting.iter().map(|(_, connection)| PollFd::new(&*connection.stream, PollFlags::IN)).collect();
        if retry_on_intr(|| poll(&mut unread, Some(&Timespec::default()))).is_err() {
            return Found::Nobody;
        }
        let silent = unread.iter().map(|unread| unread.revents().is_empty());
        let ended = waiting
            .iter()
            .zip(silent)
            .filter(|((since, connection), silent)| *silent && connection.waiting.end(*since))
            .take(count)
            .map(|((_, connection), _)| {
                // Its thread sees the end, and can still answer what came meanwhile. The client may be gone already.
                drop(connection.stream.shutdown(Shutdown::Read));
            })
            .count();
        if ended > 0 { Found::Ended(ended) } else { Found::Not(oldest) }
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
        connection.waiting.wait(self.now());
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

    /// Nanoseconds since the beginning.
    fn now(&self) -> u64 {
        nanos(self.began.elapsed())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What came of looking for connections to end.
enum Found {
    /// No request is waited for.
    Nobody,
    /// So many end now.
    Ended(usize),
    /// None has been silent for long enough; the oldest of them will have been then, unless it says something.
    Not(Instant),
}

/// Whether a connection waits for a request, and since when. Each wait ends once: with a request that is whole or
/// refused, or for somebody else's sake; what comes then has no effect.
#[derive(Debug)]
pub(super) struct Waiting(AtomicU64);

impl Waiting {
    const NOT: u64 = u64::MAX;

    /// Of a connection that does not wait yet.
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Self::NOT))
    }

    fn wait(&self, since: u64) {
        self.0.store(since, Ordering::Relaxed);
    }

    fn since(&self) -> Option<u64> {
        let since = self.0.load(Ordering::Relaxed);
        (since != Self::NOT).then_some(since)
    }

    /// Whether it was still waiting since then.
    fn end(&self, since: u64) -> bool {
        self.0.compare_exchange(since, Self::NOT, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The request is there, or what is wrong with it is known; `false` if the connection was ended before.
    pub(super) fn has_come(&self) -> bool {
        self.0.swap(Self::NOT, Ordering::Relaxed) != Self::NOT
    }
}
