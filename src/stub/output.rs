//! The stand-in's side of standard output.

use super::shapes::now_ms;
use crossbeam_channel::{Receiver, Sender, bounded};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::{self, BufWriter, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Lines that may wait for the writer; beyond that the turns wait, as those of the real Codex do.
const QUEUE: usize = 4096;

/// Nobody reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

enum Piece {
    Bytes(Vec<u8>),
    Close(Sender<()>),
}

/// Sends messages to the writer thread, which alone decides when to flush.
pub(super) struct Output {
    pieces: Sender<Piece>,
    muted: AtomicBool,
    unwanted: OnceLock<HashSet<String>>,
}

impl Output {
    /// Starts the writer thread.
    pub(super) fn start(output: impl Write + Send + 'static) -> io::Result<Self> {
        let (pieces, queue) = bounded(QUEUE);
        std::thread::Builder::new().name("stub-writer".into()).spawn(move || write_out(&queue, output))?;
        Ok(Self { pieces, muted: AtomicBool::new(false), unwanted: OnceLock::new() })
    }

    /// Answers a request, unless `mute:` forbids it.
    pub(super) fn respond(&self, id: &Value, result: &Value) {
        if !self.muted.load(Ordering::Relaxed) {
            let _ = self.raw(format!("{}\n", json!({"id": id, "result": result})));
        }
    }

    /// Refuses a request, unless `mute:` forbids it.
    pub(super) fn refuse(&self, id: &Value, error: &Value) {
        if !self.muted.load(Ordering::Relaxed) {
            let _ = self.raw(format!("{}\n", json!({"error": error, "id": id})));
        }
    }

    /// Sends a notification with parameters built here.
    pub(super) fn notify(&self, method: &str, params: &Value) -> Result<(), Closed> {
        self.notify_raw(method, &params.to_string())
    }

    /// Sends a notification whose parameters are JSON text already; without any the member is left out.
    pub(super) fn notify_raw(&self, method: &str, params: &str) -> Result<(), Closed> {
        if self.unwanted.get().is_some_and(|set| set.contains(method)) {
            return Ok(());
        }
        let method = Value::from(method);
        let params = if params.is_empty() { String::new() } else { format!(",\"params\":{params}") };
        self.raw(format!("{{\"method\":{method}{params},\"emittedAtMs\":{}}}\n", now_ms()))
    }

    /// Sends a request to the client.
    pub(super) fn request(&self, id: u64, method: &str, params: &str) -> Result<(), Closed> {
        let method = Value::from(method);
        let params = if params.is_empty() { "{}" } else { params };
        self.raw(format!("{{\"method\":{method},\"id\":{id},\"params\":{params}}}\n"))
    }

    /// Sends text as it is.
    pub(super) fn raw(&self, text: String) -> Result<(), Closed> {
        self.pieces.send(Piece::Bytes(text.into_bytes())).map_err(|_| Closed)
    }

    /// From here on no request is answered.
    pub(super) fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// Methods the client does not want to hear of.
    pub(super) fn opt_out(&self, methods: HashSet<String>) {
        let _ = self.unwanted.set(methods);
    }

    /// Writes what is queued and closes the stream, or gives up when nobody reads in time.
    pub(super) fn close(&self, patience: Duration) {
        let (done, closed) = bounded(1);
        let deadline = Instant::now() + patience;
        if self.pieces.send_deadline(Piece::Close(done), deadline).is_ok() {
            let _ = closed.recv_deadline(deadline);
        }
    }
}

/// Writes until the queue is empty, then flushes: a burst costs few system calls and no line waits for another.
fn write_out(queue: &Receiver<Piece>, output: impl Write) {
    let mut output = BufWriter::with_capacity(1 << 16, output);
    while let Ok(piece) = queue.recv() {
        let mut next = Some(piece);
        while let Some(piece) = next {
            match piece {
                Piece::Bytes(bytes) => {
                    if output.write_all(&bytes).is_err() {
                        return;
                    }
                }
                Piece::Close(done) => {
                    let _ = output.flush();
                    drop(output);
                    let _ = done.send(());
                    return;
                }
            }
            next = queue.try_recv().ok();
        }
        if output.flush().is_err() {
            return;
        }
    }
}
