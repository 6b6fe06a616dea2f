//! The URL of an external app-server, taken apart.

use std::net::Ipv6Addr;

/// Where an external app-server is reached over WebSocket (RFC 6455 section 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether over TLS: `wss` and `https`.
    pub tls: bool,
    /// A name or an address; an IPv6 address without its brackets.
    pub host: String,
    /// The port; 80 and 443 where the URL names none.
    pub port: u16,
    /// What is asked for: a path and, if there was one, a query.
    pub target: String,
}

impl Endpoint {
    /// The schemes of an external app-server, and whether they mean TLS.
    const SCHEMES: &'static [(&'static str, bool)] =
        &[("ws", false), ("wss", true), ("http", false), ("https", true)];

    /// Whether the URL has a scheme and a rest that could be an external app-server's.
    pub fn is_remote(url: &str) -> bool {
        split(url).is_some()
    }

    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it and what would be right, as the end of a sentence that begins with its name.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) =
            split(url).ok_or("must begin with ws://, wss://, http:// or https:// and name a host")?;
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("must not hold credentials: a token is given with --server-token-file".to_owned());
        }
        if target.contains('#') {
            return Err("must not have a fragment (#…)".to_owned());
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("must have a path of visible ASCII; other characters are percent-encoded".to_owned());
        }
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            None if tls => 443,
            None => 80,
            Some(digits) => match digits.parse() {
                // `parse` takes a sign too.
                Ok(port @ 1..) if digits.bytes().all(|byte| byte.is_ascii_digit()) => port,
                _ => return Err("must have a port from 1 to 65535, or none".to_owned()),
            },
        };
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { tls, host, port, target })
    }

    /// `host:port` for the Host header and for people; the scheme's own port is left out.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

fn split(url: &str) -> Option<(bool, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let &(_, tls) = Endpoint::SCHEMES.iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known))?;
    let hostless = rest.is_empty() || rest.starts_with(['/', '?', '#', ':']);
    (!hostless && !rest.contains(char::is_whitespace)).then_some((tls, rest))
}

fn host_and_port(authority: &str) -> Result<(String, Option<&str>), String> {
    const WRONG: &str = "must name a host: a name, an IPv4 address, or an IPv6 address in brackets";
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(WRONG)?;
        address.parse::<Ipv6Addr>().map_err(|_| WRONG)?;
        let port = match after.strip_prefix(':') {
            None if after.is_empty() => None,
            Some(port) => Some(port),
            None => return Err(WRONG.to_owned()),
        };
        return Ok((address.to_owned(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(plain) {
        return Err(WRONG.to_owned());
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (url, tls, host, port, target, authority) in [
            ("ws://127.0.0.1:4500", false, "127.0.0.1", 4500, "/", "127.0.0.1:4500"),
            ("HTTP://Host", false, "Host", 80, "/", "Host"),
            ("wss://h.example/a/b?c=d/e", true, "h.example", 443, "/a/b?c=d/e", "h.example"),
            ("https://h:444?x", true, "h", 444, "/?x", "h:444"),
            ("wss://[::1]:9/", true, "::1", 9, "/", "[::1]:9"),
            ("ws://[::1]", false, "::1", 80, "/", "[::1]"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            let got = (endpoint.tls, endpoint.host.as_str(), endpoint.port, endpoint.target.as_str());
            assert_eq!(got, (tls, host, port, target), "{url}");
            assert_eq!(endpoint.authority(), authority);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused() {
        for (url, wrong) in [
            ("stdio://codex-app-server", "must begin"),
            ("ftp://h", "must begin"),
            ("h:80", "must begin"),
            ("ws:/h", "must begin"),
            ("ws://", "must begin"),
            ("ws:///x", "must begin"),
            ("ws://:80", "must begin"),
            ("ws://h /x", "must begin"),
            ("ws://user:secret@h", "credentials"),
            ("ws://h/#top", "fragment"),
            ("ws://h/ä", "visible ASCII"),
            ("ws://h:", "port"),
            ("ws://h:0", "port"),
            ("ws://h:+80", "port"),
            ("ws://h:65536", "port"),
            ("ws://[::1]:x", "port"),
            ("ws://[::1", "host"),
            ("ws://[h]", "host"),
            ("ws://[::1]9", "host"),
            ("ws://h:1:2", "port"),
            ("ws://hö", "host"),
            ("ws://h\\x", "host"),
        ] {
            let error = Endpoint::parse(url).unwrap_err();
            assert!(error.contains(wrong), "{url}: {error}");
        }
    }
}
