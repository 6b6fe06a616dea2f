//! A WebSocket client of the event stream.
//!
//! The connection's thread shakes hands, sends hello and then reads; `ws-N-tx` takes from the client's queue and writes.
//! Either ends the other: the reader by dropping a channel, the writer by its Close and, if nobody answers, a cut.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde::Serialize;
use tungstenite::handshake::derive_accept_key;

use super::feed::{End, Feed, Origin, Sink};
use crate::duplex::{Closed, Duplex, Ended, GATHER, Incoming, Reader, Writer, code};
use crate::http::api::Upgrade;
use crate::http::head::Head;
use crate::http::reply::{ApiError, Reply};
use crate::hub::batch::{Batch, Entry, MESSAGE_HEAD, MESSAGE_TAIL};
use crate::hub::filter::Filter;
use crate::hub::replay::{Gap, Logged};
use crate::model::members::Members;
use crate::threads;

/// A payload that is no JSON object (4000 to 4999 are for private use).
const NOT_AN_OBJECT: u16 = 4002;
/// The one subprotocol there is: what this module speaks. A client need not ask for it; a browser that gives its token
/// as a subprotocol must offer one that can be chosen.
pub const SUBPROTOCOL: &str = "codexd.v1";
/// Time for the client to answer our Close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Characters of a client's own text that an answer repeats.
const MAX_ECHO: usize = 160;

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// A place on the stream.
pub struct Opening {
    /// The hello message, JSON text.
    pub hello: String,
    /// Everything after it.
    pub origin: Origin,
    /// What of that the client wants.
    pub filter: Filter,
}

/// Where the stream's data comes from.
pub trait EventSource: Send + Sync {
    /// Hello and everything after it, with nothing missing and nothing twice between them. `query`: what the client
    /// asked for in the URL (`after`, filters), percent-encoded.
    ///
    /// # Errors
    /// The answer to the handshake.
    fn subscribe(&self, query: &str) -> Result<Opening, ApiError>;

    /// The answer to `{"type":"status"}`, JSON text.
    fn status_message(&self) -> String;

    /// A client is here; called before [`EventSource::subscribe`], so that hello counts it.
    fn client_opened(&self);

    /// The handshake is answered with 101.
    fn client_accepted(&self) {}

    /// It is gone; called once for every [`EventSource::client_opened`].
    fn client_closed(&self);
}

/// Serves one client to its end, in the connection's thread.
///
/// # Errors
/// The answer to a handshake that is refused (RFC 6455 section 4.2): 400, 426, or what the source says.
pub fn serve(source: &dyn EventSource, upgrade: Upgrade<'_>) -> Result<(), Reply> {
    let key = check_handshake(upgrade.head)?;
    let _present = Present::enter(source);
    let Opening { hello, origin, filter } = source.subscribe(upgrade.head.query())?;
    let offered = upgrade.head.items("sec-websocket-protocol").any(|name| name == SUBPROTOCOL);
    let chosen = if offered { format!("sec-websocket-protocol: {SUBPROTOCOL}\r\n") } else { String::new() };
    let accepted = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n{chosen}\r\n",
        derive_accept_key(key.as_bytes())
    );
    source.client_accepted();
    // From here on there is nobody to tell anything but over the WebSocket.
    if std::io::Write::write_all(&mut &*upgrade.stream, accepted.as_bytes()).is_err() {
        return Ok(());
    }
    let Ok((reader, mut writer)) = Duplex::server(upgrade.stream, upgrade.leftover) else { return Ok(()) };
    if writer.write(hello.into()).and_then(|()| writer.flush()).is_ok() {
        let feed = Feed { origin, filter, stopping: upgrade.stopping, heartbeat: None };
        converse(source, reader, writer, feed);
    }
    Ok(())
}

/// The key of a handshake that is right.
fn check_handshake(head: &Head) -> Result<&str, Reply> {
    let bad = |what: &str| Err(ApiError::bad_request(format!("WebSocket handshake: {what}.")).into());
    if head.method() != "GET" || head.is_http10() {
        return bad("it must be a GET with HTTP/1.1");
    }
    if !head.has_token("connection", "upgrade") {
        return bad("the Connection header must name upgrade");
    }
    if head.all("content-length").any(|length| length != "0") || head.get("transfer-encoding").is_some() {
        return bad("it must have no body");
    }
    let mut versions = head.all("sec-websocket-version");
    match (versions.next(), versions.next()) {
        (Some("13"), None) => {}
        (None, _) => return bad("Sec-WebSocket-Version is missing"),
        _ => {
            let error =
                ApiError::upgrade_required("Only version 13 of the WebSocket protocol is spoken here.");
            return Err(Reply::from(error)
                .with_header("sec-websocket-version", "13")
                .with_header("upgrade", "websocket"));
        }
    }
    let mut keys = head.all("sec-websocket-key");
    match (keys.next(), keys.next()) {
        (Some(key), None) if is_key(key) => Ok(key),
        _ => bad("Sec-WebSocket-Key must be there once, 16 bytes in base64"),
    }
}

