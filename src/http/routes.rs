//! The routes, as one table: dispatch, `Allow`, the README and the tests read it.

use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::api::{Kind, Request};
use super::data;
use super::openapi;
use super::openapi::spec::{self, Open, Spec};
use super::page;
use super::reply::{ApiError, ErrorCode, Reply};
use crate::ops::body::Body;
use crate::ops::events::EventQuery;
use crate::ops::idempotency::Key;
use crate::ops::metrics;
use crate::ops::query::Query;
use crate::ops::{OpError, Ops};

/// One route.
pub struct Route {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path; a segment `{id}` stands for any one.
    pub path: &'static str,
    /// What it may wait for.
    pub kind: Kind,
    /// What it does, for people.
    pub doc: &'static str,
    /// What it takes and answers.
    pub spec: &'static Spec,
    handle: fn(&Ops, &Call<'_>) -> Answer,
}

/// A request on its way to a handler.
struct Call<'a> {
    request: &'a Request,
    spec: &'static Spec,
    /// The path's `{id}`, decoded; empty where there is none.
    id: String,
}

type Answer = Result<Reply, OpError>;

fn other_methods(method: &str, path: &str, allowed: &str) -> ApiError {
    let (path, are) = (crate::model::preview(path), if allowed.contains(',') { "are" } else { "is" });
    let message = format!("{method} is not possible at {path}; {allowed} {are}.");
    ApiError::method_not_allowed(message).with_allow(allowed)
}

/// What a request for the event stream's path is without an upgrade: for a page of the log, or Server-Sent Events.
///
/// # Errors
/// The answer to another method than GET.
pub fn events_kind(method: &str, path: &str) -> Result<Kind, ApiError> {
    match method {
        // A page that few events pass the filters of may read the whole log: as long as a call, and longer than what is local.
        "GET" => Ok(Kind::Call),
        _ => Err(other_methods(method, path, "GET, HEAD")),
    }
}

/// A page of events.
pub fn events(ops: &Ops, request: &Request) -> Reply {
    let page = EventQuery::parse(&request.query).and_then(|query| ops.events(query)?.json());
    page.map_or_else(|error| api_error(error).into(), |page| Reply::ok_json(200, &page))
}

/// What the front door answers itself.
pub(super) const HEALTH: &str = "/healthz";

