//! The verbs: what clients can ask of the daemon, free of HTTP. Each checks its input, asks or changes the hub's state,
//! and talks to the app-server where it must.

pub mod body;
mod catch_up;
pub mod drift;
pub mod ending;
pub mod events;
pub mod fields;
pub mod idempotency;
pub mod metrics;
pub mod query;
mod readable;
pub mod ready;
pub mod recovery;
pub mod requests;
pub mod runs;
pub mod service;
pub mod sessions;
pub mod status;
pub mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::app_server::call::CallError;
use crate::app_server::client::Client;
use crate::app_server::inbox::Inbox;
use crate::config::{Config, Mode};
use crate::exec::pool::Pool;
use crate::hub::{Hub, HubError};
use crate::model::record::Request;
use crate::ops::service::Service;

/// Why a verb did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpError {
    /// Something in the request; the text names the field and what would be right.
    #[error("{0}")]
    BadRequest(String),
    /// No such session, run or request.
    #[error("{0}")]
    NotFound(String),
    /// The state of the thing forbids it.
    #[error("{0}")]
    Conflict(String),
    /// A request of Codex that has been settled, in another way than was asked for.
    #[error("{message}")]
    Settled {
        /// How.
        message: String,
        /// The request as it is.
        request: Arc<Request>,
    },
    /// An idempotency key that was used with another body.
    #[error("The idempotency key was used before with another body.")]
    IdempotencyMismatch,
    /// The queue of runs is full.
    #[error("{reason}")]
    TooManyRuns {
        /// How full.
        reason: String,
        /// Seconds after which a retry makes sense.
        retry_after: u32,
    },
    /// Not now.
    #[error("{reason}")]
    Unavailable {
        /// Why.
        reason: String,
        /// Seconds after which a retry makes sense.
        retry_after: Option<u32>,
    },
    /// The app-server did not answer in time.
    #[error("{0}")]
    Timeout(String),
    /// The app-server refused, in its own words.
    #[error("{0}")]
    AppServer(String),
    /// A fault in codexd.
    #[error("{0}")]
    Internal(String),
}

impl From<HubError> for OpError {
    fn from(error: HubError) -> Self {
        let retry_after = match error {
            HubError::Stopped => None,
            HubError::Stalled(_) | HubError::Timeout => Some(2),
        };
        Self::Unavailable { reason: error.to_string(), retry_after }
    }
}

impl From<CallError> for OpError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Unavailable { reason, retry_after } => Self::Unavailable { reason, retry_after },
            CallError::Timeout { .. } | CallError::Mute(_) => Self::Timeout(error.to_string()),
            CallError::Refused { .. } | CallError::Unreadable { .. } | CallError::Unfit(_) => {
                Self::AppServer(error.to_string())
            }
            CallError::Hub(error) => error.into(),
        }
    }
}

/// What the verbs work with; one in a daemon.
pub struct Ops {
    /// The resolved configuration.
    pub config: Arc<Config>,
    /// The state.
    pub hub: Hub,
    /// The app-server.
    pub client: Arc<Client>,
    /// What it asks.
    pub inbox: Arc<Inbox>,
    /// The port.
    pub service: Arc<Service>,
    /// The runs' queue.
    pub runs: Pool,
    last_snapshot: status::LastSnapshot,
    loading: recovery::BeingLoaded,
    /// The daemon is about to stop.
    draining: AtomicBool,
}

/// Seconds after which it makes sense to ask a daemon again that was stopping: its service manager starts the next.
const RETRY_AFTER_STOP: u32 = 5;

impl Ops {
    /// The verbs of one daemon.
    pub fn new(
        config: Arc<Config>,
        hub: Hub,
        client: Arc<Client>,
        inbox: Arc<Inbox>,
        service: Arc<Service>,
        runs: Pool,
    ) -> Self {
        Self {
            config,
            hub,
            client,
            inbox,
            service,
            runs,
            last_snapshot: status::LastSnapshot::default(),
            loading: recovery::BeingLoaded::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// From here on no new work is taken: the daemon is about to stop.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Every verb that begins something (a session, a turn, a run) asks this first; what serves work that is going on
    /// (answers, steering, interrupts) does not.
    ///
    /// # Errors
    /// [`OpError::Unavailable`] once the daemon is about to stop.
    pub fn check_taking_work(&self) -> Result<(), OpError> {
        if self.draining.load(Ordering::Acquire) {
            return Err(OpError::Unavailable {
                reason: "codexd is stopping and takes no new work".to_owned(),
                retry_after: Some(RETRY_AFTER_STOP),
            });
        }
        Ok(())
    }

    /// What needs the app-server needs app-server mode, and a log that can record what comes of it.
    fn check_app_server(&self, what: &str) -> Result<(), OpError> {
        if self.config.server.mode == Mode::Exec {
            return Err(OpError::Conflict(format!("{what} need app-server mode; codexd runs in exec mode.")));
        }
        self.check_log()
    }

    /// Refuses at once what could not be recorded.
    fn check_log(&self) -> Result<(), OpError> {
        match self.hub.ask(|core| core.stalled().map(str::to_owned))? {
            Some(reason) => Err(HubError::Stalled(reason).into()),
            None => Ok(()),
        }
    }
}
