//! The hub as the stream's source.

use std::sync::Arc;

use log::warn;
use serde::Serialize;

use super::feed::Origin;
use super::websocket::{EventSource, Opening};
use crate::http::reply::ApiError;
use crate::http::routes::api_error;
use crate::hub::Core;
use crate::hub::filter::Filter;
use crate::hub::replay::Replay;
use crate::model::view::{EventList, ServiceView, Snapshot};
use crate::ops::events::EventQuery;
use crate::ops::metrics::Protocol;
use crate::ops::status::{Moment, Status};
use crate::ops::{OpError, Ops};

/// Gives each client its hello and its place.
pub struct HubSource {
    ops: Arc<Ops>,
}

impl HubSource {
    /// The source of one daemon.
    pub fn new(ops: Arc<Ops>) -> Self {
        Self { ops }
    }

    /// The beginning of a stream without hello, by its query and its `Last-Event-ID`.
    ///
    /// # Errors
    /// The answer to a request that is wrong, or when the hub does not answer.
    pub fn begin(&self, query: &str, last_event_id: Option<&str>) -> Result<(Origin, Filter), ApiError> {
        let mut query = EventQuery::parse(query).map_err(api_error)?;
        query.resume_from(last_event_id).map_err(api_error)?;
        self.place(query, |_| ()).map(|((), origin, filter)| (origin, filter))
    }

    /// A place on the stream, and what the hub says at that moment: nothing is missed or sent twice between it and what
    /// follows.
    fn place<T: Send + 'static>(
        &self,
        query: EventQuery,
        told: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<(T, Origin, Filter), ApiError> {
        let EventQuery { after, wanted, .. } = query;
        let asked = self.ops.hub.ask(move |core| {
            let live = after.is_none().then(|| (core.latest_seq(), core.subscribe()));
            (told(core), live, Filter::new(wanted, core))
        });
        let (told, live, filter) = asked.map_err(|error| api_error(error.into()))?;
        let origin = match live {
            Some((seq, queue)) => Origin::Live(seq, queue),
            None => Origin::Past(Box::new(Replay::new(self.ops.hub.clone(), after.unwrap_or(0)))),
        };
        Ok((told, origin, filter))
    }

    /// Counts a client of Server-Sent Events, and its answer, until the guard is dropped.
    pub(super) fn sse_client(&self) -> SseClient<'_> {
        self.ops.service.counters.answered(200);
        self.ops.service.counters.stream_opened(Protocol::Sse);
        SseClient(self)
    }
}

/// See [`HubSource::sse_client`].
pub(super) struct SseClient<'a>(&'a HubSource);

impl Drop for SseClient<'_> {
    fn drop(&mut self) {
        self.0.ops.service.counters.stream_closed(Protocol::Sse);
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hello<'a> {
    recent_events: &'a EventList,
    service: ServiceView,
    snapshot: &'a Snapshot,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Serialize)]
struct StatusMessage {
    #[serde(flatten)]
    status: Status,
    #[serde(rename = "type")]
    kind: &'static str,
}

impl EventSource for HubSource {
    fn subscribe(&self, query: &str) -> Result<Opening, ApiError> {
        let query = EventQuery::parse(query).map_err(api_error)?;
        let (moment, origin, filter) = self.place(query, Moment::take)?;
        let snapshot = self.ops.snapshot(moment).map_err(api_error)?;
        let hello = Hello {
            recent_events: &snapshot.recent_events.events,
            service: self.ops.service.view(),
            snapshot: &snapshot,
            kind: "hello",
        };
        let hello = serde_json::to_string(&hello)
            .map_err(|error| api_error(OpError::Internal(format!("hello cannot be written: {error}"))))?;
        Ok(Opening { hello, origin, filter })
    }

    fn status_message(&self) -> String {
        let status = self.ops.status().and_then(|status| {
            let message = StatusMessage { status, kind: "status" };
            serde_json::to_string(&message).map_err(|error| OpError::Internal(error.to_string()))
        });
        status.unwrap_or_else(|error| {
            warn!("a stream client's status could not be told: {error}");
            serde_json::json!({ "type": "error", "message": error.to_string() }).to_string()
        })
    }

    fn client_opened(&self) {
        self.ops.service.counters.stream_opened(Protocol::WebSocket);
    }

    fn client_accepted(&self) {
        self.ops.service.counters.answered(101);
    }

    fn client_closed(&self) {
        self.ops.service.counters.stream_closed(Protocol::WebSocket);
    }
}