/// Every route but the event stream, whose path is configured, and /healthz, which the front door answers itself.
pub const ROUTES: &[Route] = &[
    Route {
        method: "GET",
        path: "/",
        kind: Kind::Read,
        doc: "a page to look at, for browsers",
        spec: &spec::PAGE,
        handle: |_, call| call.page(),
    },
    Route {
        method: "GET",
        path: "/page/{id}",
        kind: Kind::Read,
        doc: "what it consists of",
        spec: &spec::PAGE_FILE,
        handle: |_, call| call.page(),
    },
    Route {
        method: "GET",
        path: "/readyz",
        kind: Kind::Read,
        doc: "whether it can do its work now: hub, log, disk, child, app-server, and that it is not about to stop",
        spec: &spec::READY,
        handle: |ops, _| {
            let readiness = ops.readiness();
            Ok(Reply::json(if readiness.ok { 200 } else { 503 }, &readiness))
        },
    },
    Route {
        method: "GET",
        path: "/metrics",
        kind: Kind::Local,
        doc: "counters and gauges in the text format of Prometheus",
        spec: &spec::METRICS,
        handle: |ops, _| Ok(Reply::text(200, metrics::CONTENT_TYPE, ops.metrics())),
    },
    Route {
        method: "GET",
        path: "/v1/codexd/openapi.json",
        kind: Kind::Read,
        doc: "this API as an OpenAPI 3.1 document",
        spec: &spec::OPENAPI,
        handle: |ops, _| {
            let base = ops.service.view().resolved_base_url;
            Ok(Reply::json(200, &openapi::document(&ops.config, base.as_deref())))
        },
    },
    Route {
        method: "GET",
        path: "/v1/codexd/status",
        kind: Kind::Read,
        doc: "the service and the whole state",
        spec: &spec::STATUS,
        handle: |ops, _| ok(200, &ops.status()?),
    },
    Route {
        method: "GET",
        path: "/v1/codexd/sessions",
        kind: Kind::Read,
        doc: "all sessions, or those of ?status=, ?purpose=, ?limit=, ?after=ID",
        spec: &spec::LIST_SESSIONS,
        handle: |ops, call| ok(200, &data::Sessions { sessions: ops.sessions(&call.query()?)? }),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/sessions",
        kind: Kind::Call,
        doc: "a session on a new thread, or on the one that threadId names",
        spec: &spec::CREATE_SESSION,
        handle: |ops, call| {
            let body = call.body()?;
            let created = ops.create_session(&body, call.key()?)?;
            let status = if created.new { 201 } else { 200 };
            ok(status, &data::Made::new(data::Session { session: created.session }, &body))
        },
    },
    Route {
        method: "GET",
        path: "/v1/codexd/sessions/{id}",
        kind: Kind::Read,
        doc: "a session and the cached events about it",
        spec: &spec::GET_SESSION,
        handle: |ops, call| ok(200, &ops.session_with_events(&call.id)?),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/sessions/{id}/interrupt",
        kind: Kind::Call,
        doc: "interrupts the running turn",
        spec: &spec::INTERRUPT,
        handle: |ops, call| ok(202, &ops.interrupt_turn(&call.id, &call.optional_body()?)?),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/sessions/{id}/close",
        kind: Kind::Call,
        doc: "interrupts the running turn and closes the session",
        spec: &spec::CLOSE,
        handle: |ops, call| {
            call.optional_body()?;
            ok(200, &data::Session { session: ops.close_session(&call.id)? })
        },
    },
    Route {
        method: "GET",
        path: "/v1/codexd/runs",
        kind: Kind::Read,
        doc: "all one-shot runs, or those of ?status=, ?limit=, ?after=ID",
        spec: &spec::LIST_RUNS,
        handle: |ops, call| ok(200, &data::Runs { runs: ops.runs(&call.query()?)? }),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/runs",
        kind: Kind::Local,
        doc: "a one-shot run of codex exec",
        spec: &spec::CREATE_RUN,
        handle: |ops, call| {
            let body = call.body()?;
            let created = ops.create_run(&body, call.key()?)?;
            let status = if created.new { 202 } else { 200 };
            ok(status, &data::Made::new(data::Run { run: created.run }, &body))
        },
    },
    Route {
        method: "GET",
        path: "/v1/codexd/runs/{id}",
        kind: Kind::Read,
        doc: "a run, with its whole outcome once it has ended",
        spec: &spec::GET_RUN,
        handle: |ops, call| ok(200, &data::Run { run: ops.run(&call.id)? }),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/runs/{id}/cancel",
        kind: Kind::Local,
        doc: "ends a run that waits or runs",
        spec: &spec::CANCEL_RUN,
        handle: |ops, call| {
            call.optional_body()?;
            let (run, was_active) = ops.cancel_run(&call.id)?;
            ok(if was_active { 202 } else { 200 }, &data::Run { run })
        },
    },
    Route {
        method: "GET",
        path: "/v1/codexd/requests",
        kind: Kind::Read,
        doc: "what Codex asked, or those of ?status=, ?limit=, ?after=ID",
        spec: &spec::LIST_REQUESTS,
        handle: |ops, call| ok(200, &data::Requests { requests: ops.requests(&call.query()?)? }),
    },
    Route {
        method: "GET",
        path: "/v1/codexd/requests/{id}",
        kind: Kind::Read,
        doc: "one request of Codex",
        spec: &spec::GET_REQUEST,
        handle: |ops, call| ok(200, &data::Request { request: ops.request(&call.id)? }),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/requests/{id}/answer",
        kind: Kind::Local,
        doc: "answers it with decision, answers, result or error",
        spec: &spec::ANSWER,
        handle: |ops, call| ok(200, &data::Request { request: ops.answer_request(&call.id, &call.body()?)? }),
    },
    Route {
        method: "POST",
        path: "/v1/codexd/turn",
        kind: Kind::Call,
        doc: "input for a session: a new turn, or with expectedTurnId for the one that runs",
        spec: &spec::CREATE_TURN,
        handle: |ops, call| {
            let body = call.body()?;
            let turn = data::Turn { accepted: true, turn: ops.create_turn(&body)? };
            ok(202, &data::Made::new(turn, &body))
        },
    },
];

impl Call<'_> {
    fn body(&self) -> Result<Body, OpError> {
        Ok(Body::parse(&self.request.body)?.declared(self.spec.body))
    }

    fn optional_body(&self) -> Result<Body, OpError> {
        Ok(Body::parse_optional(&self.request.body)?.declared(self.spec.body))
    }

    fn page(&self) -> Answer {
        let path = if self.id.is_empty() { "/".to_owned() } else { format!("/page/{}", self.id) };
        page::reply(&path).ok_or_else(|| {
            OpError::NotFound(format!("The page has no file {}.", crate::model::preview(&self.id)))
        })
    }

    fn query(&self) -> Result<Query<'_>, OpError> {
        Query::parse(&self.request.query)
    }

    fn key(&self) -> Result<Option<Key>, OpError> {
        self.request.header("idempotency-key").map(|key| Key::new(key, &self.request.body)).transpose()
    }
}

fn ok(status: u16, data: &impl Serialize) -> Answer {
    Ok(Reply::ok(status, data))
}

