//! The one way to start a thread of codexd; the stand-in for the app-server, a process that stands on its own, has its own.
//!
//! Every thread has a name, an owner (who keeps the [`Thread`]) and a way to stop, written where it is started.
//! A *vital* thread that panics takes the daemon down with a message: a daemon that has lost its hub or its reader
//! must not look healthy. A *contained* thread (one connection of one client) is logged and gone.

pub mod answer;
pub mod budget;
pub mod permits;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LockResult, Mutex, MutexGuard};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::error;

use crate::fault::{self, Point};

/// Stack of threads of which there may be many, in bytes.
pub const SMALL_STACK: usize = 256 * 1024;
const NORMAL_STACK: usize = 1024 * 1024;

/// Exit code after the panic of a vital thread (`EX_SOFTWARE` of sysexits(3)).
pub const EXIT_SOFTWARE: i32 = 70;

static CONTAINED_PANICS: AtomicU64 = AtomicU64::new(0);
static LAST_WORDS: Mutex<Option<fn()>> = Mutex::new(None);

/// A running thread; joined when dropped, so the owner must have told it to stop before.
#[must_use = "dropping the handle waits for the thread to end"]
#[derive(Debug)]
pub struct Thread {
    handle: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Thread {
    /// Whether the thread's function has returned.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the thread to end, but no longer than `timeout`; whether it has.
    pub fn wait(&self, timeout: Duration) -> bool {
        // Disconnected by the thread's end; nothing is ever sent.
        self.ended.recv_timeout(timeout) != Err(RecvTimeoutError::Timeout)
    }

    /// Gives the thread up to the process, whose end alone ends it.
    pub fn leave(mut self) {
        self.handle = None;
    }

    /// Waits for the thread to end.
    pub fn join(mut self) {
        self.join_now();
    }

    fn join_now(&mut self) {
        if let Some(handle) = self.handle.take()
            && handle.thread().id() != std::thread::current().id()
        {
            // Panics were dealt with inside the thread; there is nothing left to report here.
            drop(handle.join());
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.join_now();
    }
}

/// Locks a mutex; one that was poisoned guards a state nobody can vouch for, and ends the daemon.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    sound(mutex.lock())
}

/// As [`lock`], for what waiting on a condition variable gives.
pub fn sound<T>(outcome: LockResult<T>) -> T {
    outcome.unwrap_or_else(|_| end_the_daemon("a lock was poisoned by a panic"))
}

/// Lets time pass, for what tells nobody when it changes: a port, a process of others, a disk. Where there is something to
/// be heard, that is waited for, with a deadline.
#[expect(clippy::disallowed_methods, reason = "the one place for what can only be looked at again")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// What is done before a vital thread's panic ends the process: killing the child processes.
pub fn set_last_words(last_words: fn()) {
    *LAST_WORDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(last_words);
}

/// Panics of contained threads since the process started.
pub fn contained_panics() -> u64 {
    CONTAINED_PANICS.load(Ordering::Relaxed)
}

/// Starts a vital thread: if it panics, the process ends with [`EXIT_SOFTWARE`] and a message.
///
/// # Errors
/// What the system says when it can start no further thread (`EAGAIN` of pthread_create(3)).
pub fn spawn(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> std::io::Result<Thread> {
    start(name.into(), NORMAL_STACK, true, Box::new(run))
}

/// Does in this thread what the process lives for: if it panics, the process ends as with [`spawn`].
pub fn vital<T>(name: &str, run: impl FnOnce() -> T) -> T {
    // The panic hook has printed place and message already.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| end_the_daemon(&format!("thread {name} panicked")))
}

/// Starts a thread on a small stack whose panic is logged and counted, but ends nothing but itself.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_contained(
    name: impl Into<String>,
    run: impl FnOnce() + Send + 'static,
) -> std::io::Result<Thread> {
    start(name.into(), SMALL_STACK, false, Box::new(run))
}

fn start(
    name: String,
    stack: usize,
    is_vital: bool,
    run: Box<dyn FnOnce() + Send>,
) -> std::io::Result<Thread> {
    fault::point(Point::ThreadStart)?;
    let builder = Builder::new().name(name.clone()).stack_size(stack);
    let (ending, ended) = bounded::<()>(0);
    let handle = builder.spawn(move || {
        let _ending = ending;
        if is_vital {
            return vital(&name, run);
        }
        if catch_unwind(AssertUnwindSafe(run)).is_ok() {
            return;
        }
        CONTAINED_PANICS.fetch_add(1, Ordering::Relaxed);
        error!("thread {name} panicked; the daemon goes on");
    })?;
    Ok(Thread { handle: Some(handle), ended })
}

/// Does two pieces of work at once, `other` in a thread of that name, and waits for both. A panic in either is the
/// caller's.
///
/// # Errors
/// As [`spawn`]; then neither is done.
pub fn beside<A: Send, B>(
    name: &str,
    other: impl FnOnce() -> A + Send,
    here: impl FnOnce() -> B,
) -> std::io::Result<(A, B)> {
    fault::point(Point::ThreadStart)?;
    std::thread::scope(|scope| {
        let there =
            Builder::new().name(name.to_owned()).stack_size(NORMAL_STACK).spawn_scoped(scope, other)?;
        let here = here();
        Ok((there.join().unwrap_or_else(|panic| resume_unwind(panic)), here))
    })
}

/// Ends the process at once with [`EXIT_SOFTWARE`], for a reason that leaves nothing sound to go on with.
#[expect(
    clippy::disallowed_methods,
    reason = "the state is unsound: nothing may run on, not even destructors"
)]
pub fn end_the_daemon(reason: &str) -> ! {
    let last_words = *LAST_WORDS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(last_words) = last_words {
        last_words();
    }
    error!("{reason}: codexd cannot go on and ends; its service manager starts it again");
    log::logger().flush();
    // Once more: other threads went on meanwhile, and may have started what the first time did not see.
    if let Some(last_words) = last_words {
        last_words();
    }
    std::process::exit(EXIT_SOFTWARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contained_panic_is_counted_and_ends_only_its_thread() {
        let before = contained_panics();
        spawn_contained("test-panic", || panic!("on purpose")).unwrap().join();
        assert!(contained_panics() > before);
    }

    #[test]
    fn two_pieces_of_work_are_done_at_once() {
        let (send, receive) = crossbeam_channel::bounded(0);
        let deadline = Duration::from_secs(20);
        // Each can only end while the other is under way.
        let (sent, received) =
            beside("test-beside", move || send.send_timeout(7, deadline), || receive.recv_timeout(deadline))
                .unwrap();
        assert_eq!((sent, received), (Ok(()), Ok(7)));
        let panicked = catch_unwind(|| beside("test-panic", || panic!("on purpose"), || ()));
        assert!(panicked.is_err());
    }

    #[test]
    fn dropping_the_handle_waits() {
        let (send, receive) = crossbeam_channel::bounded::<()>(0);
        let (done_send, done) = crossbeam_channel::bounded(1);
        let thread = spawn_contained("test-drop", move || {
            let _ = receive.recv();
            let _ = done_send.send(());
        })
        .unwrap();
        drop(send);
        drop(thread);
        assert!(done.try_recv().is_ok());
    }
}
