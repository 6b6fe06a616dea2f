//! The whole port over loopback: front door, guard, bodies, inner server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::api::{Api, EventStream, Kind, Request, Upgrade};
use super::front_door::FrontDoor;
use super::guard::Guard;
use super::limits::Limits;
use super::reply::{ApiError, Reply};

mod answers;
mod life;

/// Answers with what it got; `/v1/hold` waits until the test lets it go.
struct Echo {
    entered: Sender<()>,
    release: Receiver<()>,
    handled: Arc<AtomicUsize>,
}

impl Api for Echo {
    fn healthz(&self) -> Reply {
        Reply::json(200, &serde_json::json!({"ok": true}))
    }

    fn route(&self, method: &str, path: &str) -> Result<Kind, ApiError> {
        match (method, path) {
            ("GET", "/v1/echo" | "/v1/panic" | "/v1/big") => Ok(Kind::Read),
            ("GET", "/v1/local") => Ok(Kind::Local),
            ("POST", "/v1/echo" | "/v1/hold") | ("GET", "/v1/hold") => Ok(Kind::Call),
            (_, "/v1/echo") => Err(ApiError::method_not_allowed("No.").with_allow("GET, HEAD, POST")),
            _ => Err(ApiError::not_found("No such route.")),
        }
    }

    fn handle(&self, request: Request) -> Reply {
        self.handled.fetch_add(1, Ordering::Relaxed);
        match request.path.as_str() {
            "/v1/panic" => panic!("on purpose"),
            "/v1/hold" => {
                self.entered.send(()).unwrap();
                let _ = self.release.recv();
            }
            "/v1/big" => return Reply::ok(200, &"x".repeat(3_000_000)),
            _ => {}
        }
        let body = String::from_utf8_lossy(&request.body);
        let shown =
            format!("{} {}?{} {:?} [{body}]", request.method, request.path, request.query, request.headers);
        Reply::ok(200, &shown)
    }

    fn stream_path(&self) -> &str {
        "/v1/stream"
    }

    fn upgrade(&self, upgrade: Upgrade<'_>) -> Result<(), Reply> {
        assert_eq!(upgrade.head.path(), "/v1/stream");
        Err(ApiError::bad_request("refused").into())
    }

    fn events(&self, _: EventStream<'_>) -> Result<bool, Reply> {
        Err(ApiError::bad_request("refused").into())
    }
}

struct Port {
    door: FrontDoor,
    address: SocketAddr,
    entered: Receiver<()>,
    release: Option<Sender<()>>,
    handled: Arc<AtomicUsize>,
}

fn port() -> Port {
    port_with(Limits::default())
}

fn port_with(limits: Limits) -> Port {
    let (entered_send, entered) = bounded(64);
    let (release_send, release) = bounded(0);
    let bound = FrontDoor::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr();
    let handled = Arc::<AtomicUsize>::default();
    let api = Arc::new(Echo { entered: entered_send, release, handled: Arc::clone(&handled) });
    let door = bound.prepare(api, Guard::new(address.port()), limits).unwrap().open().unwrap();
    Port { door, address, entered, release: Some(release_send), handled }
}

impl Port {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// `@` in `text` stands for the Host field.
    fn expand(&self, text: &str) -> String {
        text.replace('@', &format!("Host: {}\r\n", self.address))
    }

    /// Sends bytes, then reads until the server closes.
    fn talk(&self, text: &str) -> String {
        self.talk_bytes(self.expand(text).as_bytes())
    }

