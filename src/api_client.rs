//! A client of codexd's own API, for the command line and the smoke test: one request a connection, blocking, with a
//! deadline.

#[cfg(test)]
mod tests;

mod value;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::{IntoClientRequest, client_with_config};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, Utf8Bytes, WebSocket};

pub use value::value;

/// How long the daemon may say nothing after a request. A turn costs it up to four calls of the app-server (initialize,
/// thread/resume, thread/start, turn/start), each with its own deadline, which is 60 s unless set otherwise; more only where
/// the app-server dies over them.
const TIMEOUT: Duration = Duration::from_secs(300);

/// And after one that only reads: longer than the daemon has it wait for a free handler.
const READ_TIMEOUT: Duration = Duration::from_secs(35);

/// The longest answer that is taken. A page of the log is 8 MiB, or one event of up to `--max-line-bytes` (64 MiB); a list
/// has no end of its own: ten thousand usual runs are 20 MB, a hundred of the longest 0.9 GB.
const MAX_ANSWER: u64 = 1024 * 1024 * 1024;

/// Whose the other end of a connection (its address, ours) is, if it is known to be nobody's who may be told anything.
pub type PeerCheck = fn(SocketAddr, SocketAddr) -> Option<u32>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or the connection broke.
    #[error("cannot talk to codexd at {address}: {source}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Who listens there did not pass the check.
    #[error(
        "what listens at {address} belongs to another user (uid {uid}), and nothing was sent to it: name the port of your \
         own daemon with --local-api-base, or give --allow-other-users if theirs is meant"
    )]
    OtherUser {
        /// Where.
        address: SocketAddr,
        /// Whose it is.
        uid: u32,
    },
    /// More than is taken.
    #[error("the answer of {address} is longer than {limit} bytes")]
    TooLong {
        /// Where.
        address: SocketAddr,
        /// How much is taken.
        limit: u64,
    },
    /// What came is no answer of codexd.
    #[error("what answers at {address} is not codexd: {problem}")]
    NotCodexd {
        /// Where.
        address: SocketAddr,
        /// What is wrong.
        problem: String,
    },
    /// codexd refused.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The error code of the envelope.
        code: String,
        /// The text.
        message: String,
    },
    /// The stream was closed.
    #[error("the event stream was closed: {0}")]
    Closed(String),
}

