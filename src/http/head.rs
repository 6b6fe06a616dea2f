//! The head of one request: parsed by httparse, then held to stricter rules than it has (RFC 9112).
//!
//! Nothing in front of us forgives, so nothing here does: bare line feeds, folded fields, NUL, text that is not
//! UTF-8, targets with anything but visible ASCII are refused with 400.

use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode_str;

use super::reply::ApiError;

/// Bytes of a whole head, request line and final empty line included.
pub const MAX_HEAD: usize = 32 * 1024;
/// Fields of a head.
pub const MAX_HEADERS: usize = 100;
/// Bytes of the request target.
pub const MAX_TARGET: usize = 8 * 1024;
/// Room for the method, the version and the blanks of a request line whose target has [`MAX_TARGET`] bytes.
const REQUEST_LINE_EXTRA: usize = 64;

/// A head that is well-formed. Its parts are slices of one text.
#[derive(Clone)]
pub struct Head {
    text: String,
    method: Range<usize>,
    authority: Option<Range<usize>>,
    path: Range<usize>,
    query: Range<usize>,
    http10: bool,
    fields: Vec<(Range<usize>, Range<usize>)>,
}

/// Without the fields: one of them may be a token.
impl fmt::Debug for Head {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Head")
            .field("method", &self.method())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Head {
    /// Parses the head at the start of `bytes`; with it comes its length in bytes. `Ok(None)`: it is not complete.
    ///
    /// # Errors
    /// 400, 414, 431 or 505; the connection must be closed after any of them, since where the next request begins is
    /// not known.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ApiError> {
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut slots);
        let length = match request.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return too_long_already(bytes).map(|()| None),
            Err(error) => return Err(syntax_error(error, bytes)),
        };
        if length > MAX_HEAD {
            return Err(head_too_large());
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err(ApiError::bad_request("The request line is incomplete."));
        };
        if target.len() > MAX_TARGET {
            return Err(target_too_long());
        }
        check_line_ends(&bytes[..length])?;
        let at = |part: &[u8]| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            start..start + part.len()
        };
        let target = parse_target(method, target, at(target.as_bytes()).start)?;
        let fields = request
            .headers
            .iter()
            // httparse gives a field without a value as an empty slice from elsewhere.
            .map(|field| {
                (at(field.name.as_bytes()), if field.value.is_empty() { 0..0 } else { at(field.value) })
            })
            .collect();
        let method = at(method.as_bytes());
        let text = std::str::from_utf8(&bytes[..length])
            .map_err(|_| ApiError::bad_request("The request head is not valid UTF-8."))?
            .to_owned();
        let Target { authority, path, query } = target;
        Ok(Some((Self { text, method, authority, path, query, http10: version == 0, fields }, length)))
    }

    /// The method as sent; methods are case-sensitive (RFC 9110 section 9.1).
    pub fn method(&self) -> &str {
        &self.text[self.method.clone()]
    }

    /// The path, still percent-encoded, without slashes at its end.
    pub fn path(&self) -> &str {
        // `http://host` without a path means its root (RFC 9112 section 3.2.2).
        if self.path.is_empty() { "/" } else { &self.text[self.path.clone()] }
    }

    /// What stands after `?`, still percent-encoded; empty when there is nothing.
    pub fn query(&self) -> &str {
        &self.text[self.query.clone()]
    }

    /// Takes every parameter of that name out of the query, so that nothing else sees it; the first one's value,
    /// decoded.
    pub(super) fn take_parameter(&mut self, name: &str) -> Option<String> {
        let mut taken = None;
        let mut kept = String::new();
        for parameter in self.query().split('&') {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            if percent_decode_str(key).decode_utf8_lossy() == name {
                taken.get_or_insert_with(|| percent_decode_str(value).decode_utf8_lossy().into_owned());
            } else {
                if !kept.is_empty() {
                    kept.push('&');
                }
                kept.push_str(parameter);
            }
        }
        if taken.is_some() {
            // Blanks in place of what is gone, so that everything behind it stays where it is.
            let Range { start, end } = self.query.clone();
            self.query.end = start + kept.len();
            kept.extend(std::iter::repeat_n(' ', end - start - kept.len()));
            self.text.replace_range(start..end, &kept);
        }
        taken
    }

    /// The authority of an absolute-form target (RFC 9112 section 3.2.2).
    pub fn authority(&self) -> Option<&str> {
        self.authority.clone().map(|range| &self.text[range])
    }

    /// Whether the client speaks HTTP/1.0.
    pub fn is_http10(&self) -> bool {
        self.http10
    }

    /// Whether the answer goes without a body.
    pub fn is_head(&self) -> bool {
        self.method() == "HEAD"
    }

    /// The values of every field of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.fields
            .iter()
            .filter(move |(field, _)| self.text[field.clone()].eq_ignore_ascii_case(name))
            .map(|(_, value)| self.text[value.clone()].trim_matches([' ', '\t']))
    }

    /// The first value of that name.
    pub fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// The items of a comma-separated list of that name (RFC 9110 section 5.6.1), in order.
    pub fn items<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.all(name).flat_map(|value| value.split(',')).map(|item| item.trim_matches([' ', '\t']))
    }

    /// Whether such a list has the token, in whatever case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.items(name).any(|item| item.eq_ignore_ascii_case(token))
    }

    /// Whether the client wants a WebSocket. Any other `Upgrade` may be ignored (RFC 9110 section 7.8).
    pub fn wants_websocket(&self) -> bool {
        self.has_token("upgrade", "websocket")
    }

    /// Whether the client asks for Server-Sent Events (RFC 9110 section 12.5.1; not by a wildcard).
    pub fn wants_event_stream(&self) -> bool {
        self.items("accept").any(|range| {
            let media = range.split(';').next().unwrap_or_default();
            media.trim_matches([' ', '\t']).eq_ignore_ascii_case("text/event-stream")
        })
    }

    /// Whether the client wants the connection closed after the answer (RFC 9112 section 9.3).
    pub fn wants_close(&self) -> bool {
        // An HTTP/1.0 client that asks for keep-alive is content without it.
        self.http10 || self.has_token("connection", "close")
    }
}

