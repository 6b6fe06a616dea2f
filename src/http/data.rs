//! What stands in `data` of a success, where that is more than one record of a verb's.

use std::sync::Arc;

use serde::Serialize;

use crate::model::record;
use crate::ops::body::Body;
use crate::ops::turns::Accepted;

#[derive(Serialize)]
pub(super) struct Sessions {
    pub(super) sessions: Vec<Arc<record::Session>>,
}

#[derive(Serialize)]
pub(super) struct Session {
    pub(super) session: Arc<record::Session>,
}

#[derive(Serialize)]
pub(super) struct Runs {
    pub(super) runs: Vec<Arc<record::Run>>,
}

#[derive(Serialize)]
pub(super) struct Run {
    pub(super) run: Arc<record::Run>,
}

#[derive(Serialize)]
pub(super) struct Requests {
    pub(super) requests: Vec<Arc<record::Request>>,
}

#[derive(Serialize)]
pub(super) struct Request {
    pub(super) request: Arc<record::Request>,
}

#[derive(Serialize)]
pub(super) struct Turn {
    pub(super) accepted: bool,
    #[serde(flatten)]
    pub(super) turn: Accepted,
}

/// What was made of a body, and what of it had no effect.
#[derive(Serialize)]
pub(super) struct Made<T: Serialize> {
    #[serde(flatten)]
    made: T,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<String>,
}

impl<T: Serialize> Made<T> {
    pub(super) fn new(made: T, body: &Body) -> Self {
        Self { made, ignored: body.ignored() }
    }
}
