//! What each route takes and answers, beyond its path: the other half of [`ROUTES`](crate::http::routes::ROUTES).

use super::shape::{Member, Shape};
use crate::http::page;
use crate::http::reply::ErrorCode;
use crate::model::record::{RequestStatus, RunStatus, SessionPurpose, SessionStatus};
use crate::ops::fields::{self, Field};
use crate::ops::query::MAX_LIMIT;
use Shape::{Count, Flag, List, Maybe, Or, Ref, Text, Words};

/// A parameter in the query.
#[derive(Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Its shape, as text.
    pub shape: Shape,
    /// Its least and its largest value, for a number.
    pub bounds: Option<(u64, u64)>,
    /// What it is.
    pub doc: &'static str,
}

/// What an answer holds.
#[derive(Debug, Clone, Copy)]
pub enum Payload {
    /// The success envelope, its `data` with these members.
    Data(&'static [Member]),
    /// A component, without an envelope.
    Whole(&'static str),
    /// Any JSON object, without an envelope.
    Json,
    /// Text of this type.
    Text(&'static str),
}

/// What a route takes and answers.
#[derive(Debug)]
pub struct Spec {
    /// Its name in the document and in clients made of it.
    pub name: &'static str,
    /// Whether it is answered without the token, where the daemon has one.
    pub open: Open,
    /// What stands in the query.
    pub query: &'static [Param],
    /// Whether `Idempotency-Key` is looked at.
    pub idempotent: bool,
    /// The fields of its body, in several tables; none for a GET.
    pub body: &'static [&'static [Field]],
    /// Whether there must be a body.
    pub body_required: bool,
    /// Fields of which the body needs one; exactly one, or at least one.
    pub choice: Choice,
    /// Answers that are no error, by status.
    pub ok: &'static [(u16, Payload)],
    /// Errors beyond those of every route.
    pub errors: &'static [ErrorCode],
    /// Routes whose `{id}` stands in a success: their names, and where it stands.
    pub links: &'static [(&'static str, &'static str)],
}

/// Who needs no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// Nobody.
    No,
    /// Everybody: it says whether the daemon works, and nothing else.
    Always,
    /// Whoever reads a file that the [`page`] has.
    Page,
}

/// Fields of a body of which some must be there.
#[derive(Debug, Clone, Copy)]
pub enum Choice {
    /// None.
    Free,
    /// One of these or several.
    AnyOf(&'static [&'static str]),
    /// One of these and no other of them.
    OneOf(&'static [&'static str]),
}

/// Errors that any route may answer with, most of them from the front door.
pub const COMMON: &[ErrorCode] = &[
    ErrorCode::BadRequest,
    ErrorCode::Unauthorized,
    ErrorCode::ForbiddenOrigin,
    ErrorCode::ForbiddenHost,
    ErrorCode::ForbiddenPeer,
    ErrorCode::RequestTimeout,
    ErrorCode::LengthRequired,
    ErrorCode::PayloadTooLarge,
    ErrorCode::UriTooLong,
    ErrorCode::UnsupportedMediaType,
    ErrorCode::ExpectationFailed,
    ErrorCode::HeaderFieldsTooLarge,
    ErrorCode::InternalError,
    ErrorCode::NotImplemented,
    ErrorCode::Unavailable,
    ErrorCode::HttpVersionNotSupported,
];

/// What most routes have, whatever their method.
const BASE: Spec = Spec {
    name: "",
    open: Open::No,
    query: &[],
    idempotent: false,
    body: &[],
    body_required: false,
    ok: &[],
    errors: &[],
    choice: Choice::Free,
    links: &[],
};

const LIMIT: Param =
    Param { name: "limit", shape: Count, bounds: Some((1, MAX_LIMIT)), doc: "how many at most" };
const AFTER: Param =
    Param { name: "after", shape: Text, bounds: None, doc: "those behind the one with this id" };

