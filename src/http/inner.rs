//! tiny_http behind the front door: handlers with a server on a Unix socket.
//!
//! A request comes over a connection of its own, whole, well-formed and with `Connection: close`, so that none of
//! tiny_http's faults with strangers can show: its keep-alive pool, its reading of unread bodies, its framing. So many
//! requests of each [`Kind`] are let in at a time; the rest wait in their connections' threads, in order. Each that is let
//! in has a worker: one is started when all that there are have something to do, and they stay. A request that no worker
//! has taken when its server ends goes to the next one; its ticket tells.

mod answer;
mod generation;
mod tickets;

use std::io::{self, Cursor, ErrorKind, Write};
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

use self::answer::ANSWER_ROOM;
use self::generation::Generation;
use self::tickets::Tickets;
use super::api::{Api, FORWARDED, Request};
use super::reply::ApiError;
use crate::threads::{self, Thread};

/// Time for handlers under way when a pool is dropped.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// How many requests that are answered from memory are let in at a time.
const READS: usize = 4;
/// How many that may wait for the app-server.
const CALLS: usize = 16;
/// The most workers there are.
const WORKERS: usize = READS + CALLS;

/// How often a request is sent before it is refused. One is lost in the queue of a server that ends, the next finds that
/// nobody listens and has the server started anew, a third is served; twice that, for a server that ends at once again.
const ATTEMPTS: usize = 6;

/// The field that a request has its ticket in.
pub(super) const TICKET: &str = "ticket";

/// Why there is no handler any more.
const STOPPING: &str = "The daemon is stopping.";

/// What a request may wait for: calls that wait for the app-server do not keep reads waiting.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Answered from memory.
    Read,
    /// May wait for the app-server.
    Call,
}

/// Where a connection keeps the inner connection it waits on, so that it can be cut.
pub(super) type Slot = Mutex<Option<Arc<UnixStream>>>;

/// The handlers.
#[derive(Debug)]
pub(super) struct Pool {
    core: Arc<Core>,
    reads: Turns,
    calls: Turns,
    /// Requests that have had their turn and are not answered yet.
    busy: AtomicUsize,
    /// Workers; as many as were ever busy at a time.
    started: AtomicUsize,
    workers: Mutex<Workers>,
    done: Receiver<()>,
}

/// So many at a time, in the order they came.
#[derive(Debug)]
struct Turns {
    give_back: Sender<()>,
    take: Receiver<()>,
}

impl Turns {
    fn new(count: usize) -> Self {
        let (give_back, take) = bounded(count);
        for _ in 0..count {
            // There is room for all.
            let _ = give_back.try_send(());
        }
        Self { give_back, take }
    }
}

#[derive(Debug)]
struct Workers {
    threads: Vec<Thread>,
    /// A clone in every worker; `None` when no more are to be started.
    alive: Option<Sender<()>>,
}

struct Core {
    api: Arc<dyn Api>,
    /// `None` once it is closed.
    current: Mutex<Option<Arc<Generation>>>,
    tickets: Tickets,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts the server.
    pub(super) fn start(api: Arc<dyn Api>) -> io::Result<Self> {
        let (alive, done) = bounded(0);
        Ok(Self {
            core: Arc::new(Core {
                api,
                current: Mutex::new(Some(Arc::new(Generation::start(1)?))),
                tickets: Tickets::default(),
            }),
            reads: Turns::new(READS),
            calls: Turns::new(CALLS),
            busy: AtomicUsize::new(0),
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
        let turns = match kind {
            Kind::Read => &self.reads,
            Kind::Call => &self.calls,
        };
        if turns.take.recv_timeout(wait).is_err() {
            return Err(unavailable("Every handler is busy; try again."));
        }
        let busy = self.busy.fetch_add(1, Ordering::AcqRel) + 1;
        let answer = self.ensure_workers(busy).and_then(|()| {
            let answer = self.call_now(request, head_only, repeatable, slot);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
            answer
        });
        self.busy.fetch_sub(1, Ordering::AcqRel);
        let _ = turns.give_back.try_send(());
        answer
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
            let stream = match UnixStream::connect(generation.path()) {
                Ok(stream) => Arc::new(stream),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    self.core.replace(&generation, &error);
                    continue;
                }
                Err(error) => {
                    log::warn!("no connection to the handlers: {error}");
                    break;
                }
            };
            // Whoever waits must not be what keeps a dead server, and with it the request that it waits for, alive.
            drop(generation);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
            let ticket = self.core.tickets.issue();
            let mut answer = Vec::new();
            let sent = (&*stream).write_all(&request(ticket));
            let read = answer::receive(&stream, head_only, &mut answer);
            let untaken = self.core.tickets.withdraw(ticket);
            if read.as_ref().is_ok_and(|&whole| whole) {
                return Ok(answer);
            }
            log::warn!("the handlers gave {} bytes and no whole answer ({sent:?}, {read:?})", answer.len());
            // What may have had an effect is not done twice; the server may have died over what only reads.
            if !(untaken || repeatable) || self.core.current().is_none() {
                return Err(ApiError::internal_error("The handler ended without an answer."));
            }
        }
        Err(unavailable("The handlers are not reachable; try again."))
    }

