//! What the front door asks of the daemon behind it.

use std::net::TcpStream;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::head::Head;
use super::reply::{ApiError, Reply};

/// Header fields that reach a handler; everything else of the head ends at the front door.
pub const FORWARDED: [&str; 3] = ["accept", "idempotency-key", "last-event-id"];

/// What a request may wait for. So many of each kind are let in to the handlers at a time: what waits long keeps nothing
/// waiting that does not. Least of all may an app-server that says nothing keep a run from being cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is answered from what the daemon knows: nothing slow may be of this kind.
    Read,
    /// It may wait for the log or a few files, but for nobody outside of codexd.
    Local,
    /// It may wait for the app-server, or read all of the log.
    Call,
}

/// A request that has passed every check, its body read to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`…; `HEAD` is given as `GET`, its body is left out later.
    pub method: String,
    /// Percent-encoded, begins with a slash, without slashes at its end.
    pub path: String,
    /// What stands after `?`, percent-encoded; empty when there is nothing.
    pub query: String,
    /// Those of [`FORWARDED`] that the client sent: name in lower case, value in visible ASCII.
    pub headers: Vec<(String, String)>,
    /// At most [`Limits::body`](super::limits::Limits::body) bytes, not yet looked at.
    pub body: Vec<u8>,
}

impl Request {
    /// The first value of a forwarded header field; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// A WebSocket handshake that has passed the guard, and its connection.
#[derive(Debug)]
pub struct Upgrade<'a> {
    /// The handshake.
    pub head: &'a Head,
    /// The socket: blocking, without delay, nobody else reads or writes.
    pub stream: Arc<TcpStream>,
    /// What the client sent behind the handshake.
    pub leftover: Vec<u8>,
    /// Is disconnected when the daemon stops: end the stream then.
    pub stopping: Receiver<()>,
}

/// A request for Server-Sent Events that has passed every check, and its connection.
#[derive(Debug)]
pub struct EventStream<'a> {
    /// The request.
    pub head: &'a Head,
    /// The socket: blocking, without delay, with a write timeout, nobody else reads or writes.
    pub stream: Arc<TcpStream>,
    /// Is disconnected when the daemon stops: end the stream then.
    pub stopping: Receiver<()>,
}

/// The daemon, as the port sees it.
pub trait Api: Send + Sync + 'static {
    /// The answer to `GET /healthz`, given in the connection's thread: it must neither wait nor fail.
    fn healthz(&self) -> Reply;

    /// An answer with this status is about to be sent; called for each but those of a stream, and must not wait.
    fn answered(&self, _status: u16) {}

    /// What kind of request this is; called with `GET` for `HEAD`. Looks at method and path only.
    ///
    /// # Errors
    /// The answer to one that nobody handles (404, 405 with `Allow`).
    fn route(&self, method: &str, path: &str) -> Result<Kind, ApiError>;

    /// Handles a request in a worker thread. A panic is answered with 500.
    fn handle(&self, request: Request) -> Reply;

    /// Path of the event stream: the only one where an upgrade, or a wish for Server-Sent Events, is looked at.
    fn stream_path(&self) -> &str;

    /// Serves a stream client in the connection's thread, until one of the two ends it.
    ///
    /// # Errors
    /// The answer to a handshake that is refused; nothing has been written then.
    fn upgrade(&self, upgrade: Upgrade<'_>) -> Result<(), Reply>;

    /// Serves a client of Server-Sent Events in the connection's thread, until one of the two ends it. Returns whether
    /// the client may still be reading.
    ///
    /// # Errors
    /// The answer to a request that is refused; nothing has been written then.
    fn events(&self, request: EventStream<'_>) -> Result<bool, Reply>;
}
