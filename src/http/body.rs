//! How long a body is, and reading it whole (RFC 9112 sections 6 and 7).

use std::time::Instant;

use super::head::Head;
use super::reply::ApiError;
use super::wire::{Stop, Wire};

/// Bytes of a line with a chunk's size and its extensions, or of a trailer field.
const MAX_CHUNK_LINE: usize = 4096;
/// Bytes of all such lines together: a body of one-byte chunks is an attack.
const MAX_CHUNK_LINES: usize = 256 * 1024;

/// What the head says about the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// That many bytes, at least 1; `u64::MAX` for any number that does not fit.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// The framing of a request.
///
/// # Errors
/// 400 when it is ambiguous or malformed, 411 and 501 as RFC 9112 section 6.3 has it. The connection must be closed.
pub(super) fn framing(head: &Head) -> Result<Framing, ApiError> {
    let mut lengths = head.all("content-length");
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(ApiError::bad_request("The request has more than one Content-Length."));
    }
    let codings: Vec<&str> = head.items("transfer-encoding").collect();
    if !codings.is_empty() {
        if length.is_some() {
            return Err(ApiError::bad_request("The request has both Content-Length and Transfer-Encoding."));
        }
        if head.is_http10() {
            return Err(ApiError::bad_request("HTTP/1.0 knows no Transfer-Encoding."));
        }
        if codings.iter().any(|coding| !coding.eq_ignore_ascii_case("chunked")) {
            return Err(ApiError::not_implemented("The only Transfer-Encoding understood here is chunked."));
        }
        if codings.len() > 1 {
            return Err(ApiError::bad_request("A body must be chunked only once."));
        }
        return Ok(Framing::Chunked);
    }
    match length {
        // Before HTTP/1.1 a body without a length would last until the connection ends, and nobody could answer.
        None if head.is_http10() && head.method() == "POST" => {
            Err(ApiError::length_required("An HTTP/1.0 request with a body needs a Content-Length."))
        }
        None => Ok(Framing::Empty),
        Some(digits) if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(ApiError::bad_request("Content-Length must be a number of bytes in decimal digits."))
        }
        Some(digits) => match digits.parse::<u64>() {
            Ok(0) => Ok(Framing::Empty),
            Ok(length) => Ok(Framing::Length(length)),
            // All digits, so there are only too many of them.
            Err(_) => Ok(Framing::Length(u64::MAX)),
        },
    }
}

/// Refuses a body that announces to be larger than `max` bytes.
pub(super) fn check_size(framing: Framing, max: usize) -> Result<(), ApiError> {
    match framing {
        Framing::Length(length) if length > max as u64 => Err(too_large(max)),
        _ => Ok(()),
    }
}

/// Reads the whole body.
pub(super) fn read(wire: &mut Wire, framing: Framing, max: usize, until: Instant) -> Result<Vec<u8>, Stop> {
    let mut body = Vec::new();
    match framing {
        Framing::Empty => {}
        Framing::Length(length) => {
            let length = usize::try_from(length).ok().filter(|&length| length <= max);
            wire.read_exact_into(&mut body, length.ok_or_else(|| too_large(max))?, until)?;
        }
        Framing::Chunked => read_chunks(wire, &mut body, max, until)?,
    }
    Ok(body)
}

fn read_chunks(wire: &mut Wire, body: &mut Vec<u8>, max: usize, until: Instant) -> Result<(), Stop> {
    let mut line_bytes = 0;
    let mut line = |wire: &mut Wire| {
        let line = wire.read_line(MAX_CHUNK_LINE, until)?;
        line_bytes += line.len() + 2;
        if line_bytes > MAX_CHUNK_LINES {
            return Err(ApiError::payload_too_large("The body has too many small chunks.").into());
        }
        Ok::<_, Stop>(line)
    };
    loop {
        let size = chunk_size(&line(wire)?)
            .ok_or_else(|| ApiError::bad_request("A chunk size of the body is malformed."))?;
        if size == 0 {
            // Trailer fields mean nothing to anyone here; what must not stay is their bytes.
            while !line(wire)?.is_empty() {}
            return Ok(());
        }
        let size = usize::try_from(size).ok().filter(|&size| size <= max - body.len());
        wire.read_exact_into(body, size.ok_or_else(|| too_large(max))?, until)?;
        if !line(wire)?.is_empty() {
            return Err(ApiError::bad_request("A chunk of the body is longer than its size.").into());
        }
    }
}

/// `chunk-size [ chunk-ext ]`, of which the extensions are ignored (RFC 9112 section 7.1.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn too_large(max: usize) -> ApiError {
    ApiError::payload_too_large(format!("The request body is larger than {max} bytes."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &str) -> Result<Framing, u16> {
        of_line("POST / HTTP/1.1", fields)
    }

    fn of_line(line: &str, fields: &str) -> Result<Framing, u16> {
        let text = format!("{line}\r\n{fields}\r\n");
        let head = Head::parse(text.as_bytes()).unwrap().unwrap().0;
        framing(&head).map_err(|error| error.code.status())
    }

    #[test]
    fn lengths() {
        assert_eq!(of(""), Ok(Framing::Empty));
        assert_eq!(of("Content-Length: 0\r\n"), Ok(Framing::Empty));
        assert_eq!(of("Content-Length: 007\r\n"), Ok(Framing::Length(7)));
        assert_eq!(of("Content-Length: 99999999999999999999999\r\n"), Ok(Framing::Length(u64::MAX)));
        for bad in ["+1", "-1", "0x10", "1,1", "1, 2", "1 2", "", "1.0", "٣"] {
            assert_eq!(of(&format!("Content-Length: {bad}\r\n")), Err(400), "{bad}");
        }
        assert_eq!(of("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(of("Content-Length: 1\r\nContent-Length: 2\r\n"), Err(400));
    }

    #[test]
    fn codings() {
        assert_eq!(of("Transfer-Encoding: CHUNKED\r\n"), Ok(Framing::Chunked));
        assert_eq!(of("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(of("Transfer-Encoding: chunked, chunked\r\n"), Err(400));
        assert_eq!(of("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Err(400));
        for unknown in ["gzip", "gzip, chunked", "xchunked", "identity", "chunked;q=1", "\"chunked\"", ""] {
            assert_eq!(of(&format!("Transfer-Encoding: {unknown}\r\n")), Err(501), "{unknown}");
        }
        assert_eq!(of_line("POST / HTTP/1.0", "Transfer-Encoding: chunked\r\n"), Err(400));
        assert_eq!(of_line("POST / HTTP/1.0", ""), Err(411));
        assert_eq!(of_line("GET / HTTP/1.0", ""), Ok(Framing::Empty));
    }

    #[test]
    fn chunk_sizes() {
        assert_eq!(chunk_size(b"0"), Some(0));
        assert_eq!(chunk_size(b"fF ;a=\"b\""), Some(255));
        assert_eq!(chunk_size(b"ffffffffffffffff"), Some(u64::MAX));
        for bad in [&b""[..], b";", b"-1", b"+1", b"0x1", b" 1", b"1 1", b"g", b"00000000000000001"] {
            assert_eq!(chunk_size(bad), None);
        }
    }
}
