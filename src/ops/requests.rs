//! Requests of Codex: seen and answered.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::body::{Body, wrong};
use super::fields;
use super::query::Query;
use super::{OpError, Ops};
use crate::app_server::answer::Proposal;
use crate::app_server::inbox::{AnswerError, Settled};
use crate::app_server::wire::RpcError;
use crate::model;
use crate::model::record::{Request, RequestStatus};

impl Ops {
    /// The requests that fit `status`, `limit` and `after`, in order of creation.
    ///
    /// # Errors
    /// For a wrong parameter.
    pub fn requests(&self, query: &Query<'_>) -> Result<Vec<Arc<Request>>, OpError> {
        let status = query.one_of("status", RequestStatus::ALL)?;
        let page = query.page()?;
        let all = self.hub.ask(|core| core.state().requests.all().to_vec())?;
        page.take(
            &all,
            |request| &request.request_id,
            |request| status.is_none_or(|status| request.status == status),
        )
    }

    /// One request.
    ///
    /// # Errors
    /// [`OpError::NotFound`].
    pub fn request(&self, id: &str) -> Result<Arc<Request>, OpError> {
        let wanted = id.to_owned();
        self.hub
            .ask(move |core| core.state().requests.get(&wanted).cloned())?
            .ok_or_else(|| unknown_request(id))
    }

    /// Answers a request. Repeating the answer that was taken is no error.
    ///
    /// # Errors
    /// For an answer that does not fit, an unknown request, one that is settled, and while an external app-server is
    /// away.
    pub fn answer_request(&self, id: &str, body: &Body) -> Result<Arc<Request>, OpError> {
        let proposal = proposal(body)?;
        let settled = self.inbox.answer(id, proposal).map_err(|error| match error {
            AnswerError::Unfit(problem) => OpError::BadRequest(problem),
            AnswerError::Hub(error) => error.into(),
        })?;
        match settled {
            Settled::Answered(request) => Ok(request),
            Settled::Closed(request) => Err(closed(request)),
            Settled::Away => Err(OpError::Unavailable {
                reason: "The external app-server is not connected; it asks again when it is.".to_owned(),
                retry_after: Some(1),
            }),
            Settled::Unknown => Err(unknown_request(id)),
        }
    }
}

fn closed(request: Arc<Request>) -> OpError {
    let why = match request.status {
        RequestStatus::Pending | RequestStatus::Answered => "was answered in another way",
        RequestStatus::Expired => "was declined: nobody had answered in time",
        RequestStatus::Cancelled => "was withdrawn by Codex",
        RequestStatus::Orphaned => "can no longer be answered: the app-server that asked is gone",
    };
    OpError::Settled { message: format!("Request {} {why}.", request.request_id), request }
}

fn proposal(body: &Body) -> Result<Proposal, OpError> {
    let mut given = fields::ANSWER.iter().filter_map(|field| Some((field.name, body.raw(field.name)?)));
    let (Some((name, raw)), None) = (given.next(), given.next()) else {
        return Err(OpError::BadRequest(
            "Exactly one of `decision`, `answers`, `result` and `error` is required.".to_owned(),
        ));
    };
    Ok(match name {
        "decision" => Proposal::Decision(raw.to_owned()),
        "answers" => Proposal::Answers(raw.to_owned()),
        "result" => Proposal::Result(raw.to_owned()),
        _ => Proposal::Error(rpc_error(raw)?),
    })
}

fn rpc_error(raw: &RawValue) -> Result<RpcError, OpError> {
    serde_json::from_str(raw.get())
        .map_err(|_| wrong("error", "an object with `code`, a whole number, and `message`, a string"))
}

fn unknown_request(id: &str) -> OpError {
    OpError::NotFound(format!("Unknown request {}.", model::preview(id)))
}
