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
        return stream(&mut out, &words.join(" "), "t", "u", &mut |_| ());
    }
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(serde_json::from_str::<Value>(&line).unwrap()).is_err() {
                return;
            }
        }
    });
    let mut threads = 0;
    while let Ok(request) = lines.recv() {
        if request["method"] != "turn/start" {
            answer(&mut out, &request, &mut threads);
            continue;
        }
        let params = &request["params"];
        let thread = params["threadId"].as_str().unwrap().to_owned();
        let prompt = params["input"][0]["text"].as_str().unwrap().to_owned();
        let tell = |out: &mut dyn Write, message: Value| writeln!(out, "{message}").unwrap();
        tell(
            &mut out,
            json!({ "id": request["id"], "result": { "turn": { "id": "turn-1", "status": "inProgress" } } }),
        );
        let turn = json!({ "threadId": thread, "turn": { "id": "turn-1", "status": "inProgress" } });
        tell(&mut out, json!({ "method": "turn/started", "params": turn }));
        out.flush().unwrap();
        // Other requests are answered between the writes of a burst, as Codex does.
        stream(&mut out, &prompt, &thread, "turn-1", &mut |out| {
            while let Ok(request) = lines.try_recv() {
                answer(out, &request, &mut threads);
            }
        });
        let turn = json!({ "threadId": thread, "turn": { "id": "turn-1", "status": "completed" } });
        tell(&mut out, json!({ "method": "turn/completed", "params": turn }));
        out.flush().unwrap();
    }
}

/// Answers anything but a turn.
fn answer(out: &mut dyn Write, request: &Value, threads: &mut usize) {
    let result = match request["method"].as_str().unwrap_or_default() {
        "initialize" => json!({ "userAgent": "bench", "platformFamily": "unix", "platformOs": "x" }),
        "thread/start" => {
            *threads += 1;
            let thread = format!("thread-{}-{threads}", std::process::id());
            json!({ "thread": { "id": thread }, "cwd": "/", "model": "m", "modelProvider": "p" })
        }
        _ if request["id"].is_null() => return,
        _ => json!({}),
    };
    writeln!(out, "{}", json!({ "id": request["id"], "result": result })).unwrap();
    out.flush().unwrap();
}

fn stream(
    out: &mut dyn Write,
    prompt: &str,
    thread: &str,
    turn: &str,
    between: &mut dyn FnMut(&mut dyn Write),
) {
    let words: Vec<&str> = prompt.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    let (count, size) = (number(1), number(2));
    let filler = "x".repeat(size.saturating_sub(20));
    let line = |buffer: &mut Vec<u8>| {
        // The delta begins with the time of its making, 20 digits.
        let now = now_nanos();
        writeln!(
            buffer,
            r#"{{"method":"item/agentMessage/delta","params":{{"threadId":"{thread}","turnId":"{turn}","itemId":"i","delta":"{now:020}{filler}"}},"emittedAtMs":{}}}"#,
            now / 1_000_000
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
                between(out);
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