    /// Ends the workers; waits up to `grace` for handlers that still run, and then leaves them to themselves.
    pub(super) fn close(&self, grace: Duration) {
        let Some(last) = self.core.lock().take() else { return };
        // No more are started, and once those there are have ended the channel is disconnected.
        drop(self.workers().alive.take());
        last.end(WORKERS);
        drop(last);
        let until = Instant::now() + grace;
        let ended = self.done.recv_deadline(until) != Err(RecvTimeoutError::Timeout);
        let threads = std::mem::take(&mut self.workers().threads);
        if ended {
            drop(threads);
        } else {
            log::warn!("a request still keeps a handler busy; it is abandoned");
            threads.into_iter().filter(|thread| !thread.is_finished()).for_each(std::mem::forget);
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

impl Core {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Generation>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<Arc<Generation>> {
        self.lock().clone()
    }

    /// One worker's life.
    fn work(&self) {
        while let Some(generation) = self.current() {
            match generation.server.recv() {
                Ok(request) => {
                    drop(generation);
                    self.answer(request);
                }
                Err(error) => self.replace(&generation, &error),
            }
        }
    }

    /// Starts the server anew, unless somebody has since `dead` was current. If that fails the next request tries
    /// again.
    fn replace(&self, dead: &Arc<Generation>, why: &io::Error) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|current| current.number != dead.number) {
            return;
        }
        match Generation::start(dead.number + 1) {
            Ok(next) => {
                log::warn!("the handlers' server ended ({why}) and was started again");
                *current = Some(Arc::new(next));
                drop(current);
                dead.end(WORKERS);
            }
            Err(error) => log::error!("the handlers' server ended ({why}) and does not start: {error}"),
        }
    }

    fn answer(&self, mut request: tiny_http::Request) {
        let (ticket, taken) = match take_request(&mut request) {
            Ok(taken) => taken,
            // Whoever sent it sees that it was not taken.
            Err(error) => return log::error!("a request was cut on its way to the handler: {error}"),
        };
        if !self.tickets.take(ticket) {
            return log::debug!("a request had been withdrawn before it was taken");
        }
        let what = format!("{} {}", taken.method, taken.path);
        let reply = catch_unwind(AssertUnwindSafe(|| self.api.handle(taken))).unwrap_or_else(|_| {
            // The panic hook has told where and why.
            log::error!("the handler of {} panicked", what.escape_debug());
            ApiError::internal_error("The handler failed; the daemon's log says why.").into()
        });
        let headers = reply
            .headers
            .iter()
            .filter_map(|(name, value)| tiny_http::Header::from_bytes(*name, value.as_bytes()).ok())
            .collect();
        let length = reply.body.len();
        let response = tiny_http::Response::new(
            tiny_http::StatusCode(reply.status),
            headers,
            Cursor::new(reply.body),
            Some(length),
            None,
        )
        // Never chunked: the length stands in the head.
        .with_chunked_threshold(usize::MAX);
        if let Err(error) = respond(request, response, length) {
            log::debug!("an answer was not taken: {error}");
        }
    }
}

/// As [`tiny_http::Request::respond`], but with one write(2): that one writes what its 1 KB of buffer holds, piece by
/// piece, and wakes the reader for each.
#[inline(never)] // In the frame of a worker that waits, its buffers would be 20 KB of memory for each.
fn respond(
    request: tiny_http::Request,
    response: tiny_http::Response<Cursor<Vec<u8>>>,
    length: usize,
) -> io::Result<()> {
    let mut text = Vec::with_capacity(length + ANSWER_ROOM);
    let head_only = *request.method() == tiny_http::Method::Head;
    response.raw_print(&mut text, request.http_version().clone(), request.headers(), head_only, None)?;
    let mut writer = request.into_writer();
    writer.write_all(&text)?;
    writer.flush()
}

/// The request and its ticket.
fn take_request(request: &mut tiny_http::Request) -> io::Result<(u64, Request)> {
    let (path, query) = match request.url().split_once('?') {
        Some((path, query)) => (path.to_owned(), query.to_owned()),
        None => (request.url().to_owned(), String::new()),
    };
    let method = match request.method() {
        tiny_http::Method::Head => "GET".to_owned(),
        other => other.to_string(),
    };
    let ticket = request.headers().iter().find(|header| header.field.equiv(TICKET));
    let ticket = ticket.and_then(|header| header.value.as_str().parse().ok());
    let headers = request
        .headers()
        .iter()
        .map(|header| (header.field.as_str().as_str().to_ascii_lowercase(), header.value.to_string()))
        .filter(|(name, _)| FORWARDED.contains(&name.as_str()))
        .collect();
    let announced = request.body_length().unwrap_or(0);
    let mut body = Vec::with_capacity(announced);
    request.as_reader().read_to_end(&mut body)?;
    if body.len() != announced {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let ticket = ticket.ok_or(ErrorKind::InvalidData)?;
    Ok((ticket, Request { method, path, query, headers, body }))
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