/// What kind of request this is.
///
/// # Errors
/// The answer to one that there is no route for.
pub fn kind(method: &str, path: &str) -> Result<Kind, ApiError> {
    match find(method, path) {
        Found::Route(route, _) => Ok(route.kind),
        Found::OtherMethods(allowed) => Err(other_methods(method, path, &allowed)),
        Found::Nothing => Err(unknown_route(method, path)),
    }
}

/// Whether something is at that path already, so that the event stream cannot be. An `{id}` does not count: nobody's is
/// chosen by the user.
pub fn is_taken(path: &str) -> bool {
    let path = without_slash(path);
    let is_at = |route: &Route| match_path(route.path, path).is_some_and(|id| id.is_empty());
    path == HEALTH || page::has(path) || ROUTES.iter().any(is_at)
}

/// Whether a request for that path needs no token, whatever is configured; `reads`: it is a GET or a HEAD, and no upgrade.
pub(super) fn is_open(path: &str, reads: bool) -> bool {
    let path = without_slash(path);
    let all = ROUTES.iter().map(|route| (route.path, route.spec)).chain([(HEALTH, &spec::HEALTH)]);
    all.filter(|(pattern, _)| match_path(pattern, path).is_some()).any(|(_, spec)| match spec.open {
        Open::No => false,
        Open::Always => true,
        Open::Page => reads && page::has(path),
    })
}

/// Handles a request.
pub fn handle(ops: &Ops, request: &Request) -> Reply {
    let Found::Route(route, id) = find(&request.method, &request.path) else {
        return unknown_route(&request.method, &request.path).into();
    };
    let spec = route.spec;
    let reply =
        (route.handle)(ops, &Call { request, spec, id }).unwrap_or_else(|error| api_error(error).into());
    debug_assert!(spec.has_status(reply.status), "{} answers {}, undocumented", spec.name, reply.status);
    reply
}

enum Found {
    Route(&'static Route, String),
    /// The methods there are for that path.
    OtherMethods(String),
    Nothing,
}

fn find(method: &str, path: &str) -> Found {
    let path = without_slash(path);
    if path == HEALTH {
        return Found::OtherMethods("GET, HEAD".to_owned());
    }
    let mut allowed: Vec<&str> = Vec::new();
    for route in ROUTES {
        if let Some(id) = match_path(route.path, path) {
            if route.method == method {
                return Found::Route(route, id);
            }
            allowed.push(route.method);
            if route.method == "GET" {
                allowed.push("HEAD");
            }
        }
    }
    if allowed.is_empty() { Found::Nothing } else { Found::OtherMethods(allowed.join(", ")) }
}

/// A path without the slash at its end, which makes no difference.
pub fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

/// The decoded `{id}` (empty without one) if the path matches.
fn match_path(pattern: &str, path: &str) -> Option<String> {
    let mut id = String::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(id),
            (Some("{id}"), Some(segment)) if !segment.is_empty() => {
                id = percent_decode_str(segment).decode_utf8_lossy().into_owned();
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

fn unknown_route(method: &str, path: &str) -> ApiError {
    ApiError::not_found(format!("Unknown codexd route {method} {}.", crate::model::preview(path)))
}

/// What each failure of a verb is called over HTTP.
pub fn api_error(error: OpError) -> ApiError {
    let message = error.to_string();
    let code = match error {
        OpError::BadRequest(_) => ErrorCode::BadRequest,
        OpError::NotFound(_) => ErrorCode::NotFound,
        OpError::Conflict(_) | OpError::Settled { .. } => ErrorCode::Conflict,
        OpError::IdempotencyMismatch => ErrorCode::IdempotencyMismatch,
        OpError::TooManyRuns { .. } => ErrorCode::TooManyRuns,
        OpError::Unavailable { .. } => ErrorCode::Unavailable,
        OpError::Timeout(_) => ErrorCode::Timeout,
        OpError::AppServer(_) => ErrorCode::AppServerError,
        OpError::Internal(_) => ErrorCode::InternalError,
    };
    let api_error = ApiError::new(code, message);
    match error {
        OpError::Settled { request, .. } => api_error.with_data(&data::Request { request }),
        OpError::Unavailable { retry_after: Some(seconds), .. }
        | OpError::TooManyRuns { retry_after: seconds, .. } => api_error.with_retry_after(seconds),
        _ => api_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_whole_segments() {
        assert_eq!(match_path("/a/{id}", "/a/x%2Fy"), Some("x/y".to_owned()));
        assert_eq!(match_path("/a/{id}", "/a/"), None);
        assert_eq!(match_path("/a/{id}", "/a/b/c"), None);
        assert_eq!(match_path("/a/{id}/close", "/a/b/close"), Some("b".to_owned()));
        assert!(matches!(find("GET", "/v1/codexd/status/"), Found::Route(..)));
        assert!(
            matches!(find("DELETE", "/v1/codexd/sessions"), Found::OtherMethods(allow) if allow == "GET, HEAD, POST")
        );
        assert!(matches!(find("GET", "/nope"), Found::Nothing));
    }
}
