//! The clients of a daemon's two faces: HTTP/1.1 with deadlines on a plain socket, and the WebSocket event stream.
//!
//! Small on purpose: what goes over the wire is what a test wrote, so that malformed requests can be sent as well.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::protocol::{CloseFrame, Role, WebSocket, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message};

use crate::DEADLINE;

/// `host:port` of a base such as `http://127.0.0.1:4319` or a URL `ws://127.0.0.1:4319/path`.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// An HTTP client for one base URL; a connection per request.
#[derive(Clone)]
pub(crate) struct Client {
    authority: String,
    deadline: Duration,
}

/// What the server answered. `status` is 0 when it closed without an answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of that name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the body of {}: {:?}", self.status, self.text()))
    }
}

impl Client {
    /// For a base such as `http://127.0.0.1:4319`.
    pub(crate) fn new(base: &str) -> Client {
        Client { authority: authority(base).to_owned(), deadline: DEADLINE }
    }

    /// The same with another deadline for each whole request.
    pub(crate) fn with_deadline(mut self, deadline: Duration) -> Client {
        self.deadline = deadline;
        self
    }

    /// GET.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], b"")
    }

    /// POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Any request. Host, Content-Length (not for an empty GET) and `Connection: close` are added unless given.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        let given = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        if !given("host") {
            head += &format!("host: {}\r\n", self.authority);
        }
        if !given("content-length") && (!body.is_empty() || method == "POST") {
            head += &format!("content-length: {}\r\n", body.len());
        }
        if !given("connection") {
            head += "connection: close\r\n";
        }
        for (key, value) in headers {
            head += &format!("{key}: {value}\r\n");
        }
        head += "\r\n";
        let bytes = [head.as_bytes(), body].concat();
        self.exchange(&bytes, method == "HEAD")
    }

    /// Sends exactly these bytes and reads one answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        self.exchange(bytes, bytes.starts_with(b"HEAD "))
    }

    /// A connection with nothing sent yet, its reads and writes bounded by the deadline.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.authority).expect("the daemon listens");
        // macOS refuses these of a connection that the other side has cut already; reading tells.
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(self.deadline));
        let _ = stream.set_write_timeout(Some(self.deadline));
        stream
    }

    fn exchange(&self, bytes: &[u8], headless: bool) -> Answer {
        let until = Instant::now() + self.deadline;
        let mut stream = self.connect();
        let _ = stream.write_all(bytes); // a server may refuse before it has read everything
        read_answer(&mut stream, until, headless)
    }
}

