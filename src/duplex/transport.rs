//! What a WebSocket runs over.

use std::fmt::Debug;
use std::io::{self, Read};
use std::net::TcpStream;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::WRITE_TIMEOUT;
use crate::os::socket::{send_now, write_within};

const WRITE_PART: usize = 64 * 1024;

/// A connection that one thread reads from while another writes to it. The two may meet at any time: an
/// implementation must not hold, while it waits for the socket, what the other direction needs.
pub trait Transport: Debug + Send + Sync {
    /// The socket itself: for its options and to cut it.
    fn socket(&self) -> &TcpStream;

    /// Receives; 0 is the end. `wait`: for something to come, otherwise nothing there is [`io::ErrorKind::WouldBlock`].
    ///
    /// # Errors
    /// What the system says of the socket, and what the transport makes of its bytes.
    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize>;

    /// Sends all of it, within [`WRITE_TIMEOUT`] for each 64 KiB. Never called by two threads at once.
    ///
    /// # Errors
    /// As for receiving; part of it may have been written.
    fn send(&self, bytes: &[u8]) -> io::Result<()>;

    /// Sends as much as goes without waiting, and says how much that was: 0 for a transport that cannot tell. Never
    /// called while another thread sends.
    ///
    /// # Errors
    /// As for sending.
    fn send_now(&self, _bytes: &[u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Transport for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }

    fn receive(&self, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
        read_socket(self, buffer, wait)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        write_socket(self, bytes)
    }

    fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        write_socket_now(self, bytes)
    }
}

/// [`Transport::receive`] for the bytes of the socket.
///
/// # Errors
/// What recv(2) says.
pub fn read_socket(mut stream: &TcpStream, buffer: &mut [u8], wait: bool) -> io::Result<usize> {
    if wait {
        return stream.read(buffer);
    }
    let (read, _) = rustix::net::recv(stream, buffer, RecvFlags::DONTWAIT)?;
    Ok(read)
}

/// [`Transport::send_now`] for the bytes of the socket.
///
/// # Errors
/// What send(2) says.
pub fn write_socket_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match send_now(stream, bytes) {
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(0),
        sent => Ok(sent?),
    }
}

/// [`Transport::send`] for the bytes of the socket: its own timeout bounds each wait, the clock bounds a side
/// that takes byte by byte.
///
/// # Errors
/// What the system says of the socket.
pub fn write_socket(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    write_within(stream, bytes, WRITE_PART, WRITE_TIMEOUT)
}