struct Target {
    authority: Option<Range<usize>>,
    path: Range<usize>,
    query: Range<usize>,
}

/// `start`: where the target stands in the head.
fn parse_target(method: &str, target: &str, start: usize) -> Result<Target, ApiError> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(ApiError::bad_request("The request target has characters that must be percent-encoded."));
    }
    let mut authority = None;
    let mut path_at = 0;
    if target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        let end = target[7..].find(['/', '?']).map_or(target.len(), |length| 7 + length);
        authority = Some(start + 7..start + end);
        path_at = end;
    } else if !(target.starts_with('/') || target == "*" && method == "OPTIONS") {
        return Err(ApiError::bad_request("The request target must be a path that begins with a slash."));
    }
    let query_at = target[path_at..].find('?').map_or(target.len(), |length| path_at + length);
    let mut path_end = query_at;
    while path_end > path_at + 1 && target.as_bytes()[path_end - 1] == b'/' {
        path_end -= 1;
    }
    let query = (query_at + 1).min(target.len())..target.len();
    Ok(Target {
        authority,
        path: start + path_at..start + path_end,
        query: start + query.start..start + query.end,
    })
}

/// Every line ends with CR LF, and CR and LF stand nowhere else; httparse would take a bare LF.
fn check_line_ends(head: &[u8]) -> Result<(), ApiError> {
    let bare = memchr::memchr2_iter(b'\r', b'\n', head).any(|at| match head[at] {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        _ => head.get(at + 1) != Some(&b'\n'),
    });
    if bare { Err(ApiError::bad_request("Lines of the request head must end with CR LF.")) } else { Ok(()) }
}

fn too_long_already(bytes: &[u8]) -> Result<(), ApiError> {
    let line_open = memchr::memchr(b'\n', bytes).is_none();
    if line_open && bytes.len() > MAX_TARGET + REQUEST_LINE_EXTRA {
        return Err(target_too_long());
    }
    if bytes.len() >= MAX_HEAD { Err(head_too_large()) } else { Ok(()) }
}

