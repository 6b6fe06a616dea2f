//! A fake of an external app-server, for what the real one never does: messages in pieces, huge ones, odd ends.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tungstenite::handshake::server::{Request, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

/// The thread every `thread/start` answers with.
pub(crate) const THREAD: &str = "thread-1";

type Socket = WebSocket<TcpStream>;
type OnTurn = dyn Fn(&mut Socket) + Send + Sync;

/// A running fake; dropping it cuts its connections.
pub(crate) struct Fake {
    address: std::net::SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

struct Shared {
    on_turn: Box<OnTurn>,
    heads: Mutex<Vec<String>>,
    open: Mutex<Option<Vec<TcpStream>>>,
}

impl Fake {
    /// One that does `on_turn` after it has accepted a turn.
    pub(crate) fn start(on_turn: impl Fn(&mut Socket) + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            on_turn: Box::new(on_turn),
            heads: Mutex::default(),
            open: Mutex::new(Some(Vec::new())),
        });
        let for_thread = Arc::clone(&shared);
        let accept = move || accept_loop(&listener, &for_thread);
        let accept = thread::Builder::new().name("fake-app-server".into()).spawn(accept).expect("a thread");
        Fake { address, shared, accept: Some(accept) }
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// `ws://127.0.0.1:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Target and headers of each upgrade, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for stream in self.shared.open.lock().unwrap().take().into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address); // wakes accept
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming().map_while(Result::ok) {
        match &mut *shared.open.lock().unwrap() {
            None => break,
            Some(open) => open.push(stream.try_clone().unwrap()),
        }
        let shared = Arc::clone(shared);
        let serve = move || serve(stream, &shared);
        threads.push(thread::Builder::new().name("fake-conn".into()).spawn(serve).expect("a thread"));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

#[allow(clippy::result_large_err, reason = "the callback's type is tungstenite's")]
fn serve(stream: TcpStream, shared: &Shared) {
    stream.set_nodelay(true).unwrap();
    let note = |request: &Request, response: Response| {
        let mut head = request.uri().to_string();
        for (name, value) in request.headers() {
            head += &format!("\n{name}: {}", value.to_str().unwrap_or("?"));
        }
        shared.heads.lock().unwrap().push(head.to_lowercase());
        Ok(response)
    };
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let Ok(mut socket) = tungstenite::accept_hdr_with_config(stream, note, Some(config)) else { return };
    while let Ok(message) = socket.read() {
        let Message::Text(text) = message else { continue };
        let asked: Value = serde_json::from_str(&text).unwrap();
        assert!(!text.ends_with('\n'), "one object a frame, no line end");
        let Some(id) = asked.get("id") else { continue };
        let method = asked["method"].as_str().unwrap_or_default();
        let result = match method {
            "initialize" => json!({"userAgent": "fake"}),
            "thread/start" | "thread/resume" => json!({"thread": {"id": THREAD, "status": {"type": "idle"}}}),
            "thread/turns/list" => json!({"data": []}),
            "turn/start" => json!({"turn": {"id": "turn-1"}}),
            _ => json!({}),
        };
        let _ = socket.send(Message::text(json!({"id": id, "result": result}).to_string()));
        if method == "turn/start" {
            (shared.on_turn)(&mut socket);
        }
    }
}

/// A delta of the turn, as a message.
pub(crate) fn delta(text: &str) -> String {
    let params = json!({"threadId": THREAD, "turnId": "turn-1", "itemId": "i", "delta": text});
    json!({"method": "item/agentMessage/delta", "params": params}).to_string()
}

/// The end of the turn, as a message.
pub(crate) fn completed() -> String {
    let params = json!({"threadId": THREAD, "turn": {"id": "turn-1", "status": "completed"}});
    json!({"method": "turn/completed", "params": params}).to_string()
}

/// Sends `text` in frames of `size` bytes, with a ping between every two.
pub(crate) fn send_in_pieces(socket: &mut Socket, text: &str, size: usize) {
    let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let opcode = OpCode::Data(if at == 0 { Data::Text } else { Data::Continue });
        let frame = Frame::message(piece.to_vec(), opcode, at + 1 == pieces.len());
        socket.send(Message::Frame(frame)).unwrap();
        socket.send(Message::Ping(bytes::Bytes::from_static(b"x"))).unwrap();
    }
}
