//! One client's connection as bytes: buffered reading with deadlines over the whole of a thing, not over each byte.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::head::Head;
use super::reply::ApiError;
use crate::os::socket::write_within;

/// Bytes asked of the socket at a time.
const READ_SIZE: usize = 4096;
/// Bytes that are still read and thrown away before a connection is closed after a refusal.
const LINGER_BYTES: usize = 128 * 1024 * 1024;
/// Time for that.
const LINGER_TIME: Duration = Duration::from_secs(3);
/// Part of an answer that a client has to take within the deadline of [`Wire::write`].
const WRITE_PART: usize = 256 * 1024;

/// Why reading stopped without anything to answer with.
#[derive(Debug)]
pub(super) enum Stop {
    /// The client is gone, was silent for too long, or the daemon stops: close without a word.
    Silent,
    /// Answer with this, then close.
    Refuse(ApiError),
}

impl From<ApiError> for Stop {
    fn from(error: ApiError) -> Self {
        Self::Refuse(error)
    }
}

/// The connection. Reading and writing are never at the same time.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
    read_timeout: Option<Duration>,
}

impl Wire {
    /// Over a blocking socket.
    pub(super) fn new(stream: Arc<TcpStream>) -> Self {
        Self { stream, buffer: Vec::new(), read_timeout: None }
    }

    /// With bytes that have been read already.
    #[cfg(test)]
    pub(super) fn with_buffer(stream: Arc<TcpStream>, buffer: Vec<u8>) -> Self {
        Self { stream, buffer, read_timeout: None }
    }

    /// The socket and the bytes that were read too far, for whoever takes the connection over.
    pub(super) fn into_parts(self) -> (Arc<TcpStream>, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Whether bytes of the client wait to be looked at.
    pub(super) fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next head. `idle`: how long to wait for its first byte; `limit`: for all of it from then on.
    pub(super) fn read_head(&mut self, idle: Duration, limit: Duration) -> Result<Head, Stop> {
        let idle_until = Instant::now() + idle;
        while self.skip_empty_lines() {
            match self.fill(idle_until) {
                Ok(0) | Err(_) => return Err(Stop::Silent),
                Ok(_) => {}
            }
        }
        let until = Instant::now() + limit;
        let mut searched = 0;
        let mut parsed = 0;
        loop {
            // Parsing begins anew each time, so a client that sends byte by byte must not trigger it with each one:
            // it is done when an empty line came, and else when there is twice as much as at the last time.
            if ends_somewhere(&self.buffer, &mut searched) || self.buffer.len() >= 2 * parsed {
                parsed = self.buffer.len();
                if let Some((head, length)) = Head::parse(&self.buffer)? {
                    self.buffer.drain(..length);
                    return Ok(head);
                }
            }
            match self.fill(until) {
                Ok(0) => return Err(Stop::Silent),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {
                    return Err(ApiError::request_timeout("The request head did not arrive in time.").into());
                }
                Err(_) => return Err(Stop::Silent),
            }
        }
    }

    /// Drops empty lines before a request line (RFC 9112 section 2.2); whether more bytes are needed.
    fn skip_empty_lines(&mut self) -> bool {
        let skip = self.buffer.chunks_exact(2).take_while(|pair| pair == b"\r\n").count() * 2;
        self.buffer.drain(..skip);
        self.buffer.is_empty() || self.buffer == b"\r"
    }

    /// Reads `length` bytes to the end of `body`.
    pub(super) fn read_exact_into(
        &mut self,
        body: &mut Vec<u8>,
        length: usize,
        until: Instant,
    ) -> Result<(), Stop> {
        let mut missing = length;
        loop {
            let take = missing.min(self.buffer.len());
            // Room grows with what has come, not with what was announced.
            body.extend_from_slice(&self.buffer[..take]);
            self.buffer.drain(..take);
            missing -= take;
            if missing == 0 {
                return Ok(());
            }
            self.fill_body(missing.clamp(READ_SIZE, 64 * 1024), until)?;
        }
    }

    /// One line of a chunked body, without its CR LF.
    pub(super) fn read_line(&mut self, limit: usize, until: Instant) -> Result<Vec<u8>, Stop> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.pop() != Some(b'\r') || line.contains(&b'\r') || line.len() > limit {
                    return Err(ApiError::bad_request("A line of the chunked body is malformed.").into());
                }
                return Ok(line);
            }
            if self.buffer.len() > limit + 2 {
                return Err(ApiError::bad_request("A line of the chunked body is too long.").into());
            }
            self.fill_body(READ_SIZE, until)?;
        }
    }

    fn fill_body(&mut self, size: usize, until: Instant) -> Result<(), Stop> {
        match self.fill_up_to(size, until) {
            Ok(0) => Err(ApiError::bad_request("The request body ended before its announced length.").into()),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => {
                Err(ApiError::request_timeout("The request body did not arrive in time.").into())
            }
            Err(_) => Err(Stop::Silent),
        }
    }

    fn fill(&mut self, until: Instant) -> io::Result<usize> {
        self.fill_up_to(READ_SIZE, until)
    }

    fn fill_up_to(&mut self, size: usize, until: Instant) -> io::Result<usize> {
        let had = self.buffer.len();
        self.buffer.resize(had + size, 0);
        let result = self.read_by(had, until);
        self.buffer.truncate(had + result.as_ref().copied().unwrap_or(0));
        result
    }

    fn read_by(&mut self, at: usize, until: Instant) -> io::Result<usize> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            // Whole milliseconds upwards: most requests come in one read, and the same timeout is not set twice.
            let left = Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX) + 1);
            if self.read_timeout != Some(left) {
                self.stream.set_read_timeout(Some(left))?;
                self.read_timeout = Some(left);
            }
            match (&*self.stream).read(&mut self.buffer[at..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Writes all of `bytes`; every 256 KiB of it must be taken within `limit` (which is also the socket's timeout).
    ///
    /// # Errors
    /// What the socket says, or `TimedOut`: the connection is of no more use.
    pub(super) fn write(&self, bytes: &[u8], limit: Duration) -> io::Result<()> {
        write_within(&*self.stream, bytes, WRITE_PART, limit)
    }

    /// Closes so that the client gets what was written: a socket closed with unread input sends a reset, which can
    /// overtake the answer (RFC 9112 section 9.6).
    pub(super) fn linger(mut self) {
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let until = Instant::now() + LINGER_TIME;
        let mut drained = 0;
        while drained < LINGER_BYTES {
            self.buffer.clear();
            match self.fill_up_to(64 * 1024, until) {
                Ok(0) | Err(_) => return,
                Ok(read) => drained += read,
            }
        }
    }
}

/// Whether an empty line ends somewhere in `bytes`, with CR or without; `searched` bytes were looked at before.
fn ends_somewhere(bytes: &[u8], searched: &mut usize) -> bool {
    let from = searched.saturating_sub(3);
    *searched = bytes.len();
    memchr::memchr_iter(b'\n', &bytes[from..])
        .any(|at| matches!(&bytes[from + at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]))
}

/// Linux says `EAGAIN` for a timeout of the socket, other systems `ETIMEDOUT`.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