const fn words(name: &'static str, words: &'static [&'static str]) -> Param {
    Param { name, shape: Words(words), bounds: None, doc: "those only" }
}

const fn filter(name: &'static str, doc: &'static str) -> Param {
    Param { name, shape: Text, bounds: None, doc }
}

const SESSION: Payload = Payload::Data(&[("session", Ref("Session"), "")]);
const RUN: Payload = Payload::Data(&[("run", Ref("Run"), "")]);
const REQUEST: Payload = Payload::Data(&[("request", Ref("Request"), "")]);
/// Beside what was made of a body.
const IGNORED: Member = (
    "ignored",
    Maybe(&List(&Text)),
    "fields of the body that are not known, where there are some: 16 at most",
);
const NEW_SESSION: Payload = Payload::Data(&[("session", Ref("Session"), ""), IGNORED]);
const NEW_RUN: Payload = Payload::Data(&[("run", Ref("Run"), ""), IGNORED]);
const SESSION_ID: &str = "/data/session/sessionId";
const OF_SESSION: &[(&str, &str)] =
    &[("getSession", SESSION_ID), ("interruptTurn", SESSION_ID), ("closeSession", SESSION_ID)];
const RUN_ID: &str = "/data/run/runId";
const OF_RUN: &[(&str, &str)] = &[("getRun", RUN_ID), ("cancelRun", RUN_ID)];
const APP_SERVER: [ErrorCode; 2] = [ErrorCode::AppServerError, ErrorCode::Timeout];
const OF_ID: &[ErrorCode] = &[ErrorCode::NotFound];

/// `GET /healthz`.
pub const HEALTH: Spec =
    Spec { name: "getHealth", open: Open::Always, ok: &[(200, Payload::Whole("Health"))], ..BASE };
/// `GET /`.
pub const PAGE: Spec =
    Spec { name: "getPage", open: Open::Page, ok: &[(200, Payload::Text(page::HTML))], ..BASE };
/// `GET /page/{id}`.
pub const PAGE_FILE: Spec = Spec {
    name: "getPageFile",
    open: Open::Page,
    ok: &[
        (200, Payload::Text(page::SCRIPT)),
        (200, Payload::Text(page::STYLE)),
        (200, Payload::Text(page::IMAGE)),
    ],
    errors: OF_ID,
    ..BASE
};
/// `GET /readyz`.
pub const READY: Spec = Spec {
    name: "getReadiness",
    open: Open::Always,
    ok: &[(200, Payload::Whole("Readiness")), (503, Payload::Whole("Readiness"))],
    ..BASE
};
/// `GET /metrics`.
pub const METRICS: Spec =
    Spec { name: "getMetrics", ok: &[(200, Payload::Text(crate::ops::metrics::CONTENT_TYPE))], ..BASE };
/// `GET /v1/codexd/openapi.json`.
pub const OPENAPI: Spec = Spec { name: "getOpenApi", ok: &[(200, Payload::Json)], ..BASE };
/// `GET /v1/codexd/status`.
pub const STATUS: Spec = Spec {
    name: "getStatus",
    ok: &[(200, Payload::Data(&[("service", Ref("Service"), ""), ("snapshot", Ref("Snapshot"), "")]))],
    ..BASE
};
/// `GET /v1/codexd/sessions`.
pub const LIST_SESSIONS: Spec = Spec {
    name: "listSessions",
    query: &[words("status", SessionStatus::NAMES), words("purpose", SessionPurpose::NAMES), LIMIT, AFTER],
    ok: &[(200, Payload::Data(&[("sessions", List(&Ref("Session")), "in order of creation")]))],
    ..BASE
};
/// `POST /v1/codexd/sessions`.
pub const CREATE_SESSION: Spec = Spec {
    name: "createSession",
    idempotent: true,
    body: &[fields::SESSION, fields::THREAD],
    body_required: true,
    ok: &[(201, NEW_SESSION), (200, NEW_SESSION)],
    links: OF_SESSION,
    errors: &[ErrorCode::Conflict, ErrorCode::IdempotencyMismatch, APP_SERVER[0], APP_SERVER[1]],
    ..BASE
};
/// `GET /v1/codexd/sessions/{id}`.
pub const GET_SESSION: Spec = Spec {
    name: "getSession",
    ok: &[(
        200,
        Payload::Data(&[
            ("session", Ref("Session"), ""),
            ("recentEvents", List(&Ref("Event")), "cached events about it"),
        ]),
    )],
    errors: OF_ID,
    ..BASE
};
/// `POST /v1/codexd/sessions/{id}/interrupt`.
pub const INTERRUPT: Spec = Spec {
    name: "interruptTurn",
    body: &[fields::INTERRUPT],
    ok: &[(202, Payload::Data(&[("session", Ref("Session"), ""), ("turnId", Text, "")]))],
    errors: &[ErrorCode::NotFound, ErrorCode::Conflict, APP_SERVER[0], APP_SERVER[1]],
    ..BASE
};
/// `POST /v1/codexd/sessions/{id}/close`.
pub const CLOSE: Spec = Spec {
    name: "closeSession",
    ok: &[(200, SESSION)],
    errors: &[ErrorCode::NotFound, ErrorCode::Conflict, APP_SERVER[0], APP_SERVER[1]],
    ..BASE
};
/// `GET /v1/codexd/runs`.
pub const LIST_RUNS: Spec = Spec {
    name: "listRuns",
    query: &[words("status", RunStatus::NAMES), LIMIT, AFTER],
    ok: &[(200, Payload::Data(&[("runs", List(&Ref("Run")), "in order of creation")]))],
    ..BASE
};
/// `POST /v1/codexd/runs`.
pub const CREATE_RUN: Spec = Spec {
    name: "createRun",
    idempotent: true,
    body: &[fields::RUN],
    body_required: true,
    ok: &[(202, NEW_RUN), (200, NEW_RUN)],
    links: OF_RUN,
    errors: &[ErrorCode::NotFound, ErrorCode::IdempotencyMismatch, ErrorCode::TooManyRuns],
    ..BASE
};
/// `GET /v1/codexd/runs/{id}`.
pub const GET_RUN: Spec = Spec { name: "getRun", ok: &[(200, RUN)], errors: OF_ID, ..BASE };
/// `POST /v1/codexd/runs/{id}/cancel`.
pub const CANCEL_RUN: Spec = Spec { name: "cancelRun", ok: &[(202, RUN), (200, RUN)], errors: OF_ID, ..BASE };
/// `GET /v1/codexd/requests`.
pub const LIST_REQUESTS: Spec = Spec {
    name: "listRequests",
    query: &[words("status", RequestStatus::NAMES), LIMIT, AFTER],
    ok: &[(200, Payload::Data(&[("requests", List(&Ref("Request")), "in order of creation")]))],
    ..BASE
};
/// `GET /v1/codexd/requests/{id}`.
pub const GET_REQUEST: Spec = Spec { name: "getRequest", ok: &[(200, REQUEST)], errors: OF_ID, ..BASE };
/// `POST /v1/codexd/requests/{id}/answer`.
pub const ANSWER: Spec = Spec {
    name: "answerRequest",
    body: &[fields::ANSWER],
    body_required: true,
    choice: Choice::OneOf(&["decision", "answers", "result", "error"]),
    ok: &[(200, REQUEST)],
    errors: &[ErrorCode::NotFound, ErrorCode::Conflict],
    ..BASE
};
/// `POST /v1/codexd/turn`.
pub const CREATE_TURN: Spec = Spec {
    name: "createTurn",
    body: &[fields::INPUT, fields::TURN],
    body_required: true,
    choice: Choice::AnyOf(&["input", "prompt"]),
    links: OF_SESSION,
    ok: &[(
        202,
        Payload::Data(&[
            ("accepted", Flag, ""),
            ("session", Ref("Session"), ""),
            ("turnId", Text, ""),
            ("steered", Flag, "whether the input went to a turn that was already running"),
            IGNORED,
        ]),
    )],
    errors: &[ErrorCode::NotFound, ErrorCode::Conflict, APP_SERVER[0], APP_SERVER[1]],
    ..BASE
};
/// The event stream's path, without an upgrade.
pub const EVENTS: Spec = Spec {
    name: "getEvents",
    query: &[
        Param {
            name: "after",
            shape: Count,
            bounds: Some((0, u64::MAX)),
            doc: "the cursor: events after this seq",
        },
        Param {
            name: "limit",
            shape: Count,
            bounds: Some((1, MAX_LIMIT)),
            doc: "events of a page at most; 500 unless given",
        },
        Param { name: "type", shape: List(&Text), bounds: None, doc: "beginnings of types: any of them" },
        filter("sessionId", "events of the session and of its thread"),
        filter("threadId", "events of the thread and of the sessions on it"),
        filter("runId", "events of the run"),
    ],
    ok: &[
        (
            200,
            Payload::Data(&[
                ("events", List(&Ref("Event")), "in order of seq"),
                ("oldestSeq", Count, "the oldest still in the log"),
                ("latestSeq", Count, "the last one"),
                ("more", Flag, "whether there are more after these"),
                ("gap", Or(&Ref("Gap")), "what was asked for, but is not there any more"),
            ]),
        ),
        (200, Payload::Text("text/event-stream")),
    ],
    errors: &[ErrorCode::UpgradeRequired],
    ..BASE
};

impl Spec {
    /// Whether the route may answer with this status.
    pub fn has_status(&self, status: u16) -> bool {
        self.ok.iter().any(|(ok, _)| *ok == status)
            || self.errors.iter().chain(COMMON).any(|code| code.status() == status)
    }
}
