//! What the daemon says of its own port.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    stream_clients: AtomicUsize,
}

impl Service {
    /// A port that is not open yet.
    pub fn new(config: &Config) -> Self {
        Self {
            configured: config.service.local_api_base.text.clone(),
            path: config.service.event_stream_path.clone(),
            address: Mutex::new(None),
            stream_clients: AtomicUsize::new(0),
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

    /// A stream client has come.
    pub fn client_opened(&self) {
        self.stream_clients.fetch_add(1, Ordering::AcqRel);
    }

    /// A stream client has gone.
    pub fn client_closed(&self) {
        self.stream_clients.fetch_sub(1, Ordering::AcqRel);
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
            websocket_clients: self.stream_clients.load(Ordering::Acquire),
        }
    }
}
