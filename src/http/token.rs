//! The bearer token of a request (RFC 6750 section 2.1), and for browsers' WebSockets, which can set no header,
//! `?token=` on the upgrade alone.

use std::sync::Arc;

use super::guard::TokenCheck;
use super::head::Head;
use super::reply::ApiError;
use crate::store::token::TokenFile;

/// The query parameter, taken out of every head before anything else sees it (see `Head::take_parameter`).
pub(super) const PARAMETER: &str = "token";

/// Demands the token that stands in the file at the moment of the request.
pub fn check(file: TokenFile) -> TokenCheck {
    Arc::new(move |head, parameter| {
        let given = given(head, parameter)?;
        let secret = file.current().map_err(|_| {
            ApiError::unavailable("The token file cannot be used; the daemon's log says why.")
                .with_retry_after(5)
        })?;
        if secret.matches(given) {
            Ok(())
        } else {
            Err(ApiError::unauthorized("The token is not the right one."))
        }
    })
}

/// The token as the client gave it.
fn given<'a>(head: &'a Head, parameter: Option<&'a str>) -> Result<&'a str, ApiError> {
    let mut fields = head.all("authorization");
    match (fields.next(), fields.next(), parameter) {
        (Some(field), None, _) => {
            let (scheme, token) = field.split_once(' ').unwrap_or((field, ""));
            if scheme.eq_ignore_ascii_case("bearer") {
                return Ok(token.trim_matches(' '));
            }
            Err(ApiError::unauthorized("The Authorization header must be Bearer and the token."))
        }
        (None, None, Some(token)) if head.wants_websocket() => Ok(token),
        (None, None, Some(_)) => Err(ApiError::unauthorized(
            "The token must be sent as `Authorization: Bearer …`; in the URL it is taken for a WebSocket only.",
        )),
        (None, None, None) => {
            Err(ApiError::unauthorized("A token is needed: send the header `Authorization: Bearer …`."))
        }
        _ => Err(ApiError::unauthorized("There must be one Authorization header.")),
    }
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
            if secret.matches(given) { Ok(()) } else { Err(ApiError::unauthorized("")) }
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
        ] {
            assert_eq!(status(&file, target, fields), expected, "{target} {fields}");
        }
    }
}
