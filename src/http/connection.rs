//! One client's connection, from its first byte to its last: requests are served in order, one at a time.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::api::{EventStream, FORWARDED, Kind, Upgrade};
use super::body::{self, Framing};
use super::front_door::Shared;
use super::guard;
use super::head::Head;
use super::inner::{Slot, TICKET};
use super::open::Waiting;
use super::reply::{ApiError, Reply};
use super::routes;
use super::token;
use super::wire::{Stop, Wire};
use crate::threads::permits::Permit;

/// Bytes of a body that every connection may have at once.
const SMALL_BODY: u64 = 64 * 1024;

/// What the front door knows of a connection, so as to end it.
#[derive(Debug)]
pub(super) struct Connection {
    /// The client's socket.
    pub(super) stream: Arc<TcpStream>,
    /// The request it waits for.
    pub(super) slot: Slot,
    /// Whether it has become an event stream, which ends itself when the daemon stops.
    pub(super) streaming: AtomicBool,
    /// Whether it waits for a request.
    pub(super) waiting: Waiting,
}

/// What becomes of the connection after a request.
enum Next {
    /// The next request.
    Request,
    /// It ends; the client has nothing more to say.
    Close,
    /// It ends; the client may still be sending.
    Linger,
}

/// Serves a connection to its end.
pub(super) fn converse(shared: &Shared, connection: &Connection, theirs: SocketAddr) {
    let mut wire = Wire::new(Arc::clone(&connection.stream));
    // The client may be gone already.
    let Ok(ours) = connection.stream.local_addr() else { return };
    let peer = shared.guard.check_peer(theirs, ours);
    if connection.stream.peer_addr().is_err() {
        // It was cut meanwhile: what was found at its address may have been somebody else.
        return;
    }
    if let Err(error) = peer {
        return dismiss(shared, wire, error, false);
    }
    let mut idle = shared.limits.head;
    loop {
        let mut head = match wire.read_head(idle, shared.limits.head) {
            Ok(head) => head,
            Err(Stop::Silent) => return,
            Err(Stop::Refuse(error)) => {
                let error = if connection.waiting.has_come() { error } else { made_way() };
                return dismiss(shared, wire, error, false);
            }
        };
        let parameter = head.take_parameter(token::PARAMETER);
        let allowed = shared.guard.check(&head, parameter.as_deref());
        if allowed.is_ok() && head.wants_websocket() && connection.waiting.has_come() {
            return upgrade(shared, connection, wire, &head);
        }
        let done = allowed.map_err(Stop::from).and_then(|()| answer(shared, connection, &mut wire, &head));
        let next = match done {
            Ok(next) => next,
            Err(Stop::Silent) => return,
            Err(Stop::Refuse(error)) if connection.waiting.has_come() => refuse(shared, &wire, &head, error),
            Err(Stop::Refuse(_)) => return dismiss(shared, wire, made_way(), head.is_head()),
        };
        match next {
            Next::Request if !shared.is_closing() => {
                idle = shared.limits.idle;
                shared.open.waits(connection);
            }
            Next::Request | Next::Close => return,
            Next::Linger => return wire.linger(),
        }
    }
}

/// The last answer on a connection.
fn dismiss(shared: &Shared, wire: Wire, error: ApiError, head_only: bool) {
    let _ = send(shared, &wire, &Reply::from(error).to_http(head_only, true));
    wire.linger();
}

/// To a client whose connection was ended for another one's sake while it sent something.
fn made_way() -> ApiError {
    ApiError::unavailable(
        "There are too many connections, and this one was silent for the longest; try again.",
    )
    .with_retry_after(1)
}

/// Sends an answer that begins with its status line, and has it counted.
fn send(shared: &Shared, wire: &Wire, answer: &[u8]) -> std::io::Result<()> {
    // `HTTP/1.1 200 OK`
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    shared.api.answered(status.unwrap_or(0));
    wire.write(answer, shared.limits.write)
}

