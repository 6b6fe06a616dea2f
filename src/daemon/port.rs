//! The daemon as its port sees it: routes and stream put together.

use std::sync::Arc;

use crate::http::api::{Api, EventStream, Kind, Request, Upgrade};
use crate::http::reply::{ApiError, Reply};
use crate::http::routes;
use crate::ops::Ops;
use crate::stream::source::HubSource;
use crate::stream::{sse, websocket};

/// What the front door asks.
pub(super) struct Port {
    ops: Arc<Ops>,
    events: HubSource,
}

impl Port {
    pub(super) fn new(ops: Arc<Ops>) -> Self {
        Self { events: HubSource::new(Arc::clone(&ops)), ops }
    }

    fn is_stream_path(&self, path: &str) -> bool {
        path == self.stream_path()
    }
}

impl Api for Port {
    fn healthz(&self) -> Reply {
        let service = self.ops.service.view();
        Reply::json(200, &serde_json::json!({ "ok": true, "status": "ok", "service": service }))
    }

    fn answered(&self, status: u16) {
        self.ops.service.counters.answered(status);
    }

    fn route(&self, method: &str, path: &str) -> Result<Kind, ApiError> {
        if self.is_stream_path(path) { routes::events_kind(method, path) } else { routes::kind(method, path) }
    }

    fn handle(&self, request: Request) -> Reply {
        if self.is_stream_path(&request.path) {
            routes::events(&self.ops, &request)
        } else {
            routes::handle(&self.ops, &request)
        }
    }

    fn stream_path(&self) -> &str {
        // The front door has taken the slash off what the client asked for.
        routes::without_slash(&self.ops.config.service.event_stream_path)
    }

    fn upgrade(&self, upgrade: Upgrade<'_>) -> Result<(), Reply> {
        websocket::serve(&self.events, upgrade)
    }

    fn events(&self, request: EventStream<'_>) -> Result<bool, Reply> {
        sse::serve(&self.events, request)
    }
}
