//! What requests and workers share: the server's present life, its connections, its tickets.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::WORKERS;
use super::answer;
use super::connections::Connections;
use super::generation::Generation;
use super::tickets::Tickets;
use super::worker::hello;
use crate::fault::{self, Point};
use crate::http::api::Api;

pub(super) struct Core {
    pub(super) api: Arc<dyn Api>,
    /// `None` once it is closed.
    current: Mutex<Option<Arc<Generation>>>,
    pub(super) connections: Connections,
    pub(super) tickets: Tickets,
}

/// A request that was not answered.
pub(super) struct Lost {
    /// Whether a worker had taken it.
    pub(super) taken: bool,
}

impl Core {
    /// With the server's first life.
    pub(super) fn start(api: Arc<dyn Api>) -> io::Result<Self> {
        Ok(Self {
            api,
            current: Mutex::new(Some(Arc::new(Generation::start(1)?))),
            connections: Connections::default(),
            tickets: Tickets::default(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Arc<Generation>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.lock().clone()
    }

    /// A connection on which a request is answered at once, by a worker that is there for it.
    ///
    /// # Errors
    /// `ConnectionRefused` or `NotFound` when nobody listens, `UnexpectedEof` when the server has just ended.
    pub(super) fn connection(&self, generation: &Generation) -> io::Result<Arc<UnixStream>> {
        if let Some(kept) = self.connections.take(generation.number) {
            return Ok(kept);
        }
        let _alone = self.connections.open_alone();
        let stream = Arc::new(UnixStream::connect(generation.path())?);
        // Answered once a thread of tiny_http's has the connection to itself.
        match self.exchange(generation.number, &stream, &hello, true) {
            Ok(_) => Ok(stream),
            Err(Lost { .. }) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) fn exchange(
        &self,
        generation: u64,
        stream: &Arc<UnixStream>,
        request: &dyn Fn(u64) -> Vec<u8>,
        head_only: bool,
    ) -> Result<Vec<u8>, Lost> {
        let Some(ticket) = self.tickets.issue(generation, stream) else { return Err(Lost { taken: false }) };
        let mut answer = Vec::new();
        let sent = fault::point(Point::InnerSend).and_then(|()| (&**stream).write_all(&request(ticket)));
        if sent.is_err() {
            // What has not gone out whole would be waited for at both ends.
            let _ = stream.shutdown(Shutdown::Write);
        }
        let read = answer::receive(stream, head_only, &mut answer);
        let taken = !self.tickets.withdraw(ticket);
        if read.as_ref().is_ok_and(|&whole| whole) {
            return Ok(answer);
        }
        log::warn!("the handlers gave {} bytes and no whole answer ({sent:?}, {read:?})", answer.len());
        Err(Lost { taken })
    }

    /// A life of the server has ended.
    pub(super) fn end(&self, dead: &Generation) {
        dead.end(WORKERS);
        self.tickets.end(dead.number);
        self.connections.end(dead.number);
    }

    /// Starts the server anew, unless somebody has since `dead` was current. If that fails the next request tries
    /// again.
    pub(super) fn replace(&self, dead: &Arc<Generation>, why: &io::Error) {
        let mut current = self.lock();
        if current.as_ref().is_none_or(|current| current.number != dead.number) {
            return;
        }
        match Generation::start(dead.number + 1) {
            Ok(next) => {
                log::warn!("the handlers' server ended ({why}) and was started again");
                *current = Some(Arc::new(next));
                drop(current);
                self.end(dead);
            }
            Err(error) => log::error!("the handlers' server ended ({why}) and does not start: {error}"),
        }
    }
}
