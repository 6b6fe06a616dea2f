//! One answer for one who waits.
//!
//! A `bounded(1)` of the answer's type would do the same; but each type that goes through a channel is 5 KB of code, and
//! there are fifty kinds of answers.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::lock;

/// Gives the answer. Whoever waits is told as well when it is dropped without.
#[derive(Debug)]
#[must_use = "dropping it tells that there will be no answer"]
pub struct Reply<T> {
    place: Arc<Mutex<Option<T>>>,
    given: Sender<()>,
}

/// Where the answer comes.
#[derive(Debug)]
pub struct Answer<T> {
    place: Arc<Mutex<Option<T>>>,
    given: Receiver<()>,
}

/// Both ends.
pub fn answer<T>() -> (Reply<T>, Answer<T>) {
    let place = Arc::new(Mutex::new(None));
    let (told, given) = bounded(1);
    (Reply { place: Arc::clone(&place), given: told }, Answer { place, given })
}

impl<T> Reply<T> {
    /// The answer. That nobody waits for it any more is no fault.
    pub fn give(self, answer: T) {
        *lock(&self.place) = Some(answer);
        // There is room: this is the only one.
        let _ = self.given.try_send(());
    }
}

impl<T> Answer<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// When `until` has come first, or there will be none.
    pub fn wait(&self, until: Instant) -> Result<T, RecvTimeoutError> {
        match self.given.recv_deadline(until) {
            Err(RecvTimeoutError::Timeout) => Err(RecvTimeoutError::Timeout),
            // Given, now or before, or it will not be.
            Ok(()) | Err(RecvTimeoutError::Disconnected) => self.take().ok_or(RecvTimeoutError::Disconnected),
        }
    }

    /// Waits for the answer, or until there will be none.
    pub fn get(&self) -> Option<T> {
        // An error means that nothing comes any more; it may have come before.
        let _ = self.given.recv();
        self.take()
    }

    /// The answer, if it has come and was not taken before.
    pub fn take(&self) -> Option<T> {
        lock(&self.place).take()
    }

    /// Ready when the answer has come, or none will, for who waits for something else as well.
    pub fn given(&self) -> &Receiver<()> {
        &self.given
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_answer_comes_is_waited_for_or_never_comes() {
        let later = Instant::now() + Duration::from_secs(60);
        let (reply, given) = answer();
        assert_eq!(given.wait(Instant::now()), Err(RecvTimeoutError::Timeout));
        let giver = crate::threads::spawn_contained("test-reply", move || reply.give("word")).unwrap();
        assert_eq!(given.wait(later), Ok("word"));
        assert_eq!(given.wait(later), Err(RecvTimeoutError::Disconnected));
        giver.join();
        let (reply, given) = answer::<()>();
        drop(reply);
        assert_eq!(given.wait(later), Err(RecvTimeoutError::Disconnected));
        assert_eq!(given.get(), None);
        let (reply, given) = answer();
        assert_eq!(given.take(), None);
        reply.give(1);
        assert_eq!((given.given().recv(), given.take(), given.take()), (Ok(()), Some(1), None));
        let (reply, given) = answer();
        reply.give(2);
        assert_eq!(given.get(), Some(2));
    }
}
