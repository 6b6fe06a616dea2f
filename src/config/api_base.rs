//! The base URL of the REST API: `http://` on this host, nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The base URL of the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiBase {
    /// As given, without a trailing slash.
    pub text: String,
    /// The loopback address to bind; port 0 is any free port.
    pub address: SocketAddr,
}

impl ApiBase {
    /// Reads `http://HOST[:PORT][/]`, HOST being `127.0.0.1`, `[::1]` or `localhost` (which means 127.0.0.1).
    /// No port means 80.
    ///
    /// # Errors
    /// What the URL would have to be.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const FORM: &str = "must be an absolute http:// URL such as http://127.0.0.1:4319";
        let scheme = text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://")).ok_or(FORM)?;
        let rest = &text[scheme.len()..];
        if rest.contains(['?', '#']) {
            return Err("must have no query and no fragment");
        }
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains(['/', '\\']) {
            return Err("must have no path");
        }
        if authority.contains('@') {
            return Err("must have no user name and no password");
        }
        let (host, port) = split_port(authority);
        let ip = match host.to_ascii_lowercase().as_str() {
            "127.0.0.1" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            "[::1]" => IpAddr::V6(Ipv6Addr::LOCALHOST),
            "" => return Err(FORM),
            _ => return Err("must name a loopback host: 127.0.0.1, [::1] or localhost"),
        };
        let port = match port {
            None => 80,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map_err(|_| "must have a port from 0 (any free one) to 65535")?
            }
            Some(_) => return Err("must have a port from 0 (any free one) to 65535"),
        };
        Ok(Self {
            text: format!("http://{}", authority.to_ascii_lowercase()),
            address: SocketAddr::new(ip, port),
        })
    }
}

/// `HOST:PORT` taken apart; the colons inside `[...]` belong to the host.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => {
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_urls_are_taken() {
        for (given, text, address) in [
            ("http://127.0.0.1:4319", "http://127.0.0.1:4319", "127.0.0.1:4319"),
            ("http://127.0.0.1:4319/", "http://127.0.0.1:4319", "127.0.0.1:4319"),
            ("http://localhost:0", "http://localhost:0", "127.0.0.1:0"),
            ("http://LocalHost", "http://localhost", "127.0.0.1:80"),
            ("HTTP://[::1]:65535/", "http://[::1]:65535", "[::1]:65535"),
            ("http://[::1]", "http://[::1]", "[::1]:80"),
        ] {
            let base = ApiBase::parse(given).unwrap();
            assert_eq!((base.text.as_str(), base.address), (text, address.parse().unwrap()), "{given}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for given in [
            "127.0.0.1:4319",
            "https://127.0.0.1:4319",
            "ws://127.0.0.1",
            "http:/127.0.0.1",
            "http://",
            "http:///",
            "http://:4319",
            "http://0.0.0.0:4319",
            "http://127.0.0.2",
            "http://127.1",
            "http://[::]:1",
            "http://::1:4319",
            "http://[::1",
            "http://localhost.example.com",
            "http://localhost:",
            "http://localhost:x",
            "http://localhost:+80",
            "http://localhost:-1",
            "http://localhost:65536",
            "http://localhost:80//",
            "http://localhost/v1",
            "http://localhost?x",
            "http://localhost/#f",
            "http://user@localhost",
            "http://user:pw@127.0.0.1:80",
            "http://local host",
            "httpä://x",
        ] {
            assert!(ApiBase::parse(given).is_err(), "{given}");
        }
    }
}
