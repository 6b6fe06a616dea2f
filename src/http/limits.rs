//! What clients may take, each and together.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

/// Descriptors that connections leave to the rest of the daemon.
const KEEP_DESCRIPTORS: u64 = 256;
/// Connections there may be even where there are too few descriptors for that.
const FEWEST: u64 = 16;

/// What one client may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a whole head, from its first byte (10 s); also for the first byte of a new connection.
    pub head: Duration,
    /// For the first byte of the next request on a connection that is kept (60 s).
    pub idle: Duration,
    /// Bytes of a body (4 MiB).
    pub body: usize,
    /// For a whole body (30 s).
    pub body_time: Duration,
    /// For a client to take each 256 KiB of an answer (10 s).
    pub write: Duration,
    /// For a free worker (30 s).
    pub wait: Duration,
    /// Connections at a time (1024); fewer where the limit of descriptors is low. Beyond them a newcomer takes the place
    /// of the one whose request has been waited for the longest, and gets 503 while none is waited for.
    pub connections: usize,
    /// For how long a connection must have been waited for to make way for a newcomer (0.5 s).
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            body: 4 * 1024 * 1024,
            body_time: Duration::from_secs(30),
            write: Duration::from_secs(10),
            wait: Duration::from_secs(30),
            connections: 1024,
            silence: Duration::from_millis(500),
        }
    }
}

impl Limits {
    /// No more connections than there are descriptors for.
    pub(super) fn respect_descriptors(&mut self) {
        let room = descriptors().saturating_sub(KEEP_DESCRIPTORS).max(FEWEST);
        self.connections = self.connections.min(usize::try_from(room).unwrap_or(usize::MAX));
    }
}

/// Whether the connections that there may be do not leave enough descriptors to the rest of the daemon.
pub(super) fn descriptors_are_scarce() -> bool {
    descriptors() < KEEP_DESCRIPTORS + FEWEST
}

/// How many this process may have.
fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
