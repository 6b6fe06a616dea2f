//! A fake of the model behind Codex: the Responses API on a loopback port, scripted by the prompt (see `directives`).
//!
//! Blocking threads, one a connection, so that dozens of turns can be answered at once. Every answer ends with its
//! connection. It is also the proxy Codex is told to use (see `real_codex`): whatever Codex tries to reach besides the
//! model is refused here and remembered as a stray, so that a test can prove its silence.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::directives::{self, Asked, Step};

/// A running model server; dropping it cuts its connections and joins its threads.
pub(crate) struct ModelServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    next_id: AtomicU64,
}

#[derive(Default)]
struct State {
    requests: Vec<Value>,
    strays: Vec<String>,
    open: Vec<(u64, TcpStream)>,
    stopping: bool,
}

impl ModelServer {
    /// Starts one on a free port of 127.0.0.1.
    pub(crate) fn start() -> ModelServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let accept = thread::Builder::new()
            .name("model-accept".into())
            .spawn(move || accept_loop(&listener, &for_thread))
            .expect("a thread");
        ModelServer { address, shared, accept: Some(accept) }
    }

    /// `http://127.0.0.1:PORT`, without the `/v1`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The bodies of all `POST /v1/responses` so far.
    pub(crate) fn requests(&self) -> Vec<Value> {
        self.shared.lock().requests.clone()
    }

    /// What the user said in those requests that were not the continuation of a tool call.
    pub(crate) fn prompts(&self) -> Vec<String> {
        self.shared.lock().requests.iter().filter_map(prompt).collect()
    }

    /// What else was asked of it: `METHOD TARGET`.
    pub(crate) fn strays(&self) -> Vec<String> {
        self.shared.lock().strays.clone()
    }

    /// Waits until a request with this prompt has come, and gives the request.
    pub(crate) fn wait_for_prompt(&self, text: &str, deadline: Duration) -> Value {
        let until = Instant::now() + deadline;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = state.requests.iter().find(|r| prompt(r).is_some_and(|p| p.trim() == text)) {
                return found.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let prompts: Vec<_> = state.requests.iter().filter_map(prompt).collect();
                drop(state);
                panic!("no prompt {text:?} within {deadline:?}; prompts so far: {prompts:?}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            for (_, stream) in &state.open {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address); // wakes accept
        if let Some(accept) = self.accept.take() {
            let _ = accept.join();
        }
    }
}

fn prompt(request: &Value) -> Option<String> {
    match directives::asked(request) {
        Asked::Prompt(text) => Some(text),
        Asked::Output(_) => None,
    }
}

fn accept_loop(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        if shared.lock().stopping {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let shared = Arc::clone(shared);
        let serve = move || {
            let id = shared.next_id();
            if shared.enter(id, &stream) {
                let _ = serve(&stream, &shared); // the client may go away at any time
                let _ = stream.shutdown(Shutdown::Both);
            }
            shared.lock().open.retain(|(open, _)| *open != id);
        };
        threads.push(thread::Builder::new().name("model-conn".into()).spawn(serve).expect("a thread"));
    }
    for thread in threads {
        let _ = thread.join();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Registers a connection so that drop can cut it; false when it is too late.
    fn enter(&self, id: u64, stream: &TcpStream) -> bool {
        let mut state = self.lock();
        if let Ok(clone) = stream.try_clone() {
            state.open.push((id, clone));
        }
        !state.stopping
    }

    /// Waits, but not past the end of the server.
    fn pause(&self, pause: Duration) -> io::Result<()> {
        if pause.is_zero() {
            return Ok(());
        }
        let state = self.lock();
        let (state, _) = self.changed.wait_timeout_while(state, pause, |state| !state.stopping).unwrap();
        if state.stopping { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let (method, target, body) = read_request(&mut reader)?;
    match (method.as_str(), target.as_str()) {
        ("POST", "/v1/responses") => {
            let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let steps = directives::steps(&request);
            shared.lock().requests.push(request);
            shared.changed.notify_all();
            answer(stream, shared, &steps)
        }
        ("GET", "/v1/models") => {
            reply(&mut stream, 200, &json!({"object": "list", "data": [], "models": []}))
        }
        _ => {
            shared.lock().strays.push(format!("{method} {target}"));
            reply(&mut stream, 404, &json!({"error": {"message": "nothing here", "type": "not_found"}}))
        }
    }
}

/// One request: method, target, and the body its Content-Length announces.
fn read_request(reader: &mut impl BufRead) -> io::Result<(String, String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace().map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((method, target, body))
}

fn reply(stream: &mut impl Write, status: u16, body: &Value) -> io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes())
}

/// Plays the steps as one stream of Server-Sent Events, each event one write.
fn answer(mut stream: &TcpStream, shared: &Shared, steps: &[Step]) -> io::Result<()> {
    if let [Step::Fail(status)] = steps {
        let message = format!("scripted failure {status}");
        return reply(
            &mut stream,
            *status,
            &json!({"error": {"message": message, "type": "scripted", "code": null}}),
        );
    }
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
    )?;
    let response = format!("resp_{}", shared.next_id());
    let mut send = |mut event: Value, kind: &str| {
        event["type"] = json!(kind);
        stream.write_all(format!("event: {kind}\ndata: {event}\n\n").as_bytes())
    };
    send(json!({"response": {"id": response}}), "response.created")?;
    for (index, step) in steps.iter().enumerate() {
        let (deltas, pause, cut) = match step {
            Step::Message { deltas, pause } => (deltas, *pause, false),
            Step::Cut(deltas) => (deltas, Duration::ZERO, true),
            Step::Call(call) => {
                let mut item = call.clone();
                item["call_id"] = json!(format!("call_{}", shared.next_id()));
                send(json!({"output_index": index, "item": item}), "response.output_item.done")?;
                continue;
            }
            Step::Reasoning(deltas) => {
                let id = format!("rs_{}", shared.next_id());
                let item = |summary: Value| json!({"type": "reasoning", "id": id, "summary": summary});
                send(json!({"output_index": index, "item": item(json!([]))}), "response.output_item.added")?;
                let mut part = json!({"item_id": id, "output_index": index, "summary_index": 0});
                send(part.clone(), "response.reasoning_summary_part.added")?;
                for delta in deltas {
                    part["delta"] = json!(delta);
                    send(part.clone(), "response.reasoning_summary_text.delta")?;
                }
                let summary = json!([{"type": "summary_text", "text": deltas.concat()}]);
                send(json!({"output_index": index, "item": item(summary)}), "response.output_item.done")?;
                continue;
            }
            Step::Fail(_) => continue,
        };
        let id = format!("msg_{}", shared.next_id());
        let item =
            |content: Value| json!({"type": "message", "id": id, "role": "assistant", "content": content});
        send(json!({"output_index": index, "item": item(json!([]))}), "response.output_item.added")?;
        for delta in deltas {
            shared.pause(pause)?;
            let event = json!({"item_id": id, "output_index": index, "content_index": 0, "delta": delta});
            send(event, "response.output_text.delta")?;
        }
        if cut {
            return Ok(()); // the end of the connection without response.completed
        }
        let content = json!([{"type": "output_text", "text": deltas.concat()}]);
        send(json!({"output_index": index, "item": item(content)}), "response.output_item.done")?;
    }
    let usage = json!({
        "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
    });
    send(json!({"response": {"id": response, "usage": usage}}), "response.completed")
}
