//! What the inner server answers.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

/// Bytes that most answers fit into, and every head.
pub(super) const ANSWER_ROOM: usize = 8 * 1024;

/// Reads an answer; whether it is one of ours and has as many bytes as its head says: one that was cut must not go out on
/// a connection that lives.
pub(in super::super) fn receive(
    from: &UnixStream,
    head_only: bool,
    answer: &mut Vec<u8>,
) -> io::Result<bool> {
    let mut length = None;
    loop {
        let rest = length.map_or(ANSWER_ROOM, |length: usize| length - answer.len());
        answer.reserve(rest);
        match rustix::io::read(from, spare_capacity(answer)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        length = match length {
            None => match head_of(answer) {
                // tiny_http's word for a request that no worker took before its server ended. Ours have a body.
                Some(Head { status: 500, body: 0, .. }) => return Ok(false),
                Some(Head { bytes, .. }) if head_only => Some(bytes),
                Some(Head { bytes, body, .. }) => bytes.checked_add(body),
                None => None,
            },
            known => known,
        };
        if let Some(length) = length.filter(|&length| length <= answer.len()) {
            return Ok(length == answer.len());
        }
    }
}

/// The head of an answer.
struct Head {
    status: u16,
    /// The length of the head itself.
    bytes: usize,
    /// That of the body, as the head says.
    body: usize,
}

/// The head, once it is there and whole.
fn head_of(answer: &[u8]) -> Option<Head> {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut slots);
    let Ok(httparse::Status::Complete(bytes)) = response.parse(answer) else { return None };
    let mut fields = response.headers.iter();
    let length = fields.find(|field| field.name.eq_ignore_ascii_case("content-length"))?;
    let body = std::str::from_utf8(length.value).ok()?.parse().ok()?;
    Some(Head { status: response.code?, bytes, body })
}
