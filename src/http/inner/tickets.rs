//! Which of the requests that are sent to the inner server a worker has taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The tickets that are out. Each is either taken by a worker or withdrawn by whoever waits for the answer, never both:
/// so a request that was withdrawn has had no effect and will have none, and can be sent again.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Out>);

#[derive(Debug, Default)]
struct Out {
    last: u64,
    /// As many as requests are let in at a time, at most.
    waiting: Vec<u64>,
}

impl Tickets {
    /// A ticket that there was not before.
    pub(super) fn issue(&self) -> u64 {
        let mut out = self.lock();
        out.last += 1;
        let ticket = out.last;
        out.waiting.push(ticket);
        ticket
    }

    /// Whether the request with this ticket is to be handled.
    pub(super) fn take(&self, ticket: u64) -> bool {
        self.remove(ticket)
    }

    /// Whether no worker has taken it; none will.
    pub(super) fn withdraw(&self, ticket: u64) -> bool {
        self.remove(ticket)
    }

    fn remove(&self, ticket: u64) -> bool {
        let mut out = self.lock();
        let found = out.waiting.iter().position(|&waiting| waiting == ticket);
        found.map(|at| out.waiting.swap_remove(at)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_taken_or_withdrawn_once() {
        let tickets = Tickets::default();
        let (first, second) = (tickets.issue(), tickets.issue());
        assert!(tickets.take(first));
        assert!(!tickets.take(first) && !tickets.withdraw(first));
        assert!(tickets.withdraw(second));
        assert!(!tickets.take(second) && !tickets.withdraw(second));
        let third = tickets.issue();
        assert!(third != first && third != second && tickets.take(third));
    }
}