    fn talk_bytes(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer and close while a large request is still being sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn get(&self, path: &str) -> String {
        self.talk(&format!("GET {path} HTTP/1.1\r\n@Connection: close\r\n\r\n"))
    }
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// One answer from a connection that stays open: head and body.
fn read_answer(stream: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[test]
fn hostile_requests_get_their_status() {
    let port = port();
    let json = "Content-Type: application/json\r\n";
    let long = "a".repeat(40_000);
    // `~` stands for the content type, `^` for something too long.
    let table: Vec<(String, u16)> = [
        ("GET /healthz HTTP/1.1\r\n\r\n", 400),
        ("GET /healthz HTTP/1.1\r\n@@\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 403),
        ("GET /healthz HTTP/1.1\r\n@Origin: null\r\nConnection: close\r\n\r\n", 403),
        ("GET /v1/echo HTTP/1.1\r\n@Origin: http://evil.example\r\nConnection: close\r\n\r\n", 403),
        ("GET /v1/stream HTTP/1.1\r\n@Origin: null\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n\r\n", 403),
        ("GET /v1/echo HTTP/1.1\r\n@Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 404),
        ("GET /v1/stream HTTP/1.1\r\n@Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400),
        ("GET /nope HTTP/1.1\r\n@Connection: close\r\n\r\n", 404),
        ("GET /v1/../v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n", 404),
        ("GET //v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n", 404),
        ("OPTIONS * HTTP/1.1\r\n@Connection: close\r\n\r\n", 404),
        ("DELETE /v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n", 405),
        ("POST /healthz HTTP/1.1\r\n@Connection: close\r\n\r\n", 405),
        ("POST /v1/echo HTTP/1.1\r\n@Content-Length: 2\r\n\r\n{}", 415),
        ("POST /v1/echo HTTP/1.1\r\n@Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: -2\r\n\r\n{}", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Transfer-Encoding: gzip\r\n\r\n", 501),
        ("POST /v1/echo HTTP/1.0\r\n@~\r\n", 411),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: 1000000000000\r\n\r\n", 413),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: 99999999999999999999999999\r\n\r\n", 413),
        ("POST /v1/echo HTTP/1.1\r\n@~Content-Length: 2\r\nExpect: 200-ok\r\n\r\n{}", 417),
        ("POST /v1/echo HTTP/1.1\r\n@~Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Transfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n", 400),
        ("POST /v1/echo HTTP/1.1\r\n@~Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n", 413),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\n@X: a\n\r\n", 400),
        ("GET /^ HTTP/1.1\r\n@\r\n", 414),
        ("GET / HTTP/1.1\r\n@X: ^\r\n\r\n", 431),
        ("GET http://evil.example/healthz HTTP/1.1\r\n@\r\n", 400),
        ("GET /v1/echo HTTP/1.1\r\n@Idempotency-Key: ä\r\nConnection: close\r\n\r\n", 400),
    ]
    .into_iter()
    .map(|(text, status)| (text.replace('~', json).replace('^', &long), status))
    .collect();
    for (request, expected) in table {
        let shown = request.chars().take(100).collect::<String>();
        let answer = port.talk(&request);
        assert_eq!(status(&answer), expected, "{shown:?} got {answer:?}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/json; charset=utf-8"), "{shown:?}");
        assert!(!answer.to_ascii_lowercase().contains("access-control"), "{shown:?}");
        assert!(serde_json::from_str::<serde_json::Value>(body).unwrap()["ok"] == false, "{shown:?}");
    }
    assert_eq!(status(&port.talk_bytes(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")), 400);
    assert_eq!(status(&port.talk_bytes(b"\0\0\0\0")), 400);
    assert_eq!(status(&port.talk_bytes(b"GET /\xff HTTP/1.1\r\n\r\n")), 400);
    assert!(
        port.talk("DELETE /v1/echo HTTP/1.1\r\n@Connection: close\r\n\r\n")
            .contains("allow: GET, HEAD, POST")
    );
    assert_eq!(status(&port.get("/healthz")), 200);
    assert_eq!(status(&port.get("/healthz//")), 200);
}

#[test]
fn requests_in_a_row_and_pipelined_are_answered_in_order() {
    let port = port();
    let mut stream = port.connect();
    let one =
        |n: u32| port.expand(&format!("GET /v1/echo/?n={n} HTTP/1.1\r\n@Accept: a/b\r\nCookie: c\r\n\r\n"));
    stream.write_all((one(1) + &one(2) + "\r\n" + &one(3)).as_bytes()).unwrap();
    for n in 1..=3 {
        let (head, body) = read_answer(&mut stream);
        assert!(head.starts_with("http/1.1 200"));
        assert!(body.contains(&format!("GET /v1/echo?n={n} [(\\\"accept\\\", \\\"a/b\\\")] []")), "{body}");
    }
    // A refusal without a body does not cost the connection, and neither does a HEAD.
    stream.write_all(port.expand("GET /nope HTTP/1.1\r\n@\r\n").as_bytes()).unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 404"));
    let post = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\n";
    stream.write_all(port.expand(&format!("{post}Content-Length: 7\r\n\r\n{{\"a\":1}}")).as_bytes()).unwrap();
    assert!(read_answer(&mut stream).1.contains("POST /v1/echo? [] [{\\\"a\\\":1}]"));
    let chunks = "Transfer-Encoding: chunked\r\n\r\n3;x=y\r\n{\"a\r\n4\r\n\":2}\r\n0\r\nTrailer: x\r\n\r\n";
    stream.write_all(port.expand(&format!("{post}{chunks}")).as_bytes()).unwrap();
    assert!(read_answer(&mut stream).1.contains("[{\\\"a\\\":2}]"));
    stream.write_all(port.expand("GET /healthz HTTP/1.1\r\n@Connection: close\r\n\r\n").as_bytes()).unwrap();
    assert!(read_answer(&mut stream).0.contains("connection: close"));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn head_answers_like_get_without_a_body() {
    let port = port();
    for path in ["/healthz", "/v1/echo", "/nope"] {
        let get = port.get(path);
        let head = port.talk(&format!("HEAD {path} HTTP/1.1\r\n@Connection: close\r\n\r\n"));
        let (fields, body) = head.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "", "{path}");
        assert_eq!(status(&head), status(&get));
        let length = format!("content-length: {}", get.split_once("\r\n\r\n").unwrap().1.len());
        assert!(fields.to_ascii_lowercase().contains(&length), "{path}: {fields}");
        assert!(fields.contains("connection: close"));
    }
    assert_eq!(status(&port.talk("GET /v1/echo HTTP/1.0\r\n@\r\n")), 200);
}

#[test]
fn expect_continue_is_met_before_the_body_is_sent() {
    let port = port();
    let mut stream = port.connect();
    let head = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(port.expand(head).as_bytes()).unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 100 "));
    stream.write_all(b"{}").unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 200"));
}

#[test]
fn a_body_too_large_is_refused_unread_and_the_client_gets_the_answer() {
    let port = port();
    let head = "POST /v1/echo HTTP/1.1\r\n@Content-Type: application/json\r\n";
    // Announced only: the answer comes without a byte of the body.
    let mut stream = port.connect();
    stream.write_all(port.expand(&format!("{head}Content-Length: 4194305\r\n\r\n")).as_bytes()).unwrap();
    assert!(read_answer(&mut stream).0.starts_with("http/1.1 413"));
    // Sent in full, by a client that reads only afterwards.
    let big = format!("{head}Content-Length: 67108864\r\n\r\n{}", "x".repeat(64 * 1024 * 1024));
    assert_eq!(status(&port.talk(&big)), 413);
    let most =
        format!("{head}Connection: close\r\nContent-Length: 4194304\r\n\r\n{}", "x".repeat(4 * 1024 * 1024));
    assert_eq!(status(&port.talk(&most)), 200);
    assert!(port.get("/v1/big").len() > 3_000_000);
}