fn syntax_error(error: httparse::Error, bytes: &[u8]) -> ApiError {
    match error {
        httparse::Error::TooManyHeaders => ApiError::header_fields_too_large(format!(
            "The request has more than {MAX_HEADERS} header fields."
        )),
        httparse::Error::Version if names_another_version(bytes) => {
            ApiError::http_version_not_supported("Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        }
        _ if bytes.starts_with(&[0x16, 0x03]) => {
            ApiError::bad_request("This port speaks plain HTTP, not TLS: use http:// or ws://.")
        }
        other => ApiError::bad_request(format!("The request head is malformed: {other}.")),
    }
}

/// Whether the request line has three words, the last of them `HTTP/` and digits: a version, though none we know.
fn names_another_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ').skip(2);
    let (Some(word), None) = (words.next(), words.next()) else { return false };
    word.strip_prefix(b"HTTP/").is_some_and(|version| version.first().is_some_and(u8::is_ascii_digit))
}

fn head_too_large() -> ApiError {
    ApiError::header_fields_too_large(format!("The request head is larger than {MAX_HEAD} bytes."))
}

fn target_too_long() -> ApiError {
    ApiError::uri_too_long(format!("The request target is longer than {MAX_TARGET} bytes."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Head {
        Head::parse(text).unwrap().unwrap().0
    }

    fn status(text: &[u8]) -> u16 {
        Head::parse(text).unwrap_err().code.status()
    }

    #[test]
    fn parts_of_a_head() {
        let head =
            parse(b"GET /a/b/?x=1&y HTTP/1.1\r\nHost: h\r\nX: \r\nConnection: Upgrade, close\r\n\r\nrest");
        assert_eq!((head.method(), head.path(), head.query()), ("GET", "/a/b", "x=1&y"));
        assert_eq!(head.get("HOST"), Some("h"));
        assert_eq!(head.get("x"), Some(""));
        assert!(head.has_token("connection", "CLOSE") && head.wants_close());
        assert!(!head.is_http10());
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n").path(), "/");
        assert_eq!(parse(b"GET /? HTTP/1.0\r\n\r\n").query(), "");
    }

    #[test]
    fn absolute_form() {
        let head = parse(b"GET http://localhost:1/p/?q HTTP/1.1\r\n\r\n");
        assert_eq!((head.authority(), head.path(), head.query()), (Some("localhost:1"), "/p", "q"));
        let head = parse(b"GET HTTP://localhost:1 HTTP/1.1\r\n\r\n");
        assert_eq!((head.authority(), head.path()), (Some("localhost:1"), "/"));
        assert_eq!(status(b"GET https://localhost:1/ HTTP/1.1\r\n\r\n"), 400);
    }

    #[test]
    fn a_parameter_is_taken_out() {
        for (query, kept, value) in [
            ("", "", None),
            ("a=1&b", "a=1&b", None),
            ("token=x", "", Some("x")),
            ("a=1&token=x%20y&b=2", "a=1&b=2", Some("x y")),
            ("%74ok%65n=x&token=y&tokens=z&Token=w", "tokens=z&Token=w", Some("x")),
            ("token", "", Some("")),
            ("a&&token=&b", "a&&b", Some("")),
        ] {
            let mut head = parse(format!("GET /p?{query} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
            assert_eq!(head.take_parameter("token").as_deref(), value, "{query}");
            assert_eq!((head.path(), head.query(), head.get("host")), ("/p", kept, Some("h")), "{query}");
            assert!(value.is_none_or(|value| value.is_empty() || !head.text.contains(value)), "{query}");
            assert!(!format!("{head:?}").contains("Host"));
        }
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            &b"GET / HTTP/1.1\nHost: a\n\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: \0\r\n\r\n",
            b"GET /\0 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: \xff\r\n\r\n",
            b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n",
            b"GET /#x HTTP/1.1\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET /a b HTTP/1.1\r\n\r\n",
            b"GET x HTTP/1.1\r\n\r\n",
            b"GET * HTTP/1.1\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTPP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(status(bad), 400, "{}", String::from_utf8_lossy(bad));
        }
        for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/1.7", "HTTP/0.9"] {
            assert_eq!(status(format!("GET / {version}\r\n\r\n").as_bytes()), 505, "{version}");
        }
        assert_eq!(status(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
        assert_eq!(status(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX_TARGET)).as_bytes()), 414);
        assert_eq!(status(format!("GET /{}", "a".repeat(2 * MAX_TARGET)).as_bytes()), 414);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(MAX_HEAD)).as_bytes()), 431);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(MAX_HEAD)).as_bytes()), 431);
        assert_eq!(status(format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101)).as_bytes()), 431);
        assert!(Head::parse(format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100)).as_bytes()).is_ok());
    }

    #[test]
    fn every_cut_of_a_head_is_incomplete() {
        let text = b"POST /v1?x HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\n\r\n";
        for cut in 0..text.len() {
            assert!(Head::parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
    }
}
