//! A WebSocket used by two threads at once (RFC 6455): one reads, one writes, on one blocking socket.
//!
//! Whatever is sent goes out as whole frames under one small lock, so that the reader can answer a ping between two
//! frames of the writer. Reading is tungstenite's; its frame encoder writes. After our Close nothing is written: not
//! by the writer, not by the reader, whoever of them sent it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Utf8Bytes};

mod gate;
pub mod transport;

use gate::Gate;
pub use gate::{MAX_HEAD, put_head};
pub use transport::Transport;

/// Bytes of a message from a client, in one frame or many.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// Time for the other side to take each 64 KiB; after that the connection is cut.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

const READ_BUFFER: usize = 4 * 1024;
/// A client has one connection, which carries what many clients of a server do.
const CLIENT_READ_BUFFER: usize = 64 * 1024;
/// Frames are gathered up to this size before they are written.
pub const GATHER: usize = 32 * 1024;
/// A closing connection is read for that long and that far, so that our Close is not lost in a reset.
const DRAIN_TIME: Duration = Duration::from_secs(2);
const DRAIN_BYTES: usize = 64 * 1024 * 1024;
/// A vanished host is noticed after about two minutes of silence, without any work here.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Close codes (RFC 6455 section 7.4.1).
pub mod code {
    /// All was said.
    pub const NORMAL: u16 = 1000;
    /// The endpoint goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// A frame breaks the protocol.
    pub const PROTOCOL: u16 = 1002;
    /// A kind of data that is not accepted.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is not UTF-8.
    pub const INVALID_DATA: u16 = 1007;
    /// A message that is too large.
    pub const TOO_BIG: u16 = 1009;
    /// The server cannot do what was asked.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// Try again later (registered with IANA).
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// The connection is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// Closed by either side, or cut.
    #[error("the WebSocket is closed")]
    Gone,
    /// The other side is there but has taken nothing for [`WRITE_TIMEOUT`]; told to the one whose write it was.
    #[error("the other side of the WebSocket takes nothing")]
    Stalled,
}

/// What the other side sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message, valid UTF-8.
    Text(Utf8Bytes),
    /// A whole binary message.
    Binary(Bytes),
}

/// Why there is nothing more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A Close frame came, with that code if it had one; it was answered unless it was the answer to ours.
    Close(Option<u16>),
    /// The other side broke the rules and was told so with that close code.
    Refused(u16),
    /// The connection is gone, without a Close.
    Gone,
}

/// Cuts a connection whose two ends belong to other threads.
#[derive(Debug, Clone)]
pub struct Cutter(Arc<Gate>);

impl Cutter {
    /// Nothing more is read or written; both threads wake.
    pub fn cut(&self) {
        self.0.cut();
    }
}

/// A moment in what was heard of the other side; see [`Writer::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// Both ends of a connection whose handshake is done.
#[derive(Debug)]
pub struct Duplex;

impl Duplex {
    /// The server's side. `leftover`: what was read behind the handshake already.
    ///
    /// # Errors
    /// What the system says of the socket: the other side is gone.
    pub fn server(stream: Arc<TcpStream>, leftover: Vec<u8>) -> io::Result<(Reader, Writer)> {
        Self::start(stream, leftover, Role::Server, MAX_MESSAGE)
    }

    /// The client's side, which masks what it sends; messages of up to `max_message` bytes are taken.
    ///
    /// # Errors
    /// As [`Duplex::server`].
    pub fn client(
        transport: Arc<dyn Transport>,
        leftover: Vec<u8>,
        max_message: usize,
    ) -> io::Result<(Reader, Writer)> {
        Self::start(transport, leftover, Role::Client, max_message)
    }

    fn start(
        transport: Arc<dyn Transport>,
        leftover: Vec<u8>,
        role: Role,
        max_message: usize,
    ) -> io::Result<(Reader, Writer)> {
        let stream = transport.socket();
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_nodelay(true)?;
        keep_alive(stream)?;
        let read_buffer = if role == Role::Client { CLIENT_READ_BUFFER } else { READ_BUFFER };
        let config = WebSocketConfig::default()
            .read_buffer_size(read_buffer)
            .write_buffer_size(0)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let gate = Arc::new(Gate::new(transport, role));
        let half = ReadHalf { gate: Arc::clone(&gate), wait: true };
        let socket = WebSocket::from_partially_read(half, leftover, role, Some(config));
        Ok((
            Reader { socket, gate: Arc::clone(&gate), close_reason: String::new(), peer_closed: false },
            Writer { gate, gathered: Vec::new(), begun: false },
        ))
    }
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// What tungstenite reads from, and where it puts its answers to pings.
#[derive(Debug)]
struct ReadHalf {
    gate: Arc<Gate>,
    wait: bool,
}

impl Read for ReadHalf {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.wait {
            return self.gate.transport.receive(buffer, false);
        }
        self.gate.note_wait();
        let read = self.gate.transport.receive(buffer, true);
        self.gate.note_wait();
        read
    }
}

