//! The envelope of a message: decoded without building a value, params and results stay the text they are.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::model;
use crate::model::json::Text;
use crate::model::members::Members;

/// "The request is not known", JSON-RPC 2.0 section 5.1.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The app-server is overloaded; the request may be tried again.
pub const OVERLOADED: i64 = -32001;
/// What Codex answers to anything it refuses.
pub const INVALID_REQUEST: i64 = -32600;
/// "Internal JSON-RPC error"; stands in where an error has no code.
pub const INTERNAL_ERROR: i64 = -32603;

/// A message from the app-server.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// It tells something.
    Notification {
        /// What.
        method: Cow<'a, str>,
        /// Null when absent.
        params: &'a RawValue,
    },
    /// It asks something of its client.
    Request {
        /// Its own id, not ours.
        id: &'a RawValue,
        /// What.
        method: Cow<'a, str>,
        /// Null when absent.
        params: &'a RawValue,
    },
    /// It answers a request of ours.
    Response {
        /// Our id.
        id: i64,
        /// The result, or why there is none.
        outcome: Result<&'a RawValue, RpcError>,
    },
}

/// An error as JSON-RPC has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} (JSON-RPC error {code})")]
pub struct RpcError {
    /// The number.
    pub code: i64,
    /// The text.
    pub message: String,
    /// Particulars, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<serde_json::Value>,
}

impl RpcError {
    /// One without particulars.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Decodes a line.
///
/// # Errors
/// Why it is no message of the protocol, for a person.
pub fn decode(line: &str) -> Result<Incoming<'_>, String> {
    let envelope: Envelope<'_> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let params = envelope.params.unwrap_or(RawValue::NULL);
    match (envelope.method.map(|method| method.0), envelope.id) {
        (Some(method), Some(id)) => Ok(Incoming::Request { id, method, params }),
        (Some(method), None) => Ok(Incoming::Notification { method, params }),
        (None, Some(id)) => {
            let id = id.get().parse().map_err(|_| "a response to an id that was never sent".to_owned())?;
            let outcome = match envelope.error {
                Some(error) => Err(read_error(error)),
                None => Ok(envelope.result.unwrap_or(RawValue::NULL)),
            };
            Ok(Incoming::Response { id, outcome })
        }
        (None, None) => Err("neither a method nor an id".to_owned()),
    }
}

/// Whether this is all that Codex writes after the params of a notification: when it was emitted, which older versions
/// leave out, and the end.
pub fn is_end_of_notification(rest: &str) -> bool {
    let Some(more) = rest.strip_suffix('}') else { return false };
    let is_number = |digits: &str| {
        digits.starts_with(|first| ('1'..='9').contains(&first))
            && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    more.is_empty() || more.strip_prefix(r#","emittedAtMs":"#).is_some_and(is_number)
}

/// An error that is not quite as JSON-RPC has it is still the answer: who asked must not wait for another.
fn read_error(error: &RawValue) -> RpcError {
    serde_json::from_str(error.get()).unwrap_or_else(|_| {
        let members = Members::of(error).unwrap_or_default();
        let code = members.number("code").and_then(|code| code.parse().ok()).unwrap_or(INTERNAL_ERROR);
        let message = members.text("message").map_or_else(|| model::preview(error.get()), Cow::into_owned);
        RpcError::new(code, message)
    })
}

/// A request of ours as a line.
///
/// # Errors
/// When the params cannot be serialised.
pub fn request(id: i64, method: &str, params: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Request<'a, P> {
        id: i64,
        method: &'a str,
        params: &'a P,
    }
    line(&Request { id, method, params })
}

/// A notification of ours as a line.
///
/// # Errors
/// Never in practice.
pub fn notification(method: &str) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Notification<'a> {
        method: &'a str,
    }
    line(&Notification { method })
}

/// An answer of ours to a request of the app-server as a line.
///
/// # Errors
/// When the result cannot be serialised.
pub fn response(id: &RawValue, outcome: Result<&RawValue, &RpcError>) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Response<'a> {
        id: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a RpcError>,
    }
    line(&Response { id, result: outcome.ok(), error: outcome.err() })
}

fn line(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    // What a client gave is passed on as the text it came as, perhaps indented over many lines. Within a string JSON
    // has a line break escaped, so each that stands there is white space, and would end the message.
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_kinds_are_told_apart() {
        assert!(matches!(
            decode(r#"{"method":"a/b","params":{"x":1},"emittedAtMs":5}"#),
            Ok(Incoming::Notification { method, params }) if method == "a/b" && params.get() == r#"{"x":1}"#
        ));
        assert!(
            matches!(decode(r#"{"method":"a","id":"s"}"#), Ok(Incoming::Request { id, .. }) if id.get() == "\"s\"")
        );
        assert!(matches!(
            decode(r#"{"id":7,"result":{}}"#),
            Ok(Incoming::Response { id: 7, outcome: Ok(_) })
        ));
        assert!(matches!(
            decode(r#"{"id":7,"error":{"code":-32600,"message":"no"}}"#),
            Ok(Incoming::Response { outcome: Err(RpcError { code: INVALID_REQUEST, .. }), .. })
        ));
        for (error, code, message) in [
            ("{\"code\":-32600,\"message\":\"no\",\"data\":1e999}", -32600, "no"),
            ("{\"code\":1e999}", INTERNAL_ERROR, "{\"code\":1e999}"),
            ("\"gone  away\"", INTERNAL_ERROR, "\"gone away\""),
        ] {
            let line = format!("{{\"id\":7,\"error\":{error}}}");
            let Ok(Incoming::Response { id: 7, outcome: Err(error) }) = decode(&line) else {
                panic!("{line}")
            };
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
        for nonsense in
            ["", "7", "{}", "[{}]", "{\"id\":\"x\",\"result\":1}", "{\"method\":7}", "{\"method\":\"x\""]
        {
            assert!(decode(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_message_is_one_line_however_its_params_are_laid_out() {
        let params: &RawValue =
            serde_json::from_str("{\r\n  \"text\": \"a\\nb\",\n  \"x\": [\n1]\n}").unwrap();
        let line = String::from_utf8(request(7, "turn/start", &params).unwrap()).unwrap();
        assert_eq!(line.find(['\n', '\r']), Some(line.len() - 1), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["params"], serde_json::json!({ "text": "a\nb", "x": [1] }));
    }

    #[test]
    fn deep_nesting_is_an_error_or_passes_but_never_overflows() {
        let deep = format!("{{\"method\":\"x\",\"params\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let _ = decode(&deep);
    }
}