/// 16 bytes in base64: 22 characters, of which the last carries two bits, and two signs of padding.
fn is_key(key: &str) -> bool {
    key.len() == 24
        && key.ends_with("==")
        && key[..22].bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
}

/// Counts a client for as long as it lives.
struct Present<'a>(&'a dyn EventSource);

impl<'a> Present<'a> {
    fn enter(source: &'a dyn EventSource) -> Self {
        source.client_opened();
        Self(source)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.client_closed();
    }
}

/// The connection's thread: starts the writer, reads until one side ends it, ends the writer.
fn converse(source: &dyn EventSource, mut reader: Reader, writer: Writer, feed: Feed) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (alive, reader_gone) = bounded::<()>(0);
    let thread = threads::spawn_contained(format!("ws-{number}-tx"), move || {
        write_all(feed, writer, &reader_gone);
    });
    let Ok(thread) = thread else {
        let _ = reader.close(code::TRY_AGAIN_LATER, "no thread for another client");
        return reader.finish();
    };
    let ended = read_all(source, &mut reader);
    log::debug!("stream client {number} ended: {ended:?}");
    drop(alive);
    // The writer may be waiting for a client that does not read: that ends when the socket is shut down.
    reader.finish();
    thread.join();
}

/// Answers the client until it or we end the connection.
fn read_all(source: &dyn EventSource, reader: &mut Reader) -> Ended {
    loop {
        let text = match reader.read() {
            Ok(Incoming::Text(text)) => text,
            Ok(Incoming::Binary(_)) => {
                let _ = reader.close(code::UNSUPPORTED, "only text messages are understood");
                return Ended::Refused(code::UNSUPPORTED);
            }
            Err(ended) => return ended,
        };
        let Ok(members) = serde_json::from_str::<Members<'_>>(&text) else {
            let _ = reader.close(NOT_AN_OBJECT, "a message must be a JSON object");
            return Ended::Refused(NOT_AN_OBJECT);
        };
        let answer = match members.text("type").as_deref() {
            Some("ping") => "{\"type\":\"pong\"}".to_owned(),
            Some("status") => source.status_message(),
            other => unsupported(other.unwrap_or("unknown")),
        };
        if reader.send(answer).is_err() {
            // Our own Close is out: the client's answer to it is still to come.
            continue;
        }
    }
}

fn unsupported(kind: &str) -> String {
    let mut shown: String = kind.chars().take(MAX_ECHO).collect();
    if shown.len() < kind.len() {
        shown.push_str("...");
    }
    let message = format!("Unsupported websocket message type: {shown}.");
    serde_json::json!({ "type": "error", "message": message }).to_string()
}

/// The writer's thread: writes until the queue ends, the daemon stops or the client is gone.
fn write_all(feed: Feed, writer: Writer, reader_gone: &Receiver<()>) {
    feed.run(writer, reader_gone, |writer, ended| {
        let closed = match ended {
            Err(_) | Ok(End::ClientGone) => return,
            Ok(End::Lagged(seq)) => writer.close(code::TRY_AGAIN_LATER, &format!("lagged after seq {seq}")),
            Ok(End::Failed(reason)) => writer.close(code::INTERNAL_ERROR, &reason),
            Ok(End::Stopping) => writer.close(code::GOING_AWAY, "codexd is stopping"),
        };
        if closed.is_ok() && reader_gone.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Timeout) {
            writer.cut();
        }
    });
}

#[derive(Serialize)]
struct GapMessage {
    #[serde(flatten)]
    gap: Gap,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Sink for Writer {
    type Gone = Closed;

    fn is_stalled(gone: &Closed) -> bool {
        *gone == Closed::Stalled
    }

    fn live(&mut self, batch: &Batch, run: &[Entry]) -> Result<(), Closed> {
        // Between two of them the reader may answer.
        batch.frames(run, GATHER).try_for_each(|frames| self.write_frames(frames))
    }

    fn logged(&mut self, event: &Logged<'_>) -> Result<(), Closed> {
        self.write([MESSAGE_HEAD, event.json, MESSAGE_TAIL].concat().into())
    }

    fn gap(&mut self, gap: Gap) -> Result<(), Closed> {
        // Numbers always serialise.
        let text = serde_json::to_string(&GapMessage { gap, kind: "gap" }).unwrap_or_default();
        self.write(text.into())
    }

    fn synced(&mut self, seq: u64) -> Result<(), Closed> {
        self.write(format!("{{\"seq\":{seq},\"type\":\"synced\"}}").into())
    }

    fn beat(&mut self) -> Result<(), Closed> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Closed> {
        Writer::flush(self)
    }

    fn flush_now(&mut self) -> Result<bool, Closed> {
        Writer::flush_now(self)
    }
}

#[cfg(test)]
mod tests;