impl Write for ReadHalf {
    fn write(&mut self, frame: &[u8]) -> io::Result<usize> {
        // With a write buffer of 0 this is one whole frame. A pong that comes after our Close is not sent.
        let _ = self.gate.write(&[frame]);
        Ok(frame.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end. It belongs to one thread.
#[derive(Debug)]
pub struct Reader {
    socket: WebSocket<ReadHalf>,
    gate: Arc<Gate>,
    close_reason: String,
    /// The other side's Close has come: it sends nothing more.
    peer_closed: bool,
}

impl Reader {
    /// Waits for the next message. Pings are answered here, pongs passed over.
    ///
    /// # Errors
    /// Why there will be none. Our part of the closing is done then, but for [`Reader::finish`].
    pub fn read(&mut self) -> Result<Incoming, Ended> {
        loop {
            if let Some(incoming) = self.next(true)? {
                return Ok(incoming);
            }
        }
    }

    /// The next message if all of it is here already.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_ready(&mut self) -> Result<Option<Incoming>, Ended> {
        self.next(false)
    }

    fn next(&mut self, wait: bool) -> Result<Option<Incoming>, Ended> {
        self.socket.get_mut().wait = wait;
        loop {
            return match self.socket.read() {
                Ok(Message::Text(text)) => Ok(Some(Incoming::Text(text))),
                Ok(Message::Binary(bytes)) => Ok(Some(Incoming::Binary(bytes))),
                // The answer goes out with the next call, which is at once.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(close)) => Err(self.closed_by_peer(close)),
                Err(Error::Io(error)) if error.kind() == ErrorKind::Interrupted => continue,
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                Err(error) => Err(self.failed(&error)),
            };
        }
    }

    /// The reason in the other side's Close frame; empty before it came, and when it had none.
    pub fn close_reason(&self) -> &str {
        &self.close_reason
    }

    fn closed_by_peer(&mut self, close: Option<CloseFrame>) -> Ended {
        self.peer_closed = true;
        let code = close.map(|close| {
            self.close_reason = close.reason.as_str().to_owned();
            u16::from(close.code)
        });
        // Echoed without the reason. If we closed first, this was the answer, and nothing is sent.
        let _ = self.gate.close(code.map(|code| (code, "")));
        Ended::Close(code)
    }

    fn failed(&self, error: &Error) -> Ended {
        let (code, reason) = match error {
            Error::Capacity(_) => (code::TOO_BIG, "message too large"),
            Error::Utf8(_) => (code::INVALID_DATA, "text is not valid UTF-8"),
            Error::Protocol(reason) if *reason != ProtocolError::ResetWithoutClosingHandshake => {
                (code::PROTOCOL, "protocol error")
            }
            _ => {
                // The writer may be waiting for a side that has gone away, and holds the lock.
                self.gate.cut();
                return Ended::Gone;
            }
        };
        log::debug!("a WebSocket breaks the rules: {error}");
        let _ = self.gate.close(Some((code, reason)));
        Ended::Refused(code)
    }

    /// Sends a text message at once, between the writer's frames.
    ///
    /// # Errors
    /// The connection is closed.
    pub fn send(&self, text: String) -> Result<(), Closed> {
        let mut frame = Vec::new();
        self.gate.encode(OpCode::Data(Data::Text), text.into(), &mut frame);
        self.gate.write(&[&frame])
    }

    /// Sends a Close frame at once; `reason` is cut to 123 bytes.
    ///
    /// # Errors
    /// The connection is closed already.
    pub fn close(&self, code: u16, reason: &str) -> Result<(), Closed> {
        self.gate.close(Some((code, reason)))
    }

    /// Ends the connection: no more writing, a bounded wait for the other side to close, then it is cut. Once the other
    /// side's Close has come there is no wait: nothing can come any more that would turn the end into a reset, and a
    /// client that keeps its socket open must not keep the daemon from ending.
    pub fn finish(self) {
        self.gate.shut();
        let mut stream: &TcpStream = self.gate.transport.socket();
        if self.peer_closed {
            drop(stream.shutdown(Shutdown::Both));
            return;
        }
        let until = Instant::now() + DRAIN_TIME;
        let mut drained = 0;
        let mut buffer = [0; READ_BUFFER];
        if stream.shutdown(Shutdown::Write).is_ok() {
            while drained < DRAIN_BYTES {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
                    break;
                }
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => drained += read,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        drop(stream.shutdown(Shutdown::Both));
    }
}

/// The writing end. It belongs to one thread, which may be another one than the reader's.
#[derive(Debug)]
pub struct Writer {
    gate: Arc<Gate>,
    gathered: Vec<u8>,
    /// [`Writer::flush_now`] may have left half a frame with the gate.
    begun: bool,
}

impl Writer {
    /// Adds a text message; it goes out with [`Writer::flush`] or when enough has gathered. `text` must be valid
    /// UTF-8 (what is sent here was serialised by us; it is not checked again).
    ///
    /// # Errors
    /// The connection is closed, cut, or the other side was too slow.
    pub fn write(&mut self, text: Bytes) -> Result<(), Closed> {
        if self.gate.role == Role::Server && text.len() >= GATHER {
            // A large one is not copied, and does not make the buffer large for ever.
            put_head(text.len(), &mut self.gathered);
            return self.write_frames(&text);
        }
        self.gate.encode(OpCode::Data(Data::Text), text, &mut self.gathered);
        if self.gathered.len() >= GATHER { self.flush() } else { Ok(()) }
    }

    /// As [`Writer::write`], with whole text frames of a server, made with [`put_head`].
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write_frames(&mut self, frames: &[u8]) -> Result<(), Closed> {
        if self.gathered.len() + frames.len() < GATHER {
            self.gathered.extend_from_slice(frames);
            return Ok(());
        }
        let result = self.gate.write(&[&self.gathered, frames]);
        self.gathered.clear();
        self.begun = false;
        result
    }

    /// Sends what has gathered.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn flush(&mut self) -> Result<(), Closed> {
        if self.gathered.is_empty() && !self.begun {
            return Ok(());
        }
        let result = self.gate.write(&[&self.gathered]);
        self.gathered.clear();
        self.begun = false;
        // A client's large message is gathered, since it is masked; it does not make the buffer large for ever.
        self.gathered.shrink_to(8 * GATHER);
        result
    }

    /// Sends what has gathered as far as that needs no waiting. Whether all is out; the rest goes with [`Writer::flush`].
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn flush_now(&mut self) -> Result<bool, Closed> {
        if self.gathered.is_empty() {
            return Ok(!self.begun);
        }
        let all = self.gate.write_now(&mut self.gathered)?;
        self.begun |= !all;
        Ok(all)
    }

    /// Sends what has gathered, then a Close frame; `reason` is cut to 123 bytes. The reader gets the answer.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn close(&mut self, code: u16, reason: &str) -> Result<(), Closed> {
        self.flush()?;
        self.gate.close(Some((code, reason)))
    }

    /// Sends a ping at once; its answer is only a sign of life. See [`Writer::heard_since`].
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn ping(&mut self) -> Result<(), Closed> {
        self.flush()?;
        self.gate.encode(OpCode::Control(Control::Ping), Bytes::new(), &mut self.gathered);
        self.flush()
    }

    /// A mark of what was heard of the other side so far.
    pub fn mark(&self) -> Mark {
        Mark(self.gate.waits())
    }

    /// Whether something came since then. A reader that was busy elsewhere counts as one that heard something: it is
    /// not the other side that kept silent.
    pub fn heard_since(&self, mark: Mark) -> bool {
        let waiting_then = mark.0 % 2 == 1;
        !waiting_then || self.gate.waits() != mark.0
    }

    /// Cuts the connection: the reader wakes.
    pub fn cut(&self) {
        self.gate.cut();
    }

    /// A handle that cuts the connection from elsewhere.
    pub fn cutter(&self) -> Cutter {
        Cutter(Arc::clone(&self.gate))
    }
}

#[cfg(test)]
mod tests;
