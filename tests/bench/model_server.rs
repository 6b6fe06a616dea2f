//! A model that answers every prompt with deltas in time, each with the moment of its making.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::child::now_nanos;

pub struct ModelServer {
    address: SocketAddr,
}

impl ModelServer {
    /// One that says `count` deltas a turn, `per_second` of them. Its threads end with the process.
    pub fn start(count: u32, per_second: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || serve(stream, count, per_second));
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn serve(mut stream: TcpStream, count: u32, per_second: u32) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut target, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut target)?;
    while reader.read_line(&mut line)? > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    if !target.starts_with("POST /v1/responses ") {
        let body = json!({ "object": "list", "data": [], "models": [] }).to_string();
        return write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    let mut send = |kind: &str, mut event: Value| {
        event["type"] = json!(kind);
        stream.write_all(format!("event: {kind}\ndata: {event}\n\n").as_bytes())
    };
    let item =
        |content: Value| json!({ "type": "message", "id": "m", "role": "assistant", "content": content });
    send("response.created", json!({ "response": { "id": "r" } }))?;
    send("response.output_item.added", json!({ "output_index": 0, "item": item(json!([])) }))?;
    let gap = Duration::from_secs(1) / per_second;
    let began = Instant::now();
    let mut whole = String::new();
    for number in 0..count {
        if let Some(wait) = (began + gap * number).checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        let delta = format!("{:020} ", now_nanos());
        let event = json!({ "item_id": "m", "output_index": 0, "content_index": 0, "delta": delta });
        send("response.output_text.delta", event)?;
        whole.push_str(&delta);
    }
    let content = json!([{ "type": "output_text", "text": whole }]);
    send("response.output_item.done", json!({ "output_index": 0, "item": item(content) }))?;
    let usage = json!({
        "input_tokens": 1, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": 1, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 2,
    });
    send("response.completed", json!({ "response": { "id": "r", "usage": usage } }))
}
