//! Clients that cost next to nothing: a WebSocket client that looks at frame heads only, an HTTP client on a kept
//! connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::child::now_nanos;

pub const DEADLINE: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Opens the event stream and reads the handshake's answer and hello.
pub fn open_stream(address: SocketAddr) -> Frames {
    open_at(address, "")
}

fn open_at(address: SocketAddr, query: &str) -> Frames {
    let mut stream = connect(address);
    write!(
        stream,
        "GET /v1/codexd/events{query} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut frames = Frames { stream, address, buffer: vec![0; 1 << 20], filled: 0, at: 0 };
    while !frames.buffer[..frames.filled].windows(4).any(|window| window == b"\r\n\r\n") {
        frames.fill();
    }
    let end = frames.buffer[..frames.filled].windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    frames.at = end + 4;
    frames.next(|_| ());
    frames
}

/// Frames as they come, unmasked, from the server.
pub struct Frames {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
    filled: usize,
    at: usize,
}

impl Frames {
    fn fill(&mut self) {
        if self.at > 0 {
            self.buffer.copy_within(self.at..self.filled, 0);
            self.filled -= self.at;
            self.at = 0;
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let read = self.stream.read(&mut self.buffer[self.filled..]).unwrap();
        assert!(read > 0, "the stream ended");
        self.filled += read;
    }

    /// The next frame's payload. Who was cut off because 16 readers share two processors comes back where it was, as
    /// any client does: what that costs is in the figures.
    pub fn next<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> T {
        loop {
            let bytes = &self.buffer[self.at..self.filled];
            if bytes.len() >= 2 {
                let (head, len) = match bytes[1] {
                    126 if bytes.len() >= 4 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
                    127 if bytes.len() >= 10 => {
                        (10, usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap())
                    }
                    126 | 127 => (0, usize::MAX),
                    short => (2, usize::from(short)),
                };
                if head > 0 && bytes.len() >= head + len {
                    if bytes[0] & 15 == 8 {
                        let said = String::from_utf8_lossy(&bytes[head..head + len]);
                        let after = said.split_once("lagged after seq ");
                        let (_, after) = after.unwrap_or_else(|| panic!("closed: {said}"));
                        *self = open_at(self.address, &format!("?after={after}"));
                        continue;
                    }
                    let value = look(&bytes[head..head + len]);
                    self.at += head + len;
                    return value;
                }
            }
            self.fill();
        }
    }

    /// Reads in a thread of its own until `count` deltas have come; returns when the last came and, if wanted, each
    /// one's age in nanoseconds.
    pub fn count_deltas(mut self, count: usize, latency: bool) -> JoinHandle<(Instant, Vec<u64>)> {
        std::thread::spawn(move || {
            let mut ages = Vec::with_capacity(if latency { count } else { 0 });
            let (mut seen, mut mark_at) = (0, 0);
            while seen < count {
                self.next(|payload| {
                    if !is_delta(payload, &mut mark_at) {
                        return;
                    }
                    seen += 1;
                    if latency {
                        ages.push(age(payload));
                    }
                });
            }
            (Instant::now(), ages)
        })
    }
}

/// The type stands within the first bytes, mostly where it stood in the last delta: a client must not take processor time
/// from the daemon with looking for it.
fn is_delta(payload: &[u8], mark_at: &mut usize) -> bool {
    const MARK: &[u8] = b".message.delta\"";
    if payload.get(*mark_at..).is_some_and(|rest| rest.starts_with(MARK)) {
        return true;
    }
    let found = memchr::memmem::find(&payload[..payload.len().min(160)], MARK);
    *mark_at = found.unwrap_or(*mark_at);
    found.is_some()
}

/// The time a delta carries, against now.
pub fn age(payload: &[u8]) -> u64 {
    let mark = b"\"delta\":\"";
    let at = payload.windows(mark.len()).rposition(|window| window == mark).unwrap() + mark.len();
    let made: u64 = std::str::from_utf8(&payload[at..at + 20]).unwrap().parse().unwrap();
    now_nanos().saturating_sub(made)
}

/// A kept HTTP connection.
pub struct Http {
    stream: TcpStream,
    address: SocketAddr,
    buffer: Vec<u8>,
}

impl Http {
    pub fn new(address: SocketAddr) -> Self {
        Self { stream: connect(address), address, buffer: vec![0; 1 << 16] }
    }

    pub fn get(&mut self, path: &str) -> Vec<u8> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.exchange(request.as_bytes())
    }

    pub fn post(&mut self, path: &str, body: &str) -> serde_json::Value {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        );
        let answer = self.exchange(request.as_bytes());
        let value: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(value["ok"], true, "{value}");
        value["data"].clone()
    }

    fn exchange(&mut self, request: &[u8]) -> Vec<u8> {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(head) = response.parse(&self.buffer[..filled]).unwrap() {
                let length = response
                    .headers
                    .iter()
                    .find(|header| header.name.eq_ignore_ascii_case("content-length"))
                    .map(|header| std::str::from_utf8(header.value).unwrap().parse::<usize>().unwrap())
                    .unwrap();
                while filled < head + length {
                    if filled == self.buffer.len() {
                        self.buffer.resize(self.buffer.len() * 2, 0);
                    }
                    filled += self.stream.read(&mut self.buffer[filled..]).unwrap();
                }
                return self.buffer[head..head + length].to_vec();
            }
            if filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
    }
}
