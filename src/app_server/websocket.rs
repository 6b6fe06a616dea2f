//! A connection to an external app-server: the two threads at its WebSocket, one object a text message.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use log::warn;

use super::connection::Connection;
use super::inbox::Inbox;
use super::reader::{End, Reader};
use crate::duplex::{self, Closed, Ended, Incoming, Writer, code};
use crate::hub::Hub;
use crate::threads::{self, Thread, lock};

/// How long the other side gets to answer our Close.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Drafts gathered before they are handed to the hub, in bytes.
const GATHER: usize = 64 * 1024;

/// How a connection at rest is watched: a host that has vanished says nothing of it.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// From ping to ping; also the time in which something must be heard after one.
    pub every: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { every: Duration::from_secs(30) }
    }
}

/// Why we gave the connection up, before the reader notices that it is cut.
type Verdict = Arc<Mutex<Option<(&'static str, String)>>>;

/// The two threads.
pub struct Socket {
    connection: Arc<Connection>,
    writer: Thread,
    reader: Thread,
    end: Receiver<End>,
    cutter: duplex::Cutter,
}

impl Socket {
    /// Starts reading and writing for `connection`, whose outgoing lines are `lines`.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn start(
        (reader, writer): (duplex::Reader, Writer),
        connection: Arc<Connection>,
        lines: Receiver<Vec<u8>>,
        hub: Hub,
        inbox: Arc<Inbox>,
        keep_alive: KeepAlive,
    ) -> io::Result<Self> {
        let generation = connection.generation();
        let verdict = Verdict::default();
        let cutter = writer.cutter();
        let (done, end) = bounded(1);
        let to_writer = Arc::clone(&verdict);
        let writer = threads::spawn(format!("app-tx-{generation}"), move || {
            write_messages(writer, &lines, keep_alive, &to_writer);
        })?;
        let from = Arc::clone(&connection);
        let reader = threads::spawn(format!("app-rx-{generation}"), move || {
            let end = read_messages(reader, Reader::external(hub, from, inbox), &verdict);
            // Its owner listens until it has heard it.
            let _ = done.send(end);
        });
        match reader {
            Ok(reader) => Ok(Self { connection, writer, reader, end, cutter }),
            Err(error) => {
                connection.close("there is no thread for it");
                cutter.cut();
                writer.join();
                Err(error)
            }
        }
    }

    /// Has one message when the connection has ended.
    pub fn end(&self) -> &Receiver<End> {
        &self.end
    }

    /// Ends the connection as the protocol has it; whether the other side took part.
    pub fn close(self, reason: &str) -> bool {
        // The writer sends what is queued, then Close.
        self.connection.close(reason);
        let in_order = self.end.recv_timeout(CLOSE_GRACE).is_ok();
        self.cutter.cut();
        self.writer.join();
        self.reader.join();
        in_order
    }

    /// Clears up after the end has been heard.
    pub fn bury(self, reason: &str) {
        self.cutter.cut();
        self.connection.close(reason);
        self.writer.join();
        self.reader.join();
    }
}

fn write_messages(mut writer: Writer, lines: &Receiver<Vec<u8>>, keep_alive: KeepAlive, verdict: &Verdict) {
    let mut due = Instant::now() + keep_alive.every;
    let mut pinged = None;
    loop {
        let outcome = match lines.recv_deadline(due) {
            Ok(line) => write_all_waiting(&mut writer, line, lines),
            Err(RecvTimeoutError::Timeout) => {
                if pinged.is_some_and(|mark| !writer.heard_since(mark)) {
                    let millis = keep_alive.every.as_millis();
                    let silent = format!("the app-server did not answer a ping within {millis} ms");
                    lock(verdict).get_or_insert(("websocket.silent", silent));
                    return writer.cut();
                }
                pinged = Some(writer.mark());
                due = Instant::now() + keep_alive.every;
                writer.ping()
            }
            Err(RecvTimeoutError::Disconnected) => {
                // One that is closed already needs no goodbye.
                let _ = writer.close(code::NORMAL, "");
                return;
            }
        };
        if outcome.is_err() {
            lock(verdict)
                .get_or_insert(("websocket.error", "the app-server takes no more messages".to_owned()));
            // The reader notices, unless it was the one that closed.
            return writer.cut();
        }
    }
}

fn write_all_waiting(writer: &mut Writer, first: Vec<u8>, lines: &Receiver<Vec<u8>>) -> Result<(), Closed> {
    let mut line = first;
    loop {
        // A message is a frame; it needs no line end.
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        writer.write(Bytes::from(line))?;
        match lines.try_recv() {
            Ok(next) => line = next,
            Err(_) => return writer.flush(),
        }
    }
}

fn read_messages(mut socket: duplex::Reader, mut reader: Reader, verdict: &Verdict) -> End {
    let ended = loop {
        let incoming = match socket.read_ready() {
            Ok(Some(incoming)) => Ok(incoming),
            // Nothing is waiting: what was gathered goes on before we wait.
            Ok(None) => {
                if !reader.flush() {
                    break None;
                }
                socket.read()
            }
            Err(ended) => Err(ended),
        };
        match incoming {
            Ok(Incoming::Text(text)) => {
                reader.message(&text);
                if reader.gathered() >= GATHER && !reader.flush() {
                    break None;
                }
            }
            Ok(Incoming::Binary(bytes)) => reader.unreadable(bytes.len(), "it is a binary one", ""),
            Err(ended) => break Some(ended),
        }
    };
    reader.flush();
    let (source, message) = match (lock(verdict).take(), ended) {
        (Some((source, message)), Some(Ended::Gone)) => (source, message),
        (_, Some(ended)) => described(ended, socket.close_reason()),
        (_, None) => ("closed", "codexd is stopping".to_owned()),
    };
    if let Some(Ended::Refused(_)) = ended {
        warn!("{message}");
    }
    socket.finish();
    End { source, message, flushed_trailing_message: false, trailing_message_length: 0 }
}

fn described(ended: Ended, reason: &str) -> (&'static str, String) {
    let reason =
        if reason.is_empty() { String::new() } else { format!(": {}", crate::model::preview(reason)) };
    match ended {
        Ended::Close(None) => ("websocket.close", "the app-server closed the connection".to_owned()),
        Ended::Close(Some(code)) => {
            ("websocket.close", format!("the app-server closed the connection with {code}{reason}"))
        }
        Ended::Refused(code::TOO_BIG) => (
            "websocket.error",
            "the app-server sent a message longer than --max-line-bytes allows (1009)".to_owned(),
        ),
        Ended::Refused(code) => {
            ("websocket.error", format!("the app-server broke the WebSocket protocol ({code})"))
        }
        Ended::Gone => ("websocket.error", "the connection to the app-server was lost".to_owned()),
    }
}
