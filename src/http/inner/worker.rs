//! The workers' side: a request is read, handled and answered.

use std::io::{self, Cursor, ErrorKind, Write};
use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::TICKET;
use super::answer::ANSWER_ROOM;
use super::core::Core;
use crate::clock;
use crate::fault::{self, Point};
use crate::http::api::{FORWARDED, Request};
use crate::http::reply::{ApiError, Reply};

/// The method of a request that a worker answers itself. No route has it.
const HELLO: &str = "OPTIONS";

/// The first request of a connection.
pub(super) fn hello(ticket: u64) -> Vec<u8> {
    format!("{HELLO} * HTTP/1.1\r\nhost: codexd\r\n{TICKET}: {ticket}\r\ncontent-length: 0\r\n\r\n")
        .into_bytes()
}

impl Core {
    /// One worker's life.
    pub(super) fn work(&self) {
        while let Some(generation) = self.current() {
            match generation.server.recv() {
                Ok(request) => {
                    drop(generation);
                    self.answer(request);
                }
                Err(error) => self.replace(&generation, &error),
            }
        }
    }

    fn handle(&self, request: Request) -> Reply {
        let what = format!("{} {}", request.method, request.path);
        catch_unwind(AssertUnwindSafe(|| self.api.handle(request))).unwrap_or_else(|_| {
            // The panic hook has told where and why.
            log::error!("the handler of {} panicked", what.escape_debug());
            ApiError::internal_error("The handler failed; the daemon's log says why.").into()
        })
    }

    fn answer(&self, mut request: tiny_http::Request) {
        let (ticket, taken) = match take_request(&mut request) {
            Ok(taken) => taken,
            // Whoever sent it sees that it was not taken.
            Err(error) => return log::error!("a request was cut on its way to the handler: {error}"),
        };
        let Some(connection) = self.tickets.take(ticket) else {
            return log::debug!("a request had been withdrawn before it was taken");
        };
        let reply = if taken.method == HELLO {
            Reply { status: 200, headers: Vec::new(), body: Vec::new() }
        } else {
            self.handle(taken)
        };
        // tiny_http would give it one of its own, and panic over a clock that is set before 1970.
        let reply = reply.with_header("date", clock::now_http());
        let headers = reply
            .headers
            .iter()
            .filter_map(|(name, value)| tiny_http::Header::from_bytes(*name, value.as_bytes()).ok())
            .collect();
        let length = reply.body.len();
        let response = tiny_http::Response::new(
            tiny_http::StatusCode(reply.status),
            headers,
            Cursor::new(reply.body),
            Some(length),
            None,
        )
        // Never chunked: the length stands in the head.
        .with_chunked_threshold(usize::MAX);
        if let Err(error) = respond(request, response, length) {
            log::debug!("an answer was not taken: {error}");
            // Whoever still waits for the rest of it would do so for ever.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// As [`tiny_http::Request::respond`], but with one write(2): that one writes what its 1 KB of buffer holds, piece by
/// piece, and wakes the reader for each.
#[inline(never)] // In the frame of a worker that waits, its buffers would be 20 KB of memory for each.
fn respond(
    request: tiny_http::Request,
    response: tiny_http::Response<Cursor<Vec<u8>>>,
    length: usize,
) -> io::Result<()> {
    let mut text = Vec::with_capacity(length + ANSWER_ROOM);
    let head_only = *request.method() == tiny_http::Method::Head;
    response.raw_print(&mut text, request.http_version().clone(), request.headers(), head_only, None)?;
    let mut writer = request.into_writer();
    fault::point(Point::InnerAnswer)?;
    writer.write_all(&text)?;
    writer.flush()
}

/// The request and its ticket.
fn take_request(request: &mut tiny_http::Request) -> io::Result<(u64, Request)> {
    let (path, query) = match request.url().split_once('?') {
        Some((path, query)) => (path.to_owned(), query.to_owned()),
        None => (request.url().to_owned(), String::new()),
    };
    let method = match request.method() {
        tiny_http::Method::Head => "GET".to_owned(),
        other => other.to_string(),
    };
    let ticket = request.headers().iter().find(|header| header.field.equiv(TICKET));
    let ticket = ticket.and_then(|header| header.value.as_str().parse().ok());
    let headers = request
        .headers()
        .iter()
        .map(|header| (header.field.as_str().as_str().to_ascii_lowercase(), header.value.to_string()))
        .filter(|(name, _)| FORWARDED.contains(&name.as_str()))
        .collect();
    let announced = request.body_length().unwrap_or(0);
    let mut body = Vec::with_capacity(announced);
    request.as_reader().read_to_end(&mut body)?;
    if body.len() != announced {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let ticket = ticket.ok_or(ErrorKind::InvalidData)?;
    Ok((ticket, Request { method, path, query, headers, body }))
}