/// Reads one answer from `stream`; `headless` says that no body follows whatever the headers say.
pub(crate) fn read_answer(stream: &mut TcpStream, until: Instant, headless: bool) -> Answer {
    let mut bytes = Vec::new();
    let mut ended = false;
    loop {
        if let Some(answer) = parse(&bytes, ended, headless) {
            return answer;
        }
        let left = until.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no whole answer in time: {:?}", String::from_utf8_lossy(&bytes));
        let _ = stream.set_read_timeout(Some(left)); // as above
        let mut chunk = [0; 64 * 1024];
        match stream.read(&mut chunk) {
            Ok(0) => ended = true,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => ended = true,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

/// The answer, once `bytes` hold the whole of it.
fn parse(bytes: &[u8], ended: bool, headless: bool) -> Option<Answer> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        let nothing = Answer { status: 0, headers: Vec::new(), body: bytes.to_vec() };
        return ended.then_some(nothing);
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let pairs = lines.filter_map(|line| line.split_once(':'));
    let headers: Vec<_> =
        pairs.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_owned())).collect();
    let body = &bytes[end + 4..];
    if status == 100 {
        return parse(body, ended, headless); // 100 Continue: the answer is behind it
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if headless || status == 204 || status == 304 || status == 101 {
        return Some(answer);
    }
    if let Some(length) = answer.header("content-length") {
        let length: usize = length.parse().expect("a length");
        if body.len() < length {
            assert!(!ended, "the body ends after {} of {length} bytes", body.len());
            return None;
        }
        answer.body = body[..length].to_vec();
    } else if answer.header("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        answer.body = unchunked(body)?;
    } else if ended {
        answer.body = body.to_vec();
    } else {
        return None;
    }
    Some(answer)
}

fn unchunked(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = memchr::memmem::find(bytes, b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        bytes = &bytes[end + 2..];
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

/// An open event stream. A thread reads; the frames are kept in the order they came.
pub(crate) struct Stream {
    shared: Arc<(Mutex<Received>, Condvar)>,
    writer: WebSocket<TcpStream>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Received {
    frames: Vec<Value>,
    /// Set at the end: the close code and reason, if there was a close frame.
    end: Option<Option<(u16, String)>>,
}

impl Stream {
    /// Opens the stream at a `ws://` URL.
    pub(crate) fn open(ws_url: &str) -> Stream {
        Stream::try_open(ws_url, &[])
            .unwrap_or_else(|answer| panic!("refused with {}: {}", answer.status, answer.text()))
    }

    /// The same with headers of one's own; a refusal is the HTTP answer.
    pub(crate) fn try_open(ws_url: &str, headers: &[(&'static str, &str)]) -> Result<Stream, Answer> {
        let mut request = ws_url.into_client_request().expect("a ws URL");
        for (key, value) in headers {
            request.headers_mut().insert(*key, value.parse().expect("a header value"));
        }
        let stream = Client::new(ws_url).connect();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let connected = tungstenite::client::client_with_config(request, stream, Some(config));
        let (socket, _) = match connected {
            Ok(connected) => connected,
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let text = |value: &tungstenite::http::HeaderValue| value.to_str().unwrap_or("").to_owned();
                let headers =
                    response.headers().iter().map(|(k, v)| (k.as_str().to_owned(), text(v))).collect();
                let body = response.body().clone().unwrap_or_default();
                return Err(Answer { status: response.status().as_u16(), headers, body });
            }
            Err(error) => panic!("no handshake at {ws_url}: {error}"),
        };
        socket.get_ref().set_read_timeout(None).unwrap();
        let writing = socket.get_ref().try_clone().unwrap();
        let shared = Arc::<(Mutex<Received>, Condvar)>::default();
        let for_reader = Arc::clone(&shared);
        let read = move || read_frames(socket, &for_reader);
        let reader = thread::Builder::new().name("test-ws".into()).spawn(read).expect("a thread");
        Ok(Stream {
            shared,
            writer: WebSocket::from_raw_socket(writing, Role::Client, None),
            reader: Some(reader),
        })
    }

    /// The first frame, which is the hello.
    pub(crate) fn hello(&self) -> Value {
        self.wait_frame(|frame| frame["type"] == "hello", DEADLINE)
    }

    /// All frames so far.
    pub(crate) fn frames(&self) -> Vec<Value> {
        self.shared.0.lock().unwrap().frames.clone()
    }

    /// The events so far, without those the hello brought.
    pub(crate) fn events(&self) -> Vec<Value> {
        let frames = self.frames();
        frames
            .into_iter()
            .filter(|frame| frame["type"] == "event")
            .map(|mut frame| frame["event"].take())
            .collect()
    }

    /// The first event, past or to come, that fits.
    pub(crate) fn wait_for(&self, fits: impl Fn(&Value) -> bool, deadline: Duration) -> Value {
        self.wait_frame(|frame| frame["type"] == "event" && fits(&frame["event"]), deadline)["event"].take()
    }

    /// The first event of that type.
    pub(crate) fn wait_for_type(&self, kind: &str) -> Value {
        self.wait_for(|event| event["type"] == kind, DEADLINE)
    }

    /// The first frame, past or to come, that fits.
    pub(crate) fn wait_frame(&self, fits: impl Fn(&Value) -> bool, deadline: Duration) -> Value {
        let until = Instant::now() + deadline;
        let (lock, changed) = &*self.shared;
        let mut received = lock.lock().unwrap();
        let mut next = 0;
        loop {
            if let Some(found) = received.frames[next..].iter().find(|frame| fits(frame)) {
                return found.clone();
            }
            next = received.frames.len();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || received.end.is_some() {
                let end = received.end.clone();
                let kind =
                    |f: &Value| (f["type"].clone(), f["event"]["seq"].clone(), f["event"]["type"].clone());
                let last: Vec<_> = received.frames.iter().rev().take(10).map(kind).collect();
                drop(received);
                panic!(
                    "no such frame in {deadline:?} (end of stream: {end:?}); the last, backwards: {last:?}"
                );
            }
            received = changed.wait_timeout(received, left).unwrap().0;
        }
    }

    /// Sends a text frame.
    pub(crate) fn send(&mut self, text: &str) {
        self.send_message(Message::text(text));
    }

    /// Sends any message or raw frame. Fails quietly when the server has gone: the end of the stream tells.
    pub(crate) fn send_message(&mut self, message: Message) {
        let _ = self.writer.send(message);
    }

    /// Waits for the end of the stream; its close code, None when it broke off without a close frame.
    pub(crate) fn close_code(&self) -> Option<u16> {
        self.closed(DEADLINE).map(|(code, _)| code)
    }

    /// The same with the reason.
    pub(crate) fn closed(&self, deadline: Duration) -> Option<(u16, String)> {
        let (lock, changed) = &*self.shared;
        let received = lock.lock().unwrap();
        let (received, late) = changed.wait_timeout_while(received, deadline, |r| r.end.is_none()).unwrap();
        let end = received.end.clone();
        drop(received);
        assert!(!late.timed_out(), "the stream is still open after {deadline:?}");
        end.flatten()
    }

    /// Says goodbye (1000).
    pub(crate) fn close(mut self) {
        let _ = self.writer.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }));
        let _ = self.writer.flush();
        self.closed(DEADLINE);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.writer.get_ref().shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_frames(mut socket: WebSocket<TcpStream>, shared: &(Mutex<Received>, Condvar)) {
    let mut end = None;
    while let Ok(message) = socket.read() {
        match message {
            Message::Text(text) => {
                let frame = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.to_string()));
                shared.0.lock().unwrap().frames.push(frame);
                shared.1.notify_all();
            }
            Message::Close(frame) => {
                // Read on: our own close frame goes out with the next read.
                end = Some(frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string())));
            }
            _ => {}
        }
    }
    shared.0.lock().unwrap().end = Some(end);
    shared.1.notify_all();
}
