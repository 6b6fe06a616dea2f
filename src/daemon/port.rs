//! The daemon as its port sees it: routes and stream put together.

use std::sync::Arc;

use crate::http::api::{Api, Request, Route, Upgrade};
use crate::http::reply::Reply;
use crate::http::routes;
use crate::ops::Ops;
use crate::stream::source::HubSource;
use crate::stream::websocket;

/// What the front door asks.
pub(super) struct Port {
    ops: Arc<Ops>,
    events: HubSource,
}

impl Port {
    pub(super) fn new(ops: Arc<Ops>) -> Self {
        Self { events: HubSource::new(Arc::clone(&ops)), ops }
    }
}

impl Api for Port {
    fn healthz(&self) -> Reply {
        let service = self.ops.service.view();
        Reply::json(200, &serde_json::json!({ "ok": true, "status": "ok", "service": service }))
    }

    fn route(&self, method: &str, path: &str) -> Route {
        routes::way(method, path)
    }

    fn handle(&self, request: Request) -> Reply {
        routes::handle(&self.ops, &request)
    }

    fn stream_path(&self) -> &str {
        &self.ops.config.service.event_stream_path
    }

    fn upgrade(&self, upgrade: Upgrade<'_>) -> Result<(), Reply> {
        websocket::serve(&self.events, upgrade)
    }
}
