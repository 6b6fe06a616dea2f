//! The bearer token of a request (RFC 6750 section 2.1), and for browsers' WebSockets, which can set no header, a
//! subprotocol that carries it ([`SUBPROTOCOL`]), or `?token=` on the upgrade alone.

use std::borrow::Cow;
use std::sync::Arc;

use super::guard::TokenCheck;
use super::head::Head;
use super::reply::ApiError;
use crate::store::token::TokenFile;

/// The query parameter, taken out of every head before anything else sees it (see `Head::take_parameter`).
pub(super) const PARAMETER: &str = "token";

/// What a subprotocol begins with that is no protocol but the token, in base64url without padding (RFC 4648 section
/// 5): `new WebSocket(url, ["codexd.v1", "codexd.bearer.…"])`. Unlike a URL it is kept in no history and no log. It is
/// never named as the protocol chosen.
pub const SUBPROTOCOL: &str = "codexd.bearer.";

/// Demands the token that stands in the file at the moment of the request.
pub fn check(file: TokenFile) -> TokenCheck {
    Arc::new(move |head, parameter| {
        let given = given(head, parameter)?;
        let secret = file.current().map_err(|_| {
            ApiError::unavailable("The token file cannot be used; the daemon's log says why.")
                .with_retry_after(5)
        })?;
        if secret.matches(&given) {
            Ok(())
        } else {
            Err(ApiError::unauthorized("The token is not the right one."))
        }
    })
}

/// The token as the client gave it: the header goes before the subprotocol, and that before the query.
fn given<'a>(head: &'a Head, parameter: Option<&'a str>) -> Result<Cow<'a, str>, ApiError> {
    let mut fields = head.all("authorization");
    match (fields.next(), fields.next()) {
        (Some(field), None) => {
            let (scheme, token) = field.split_once(' ').unwrap_or((field, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                return Ok(token.trim_matches(' ').into());
            }
            return Err(ApiError::unauthorized("The Authorization header must be Bearer and the token."));
        }
        (None, _) => {}
        _ => return Err(ApiError::unauthorized("There must be one Authorization header.")),
    }
    if head.wants_websocket() {
        let mut protocols =
            head.items("sec-websocket-protocol").filter_map(|item| item.strip_prefix(SUBPROTOCOL));
        match (protocols.next(), protocols.next()) {
            (None, _) => {}
            (Some(text), None) => return from_base64url(text).map(Cow::Owned).ok_or_else(bad_subprotocol),
            _ => return Err(bad_subprotocol()),
        }
    }
    match parameter {
        Some(token) if head.wants_websocket() => Ok(token.into()),
        Some(_) => Err(ApiError::unauthorized(
            "The token must be sent as `Authorization: Bearer …`; in the URL it is taken for a WebSocket only.",
        )),
        None => Err(ApiError::unauthorized("A token is needed: send the header `Authorization: Bearer …`.")),
    }
}

fn bad_subprotocol() -> ApiError {
    ApiError::unauthorized(format!("One subprotocol must be {SUBPROTOCOL} and the token in base64url."))
}

/// Text from base64url without padding; nothing for what is none.
fn from_base64url(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    // What is left over is padding, less than a byte's digit and all zero (section 3.5).
    let clean = count < 6 && bits & ((1 << count) - 1) == 0;
    String::from_utf8(bytes).ok().filter(|_| clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Upgrade: websocket\r\n";

    fn status(file: &TokenFile, target: &str, fields: &str) -> u16 {
        let text = format!("GET {target} HTTP/1.1\r\n{fields}\r\n");
        let mut head = Head::parse(text.as_bytes()).unwrap().unwrap().0;
        let parameter = head.take_parameter(PARAMETER);
        let given = given(&head, parameter.as_deref());
        let right = given.and_then(|given| {
            let secret = file.current().unwrap();
            if secret.matches(&given) { Ok(()) } else { Err(ApiError::unauthorized("")) }
        });
        right.map_or_else(|error| error.code.status(), |()| 200)
    }

    #[test]
    fn where_a_token_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::open(&folder.path().join("token")).unwrap();
        let token = file.current().unwrap().expose().to_owned();
        let bearer = format!("Authorization: Bearer {token}\r\n");
        let query = format!("/x?after=1&token={token}");
        let protocol =
            |token: &str| format!("Sec-WebSocket-Protocol: codexd.v1, {SUBPROTOCOL}{}\r\n", base64url(token));
        let (right, wrong) = (protocol(&token), protocol("nonsense"));
        for (target, fields, expected) in [
            ("/x", "", 401),
            ("/x", bearer.as_str(), 200),
            ("/x", &bearer.to_lowercase().replace("bearer", "BEARER"), 200),
            ("/x", &format!("Authorization: Bearer  {token} \r\n"), 200),
            ("/x", &format!("Authorization: Basic {token}\r\n"), 401),
            ("/x", &format!("Authorization: {token}\r\n"), 401),
            ("/x", "Authorization: Bearer\r\n", 401),
            ("/x", &format!("Authorization: Bearer {}\r\n", &token[1..]), 401),
            ("/x", &format!("{bearer}{bearer}"), 401),
            (&query, "", 401),
            (&query, UPGRADE, 200),
            (&format!("/x?%74oken={token}"), UPGRADE, 200),
            ("/x?token=", UPGRADE, 401),
            ("/x?token=nonsense", UPGRADE, 401),
            ("/x?token=nonsense", &format!("{UPGRADE}{bearer}"), 200),
            (&query, &format!("{UPGRADE}Authorization: Bearer nonsense\r\n"), 401),
            ("/x", &right, 401),
            ("/x", &format!("{UPGRADE}{right}"), 200),
            ("/x", &format!("{UPGRADE}{wrong}"), 401),
            (&query, &format!("{UPGRADE}{wrong}"), 401),
            ("/x", &format!("{UPGRADE}{right}{wrong}"), 401),
            ("/x", &format!("{UPGRADE}{wrong}{bearer}"), 200),
            ("/x", &format!("{UPGRADE}Sec-WebSocket-Protocol: {SUBPROTOCOL}{token}=\r\n"), 401),
            ("/x", &format!("{UPGRADE}Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"), 401),
        ] {
            assert_eq!(status(&file, target, fields), expected, "{target} {fields}");
        }
    }

    fn base64url(text: &str) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = String::new();
        for part in text.as_bytes().chunks(3) {
            let bits =
                part.iter().enumerate().fold(0, |bits, (at, &byte)| bits | u32::from(byte) << (16 - 8 * at));
            for at in 0..=part.len() {
                out.push(char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]));
            }
        }
        out
    }

    #[test]
    fn base64url_both_ways() {
        for text in ["", "a", "ab", "abc", "~?>/+ =", "é€", "0123456789abcdefghijklmnop"] {
            assert_eq!(from_base64url(&base64url(text)).as_deref(), Some(text));
        }
        assert_eq!(from_base64url("Zm9v-_8").as_deref(), None, "no UTF-8");
        for bad in ["Z", "Zh", "Zm9=", "Zm9v\n", "Zm+v", "Zm9vZ"] {
            assert_eq!(from_base64url(bad), None, "{bad}");
        }
    }
}
