//! The one place where a WebSocket is written to.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::coding::{Control, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use super::{Closed, WRITE_TIMEOUT};

const WRITE_PART: usize = 64 * 1024;
/// A reason has at most 123 bytes (RFC 6455 section 5.5).
const MAX_REASON: usize = 123;

/// Where both threads pass to write: whole frames, one thread at a time, none after our Close.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) stream: Arc<TcpStream>,
    pub(super) role: Role,
    closed: Mutex<bool>,
}

impl Gate {
    pub(super) fn new(stream: Arc<TcpStream>, role: Role) -> Self {
        Self { stream, role, closed: Mutex::new(false) }
    }

    /// Nothing is written from now on.
    pub(super) fn shut(&self) {
        *self.lock() = true;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole frames.
    pub(super) fn write(&self, frames: &[&[u8]]) -> Result<(), Closed> {
        let mut closed = self.lock();
        if *closed {
            return Err(Closed);
        }
        self.write_locked(frames, &mut closed)
    }

    fn write_locked(&self, frames: &[&[u8]], closed: &mut bool) -> Result<(), Closed> {
        let all = frames.iter().try_for_each(|bytes| write_all(&self.stream, bytes));
        all.map_err(|error| {
            // Half a frame may be out: nothing can follow it, and the reader has to notice.
            log::debug!("a WebSocket could not be written to: {error}");
            *closed = true;
            drop(self.stream.shutdown(Shutdown::Both));
            Closed
        })
    }

    /// Sends a Close frame, unless one was sent or the connection is broken. No reason without a code.
    pub(super) fn close(&self, close: Option<(u16, &str)>) -> Result<(), Closed> {
        let mut payload = Vec::new();
        if let Some((code, reason)) = close {
            payload.extend_from_slice(&code.to_be_bytes());
            let mut length = reason.len().min(MAX_REASON);
            while !reason.is_char_boundary(length) {
                length -= 1;
            }
            payload.extend_from_slice(&reason.as_bytes()[..length]);
        }
        let mut frame = Vec::new();
        self.encode(OpCode::Control(Control::Close), payload.into(), &mut frame);
        let mut closed = self.lock();
        if *closed {
            return Err(Closed);
        }
        self.write_locked(&[&frame], &mut closed)?;
        *closed = true;
        Ok(())
    }

    /// Adds one frame to `out`; a client's is masked (RFC 6455 section 5.3).
    pub(super) fn encode(&self, opcode: OpCode, payload: Bytes, out: &mut Vec<u8>) {
        let mut header = FrameHeader { opcode, ..FrameHeader::default() };
        if self.role == Role::Client {
            let [a, b, c, d, ..] = *uuid::Uuid::new_v4().as_bytes();
            header.mask = Some([a, b, c, d]);
        }
        // Writing to memory does not fail.
        drop(Frame::from_payload(header, payload).format(out));
    }
}

/// Writes all of it; the socket's own timeout bounds each wait, the clock bounds a side that takes byte by byte.
fn write_all(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(WRITE_PART) {
        let until = Instant::now() + WRITE_TIMEOUT;
        let mut left = part;
        while !left.is_empty() {
            match stream.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !left.is_empty() && Instant::now() >= until {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }
    Ok(())
}
