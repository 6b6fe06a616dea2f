//! Who may ask, and with what: the one place for every check that comes before a handler (invariant 9), in this order:
//! peer, Host, Origin, token, and for a body its content type. No answer ever has an `Access-Control-*` field.
//!
//! Whoever can POST to this port runs code on this host, and every web page in a browser of this host can send
//! requests here. A page cannot choose `Host` (so DNS rebinding shows there) nor leave `Origin` out of a POST or of a
//! WebSocket handshake, and cannot send JSON across origins without a preflight, which nothing here ever allows.

use std::net::SocketAddr;
use std::sync::Arc;

use super::head::Head;
use super::reply::ApiError;
use super::routes;

/// Names under which this host's loopback interface may be addressed.
const LOOPBACK_NAMES: [&str; 3] = ["127.0.0.1", "[::1]", "localhost"];

/// Whether a request has the right to be answered, by its head and the token that stood in its query; an error is the
/// answer (401).
pub type TokenCheck = Arc<dyn Fn(&Head, Option<&str>) -> Result<(), ApiError> + Send + Sync>;
/// Whether the other end of a connection (its address, ours) may ask at all; an error is the answer (403).
pub type PeerCheck = Arc<dyn Fn(SocketAddr, SocketAddr) -> Result<(), ApiError> + Send + Sync>;

/// The checks.
#[derive(Clone)]
pub struct Guard {
    port: u16,
    token: Option<TokenCheck>,
    peer: Option<PeerCheck>,
}

impl Guard {
    /// For a server on that port of the loopback interface.
    pub fn new(port: u16) -> Self {
        Self { port, token: None, peer: None }
    }

    /// Every path but those that are open, as the [`routes`] have it (`/healthz`, `/readyz`, the files of the page), needs what
    /// `check` asks for.
    #[must_use]
    pub fn with_token(mut self, check: TokenCheck) -> Self {
        self.token = Some(check);
        self
    }

    /// Every connection must pass `check`.
    #[must_use]
    pub fn with_peer(mut self, check: PeerCheck) -> Self {
        self.peer = Some(check);
        self
    }

    /// Checks a connection, once.
    pub(super) fn check_peer(&self, theirs: SocketAddr, ours: SocketAddr) -> Result<(), ApiError> {
        self.peer.as_ref().map_or(Ok(()), |check| check(theirs, ours))
    }

    /// Checks Host, Origin and token of a request; `parameter`: the token that was taken out of its query.
    pub(super) fn check(&self, head: &Head, parameter: Option<&str>) -> Result<(), ApiError> {
        let host = self.check_host(head)?;
        self.check_origin(head, host)?;
        match &self.token {
            Some(check) if !is_open(head) => check(head, parameter),
            _ => Ok(()),
        }
    }

    /// The host's name, without the port.
    fn check_host<'a>(&self, head: &'a Head) -> Result<&'a str, ApiError> {
        let mut hosts = head.all("host");
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            // RFC 9112 section 3.2.
            return Err(ApiError::bad_request("The request must have exactly one Host header."));
        };
        if head.authority().is_some_and(|authority| !authority.eq_ignore_ascii_case(host)) {
            return Err(ApiError::bad_request("The authority of the request target differs from Host."));
        }
        self.own_name(host).ok_or_else(|| {
            ApiError::forbidden_host(format!(
                "Host must be 127.0.0.1:{0}, localhost:{0} or [::1]:{0}.",
                self.port
            ))
        })
    }

    fn check_origin(&self, head: &Head, host: &str) -> Result<(), ApiError> {
        let mut origins = head.all("origin");
        let Some(origin) = origins.next() else { return check_site(head) };
        let own = origin.strip_prefix("http://").and_then(|authority| self.own_name(authority));
        // A page served from another name of the loopback interface is another origin, and not ours.
        if origins.next().is_none() && own.is_some_and(|name| name.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        Err(ApiError::forbidden_origin("Requests of pages from another origin are refused."))
    }

    /// The loopback name in `name[:port]`, if the port is ours; it may be missing only when ours is 80.
    fn own_name<'a>(&self, authority: &'a str) -> Option<&'a str> {
        let name = LOOPBACK_NAMES
            .iter()
            .find_map(|name| authority.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name)))?;
        let ours = match authority[name.len()..].strip_prefix(':') {
            Some(port) => port == self.port.to_string(),
            None => authority.len() == name.len() && self.port == 80,
        };
        ours.then_some(name)
    }
}

