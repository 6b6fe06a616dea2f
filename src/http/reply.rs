//! Answers: the success and failure envelopes of the contract, and the one table of error codes.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock;
use crate::model::json::pretty;

macro_rules! error_codes {
    ($($variant:ident $constructor:ident $name:literal $status:literal $doc:literal,)*) => {
        /// Every way a request can fail, each with its name in the envelope and its HTTP status.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $doc] $variant,)*
        }

        impl ErrorCode {
            /// All of them, in the order of their status.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value of the envelope's `error`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it means, for people.
            pub const fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            /// The HTTP status (100 to 599).
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }

        impl ApiError {
            $(
                #[doc = $doc]
                pub fn $constructor(message: impl Into<String>) -> Self {
                    Self::new(ErrorCode::$variant, message)
                }
            )*
        }
    };
}

error_codes! {
    BadRequest bad_request "bad_request" 400 "Anything wrong in the request itself; the message names the field.",
    Unauthorized unauthorized "unauthorized" 401 "No token, or not the right one.",
    ForbiddenOrigin forbidden_origin "forbidden_origin" 403 "A page of another origin asks.",
    ForbiddenHost forbidden_host "forbidden_host" 403 "The Host header names something else than this port of this host.",
    ForbiddenPeer forbidden_peer "forbidden_peer" 403 "Another user of this host asks.",
    NotFound not_found "not_found" 404 "No such route, session, run or request.",
    MethodNotAllowed method_not_allowed "method_not_allowed" 405 "The path exists, the method does not; `Allow` says which do.",
    RequestTimeout request_timeout "request_timeout" 408 "The request did not arrive in time.",
    Conflict conflict "conflict" 409 "The state of the thing forbids it: closed session, wrong mode, already answered.",
    LengthRequired length_required "length_required" 411 "A body whose length cannot be told.",
    PayloadTooLarge payload_too_large "payload_too_large" 413 "The body is larger than the limit.",
    UriTooLong uri_too_long "uri_too_long" 414 "The request target is longer than the limit.",
    UnsupportedMediaType unsupported_media_type "unsupported_media_type" 415 "The body is not declared as JSON.",
    ExpectationFailed expectation_failed "expectation_failed" 417 "An Expect header other than `100-continue`.",
    IdempotencyMismatch idempotency_mismatch "idempotency_mismatch" 422 "The idempotency key was used for another body.",
    UpgradeRequired upgrade_required "upgrade_required" 426 "Another version of the WebSocket protocol is needed.",
    TooManyRuns too_many_runs "too_many_runs" 429 "The queue of runs is full.",
    HeaderFieldsTooLarge header_fields_too_large "header_fields_too_large" 431 "The head is larger than the limit, or has too many fields.",
    InternalError internal_error "internal_error" 500 "A fault in codexd itself.",
    NotImplemented not_implemented "not_implemented" 501 "A transfer coding that is not understood.",
    AppServerError app_server_error "app_server_error" 502 "The app-server refused.",
    Unavailable unavailable "unavailable" 503 "There is nothing to talk to, or no room, for now.",
    Timeout timeout "timeout" 504 "The app-server did not answer in time.",
    HttpVersionNotSupported http_version_not_supported "http_version_not_supported" 505 "Neither HTTP/1.0 nor HTTP/1.1.",
}

/// A failure as the client is told of it.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// Which one.
    pub code: ErrorCode,
    /// One sentence for a person: what is wrong and what would be right.
    pub message: String,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// `Allow`, as it stands in the header (`GET, HEAD`).
    pub allow: Option<String>,
    /// The envelope's `data`, if there is something to show.
    pub data: Option<Box<RawValue>>,
}

impl ApiError {
    /// A failure with nothing but code and text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, allow: None, data: None }
    }

    /// With `Retry-After: seconds`.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// With `Allow: methods`.
    #[must_use]
    pub fn with_allow(mut self, methods: impl Into<String>) -> Self {
        self.allow = Some(methods.into());
        self
    }

    /// With a `data` member; left out when it cannot be serialised.
    #[must_use]
    pub fn with_data(mut self, data: &impl Serialize) -> Self {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for ApiError {}

/// One answer: status, header fields and a whole body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Header fields, names in lower case; `content-length`, `date` and `connection` are added when it is sent.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

#[derive(Serialize)]
struct Success<'a, T: Serialize> {
    ok: bool,
    data: &'a T,
}

