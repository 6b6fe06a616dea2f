//! A fake app-server that is never the bottleneck: it answers what a session and a turn need, and a turn is a stream of
//! deltas as its prompt says: `burst COUNT SIZE` at full speed, `rate COUNT SIZE PER_SECOND` in time.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// What one write holds in a burst: a pipe's capacity.
const WRITE: usize = 64 * 1024;

/// Nanoseconds of the monotonic clock, the same in every process of this host.
pub fn now_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub fn run(words: &[String]) {
    let mut out = std::io::stdout().lock();
    if !words.is_empty() {
        // For the relay: the stream alone, without a protocol around it.
        return stream(&mut out, &words.join(" "), "t", "u");
    }
    let mut threads = 0;
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_str(&line).unwrap();
        let id = &request["id"];
        let params = &request["params"];
        let mut answer = |result: Value| {
            writeln!(out, "{}", json!({ "id": id, "result": result })).unwrap();
            out.flush().unwrap();
        };
        match request["method"].as_str().unwrap_or_default() {
            "initialize" => {
                answer(json!({ "userAgent": "bench", "platformFamily": "unix", "platformOs": "x" }))
            }
            "thread/start" => {
                threads += 1;
                let thread = format!("thread-{threads}");
                answer(json!({ "thread": { "id": thread }, "cwd": "/", "model": "m", "modelProvider": "p" }));
            }
            "turn/start" => {
                let thread = params["threadId"].as_str().unwrap().to_owned();
                let prompt = params["input"][0]["text"].as_str().unwrap().to_owned();
                answer(json!({ "turn": { "id": "turn-1", "status": "inProgress" } }));
                let turn = json!({ "threadId": thread, "turn": { "id": "turn-1", "status": "inProgress" } });
                writeln!(out, "{}", json!({ "method": "turn/started", "params": turn })).unwrap();
                out.flush().unwrap();
                stream(&mut out, &prompt, &thread, "turn-1");
                let turn = json!({ "threadId": thread, "turn": { "id": "turn-1", "status": "completed" } });
                writeln!(out, "{}", json!({ "method": "turn/completed", "params": turn })).unwrap();
                out.flush().unwrap();
            }
            _ if id.is_null() => {}
            _ => answer(json!({})),
        }
    }
}

fn stream(out: &mut impl Write, prompt: &str, thread: &str, turn: &str) {
    let words: Vec<&str> = prompt.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    let (count, size) = (number(1), number(2));
    let filler = "x".repeat(size.saturating_sub(20));
    let line = |buffer: &mut Vec<u8>| {
        // The delta begins with the time of its making, 20 digits.
        writeln!(
            buffer,
            r#"{{"method":"item/agentMessage/delta","params":{{"threadId":"{thread}","turnId":"{turn}","itemId":"i","delta":"{:020}{filler}"}}}}"#,
            now_nanos()
        )
        .unwrap();
    };
    let mut buffer = Vec::with_capacity(WRITE + size + 256);
    if words[0] == "burst" {
        for _ in 0..count {
            line(&mut buffer);
            if buffer.len() >= WRITE {
                out.write_all(&buffer).unwrap();
                buffer.clear();
            }
        }
        out.write_all(&buffer).unwrap();
        out.flush().unwrap();
        return;
    }
    let gap = Duration::from_nanos(1_000_000_000 / number(3) as u64);
    let began = Instant::now();
    for sent in 0..count {
        let due = began + gap * u32::try_from(sent).unwrap();
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        line(&mut buffer);
        out.write_all(&buffer).unwrap();
        out.flush().unwrap();
        buffer.clear();
    }
}
