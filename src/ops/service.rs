//! What the daemon says of its own port.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::metrics::{Counters, Protocol};
use crate::config::Config;
use crate::model::view::ServiceView;
use crate::threads::lock;

/// The port's state, shared by whoever shows it; nothing here needs the hub, so /healthz never waits.
#[derive(Debug)]
pub struct Service {
    configured: String,
    path: String,
    /// While it listens.
    address: Mutex<Option<SocketAddr>>,
    /// What is counted on the way.
    pub counters: Counters,
}

impl Service {
    /// A port that is not open yet.
    pub fn new(config: &Config) -> Self {
        Self {
            configured: config.service.local_api_base.text.clone(),
            path: config.service.event_stream_path.clone(),
            address: Mutex::new(None),
            counters: Counters::default(),
        }
    }

    /// It listens at this address.
    pub fn open(&self, address: SocketAddr) {
        *lock(&self.address) = Some(address);
    }

    /// It listens no more.
    pub fn close(&self) {
        *lock(&self.address) = None;
    }

    /// The address it listens at, while it does.
    pub fn address(&self) -> Option<SocketAddr> {
        *lock(&self.address)
    }

    /// As clients see it.
    pub fn view(&self) -> ServiceView {
        let address = self.address();
        ServiceView {
            configured_base_url: self.configured.clone(),
            event_stream_path: self.path.clone(),
            event_stream_url: address.map(|address| format!("ws://{address}{}", self.path)),
            listening: address.is_some(),
            resolved_base_url: address.map(|address| format!("http://{address}")),
            websocket_clients: self.counters.streams_of(Protocol::WebSocket).present(),
        }
    }
}