#[derive(Serialize)]
struct Failure<'a> {
    ok: bool,
    error: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
}

impl Reply {
    /// `{"ok":true,"data":…}`; 500 when `data` cannot be serialised.
    pub fn ok(status: u16, data: &impl Serialize) -> Self {
        Self::json(status, &Success { ok: true, data })
    }

    /// As [`Reply::ok`], of JSON text.
    pub fn ok_json(status: u16, data: &str) -> Self {
        Self::from_compact(status, ["{\"ok\":true,\"data\":", data, "}"].concat().as_bytes())
    }

    /// Any value as JSON, indented and with a final newline; 500 when `value` cannot be serialised.
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(compact) => Self::from_compact(status, &compact),
            Err(error) => {
                log::error!("an answer could not be serialised: {error}");
                ApiError::internal_error("The answer could not be serialised.").into()
            }
        }
    }

    /// Text of that type.
    pub fn text(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
            .with_header("content-type", content_type)
            .with_header("cache-control", "no-store")
    }

    fn from_compact(status: u16, compact: &[u8]) -> Self {
        let mut body = pretty(compact);
        body.push(b'\n');
        Self::text(status, "application/json; charset=utf-8", body)
    }

    /// With one more header field; `name` in lower case.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The whole answer as HTTP/1.1 text (RFC 9112 section 4); without the body for HEAD, with `connection: close`
    /// when the connection ends with it.
    pub fn to_http(&self, head_only: bool, close: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.body.len());
        out.extend_from_slice(format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).as_bytes());
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            // A line break in a value would begin another field: nothing of ours has one, and nothing may.
            out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')));
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(
            format!("date: {}\r\ncontent-length: {}\r\n", clock::now_http(), self.body.len()).as_bytes(),
        );
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head_only {
            out.extend_from_slice(&self.body);
        }
        out
    }
}

impl From<ApiError> for Reply {
    /// `{"ok":false,"error":CODE,"message":TEXT}` with `data` if there is some.
    fn from(error: ApiError) -> Self {
        let ApiError { code, message, retry_after, allow, data } = error;
        let failure = Failure { ok: false, error: code.name(), message: &message, data: data.as_deref() };
        // Strings and a raw value always serialise.
        let compact = serde_json::to_vec(&failure).unwrap_or_default();
        let mut reply = Self::from_compact(code.status(), &compact);
        if let Some(seconds) = retry_after {
            reply.headers.push(("retry-after", seconds.to_string()));
        }
        if let Some(methods) = allow {
            reply.headers.push(("allow", methods));
        }
        if code == ErrorCode::Unauthorized {
            // RFC 9110 section 15.5.2: a 401 carries a challenge.
            reply.headers.push(("www-authenticate", "Bearer".to_owned()));
        }
        reply
    }
}

/// Reason phrases of RFC 9110 section 15; any text would do.
const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_indented_and_end_with_a_newline() {
        let reply = Reply::ok(201, &serde_json::json!({"a": [1]}));
        assert_eq!(reply.status, 201);
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            "{\n  \"ok\": true,\n  \"data\": {\n    \"a\": [\n      1\n    ]\n  }\n}\n"
        );
        let reply = Reply::from(ApiError::not_found("No.").with_data(&serde_json::json!({"x": 1})));
        assert_eq!(reply.status, 404);
        assert_eq!(
            String::from_utf8(reply.body).unwrap(),
            "{\n  \"ok\": false,\n  \"error\": \"not_found\",\n  \"message\": \"No.\",\n  \"data\": {\n    \"x\": 1\n  }\n}\n"
        );
    }

    #[test]
    fn the_table_is_in_order_and_every_status_has_a_reason() {
        let statuses: Vec<u16> = ErrorCode::ALL.iter().map(|code| code.status()).collect();
        assert!(statuses.is_sorted());
        assert!(statuses.iter().all(|&status| reason(status) != "Status"));
    }

    #[test]
    fn what_is_sent_has_a_length_and_no_injected_field() {
        let error =
            ApiError::method_not_allowed("x").with_allow("GET\r\nset-cookie: a=b").with_retry_after(7);
        let text = String::from_utf8(Reply::from(error).to_http(true, true)).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text.contains("\r\nallow: GETset-cookie: a=b\r\n"));
        assert!(text.contains("\r\nretry-after: 7\r\n"));
        assert!(text.contains("\r\nconnection: close\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(text.contains(" GMT\r\n"));
    }
}
