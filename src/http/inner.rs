//! tiny_http behind the front door: handlers with a server on a Unix socket.
//!
//! A request comes whole and well-formed, over a connection on which nothing else is under way, so that none of tiny_http's
//! faults with strangers can show: its reading of unread bodies, its framing, its pool of threads. So many requests of each
//! [`Kind`] are let in at a time; the rest wait in their connections' threads, in order. Each that is let in has a worker
//! and a connection: one is started when all that there are have something to do, and they stay. A request that no worker
//! has taken when its server ends goes to the next one; its ticket tells.

mod answer;
mod connections;
mod core;
mod generation;
mod tickets;
mod worker;

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

#[cfg(test)]
pub(super) use self::answer::receive;
pub(super) use self::generation::sweep;

use self::core::{Core, Lost};
use super::api::{Api, Kind};
use super::reply::ApiError;
use crate::threads::permits::Permits;
use crate::threads::{self, Thread};

/// Time for handlers under way when a pool is dropped.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// How many requests that are answered from memory are let in at a time.
const READS: usize = 4;
/// How many that may wait for the log and for a few files.
const LOCALS: usize = 8;
/// How many that may wait for the app-server or read all of the log.
const CALLS: usize = 16;
/// The most workers there are.
const WORKERS: usize = READS + LOCALS + CALLS;

/// How often a request is sent before it is refused. One is lost in the queue of a server that ends, the next finds that
/// nobody listens and has the server started anew, a third is served; twice that, for a server that ends at once again.
const ATTEMPTS: usize = 6;

/// The field that a request has its ticket in.
pub(super) const TICKET: &str = "ticket";

/// Why there is no handler any more.
const STOPPING: &str = "The daemon is stopping.";

/// Where a connection keeps the inner connection it waits on, so that it can be cut.
pub(super) type Slot = Mutex<Option<Arc<UnixStream>>>;

/// The handlers.
pub(super) struct Pool {
    core: Arc<Core>,
    reads: Permits,
    locals: Permits,
    calls: Permits,
    /// Workers; as many as were ever busy at a time.
    started: AtomicUsize,
    workers: Mutex<Workers>,
    done: Receiver<()>,
}

struct Workers {
    threads: Vec<Thread>,
    /// A clone in every worker; `None` when no more are to be started.
    alive: Option<Sender<()>>,
}

impl Pool {
    /// Starts the server.
    pub(super) fn start(api: Arc<dyn Api>) -> io::Result<Self> {
        let (alive, done) = bounded(0);
        Ok(Self {
            core: Arc::new(Core::start(api)?),
            reads: Permits::new(READS),
            locals: Permits::new(LOCALS),
            calls: Permits::new(CALLS),
            started: AtomicUsize::new(0),
            workers: Mutex::new(Workers { threads: Vec::new(), alive: Some(alive) }),
            done,
        })
    }

    /// Has a request handled; the answer is HTTP text as tiny_http wrote it, complete. Waits up to `wait` for its turn.
    /// `request` gives its text for a ticket, which it must have in a field [`TICKET`].
    pub(super) fn call(
        &self,
        kind: Kind,
        request: &dyn Fn(u64) -> Vec<u8>,
        head_only: bool,
        repeatable: bool,
        wait: Duration,
        slot: &Slot,
    ) -> Result<Vec<u8>, ApiError> {
        let permits = match kind {
            Kind::Read => &self.reads,
            Kind::Local => &self.locals,
            Kind::Call => &self.calls,
        };
        let _permit =
            permits.take_within(wait).ok_or_else(|| unavailable("Every handler is busy; try again."))?;
        let taken = [&self.reads, &self.locals, &self.calls].map(Permits::taken);
        self.ensure_workers(taken.iter().sum())?;
        self.call_now(request, head_only, repeatable, slot)
    }

    /// Starts workers until there are so many.
    fn ensure_workers(&self, count: usize) -> Result<(), ApiError> {
        if self.started.load(Ordering::Acquire) >= count {
            return Ok(());
        }
        let mut workers = self.workers();
        let Workers { threads, alive: Some(alive) } = &mut *workers else {
            return Err(unavailable(STOPPING));
        };
        while threads.len() < count {
            let (core, alive) = (Arc::clone(&self.core), alive.clone());
            let thread = threads::spawn(format!("http-{}", threads.len() + 1), move || {
                // A handler's panic is dealt with where it is called; whatever else panics costs one request.
                while catch_unwind(AssertUnwindSafe(|| core.work())).is_err() {}
                drop(alive);
            });
            threads.push(thread.map_err(|error| {
                log::warn!("no thread for another handler: {error}");
                unavailable("There is no thread for another handler; try again.")
            })?);
            self.started.store(threads.len(), Ordering::Release);
        }
        Ok(())
    }

    fn call_now(
        &self,
        request: &dyn Fn(u64) -> Vec<u8>,
        head_only: bool,
        repeatable: bool,
        slot: &Slot,
    ) -> Result<Vec<u8>, ApiError> {
        for _ in 0..ATTEMPTS {
            let Some(generation) = self.core.current() else { return Err(unavailable(STOPPING)) };
            let number = generation.number;
            let stream = match self.core.connection(&generation) {
                Ok(stream) => stream,
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    self.core.replace(&generation, &error);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => continue,
                Err(error) => {
                    log::warn!("no connection to the handlers: {error}");
                    break;
                }
            };
            // A server that has ended goes with its last user.
            drop(generation);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
            let answer = self.core.exchange(number, &stream, request, head_only);
            // From here on nobody cuts it.
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            match answer {
                Ok(answer) => {
                    self.core.connections.keep(number, stream);
                    return Ok(answer);
                }
                // What may have had an effect is not done twice; the server may have died over what only reads.
                Err(Lost { taken }) if taken && (!repeatable || self.core.current().is_none()) => {
                    return Err(ApiError::internal_error("The handler ended without an answer."));
                }
                Err(Lost { .. }) => {}
            }
        }
        Err(unavailable("The handlers are not reachable; try again."))
    }

    /// Lets go of the connections that so many clients cannot use at a time, but for one.
    pub(super) fn trim(&self, clients: usize) {
        self.core.connections.trim(clients.max(1));
    }

    /// Ends the workers; waits up to `grace` for handlers that still run, and then leaves them to themselves.
    pub(super) fn close(&self, grace: Duration) {
        let Some(last) = self.core.lock().take() else { return };
        // No more are started, and once those there are have ended the channel is disconnected.
        drop(self.workers().alive.take());
        self.core.end(&last);
        drop(last);
        let until = Instant::now() + grace;
        let ended = self.done.recv_deadline(until) != Err(RecvTimeoutError::Timeout);
        let threads = std::mem::take(&mut self.workers().threads);
        if ended {
            drop(threads);
        } else {
            log::warn!("a request still keeps a handler busy; it is abandoned");
            threads.into_iter().filter(|thread| !thread.is_finished()).for_each(Thread::leave);
        }
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the server as if it had died.
    #[cfg(test)]
    pub(super) fn kill_server(&self) {
        self.core.current().unwrap().kill();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close(DROP_GRACE);
    }
}

fn unavailable(why: &str) -> ApiError {
    ApiError::unavailable(why).with_retry_after(1)
}

/// Cuts the inner connection a request waits on, if there is one.
pub(super) fn cut(slot: &Slot) {
    if let Some(stream) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
        drop(stream.shutdown(Shutdown::Both));
    }
}