/// Answers a request that failed a check. The connection lives on if it is certain where the next one begins.
fn refuse(shared: &Shared, wire: &Wire, head: &Head, error: ApiError) -> Next {
    // A client that gets a head wrong is not trusted with another one.
    let clean = matches!(body::framing(head), Ok(Framing::Empty))
        && error.code != super::reply::ErrorCode::BadRequest;
    let close = !clean || head.wants_close() || shared.is_closing();
    match send(shared, wire, &Reply::from(error).to_http(head.is_head(), close)) {
        Err(_) => Next::Close,
        Ok(()) if close => Next::Linger,
        Ok(()) => Next::Request,
    }
}

/// What is left of invariant 9 after the guard, in its order, then the body, then the handler.
fn answer(shared: &Shared, connection: &Connection, wire: &mut Wire, head: &Head) -> Result<Next, Stop> {
    let way = route(shared, head)?;
    let framing = body::framing(head);
    if head.method() == "POST" && framing.as_ref().ok() != Some(&Framing::Empty) {
        guard::check_content_type(head)?;
    }
    let framing = framing?;
    check_forwarded(head)?;
    let expects = expects_continue(head)?;
    body::check_size(framing, shared.limits.body)?;
    let _room = large_body_room(shared, framing)?;
    if expects && framing != Framing::Empty && !wire.has_buffered() {
        wire.write(b"HTTP/1.1 100 Continue\r\n\r\n", shared.limits.write).map_err(|_| Stop::Silent)?;
    }
    let body = body::read(wire, framing, shared.limits.body, Instant::now() + shared.limits.body_time)?;
    if !connection.waiting.has_come() {
        return Err(made_way().into());
    }
    // Looked at when there is something to answer: the port may begin to close while a handler is at it.
    let closes = || head.wants_close() || shared.is_closing();
    let (answer, close) = match way {
        Way::Health => {
            let close = closes();
            (shared.api.healthz().to_http(head.is_head(), close), close)
        }
        Way::Events => return Ok(events(shared, connection, wire, head)),
        Way::Handler(kind) => {
            let request = |ticket| inner_request(head, &body, ticket);
            let repeatable = matches!(head.method(), "GET" | "HEAD");
            let (wait, slot) = (shared.limits.wait, &connection.slot);
            let answer = shared.handlers.call(kind, &request, head.is_head(), repeatable, wait, slot);
            let close = closes();
            let answer = match answer {
                Ok(answer) if close => with_close(answer),
                Ok(answer) => answer,
                Err(error) => Reply::from(error).to_http(head.is_head(), close),
            };
            (answer, close)
        }
    };
    send(shared, wire, &answer).map_err(|_| Stop::Silent)?;
    Ok(if close { Next::Close } else { Next::Request })
}

/// Room for a body that may be large, until the request is answered: what all connections together may hold in memory
/// is bounded.
fn large_body_room(shared: &Shared, framing: Framing) -> Result<Option<Permit<'_>>, ApiError> {
    match framing {
        Framing::Empty => Ok(None),
        Framing::Length(length) if length <= SMALL_BODY => Ok(None),
        Framing::Length(_) | Framing::Chunked => match shared.large_bodies.take() {
            Some(permit) => Ok(Some(permit)),
            None => {
                Err(ApiError::unavailable("Too many large requests at once; try again.").with_retry_after(1))
            }
        },
    }
}

/// Where a request is answered.
enum Way {
    /// Here, from what the daemon knows.
    Health,
    /// Here, to the end of the connection: Server-Sent Events.
    Events,
    /// By one of the handlers.
    Handler(Kind),
}

