//! Which of the requests that are sent to the inner server a worker has taken.

use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The tickets that are out. Each is either taken by a worker or withdrawn, never both: so a request that was withdrawn
/// has had no effect and will have none, and can be sent again.
#[derive(Debug, Default)]
pub(super) struct Tickets(Mutex<Out>);

#[derive(Debug, Default)]
struct Out {
    last: u64,
    /// The last life of the server that has ended.
    ended: u64,
    /// As many as requests are let in at a time, at most.
    waiting: Vec<Waiting>,
}

/// A request that nobody has taken yet.
#[derive(Debug)]
struct Waiting {
    ticket: u64,
    generation: u64,
    stream: Arc<UnixStream>,
}

impl Out {
    fn remove(&mut self, which: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        let found = self.waiting.iter().position(which);
        found.map(|at| self.waiting.swap_remove(at))
    }
}

impl Tickets {
    /// A ticket that there was not before, for a request over this connection; `None` when that life of the server has
    /// ended.
    pub(super) fn issue(&self, generation: u64, stream: &Arc<UnixStream>) -> Option<u64> {
        let mut out = self.lock();
        if generation <= out.ended {
            return None;
        }
        out.last += 1;
        let ticket = out.last;
        out.waiting.push(Waiting { ticket, generation, stream: Arc::clone(stream) });
        Some(ticket)
    }

    /// The sender's end of the connection of the request with this ticket; `None` when it is not to be handled.
    pub(super) fn take(&self, ticket: u64) -> Option<Arc<UnixStream>> {
        let mut out = self.lock();
        let ended = out.ended;
        // What is left of a server that has ended stays, for whoever waits for it to withdraw.
        let taken = out.remove(|waiting| waiting.ticket == ticket && waiting.generation > ended);
        taken.map(|waiting| waiting.stream)
    }

    /// Whether no worker has taken it; none will.
    pub(super) fn withdraw(&self, ticket: u64) -> bool {
        self.lock().remove(|waiting| waiting.ticket == ticket).is_some()
    }

    /// A life of the server has ended, and those before it. What nobody has taken will not be; whoever waits for it is
    /// told, by the end of the connection: a connection's thread in tiny_http keeps the queue of requests after the
    /// server's end, so that nothing else would tell.
    pub(super) fn end(&self, generation: u64) {
        let mut out = self.lock();
        out.ended = out.ended.max(generation);
        for waiting in out.waiting.iter().filter(|waiting| waiting.generation <= generation) {
            drop(waiting.stream.shutdown(Shutdown::Both));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Out> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn connection() -> (Arc<UnixStream>, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        (Arc::new(here), there)
    }

    #[test]
    fn a_ticket_is_taken_or_withdrawn_once() {
        let (tickets, (stream, _there)) = (Tickets::default(), connection());
        let issue = || tickets.issue(1, &stream).unwrap();
        let (first, second) = (issue(), issue());
        assert!(tickets.take(first).is_some());
        assert!(tickets.take(first).is_none() && !tickets.withdraw(first));
        assert!(tickets.withdraw(second));
        assert!(tickets.take(second).is_none() && !tickets.withdraw(second));
        let third = issue();
        assert!(third != first && third != second && tickets.take(third).is_some());
    }

    #[test]
    fn what_nobody_has_taken_when_its_server_ends_is_told_and_never_taken() {
        let tickets = Tickets::default();
        let ((old, mut old_end), (taken, taken_end), (new, new_end)) =
            (connection(), connection(), connection());
        let waiting = tickets.issue(1, &old).unwrap();
        let at_work = tickets.issue(1, &taken).unwrap();
        let next = tickets.issue(2, &new).unwrap();
        assert!(tickets.take(at_work).is_some());
        tickets.end(1);
        assert_eq!(old_end.read(&mut [0]).unwrap(), 0);
        assert!(tickets.issue(1, &old).is_none());
        // Whoever waited may send it again.
        assert!(tickets.take(waiting).is_none() && tickets.withdraw(waiting));
        for open in [taken_end, new_end] {
            open.set_nonblocking(true).unwrap();
            assert!((&open).read(&mut [0]).is_err(), "it was cut");
        }
        assert!(tickets.take(next).is_some());
        tickets.end(3);
        tickets.end(2);
        assert!(tickets.issue(3, &new).is_none());
    }
}