impl ClientError {
    /// Whether [`EventStream::next`] only came to its deadline: the stream goes on.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

/// Where codexd listens.
#[derive(Clone)]
pub struct ApiClient {
    address: SocketAddr,
    token: Option<String>,
    timeout: Duration,
    peer: Option<PeerCheck>,
    max_answer: u64,
}

impl std::fmt::Debug for ApiClient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ApiClient").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// A client of the codexd at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, token: None, timeout: TIMEOUT, peer: None, max_answer: MAX_ANSWER }
    }

    /// With this bearer token in every request.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// With another deadline for each wait of a request than 300 s, or 35 s of one that only reads.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends nothing over a connection that does not pass this check.
    #[must_use]
    pub fn with_peer_check(mut self, check: PeerCheck) -> Self {
        self.peer = Some(check);
        self
    }

    /// The header field with the token, or nothing.
    fn authorization(&self) -> String {
        let field = |token: &String| format!("Authorization: Bearer {token}\r\n");
        self.token.as_ref().map(field).unwrap_or_default()
    }

    /// `GET`: the envelope's data.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.request("GET", path, None)
    }

    /// `GET`, whatever the answer: its status and its whole JSON.
    ///
    /// # Errors
    /// See [`ClientError`]; never [`ClientError::Refused`].
    pub fn get_whole(&self, path: &str) -> Result<(u16, Value), ClientError> {
        self.exchange("GET", path, None)
    }

    /// `POST`: the envelope's data.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.request("POST", path, Some(body))
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let (status, envelope) = self.exchange(method, path, body)?;
        if (200..300).contains(&status) {
            return Ok(envelope.get("data").cloned().unwrap_or(envelope));
        }
        Err(refusal(status, &envelope))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), ClientError> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{}\r\n{body}",
            self.address,
            body.len(),
            self.authorization()
        );
        let timeout = if method == "GET" { self.timeout.min(READ_TIMEOUT) } else { self.timeout };
        let mut stream = self.connect(timeout)?;
        let mut answer = Vec::new();
        stream
            .write_all(request.as_bytes())
            .and_then(|()| stream.take(self.max_answer.saturating_add(1)).read_to_end(&mut answer))
            .map_err(|source| match source.kind() {
                // What a socket says of its timeout differs by system, and says nothing to people.
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer within {} s", timeout.as_secs_f32()),
                ),
                _ => source,
            })
            .map_err(|source| self.broken(source))?;
        if answer.len() as u64 > self.max_answer {
            return Err(ClientError::TooLong { address: self.address, limit: self.max_answer });
        }
        let (status, body) = self.split(&answer)?;
        let envelope = value(body).map_err(|_| self.not_codexd(&"its answer is no JSON"))?;
        Ok((status, envelope))
    }

    fn refused(&self, answer: &tungstenite::http::Response<Option<Vec<u8>>>) -> ClientError {
        match serde_json::from_slice(answer.body().as_deref().unwrap_or_default()) {
            Ok(envelope) => refusal(answer.status().as_u16(), &envelope),
            Err(_) => self.not_codexd(&answer.status()),
        }
    }

    /// Connects, and looks at who is there before anything is sent.
    fn connect(&self, timeout: Duration) -> Result<TcpStream, ClientError> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            stream.set_nodelay(true)?;
            let ours = stream.local_addr()?;
            Ok((stream, ours))
        };
        let (stream, ours) = connect().map_err(|source| self.broken(source))?;
        match self.peer.and_then(|check| check(self.address, ours)) {
            Some(uid) => Err(ClientError::OtherUser { address: self.address, uid }),
            None => Ok(stream),
        }
    }

    fn split<'a>(&self, answer: &'a [u8]) -> Result<(u16, &'a [u8]), ClientError> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        // A daemon that is killed is no stranger.
        let cut_off = || {
            let told = "the connection ended before the answer did";
            self.broken(io::Error::new(io::ErrorKind::UnexpectedEof, told))
        };
        let head = match response.parse(answer) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return Err(cut_off()),
            Err(_) => return Err(self.not_codexd(&"its answer is no HTTP")),
        };
        let body = answer.get(head..).unwrap_or_default();
        let length = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|field| str::from_utf8(field.value).ok()?.trim().parse().ok());
        if length.is_some_and(|length: usize| body.len() < length) {
            return Err(cut_off());
        }
        Ok((response.code.unwrap_or(0), body))
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Io { address: self.address, source }
    }

    fn not_codexd(&self, problem: &dyn std::fmt::Display) -> ClientError {
        ClientError::NotCodexd { address: self.address, problem: problem.to_string() }
    }

    /// Opens the event stream; `path` with its query.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn stream(&self, path: &str) -> Result<EventStream, ClientError> {
        let stream = self.connect(self.timeout)?;
        let url = format!("ws://{}{path}", self.address);
        let mut request = url.into_client_request().map_err(|error| self.not_codexd(&error))?;
        if let Some(token) = &self.token {
            let bearer =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| self.not_codexd(&error))?;
            request.headers_mut().insert("authorization", bearer);
        }
        // The hello has the whole state in one frame, however large.
        let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let stream = Uninterrupted(stream);
        let (socket, _) = client_with_config(request, stream, Some(limits)).map_err(|error| match error {
            HandshakeError::Failure(tungstenite::Error::Http(refusal)) => self.refused(&refusal),
            other => self.not_codexd(&other),
        })?;
        Ok(EventStream { socket, address: self.address })
    }
}

fn refusal(status: u16, envelope: &Value) -> ClientError {
    let text = |name: &str| envelope.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    ClientError::Refused { status, code: text("error"), message: text("message") }
}

/// An open event stream.
pub struct EventStream {
    socket: WebSocket<Uninterrupted>,
    address: SocketAddr,
}

impl EventStream {
    /// The next message, whatever its type; waits up to `deadline`.
    ///
    /// # Errors
    /// [`ClientError::Closed`] at the stream's end, [`ClientError::Io`] with `WouldBlock` or `TimedOut` past the
    /// deadline.
    pub fn next(&mut self, deadline: Instant) -> Result<Value, ClientError> {
        let text = self.next_text(deadline)?;
        serde_json::from_str(&text).map_err(|error| self.not_codexd(&error))
    }

    /// A message that is none of codexd's.
    pub fn not_codexd(&self, problem: &dyn std::fmt::Display) -> ClientError {
        ClientError::NotCodexd { address: self.address, problem: problem.to_string() }
    }

    /// As [`EventStream::next`], but the message's text as it came.
    ///
    /// # Errors
    /// See [`EventStream::next`].
    pub fn next_text(&mut self, deadline: Instant) -> Result<Utf8Bytes, ClientError> {
        let io = |source| ClientError::Io { address: self.address, source };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io(io::ErrorKind::TimedOut.into()));
            }
            // Once the other side has cut the connection macOS refuses it (EINVAL): what has come before is read, and
            // what is wrong is told then.
            let _ = self.socket.get_ref().0.set_read_timeout(Some(left));
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text),
                Ok(Message::Close(frame)) => {
                    let reason = frame.map_or_else(String::new, |frame| {
                        format!("{} {}", u16::from(frame.code), frame.reason)
                    });
                    return Err(ClientError::Closed(reason));
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(source)) => return Err(io(source)),
                Err(error) => return Err(ClientError::Closed(error.to_string())),
            }
        }
    }
}

/// A connection that outlasts signals: Ctrl-C is handled elsewhere, and tungstenite would end with `EINTR`, which a
/// socket with a timeout gives whatever the handler asks for (signal(7)).
struct Uninterrupted(TcpStream);

impl Read for Uninterrupted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buffer))
    }
}

impl Write for Uninterrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
