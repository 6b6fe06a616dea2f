//! What is counted where it happens: atomics, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock;

/// How a client of the event stream is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 6455.
    WebSocket,
    /// Server-Sent Events.
    Sse,
}

/// Classes of HTTP status codes, in the order of their first digit.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::WebSocket, "websocket"), (Protocol::Sse, "sse")];

/// The counters of one daemon.
#[derive(Debug)]
pub struct Counters {
    /// Milliseconds since 1970.
    started: u64,
    answers: [AtomicU64; CLASSES.len()],
    opened: [AtomicU64; PROTOCOLS.len()],
    closed: [AtomicU64; PROTOCOLS.len()],
}

/// Clients of one protocol.
#[derive(Debug, Clone, Copy, Default)]
pub(in super::super) struct Streams {
    /// Came.
    pub(super) opened: u64,
    /// Went.
    pub(super) closed: u64,
}

impl Streams {
    /// How many there are now.
    pub(in super::super) fn present(self) -> u64 {
        self.opened.saturating_sub(self.closed)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: clock::unix_millis(),
            answers: Default::default(),
            opened: Default::default(),
            closed: Default::default(),
        }
    }
}

impl Counters {
    /// The port has answered with this status.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).wrapping_sub(1);
        if let Some(counter) = self.answers.get(class) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A stream client has come.
    pub fn stream_opened(&self, protocol: Protocol) {
        self.opened[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A stream client has gone.
    pub fn stream_closed(&self, protocol: Protocol) {
        self.closed[protocol as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// When the daemon started, in milliseconds since 1970.
    pub(super) fn started(&self) -> u64 {
        self.started
    }

    /// Answers by class of status.
    pub(super) fn answers(&self) -> [(&'static str, u64); CLASSES.len()] {
        std::array::from_fn(|at| (CLASSES[at], self.answers[at].load(Ordering::Relaxed)))
    }

    /// Stream clients by protocol.
    pub(super) fn streams(&self) -> [(&'static str, Streams); PROTOCOLS.len()] {
        PROTOCOLS.map(|(protocol, name)| (name, self.streams_of(protocol)))
    }

    /// Stream clients of that protocol.
    pub(in super::super) fn streams_of(&self, protocol: Protocol) -> Streams {
        // Closed first: whoever comes in between must not have gone before he came.
        let closed = self.closed[protocol as usize].load(Ordering::Relaxed);
        let opened = self.opened[protocol as usize].load(Ordering::Relaxed);
        Streams { opened, closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_class() {
        let counters = Counters::default();
        for status in [101, 200, 201, 404, 503, 599, 0, 700] {
            counters.answered(status);
        }
        assert_eq!(counters.answers(), [("1xx", 1), ("2xx", 2), ("3xx", 0), ("4xx", 1), ("5xx", 2)]);
    }
}
