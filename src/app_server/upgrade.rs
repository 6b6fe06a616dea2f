//! The upgrade of a connection to WebSocket, as a client (RFC 6455 section 4.1), and what can be wrong with it.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;

use super::dial::DialError;
use crate::config::Endpoint;
use crate::model;

const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// The first two bytes of a TLS alert: what a TLS server answers to plain HTTP, if anything (RFC 8446 section 5.1).
const TLS_ALERT: &[u8] = &[0x15, 0x03];

/// Upgrades, and returns what was read behind the answer. No Origin is sent: the app-server refuses any.
pub(super) fn upgrade(
    stream: &mut (impl Read + Write),
    endpoint: &Endpoint,
    token: Option<&str>,
    timeout: Duration,
) -> Result<Vec<u8>, DialError> {
    let key = generate_key();
    let has_token = token.is_some();
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n{authorization}\r\n",
        endpoint.target,
        endpoint.authority(),
    );
    let failed = |error: std::io::Error| broken(endpoint, timeout, &error);
    stream.write_all(request.as_bytes()).and_then(|()| stream.flush()).map_err(failed)?;

    let mut received = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = match stream.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            outcome => outcome.map_err(failed)?,
        };
        if read == 0 {
            return Err(closed(endpoint));
        }
        received.extend_from_slice(&chunk[..read]);
        if received.starts_with(TLS_ALERT) {
            return Err(speaks_tls(endpoint));
        }
        let mut slots = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut answer = httparse::Response::new(&mut slots);
        match answer.parse(&received) {
            Ok(httparse::Status::Complete(length)) => {
                check(&answer, endpoint, &key, has_token)?;
                received.drain(..length);
                return Ok(received);
            }
            Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => {}
            Ok(httparse::Status::Partial) | Err(_) => {
                return Err(DialError(format!(
                    "what listens at {} does not speak HTTP: check host and port of --server-endpoint",
                    endpoint.authority()
                )));
            }
        }
    }
}

fn check(
    answer: &httparse::Response<'_, '_>,
    endpoint: &Endpoint,
    key: &str,
    has_token: bool,
) -> Result<(), DialError> {
    let header = |name: &str| {
        let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    let at = endpoint.authority();
    let status = answer.code.unwrap_or_default();
    if status != 101 {
        let why = refusal(status, endpoint, has_token, header("location"));
        return Err(DialError(format!("{at} refused the WebSocket with {status}: {why}")));
    }
    let connection = answer.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    let mut options = connection.flat_map(|header| header.value.split(|&byte| byte == b','));
    // RFC 6455 section 4.1.
    let upgraded = header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    if !upgraded || header("sec-websocket-accept") != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(DialError(format!(
            "{at} answered the upgrade, but not as a WebSocket server does: check host, port and path of \
             --server-endpoint"
        )));
    }
    Ok(())
}

/// What to check after a refusal with that status.
fn refusal(status: u16, endpoint: &Endpoint, has_token: bool, location: Option<&str>) -> String {
    let path = model::preview(&endpoint.target);
    match status {
        401 if has_token => {
            "it does not accept the token; --server-token-file must hold the one its --ws-token-file holds".to_owned()
        }
        401 => "it demands a token; name the file that holds it with --server-token-file".to_owned(),
        403 => "it forbids the connection; check the token and what stands before the app-server (codexd sends no \
                Origin)"
            .to_owned(),
        404 | 405 | 410 => format!("it has no WebSocket at {path}; check the path of --server-endpoint"),
        301 | 302 | 303 | 307 | 308 => {
            let location = location.map_or_else(|| "elsewhere".to_owned(), model::preview);
            format!("it redirects to {location}; give --server-endpoint the final URL")
        }
        200..=299 => format!("it is a plain HTTP server at {path}; check host, port and path of --server-endpoint"),
        400 if !endpoint.tls => {
            "it takes the request for a bad one; if it expects TLS, use wss://, else check the path of --server-endpoint"
                .to_owned()
        }
        426 => "it speaks another version of WebSocket".to_owned(),
        502..=504 => "a proxy answers, but the app-server behind it does not".to_owned(),
        _ => "check that --server-endpoint names an app-server's listener".to_owned(),
    }
}

fn speaks_tls(endpoint: &Endpoint) -> DialError {
    DialError(format!("{} speaks TLS: use wss:// (or https://) in --server-endpoint", endpoint.authority()))
}

fn closed(endpoint: &Endpoint) -> DialError {
    let hint = if endpoint.tls { "check its path" } else { "if it expects TLS, use wss://" };
    DialError(format!(
        "{} closed the connection instead of answering: {hint} in --server-endpoint",
        endpoint.authority()
    ))
}

fn broken(endpoint: &Endpoint, timeout: Duration, error: &std::io::Error) -> DialError {
    let at = endpoint.authority();
    match error.kind() {
        ErrorKind::TimedOut => DialError(format!(
            "{at} took the connection but did not answer within {} ms: check that an app-server listens there",
            timeout.as_millis()
        )),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => closed(endpoint),
        _ => DialError(format!("the connection to {at} failed: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_an_upgrade_only_with_all_that_makes_it_one() {
        let endpoint = Endpoint::parse("ws://127.0.0.1:1").unwrap();
        let accept = derive_accept_key(b"key");
        let whole = [
            ("Upgrade", "WebSocket"),
            ("Connection", "keep-alive"),
            ("connection", "x , UPGRADE"),
            ("Sec-WebSocket-Accept", &*accept),
        ];
        let is_one = |fields: &[(&str, &str)]| {
            let mut headers: Vec<_> = fields
                .iter()
                .map(|&(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            let mut answer = httparse::Response::new(&mut headers);
            answer.code = Some(101);
            check(&answer, &endpoint, "key", false).is_ok()
        };
        assert!(is_one(&whole));
        for missing in [0, 2, 3] {
            let mut fields = whole.to_vec();
            fields.remove(missing);
            assert!(!is_one(&fields), "{fields:?}");
        }
    }
}
