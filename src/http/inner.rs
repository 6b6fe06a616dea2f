//! tiny_http behind the front door: two pools of handlers, each with a server of its own on a Unix socket.
//!
//! A request comes over a connection of its own, whole, well-formed and with `Connection: close`, so that none of
//! tiny_http's faults with strangers can show: its keep-alive pool, its reading of unread bodies, its framing. No more
//! requests are let in than there are workers; the rest wait in their connections' threads, in order.

use std::fs;
use std::io::{self, Cursor, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tempfile::TempDir;

use super::api::{Api, FORWARDED, Request};
use super::reply::ApiError;
use crate::threads::{self, Thread};

/// What the names of the folders with the sockets begin with.
const PREFIX: &str = "codexd-";
/// The socket's name in its folder.
const SOCKET: &str = "http";
/// Its name until it listens.
const NEW_SOCKET: &str = "new";
/// A Unix socket's path may have 104 bytes on macOS, the terminating NUL included.
const MAX_SOCKET_PATH: usize = 100;

/// Time for handlers under way when a pool is dropped.
const DROP_GRACE: Duration = Duration::from_secs(2);

/// Bytes that most answers fit into, and every head.
const ANSWER_ROOM: usize = 8 * 1024;

/// Where a connection keeps the inner connection it waits on, so that it can be cut.
pub(super) type Slot = Mutex<Option<Arc<UnixStream>>>;

/// One pool.
#[derive(Debug)]
pub(super) struct Pool {
    core: Arc<Core>,
    permits: (Sender<()>, Receiver<()>),
    threads: Mutex<Vec<Thread>>,
    done: Receiver<()>,
}

struct Core {
    name: &'static str,
    workers: usize,
    api: Arc<dyn Api>,
    current: Mutex<Arc<Generation>>,
    closing: AtomicBool,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Core")
            .field("name", &self.name)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// One life of the server. It ends when its last user lets go; dropping the server ends its accept thread.
struct Generation {
    number: u64,
    server: tiny_http::Server,
    /// The same socket the server listens on: shutting it down ends `accept` even if its path is gone.
    listener: UnixListener,
    path: PathBuf,
    _folder: TempDir,
}

impl Generation {
    fn start(number: u64) -> io::Result<Self> {
        let (folder, path) = private_folder()?;
        // Under its final name only once it listens: whoever finds it there and is refused knows that nobody does.
        let new = path.with_file_name(NEW_SOCKET);
        let listener = UnixListener::bind(&new)?;
        fs::rename(&new, &path)?;
        let server = tiny_http::Server::from_listener(listener.try_clone()?, None)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { number, server, listener, path, _folder: folder })
    }

    fn end(&self, workers: usize) {
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        for _ in 0..workers {
            self.server.unblock();
        }
    }
}

/// Where the folders are: `TMPDIR` or, where that is too long for a socket, `/tmp`.
fn parent() -> PathBuf {
    let parent = std::env::temp_dir();
    let longest = parent.join(format!("{PREFIX}{}-xxxxxx", u32::MAX)).join(SOCKET);
    if longest.as_os_str().len() <= MAX_SOCKET_PATH { parent } else { PathBuf::from("/tmp") }
}

/// A folder only we can enter.
fn private_folder() -> io::Result<(TempDir, PathBuf)> {
    let mut builder = tempfile::Builder::new();
    let prefix = format!("{PREFIX}{}-", std::process::id());
    builder.prefix(&prefix).permissions(fs::Permissions::from_mode(0o700));
    let folder = builder.tempdir_in(parent())?;
    let path = folder.path().join(SOCKET);
    Ok((folder, path))
}

/// Removes the folders of daemons that were killed: ours, of a process that is gone, with a socket that nobody listens at
/// or none yet. What cannot be looked at or removed stays.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir(parent()) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let folder = entry.path();
        let ours = |found: &fs::Metadata| found.is_dir() && found.uid() == own;
        if is_of_the_dead(&entry.file_name().to_string_lossy())
            && fs::symlink_metadata(&folder).is_ok_and(|found| ours(&found))
            && UnixStream::connect(folder.join(SOCKET)).is_err_and(|error| {
                matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound)
            })
        {
            for name in [SOCKET, NEW_SOCKET] {
                let _ = fs::remove_file(folder.join(name));
            }
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// Whether a folder's name is one of ours, and of a process that does not exist any more.
fn is_of_the_dead(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .and_then(|rest| Pid::from_raw(rest.split_once('-')?.0.parse().ok()?))
        .is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

impl Pool {
    /// Starts `workers` threads named `name-N`.
    pub(super) fn start(name: &'static str, workers: usize, api: Arc<dyn Api>) -> io::Result<Self> {
        let core = Arc::new(Core {
            name,
            workers,
            api,
            current: Mutex::new(Arc::new(Generation::start(1)?)),
            closing: AtomicBool::new(false),
        });
        let permits = bounded(workers);
        let (alive, done) = bounded::<()>(0);
        let pool = Self { core, permits, threads: Mutex::default(), done };
        for number in 1..=workers {
            let _ = pool.permits.0.try_send(());
            let (core, alive) = (Arc::clone(&pool.core), alive.clone());
            let thread = threads::spawn(format!("{name}-{number}"), move || {
                // A handler's panic is dealt with where it is called; whatever else panics costs one request.
                while catch_unwind(AssertUnwindSafe(|| core.work())).is_err() {}
                drop(alive);
            });
            match thread {
                Ok(thread) => pool.threads().push(thread),
                // Dropping the pool ends those that did start.
                Err(error) => return Err(error),
            }
        }
        Ok(pool)
    }

    /// Has a request handled; the answer is HTTP text as tiny_http wrote it, complete. Waits up to `wait` for a worker.
    pub(super) fn call(
        &self,
        request: &[u8],
        head_only: bool,
        repeatable: bool,
        wait: Duration,
        slot: &Slot,
    ) -> Result<Vec<u8>, ApiError> {
        if self.permits.1.recv_timeout(wait).is_err() {
            return Err(ApiError::unavailable("Every handler is busy; try again.").with_retry_after(1));
        }
        let answer = self.call_now(request, head_only, repeatable, slot);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = self.permits.0.try_send(());
        answer
    }

    fn call_now(
        &self,
        request: &[u8],
        head_only: bool,
        repeatable: bool,
        slot: &Slot,
    ) -> Result<Vec<u8>, ApiError> {
        for _ in 0..2 {
            let generation = self.core.current();
            let stream = match UnixStream::connect(&generation.path) {
                Ok(stream) => Arc::new(stream),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    self.core.replace(&generation, &error);
                    continue;
                }
                Err(error) => {
                    log::warn!("no connection to the {} handlers: {error}", self.core.name);
                    break;
                }
            };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&stream));
            let mut answer = Vec::new();
            let sent = (&*stream).write_all(request);
            let read = receive(&stream, head_only, &mut answer);
            if read.as_ref().is_ok_and(|&whole| whole) {
                return Ok(answer);
            }
            log::warn!(
                "the {} handlers gave {} bytes and no whole answer ({sent:?}, {read:?})",
                self.core.name,
                answer.len()
            );
            // What may have had an effect is not done twice; the server may have died over what only reads.
            if !repeatable || self.core.closing.load(Ordering::Acquire) {
                return Err(ApiError::internal_error("The handler ended without an answer."));
            }
        }
        Err(ApiError::unavailable("The handlers are not reachable; try again.").with_retry_after(1))
    }

    /// Ends the workers; waits up to `grace` for handlers that still run, and then leaves them to themselves.
    pub(super) fn close(&self, grace: Duration) {
        if self.core.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.core.current().end(self.core.workers);
        let until = Instant::now() + grace;
        match self.done.recv_deadline(until) {
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("a request still keeps a {} worker busy; it is abandoned", self.core.name);
                self.threads().drain(..).filter(|thread| !thread.is_finished()).for_each(std::mem::forget);
            }
            _ => self.threads().clear(),
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the server as if it had died.
    #[cfg(test)]
    pub(super) fn kill_server(&self) {
        let _ = rustix::net::shutdown(&self.core.current().listener, rustix::net::Shutdown::Both);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close(DROP_GRACE);
    }
}

