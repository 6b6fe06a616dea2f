//! The one place where a WebSocket is written to.

use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::frame::{Frame, FrameHeader};

use super::{Closed, Transport};

/// A reason has at most 123 bytes (RFC 6455 section 5.5).
const MAX_REASON: usize = 123;

/// Bytes of a server's frame before its payload, at most (RFC 6455 section 5.2).
pub const MAX_HEAD: usize = 10;

/// Adds what stands before a text of so many bytes in a frame of a server, which is the same for all of its clients.
pub fn put_head(length: usize, out: &mut Vec<u8>) {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    // Writing to memory does not fail.
    drop(header.format(length as u64, out));
}

#[derive(Debug, Default)]
struct State {
    /// Nothing is written any more.
    closed: bool,
    /// The rest of a frame that was begun without waiting: it goes out before anything else.
    begun: Vec<u8>,
}

/// Where both threads pass to write: whole frames, one thread at a time, none after our Close.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) role: Role,
    state: Mutex<State>,
    /// Begun and ended waits for something to read: odd while the reader is waiting.
    waits: AtomicU64,
}

impl Gate {
    pub(super) fn new(transport: Arc<dyn Transport>, role: Role) -> Self {
        Self { transport, role, state: Mutex::default(), waits: AtomicU64::new(0) }
    }

    /// Nothing more is read or written, by either thread.
    pub(super) fn cut(&self) {
        drop(self.transport.socket().shutdown(Shutdown::Both));
    }

    /// The reader begins or ends a wait.
    pub(super) fn note_wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Nothing is written from now on.
    pub(super) fn shut(&self) {
        self.lock().closed = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes whole frames.
    pub(super) fn write(&self, frames: &[&[u8]]) -> Result<(), Closed> {
        self.write_locked(frames, &mut self.lock())
    }

    /// Writes whole frames as far as that needs no waiting, neither for the lock nor for the other side. What is begun
    /// is taken off `frames`, and kept to go out before anything else. Whether all is out; if not, a write has to follow.
    pub(super) fn write_now(&self, frames: &mut Vec<u8>) -> Result<bool, Closed> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        if state.closed {
            return Err(Closed::Gone);
        }
        if !state.begun.is_empty() {
            return Ok(false);
        }
        let sent = self.transport.send_now(frames).map_err(|error| self.broken(&error, &mut state))?;
        if sent > 0 {
            state.begun.extend_from_slice(&frames[sent..]);
            frames.clear();
        }
        Ok(frames.is_empty() && state.begun.is_empty())
    }

    fn write_locked(&self, frames: &[&[u8]], state: &mut State) -> Result<(), Closed> {
        if state.closed {
            return Err(Closed::Gone);
        }
        let begun = std::mem::take(&mut state.begun);
        let all = [&*begun]
            .iter()
            .chain(frames)
            .filter(|bytes| !bytes.is_empty())
            .try_for_each(|bytes| self.transport.send(bytes));
        all.map_err(|error| self.broken(&error, state))
    }

    fn broken(&self, error: &std::io::Error, state: &mut State) -> Closed {
        // Half a frame may be out: nothing can follow it, and the reader has to notice.
        log::debug!("a WebSocket could not be written to: {error}");
        state.closed = true;
        self.cut();
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Closed::Stalled,
            _ => Closed::Gone,
        }
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
        let mut state = self.lock();
        self.write_locked(&[&frame], &mut state)?;
        state.closed = true;
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