/// A page may have the browser GET without an Origin what it cannot read: pictures, or whatever `no-cors` asks for. Some
/// answers never end, so that would hold connections. Browsers say where it comes from (Fetch Metadata Request Headers,
/// W3C); only a person who follows a link may come from elsewhere.
fn check_site(head: &Head) -> Result<(), ApiError> {
    let follows_a_link =
        head.get("sec-fetch-mode") == Some("navigate") && head.get("sec-fetch-dest") == Some("document");
    if follows_a_link || head.all("sec-fetch-site").all(|site| matches!(site, "same-origin" | "none")) {
        return Ok(());
    }
    Err(ApiError::forbidden_origin("Requests of pages from another origin are refused."))
}

/// Whether a request needs no token, whatever is configured.
fn is_open(head: &Head) -> bool {
    let reads = matches!(head.method(), "GET" | "HEAD") && !head.wants_websocket();
    routes::is_open(head.path(), reads)
}

/// Whether a request with a body declares it as JSON (RFC 8259 section 11); a charset may stand there if it is UTF-8.
///
/// # Errors
/// 415.
pub(super) fn check_content_type(head: &Head) -> Result<(), ApiError> {
    let mut types = head.all("content-type");
    let right = match (types.next(), types.next()) {
        (Some(value), None) => {
            let mut parts = value.split(';').map(|part| part.trim_matches([' ', '\t']));
            parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
                && parts.all(|parameter| match parameter.split_once('=') {
                    Some((name, value)) if name.eq_ignore_ascii_case("charset") => {
                        value.trim_matches('"').eq_ignore_ascii_case("utf-8")
                    }
                    _ => true,
                })
        }
        _ => false,
    };
    if right {
        return Ok(());
    }
    Err(ApiError::unsupported_media_type("The request body must be sent as content-type: application/json."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(port: u16, fields: &[&str]) -> u16 {
        let head = head("GET /x HTTP/1.1", fields);
        Guard::new(port).check(&head, None).map_or_else(|error| error.code.status(), |()| 200)
    }

    fn head(line: &str, fields: &[&str]) -> Head {
        let mut text = format!("{line}\r\n");
        for field in fields {
            text.push_str(field);
            text.push_str("\r\n");
        }
        Head::parse(format!("{text}\r\n").as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn hosts() {
        for good in ["127.0.0.1:4319", "localhost:4319", "LOCALHOST:4319", "[::1]:4319"] {
            assert_eq!(check(4319, &[&format!("Host: {good}")]), 200, "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "localhost",
            "127.0.0.1:4320",
            "127.0.0.1:04319",
            "evil.example:4319",
            "localhost.:4319",
            "127.0.0.2:4319",
            "localhost:4319:4319",
            "a@localhost:4319",
            "localhost:4319/",
            "::1:4319",
            "127.1:4319",
            "localhost.evil.example:4319",
            "localhost:",
            "2130706433:4319",
            "0.0.0.0:4319",
            "[::1]4319",
            "localhosté:1",
        ] {
            assert_eq!(check(4319, &[&format!("Host: {bad}")]), 403, "{bad}");
        }
        assert_eq!(check(4319, &[]), 400);
        assert_eq!(check(4319, &["Host: localhost:4319", "Host: localhost:4319"]), 400);
        assert_eq!(check(80, &["Host: localhost"]), 200);
        assert_eq!(check(80, &["Host: localhost:80"]), 200);
        let absolute = head("GET http://evil.example/ HTTP/1.1", &["Host: localhost:4319"]);
        assert_eq!(Guard::new(4319).check(&absolute, None).unwrap_err().code.status(), 400);
        let absolute = head("GET http://localhost:4319/ HTTP/1.1", &["Host: localhost:4319"]);
        assert!(Guard::new(4319).check(&absolute, None).is_ok());
    }

    #[test]
    fn origins() {
        let with = |origin: &str| check(4319, &["Host: localhost:4319", &format!("Origin: {origin}")]);
        assert_eq!(with("http://localhost:4319"), 200);
        for bad in [
            "null",
            "",
            "http://localhost:4320",
            "http://127.0.0.1:4319",
            "https://localhost:4319",
            "http://localhost",
            "http://evil.example",
            "http://localhost:4319/",
            "http://localhost:4319.evil.example",
            "file://",
            "http://localhost:4319, http://evil.example",
            "HTTP://localhost:4319",
            "chrome-extension://abc",
        ] {
            assert_eq!(with(bad), 403, "{bad}");
        }
        let own = "Origin: http://localhost:4319";
        assert_eq!(check(4319, &["Host: localhost:4319", own, own]), 403);
        assert_eq!(check(80, &["Host: localhost:80", "Origin: http://localhost"]), 200);
    }

    #[test]
    fn pages_from_elsewhere_may_be_left_and_not_fetch() {
        let with = |fields: &[&str]| check(4319, &[&["Host: localhost:4319"], fields].concat());
        let (fetches, follows) = ("Sec-Fetch-Mode: no-cors", "Sec-Fetch-Mode: navigate");
        for own in ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"] {
            assert_eq!(with(&[own, fetches, "Sec-Fetch-Dest: script"]), 200, "{own}");
        }
        for other in ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Sec-Fetch-Site: new"] {
            assert_eq!(with(&[other]), 403, "{other}");
            assert_eq!(with(&[other, fetches, "Sec-Fetch-Dest: image"]), 403, "{other}");
            assert_eq!(with(&[other, follows, "Sec-Fetch-Dest: iframe"]), 403, "{other}");
            assert_eq!(with(&[other, follows, "Sec-Fetch-Dest: document"]), 200, "{other}");
        }
    }

    #[test]
    fn the_token_comes_after_the_rest_and_not_for_health() {
        let guard = Guard::new(1).with_token(Arc::new(|_, _| Err(ApiError::unauthorized("No."))));
        let status = |line: &str, host: &str| {
            guard.check(&head(line, &[host]), None).map_or_else(|error| error.code.status(), |()| 200)
        };
        assert_eq!(status("GET /v1 HTTP/1.1", "Host: localhost:1"), 401);
        assert_eq!(status("GET /v1 HTTP/1.1", "Host: localhost:2"), 403);
        assert_eq!(status("GET /healthz HTTP/1.1", "Host: localhost:1"), 200);
        assert_eq!(status("GET /healthz/ HTTP/1.1", "Host: localhost:1"), 200);
        assert_eq!(status("GET /healthz// HTTP/1.1", "Host: localhost:1"), 200);
        assert_eq!(status("GET /readyz HTTP/1.1", "Host: localhost:1"), 200);
        for open in ["GET / HTTP/1.1", "HEAD /?x HTTP/1.1", "GET /page/app.mjs HTTP/1.1"] {
            assert_eq!(status(open, "Host: localhost:1"), 200, "{open}");
            assert_eq!(status(open, "Host: evil.example:1"), 403, "{open}");
        }
        for closed in [
            "POST / HTTP/1.1",
            "GET /page HTTP/1.1",
            "GET /page/../v1 HTTP/1.1",
            "GET /page/app.mjsx HTTP/1.1",
            "GET /readyz/x HTTP/1.1",
            "GET /metrics HTTP/1.1",
        ] {
            assert_eq!(status(closed, "Host: localhost:1"), 401, "{closed}");
        }
    }

    #[test]
    fn content_types() {
        let status = |fields: &[&str]| {
            check_content_type(&head("POST / HTTP/1.1", fields)).map_or_else(|e| e.code.status(), |()| 200)
        };
        for good in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\""]
        {
            assert_eq!(status(&[&format!("Content-Type: {good}")]), 200, "{good}");
        }
        for bad in [
            "text/plain",
            "application/json; charset=latin1",
            "application/jsonx",
            "text/plain;application/json",
        ] {
            assert_eq!(status(&[&format!("Content-Type: {bad}")]), 415, "{bad}");
        }
        assert_eq!(status(&[]), 415);
        assert_eq!(status(&["Content-Type: application/json", "Content-Type: application/json"]), 415);
    }
}
