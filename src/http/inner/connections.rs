//! The connections to the inner server, kept from one request to the next.
//!
//! One that is made for a request alone costs nearly half as much as all the rest of the request: it is set up, and
//! tiny_http's accept thread wakes up and hands it to a thread of its pool.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The connections that wait for a request: no more than were in use at a time, and than clients could use.
#[derive(Debug, Default)]
pub(super) struct Connections {
    idle: Mutex<Idle>,
    opening: Mutex<()>,
}

#[derive(Debug, Default)]
struct Idle {
    /// The last life of the server that has ended.
    ended: u64,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    generation: u64,
    stream: Arc<UnixStream>,
}

impl Connections {
    /// One to this life of the server, if there is one: the last that was used, whose thread may still be in the
    /// processor's caches.
    pub(super) fn take(&self, generation: u64) -> Option<Arc<UnixStream>> {
        let mut idle = lock(&self.idle);
        let found = idle.connections.iter().rposition(|connection| connection.generation == generation)?;
        Some(idle.connections.remove(found).stream)
    }

    /// Keeps one that has answered, unless its server has ended.
    pub(super) fn keep(&self, generation: u64, stream: Arc<UnixStream>) {
        let mut idle = lock(&self.idle);
        if generation > idle.ended {
            idle.connections.push(Connection { generation, stream });
        }
    }

    /// Lets go of those to a life of the server that has ended, or to one before it: their threads end.
    pub(super) fn end(&self, generation: u64) {
        let mut idle = lock(&self.idle);
        idle.ended = idle.ended.max(generation);
        let ended = idle.ended;
        idle.connections.retain(|connection| connection.generation > ended);
    }

    /// Lets go of all but so many, the longest unused first.
    pub(super) fn trim(&self, most: usize) {
        let connections = &mut lock(&self.idle).connections;
        let surplus = connections.len().saturating_sub(most);
        connections.drain(..surplus);
    }

    /// Until this is dropped nobody else opens a connection. Two that come while one thread of tiny_http's pool is idle
    /// are both given to that one (0.12), and the second would wait for the first's end.
    pub(super) fn open_alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.opening)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_goes_the_longest_unused_first() {
        let (first, second) = UnixStream::pair().unwrap();
        let (first, second) = (Arc::new(first), Arc::new(second));
        let connections = Connections::default();
        connections.keep(1, Arc::clone(&first));
        connections.keep(1, Arc::clone(&second));
        connections.trim(2);
        assert_eq!(Arc::strong_count(&first), 2);
        connections.trim(1);
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
        connections.trim(0);
        assert!(connections.take(1).is_none());
    }

    #[test]
    fn the_last_used_is_taken_and_none_of_a_server_that_has_ended() {
        let stream = || Arc::new(UnixStream::pair().unwrap().0);
        let (first, second, third) = (stream(), stream(), stream());
        let connections = Connections::default();
        connections.keep(1, Arc::clone(&first));
        connections.keep(1, Arc::clone(&second));
        connections.keep(2, Arc::clone(&third));
        assert!(connections.take(3).is_none());
        assert!(Arc::ptr_eq(&connections.take(1).unwrap(), &second));
        connections.end(1);
        // Nobody holds it any more but this test.
        assert_eq!(Arc::strong_count(&first), 1);
        connections.keep(1, second);
        assert!(connections.take(1).is_none());
        assert!(Arc::ptr_eq(&connections.take(2).unwrap(), &third));
        assert!(connections.take(2).is_none());
    }
}
