//! The lines on their way to the app-server: calls, whose callers wait for room, and answers, for which nobody can wait:
//! they are given in the hub's thread.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{
    Receiver, RecvError, RecvTimeoutError, SendTimeoutError, Sender, TryRecvError, TrySendError, bounded,
};

use crate::threads::lock;

/// Bytes of answers that may wait beyond the queue's bound: some ten thousand answers.
const LATE_BYTES: usize = 16 * 1024 * 1024;

/// The end that is written to.
pub(super) struct Outgoing {
    lines: Mutex<Option<Sender<Vec<u8>>>>,
    late: Arc<Mutex<Late>>,
}

/// The end of whoever writes to the app-server.
pub struct Lines {
    lines: Receiver<Vec<u8>>,
    late: Arc<Mutex<Late>>,
}

/// Answers for which the queue had no room. They are looked for before each line that is taken from it: one is added
/// only while the queue is full, so that a further line is sure to be taken.
#[derive(Default)]
struct Late {
    answers: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    /// It will be written.
    Yes,
    /// Nothing is written any more.
    Closed,
    /// There are too many that the app-server does not read.
    Full,
}

/// The two ends of a queue of so many lines.
pub(super) fn queue(bound: usize) -> (Outgoing, Lines) {
    let (sender, lines) = bounded(bound);
    let late = Arc::new(Mutex::new(Late::default()));
    (Outgoing { lines: Mutex::new(Some(sender)), late: Arc::clone(&late) }, Lines { lines, late })
}

impl Outgoing {
    /// Adds a line when there is room, up to `deadline`.
    pub(super) fn send(&self, line: Vec<u8>, deadline: Instant) -> Result<(), SendTimeoutError<Vec<u8>>> {
        let lines = lock(&self.lines).clone();
        match lines {
            Some(lines) => lines.send_deadline(line, deadline),
            None => Err(SendTimeoutError::Disconnected(line)),
        }
    }

    /// Adds an answer, at once.
    pub(super) fn answer(&self, line: Vec<u8>) -> Queued {
        let lines = lock(&self.lines);
        let Some(lines) = lines.as_ref() else { return Queued::Closed };
        let mut late = lock(&self.late);
        match lines.try_send(line) {
            Ok(()) => Queued::Yes,
            Err(TrySendError::Disconnected(_)) => Queued::Closed,
            Err(TrySendError::Full(line)) if late.bytes + line.len() <= LATE_BYTES => {
                late.bytes += line.len();
                late.answers.push_back(line);
                Queued::Yes
            }
            Err(TrySendError::Full(_)) => Queued::Full,
        }
    }

    /// Takes no more; what is queued is still written.
    pub(super) fn close(&self) {
        lock(&self.lines).take();
    }
}

impl Lines {
    fn late(&self) -> Option<Vec<u8>> {
        let mut late = lock(&self.late);
        let line = late.answers.pop_front()?;
        late.bytes -= line.len();
        Some(line)
    }

    /// The next line; waits for it. Fails at the end.
    ///
    /// # Errors
    /// When the connection is closed and all is taken.
    pub fn recv(&self) -> Result<Vec<u8>, RecvError> {
        self.late().map_or_else(|| self.lines.recv(), Ok)
    }

    /// The next line; waits for it up to `deadline`.
    ///
    /// # Errors
    /// When there is none by then, or none any more.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<Vec<u8>, RecvTimeoutError> {
        self.late().map_or_else(|| self.lines.recv_deadline(deadline), Ok)
    }

    /// The next line, if there is one.
    ///
    /// # Errors
    /// When there is none now, or none any more.
    pub fn try_recv(&self) -> Result<Vec<u8>, TryRecvError> {
        self.late().map_or_else(|| self.lines.try_recv(), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_beyond_the_bound_come_too_each_once_and_those_beyond_all_bounds_are_refused() {
        let (outgoing, lines) = queue(2);
        let answer = |number: u32| outgoing.answer(number.to_string().into_bytes());
        assert!((0..1000).all(|number| answer(number) == Queued::Yes));
        assert_eq!(outgoing.answer(vec![0; LATE_BYTES]), Queued::Full);
        outgoing.close();
        assert_eq!(answer(0), Queued::Closed);
        let mut taken: Vec<u32> = std::iter::from_fn(|| lines.recv().ok())
            .map(|line| String::from_utf8(line).unwrap().parse().unwrap())
            .collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..1000).collect::<Vec<_>>());
        assert_eq!(lock(&lines.late).bytes, 0);
    }

    #[test]
    fn a_writer_that_waits_misses_no_answer() {
        const ANSWERS: u32 = 100_000;
        let (outgoing, lines) = queue(1);
        let (all, taken) = bounded(1);
        let writer = crate::threads::spawn_contained("test-writer", move || {
            let _ = (0..ANSWERS).try_for_each(|_| lines.recv().map(drop)).map(|()| all.send(()));
        })
        .unwrap();
        // Dropped before the writer is waited for, which ends with it.
        let outgoing = outgoing;
        for _ in 0..ANSWERS {
            assert_eq!(outgoing.answer(vec![b'.']), Queued::Yes);
        }
        assert_eq!(taken.recv_timeout(std::time::Duration::from_secs(60)), Ok(()));
        drop(outgoing);
        writer.join();
    }
}