impl Core {
    fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One worker's life.
    fn work(&self) {
        while !self.closing.load(Ordering::Acquire) {
            let generation = self.current();
            match generation.server.recv() {
                Ok(request) => self.answer(request),
                Err(error) if !self.closing.load(Ordering::Acquire) => self.replace(&generation, &error),
                Err(_) => {}
            }
        }
    }

    /// Starts the server anew, unless somebody has since `dead` was current. If that fails the next request tries
    /// again.
    fn replace(&self, dead: &Arc<Generation>, why: &io::Error) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number != dead.number || self.closing.load(Ordering::Acquire) {
            return;
        }
        match Generation::start(dead.number + 1) {
            Ok(next) => {
                log::warn!("the {} server ended ({why}) and was started again", self.name);
                *current = Arc::new(next);
                drop(current);
                dead.end(self.workers);
            }
            Err(error) => log::error!("the {} server ended ({why}) and does not start: {error}", self.name),
        }
    }

    fn answer(&self, mut request: tiny_http::Request) {
        let reply = match take_request(&mut request) {
            Ok(request) => {
                let what = format!("{} {}", request.method, request.path);
                catch_unwind(AssertUnwindSafe(|| self.api.handle(request))).unwrap_or_else(|_| {
                    // The panic hook has told where and why.
                    log::error!("the handler of {} panicked", what.escape_debug());
                    ApiError::internal_error("The handler failed; the daemon's log says why.").into()
                })
            }
            Err(error) => {
                log::error!("a request was cut on its way to the handler: {error}");
                ApiError::internal_error("The request did not reach its handler.").into()
            }
        };
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

fn take_request(request: &mut tiny_http::Request) -> io::Result<Request> {
    let (path, query) = match request.url().split_once('?') {
        Some((path, query)) => (path.to_owned(), query.to_owned()),
        None => (request.url().to_owned(), String::new()),
    };
    let method = match request.method() {
        tiny_http::Method::Head => "GET".to_owned(),
        other => other.to_string(),
    };
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
    Ok(Request { method, path, query, headers, body })
}

/// Reads an answer; whether it has as many bytes as its head says: one that was cut must not go out on a connection that
/// lives.
pub(super) fn receive(from: &UnixStream, head_only: bool, answer: &mut Vec<u8>) -> io::Result<bool> {
    let mut length = None;
    loop {
        let rest = length.map_or(ANSWER_ROOM, |length: usize| length - answer.len());
        answer.reserve(rest);
        match rustix::io::read(from, spare_capacity(answer)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        length = length.or_else(|| length_of(answer, head_only));
        if let Some(length) = length.filter(|&length| length <= answer.len()) {
            return Ok(length == answer.len());
        }
    }
}

/// How long an answer is in all, once its head is there and says so.
fn length_of(answer: &[u8], head_only: bool) -> Option<usize> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(head)) = response.parse(answer) else { return None };
    if head_only {
        return Some(head);
    }
    let mut fields = response.headers.iter();
    let length = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(length.value).ok()?.parse::<usize>().ok()?.checked_add(head)
}

/// Cuts the inner connection a request waits on, if there is one.
pub(super) fn cut(slot: &Slot) {
    if let Some(stream) = &*slot.lock().unwrap_or_else(PoisonError::into_inner) {
        drop(stream.shutdown(Shutdown::Both));
    }
}
