//! A connection to an external app-server: the two threads at its WebSocket, one object a text message.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::RecvTimeoutError;
use log::warn;

use super::connection::Connection;
use super::inbox::Inbox;
use super::outgoing::Lines;
use super::reader::{End, Reader};
use crate::duplex::{self, Closed, Ended, Incoming, Writer, code};
use crate::hub::Hub;
use crate::threads::answer::{Answer, answer};
use crate::threads::{self, Thread, lock};

/// How long the other side gets to answer our Close.
const CLOSE_GRACE: Duration = Duration::from_secs(1);
/// Drafts gathered before they are handed to the hub, in bytes.
const GATHER: usize = 64 * 1024;

/// From ping to ping; also the time in which something must be heard after one: a host that has vanished says nothing of it.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why we gave the connection up, before the reader notices that it is cut.
type Verdict = Arc<Mutex<Option<(&'static str, String)>>>;

/// The two threads.
pub struct Socket {
    connection: Arc<Connection>,
    writer: Thread,
    reader: Thread,
    end: Answer<End>,
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
        lines: Lines,
        hub: Hub,
        inbox: Arc<Inbox>,
    ) -> io::Result<Self> {
        let generation = connection.generation();
        let verdict = Verdict::default();
        let cutter = writer.cutter();
        let (done, end) = answer();
        let to_writer = Arc::clone(&verdict);
        let writer = threads::spawn(format!("app-tx-{generation}"), move || {
            write_messages(writer, &lines, KEEP_ALIVE, &to_writer);
        })?;
        let from = Arc::clone(&connection);
        let reader = threads::spawn(format!("app-rx-{generation}"), move || {
            let end = read_messages(reader, Reader::external(hub, from, inbox), &verdict);
            // Its owner listens until it has heard it.
            done.give(end);
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

    /// Comes when the connection has ended.
    pub fn end(&self) -> &Answer<End> {
        &self.end
    }

    /// Ends the connection as the protocol has it; whether the other side took part.
    pub fn close(self, reason: &str) -> bool {
        // The writer sends what is queued, then Close.
        self.connection.close(reason);
        let in_order = self.end.wait(Instant::now() + CLOSE_GRACE).is_ok();
        self.bury(reason);
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

fn write_messages(mut writer: Writer, lines: &Lines, keep_alive: Duration, verdict: &Verdict) {
    let mut due = Instant::now() + keep_alive;
    let mut pinged = None;
    loop {
        let outcome = match lines.recv_deadline(due) {
            Ok(line) => write_all_waiting(&mut writer, line, lines),
            Err(RecvTimeoutError::Timeout) => {
                if pinged.is_some_and(|mark| !writer.heard_since(mark)) {
                    let millis = keep_alive.as_millis();
                    let silent = format!("the app-server did not answer a ping within {millis} ms");
                    lock(verdict).get_or_insert(("websocket.silent", silent));
                    return writer.cut();
                }
                pinged = Some(writer.mark());
                due = Instant::now() + keep_alive;
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

fn write_all_waiting(writer: &mut Writer, first: Vec<u8>, lines: &Lines) -> Result<(), Closed> {
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
        // Before anybody can know what it says.
        if incoming.is_ok() {
            reader.heard();
        }
        match incoming {
            Ok(Incoming::Text(text)) => {
                reader.message(&text);
            }
            Ok(Incoming::Binary(bytes)) => reader.unreadable(bytes.len(), "it is a binary one", ""),
            Err(ended) => break Some(ended),
        }
        if reader.gathered() >= GATHER && !reader.flush() {
            break None;
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::outgoing::{Outgoing, queue};
    use super::*;
    use crate::duplex::Duplex;

    /// A client's two ends, the writer's thread running, and the server's side of the socket.
    fn pair(every: Duration) -> (duplex::Reader, TcpStream, Outgoing, Verdict, Thread) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let (reader, writer) = Duplex::client(Arc::new(client), Vec::new(), 1024).unwrap();
        let (lines, outgoing) = queue(1);
        let verdict = Verdict::default();
        let to_writer = Arc::clone(&verdict);
        let thread = threads::spawn_contained("test-writer", move || {
            write_messages(writer, &outgoing, every, &to_writer);
        });
        (reader, server, lines, verdict, thread.unwrap())
    }

    #[test]
    fn a_host_that_answers_no_ping_is_given_up() {
        let (mut reader, server, _lines, verdict, thread) = pair(Duration::from_millis(20));
        assert_eq!(reader.read(), Err(Ended::Gone));
        assert_eq!(lock(&verdict).as_ref().unwrap().0, "websocket.silent");
        thread.join();
        drop(server);
    }

    #[test]
    fn one_that_answers_is_kept() {
        let (mut reader, server, lines, verdict, thread) = pair(Duration::from_millis(400));
        let (pings, pinged) = crossbeam_channel::bounded(64);
        let server = threads::spawn_contained("test-server", move || {
            let mut socket = tungstenite::WebSocket::from_raw_socket(
                server,
                tungstenite::protocol::Role::Server,
                Some(tungstenite::protocol::WebSocketConfig::default()),
            );
            // Reading answers the pings.
            while let Ok(message) = socket.read() {
                if message.is_ping() {
                    let _ = pings.try_send(());
                }
            }
        })
        .unwrap();
        let reading = threads::spawn_contained("test-reader", move || {
            assert_eq!(reader.read(), Err(Ended::Close(Some(code::NORMAL))));
        })
        .unwrap();
        for _ in 0..3 {
            pinged.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        drop(lines);
        thread.join();
        reading.join();
        server.join();
        assert!(lock(&verdict).is_none());
    }

    #[test]
    fn a_reader_that_is_busy_is_not_taken_for_silence() {
        let (_reader, mut server, lines, verdict, thread) = pair(Duration::from_millis(5));
        // Nobody reads: whatever the server said would not be heard. Many pings later we are still connected.
        server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut pings = [0; 20 * 6];
        std::io::Read::read_exact(&mut server, &mut pings).unwrap();
        assert!(pings.chunks(6).all(|frame| frame[..2] == [0x89, 0x80]), "{pings:?}");
        drop(lines);
        thread.join();
        assert!(lock(&verdict).is_none());
    }
}