/// Where a request goes.
fn route(shared: &Shared, head: &Head) -> Result<Way, ApiError> {
    if head.wants_websocket() {
        return Err(no_stream_here(head));
    }
    let method = if head.is_head() { "GET" } else { head.method() };
    if head.path() == routes::HEALTH {
        return match method {
            "GET" => Ok(Way::Health),
            _ => Err(ApiError::method_not_allowed("/healthz answers GET and HEAD.").with_allow("GET, HEAD")),
        };
    }
    let kind = shared.api.route(method, head.path())?;
    let streams = head.path() == shared.api.stream_path() && head.wants_event_stream();
    Ok(if streams { Way::Events } else { Way::Handler(kind) })
}

fn no_stream_here(head: &Head) -> ApiError {
    ApiError::not_found(format!("There is no event stream at {}.", head.path()))
}

/// Values of the fields that go on to a handler are ASCII: the inner server would refuse the whole head.
fn check_forwarded(head: &Head) -> Result<(), ApiError> {
    match FORWARDED.iter().find(|name| head.all(name).any(|value| !value.is_ascii())) {
        Some(name) => Err(ApiError::bad_request(format!("The value of {name} must be ASCII."))),
        None => Ok(()),
    }
}

/// Whether the client waits for a word before it sends the body (RFC 9110 section 10.1.1).
fn expects_continue(head: &Head) -> Result<bool, ApiError> {
    let mut expects = false;
    for expectation in head.items("expect") {
        if !expectation.eq_ignore_ascii_case("100-continue") {
            return Err(ApiError::expectation_failed("The only expectation met here is 100-continue."));
        }
        // One from an HTTP/1.0 client is to be ignored.
        expects = !head.is_http10();
    }
    Ok(expects)
}

/// The request as the inner server gets it: everything of it was checked, nothing else of the head goes on.
fn inner_request(head: &Head, body: &[u8], ticket: u64) -> Vec<u8> {
    let (method, path, query) = (head.method(), head.path(), head.query());
    let mark = if query.is_empty() { "" } else { "?" };
    let mut fields = String::new();
    for name in FORWARDED {
        head.all(name).for_each(|value| fields.extend([name, ": ", value, "\r\n"]));
    }
    let length = body.len();
    let head = format!(
        "{method} {path}{mark}{query} HTTP/1.1\r\nhost: codexd\r\n{fields}{TICKET}: {ticket}\r\n\
         content-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// The inner server's answer with `connection: close`, which it never says itself.
fn with_close(mut answer: Vec<u8>) -> Vec<u8> {
    if let Some(end) = memchr::memchr(b'\n', &answer) {
        answer.splice(end + 1..=end, *b"connection: close\r\n");
    }
    answer
}

/// Gives the connection to a client of Server-Sent Events, or refuses.
fn events(shared: &Shared, connection: &Connection, wire: &Wire, head: &Head) -> Next {
    connection.streaming.store(true, Ordering::Release);
    let stream = Arc::clone(&connection.stream);
    let served = shared.api.events(EventStream { head, stream, stopping: shared.stopping.clone() });
    connection.streaming.store(false, Ordering::Release);
    match served {
        Ok(true) => Next::Linger,
        Ok(false) => Next::Close,
        Err(refusal) => {
            let close = head.wants_close() || shared.is_closing();
            match send(shared, wire, &refusal.to_http(head.is_head(), close)) {
                Ok(()) if !close => Next::Request,
                _ => Next::Close,
            }
        }
    }
}

/// Hands the connection over to the event stream, or refuses.
fn upgrade(shared: &Shared, connection: &Connection, wire: Wire, head: &Head) {
    let refusal = if head.path() == shared.api.stream_path() {
        connection.streaming.store(true, Ordering::Release);
        let (stream, leftover) = wire.into_parts();
        let served =
            shared.api.upgrade(Upgrade { head, stream, leftover, stopping: shared.stopping.clone() });
        served.err()
    } else {
        Some(no_stream_here(head).into())
    };
    if let Some(refusal) = refusal {
        connection.streaming.store(false, Ordering::Release);
        let wire = Wire::new(Arc::clone(&connection.stream));
        let _ = send(shared, &wire, &refusal.to_http(head.is_head(), true));
        wire.linger();
    }
}
